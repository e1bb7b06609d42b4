"""Re-encodes the videos of any data set as small files that are fast to read: `python main.py prepare videos`.

Long recordings are cut into the clips of a data set, and folders of pictures become videos. Every file is written
atomically and then decoded; a journal records finished files, so a killed command resumes when run again, and several
machines can share the work.
"""

import csv
import errno
import hashlib
import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.lists.files import read_json, read_lines, read_list
from datamodules.lists.folders import IMAGE_SUFFIXES, VIDEO_SUFFIXES, by_stem, video_files
from datamodules.lists.manifest import UNLABELLED, check_root
from datamodules.prepare.parallel import Progress, core_count, start_worker
from datamodules.prepare.reencode import Encoding, reencode
from datamodules.sets.activitynet import read_intervals
from datamodules.sets.epic_kitchens import read_segments
from datamodules.sets.finegym import read_elements
from datamodules.video.readers import DecodeError
from modules.core.errors import SettingError, check_positive, check_whole, check_writable, given
from modules.core.files import replacing

MANIFEST, REPORT, JOURNALS = "manifest.tsv", "malformed.tsv", "journals"
# Part of the key of finished files; increase it whenever the written files change.
FORMAT = 2
OUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class Job(NamedTuple):
    """A file to write."""

    source: str
    out: str
    start: float | None = None
    stop: float | None = None
    label: int = UNLABELLED


class Result(NamedTuple):
    """The result of a job."""

    frames: int
    fault: str


def prepare_videos(
    source: Path,
    out: Path,
    list: Path | None = None,
    short_side: int = 256,
    gop: int = 12,
    quality: int = 20,
    rate: float = 12.0,
    shard: str = "1/1",
    workers: int | None = None,
    timeout: int = 1800,
) -> None:
    """Create small mp4 files from videos, from parts of them, or from folders of pictures.

    A killed command resumes when run again; failed files are tried again. Writes manifest.tsv (path, frames and label, for
    --data.lists.train of VideoFolder) and malformed.tsv (missing and broken files with reasons) once all shards are done.

    Args:
        source: folder of the videos.
        out: folder to write; videos keep their paths, with the suffix .mp4.
        list: which videos: rows 'path label', or an official file that defines cuts: EPIC_100_train.csv,
            activity_net.v1-3.min.json or finegym_annotation_info_v1.0.json; null takes all, including folders of pictures.
        short_side: pixels of the shorter side; smaller videos keep their size.
        gop: frames between keyframes; small values make reading clips fast.
        quality: x264's constant rate factor; lower means better quality and larger files.
        rate: frames per second of folders of pictures; 12 in Something-Something v1 and Jester.
        shard: i/n for the i-th of n equal parts of the work, from 1/n to n/n.
        workers: processes; null takes one per core, 0 only uses this one (a file that blocks is not detected then).
        timeout: seconds after which an unfinished video counts as broken.

    Raises:
        SettingError: for wrong settings, an unreadable list, no usable video, or a full disk.
    """
    number, count = share_of(shard)
    check_root(source, "--source")
    check_writable("--out", out)
    check_whole("--", 0, **given(workers=workers))
    check_whole("--", 1, gop=gop, timeout=timeout)
    check_whole("--", 2, short_side=short_side)
    check_whole("--", 0, 51, quality=quality)
    check_positive("--", rate=rate)
    if out.resolve().is_relative_to(source.resolve()):
        raise SettingError(f"--out {out} is in --source {source}, where it would be read again; pass another folder.")
    if list is not None and not list.is_file():
        raise SettingError(f"--list {list} is not a file; pass a list of videos, or leave it out to take all of --source.")
    encoding = Encoding(short_side, gop, quality, rate)
    jobs = with_keys(read_jobs(source, list), encoding)
    try:
        (out / JOURNALS).mkdir(parents=True, exist_ok=True)
        known = read_journals(out)
        mine = {key: job for place, (key, job) in enumerate(jobs.items()) if place % count == number - 1}
        left = {key: job for key, job in mine.items() if not is_done(known.get(key), out / job.out)}
        workers = min(core_count() if workers is None else workers, len(left))
        make = partial(make_video, source=source, out=out, encoding=encoding, timeout=timeout if workers else 0)
        work(left, len(mine), make, workers, out / JOURNALS / f"{number}-of-{count}")
        finish(jobs, out)
    except OSError as error:
        raise SettingError(
            f"--out {out} cannot be written ({error}); free disk space or pass another folder. Finished files are kept."
        ) from error


def share_of(shard: str) -> tuple[int, int]:
    """Parse i/n, the i-th of n parts of the work. Raises SettingError."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise SettingError(f"--shard is {shard}; pass i/n with i from 1 to n, for example 3/16.")
    return int(match[1]), int(match[2])


def read_jobs(source: Path, listed: Path | None) -> list[Job]:
    """The files to write, in the order of the list.

    Raises:
        SettingError: if the list is invalid or empty, or contains files outside `source`.
    """
    if listed is None:
        files = dict.fromkeys(_folder_of_pictures(file) for file in video_files(source))
        jobs = [Job(file, _out_name(file)) for file in files if file != "."]
    elif listed.suffix == ".json":
        jobs = _cuts_of_json(source, listed)
    elif "narration_id" in next(iter(read_lines(listed).values())):
        existing = by_stem(source)
        jobs = []
        for row in read_segments(listed):
            person = row.name.partition("_")[0]
            jobs.append(Job(existing.get(row.video, f"{row.video}.MP4"), f"{person}/{row.name}.mp4", row.start, row.stop))
    else:
        manifest = read_list(listed, source)
        rows = zip(manifest.paths, manifest.labels.tolist(), strict=True)
        jobs = [Job(path, _out_name(_inside(path, source, listed)), label=label) for path, label in rows]
    if not jobs:
        raise SettingError(f"{listed or source} names no video; pass another --{'list' if listed else 'source'}.")
    outs: dict[str, str] = {}
    for job in jobs:
        if outs.setdefault(job.out, job.source) != job.source:
            raise SettingError(f"{job.source} and {outs[job.out]} would both become {job.out}; rename one of them.")
    return jobs


def _cuts_of_json(source: Path, listed: Path) -> list[Job]:
    existing = by_stem(source)
    content = read_json(listed)
    if isinstance(content, dict) and "database" in content:
        intervals = read_intervals(listed)
        # Copies of the videos are named with and without v_.
        files = {row.video: existing.get(row.video) or existing.get(row.video[2:], f"{row.video}.mp4") for row in intervals}
        return [Job(files[row.video], f"{row.name}.mp4", row.start, row.stop) for row in intervals]
    jobs = []
    for element in read_elements(listed):
        file, begin = existing.get(element.event), 0.0
        if file is None:
            file, begin = existing.get(element.video, f"{element.video}.mp4"), element.event_start
        jobs.append(Job(file, f"{element.name}.mp4", begin + element.start, begin + element.stop))
    return jobs


def _folder_of_pictures(file: str) -> str:
    path = Path(file)
    return path.parent.as_posix() if path.suffix.lower() in IMAGE_SUFFIXES else file


def _out_name(file: str) -> str:
    path = Path(file)
    return path.with_suffix(".mp4").as_posix() if path.suffix.lower() in VIDEO_SUFFIXES else f"{file}.mp4"


def _inside(path: str, source: Path, listed: Path) -> str:
    """A path below `source`, relative to it."""
    full = (source / path).absolute()
    if ".." in full.parts or not full.is_relative_to(source.absolute()):
        raise SettingError(
            f"{listed} names {path}, which is not in --source {source}; set --source to a folder above all videos."
        )
    return full.relative_to(source.absolute()).as_posix()


def with_keys(jobs: list[Job], settings: object) -> dict[str, Job]:
    """Jobs by a hash of content and settings, so that files with other settings do not count as finished."""
    keyed = {}
    for job in jobs:
        facts = f"{FORMAT} {job._replace(label=UNLABELLED)} {settings}".encode("utf-8", "surrogateescape")
        keyed[hashlib.sha256(facts).hexdigest()[:16]] = job
    return keyed


def read_journals(out: Path) -> dict[str, Result]:
    """Results by key. In a journal, later results are used; between journals, success is preferred to failure."""
    known: dict[str, Result] = {}
    for path in sorted((out / JOURNALS).iterdir()):
        here = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            # A killed run may leave an incomplete line.
            if match := re.fullmatch(r'\["(\w{16})", (\d+), (".*")\]', line):
                here[match[1]] = Result(int(match[2]), json.loads(match[3]))
        known |= {key: result for key, result in here.items() if not known.get(key, Result(0, "")).frames}
    return known


def is_done(result: Result | None, path: Path) -> bool:
    """Whether a job has succeeded, and its file or folder still exists."""
    return result is not None and result.frames > 0 and path.exists()


def make_video(job: Job, source: Path, out: Path, encoding: Encoding, timeout: int) -> Result:
    """Write one file atomically.

    Args:
        job: what to write.
        source: folder to read from.
        out: folder to write to.
        encoding: how to write.
        timeout: seconds after which this process ends itself; 0 for never.

    Raises:
        OSError: if the disk is full, or without permission.
    """
    path = out / job.out

    def write() -> int:
        with replacing(path) as part:
            return reencode(source / job.source, part, job.start, job.stop, encoding)

    path.parent.mkdir(parents=True, exist_ok=True)
    return outcome(write, timeout)


def outcome(write: Callable[[], int], timeout: int) -> Result:
    """Run a job and return its result.

    Args:
        write: runs the job, and returns the number of frames.
        timeout: seconds after which this process ends itself; 0 for never.

    Raises:
        OSError: if the disk is full, or without permission.
    """
    if timeout and hasattr(signal, "alarm"):
        # The alarm ends the process, because no handler would run while a decoder blocks.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(timeout)
    try:
        return Result(write(), "")
    except DecodeError as error:
        return Result(0, str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OUT_ERRORS:
            # Some errors of PyAV cannot be pickled.
            raise OSError(error.errno, str(error)) from None
        return Result(0, str(DecodeError("failed while decoding", f"{type(error).__name__}: {error}".partition("\n")[0])))
    finally:
        if timeout and hasattr(signal, "alarm"):
            signal.alarm(0)


def work(left: dict[str, Job], total: int, make: Any, workers: int, journal: Path) -> None:
    """Run jobs, and write a line of the journal for each.

    Args:
        left: jobs by key.
        total: jobs of this part, including finished ones.
        make: runs a job and returns its `Result`.
        workers: number of processes; 0 uses this one.
        journal: file of the journal.
    """
    torn = journal.is_file() and not journal.read_bytes().endswith(b"\n")
    with journal.open("a", encoding="utf-8") as file:
        file.write("\n" if torn else "")
        progress: Progress | None = None
        for key, result in _results(left, make, workers):
            # Created after the processes are forked, because the bar has a thread.
            progress = progress or Progress(total, len(left))
            file.write(json.dumps([key, *result]) + "\n")
            file.flush()
            progress.add(1)
        if progress is not None:
            progress.close()


def _results(left: dict[str, Job], make: Any, workers: int) -> Iterator[tuple[str, Result]]:
    """Results as they arrive. If a process dies with a file, the file is tried once more alone, and then counts as broken."""
    if workers < 1:
        yield from ((key, make(job)) for key, job in left.items())
        return
    waiting = dict(left)
    while waiting:
        flying: dict[Future[Result], str] = {}
        with ProcessPoolExecutor(workers, initializer=start_worker) as pool:
            try:
                while waiting or flying:
                    while waiting and len(flying) < workers:
                        key = next(iter(waiting))
                        flying[pool.submit(make, waiting[key])] = key
                        del waiting[key]
                    for future in wait(flying, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield flying.pop(future), result
            except BrokenProcessPool:
                pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        yield from ((key, _alone(left[key], make)) for key in flying.values())


def _alone(job: Job, make: Any) -> Result:
    with ProcessPoolExecutor(1, initializer=start_worker) as pool:
        try:
            return pool.submit(make, job).result()
        except BrokenProcessPool:
            return Result(0, str(DecodeError("decoder crashed", "or took longer than --timeout")))


def finish(jobs: dict[str, Job], out: Path) -> None:
    """Write the manifest and the report, once all shards are done."""
    known = read_journals(out)
    if waiting := sum(key not in known for key in jobs):
        print(f"{len(jobs) - waiting} of {len(jobs)} videos are done; the run that finishes last writes {out / MANIFEST}.")
        return
    done = [(job.out, known[key].frames, job.label) for key, job in jobs.items() if known[key].frames]
    faults = [(job.source, job.out, known[key].fault) for key, job in jobs.items() if not known[key].frames]
    if not done:
        shown = "; ".join(f"{name} ({fault})" for name, _, fault in faults[:3])
        raise SettingError(f"No video could be used, so nothing was prepared: {shown}.")
    _write_table(out / MANIFEST, ("path", "frames", "label"), [(*row[:2], "" if row[2] < 0 else row[2]) for row in done])
    _write_table(out / REPORT, ("source", "path", "reason"), faults)
    bad = f" {len(faults)} are missing or broken; {out / REPORT} lists them with reasons." if faults else ""
    print(f"{len(done)} videos are in {out}.{bad}")


def _write_table(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])

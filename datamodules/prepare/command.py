"""Converts the raw files of a data set to the format of its data module: `python main.py prepare ntu` and `prepare pku`.

Work is split into chunks, whose results are written atomically to the folder `parts`. Therefore a killed command resumes
when run again; its memory does not depend on the number of files. Files that cannot be used are listed with a
reason in `malformed.tsv`.
"""

import csv
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datamodules.lists.folders import is_hidden
from datamodules.prepare.flow import prepare_flow
from datamodules.prepare.parallel import Progress, core_count, start_worker
from datamodules.prepare.shards import prepare_shards
from datamodules.prepare.videos import prepare_videos
from datamodules.skeleton.arrays import array_chunks, is_arrays
from datamodules.skeleton.raw import Clip, Reading, read_ntu, read_pku
from datamodules.skeleton.splits import missing_samples
from datamodules.skeleton.store import FORMAT, HEADER, join_parts, read_header, write_part
from modules.core.errors import SettingError, check_whole, check_writable, given
from modules.core.files import replacing

REPORT = "malformed.tsv"
PARTS = "parts"
CHUNK_FILES = 128
# Recordings of PKU-MMD are about fifty times as long as those of NTU RGB+D.
PKU_CHUNK_FILES = 4
NAMED = 3


class Chunk(NamedTuple):
    """A part of the work."""

    key: str
    """identifies the input files and the version, so that results of others are not reused"""
    size: int
    """files in it"""
    read: Callable[[], Iterable[Reading]]


def prepare_ntu(raw: Path, out: Path, workers: int | None = None, overwrite: bool = False) -> None:
    """Prepare the skeletons of NTU RGB+D 60 or 120: choose persons, centre, align, store.

    The 535 samples that the data set's authors list as missing or incomplete are left out. A killed command resumes when run
    again. One folder made from all files can be used for NTU60 and NTU120.

    Args:
        raw: folder of the .skeleton files, also in folders below; or a folder of official arrays ({train,val}_data_joint.npy
            with {train,val}_label.pkl and {train,val}_num_frame.npy), which are stored unchanged; or a .pkl file of
            mmaction2 (ntu60_3d.pkl), whose recordings were cleaned differently.
        out: folder to write, for --data.root of NTU60 and NTU120.
        workers: processes that read files; null takes one per core, 0 only uses this one.
        overwrite: replace what was prepared in `out` before.

    Raises:
        SettingError: if there is nothing to read, or `out` contains something else.
    """
    _check(out, workers)
    if is_arrays(raw):
        chunks, digest = array_chunks(raw)
        found = [Chunk(*chunk) for chunk in chunks]
        # One large file is read in this process, because sending its content to others is slow.
        _prepare(found, out, {"dataset": "ntu", "source_sha256": digest}, 0, overwrite)
        return
    # Samples that are in two folders are used once.
    files = {file.path.stem: file for file in reversed(find_files(raw, "--raw", ".skeleton"))}
    missing = files.keys() & set(missing_samples())
    kept = sorted(file for name, file in files.items() if name not in missing)
    header = {"dataset": "ntu", "source_sha256": digest_of(kept, raw)}
    print(f"{len(files)} recordings; {len(missing)} known to be incomplete are left out.")
    _prepare(file_chunks(kept, read_ntu, CHUNK_FILES), out, header, workers, overwrite)


def prepare_pku(
    raw: Path,
    labels: Path,
    splits: Path,
    out: Path,
    part: Literal[1, 2] = 1,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Prepare the skeletons of PKU-MMD: cut the labelled intervals, centre, align, store.

    A killed command resumes when run again.

    Args:
        raw: folder of the skeleton files (0002-L.txt, one line of 150 numbers per frame).
        labels: folder of the lists of labelled intervals, with the same names.
        splits: folder of cross_subject.txt and cross_view.txt (part 1), cross_subject_v2.txt and cross_view_v2.txt (part 2).
        out: folder to write, for --data.root of PKUMMD.
        part: part of PKU-MMD.
        workers: processes that read files; null takes one per core, 0 only uses this one.
        overwrite: replace what was prepared in `out` before.

    Raises:
        SettingError: if there is nothing to read, or `out` contains something else.
    """
    _check(out, workers)
    files, listed = find_files(raw, "--raw", ".skeleton", ".txt"), find_files(labels, "--labels", ".txt")
    found = {name: read_pku_split(splits, name, part) for name in ("subject", "view")}
    videos = {name for split in found["subject"].values() for name in split}
    if not videos & {file.path.stem for file in files}:
        raise SettingError(
            f"None of the recordings of part {part} in --splits {splits} is in --raw {raw}; set --part to the available part, "
            "or pass other folders."
        )
    header = {
        "dataset": "pku",
        "part": part,
        "source_sha256": digest_of(files, raw),
        "labels_sha256": digest_of(listed, labels),
        "splits": {f"x{'sub' if name == 'subject' else name}": split for name, split in found.items()},
    }
    chunks = file_chunks(files, partial(read_pku, labels=labels), PKU_CHUNK_FILES, str(listed))
    _prepare(chunks, out, header, workers, overwrite)


PREPARE: dict[str, Callable[..., None]] = {
    "flow": prepare_flow,
    "ntu": prepare_ntu,
    "pku": prepare_pku,
    "shards": prepare_shards,
    "videos": prepare_videos,
}


class File(NamedTuple):
    """A file, with the properties that show whether it has changed."""

    path: Path
    size: int
    time: int


def find_files(root: Path, setting: str, *suffixes: str) -> list[File]:
    """Files below a folder, sorted by path.

    Args:
        root: the folder.
        setting: name of the setting, for messages.
        suffixes: suffixes of the files.

    Raises:
        SettingError: if there is none.
    """
    if not root.is_dir():
        raise SettingError(f"{setting} {root} is not a folder; pass the folder of the files ({' or '.join(suffixes)}).")
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in names:
            if name.endswith(suffixes) and not is_hidden(name):
                path = Path(folder, name)
                facts = path.stat() if path.exists() else None
                # A broken link is a file that cannot be read.
                found.append(File(path, facts.st_size if facts else 0, facts.st_mtime_ns if facts else 0))
    if not found:
        raise SettingError(f"{setting} {root} contains no file {' or '.join(suffixes)}; pass another folder.")
    return sorted(found)


def digest_of(files: list[File], root: Path) -> str:
    """Hash of names and sizes, which identifies the files of a data set."""
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{os.path.relpath(path, root)}\t{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_files(paths: list[Path], read: Callable[[Path], Reading]) -> Iterator[Reading]:
    """Read some files one after the other."""
    for path in paths:
        yield read(path)


def file_chunks(files: list[File], read: Callable[[Path], Reading], size: int, besides: str = "") -> list[Chunk]:
    """Cut a list of files into chunks. A chunk is processed again if one of its files or `besides` has changed."""
    chunks = []
    for start in range(0, len(files), size):
        some = files[start : start + size]
        facts = f"{FORMAT} {some} {besides}".encode("utf-8", "surrogateescape")
        key = hashlib.sha256(facts).hexdigest()[:16]
        chunks.append(Chunk(key, len(some), partial(read_files, [path for path, *_ in some], read)))
    return chunks


def read_pku_split(splits: Path, name: str, part: int) -> dict[str, list[str]]:
    """Training and validation recordings of a split of PKU-MMD: a heading and a line of names joined by commas, twice.

    Raises:
        SettingError: if the file is missing or has another format.
    """
    suffix = "" if part == 1 else "_v2"
    names = [f"cross{joint}{name}{suffix}.txt" for joint in "_-"]
    path = next((splits / file for file in names if (splits / file).is_file()), None)
    if path is None:
        raise SettingError(f"--splits {splits} contains no {names[0]}; pass the folder of the official splits of part {part}.")
    lines = [line for line in path.read_text(errors="surrogateescape").splitlines() if line.strip()]
    if len(lines) != 4:
        raise SettingError(f"{path} has {len(lines)} lines, not two headings each with a line of names; copy it again.")
    train, val = ([word for word in line.replace(",", " ").split() if word] for line in lines[1::2])
    if both := sorted(set(train) & set(val)):
        raise SettingError(f"{path} lists {both[0]} for training and for validation; copy it again.")
    return {"train": train, "val": val}


def _check(out: Path, workers: int | None) -> None:
    check_writable("--out", out)
    check_whole("--", 0, **given(workers=workers))


def _prepare(chunks: list[Chunk], out: Path, header: dict[str, Any], workers: int | None, overwrite: bool) -> None:
    before = None if overwrite else read_header(out)
    if before is not None:
        if all(before.get(name) == value for name, value in ({"format": FORMAT} | header).items()):
            print(f"{out} has already been prepared from the same files; pass --overwrite true to do it again.")
            return
        raise SettingError(f"--out {out} was prepared from other files; pass another folder, or --overwrite true.")
    parts = out / PARTS
    try:
        parts.mkdir(parents=True, exist_ok=True)
        (out / HEADER).unlink(missing_ok=True)
        paths = [parts / f"{chunk.key}.npz" for chunk in chunks]
        _work(list(zip(chunks, paths, strict=True)), workers)
        clips, faults = join_parts(paths, out, header)
        with replacing(out / REPORT) as report, report.open("w", newline="", errors="surrogateescape") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("name", "reason"), *faults])
        shutil.rmtree(parts)
    except OSError as error:
        raise SettingError(
            f"--out {out} cannot be written ({error}); free disk space or pass another folder. Finished parts are kept."
        ) from error
    if not clips:
        shown = "; ".join(f"{name} ({reason})" for name, reason in faults[:NAMED])
        raise SettingError(f"No recording could be used, so nothing was prepared: {shown or 'all are left out'}.")
    bad = f" {len(faults)} could not be used; {out / REPORT} lists them with reasons." if faults else ""
    print(f"{clips} recordings are in {out}.{bad}")


def _work(todo: list[tuple[Chunk, Path]], workers: int | None) -> None:
    """Make the missing parts."""
    left = [(chunk, path) for chunk, path in todo if not path.is_file()]
    total, missing = (sum(chunk.size for chunk, _ in some) for some in (todo, left))
    workers = min(core_count() if workers is None else workers, len(left))
    if workers < 1:
        progress = Progress(total, missing)
        for chunk, path in left:
            progress.add(_make_part(chunk, path))
        progress.close()
        return
    with ProcessPoolExecutor(workers, initializer=start_worker) as pool:
        futures: list[Future[int]] = [pool.submit(_make_part, chunk, path) for chunk, path in left]
        # Created after the processes are forked, because the bar has a thread.
        progress = Progress(total, missing)
        try:
            for future in as_completed(futures):
                progress.add(future.result())
        except BrokenProcessPool as error:
            raise SettingError(
                "A process that reads files died, possibly out of memory; lower --workers and run the same command "
                "again: finished parts are kept."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
            progress.close()


def _make_part(chunk: Chunk, path: Path) -> int:
    clips: list[Clip] = []
    faults: list[tuple[str, str]] = []
    for reading in chunk.read():
        clips += reading.clips
        faults += reading.faults
    write_part(path, clips, faults)
    return chunk.size

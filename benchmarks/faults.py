"""Broken videos: copies damaged in many ways are read by the real data module, among intact files.

It checks the promises of the README: the run neither crashes nor hangs, every file that could not be read is
listed once with a reason, intact files give the same output as without broken ones, and the workers' memory does not grow.
Files that can still be read after the damage count as read. Damage is a function of the seed. Exits with 1 if a promise is
broken.
"""

import json
import mmap
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules import VideoFolder
from datamodules.lists.folders import VIDEO_SUFFIXES
from datamodules.loading.faults import REPORT, read_report
from datamodules.loading.worker_guard import GRACE
from datamodules.settings import ReadSettings
from datamodules.video.decode import DecodeError, read_clips
from datamodules.video.sampling import ClipSettings

HEADER = 4096
# Names of codecs in mp4, AVI and Matroska; one is replaced by another of the same length.
TAGS = (b"avc1", b"hev1", b"hvc1", b"mp4v", b"vp09", b"av01", b"H264", b"XVID", b"FMP4", b"MJPG")
LONG_TAGS = (b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/ASP", b"V_MPEG4/MS/V3\0\0")
MAX_GROWTH_MB = 200
Damage = Callable[[list[Path], np.random.Generator], tuple[bytes, str]]


@dataclass
class Result:
    """Counts of files by kind of damage and reason, 'read' if the file could still be read."""

    count: int
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    whole: int = 0
    seconds: float = 0.0
    slowest_sample_s: float = 0.0
    condemned: int = 0
    """Files that ended or blocked a worker."""
    memory_mb: tuple[float, float] = (0.0, 0.0)
    """Memory of the largest worker, median over the first and the last third of the batches."""
    broken_promises: list[str] = field(default_factory=list)


def pick(files: list[Path], rng: np.random.Generator) -> Path:
    """One of the files."""
    return files[rng.integers(len(files))]


def header_of(data: bytes) -> tuple[int, int]:
    """Range of the stream descriptions: the index of an mp4, otherwise the beginning."""
    at = data.find(b"moov")
    if at >= 4:
        return at, min(len(data), at + int.from_bytes(data[at - 4 : at], "big"))
    return 0, min(len(data), HEADER)


def flipped(data: bytes, start: int, stop: int, rng: np.random.Generator) -> bytes:
    """Flip bits of a part: at least one, up to 1 % of all."""
    values = np.frombuffer(data, np.uint8).copy()
    bits = (stop - start) * 8
    number = max(1, int(bits * 10 ** rng.uniform(-6, -2)))
    places = rng.integers(0, bits, number)
    np.bitwise_xor.at(values, start + places // 8, (1 << places % 8).astype(np.uint8))
    return values.tobytes()


def truncated(files: list[Path], rng: np.random.Generator) -> tuple[bytes, str]:
    """Cut off at a random position."""
    file = pick(files, rng)
    data = file.read_bytes()
    return data[: rng.integers(1, len(data))], file.suffix


def flipped_in_header(files: list[Path], rng: np.random.Generator) -> tuple[bytes, str]:
    """Flipped bits in the stream descriptions."""
    file = pick(files, rng)
    data = file.read_bytes()
    return flipped(data, *header_of(data), rng), file.suffix


def flipped_anywhere(files: list[Path], rng: np.random.Generator) -> tuple[bytes, str]:
    """Flipped bits in the whole file."""
    file = pick(files, rng)
    data = file.read_bytes()
    return flipped(data, 0, len(data), rng), file.suffix


def foreign_start(files: list[Path], rng: np.random.Generator) -> tuple[bytes, str]:
    """The first bytes of another file."""
    file, size = pick(files, rng), int(2 ** rng.uniform(2, 12))
    return pick(files, rng).read_bytes()[:size] + file.read_bytes()[size:], file.suffix


def zeroed_start(files: list[Path], rng: np.random.Generator) -> tuple[bytes, str]:
    """The first bytes are zero."""
    file, size = pick(files, rng), int(2 ** rng.uniform(2, 12))
    return bytes(size) + file.read_bytes()[size:], file.suffix


def wrong_suffix(files: list[Path], rng: np.random.Generator) -> tuple[bytes, str]:
    """With the suffix of another container or an image."""
    suffixes = [*sorted(VIDEO_SUFFIXES), ".jpg", ".png"]
    return pick(files, rng).read_bytes(), suffixes[rng.integers(len(suffixes))]


def other_codec(files: list[Path], rng: np.random.Generator) -> tuple[bytes, str]:
    """The container states another codec than that of the stream."""
    tagged = [(file, tag) for file in files for tag in TAGS + LONG_TAGS if tag in file.read_bytes()]
    file, tag = tagged[rng.integers(len(tagged))]
    others = [other for other in TAGS + LONG_TAGS if len(other) == len(tag) and other != tag]
    return file.read_bytes().replace(tag, others[rng.integers(len(others))]), file.suffix


def foreign_body(files: list[Path], rng: np.random.Generator) -> tuple[bytes, str]:
    """The header of one file with the frames of another."""
    file, data = pick(files, rng), pick(files, rng).read_bytes()
    own = file.read_bytes()
    start, stop = header_of(own)
    return data[:start] + own[start:stop] + data[stop:], file.suffix


def swapped_streams(files: list[Path], rng: np.random.Generator) -> tuple[bytes, str]:
    """Audio before video; in every second file, the packets of both have each other's stream index."""
    with_sound = [file for file in files if has_sound(file)]
    file, lies = pick(with_sound or files, rng), rng.random() < 0.5
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"swapped{file.suffix}"
        with av.open(str(file)) as source, av.open(str(path), "w") as target:
            streams = [*source.streams.audio[:1], source.streams.video[0]]
            copies = [target.add_stream_from_template(stream) for stream in streams]
            target_of = dict(zip((stream.index for stream in streams), copies[::-1] if lies else copies, strict=True))
            for packet in source.demux(streams):
                if packet.dts is not None:
                    packet.stream = target_of[packet.stream.index]
                    try:
                        target.mux(packet)
                    except av.FFmpegError:
                        # The container refuses the packet; the file continues without it.
                        continue
        return path.read_bytes(), file.suffix


def has_sound(file: Path) -> bool:
    """Whether a file has an audio stream."""
    with av.open(str(file)) as container:
        return len(container.streams.audio) > 0


KINDS: dict[str, Damage] = {
    "truncated": truncated,
    "bits of the header": flipped_in_header,
    "bits anywhere": flipped_anywhere,
    "start of another file": foreign_start,
    "start zeroed": zeroed_start,
    "wrong suffix": wrong_suffix,
    "wrong codec name": other_codec,
    "body of another file": foreign_body,
    "streams swapped": swapped_streams,
}


def whole_files(videos: Path) -> list[Path]:
    """The videos of a folder that can be read completely."""
    files = []
    for path in sorted(videos.iterdir()):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            try:
                read_clips(path, lambda info, rng: np.linspace(0, info.num_frames - 1, 16).astype(int)[None], None)
            except DecodeError:
                continue
            files.append(path)
    if not files:
        raise SystemExit(f"There is no readable video in {videos}.")
    return files


def write_all(files: list[Path], folder: Path, count: int, whole: int, seed: int) -> dict[str, str]:
    """Write damaged files among intact ones in random order; returns the kind of damage by path, '' for none."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(count + whole)
    kinds = {}
    for number, place in enumerate(order.tolist()):
        kind = list(KINDS)[number % len(KINDS)] if number < count else ""
        file = pick(files, rng)
        if kind:
            data, suffix = KINDS[kind](files, rng)
            path = folder / f"{place:05d}{suffix}"
            path.write_bytes(data)
        else:
            path = folder / f"{place:05d}{file.suffix}"
            path.symlink_to(file.absolute())
        kinds[path.name] = kind
    return kinds


def memory_mb(pid: int) -> float:
    """Resident memory of a process; NaN if the process has ended, or if unknown."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * mmap.PAGESIZE / 2**20


def read_all(data: VideoFolder, alone: dict[int, torch.Tensor], result: Result) -> set[int]:
    """One epoch; returns the rows that were replaced. Intact files are compared with separate readings of them."""
    loader = data.train_dataloader()
    replaced: set[int] = set()
    used = []
    begin = time.perf_counter()
    for batch in loader:
        iterator: Any = loader._iterator
        used.append(max((memory_mb(worker.pid) for worker in iterator._workers), default=float("nan")))
        result.slowest_sample_s = max(result.slowest_sample_s, max(batch.reading.decode_ms) / 1000)
        rows = batch.index.tolist()
        replaced |= {row for row in batch.substituted.tolist() if row >= 0}
        for row, video in zip(rows, batch.stream("video").data, strict=True):
            if row in alone and not torch.equal(video, alone[row]):
                result.broken_promises.append(f"row {row} is whole but is not what it is alone")
    result.seconds = time.perf_counter() - begin
    result.condemned = len(loader.guard.condemned)
    third = max(1, len(used) // 3)
    result.memory_mb = statistics.median(used[:third]), statistics.median(used[-third:])
    return replaced


def check(result: Result, kinds: dict[str, str], named: list[str], replaced: set[str], timeout: float) -> None:
    """Add the broken promises."""
    promises = {
        "a file is named twice": len(named) > len(set(named)),
        "a whole file is named": any(not kinds[name] for name in named),
        "a file that was replaced is not named": bool(replaced - set(named)),
        # Several files in a row may be broken, but few of them reach the time limit.
        "a sample took too long": result.slowest_sample_s > 3 * (timeout + GRACE),
        "memory grew": result.memory_mb[1] - result.memory_mb[0] > MAX_GROWTH_MB,
    }
    result.broken_promises += [promise for promise, broken in promises.items() if broken]


def measure(videos: Path, folder: Path, count: int, workers: int, timeout: float, seed: int) -> Result:
    """Write the files, read them, check the promises."""
    batch = 8
    # Enough intact files that ten broken ones in a row, which end a run, do not occur, and that the last batch is full.
    whole = 2 * count + -3 * count % batch
    (folder / "videos").mkdir()
    kinds = write_all(whole_files(videos), folder / "videos", count, whole, seed)
    result = Result(count, whole=whole)
    data = VideoFolder(
        str(folder / "videos"),
        clip=ClipSettings(frames=4, size=64),
        batch_size=batch,
        reading=ReadSettings(workers, decode_timeout=timeout, max_bad_fraction=1.0),
        seed=seed,
    )
    data.setup("fit")
    assert data.train_manifest is not None
    assert data.faults is not None
    data.faults.write_to(folder)
    paths = data.train_manifest.paths
    rows = [row for row, path in enumerate(paths) if not kinds[path]]
    alone = dict(zip(rows, data.train_dataloader().read(0, rows).stream("video").data, strict=True))
    replaced = {paths[row] for row in read_all(data, alone, result)}
    report = read_report(folder / REPORT)
    reasons = {file.path: reason for file, reason in report.items()}
    lines = (folder / REPORT).read_text().splitlines()[1:] if report else []
    check(result, kinds, [line.split("\t")[0] for line in lines], replaced, timeout)
    for kind in KINDS:
        found = Counter(reasons.get(path, "read") for path, own in kinds.items() if own == kind)
        result.kinds[kind] = dict(found.most_common())
    result.reasons = dict(sum((Counter(found) for found in result.kinds.values()), Counter()).most_common())
    return result


def show(result: Result) -> None:
    """Print the counts as a table, one row per kind of damage."""
    columns = list(result.reasons)
    width = max(len(name) for name in columns) + 2
    print(f"{'damage':22}" + "".join(f"{name:>{width}}" for name in columns))
    for kind, counts in [*result.kinds.items(), ("all", result.reasons)]:
        print(f"{kind:22}" + "".join(f"{counts.get(name, 0):>{width}}" for name in columns))
    first, last = result.memory_mb
    print(
        f"{result.count} damaged and {result.whole} whole files in {result.seconds:.0f} s; slowest sample "
        f"{result.slowest_sample_s:.1f} s; {result.condemned} files ended or blocked a worker; largest worker {first:.0f} MB "
        f"in the first third, {last:.0f} MB in the last"
    )
    for promise in result.broken_promises:
        print(f"BROKEN: {promise}")


def main(
    videos: Path, count: int = 1000, out: Path | None = None, workers: int = 2, decode_timeout: float = 10.0, seed: int = 0
) -> None:
    """Read damaged copies of the videos of a folder and check that a run survives them; exits with 1 if it does not.

    Args:
        videos: Folder of videos; those that can be read are damaged in copies.
        count: Number of damaged copies.
        out: JSON file to write the counts to.
        workers: Number of worker processes.
        decode_timeout: The data module's setting.
        seed: Random seed of the damage, the order and the clips.
    """
    torch.set_num_threads(1)
    # Killed workers are expected here, and counted.
    warnings.filterwarnings("ignore", "A worker process died")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(videos, Path(folder), count, workers, decode_timeout, seed)
    show(result)
    if out is not None:
        out.write_text(json.dumps(asdict(result) | {"cores": os.cpu_count(), "av": av.__version__}, indent=2) + "\n")
    if result.broken_promises:
        raise SystemExit(1)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

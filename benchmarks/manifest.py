"""A list of a million videos in the main process and in its workers: the manifest of this project against Python strings.

    python benchmarks/manifest.py

Writes a list of rows 'path label' and reads it in two ways, each in a process of its own: with `read_list` into a manifest,
whose paths are packed, and line by line into a Python list of paths. Memory is what a process holds alone (USS), beyond what
it held after its imports; that of a worker is what it adds to that by reading random rows, in a process that was forked off
the first. Workers that are spawned, as on macOS and Windows, hold a copy, and the time to send one is that of pickling. Linux
only.
"""

import gc
import json
import multiprocessing
import pickle
import re
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.video.manifest import CHECKED_ROWS, read_list

CLASSES = 400
LIST = "list.txt"


def own_mb() -> float:
    """Memory of this process that no other process shares, in MB."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", rollup, re.MULTILINE)) / 1024


def peak_mb() -> float:
    """The most memory that this process had, shared or not, since it was last told to forget it, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def write_list(folder: Path, rows: int) -> None:
    """A list of videos with paths of about 60 characters, and empty files for the rows that are looked up."""
    generator = np.random.default_rng(0)
    letters = np.array(list(string.ascii_letters + string.digits + "-_"))
    names = generator.choice(letters, (rows, 11))
    labels, starts = generator.integers(CLASSES, size=rows).tolist(), generator.integers(300, size=rows).tolist()
    paths = [
        f"train/class with a name {label:03d}/{''.join(name)}_{start:06d}_{start + 10:06d}.mp4"
        for name, label, start in zip(names.tolist(), labels, starts, strict=True)
    ]
    (folder / LIST).write_text("".join(f"{path} {label}\n" for path, label in zip(paths, labels, strict=True)))
    for row in np.linspace(0, rows - 1, min(rows, CHECKED_ROWS)).astype(int):
        (folder / paths[row]).parent.mkdir(parents=True, exist_ok=True)
        (folder / paths[row]).touch()


def read_packed(path: Path, root: Path) -> tuple[Sequence[str], np.ndarray]:
    """Packed paths, and labels, as the data modules read them."""
    manifest = read_list(path, root)
    return manifest.paths, manifest.labels


def read_strings(path: Path, root: Path) -> tuple[Sequence[str], np.ndarray]:
    """Paths as Python strings, and labels, without any check."""
    rows = [line.rpartition(" ") for line in path.read_text().splitlines()]
    return [row[0] for row in rows], np.array([int(row[2]) for row in rows])


def work(paths: Sequence[str], reads: int, number: int, out: Connection) -> None:
    """What a worker adds to its own memory by reading random rows."""
    gc.freeze()
    rows = np.random.default_rng(number).integers(len(paths), size=reads)
    before = own_mb()
    for row in rows:
        paths[row]
    out.send(own_mb() - before)


def measure(way: str, folder: str, workers: int, reads: int) -> None:
    """Print, as JSON, the figures of one way to read the list, in this process and in workers of it."""
    read = {"manifest": read_packed, "strings": read_strings}[way]
    gc.collect()
    # Linux forgets the peak so far when told to.
    Path("/proc/self/clear_refs").write_text("5")
    held_before, peak_before, start = own_mb(), peak_mb(), time.process_time()
    paths, labels = read(Path(folder, LIST), Path(folder))
    seconds = time.process_time() - start
    peak = peak_mb() - peak_before
    gc.collect()
    held = own_mb() - held_before
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe(duplex=False) for _ in range(workers)]
    processes = [context.Process(target=work, args=(paths, reads, number, end[1])) for number, end in enumerate(ends)]
    for process in processes:
        process.start()
    grown = [end[0].recv() for end in ends]
    for process in processes:
        process.join()
    start = time.process_time()
    pickle.loads(pickle.dumps((paths, labels)))
    sent = time.process_time() - start
    print(json.dumps({"read_s": seconds, "peak_mb": peak, "held_mb": held, "worker_mb": max(grown), "pickle_s": sent}))


def main(rows: int = 1_000_000, workers: int = 2, reads: int = 1_000_000, out: Path | None = None) -> None:
    """Print time and memory of both ways.

    Args:
        rows: of the list.
        workers: processes that read from it.
        reads: random rows that each of them reads.
        out: JSON file to write.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise SystemExit("benchmarks/manifest.py measures memory as Linux tells it; run it on Linux.")
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_list(Path(folder), rows)
        for way in ("manifest", "strings"):
            code = f"from benchmarks.manifest import measure; measure({way!r}, {folder!r}, {workers}, {reads})"
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True)
            result[way] = json.loads(done.stdout.splitlines()[-1])
    print(f"{rows} rows; {workers} workers that read {reads} rows each")
    print(f"{'':10}{'read s':>10}{'peak MB':>10}{'held MB':>10}{'worker MB':>12}{'pickle s':>10}")
    for way, found in result.items():
        print(
            f"{way:10}{found['read_s']:10.2f}{found['peak_mb']:10.1f}{found['held_mb']:10.1f}{found['worker_mb']:12.1f}"
            f"{found['pickle_s']:10.2f}"
        )
    if out is not None:
        out.write_text(json.dumps({"rows": rows, "workers": workers, "reads": reads} | result, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

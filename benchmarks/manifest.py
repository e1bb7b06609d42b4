"""Memory of a list of a million videos in the main process and its workers: the manifest of this project against Python
strings.

    python benchmarks/manifest.py

Writes a list of rows 'path label' and reads it in two ways, each in a separate process: with `read_list` into a manifest,
whose paths are packed, and line by line into a Python list of paths. Memory is the growth of a process's unshared memory (USS)
from reading the list; for workers, which are forked from this process, the growth from reading random rows.
Spawned workers (macOS and Windows) have a copy, and sending it takes the time of pickling. Linux only.
"""

import gc
import json
import multiprocessing
import pickle
import re
import string
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.lists.files import read_list
from datamodules.lists.manifest import CHECKED_ROWS

CLASSES = 400
LIST = "list.txt"
T = TypeVar("T")


def own_mb() -> float:
    """Unshared memory of this process in MB."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", rollup, re.MULTILINE)) / 1024


def peak_mb() -> float:
    """Peak memory of this process since the last reset, shared or not, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def write_list(folder: Path, rows: int) -> None:
    """A list of videos with paths of about 60 characters, and empty files for the rows that are checked."""
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
    """Packed paths, and labels, read like the data modules do."""
    manifest = read_list(path, root)
    return manifest.paths, manifest.labels


def read_strings(path: Path, root: Path) -> tuple[Sequence[str], np.ndarray]:
    """Paths as Python strings, and labels, without any check."""
    rows = [line.rpartition(" ") for line in path.read_text().splitlines()]
    return [row[0] for row in rows], np.array([int(row[2]) for row in rows])


def forked(work: Callable[..., T], *jobs: tuple[Any, ...]) -> list[T]:
    """Call a function with several arguments in parallel, each in a process forked from this one."""
    context = multiprocessing.get_context("fork")

    def send(end: Connection, job: tuple[Any, ...]) -> None:
        # Memory from before the fork stays shared, as in the workers of the loader.
        gc.freeze()
        end.send(work(*job))

    pipes = [context.Pipe(duplex=False) for _ in jobs]
    processes = [context.Process(target=send, args=(end, job)) for (_, end), job in zip(pipes, jobs, strict=True)]
    for process, (_, end) in zip(processes, pipes, strict=True):
        process.start()
        end.close()
    results = [start.recv() for start, _ in pipes]
    for process in processes:
        process.join()
    return results


def growth(paths: Sequence[str], reads: int, number: int) -> float:
    """Growth of a worker's unshared memory from reading random rows, in MB."""
    rows = np.random.default_rng(number).integers(len(paths), size=reads)
    before = own_mb()
    for row in rows:
        paths[row]
    return own_mb() - before


def measure(way: str, folder: Path, workers: int, reads: int) -> dict[str, float]:
    """Figures of one way to read the list, in this process and its workers."""
    read = {"manifest": read_packed, "strings": read_strings}[way]
    # Reset the peak memory (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    held_before, peak_before, start = own_mb(), peak_mb(), time.process_time()
    paths, labels = read(folder / LIST, folder)
    seconds = time.process_time() - start
    peak, held = peak_mb() - peak_before, own_mb() - held_before
    grown = forked(growth, *((paths, reads, number) for number in range(workers)))
    start = time.process_time()
    pickle.loads(pickle.dumps((paths, labels)))
    sent = time.process_time() - start
    return {"read_s": seconds, "peak_mb": peak, "held_mb": held, "worker_mb": max(grown), "pickle_s": sent}


def main(rows: int = 1_000_000, workers: int = 2, reads: int = 1_000_000, out: Path | None = None) -> None:
    """Print time and memory of both ways.

    Args:
        rows: number of rows of the list.
        workers: number of processes that read from it.
        reads: number of random rows that each of them reads.
        out: JSON file to write.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise SystemExit("benchmarks/manifest.py measures memory as Linux tells it; run it on Linux.")
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        # In a separate process, so that the others cannot reuse freed memory.
        forked(write_list, (Path(folder), rows))
        for way in ("manifest", "strings"):
            result |= {way: forked(measure, (way, Path(folder), workers, reads))[0]}
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

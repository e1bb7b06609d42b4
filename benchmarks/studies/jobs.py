"""Resumable studies: one result file for each row, kind of data and seed, written by several processes."""

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from modules.core.errors import SettingError
from modules.core.files import read_json, write_json, write_whole

CALIBRATION_SEED = 1000
"""First seed of a calibration, in which settings are chosen on other data than those of the measurement."""


class Named(Protocol):
    """Something to be measured."""

    @property
    def name(self) -> str:
        """What is printed when it is done."""
        ...


class Job(Named, Protocol):
    """A row on one kind of data with one seed, and the file of its result."""

    @property
    def path(self) -> Path:
        """Where its result is."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What its result depends on."""
        ...


AnyJob = TypeVar("AnyJob", bound=Job)
AnyNamed = TypeVar("AnyNamed", bound=Named)


def is_done(job: Job) -> bool:
    """Whether there is a result.

    Raises:
        SettingError: if it has other settings.
    """
    before = read_json(job.path)
    # JSON has no tuples.
    if before and before.get("settings") != json.loads(json.dumps(job.settings)):
        raise SettingError(f"{job.path} was made with other settings; pass another --out, or remove it.")
    return bool(before)


def kept(path: Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What several jobs need: made once and kept in a file, until its settings change.

    Args:
        path: the file.
        settings: what it depends on.
        make: makes tensors, numbers and lists of them, by name.
    """
    text = json.dumps(settings)
    if path.is_file():
        found: dict[str, Any] = torch.load(path, weights_only=True)
        if found["settings"] == text:
            return found
    made = make() | {"settings": text}
    write_whole(path, partial(torch.save, made))
    return made


def save(job: Job, content: dict[str, Any], start: float) -> None:
    """Write a result.

    Args:
        job: what was measured.
        content: the result.
        start: value of `time.perf_counter` when it began.
    """
    timed = {"settings": job.settings} | content | {"seconds": round(time.perf_counter() - start, 1)}
    write_whole(job.path, partial(write_json, content=timed))


def workers(processes: int) -> Executor:
    """Processes with one thread each, or with 0 a thread of this process."""
    if processes == 0:
        return ThreadPoolExecutor(1)
    # Threads of torch may hang in a fork.
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,))


def run_all(jobs: Sequence[AnyJob], run: Callable[[AnyJob], None], processes: int) -> list[str]:
    """Run the jobs that have no result yet, and print when each is done.

    Args:
        jobs: what is to be measured.
        run: measures a job and saves its result.
        processes: jobs at once, see `workers`.

    Returns:
        Names of the jobs that failed.

    Raises:
        SettingError: if a result has other settings.
    """
    return run_pending([job for job in jobs if not is_done(job)], run, processes)


def run_pending(jobs: Sequence[AnyNamed], run: Callable[[AnyNamed], None], processes: int) -> list[str]:
    """Run jobs, and print when each is done. Arguments and result as those of `run_all`."""
    start = time.perf_counter()
    failed: list[str] = []
    with workers(processes) as pool:
        running = {pool.submit(run, job): job for job in jobs}
        for done in as_completed(running):
            job, error = running[done], done.exception()
            failed += [job.name] if error is not None else []
            said = f"failed: {type(error).__name__}: {error}" if error is not None else "done"
            print(f"{job.name}: {said} ({(time.perf_counter() - start) / 60:.0f} min)", flush=True)
    return failed


def finish(text: str, out: Path, jobs: Sequence[Job], seeds: int, failed: list[str]) -> None:
    """Print and write the tables, and name what failed.

    Args:
        text: tables in Markdown.
        out: folder of the results.
        jobs: what was measured.
        seeds: number of repetitions.
        failed: see `run_all`.

    Raises:
        SettingError: if jobs failed.
    """
    write_whole(out / "tables.md", lambda part: part.write_text(text))
    print(text)
    seconds = sum(read_json(job.path).get("seconds", 0) for job in jobs)
    print(f"{seeds} seeds, {seconds / 60:.0f} minutes of one core; mean, spread (largest minus smallest) in brackets")
    if failed:
        raise SettingError(f"{'; '.join(failed)} failed; see the messages above, then run the same command to go on.")

"""Workers that die or hang on a file: the loader continues without that file, and all other samples are unchanged."""

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules import VideoFolder
from datamodules.loading.loader import EpochSampler, ResumableLoader, SampleKey
from datamodules.loading.worker_guard import NOTHING, WorkerGuard
from datamodules.settings import ReadSettings
from datamodules.video import dataset as video_dataset
from datamodules.video.decode import DecodeError, read_clips
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch
from modules.core.errors import SettingError
from tests.datamodules.video_files import write_video

LENGTH, BATCH, BAD = 23, 3, 11
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no alarms and no such signals")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch checks for dead workers every five seconds; here more often."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


def die(way: str) -> None:
    """What a decoder may do to its process."""
    faulthandler.disable()
    if way == "segfault":
        ctypes.string_at(0)
    if way == "exit":
        os._exit(3)
    if way == "hang":
        ctypes.CDLL(None).pause()
    if way == "hang without giving Python a chance":
        ctypes.PyDLL(None).pause()
    os.kill(os.getpid(), getattr(signal, way))
    time.sleep(10)


class Deadly(Dataset[dict[str, Any]]):
    """Each sample is its own key; one row ends the process that reads it, at most `times` times."""

    def __init__(self, guard: WorkerGuard, way: str, folder: Path, times: int = 1000) -> None:
        self.guard, self.way, self.folder, self.times = guard, way, folder, times

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        fault = ""
        try:
            with self.guard.reading(key.row):
                if key.row == BAD and len(list(self.folder.iterdir())) < self.times:
                    (self.folder / str(time.monotonic_ns())).touch()
                    die(self.way)
        except DecodeError as error:
            fault = error.reason
        return {"index": key.row, "draw": hash((key.epoch, key.row)), "fault": fault}


def deadly_loader(way: str, folder: Path, workers: int = 2, times: int = 1000) -> ResumableLoader:
    guard = WorkerGuard(workers, limit=0.5)
    return ResumableLoader(
        Deadly(guard, way, folder, times), EpochSampler(LENGTH, 5, True), BATCH, workers, default_collate, guard=guard
    )


def content(batches: Any) -> list[tuple[int, int]]:
    return [pair for batch in batches for pair in zip(batch["index"].tolist(), batch["draw"].tolist(), strict=True)]


def undisturbed(epoch: int = 0) -> list[tuple[int, int]]:
    sampler = EpochSampler(LENGTH, 5, True)
    sampler.set_epoch(epoch)
    return [(key.row, hash((key.epoch, key.row))) for key in sampler][: LENGTH // BATCH * BATCH]


WAYS = {
    "segfault": ("decoder crashed", 1),
    "SIGABRT": ("decoder crashed", 1),
    "exit": ("decoder crashed", 1),
    "SIGKILL": ("decoder crashed", 2),
    "hang": ("timed out", 1),
    "hang without giving Python a chance": ("timed out", 1),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_file_that_ends_a_worker_is_not_read_again(way: str, tmp_path: Path) -> None:
    reason, deaths = WAYS[way]
    loader = deadly_loader(way, tmp_path)
    if deaths > 1:
        with pytest.warns(UserWarning, match="died with exit code -9 and is restarted"):
            batches = list(loader)
    else:
        batches = list(loader)
    assert content(batches) == undisturbed()
    faults = {int(row): fault for batch in batches for row, fault in zip(batch["index"], batch["fault"], strict=True) if fault}
    assert faults == loader.guard.condemned == {BAD: reason}
    # Nor in the next epoch.
    loader.batches.sampler.set_epoch(1)
    assert content(loader) == undisturbed(1)
    assert len(list(tmp_path.iterdir())) == deaths


@pytest.mark.parametrize(("way", "times"), [("SIGKILL", 1), ("SIGTERM", 3)])
@pytest.mark.filterwarnings("ignore:A worker process died")
def test_what_kills_from_outside_is_no_fault_of_the_file(way: str, times: int, tmp_path: Path) -> None:
    loader = deadly_loader(way, tmp_path, times=times)
    batches = list(loader)
    assert content(batches) == undisturbed()
    assert not any(fault for batch in batches for fault in batch["fault"])
    assert not loader.guard.condemned
    assert len(list(tmp_path.iterdir())) == times


@pytest.mark.filterwarnings("ignore:A worker process died")
def test_a_death_does_not_interrupt_what_the_main_process_does(tmp_path: Path) -> None:
    loader = deadly_loader("none", tmp_path, times=0)
    batches = iter(loader)
    first = next(batches)
    workers = loader._iterator._workers  # type: ignore[union-attr]
    os.kill(workers[0].pid, signal.SIGSEGV)
    workers[0].join()
    # Torch's handler would raise its error here, in the middle of a step.
    assert sum(range(100_000)) > 0
    assert content([first, *batches]) == undisturbed()
    assert not loader.guard.condemned


def test_all_workers_get_a_signal_that_is_meant_for_the_main_process(tmp_path: Path) -> None:
    loader = deadly_loader("none", tmp_path, times=0)
    batches = iter(loader)
    # One of each worker: both have started.
    first = [next(batches), next(batches)]
    workers = loader._iterator._workers  # type: ignore[union-attr]
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGUSR1)
    assert content([*first, *batches]) == undisturbed()
    assert all(worker.is_alive() for worker in workers)


def fall(samples: list[Any]) -> None:
    os._exit(1)


@pytest.mark.filterwarnings("ignore:A worker process died")
def test_workers_that_die_for_no_known_reason_stop_the_run(tmp_path: Path) -> None:
    loader = ResumableLoader(Deadly(WorkerGuard(1), "none", tmp_path, 0), EpochSampler(LENGTH, 5, True), BATCH, 1, fall)
    with pytest.raises(SettingError, match=r"died 4 times .*with exit code 1 .*lower data\.reading\.num_workers"):
        next(iter(loader))


def close_pipes_and_end_later() -> None:
    """What a crash looks like from outside, if the system takes time to end the process."""
    os.closerange(3, 1000)
    time.sleep(0.3)
    os._exit(3)


@pytest.mark.filterwarnings("ignore:A worker process died")
def test_a_worker_whose_pipes_are_closed_already_counts_as_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = deadly_loader("none", tmp_path, times=0)
    worker = multiprocessing.Process(target=close_pipes_and_end_later)
    worker.start()
    monkeypatch.setattr("datamodules.loading.loader.workers", lambda loader: [worker])
    loader._bury(ConnectionResetError())
    assert loader._deaths == [False]


class Failing(Dataset[Tensor]):
    """A mistake in a data set, which does not count as a death."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, key: SampleKey) -> Tensor:
        raise RuntimeError("a mistake")


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_a_data_set_come_out(workers: int) -> None:
    loader = ResumableLoader(Failing(), EpochSampler(LENGTH, 5, True), BATCH, workers)
    with pytest.raises(RuntimeError, match="a mistake"):
        next(iter(loader))
    if workers:
        # Otherwise garbage collection waits five seconds for its worker.
        loader._iterator._shutdown_workers()  # type: ignore[union-attr]


def test_without_workers_nothing_is_noted_and_the_condemned_are_refused() -> None:
    guard = WorkerGuard(2, limit=0.01, crashed=[4])
    with guard.reading(3):
        time.sleep(0.05)
    assert guard._rows.tolist() == [NOTHING] * 2
    with pytest.raises(DecodeError, match="decoder crashed"), guard.reading(4):
        pass


@pytest.mark.skipif(multiprocessing.get_all_start_methods()[0] != "fork", reason="workers get the replaced function by forking")
def test_a_crash_is_reported_and_not_repeated_when_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, deaths = tmp_path / "videos", tmp_path / "deaths"
    for folder in (videos, deaths):
        folder.mkdir()
    first = write_video(videos / "0.mp4", frames=12)
    for number in range(1, 6):
        (videos / f"{number}.mp4").hardlink_to(first)

    def deadly(path: Path, *args: Any, **settings: Any) -> Any:
        if path.name == "3.mp4":
            (deaths / str(time.monotonic_ns())).touch()
            die("segfault")
        return read_clips(path, *args, **settings)

    def batches(workers: int) -> list[Batch]:
        clip = ClipSettings(frames=4, sampler=Dense(2), size=32)
        data = VideoFolder(str(videos), clip=clip, batch_size=2, reading=ReadSettings(workers), seed=1)
        data.setup("fit")
        assert data.faults is not None
        data.faults.write_to(tmp_path / "run")
        return list(data.train_dataloader())

    whole = batches(0)
    monkeypatch.setattr(video_dataset, "read_clips", deadly)
    crashed = batches(2)
    assert (tmp_path / "run/bad_videos.tsv").read_text().splitlines()[1:] == ["3.mp4\ttrain\tdecoder crashed"]
    assert len(list(deaths.iterdir())) == 1
    for one, other in zip(whole, crashed, strict=True):
        same = other.substituted < 0
        assert torch.equal(one.stream("video").data[same], other.stream("video").data[same])
        assert torch.equal(one.index, other.index)
        assert other.index[~same].tolist() in ([], [3])
    for workers in (2, 0):
        for one, other in zip(crashed, batches(workers), strict=True):
            assert torch.equal(one.stream("video").data, other.stream("video").data)
            assert torch.equal(one.substituted, other.substituted)
    assert len(list(deaths.iterdir())) == 1

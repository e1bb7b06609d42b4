"""Batches are copied to the device one step ahead, but counters and saved states are not ahead."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.folder import VideoFolder
from datamodules.generated.motion import SyntheticMotion
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.loading import device_copy
from datamodules.loading.device_copy import SideStream, one_ahead
from datamodules.loading.loader import EpochSampler, ResumableLoader, SampleKey
from datamodules.loading.single_pass import once
from datamodules.settings import LoadSettings, ReadSettings
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from tests.callbacks.runs import Pixels, data, fit
from tests.datamodules.loading.test_loader import BATCH, LENGTH, Keys, loader, rows

BATCHES = LENGTH // BATCH


class Written:
    """Records copies instead of making them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []

    def begin(self, batch: Any) -> Any:
        self.log.append(("begin", batch["index"].tolist()))
        return {"copy": batch["index"]}

    def end(self, begun: Any) -> Any:
        self.log.append(("end", begun["copy"].tolist()))
        return {"index": begun["copy"]}


def copying(workers: int = 0, **settings: Any) -> tuple[ResumableLoader, Written]:
    result, copies = loader(workers, **settings), Written()
    result.copies = copies
    return result, copies


@pytest.mark.parametrize("workers", [0, 2])
def test_a_copy_begins_before_the_batch_in_front_is_handed_out(workers: int) -> None:
    expected = rows(loader())
    source, copies = copying(workers)
    source.on_batch = lambda batch: copies.log.append(("count", batch["index"].tolist()))
    given = []
    for batch in source:
        assert set(batch) == {"index"}
        given.append(batch["index"].tolist())
        copies.log.append(("step", given[-1]))
    assert given == expected
    order = [("begin", 0)]
    for number in range(BATCHES):
        ahead = [("begin", number + 1)] if number + 1 < BATCHES else []
        order += [*ahead, ("end", number), ("count", number), ("step", number)]
    assert copies.log == [(name, expected[number]) for name, number in order]


@pytest.mark.parametrize("accumulated", [0, 1])
def test_what_is_saved_is_what_was_handed_out_at_every_batch(accumulated: int) -> None:
    expected = rows(loader())
    for taken in range(1, BATCHES + 1):
        (source, _), plain = copying(), loader()
        for one in (source, plain):
            one.unfinished = accumulated
            batches = iter(one)
            for _ in range(taken):
                next(batches)
        assert source.state_dict() == plain.state_dict()
        assert source.state_dict()["samples"] == (taken - accumulated) * BATCH
        again, _ = copying()
        again.load_state_dict(source.state_dict())
        # Nothing is left of an epoch that was returned completely.
        assert rows(again) == expected[taken - accumulated :]


def test_every_pass_begins_anew_also_after_one_that_was_left() -> None:
    source, _ = copying()
    next(iter(source))
    assert rows(source) == rows(source) == rows(loader())


class Broken(Keys):
    """The fourth batch cannot be read."""

    def __getitem__(self, key: SampleKey) -> dict[str, Tensor]:
        if key.row in self.bad:
            raise ValueError("broken")
        return super().__getitem__(key)

    bad: frozenset[int] = frozenset()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_behind_the_batches_in_front_of_it(workers: int) -> None:
    expected = rows(loader())
    dataset = Broken()
    dataset.bad = frozenset(expected[3])
    source = ResumableLoader(dataset, EpochSampler(LENGTH, 5, True), BATCH, workers)
    source.copies = Written()
    given: list[list[int]] = []
    with pytest.raises(ValueError, match="broken"):
        given.extend(batch["index"].tolist() for batch in source)
    assert given == expected[:3]
    assert source.state_dict()["samples"] == 3 * BATCH


def test_no_batch_and_one_batch() -> None:
    assert list(one_ahead(iter([]), Written())) == []
    only = {"index": torch.arange(2)}
    ((host, copy),) = one_ahead(iter([only]), Written())
    assert host is only
    assert set(copy) == {"index"}


def test_only_cuda_devices_are_copied_to_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.loading.loader.SideStream", lambda device: ("side stream of", device))
    source = loader()
    source.send_to(torch.device("cpu"))
    assert source.copies is None
    source.send_to(torch.device("cuda:1"))
    assert source.copies == ("side stream of", torch.device("cuda:1"))


def test_the_step_waits_for_its_own_copy_and_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []

    class Stream:
        def __init__(self, *_: object) -> None:
            self.events = 0

        def record_event(self) -> str:
            self.events += 1
            return f"event {self.events}"

        def wait_event(self, event: str) -> None:
            log.append(event)

    current = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: current)
    monkeypatch.setattr(device_copy, "move_data_to_device", lambda batch, _: batch)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: log.append((tensor.tolist(), stream is current)))
    side = SideStream(torch.device("cuda:0"))
    first, second = (side.begin({"index": torch.tensor([number])}) for number in range(2))
    assert log == []
    assert side.end(first)["index"].tolist() == [0]
    assert log == ["event 1", ([0], True)]
    side.end(second)
    assert log[2:] == ["event 2", ([1], True)]


def test_training_tells_the_loader_its_device_and_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Same(Written):
        def begin(self, batch: Any) -> Any:
            self.log.append(("begin", batch.index.tolist()))
            return batch

        def end(self, begun: Any) -> Any:
            return begun

    def send_to(self: ResumableLoader, device: torch.device) -> None:
        devices.append(device)
        self.copies = copies

    weights, devices, copies = [], [], Same()
    for name in ("plain", "ahead"):
        if name == "ahead":
            monkeypatch.setattr(ResumableLoader, "send_to", send_to)
        method, module = Pixels(), data()
        fit(method, tmp_path / name, [], module, limit_val_batches=0)
        weights.append(method.backbone.weight.detach())
    assert torch.equal(*weights)
    assert devices == [torch.device("cpu")]
    assert len(copies.log) == 2 * len(module.train_dataloader())


@pytest.mark.parametrize("ahead", [2, 3])
def test_the_setting_of_batches_read_ahead_reaches_every_loader(ahead: int, tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    for number in range(2):
        (tmp_path / "class" / f"{number}.mp4").write_bytes(b"not read")
    clip, reading = ClipSettings(frames=4, size=32), LoadSettings(1, prefetch_factor=ahead)
    modules: list[Any] = [
        VideoFolder(str(tmp_path), clip=clip, batch_size=1, reading=ReadSettings(1, prefetch_factor=ahead)),
        SyntheticMotion(clip, 1, reading=reading, train_videos=2, val_videos=2),
        SyntheticSkeleton(batch_size=1, reading=reading, train_clips=2, val_clips=2),
    ]
    for module in modules:
        module.setup("fit")
        loaders = [module.train_dataloader(), module.probe_dataloader(), once(module.train_dataloader())]
        assert [one.prefetch_factor for one in loaders] == [ahead] * 3, type(module)


@pytest.mark.parametrize("kind", [LoadSettings, ReadSettings])
def test_at_least_one_batch_is_read_ahead(kind: type) -> None:
    with pytest.raises(SettingError, match=r"data\.reading\.prefetch_factor"):
        kind(prefetch_factor=0)

"""The open batch: streams of every kind, from the samples of a worker to the device, and errors with the available streams."""

import copy
import pickle
from collections.abc import Callable

import lightning
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from modules.core.batch import (
    Batch,
    Kind,
    Reading,
    Regions,
    Stream,
    Text,
    check_streams,
    feature_stream,
    join_streams,
    unlabelled,
)
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.training.method import Method
from tests.registry import OPTIM, skeleton_batch

LENGTHS = (3, 5, 1, 4)


def everything(size: int = 3) -> Batch:
    """A batch with every field set."""
    time, box = torch.rand(size, 2, 2), torch.rand(size, 2, 4)
    valid, length = torch.ones(size, 2, 4, dtype=torch.bool), torch.full((size, 2), 4)
    streams: dict[str, Stream | Text] = {
        "video": Stream("video", torch.randint(0, 256, (size, 2, 4, 8, 8, 3), dtype=torch.uint8), valid, time, box, length),
        "pose": Stream("skeleton", torch.rand(size, 1, 3, 4, 25, 2)),
        "text": Text([[f"sentence {row}", "another"] for row in range(size)]),
    }
    regions = Regions(torch.rand(5, 5), torch.rand(5, 7), torch.arange(5))
    reading = Reading([1.5] * size, [(2, "empty file")], [False] * size)
    index = torch.arange(size)
    return Batch(index, index % 2, streams, torch.tensor([-1, 7, -1])[:size], regions, {"signature": index * 3}, reading)


def tensors(batch: Batch) -> list[Tensor]:
    """All tensors of a batch, in the order of its fields."""
    found: list[Tensor] = []
    apply_to_collection(batch, Tensor, lambda value: found.append(value) or value)
    return found


def assert_equal(one: Batch, other: Batch) -> None:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    assert len(pairs) == 13
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert one.kinds == other.kinds == {"video": "video", "pose": "skeleton", "text": "text"}
    assert one.text() == other.text()
    assert one.reading == other.reading


# --- On its way to the device ---


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
def test_nothing_is_lost_on_the_way(travel: Callable[[Batch], Batch]) -> None:
    batch = everything()
    assert_equal(travel(batch), batch)


def test_every_tensor_is_pinned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda value: pinned.append(value) or value.clone())
    batch = everything()
    copied = batch.pin_memory()
    assert [id(value) for value in pinned] == [id(value) for value in tensors(batch)]
    assert_equal(copied, batch)
    assert copied.stream("video").data is not batch.stream("video").data


def test_a_trainer_moves_every_tensor_and_leaves_the_batch_alone() -> None:
    batch = everything()
    moved = move_data_to_device(batch, torch.device("meta"))
    assert {value.device.type for value in tensors(moved)} == {"meta"}
    assert {value.device.type for value in tensors(batch)} == {"cpu"}
    assert moved.text().first == ["sentence 0", "sentence 1", "sentence 2"]
    assert moved.reading == batch.reading


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_pinned_batch_reaches_the_gpu() -> None:
    batch = everything()
    pinned = batch.pin_memory()
    assert all(value.is_pinned() for value in tensors(pinned))
    moved = move_data_to_device(pinned, torch.device("cuda"))
    assert {value.device.type for value in tensors(moved)} == {"cuda"}
    assert_equal(move_data_to_device(moved, torch.device("cpu")), batch)


# --- Samples that differ in length ---


class Sequences(Dataset[Stream]):
    """Sequences of features, each of its own length."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, row: int) -> Stream:
        length = LENGTHS[row]
        time = torch.arange(2 * length, dtype=torch.float32).view(1, length, 2)
        return Stream("feature", torch.full((1, length, 6), row + 1.0), time=time[:, 0])


def as_batch(samples: list[Stream]) -> Batch:
    stream = join_streams(samples)
    rows = stream.data[:, 0, 0, 0].long() - 1
    return Batch(rows, torch.full_like(rows, -1), {"feature": stream})


@pytest.mark.parametrize("workers", [0, 2])
def test_sequences_of_features_come_from_workers_with_their_lengths(workers: int) -> None:
    batches = list(DataLoader(Sequences(), 2, collate_fn=as_batch, num_workers=workers))
    assert [batch.index.tolist() for batch in batches] == [[0, 1], [2, 3]]
    for batch, longest in zip(batches, (5, 4), strict=True):
        stream = batch.stream("feature", "feature")
        assert stream.data.shape == (2, 1, longest, 6)
        assert stream.length is not None
        assert stream.length.tolist() == [LENGTHS[row] for row in batch.index.tolist()]
        assert stream.time is not None
        assert stream.time.shape == (2, 1, 2)
        for row, length, values in zip(batch.index, stream.length, stream.data, strict=True):
            assert (values[:, :length] == row + 1).all()
            assert not values[:, length:].any()


@pytest.mark.parametrize(
    ("kind", "shape", "axis"),
    [("video", (2, 4, 8, 8, 3), 1), ("skeleton", (2, 3, 4, 25, 2), 2), ("audio", (2, 1, 9), 2), ("signal", (2, 6, 9), 2)],
)
def test_samples_of_every_kind_are_filled_up_in_time(kind: Kind, shape: tuple[int, ...], axis: int) -> None:
    longer = list(shape)
    longer[axis] += 3
    one, other = torch.ones(shape), torch.ones(longer)
    joined = join_streams([Stream(kind, one), Stream(kind, other)])
    assert joined.data.shape == (2, *longer)
    assert joined.length is not None
    assert joined.length.tolist() == [shape[axis], longer[axis]]
    assert torch.equal(joined.data[0].narrow(axis, 0, shape[axis]), one)
    assert not joined.data[0].narrow(axis, shape[axis], 3).any()
    equal = join_streams([Stream(kind, one), Stream(kind, one)])
    assert equal.length is None
    assert equal.data.shape == (2, *shape)


def test_own_lengths_and_validity_are_kept() -> None:
    samples = [
        Stream("feature", torch.ones(2, steps, 3), torch.ones(2, steps, dtype=torch.bool), length=torch.tensor([1, steps]))
        for steps in (2, 4)
    ]
    joined = join_streams(samples)
    assert joined.length is not None
    assert joined.length.tolist() == [[1, 2], [1, 4]]
    assert joined.valid is not None
    assert joined.valid.sum((1, 2)).tolist() == [4, 8]


# --- Available and missing streams ---


def test_a_batch_tells_what_it_has() -> None:
    batch = everything()
    assert batch.stream("video").kind == "video"
    assert batch.stream("pose", "video", "skeleton").kind == "skeleton"
    assert unlabelled(torch.zeros(4, 1, 2)).substituted.tolist() == [-1] * 4
    with pytest.raises(
        SettingError, match=r"reads the stream sound, but .* stream\(s\) video, pose \(skeleton\), text; choose"
    ):
        batch.stream("sound")
    with pytest.raises(
        SettingError, match=r"reads the stream pose \(video or flow\), but .* another --data, or another --model"
    ):
        batch.stream("pose", "video", "flow")
    with pytest.raises(SettingError, match=r"reads the stream text, but the data have the stream\(s\) skeleton"):
        skeleton_batch().text()
    with pytest.raises(SettingError, match=r"reads the stream text, but"):
        batch.stream("text")


def test_streams_are_compared_by_name_and_kind() -> None:
    given: dict[str, Kind] = {"video": "video", "pose": "skeleton"}
    check_streams(given, {"video": ("video", "flow"), "pose": ("skeleton",)})
    with pytest.raises(
        SettingError, match=r"stream pose \(video\), but the data have the stream\(s\) video, pose \(skeleton\)"
    ):
        check_streams(given, {"video": ("video",), "pose": ("video",)})


def test_features_take_the_place_of_clips_only_where_there_are_none() -> None:
    class Data:
        streams: dict[str, Kind]

    data = Data()
    data.streams = {"frozen": "feature"}
    assert feature_stream(data, "video") == "frozen"
    data.streams = {"video": "video", "frozen": "feature"}
    assert feature_stream(data, "video") is None
    assert feature_stream(object(), "video") is None


class Paired(Method):
    """Reads two streams."""

    def __init__(self) -> None:
        super().__init__(OPTIM)
        self.backbone = nn.Linear(1, 1)
        self.seen = 0

    def reads(self) -> dict[str, tuple[Kind, ...]]:
        return super().reads() | {"pose": ("skeleton",)}

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.seen += 1
        value = self.inputs(batch).float().mean() + batch.stream("pose", "skeleton").data.mean()
        return {"loss": self.backbone(value[None]).square().mean()}


class Given(lightning.LightningDataModule):
    """Two batches, and the streams that it declares."""

    batch_size = 3

    def __init__(self, streams: dict[str, Kind]) -> None:
        super().__init__()
        self.streams = streams

    def train_dataloader(self) -> DataLoader:
        return DataLoader([everything(), everything()], batch_size=None)


def test_a_mismatch_is_refused_before_the_first_step(tmp_path: object) -> None:
    def fit(method: Method, streams: dict[str, Kind]) -> None:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=str(tmp_path), **quiet)  # type: ignore[arg-type]
        trainer.fit(method, datamodule=Given(streams))

    method = Paired()
    with pytest.raises(
        SettingError, match=r"reads the stream pose \(skeleton\), but the data have the stream\(s\) video; choose"
    ):
        fit(method, {"video": "video"})
    assert method.seen == 0
    fit(method, {"video": "video", "pose": "skeleton", "text": "text"})
    assert method.seen == 2

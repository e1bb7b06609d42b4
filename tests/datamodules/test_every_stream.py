"""Common properties of all kinds of data: order, workers, resuming, processes, missing files, device copies, refusals."""

import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from datamodules.loading.single_pass import fingerprint, once
from modules.core.batch import SEQUENCE_AXIS, Batch, Stream, check_streams
from modules.core.errors import SettingError
from tests.datamodules.stream_cases import BATCH, CASES, TRAIN, Settings
from tests.resume.runs import as_torchrun_does, together

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*worker processes in total"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*may lead to deadlocks"),
    pytest.mark.filterwarnings("ignore:.*do not exist, the first is"),
    pytest.mark.filterwarnings("ignore:.*cannot be opened, the first is"),
]
every = pytest.mark.parametrize("name", CASES)
FILES = [name for name, case in CASES.items() if case.lost]
ONE_PROCESS, WORLD = {"accelerator": "cpu", "devices": 1}, 2


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of each case's files, written when they are first asked for."""
    made: dict[Any, Path] = {}

    def get(name: str) -> Path:
        write = CASES[name].write
        if write not in made:
            made[write] = tmp_path_factory.mktemp("files")
            write(made[write])
        return made[write]

    return get


def ready(name: str, root: Path, **settings: Any) -> Any:
    data = CASES[name].build(Settings(root, **settings))
    data.setup("fit")
    return data


def read(data: Any, epoch: int = 0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.batches.sampler.set_epoch(epoch)
    return list(loader)


def samples(batches: list[Batch]) -> dict[int, dict[str, Any]]:
    """All fields of each sample by row, without padding."""
    told: dict[int, dict[str, Any]] = {}
    for batch in batches:
        for place, row in enumerate(batch.index.tolist()):
            assert row not in told
            told[row] = {name: value[place] for name, value in batch.extra.items()}
            told[row] |= {"label": batch.label[place], "substituted": batch.substituted[place]}
            for name, stream in batch.streams.items():
                if isinstance(stream, Stream):
                    told[row] |= {f"{name}.{field}": value for field, value in own(stream, place).items()}
                else:
                    told[row][name] = stream.sentences[place]
    return told


def own(stream: Stream, place: int) -> dict[str, Tensor]:
    fields = {"data": stream.data, "valid": stream.valid, "time": stream.time, "box": stream.box}
    found = {name: value[place] for name, value in fields.items() if value is not None}
    if stream.length is not None:
        # All views of a sample have the same length.
        length, axis = int(stream.length[place].max()), SEQUENCE_AXIS[stream.kind]
        found["data"] = found["data"].narrow(axis, 0, length)
        if "valid" in found:
            found["valid"] = found["valid"][..., :length]
    return found


def assert_same(one: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> None:
    assert one.keys() == other.keys()
    for row, fields in one.items():
        assert fields.keys() == other[row].keys()
        for name, value in fields.items():
            theirs = other[row][name]
            same = torch.equal(value, theirs) if isinstance(value, Tensor) else value == theirs
            assert same, f"{name} of sample {row}"


def rows(batches: list[Batch]) -> list[int]:
    return [row for batch in batches for row in batch.index.tolist()]


@every
def test_a_batch_has_what_the_data_module_says(name: str, written: Any) -> None:
    data = ready(name, written(name))
    assert data.streams == CASES[name].streams
    for batch in read(data):
        assert batch.kinds == CASES[name].streams
        for stream in batch.streams.values():
            if isinstance(stream, Stream):
                # Views of all streams of a sample belong together.
                assert stream.data.shape[:2] == (BATCH, next(iter(batch.streams.values())).data.shape[1])  # type: ignore[union-attr]


@every
def test_order_and_samples_are_functions_of_seed_and_epoch(name: str, written: Any) -> None:
    first, again = (ready(name, written(name)) for _ in range(2))
    runs = [[read(data, epoch) for epoch in (0, 1)] for data in (first, again)]
    for one, other in zip(*runs, strict=True):
        assert rows(one) == rows(other)
        assert_same(samples(one), samples(other))
    assert rows(runs[0][0]) != rows(runs[0][1])
    assert set(rows(runs[0][0])) <= set(range(TRAIN))
    assert rows(read(ready(name, written(name), seed=2))) != rows(runs[0][0])


@every
def test_workers_change_nothing(name: str, written: Any) -> None:
    runs = [read(ready(name, written(name), workers=workers), 1) for workers in (0, 2)]
    assert rows(runs[0]) == rows(runs[1])
    assert_same(samples(runs[0]), samples(runs[1]))


@every
def test_a_run_goes_on_with_the_next_sample(name: str, written: Any) -> None:
    whole = read(ready(name, written(name)), 1)
    data = ready(name, written(name))
    loader = data.train_dataloader()
    loader.batches.sampler.set_epoch(1)
    taken = [next(iter(loader))]
    resumed = ready(name, written(name))
    resumed.load_state_dict(data.state_dict())
    rest = read(resumed, 1)
    assert rows(taken) + rows(rest) == rows(whole)
    assert_same(samples(taken + rest), samples(whole))


@every
def test_two_processes_read_what_one_reads(name: str, written: Any) -> None:
    whole = samples(read(ready(name, written(name)), 1))
    parts = []
    for rank in range(WORLD):
        loader = ready(name, written(name)).train_dataloader()
        sampler = loader.batches.sampler
        sampler.rank, sampler.world_size, sampler.end = rank, WORLD, TRAIN // WORLD * WORLD
        loader.batches.batch_size = 1
        sampler.set_epoch(1)
        parts.append(samples(list(loader)))
    assert not parts[0].keys() & parts[1].keys()
    assert_same(parts[0] | parts[1], whole)


class Recorder(lightning.LightningModule):
    """Keeps its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[Batch] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(batch)
        loss: Tensor = self.layer(batch.index.float()[:, None]).mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def record(name: str, root: Path, folder: Path, rank: int, port: int) -> None:
    """The samples of one of two processes in an epoch."""
    warnings.filterwarnings("ignore")
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    recorder = Recorder()
    lightning.Trainer(
        accelerator="cpu", devices=WORLD, strategy="ddp", max_epochs=1, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        default_root_dir=folder,
    ).fit(recorder, datamodule=CASES[name].build(Settings(root)))  # fmt: skip
    torch.save(samples(recorder.seen), folder / f"rank{rank}.pt")


@pytest.mark.slow
@every
def test_a_run_of_two_processes_reads_what_one_reads(name: str, written: Any, tmp_path: Path) -> None:
    assert together(record, [(name, written(name), tmp_path)] * WORLD) == [0] * WORLD
    parts = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]
    assert not parts[0].keys() & parts[1].keys()
    whole = samples(read(ready(name, written(name))))
    joined = parts[0] | parts[1]
    # Two processes with batches of two leave out incomplete batches.
    assert len(joined) == TRAIN // (WORLD * BATCH) * WORLD * BATCH
    assert_same(joined, {row: whole[row] for row in joined})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("on_missing", ["replace", "mark"])
def test_a_missing_file_is_replaced_or_marked_and_named(name: str, on_missing: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.write(tmp_path)
    assert case.lost is not None
    lost, reported = case.lost
    if lost.endswith(".mp4"):
        # A folder does not list missing files.
        (tmp_path / lost).write_bytes(b"")
    else:
        (tmp_path / lost).unlink()
    data = ready(name, tmp_path, on_missing=on_missing)
    faults = data.sets[0].faults if name == "mixed" else data.faults
    faults.write_to(tmp_path / "run")
    batches = [batch for epoch in range(3) for batch in read(data, epoch)]
    assert (tmp_path / "run/bad_videos.tsv").read_text().splitlines() == ["path\tsplit\treason", reported]
    if on_missing == "replace" or not case.may_be_marked:
        stood_in = {row for batch in batches for row in batch.substituted.tolist() if row >= 0}
        assert stood_in == {0}
        return
    for batch in batches:
        assert (batch.substituted < 0).all()
        further = batch.streams[reported.rpartition("\t")[2].partition(":")[0]]
        assert isinstance(further, Stream)
        assert further.valid is not None
        for place, row in enumerate(batch.index.tolist()):
            assert bool(further.valid[place].any()) == (row != 0)
            assert bool(further.data[place].any()) == (row != 0)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.unequal])
def test_unequal_lengths_are_filled_up(name: str, written: Any) -> None:
    lengths = set()
    for batch in (batch for epoch in range(3) for batch in read(ready(name, written(name)), epoch)):
        stream = batch.stream(CASES[name].unequal or "")
        steps = stream.data.shape[1 + SEQUENCE_AXIS[stream.kind]]
        assert stream.valid is not None
        assert stream.valid.shape[-1] == steps
        own = [int(one.max()) for one in stream.length] if stream.length is not None else [steps] * BATCH
        assert max(own) == steps
        lengths |= set(own)
        for place, length in enumerate(own):
            behind = stream.data[place].movedim(SEQUENCE_AXIS[stream.kind], 0)[length:]
            assert not behind.any()
            assert not stream.valid[place][..., length:].any()
    assert len(lengths) > 1


def test_what_each_stream_costs_is_told(written: Any) -> None:
    for name, timed in (("video", []), ("signal beside video", ["signal"]), ("signal alone", ["signal"])):
        for batch in read(ready(name, written(name))):
            assert [*batch.reading.stream_ms] == timed
            for own in batch.reading.stream_ms.values():
                assert all(0 < part < whole for part, whole in zip(own, batch.reading.decode_ms, strict=True))


def test_features_of_other_streams_or_readers_are_others(written: Any) -> None:
    def named(name: str, change: Any = None, **settings: Any) -> str:
        dataset = once(ready(name, written(name), **settings).train_dataloader()).dataset
        if change is not None:
            dataset.wanted.readers["signal"].offset = change
        return fingerprint(dataset)

    beside = "signal beside video"
    same = named(beside)
    assert named(beside) == named(beside, workers=1, seed=2) == same
    others = [named("signal alone"), named(beside, on_missing="mark"), named(beside, change=1), named("video")]
    assert len({same, *others}) == 5


@every
def test_every_field_goes_to_the_device(name: str, written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = read(ready(name, written(name)))[0]
    moved = move_data_to_device(batch, torch.device("meta"))
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda own: pinned.append(own) or own.clone())
    kept = batch.pin_memory()
    assert_same(samples([kept]), samples([batch]))
    for stream, there, here in ((batch.streams[one], moved.streams[one], kept.streams[one]) for one in batch.streams):
        if not isinstance(stream, Stream):
            assert there == here == stream
            continue
        for field in ("data", "valid", "time", "box", "length"):
            value = getattr(stream, field)
            if value is not None:
                assert getattr(there, field).is_meta
                assert getattr(there, field).dtype == value.dtype
                assert any(one is value for one in pinned)
    assert moved.index.is_meta
    assert all(value.is_meta for value in moved.extra.values())


@every
def test_a_method_that_wants_another_stream_is_refused(name: str, written: Any) -> None:
    data = ready(name, written(name))
    with pytest.raises(SettingError, match=r"^The model reads the stream infrared .*, but the data have the stream\(s\) "):
        check_streams(data.streams, {"infrared": ("video",)})
    check_streams(data.streams, {own: (kind,) for own, kind in CASES[name].streams.items()})

"""Callbacks do not change training; probes count every sample once."""

import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor

from callbacks import (
    BestOnTest,
    CollapseAlarm,
    Interpolations,
    LastCheckpoint,
    Neighbours,
    NonFiniteGuard,
    OnlineKNN,
    OnlineLinear,
    Pictures,
    ProbeReport,
    PropagatedVideos,
    ResultFile,
    RetrievedPictures,
    StreamSheet,
    Throughput,
)
from callbacks.features import evaluating, extract_all, gather_once, usable
from modules.core.batch import Batch, Stream
from modules.downstream.metrics.probes import linear_accuracy
from tests.callbacks.runs import VAL, Oracle, Pixels, data, fit, make_trainer, videomae
from tests.registry import rows_of


class Modes(lightning.Callback):
    """Which parts are in training mode when a step begins."""

    def __init__(self) -> None:
        self.seen: list[list[bool]] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        self.seen.append([part.training for part in pl_module.modules()])


def all_callbacks() -> list[lightning.Callback]:
    probes = [OnlineKNN(k=3), OnlineLinear(), ProbeReport(k=3), CollapseAlarm()]
    probes += [Neighbours(every_n_epochs=1, k=2), ResultFile("a"), BestOnTest("a", "val/loss"), RetrievedPictures()]
    shown = [Pictures(every_n_steps=1), StreamSheet(), Interpolations(every_n_steps=1), PropagatedVideos()]
    return [*probes, *shown, Throughput(every_n_steps=1), NonFiniteGuard(), LastCheckpoint()]


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")
def test_callbacks_change_no_weight_no_mode_and_no_random_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Convergence of the report's classifiers is not tested here.
    monkeypatch.setattr("callbacks.probe_report.linear_accuracy", partial(linear_accuracy, iterations=2))
    results = []
    for callbacks in ([], all_callbacks()):
        method, modes = videomae(), Modes()
        # A frozen part must not change.
        method.backbone.blocks[0].eval()
        some = bool(callbacks)
        fit(method, tmp_path / str(len(callbacks)), [*callbacks, modes], logger=some, enable_checkpointing=some)
        results.append((method.state_dict(), modes.seen, torch.get_rng_state()))
    (weights, modes_before, random), (watched, modes_after, watched_random) = results
    for name, value in weights.items():
        assert torch.equal(value, watched[name]), name
    assert modes_before == modes_after
    assert {True, False} == set(modes_after[-1])
    assert torch.equal(random, watched_random)
    assert len(list((tmp_path / "15" / "pictures").iterdir())) > 6


def test_every_callback_is_under_that_test() -> None:
    import callbacks

    public = {value for value in vars(callbacks).values() if inspect.isclass(value)}
    # Weight averaging replaces the weights at the end, as intended. The progress bar is enabled.
    assert public - {callbacks.ModelEMA, callbacks.LossProgressBar} == {type(one) for one in all_callbacks()}


def test_evaluating_restores_modes_and_random_state_after_an_error() -> None:
    method = videomae()
    method.backbone.blocks[0].eval()
    modes, state = [part.training for part in method.modules()], torch.get_rng_state()
    with pytest.raises(KeyError), evaluating(method):  # noqa: PT012
        assert not any(part.training for part in method.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
        raise KeyError
    assert [part.training for part in method.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def batches() -> list[Batch]:
    """Five samples: one without label, one substitute for a broken file."""
    video = torch.zeros(5, 1, 4, 8, 8, 3, dtype=torch.uint8)
    index, label = torch.tensor([4, 3, 2, 1, 0]), torch.tensor([0, -1, 2, 3, 4])
    whole = Batch(index, label, {"video": Stream("video", video)}, torch.tensor([-1, -1, 7, -1, -1]))
    return [rows_of(whole, rows) for rows in (slice(0, 3), slice(3, 5))]


def numbers(batch: Batch) -> Tensor:
    return batch.index[:, None].double()


def test_unlabelled_and_substituted_samples_do_not_count(tmp_path: Path) -> None:
    assert usable(batches()[0]).tolist() == [True, False, False]
    features, labels = extract_all(make_trainer(tmp_path, []), Oracle(), batches(), [numbers])[0]
    assert features.dtype == torch.float32
    assert features.flatten().tolist() == [0, 1, 4]
    assert labels.tolist() == [4, 3, 0]


def test_several_labels_per_video_give_no_features(tmp_path: Path) -> None:
    several = [replace(batch, label=torch.zeros(len(batch.index), 3)) for batch in batches()]
    features, labels = extract_all(make_trainer(tmp_path, []), Oracle(), several, [numbers])[0]
    assert len(features) == len(labels) == 0


def test_gathering_keeps_each_number_once_in_order(tmp_path: Path) -> None:
    rows, labels = torch.tensor([[3.0], [1.0], [3.0], [0.0]]), torch.tensor([5, 6, 5, 7])
    rows, labels = gather_once(make_trainer(tmp_path, []), rows, labels, rows.flatten().long())
    assert rows.flatten().tolist() == [0, 1, 3]
    assert labels.tolist() == [7, 6, 5]


class Record(lightning.Callback):
    """Records the final state of each process."""

    def setup(self, *_: object, **__: object) -> None:
        # Sums over several threads round differently.
        torch.set_num_threads(1)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        probe = next(one for one in trainer.callbacks if isinstance(one, OnlineLinear)).probe
        module = trainer.datamodule
        counted, labels = extract_all(trainer, pl_module, module.val_dataloader(), [numbers])[0]
        # The first process has all samples; the other one must not block it.
        alone, _ = extract_all(trainer, pl_module, module.val_dataloader() if trainer.global_rank == 0 else [], [numbers])[0]
        record = {
            "probe": probe.state_dict(),
            "counted": counted.flatten(),
            "labels": labels,
            "alone": alone.flatten(),
            "metrics": dict(trainer.callback_metrics),
        }
        torch.save(record, Path(trainer.default_root_dir) / f"rank{trainer.global_rank}.pt")


@pytest.fixture
def _threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_threads_afterwards")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    for world in (1, 2):
        (tmp_path / str(world)).mkdir()
        # The same global batch; a spawned process shares no locks with this one.
        settings = {"devices": world, "strategy": "ddp_spawn" if world > 1 else "auto", "use_distributed_sampler": False}
        callbacks = [OnlineKNN(k=3), OnlineLinear(), CollapseAlarm(samples=5), Record()]
        fit(Pixels(), tmp_path / str(world), callbacks, data(batch_size=8 // world), **settings)
    one, first, second = (torch.load(tmp_path / name) for name in ("1/rank0.pt", "2/rank0.pt", "2/rank1.pt"))
    for rank in (one, first, second):
        assert rank["counted"].tolist() == list(range(VAL))
        assert torch.equal(rank["labels"], one["labels"])
    assert first["alone"].tolist() == second["alone"].tolist() == list(range(0, VAL, 2))
    for name, value in one["probe"].items():
        assert torch.equal(value, first["probe"][name]), name
        assert torch.equal(value, second["probe"][name]), name
    for name in ("knn/acc1", "linear/acc1", "collapse/rankme", "collapse/feature_std"):
        assert one["metrics"][name] == first["metrics"][name], name

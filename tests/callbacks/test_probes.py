"""Probes during training: OnlineKNN and OnlineLinear."""

import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import OnlineKNN, OnlineLinear
from tests.callbacks.runs import (
    BATCH,
    STEPS,
    TRAIN,
    VAL,
    Oracle,
    Pixels,
    StopAfter,
    Unlabelled,
    data,
    fit,
    make_trainer,
    videomae,
)


class Logged(lightning.Callback):
    """The metrics after each epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def unlabelled() -> Unlabelled:
    return Unlabelled(data().clip, BATCH, train_videos=TRAIN, val_videos=VAL)


def test_knn_of_known_features(tmp_path: Path) -> None:
    right = fit(Oracle(), tmp_path, [OnlineKNN(k=1)]).callback_metrics["knn/acc1"]
    hard = fit(Pixels(), tmp_path, [OnlineKNN(k=1)]).callback_metrics["knn/acc1"]
    assert right > 90
    assert hard < 90


def test_knn_warns_once_without_labels_and_stays_silent(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="needs labelled training and validation videos") as caught:
        trainer = fit(Oracle(), tmp_path, [OnlineKNN(), OnlineLinear()], unlabelled(), epochs=3)
    assert sum("needs labelled" in str(one.message) for one in caught) == 1
    assert not {"knn/acc1", "linear/acc1", "linear/loss"} & set(trainer.callback_metrics)


def test_knn_runs_after_every_nth_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    monkeypatch.setattr("callbacks.online_knn.knn_accuracy", lambda *_: epochs.append(trainer.current_epoch) or 0.5)
    trainer = make_trainer(tmp_path, [OnlineKNN(every_n_validations=2)], epochs=5)
    # Lightning's sanity check is no validation.
    trainer.fit(Oracle(), datamodule=data())
    assert epochs == [1, 3]
    assert trainer.callback_metrics["knn/acc1"] == 50


def test_knn_goes_on_counting_after_a_resume(tmp_path: Path) -> None:
    counts = []
    for epochs, path in ((1, None), (2, tmp_path / "last.ckpt")):
        knn = OnlineKNN(every_n_validations=2)
        trainer = make_trainer(tmp_path, [knn, ModelCheckpoint(tmp_path, save_last=True)], epochs, enable_checkpointing=True)
        trainer.fit(Oracle(), datamodule=data(), ckpt_path=path, weights_only=True if path else None)
        counts.append((knn.state_dict()["validations"], "knn/acc1" in trainer.callback_metrics))
    assert counts == [(1, False), (2, True)]


def test_linear_probe_learns_what_is_separable(tmp_path: Path) -> None:
    # Batches contain few samples; the default rate is for long runs.
    logged = Logged()
    fit(Oracle(), tmp_path, [OnlineLinear(lr=0.1), logged], data(train_videos=64), epochs=4)
    assert logged.epochs[-1]["linear/acc1"] > 90
    assert logged.epochs[-1]["linear/loss"] < logged.epochs[0]["linear/loss"]


def test_linear_accuracy_is_that_of_the_probe_on_all_validation_clips(tmp_path: Path) -> None:
    linear, method, module = OnlineLinear(lr=0.05), Pixels(), data()
    trainer = fit(method, tmp_path, [linear], module)
    batches = list(module.val_dataloader())
    features, labels = torch.cat([method.embed(batch) for batch in batches]), torch.cat([batch.label for batch in batches])
    assert linear.probe is not None
    right = (linear.probe.eval()(features).argmax(1) == labels).float().mean()
    assert trainer.callback_metrics["linear/acc1"] == pytest.approx(100 * right.item())


def test_linear_probe_learns_every_nth_step(tmp_path: Path) -> None:
    linear = OnlineLinear(every_n_steps=2)
    fit(Pixels(), tmp_path, [linear])
    assert linear.probe is not None
    # Batches 0 and 2 of three, in both epochs.
    assert linear.probe[0].num_batches_tracked == 4


def test_linear_probe_is_resumed_to_the_bit(tmp_path: Path) -> None:
    def run(folder: str, stop: int | None, path: Path | None, seed: int = 0) -> OnlineLinear:
        linear, saver = OnlineLinear(lr=0.01), ModelCheckpoint(tmp_path / folder, save_last=True)
        stops = [StopAfter(stop)] if stop else []
        lightning.seed_everything(3)
        trainer = make_trainer(tmp_path / folder, [linear, *stops, saver], 2, enable_checkpointing=True)
        trainer.fit(videomae(seed), datamodule=data(), ckpt_path=path, weights_only=True if path else None)
        return linear

    whole = run("whole", None, None).state_dict()
    half = run("half", STEPS, None).state_dict()
    resumed = run("resumed", None, tmp_path / "half" / "last.ckpt", seed=7).state_dict()
    assert whole["probe"]["0.num_batches_tracked"] == 2 * STEPS
    assert half["probe"]["0.num_batches_tracked"] == STEPS
    for name, value in whole["probe"].items():
        assert torch.equal(value, resumed["probe"][name]), name
    for number, moments in whole["optimiser"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, resumed["optimiser"]["state"][number][name]), name


def test_linear_probe_keeps_what_was_restored_until_it_learns(tmp_path: Path) -> None:
    first = OnlineLinear()
    fit(Pixels(), tmp_path, [first])
    state = first.state_dict()
    second = OnlineLinear()
    second.load_state_dict(state)
    # Saved again before the first batch, for example by a validation at the start.
    assert second.state_dict() is state
    assert OnlineLinear().state_dict() == {}
    # A probe with other weights is replaced.
    fit(Pixels(), tmp_path, [second])
    second.load_state_dict(state)
    assert second.state_dict() is state


def test_probes_leave_other_modules_alone(tmp_path: Path) -> None:
    callbacks: list[Any] = [OnlineKNN(), OnlineLinear()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = make_trainer(tmp_path, callbacks, 1, limit_train_batches=2, limit_val_batches=2)
        # It has no `embed`.
        trainer.fit(BoringModel())
    assert not {"knn/acc1", "linear/acc1"} & set(trainer.callback_metrics)


@pytest.mark.parametrize(("k", "enough"), [(1, True), (20, False)])
def test_knn_says_what_its_bank_is(k: int, enough: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Oracle(), tmp_path, [OnlineKNN(k=k)], epochs=3)
    told = [str(one.message) for one in caught] + [record.getMessage() for record in caplog.records]
    (line,) = [one for one in told if one.startswith("OnlineKNN (data.probe_samples): ")]
    assert f"k of {k} among {TRAIN} training samples of " in line
    assert ("so few" not in line) == enough

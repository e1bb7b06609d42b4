"""The table at the end of a short run contains all results, and explains them."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from callbacks import ProbeReport
from callbacks.probe_report import MAIN_POOLED, MAIN_READOUT, RECENT_STEPS, render
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.skeleton.clips import SkeletonClipSettings
from modules.core.batch import Batch
from modules.core.output import StepOutput
from modules.downstream.metrics.probes import linear_accuracy
from tests.callbacks.runs import BATCH, CLASSES, STEPS, TRAIN, VAL, Oracle, Unlabelled, data, fit, make_trainer, videomae
from tests.registry import FRAMES, METHODS

NETWORK = {f"{tokens}, {probe}" for tokens in ("tokens per time slice", "mean of all tokens") for probe in ("linear", "kNN")}
RAW = {f"{pixels}, {probe}" for pixels in ("one raw frame", "raw frame differences") for probe in ("linear", "kNN")}


@pytest.fixture(autouse=True)
def _quick_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convergence of classifiers is tested with the probes."""
    monkeypatch.setattr("callbacks.probe_report.linear_accuracy", partial(linear_accuracy, iterations=2))


def report_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "probe_report.json").read_text())


class Counted(Oracle):
    """The loss and the constant loss are the number of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        output = super().step(batch, generator)
        if self.training:
            self.losses.append(output["loss"].item())
        return output | {"log": {"constant_loss": torch.tensor(float(len(self.losses)))}}


def test_every_number_is_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = TensorBoardLogger(tmp_path, name=None, version="tb")
    fit(videomae(), tmp_path, [ProbeReport(k=3)], logger=logger)
    printed = capsys.readouterr().out
    report = report_in(tmp_path)
    assert set(report["before"]) == set(report["after"]) == NETWORK
    assert set(report["baselines"]) == RAW | {"chance"}
    assert report["baselines"]["chance"] == 100 / CLASSES
    assert report["steps"] == 2 * STEPS
    for name, after in report["after"].items():
        before = report["before"][name]
        star = " *" if name == MAIN_READOUT else ""
        assert f"| {name}{star} | {before:.1f} | {after:.1f} | {after - before:+.1f} |" in printed
    for name, value in report["baselines"].items():
        assert f"| {name} | | {value:.1f} | |" in printed
    assert printed.count(" * |") == 1
    for key in ("loss", "constant_loss"):
        assert f"{report[key]:.4f}" in printed
    assert (tmp_path / "probe_report.md").read_text() in printed + "\n"
    scalars = EventAccumulator(logger.log_dir).Reload().Tags()["scalars"]
    assert sum(tag.startswith("probe/") for tag in scalars) == len(NETWORK)


def test_before_is_the_untrained_network_and_after_the_trained_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = videomae()
    start = {name: value.clone() for name, value in method.state_dict().items()}
    seen: list[bool] = []

    def readout(method: lightning.LightningModule, batch: Batch) -> Tensor:
        seen.append(all(torch.equal(value, start[name]) for name, value in method.state_dict().items()))
        return torch.rand(len(batch.index), 2 * 32)

    monkeypatch.setattr("callbacks.probe_report.tokens_per_slice", readout)
    fit(method, tmp_path, [ProbeReport(k=3)])
    assert seen == sorted(seen, reverse=True)
    assert seen.count(True) == seen.count(False) > 0


@pytest.mark.parametrize("accumulate", [1, 3])
def test_losses_are_means_over_the_last_batches(tmp_path: Path, accumulate: int) -> None:
    method = Counted()
    epochs = 2 * RECENT_STEPS // 3
    settings = {"limit_val_batches": 0, "accumulate_grad_batches": accumulate}
    fit(method, tmp_path, [ProbeReport(k=3)], data(train_videos=3, val_videos=8, batch_size=1), epochs, **settings)
    report, steps = report_in(tmp_path), len(method.losses)
    assert steps > RECENT_STEPS
    # Lightning divides the loss by the number of accumulated batches; the table must not.
    assert report["loss"] == pytest.approx(sum(method.losses[-RECENT_STEPS:]) / RECENT_STEPS, rel=1e-4)
    assert report["constant_loss"] == steps - (RECENT_STEPS - 1) / 2


def test_table_says_how_far_the_loss_is_below_that_of_a_constant() -> None:
    report = {"main": "b", "before": {"b": 40.0}, "after": {"b": 30.0, "a": 20.0}, "baselines": {"chance": 25.0}}
    text = render(report | {"loss": 0.75, "constant_loss": 1.0, "steps": 10})
    # Results that got worse are also shown, and a missing 'before' gives an empty cell.
    assert "| b * | 40.0 | 30.0 | -10.0 |" in text
    assert re.search(r"^\| a \| +\| 20\.0 \| +\|$", text, re.MULTILINE)
    assert "Training loss 0.7500 after 10 steps, 25.0 % below 1.0000" in text
    assert "Training loss" not in render(report | {"loss": 0.75, "constant_loss": None, "steps": 10})
    cells = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert cells == {5}


def test_table_says_how_far_a_bad_loss_is_above_that_of_a_constant() -> None:
    numbers = {"main": MAIN_READOUT, "before": {}, "after": {}, "baselines": {}, "steps": 7}
    for loss, words in ((1.066, "6.6 % above 1.0000"), (0.9, "10.0 % below 1.0000"), (1.0, "0.0 % below 1.0000")):
        last = render(numbers | {"loss": loss, "constant_loss": 1.0}).splitlines()[-1]
        assert words in last
        assert "-" not in last.split("steps, ")[1]


def test_resumed_run_keeps_what_was_read_before(tmp_path: Path) -> None:
    kept = {"tokens per time slice, linear": 12.5}
    first = ProbeReport(k=3)
    # A value that no readout returns.
    first.before = kept
    for epochs, path, report in ((1, None, first), (2, tmp_path / "last.ckpt", ProbeReport(k=3))):
        trainer = make_trainer(tmp_path, [report, ModelCheckpoint(tmp_path, save_last=True)], epochs, enable_checkpointing=True)
        trainer.fit(videomae(), datamodule=data(), ckpt_path=path, weights_only=True if path else None)
    assert report_in(tmp_path)["before"] == kept
    assert report_in(tmp_path)["steps"] == 2 * STEPS


def test_other_processes_are_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", property(lambda _: False))
    report = ProbeReport(k=3)
    fit(Oracle(), tmp_path, [report])
    assert report.before
    assert "chance" not in capsys.readouterr().out
    assert not list(tmp_path.glob("probe_report*"))


def test_no_file_in_a_trial_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(Oracle(), tmp_path, [ProbeReport(k=3)], fast_dev_run=1)
    assert "| chance |" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_skeletons_have_baselines_of_their_own(tmp_path: Path) -> None:
    module = SyntheticSkeleton(SkeletonClipSettings(FRAMES, 2), 8, train_clips=8, val_clips=4)
    method = next(case for case in METHODS if case.name == "SkeletonContrast").build()
    fit(method, tmp_path, [ProbeReport(k=3)], module, epochs=1)
    report = report_in(tmp_path)
    assert report["main"] == MAIN_POOLED
    assert set(report["before"]) == set(report["after"]) == {MAIN_POOLED, "pooled feature, kNN"}
    poses = {f"{raw}, {probe}" for raw in ("one raw pose", "raw pose differences") for probe in ("linear", "kNN")}
    assert set(report["baselines"]) == poses | {"chance"}


def test_no_report_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = Unlabelled(data().clip, BATCH, train_videos=TRAIN, val_videos=VAL)
    fit(videomae(), tmp_path, [ProbeReport()], module, epochs=1)
    assert "accuracy" not in capsys.readouterr().out
    assert not list(tmp_path.glob("probe_report*"))

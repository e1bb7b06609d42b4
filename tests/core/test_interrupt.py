"""A run that is interrupted goes on as if nothing had happened."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.synthetic import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.core.base import Method
from modules.core.interrupt import SaveOnInterrupt
from tests.methods import FRAMES, METHODS, SIDE


class Interrupt(lightning.Callback):
    """Sends a signal to this process in the middle of a step."""

    def __init__(self, number: int, at: int, times: int = 1) -> None:
        self.number, self.at, self.times = number, at, times

    def on_after_backward(self, trainer: lightning.Trainer, _: object) -> None:
        if trainer.fit_loop.total_batch_idx == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def fit(folder: Path, *callbacks: lightning.Callback, accumulate: int = 1, ckpt_path: Path | None = None) -> Method:
    torch.manual_seed(0)
    method = METHODS[1].build()
    data = SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE), batch_size=4, train_videos=20, val_videos=4)
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[*callbacks, SaveOnInterrupt(), ModelCheckpoint(folder / "checkpoints", save_last=True)],
    ).fit(method, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return method


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_interrupted_run_equals_uninterrupted_run(number: int, accumulate: int, tmp_path: Path) -> None:
    fit(tmp_path / "whole", accumulate=accumulate)
    with pytest.raises(SystemExit):
        fit(tmp_path / "part", Interrupt(number, at=2), accumulate=accumulate)
    # The signal comes in the third batch: with two batches a step, the fourth completes it.
    assert state(tmp_path / "part")["global_step"] == (3 if accumulate == 1 else 2)
    fit(tmp_path / "part", accumulate=accumulate, ckpt_path=tmp_path / "part/checkpoints/last.ckpt")
    whole, part = state(tmp_path / "whole"), state(tmp_path / "part")
    assert whole["global_step"] == part["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, part["state_dict"][name]), name
    for name, value in whole["optimizer_states"][0]["state"].items():
        assert torch.equal(value["exp_avg"], part["optimizer_states"][0]["state"][name]["exp_avg"])
    assert whole["lr_schedulers"] == part["lr_schedulers"]


def test_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, Interrupt(signal.SIGINT, at=2, times=2))
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    fit(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before

"""An interrupted run resumes as if uninterrupted."""

import os
import runpy
import signal
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.runs.last_checkpoint import SIGNALS, LastCheckpoint, requeue
from modules.training.method import Method
from tests.registry import FRAMES, METHODS, SIDE
from tests.resume.bits import differences


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
        callbacks=[*callbacks, LastCheckpoint()],
    ).fit(method, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return method


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(("at", "accumulate", "steps"), [(2, 1, 3), (2, 2, 2), (4, 1, 5)])
def test_interrupted_run_equals_uninterrupted_run(number: int, at: int, accumulate: int, steps: int, tmp_path: Path) -> None:
    fit(tmp_path / "whole", accumulate=accumulate)
    with pytest.raises(SystemExit):
        fit(tmp_path / "part", Interrupt(number, at), accumulate=accumulate)
    # With two batches a step, the fourth completes what the third began. The fifth is the last of its epoch.
    assert state(tmp_path / "part")["global_step"] == steps
    fit(tmp_path / "part", accumulate=accumulate, ckpt_path=tmp_path / "part/checkpoints/last.ckpt")
    assert differences(state(tmp_path / "whole"), state(tmp_path / "part")) == []


def test_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, Interrupt(signal.SIGINT, at=2, times=2))
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    fit(tmp_path)
    with pytest.raises(SystemExit):
        fit(tmp_path, Interrupt(signal.SIGUSR1, at=2))
    # Lightning itself ignores Ctrl-C after one: the process is about to end.
    assert [signal.getsignal(number) for number in SIGNALS[1:]] == before[1:]
    signal.signal(signal.SIGINT, before[0])


def scontrol(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Path:
    """Inside a SLURM job, with a scontrol that records its calls."""
    folder.mkdir()
    script, asked = folder / "scontrol", folder / "asked"
    script.write_text(f"#!/bin/sh\necho $@ >> {asked}\nexit {code}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    return asked


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGUSR1, "requeue 123\n"), (signal.SIGTERM, None)])
def test_only_the_signal_of_the_time_limit_requeues(
    number: int, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scontrol(tmp_path / "bin", monkeypatch)
    with pytest.raises(SystemExit):
        fit(tmp_path, Interrupt(number, at=2))
    assert (asked.read_text() if asked.exists() else None) == expected


def test_jobs_of_an_array_are_requeued_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scontrol(tmp_path / "bin", monkeypatch)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue()
    assert asked.read_text() == "requeue 7_3\n"


def test_a_queue_that_refuses_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol(tmp_path / "bin", monkeypatch, code=1)
    with pytest.warns(UserWarning, match="SLURM job 123 could not be requeued"):
        requeue()


def test_it_can_be_imported_where_slurm_s_signal_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGUSR1")
    names = runpy.run_path(str(Path(__file__).parents[2] / "modules/runs/last_checkpoint.py"))
    assert names["SIGNALS"] == (signal.SIGINT, signal.SIGTERM)

"""The checkpoint to resume from: written at intervals, and before a run ends on Ctrl-C, SIGTERM or SLURM's SIGUSR1."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from modules.core.errors import SettingError, check_positive
from modules.core.loading import open_run
from modules.core.run import run_of
from modules.core.undocumented import FitCounts, is_fitting

LAST = Path("checkpoints") / "last.ckpt"
ASK_EVERY = 10
"""Optimiser steps between exchanges of received signals among several processes."""
REQUEUE: int | None = getattr(signal, "SIGUSR1", None)
"""SLURM's signal; Windows does not have it."""
SIGNALS = tuple(number for number in (signal.SIGINT, signal.SIGTERM, REQUEUE) if number is not None)


def was_requeued() -> bool:
    """Whether SLURM restarted this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def best_checkpoint(last: Path) -> Path:
    """The best checkpoint according to a `ModelCheckpoint` with `monitor`, as recorded in the last checkpoint of the run.

    Args:
        last: last checkpoint of the run; the best one is next to it.

    Raises:
        SettingError: if no best checkpoint was recorded, or its file no longer exists.
    """
    states = open_run(str(last), "--ckpt_path").get("callbacks", {})
    watched = [one for name, one in states.items() if name.startswith("ModelCheckpoint") and one.get("monitor") is not None]
    paths = [Path(one["best_model_path"]) for one in watched if one["best_model_path"]]
    # The run's folder may have been moved.
    found = [place for path in paths for place in (last.parent / path.name, path) if place.is_file()]
    if not found:
        what = f"{paths[0]}, which is gone" if paths else "none, because no ModelCheckpoint with monitor had chosen one"
        raise SettingError(f"--ckpt_path best: {last} knows of {what}; train with configs/trainer/best.yaml, or name a file.")
    return found[0]


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt`, which `--ckpt_path last` resumes from: every n steps, at epoch ends, and on signals.

    On SIGINT, SIGTERM and SIGUSR1 it saves and ends the run. A signal may come in the middle of a step, when weights
    and counters are inconsistent; therefore only a flag is set, and all processes finish the step first. A second
    signal ends the run at once, without saving. After SIGUSR1 inside a SLURM job, the job is requeued and resumes
    automatically when it is restarted. The command line adds this callback to every run that does not list it. A trial run
    (`trainer.fast_dev_run`) saves nothing.

    If a validation or the end of an epoch follows a step, the checkpoint is written after it: Lightning does not
    distinguish the states before and after, and a run resumed from a checkpoint before the validation would skip it.

    Args:
        every_n_steps: optimiser steps between checkpoints.
    """

    def __init__(self, every_n_steps: int = 1000) -> None:
        check_positive("LastCheckpoint", every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self._received = self._agreed = 0
        self._due = False
        self.stopped = False
        """Whether it has saved and ended the run because of a signal."""
        self._handlers: dict[int, Any] = {}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers."""
        self._take_over()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers."""
        self._take_over()

    def _take_over(self) -> None:
        if threading.current_thread() is threading.main_thread() and not self._handlers:
            self._received = self._agreed = 0
            self._due = False
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = number
        print(f"\n{signal.Signals(number).name}: saving after this step; a second signal ends the run at once.", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is due, or if any process received a signal."""
        if _within_step(trainer):
            return
        step = trainer.global_step
        if trainer.world_size > 1 and step % ASK_EVERY == 0:
            # Not after every step, because communication with other processes causes a host sync.
            received = torch.tensor(self._received, device=pl_module.device)
            self._agreed = int(trainer.strategy.reduce(received, reduce_op="max"))
        elif trainer.world_size == 1:
            self._agreed = self._received
        self._due |= bool(self._agreed) or step % self.every_n_steps == 0
        # Lightning decides internally whether a validation follows; if it might, saving is postponed by a step.
        counts = FitCounts(trainer)
        interval = counts.validates_every or float("inf")
        validates = any(count % interval == 0 for count in (batch_idx + 1, counts.in_all))
        if self._due and not (trainer.is_last_batch or trainer.should_stop or validates):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a postponed checkpoint in the middle of an epoch."""
        if not is_fitting(trainer) or trainer.sanity_checking or trainer.is_last_batch:
            return
        # Checkpoints do not contain accumulated gradients.
        if self._due and not _within_step(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._due = False
        path = Path(trainer.default_root_dir) / LAST
        trial = bool(run_of(trainer).fast_dev_run)
        if not trial:
            trainer.save_checkpoint(path, weights_only=False)
        if not self._agreed:
            return
        if not trial:
            rank_zero_info(f"Saved {path} at step {trainer.global_step}; resume with --ckpt_path last.")
        if self._agreed == REQUEUE:
            requeue()
        self._restore()
        self.stopped = not trial
        raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    # Not in `teardown`: by then Lightning has removed its own handlers, which these replaced.
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the previous signal handlers."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the previous signal handlers."""
        self._restore()


def _within_step(trainer: Trainer) -> bool:
    """Whether gradients are being accumulated, before the optimiser's next step."""
    return bool(FitCounts(trainer).in_epoch % trainer.accumulate_grad_batches) and not trainer.is_last_batch


@rank_zero_only
def requeue() -> None:
    """Requeue this SLURM job; does nothing outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
        rank_zero_info(f"SLURM job {job} has been requeued.")
    except (OSError, subprocess.CalledProcessError) as error:
        rank_zero_warn(f"SLURM job {job} could not be requeued ({error}); submit it again.")

"""Estimates for a complete run: time, memory, disk space."""

from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from callbacks.pictures import Pictures
from modules.bench.measure import Measured

DEFAULT_EPOCHS = 1000
"""Lightning's default if neither epochs nor steps are set."""
SPARE = 0.9
"""Fraction of the memory that a larger batch may use."""


@dataclass
class Outlook:
    """Estimates for the run as requested by the user."""

    devices: int
    """Number of devices on all machines."""
    epochs: float
    batches: int
    """Batches per device, over all epochs."""
    seconds: float
    checkpoints: int
    """Checkpoints kept at the end."""
    disk_bytes: int
    """Checkpoints, logs and pictures."""
    largest_batch: int | None = None
    """Samples that fit into the memory of a device; None if unknown."""
    endless: bool = False
    """Whether neither epochs nor steps end the run; the estimates are then for one epoch."""


def devices_here(trainer: Namespace) -> int:
    """Number of devices on each machine according to the settings of the run."""
    asked: Any = trainer.devices
    here = torch.cuda.device_count() if trainer.accelerator in ("gpu", "cuda", "auto") else 0
    if isinstance(asked, list):
        return len(asked)
    if isinstance(asked, str) and "," in asked:
        return len([one for one in asked.split(",") if one.strip()])
    if str(asked) in ("auto", "-1"):
        return max(1, here)
    return int(asked)


def look_ahead(measured: Measured, other: Measured | None = None) -> Outlook:
    """Estimate the complete run, assuming that each device is as fast as the measured one.

    Args:
        measured: measurement of the run.
        other: the same run with another batch size, to find the GPU memory per sample.
    """
    trainer = measured.settings.trainer
    devices = devices_here(trainer) * int(trainer.num_nodes)
    limited = isinstance(trainer.limit_train_batches, int)
    per_epoch = measured.batches_per_epoch if limited else max(1, measured.batches_per_epoch // devices)
    steps = -1 if trainer.max_steps is None else trainer.max_steps
    epochs = trainer.max_epochs
    if epochs is None:
        epochs = DEFAULT_EPOCHS if steps < 0 else -1
    endless = epochs < 0 and steps < 0
    epochs = 1 if endless else epochs
    batches = epochs * per_epoch if epochs >= 0 else steps * trainer.accumulate_grad_batches
    if steps >= 0:
        batches = min(batches, steps * trainer.accumulate_grad_batches)
    kept = checkpoints_kept(measured, batches / per_epoch)
    written = _written(measured, batches // trainer.accumulate_grad_batches)
    return Outlook(
        devices,
        batches / per_epoch,
        batches,
        batches * measured.step_seconds,
        kept,
        kept * measured.checkpoint_bytes + written,
        largest_batch(measured, other),
        endless,
    )


def checkpoints_kept(measured: Measured, epochs: float) -> int:
    """Number of checkpoints in the run's folder at its end."""
    if measured.settings.trainer.enable_checkpointing is False:
        return 0
    own = [one for one in measured.given if isinstance(one, Checkpoint)]
    kept = 0 if own else 1
    for one in own:
        if isinstance(one, ModelCheckpoint):
            kept += (round(epochs) if one.save_top_k < 0 else one.save_top_k) + bool(one.save_last)
    # The command line adds it to every run.
    return kept + 1


def _written(measured: Measured, steps: int) -> int:
    """Bytes of logs and pictures."""
    drawn = [one.every_n_steps for one in measured.given if isinstance(one, Pictures)]
    if drawn:
        # Pictures are much larger than the rest, and the first ones are drawn at the start.
        return measured.written_bytes * (1 + steps // drawn[0]) // (1 + measured.steps_run // drawn[0])
    return measured.written_bytes * steps // max(1, measured.steps_run)


def largest_batch(measured: Measured, other: Measured | None) -> int | None:
    """Samples per batch that fit into memory, assuming equal size; at most the size of the data set.

    Args:
        measured: measurement of the run.
        other: the same run with another batch size; None if the memory of the batch was measured directly.

    Returns:
        None if the memory per sample is unknown.
    """
    size = measured.batch_size
    if not size or not measured.memory_there:
        return None
    each = measured.memory_of_batch / size
    if other is not None and other.batch_size is not None:
        each = (measured.memory - other.memory) / (size - other.batch_size)
    if each <= 0:
        return None
    fits = int((SPARE * measured.memory_there - (measured.memory - each * size)) / each)
    limited = isinstance(measured.settings.trainer.limit_train_batches, int)
    return max(0, fits if limited else min(fits, size * measured.batches_per_epoch))

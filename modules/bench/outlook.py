"""What a whole run will take: time, memory, disk."""

from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from callbacks.pictures import Pictures
from modules.bench.measure import Measured

DEFAULT_EPOCHS = 1000
"""Lightning's, where neither epochs nor steps are set."""
SPARE = 0.9
"""Share of the memory that a larger batch may use."""


@dataclass
class Outlook:
    """Estimates of the run as the user asked for it."""

    devices: int
    """Over all machines."""
    epochs: float
    batches: int
    """Of each device, over all epochs."""
    seconds: float
    checkpoints: int
    """Kept at the end."""
    disk_bytes: int
    """Checkpoints, logs and pictures."""
    largest_batch: int | None = None
    """Samples that fit into the memory of a device; None if that cannot be told."""
    endless: bool = False
    """Whether neither epochs nor steps end the run; then the other numbers are those of one epoch."""


def devices_here(trainer: Namespace) -> int:
    """How many devices a run has on each machine, as its settings ask for them."""
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
    """Estimate what the whole run takes, if each device is as fast as the one that was measured.

    Args:
        measured: of the run.
        other: the same run with another batch size, to see what a sample takes of the memory of a GPU.
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
    """Checkpoints in the run's folder at its end."""
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
        # They are much larger than the rest, and the first ones are drawn at once.
        return measured.written_bytes * (1 + steps // drawn[0]) // (1 + measured.steps_run // drawn[0])
    return measured.written_bytes * steps // max(1, measured.steps_run)


def largest_batch(measured: Measured, other: Measured | None) -> int | None:
    """Samples per batch that fit into memory, if each takes as much as the others; no more than there are.

    Args:
        measured: of the run.
        other: of the same run with another batch size; None where the memory of the batch was seen directly.

    Returns:
        None if it is not known what a sample takes.
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

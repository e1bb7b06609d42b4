"""Resuming from a checkpoint with changed settings.

Lightning counts batches and steps; here, progress is measured in samples and epochs. With the settings of the checkpoint,
both agree, and these functions change nothing.
"""

import math
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from modules.core.errors import SettingError
from modules.core.undocumented import FitCounts, loader_state, uncount_epoch


@runtime_checkable
class SampleCounter(Protocol):
    """A training loader that counts the samples it has handed out (`datamodules.loading.loader.ResumableLoader`)."""

    limit: int | None
    unfinished: int

    @property
    def epochs_done(self) -> float:
        """Epochs handed out, plus the fraction of the current one."""
        ...

    def send_to(self, device: torch.device) -> None:
        """Return batches on this device, if that is faster than a copy by the trainer."""
        ...

    def repeat(self, repeats: bool) -> None:
        """Return the samples of the first epoch in every epoch, in the same order, or those of each epoch."""
        ...

    def batches_left(self, epoch: int) -> int | None:
        """Remaining batches of an epoch, if the loaded state is within it."""
        ...


def reopen_epoch(checkpoint: dict[str, Any]) -> None:
    """Treat an epoch that trainer.max_steps, trainer.max_time or a callback ended early as unfinished.

    Lightning treats it as finished, and a resumed run would skip the rest of it.

    Args:
        checkpoint: content of the file; changed in place.
    """
    state = loader_state(checkpoint)
    # States of other loaders, or of older versions, have other names.
    if {"epoch", "samples", "end"} <= state.keys() and state["samples"] < state["end"]:
        uncount_epoch(checkpoint, state["epoch"])


def fit_counts(trainer: Trainer, loader: SampleCounter) -> None:
    """Make Lightning's batch counters match what the loader still has to return, before the first batch.

    Lightning restores its counters from the checkpoint, even if the batch size has changed.

    Args:
        trainer: trainer at the start of training, after a checkpoint was read.
        loader: training loader.
    """
    counts, usual = FitCounts(trainer), int(trainer.num_training_batches)
    epoch = counts.epoch
    left = loader.batches_left(epoch)
    if left is None:
        if counts.resumes:
            # With trainer.max_steps, Lightning treats the end of an epoch as a position within the next one.
            counts.begin_epoch()
        return
    if not left:
        # Too few samples are left for a batch: the epoch ends without one, after which a rate per epoch would change.
        for config in trainer.lr_scheduler_configs:
            if config.interval == "epoch":
                config.scheduler.last_epoch += 1
    if counts.in_epoch + left == usual:
        return
    # Counted from the end, so that validations come at the same positions as in every epoch. A rest that is longer than an
    # epoch of the current settings gets extra ones before it.
    done = usual - left
    if done < 0:
        interval = counts.validates_every
        done %= int(interval) if interval is not None and math.isfinite(interval) else usual
        counts.lengthen(done + left)
    counts.begin_at(done)
    rank_zero_info(
        f"The run resumes within epoch {epoch}, {loader.epochs_done - epoch:.1%} of which are done; the rest takes "
        f"{left} batches in each process."
    )


def check_horizon(epoch_steps: int, before: dict[str, Any]) -> None:
    """Check that the number of steps per epoch is unchanged, for a schedule that ends with trainer.max_steps.

    Args:
        epoch_steps: optimiser steps in an epoch with the current settings.
        before: values that determined the learning rate (`Method._schedule`).

    Raises:
        SettingError: because the remaining steps no longer match the remaining epochs.
    """
    if epoch_steps != before["epoch_steps"]:
        raise SettingError(
            f"trainer.max_steps ends the schedule, but an epoch now has {epoch_steps} steps, and {before['epoch_steps']} "
            "when the checkpoint was written, so the remaining steps no longer match the remaining epochs; set "
            f"model.optim.horizon_epochs to the epochs of the complete schedule, which were {before['epochs']:g}."
        )


def choose_peak(rule: float, batch: int, named: dict[str, Any], before: dict[str, Any] | None) -> tuple[float, int, str]:
    """The peak rate: the checkpoint's, unless the settings that determine it have changed.

    Args:
        rule: peak rate that the settings yield for the global batch.
        batch: the global batch.
        named: the settings that determine the rate.
        before: values that determined the learning rate of the checkpoint, if the run resumes from one.

    Returns:
        The peak, the global batch that it belongs to, and a description of its origin.
    """
    if before is None:
        return rule, batch, f"global batch {batch}"
    was = f"the checkpoint's {before['peak']:.3g} for global batch {before['global_batch']}"
    if before["settings"] != named:
        return rule, batch, f"global batch {batch}, from the changed settings, instead of {was}"
    if before["peak"] == rule:
        return rule, batch, f"global batch {batch}, as in the checkpoint"
    advice = f"set model.optim.scale_lr false and model.optim.base_lr {rule:.3g} to use it"
    return before["peak"], before["global_batch"], f"{was}; the rule gives {rule:.3g} for the current {batch}, {advice}"


def use_settings(optimiser: Optimizer, schedule: LambdaLR, groups: list[dict[str, Any]]) -> None:
    """Give an optimiser restored from a checkpoint the settings of the run, and print those that changed.

    Args:
        optimiser: after its state was restored.
        schedule: its learning-rate schedule, after its state was restored.
        groups: settings of its parameter groups as built, with the peak rate as `initial_lr`.
    """
    schedule.base_lrs = [group["initial_lr"] for group in groups]
    changed = set()
    for group, ours, factor in zip(optimiser.param_groups, groups, schedule.lr_lambdas, strict=True):
        others = {name: value for name, value in ours.items() if name not in ("initial_lr", "lr")}
        changed |= {f"{name} {value} (was {group[name]})" for name, value in others.items() if group[name] != value}
        group.update(others, initial_lr=ours["initial_lr"], lr=ours["initial_lr"] * factor(schedule.last_epoch))
    if changed:
        rank_zero_info(f"The optimiser resumes with changed settings: {', '.join(sorted(changed))}.")

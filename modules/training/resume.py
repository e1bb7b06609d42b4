"""Resuming from a checkpoint under other settings.

Lightning counts batches and steps; how far a run is, is a matter of samples and epochs. With the settings of the checkpoint
both say the same, and nothing here changes anything.
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
    """A training loader that knows how many samples it has handed out (`datamodules.loading.loader.ResumableLoader`)."""

    limit: int | None
    unfinished: int

    @property
    def epochs_done(self) -> float:
        """Epochs that were handed out, and the share of the present one."""
        ...

    def send_to(self, device: torch.device) -> None:
        """Hand batches out on this device, if that is faster than to leave the copy to the trainer."""
        ...

    def repeat(self, repeats: bool) -> None:
        """Give the samples of the first epoch in every epoch, in the same order, or those of each epoch."""
        ...

    def batches_left(self, epoch: int) -> int | None:
        """Batches that an epoch still has, if the state that was loaded lies within it."""
        ...


def reopen_epoch(checkpoint: dict[str, Any]) -> None:
    """Let an epoch count as unfinished that trainer.max_steps, trainer.max_time or a callback ended early.

    Lightning takes it for finished, and a resumed run would leave out the rest of it.

    Args:
        checkpoint: as read from the file; changed in place.
    """
    state = loader_state(checkpoint)
    # States of other loaders, or of older versions, have other names.
    if {"epoch", "samples", "end"} <= state.keys() and state["samples"] < state["end"]:
        uncount_epoch(checkpoint, state["epoch"])


def fit_counts(trainer: Trainer, loader: SampleCounter) -> None:
    """Make Lightning's counts of batches say what the loader has still to hand out, before the first batch.

    Lightning takes its counts from the checkpoint, also where batches were of another size then.

    Args:
        trainer: at the start of training, after a checkpoint was read.
        loader: of training.
    """
    counts, usual = FitCounts(trainer), int(trainer.num_training_batches)
    epoch = counts.epoch
    left = loader.batches_left(epoch)
    if left is None:
        if counts.resumes:
            # With trainer.max_steps, Lightning takes the end of an epoch for a place within the next one.
            counts.begin_epoch()
        return
    if not left:
        # What is left cannot be dealt out: the epoch ends without a batch, after which a rate per epoch would change.
        for config in trainer.lr_scheduler_configs:
            if config.interval == "epoch":
                config.scheduler.last_epoch += 1
    if counts.in_epoch + left == usual:
        return
    # Counted from the end, so that validations come where they come in every epoch. A rest that is longer than an epoch of
    # the present settings gets further ones in front.
    done = usual - left
    if done < 0:
        interval = counts.validates_every
        done %= int(interval) if interval is not None and math.isfinite(interval) else usual
        counts.lengthen(done + left)
    counts.begin_at(done)
    rank_zero_info(
        f"The run resumes within epoch {epoch}, {loader.epochs_done - epoch:.1%} of which were seen before; the rest of it "
        f"comes in {left} batches of each process."
    )


def check_horizon(epoch_steps: int, before: dict[str, Any]) -> None:
    """Refuse a schedule that ends with trainer.max_steps, where an epoch has another number of steps than it had.

    Args:
        epoch_steps: optimiser steps in an epoch of the present settings.
        before: what the learning rate was made of (`Method._schedule`).

    Raises:
        SettingError: because the steps that are left are not the epochs that were left.
    """
    if epoch_steps != before["epoch_steps"]:
        raise SettingError(
            f"trainer.max_steps ends the schedule, but an epoch now has {epoch_steps} steps, and {before['epoch_steps']} when "
            "the checkpoint was written, so that the steps that are left are not the epochs that were left; set "
            f"model.optim.horizon_epochs to the epochs of the whole schedule, which were {before['epochs']:g}."
        )


def choose_peak(rule: float, batch: int, named: dict[str, Any], before: dict[str, Any] | None) -> tuple[float, int, str]:
    """The peak rate: the checkpoint's, unless the settings that it is made of changed.

    Args:
        rule: what the settings give for the global batch.
        batch: the global batch.
        named: the settings that the rate is made of.
        before: what the learning rate of the checkpoint was made of, if the run resumes from one.

    Returns:
        The peak, the global batch that it is the rule's for, and where it comes from in words.
    """
    if before is None:
        return rule, batch, f"global batch {batch}"
    was = f"the checkpoint's {before['peak']:.3g} for global batch {before['global_batch']}"
    if before["settings"] != named:
        return rule, batch, f"global batch {batch}, as the settings now say, in place of {was}"
    if before["peak"] == rule:
        return rule, batch, f"global batch {batch}, as in the checkpoint"
    advice = f"model.optim.scale_lr false and model.optim.base_lr {rule:.3g} would take"
    return before["peak"], before["global_batch"], f"{was}; the rule gives {rule:.3g} for the present {batch}, which {advice}"


def use_settings(optimiser: Optimizer, schedule: LambdaLR, groups: list[dict[str, Any]]) -> None:
    """Give an optimiser that took its settings from a checkpoint those of the run, and say which are others.

    Args:
        optimiser: after its state was restored.
        schedule: of its rates, likewise.
        groups: settings of its groups of parameters as they were built, with the peak rate as `initial_lr`.
    """
    schedule.base_lrs = [group["initial_lr"] for group in groups]
    changed = set()
    for group, ours, factor in zip(optimiser.param_groups, groups, schedule.lr_lambdas, strict=True):
        others = {name: value for name, value in ours.items() if name not in ("initial_lr", "lr")}
        changed |= {f"{name} {value} (was {group[name]})" for name, value in others.items() if group[name] != value}
        group.update(others, initial_lr=ours["initial_lr"], lr=ours["initial_lr"] * factor(schedule.last_epoch))
    if changed:
        rank_zero_info(f"The optimiser resumes with other settings than the checkpoint's: {', '.join(sorted(changed))}.")

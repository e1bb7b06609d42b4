"""Optimisers and learning-rate schedules of the recipes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from timm.optim import param_groups_weight_decay
from torch import nn


@dataclass
class ScheduleSettings:
    """What all optimisers share: a peak rate, linear warm-up and half a cosine.

    The peak learning rate is `base_lr` x global batch / 256 with `scale_lr`, where the global batch counts clips over all
    devices and accumulated batches (and masks per clip, where a method has several), else `base_lr`.

    Args:
        base_lr: peak learning rate, with `scale_lr` that for a global batch of 256 clips.
        min_lr: learning rate at the end of the horizon, scaled like `base_lr`.
        warmup_epochs: epochs of linear warm-up from 0.
        horizon_epochs: epochs after which the cosine reaches `min_lr`; None takes the length of the run. Longer than
            trainer.max_epochs reproduces runs that were stopped early.
        scale_lr: scale both rates with the global batch; turn off to use them as they stand.
    """

    base_lr: float = 1.5e-4
    min_lr: float = 1e-5
    warmup_epochs: float = 40
    horizon_epochs: float | None = None
    scale_lr: bool = True

    per_epoch: ClassVar[bool] = False
    """Whether the rate changes once per epoch instead of once per step."""

    def rates(self, global_batch: int) -> tuple[float, float]:
        """Peak and final learning rate for a global batch."""
        factor = global_batch / 256 if self.scale_lr else 1.0
        return self.base_lr * factor, self.min_lr * factor

    def factor(self, warmup_steps: float, total_steps: float, final: float) -> Callable[[int], float]:
        """Factor on the peak rate at each step (of the optimiser, or an epoch); see `warmup_cosine`."""
        return warmup_cosine(warmup_steps, total_steps, final)

    def describe(self, final: float, last_step: float) -> str:
        """What the rate does after its warm-up, in words."""
        return f"cosine to {final:.3g} at step {last_step:.0f}"


@dataclass
class AdamWSettings(ScheduleSettings):
    """AdamW as the masked methods use it: decay on matrices only, a schedule per step.

    Args:
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay; not applied to biases, norms and mask tokens.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05

    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.AdamW:
        """The optimiser of a module's trained parameters.

        Args:
            module: its trained parameters are optimised.
            peak_lr: learning rate before the schedule's factor.
            no_decay: names of further parameters without decay, besides biases and one-dimensional ones.
        """
        groups = param_groups_weight_decay(module, self.weight_decay, no_weight_decay_list=no_decay)
        return torch.optim.AdamW(groups, lr=peak_lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass
class SGDSettings(ScheduleSettings):
    """SGD as MoCo and TubeletContrast use it (official code): decay on every parameter, a schedule per epoch.

    Args:
        momentum: of the gradient, without Nesterov.
        weight_decay: added to the gradient of every trained parameter.
        milestones: epochs at which the rate falls to a tenth, in place of the cosine (skeleton contrast, official code);
            `min_lr` and `horizon_epochs` then say nothing.
    """

    base_lr: float = 0.01
    min_lr: float = 0.0
    warmup_epochs: float = 0
    scale_lr: bool = False
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: list[int] | None = None

    per_epoch: ClassVar[bool] = True

    def factor(self, warmup_steps: float, total_steps: float, final: float) -> Callable[[int], float]:
        """The cosine's factor at each epoch, or that of the milestones."""
        if self.milestones is None:
            return super().factor(warmup_steps, total_steps, final)
        milestones = self.milestones
        warmup = warmup_cosine(warmup_steps, warmup_steps, 1.0)
        return lambda epoch: warmup(epoch) * 0.1 ** sum(epoch >= milestone for milestone in milestones)

    def describe(self, final: float, last_step: float) -> str:
        """What the rate does after its warm-up, in words."""
        if self.milestones is None:
            return super().describe(final, last_step)
        return f"a tenth of it from each of the epochs {self.milestones} on"

    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.SGD:
        """The optimiser of a module's trained parameters. All of them have decay, those of `no_decay` too."""
        trained = [value for value in module.parameters() if value.requires_grad]
        return torch.optim.SGD(trained, lr=peak_lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True)


def warmup_cosine(warmup_steps: float, total_steps: float, final: float) -> Callable[[int], float]:
    """Factor on the peak rate at each step (of the optimiser, or an epoch): linear from 0 to 1, then half a cosine from 1
    to `final`.

    Args:
        warmup_steps: steps of warm-up.
        total_steps: step at which the cosine ends; later steps stay at `final`.
        final: final rate over the peak rate.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1.0, total_steps - warmup_steps))
        return final + 0.5 * (1 - final) * (1 + math.cos(math.pi * progress))

    return factor

"""Optimiser settings, parameter groups and the per-step schedule of the masked methods."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.optim import param_groups_weight_decay
from torch import nn


@dataclass
class AdamWSettings:
    """AdamW with linear warm-up and half a cosine, set per step.

    The peak learning rate is `base_lr` x global batch / 256, where the global batch counts clips over all devices and
    accumulated batches (and masks per clip, where a method has several).

    Args:
        base_lr: learning rate for a global batch of 256 clips.
        min_lr: learning rate at the end of the horizon for a global batch of 256, scaled like `base_lr`.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay; not applied to biases, norms and mask tokens.
        warmup_epochs: epochs of linear warm-up from 0.
        horizon_epochs: epochs after which the cosine reaches `min_lr`; None takes the length of the run. Longer than
            trainer.max_epochs reproduces runs that were stopped early.
        scale_lr: scale both rates with the global batch; turn off to use them as they stand.
    """

    base_lr: float = 1.5e-4
    min_lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05
    warmup_epochs: float = 40
    horizon_epochs: float | None = None
    scale_lr: bool = True

    def rates(self, global_batch: int) -> tuple[float, float]:
        """Peak and final learning rate for a global batch."""
        factor = global_batch / 256 if self.scale_lr else 1.0
        return self.base_lr * factor, self.min_lr * factor


def warmup_cosine(warmup_steps: float, total_steps: float, final: float) -> Callable[[int], float]:
    """Factor on the peak rate at each optimiser step: linear from 0 to 1, then half a cosine from 1 to `final`.

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


def build_adamw(module: nn.Module, settings: AdamWSettings, peak_lr: float, no_decay: set[str]) -> torch.optim.AdamW:
    """AdamW over the trained parameters, in two groups: with and without weight decay.

    Args:
        module: its trained parameters are optimised.
        settings: betas, eps, decay.
        peak_lr: learning rate before the schedule's factor.
        no_decay: names of further parameters without decay, besides biases and one-dimensional ones.
    """
    groups = param_groups_weight_decay(module, settings.weight_decay, no_weight_decay_list=no_decay)
    return torch.optim.AdamW(groups, lr=peak_lr, betas=settings.betas, eps=settings.eps, fused=True)

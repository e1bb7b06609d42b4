"""Optimisers and learning-rate schedules of the recipes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jsonargparse import set_parsing_settings
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from modules.core.errors import SettingError, check_positive, check_range, given
from modules.training.schedules import Schedule


@dataclass
class ScheduleSettings(ABC):
    """What all optimisers share: a peak rate, linear warm-up and half a cosine.

    The peak learning rate is `base_lr` x global batch / 256 with `scale_lr`, where the global batch counts clips over all
    devices and accumulated batches (and masks per clip, where a method has several), else `base_lr`.

    Args:
        base_lr: peak learning rate, with `scale_lr` that for a global batch of 256 clips.
        min_lr: learning rate at the end of the horizon, scaled like `base_lr`.
        warmup_epochs: epochs of linear warm-up from 0; a tenth of the schedule, if that has no more epochs than these.
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

    def __post_init__(self) -> None:
        check_range("model.optim", 0, base_lr=self.base_lr, min_lr=self.min_lr, warmup_epochs=self.warmup_epochs)
        check_positive("model.optim", **given(horizon_epochs=self.horizon_epochs))

    def rates(self, global_batch: int) -> tuple[float, float]:
        """Peak and final learning rate for a global batch."""
        factor = global_batch / 256 if self.scale_lr else 1.0
        return self.base_lr * factor, self.min_lr * factor

    def factor(self, warmup: float, total: float, final: float) -> Callable[[float], float]:
        """Factor on the peak rate as a function of epochs done; see `warmup_cosine`."""
        return warmup_cosine(warmup, total, final)

    def describe(self, final: float, total: float) -> str:
        """What the rate does after its warm-up, in words."""
        return f"cosine to {final:.3g} after {total:g} epochs"

    @abstractmethod
    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.Optimizer:
        """The optimiser of a module's trained parameters.

        Args:
            module: its trained parameters are optimised.
            peak_lr: learning rate before the schedule's factor.
            no_decay: names of further parameters without decay, besides biases and one-dimensional ones.
        """


# Where any of them may be given, the command line says which: {class_path: SGDSettings, init_args: {base_lr: 0.1}}.
set_parsing_settings(subclasses_enabled=[ScheduleSettings])


@dataclass
class AdamWSettings(ScheduleSettings):
    """AdamW as the masked methods and fine-tuning use it: decay on matrices only, a schedule per step.

    Args:
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay; not applied to biases, norms and mask tokens.
        layer_decay: factor on the rate from each group of layers of the backbone to the one before it (fine-tuning of
            VideoMAE, official code: 0.75); the last group and all that follows the backbone have the full rate.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_adam(self.betas, self.eps, self.weight_decay)
        check_positive("model.optim", layer_decay=self.layer_decay)
        check_range("model.optim", 0, 1, layer_decay=self.layer_decay)

    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.AdamW:
        """See `ScheduleSettings.build`; layer decay asks the module for its layers (`Method.group_matcher`)."""
        if self.layer_decay == 1:
            groups = param_groups_weight_decay(module, self.weight_decay, no_weight_decay_list=no_decay)
        else:
            groups = param_groups_layer_decay(module, self.weight_decay, no_decay, layer_decay=self.layer_decay)
            for group in groups:
                group["lr"] = peak_lr * group.pop("lr_scale")
        return torch.optim.AdamW(groups, lr=peak_lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass
class EpochSettings(ScheduleSettings):
    """What optimisers with one rate per epoch share: a rate that does not depend on the batch, and milestones.

    Args:
        weight_decay: added to the gradient of every trained parameter.
        milestones: epochs at which the rate falls, in place of the cosine; `min_lr` and `horizon_epochs` then say nothing.
        milestone_factor: what each of them multiplies the rate with.
    """

    base_lr: float = 0.01
    min_lr: float = 0.0
    warmup_epochs: float = 0
    scale_lr: bool = False
    weight_decay: float = 0.0
    milestones: list[int] | None = None
    milestone_factor: float = 0.1

    per_epoch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("model.optim", 0, weight_decay=self.weight_decay, milestone_factor=self.milestone_factor)

    def factor(self, warmup: float, total: float, final: float) -> Callable[[float], float]:
        """The cosine's factor at each epoch, or that of the milestones."""
        milestones, each = self.milestones, self.milestone_factor
        if milestones is None:
            return Schedule(1.0, final, warmup=warmup, horizon=total, per="epoch").at
        ramp = Schedule(1.0, warmup=warmup, per="epoch")

        def factor(epoch: float) -> float:
            passed = sum(epoch >= milestone for milestone in milestones) if epoch >= warmup else 0
            return ramp.at(epoch) * each**passed

        return factor

    def describe(self, final: float, total: float) -> str:
        """What the rate does after its warm-up, in words."""
        if self.milestones is None:
            return super().describe(final, total)
        share = "a tenth" if self.milestone_factor == 0.1 else f"{self.milestone_factor:g}"
        return f"{share} of it from each of the epochs {self.milestones} on"


@dataclass
class SGDSettings(EpochSettings):
    """SGD as MoCo, TubeletContrast and skeleton contrast use it (official code): decay on every parameter.

    Args:
        momentum: of the gradient, without Nesterov.
    """

    weight_decay: float = 1e-4
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("model.optim", 0, 1, momentum=self.momentum)

    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.SGD:
        """See `ScheduleSettings.build`. All parameters have decay, those of `no_decay` too."""
        return torch.optim.SGD(_trained(module), lr=peak_lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True)


@dataclass
class AdamSettings(EpochSettings):
    """Adam as SEVERE fine-tunes video CNNs (https://arxiv.org/abs/2203.14221, official code): decay on every parameter.

    Args:
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
    """

    base_lr: float = 1e-4
    milestone_factor: float = 0.3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_adam(self.betas, self.eps, self.weight_decay)

    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.Adam:
        """See `ScheduleSettings.build`. All parameters have decay, those of `no_decay` too."""
        return torch.optim.Adam(
            _trained(module), lr=peak_lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )


def _check_adam(betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise SettingError(f"model.optim.betas is {betas}; both must be at least 0 and below 1.")
    check_range("model.optim", 0, eps=eps, weight_decay=weight_decay)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [value for value in module.parameters() if value.requires_grad]


def warmup_cosine(warmup: float, total: float, final: float) -> Callable[[float], float]:
    """Factor on the peak rate: linear from 0 to 1, then half a cosine from 1 to `final`.

    A function of epochs done, whatever the batch: a run that is resumed with another one keeps its place in the schedule. (Any
    other unit does as well, if it is the same for all three.)

    Args:
        warmup: epochs of warm-up.
        total: epochs after which the cosine ends; later ones stay at `final`.
        final: final rate over the peak rate.
    """
    return Schedule(1.0, final, warmup=warmup, horizon=total).at

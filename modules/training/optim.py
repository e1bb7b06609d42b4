"""Optimisers and learning-rate schedules of the recipes."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jsonargparse import set_parsing_settings
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from modules.core.errors import SettingError, check_positive, check_range, given
from modules.training.schedules import Schedule


@dataclass
class GroupRule:
    """Different settings for the parameters whose names match a pattern.

    Args:
        pattern: regular expression that is searched in names such as backbone.blocks.0.norm1.weight.
        rate: multiple of the learning rate.
        weight_decay: replaces the optimiser's, for parameters that have weight decay; null keeps the optimiser's.
        frozen_until: epoch from which they are trained; before that, they have no gradient and no optimiser state.
    """

    pattern: str
    rate: float = 1.0
    weight_decay: float | None = None
    frozen_until: float = 0.0

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise SettingError(
                f"pattern {self.pattern!r} in model.optim.rules is not a valid regular expression ({error}); correct it."
            ) from None
        numbers = given(rate=self.rate, weight_decay=self.weight_decay, frozen_until=self.frozen_until)
        check_range("model.optim.rules", 0, **numbers)


@dataclass
class ScheduleSettings(ABC):
    """What all optimisers share: a peak rate, linear warm-up and half a cosine.

    The peak learning rate is `base_lr` x global batch / 256 with `scale_lr`, where the global batch counts clips over all
    devices and accumulated batches (and masks per clip, if a method has several); otherwise `base_lr`.

    Args:
        base_lr: peak learning rate; with `scale_lr`, for a global batch of 256 clips.
        min_lr: learning rate at the end of the horizon, scaled like `base_lr`.
        warmup_epochs: epochs of linear warm-up from 0; a tenth of the schedule if the schedule is not longer than this.
        horizon_epochs: epochs after which the cosine reaches `min_lr`; None takes the length of the run. Longer than
            trainer.max_epochs reproduces runs that were stopped early.
        scale_lr: scale both rates with the global batch; turn off to use them unchanged.
        rules: different settings for some parameters; the first rule that matches a name applies.
    """

    base_lr: float = 1.5e-4
    min_lr: float = 1e-5
    warmup_epochs: float = 40
    horizon_epochs: float | None = None
    scale_lr: bool = True
    rules: list[GroupRule] = field(default_factory=list, kw_only=True)

    per_epoch: ClassVar[bool] = False
    """Whether the rate changes once per epoch instead of once per step."""
    ahead: ClassVar[int] = 0
    """Steps by which the schedules are ahead: 1 if the first step has the value after one step."""

    @property
    def decays_by_schedule(self) -> bool:
        """Whether the weight decay has a schedule, see `decay_factor`."""
        return False

    def decay_factor(self, done: float, total: float) -> float:
        """Factor on the weight decay after some epochs of a schedule."""
        return 1.0

    def __post_init__(self) -> None:
        check_range("model.optim", 0, base_lr=self.base_lr, min_lr=self.min_lr, warmup_epochs=self.warmup_epochs)
        check_positive("model.optim", **given(horizon_epochs=self.horizon_epochs))

    def rates(self, global_batch: int) -> tuple[float, float]:
        """Peak and final learning rate for a global batch."""
        factor = global_batch / 256 if self.scale_lr else 1.0
        return self.base_lr * factor, self.min_lr * factor

    def factor(self, warmup: float, total: float, final: float) -> Callable[[float], float]:
        """Factor on the peak rate as a function of completed epochs; see `warmup_cosine`."""
        return warmup_cosine(warmup, total, final)

    def describe(self, final: float, total: float) -> str:
        """Description of the schedule after the warm-up."""
        return f"cosine to {final:.3g} after {total:g} epochs"

    def describe_groups(self, optimiser: torch.optim.Optimizer) -> str:
        """Description of an optimiser and its parameter groups. An optimiser with another description has other groups,
        and cannot load its state."""
        rules = f" by the rules {', '.join(rule.pattern for rule in self.rules)}" if self.rules else ""
        return f"{type(optimiser).__name__} with {len(optimiser.param_groups)} group(s) of parameters{rules}"

    def by_rules(self, groups: list[dict[str, Any]], module: nn.Module, peak_lr: float) -> list[dict[str, Any]]:
        """Split parameter groups by `rules`. Without rules they are unchanged.

        Args:
            groups: groups with `params` and `weight_decay`, and `lr` if it is not the peak.
            module: module of the parameters.
            peak_lr: learning rate before the schedule's factor.

        Raises:
            SettingError: if a rule matches no parameter.
        """
        if not self.rules:
            return groups
        rules = [*self.rules, GroupRule("")]
        names = {id(value): name for name, value in module.named_parameters()}
        split: dict[tuple[int, int], dict[str, Any]] = {}
        for number, group in enumerate(groups):
            for value in group["params"]:
                place = next(place for place, rule in enumerate(rules) if re.search(rule.pattern, names[id(value)]))
                split.setdefault((number, place), {"params": []})["params"].append(value)
        for (number, place), part in split.items():
            group, rule = groups[number], rules[place]
            decay = group["weight_decay"]
            part["weight_decay"] = rule.weight_decay if decay and rule.weight_decay is not None else decay
            part["lr"] = group.get("lr", peak_lr) * rule.rate
            part["frozen_until"] = rule.frozen_until
        for place, rule in enumerate(self.rules):
            if not any(found == place for _, found in split):
                raise SettingError(
                    f"pattern {rule.pattern!r} in model.optim.rules matches no trained parameter that no earlier rule "
                    f"matches; one name is {next(iter(names.values()))}."
                )
        return [split[key] for key in sorted(split)]

    @abstractmethod
    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.Optimizer:
        """The optimiser of a module's trained parameters.

        Args:
            module: module whose trained parameters are optimised.
            peak_lr: learning rate before the schedule's factor.
            no_decay: names of further parameters without decay, in addition to biases and one-dimensional ones.
        """


# With several possible classes, the command line names one: {class_path: SGDSettings, init_args: {base_lr: 0.1}}.
set_parsing_settings(subclasses_enabled=[ScheduleSettings])


@dataclass
class AdamWSettings(ScheduleSettings):
    """AdamW for masked methods and fine-tuning: weight decay on matrices only, schedule updated per step.

    Args:
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay; not applied to biases, norms and mask tokens.
        layer_decay: factor on the rate from each layer group of the backbone to the previous one (fine-tuning of
            VideoMAE, official code: 0.75); the last group and everything after the backbone use the full rate.
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
        """See `ScheduleSettings.build`; layer decay uses the module's layers (`Method.group_matcher`)."""
        if self.layer_decay == 1:
            groups = param_groups_weight_decay(module, self.weight_decay, no_weight_decay_list=no_decay)
        else:
            groups = param_groups_layer_decay(module, self.weight_decay, no_decay, layer_decay=self.layer_decay)
            for group in groups:
                group["lr"] = peak_lr * group.pop("lr_scale")
        return torch.optim.AdamW(self.by_rules(groups, module, peak_lr), lr=peak_lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass
class PhasedSettings(ScheduleSettings):
    """AdamW as in V-JEPA and V-JEPA 2 (official code): a warm-up that starts above 0, a cosine, a constant rate or a linear
    cool-down after it, and a weight decay that changes by half a cosine.

    `horizon_epochs` is the length of all schedules of a run, also that of a momentum. V-JEPA's is 1.25 times its epochs, so
    that they end before their final values. A constant rate after the warm-up has `min_lr` equal to `base_lr`.

    Args:
        warmup_lr: learning rate at the start of the warm-up, scaled like `base_lr`.
        shape: curve from `base_lr` to `min_lr`.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay at the start; not applied to biases and norms.
        final_weight_decay: decay at the horizon; null keeps `weight_decay`.
    """

    base_lr: float = 6.25e-4
    min_lr: float = 1e-6
    scale_lr: bool = False
    warmup_lr: float = 2e-4
    shape: Literal["cosine", "linear"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.04
    final_weight_decay: float | None = None

    ahead: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("model.optim", base_lr=self.base_lr)
        check_range("model.optim", 0, warmup_lr=self.warmup_lr, **given(final_weight_decay=self.final_weight_decay))
        _check_adam(self.betas, self.eps, self.weight_decay)
        if self.final_weight_decay and not self.weight_decay:
            raise SettingError("model.optim.weight_decay is 0, so final_weight_decay has no effect; set both, or leave it out.")

    @property
    def decays_by_schedule(self) -> bool:
        """See `ScheduleSettings`."""
        return self.final_weight_decay is not None

    def decay_factor(self, done: float, total: float) -> float:
        """See `ScheduleSettings.decay_factor`."""
        assert self.final_weight_decay is not None
        return Schedule(1.0, self.final_weight_decay / self.weight_decay, horizon=total).at(done)

    def factor(self, warmup: float, total: float, final: float) -> Callable[[float], float]:
        """Factor on the peak rate as a function of completed epochs."""
        start = self.warmup_lr / self.base_lr
        return Schedule(1.0, final, self.shape, warmup=warmup, warmup_start=start, horizon=total).at

    def describe(self, final: float, total: float) -> str:
        """Description of the schedule after the warm-up."""
        return f"{self.shape} to {final:.3g} after {total:g} epochs"

    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.AdamW:
        """See `ScheduleSettings.build`."""
        groups = param_groups_weight_decay(module, self.weight_decay, no_weight_decay_list=no_decay)
        return torch.optim.AdamW(self.by_rules(groups, module, peak_lr), lr=peak_lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass
class EpochSettings(ScheduleSettings):
    """Settings of optimisers with one rate per epoch: independent of the batch size, with optional milestones.

    Args:
        weight_decay: added to the gradient of every trained parameter.
        milestones: epochs at which the rate drops, instead of the cosine; with an empty list it is constant. `min_lr` and
            `horizon_epochs` are then unused.
        milestone_factor: factor applied to the rate at each milestone.
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
        """The factor of the cosine, or of the milestones, at each epoch."""
        milestones, each = self.milestones, self.milestone_factor
        if milestones is None:
            return Schedule(1.0, final, warmup=warmup, horizon=total, per="epoch").at
        ramp = Schedule(1.0, warmup=warmup, per="epoch")

        def factor(epoch: float) -> float:
            passed = sum(epoch >= milestone for milestone in milestones) if epoch >= warmup else 0
            return ramp.at(epoch) * each**passed

        return factor

    def describe(self, final: float, total: float) -> str:
        """Description of the schedule after the warm-up."""
        if self.milestones is None:
            return super().describe(final, total)
        if not self.milestones:
            return "then constant"
        share = "a tenth" if self.milestone_factor == 0.1 else f"{self.milestone_factor:g}"
        return f"{share} of it from each of the epochs {self.milestones} on"


@dataclass
class SGDSettings(EpochSettings):
    """SGD as in MoCo, TubeletContrast and skeleton contrast (official code): weight decay on every parameter.

    Args:
        momentum: momentum of the gradient, without Nesterov.
    """

    weight_decay: float = 1e-4
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("model.optim", 0, 1, momentum=self.momentum)

    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.SGD:
        """See `ScheduleSettings.build`. All parameters have decay, those of `no_decay` too."""
        groups = self.by_rules(_trained(module, self.weight_decay), module, peak_lr)
        return torch.optim.SGD(groups, lr=peak_lr, momentum=self.momentum, fused=True)


@dataclass
class StepSGDSettings(ScheduleSettings):
    """SGD as in CVRL (official code): a new rate in each step, and weight decay of kernels only.

    The cosine is counted from the first step, so the warm-up ends at its value there, a little below the peak.

    Args:
        momentum: momentum of the gradient, without Nesterov.
        weight_decay: added to the gradient of kernels; not applied to biases and norms.
        replicas: factor on the learning rate. CVRL's pretraining adds the gradients of its processes (TPU cores) instead of
            averaging them, so its update is that of the average loss times their number, which its settings do not tell. 1 is
            the rate as written; the number of cores gives the official update. It changes nothing but the rate: gradient and
            weight decay are both multiplied.
    """

    base_lr: float = 0.32
    min_lr: float = 0.0
    warmup_epochs: float = 5
    scale_lr: bool = False
    momentum: float = 0.9
    weight_decay: float = 1e-6
    replicas: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("model.optim", 0, weight_decay=self.weight_decay)
        check_range("model.optim", 0, 1, momentum=self.momentum)
        check_positive("model.optim", replicas=self.replicas)

    def rates(self, global_batch: int) -> tuple[float, float]:
        """See `ScheduleSettings.rates`; times the replicas."""
        peak, final = super().rates(global_batch)
        return peak * self.replicas, final * self.replicas

    def factor(self, warmup: float, total: float, final: float) -> Callable[[float], float]:
        """Factor on the peak rate as a function of completed epochs; see `Schedule.restart`."""
        return Schedule(1.0, final, warmup=warmup, horizon=total, restart=False).at

    def build(self, module: nn.Module, peak_lr: float, no_decay: set[str]) -> torch.optim.SGD:
        """See `ScheduleSettings.build`."""
        groups = param_groups_weight_decay(module, self.weight_decay, no_weight_decay_list=no_decay)
        return torch.optim.SGD(self.by_rules(groups, module, peak_lr), lr=peak_lr, momentum=self.momentum, fused=True)


@dataclass
class AdamSettings(EpochSettings):
    """Adam as in SEVERE's fine-tuning of video CNNs (https://arxiv.org/abs/2203.14221, official code): weight decay on every
    parameter.

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
        groups = self.by_rules(_trained(module, self.weight_decay), module, peak_lr)
        return torch.optim.Adam(groups, lr=peak_lr, betas=self.betas, eps=self.eps, fused=True)


def _check_adam(betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise SettingError(f"model.optim.betas is {betas}; both must be at least 0 and below 1.")
    check_range("model.optim", 0, eps=eps, weight_decay=weight_decay)


def _trained(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """One group of all trained parameters."""
    return [{"params": [value for value in module.parameters() if value.requires_grad], "weight_decay": weight_decay}]


def hold_frozen(optimiser: torch.optim.Optimizer, epochs_done: float) -> None:
    """Remove the gradients of groups that are not trained yet, so that the step does not change them or their state.

    Args:
        optimiser: optimiser before its step, with gradients.
        epochs_done: completed epochs plus the fraction of the current one.
    """
    for group in optimiser.param_groups:
        if epochs_done < group.get("frozen_until", 0.0):
            for value in group["params"]:
                value.grad = None


def warmup_cosine(warmup: float, total: float, final: float) -> Callable[[float], float]:
    """Factor on the peak rate: linear from 0 to 1, then half a cosine from 1 to `final`.

    It is a function of completed epochs, independent of the batch size, so a run that resumes with another batch size keeps its
    position. (Any other unit is possible if it is the same for all three.)

    Args:
        warmup: epochs of warm-up.
        total: epochs after which the cosine ends; later ones stay at `final`.
        final: final rate over the peak rate.
    """
    return Schedule(1.0, final, warmup=warmup, horizon=total).at

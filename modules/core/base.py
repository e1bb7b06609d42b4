"""What is the same for every method: randomness of a step, logging, optimiser. Nothing about what is learned."""

import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from modules.core.averaging import check_averaging
from modules.core.checkpoints import compare, open_run
from modules.core.contracts import Batch, StepOutput
from modules.core.errors import SettingError
from modules.core.optim import ScheduleSettings
from modules.core.randomness import derive_seed, device_generator
from modules.layers.normalise import normalise

TRAIN_STREAM, VAL_STREAM, GLOBAL_STREAM = 1, 2, 3


class Method(LightningModule, ABC):
    """A self-supervised method.

    A subclass sets `backbone`, calls this constructor, and implements `step`; it may draw `pictures`.

    Several processes do what one would do with the joined batch: same loss, same gradients (tests/distributed). Dropout and
    stochastic depth are the exception, because they draw for the process. A method for which more is different says so.

    Args:
        optim: optimiser and schedule.
    """

    backbone: nn.Module
    views_per_clip: int = 1
    """How often a step uses each clip (masks per clip); counts into the global batch of the learning-rate rule."""

    def __init__(self, optim: ScheduleSettings) -> None:
        super().__init__()
        self.optim_settings = optim

    @abstractmethod
    def step(self, batch: Any, generator: torch.Generator) -> StepOutput:
        """Loss of a batch, and named tensors for callbacks. Every random number comes from `generator`.

        Args:
            batch: `VideoBatch` or `SkeletonBatch`; a method names the kind that it takes.
            generator: source of randomness, on the device of the batch.
        """

    @torch.no_grad()
    def embed(self, batch: Any) -> Tensor:
        """Frozen features [B, D] of the first clip of each sample, for probes and export."""
        return self.backbone(self.normalise(batch["video"][:, 0])).float()

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Videos to look at, drawn from the output of a step: name -> uint8 [B, T, H, W, 3]."""
        return {"clip": output["clip"]}

    def normalise(self, clip: Tensor) -> Tensor:
        """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] as the backbone wants it (ImageNet mean and std)."""
        return normalise(clip)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and one-dimensional ones: what the parts declare."""
        declared = ((prefix, getattr(part, "no_weight_decay", None)) for prefix, part in self.named_children())
        return {f"{prefix}.{name}" for prefix, names in declared if names is not None for name in names()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Number of the layer of each parameter by name, as timm asks for layer-wise learning rates.

        Layers are the backbone's, from the input on; all that is not in the backbone belongs to its last one.

        Args:
            coarse: timm's, without a meaning here.
        """
        layers = self.backbone.layer_groups()  # type: ignore[operator]
        number = {id(value): place for place, layer in enumerate(layers) for value in layer}
        return {name: number.get(id(value), len(layers) - 1) for name, value in self.named_parameters()}.__getitem__

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore weights, as `--ckpt_path` does.

        Raises:
            SettingError: with a report, if `strict` and the weights are those of another network.
        """
        if strict:
            try:
                compare(self.state_dict(), dict(state_dict), "The checkpoint", type(self).__name__)
            except SettingError as error:
                raise SettingError(f"{error} Pass --ckpt_path a checkpoint of this method with these settings.") from None
        return super().load_state_dict(state_dict, strict, assign)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> "Method":
        """Lightning's, for which the arguments of the constructor are passed again: checkpoints do not hold them.

        Raises:
            SettingError: if one is missing, or the file is no checkpoint, or of another network.
        """
        content: dict[str, Any] = {}
        if isinstance(checkpoint_path, str | Path) and "://" not in str(checkpoint_path):
            content = open_run(checkpoint_path, "checkpoint_path")
        known = content.get("hyper_parameters", {}).keys() | kwargs.keys()
        missing = [
            name
            for name, one in inspect.signature(cls).parameters.items()
            if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD and name not in known
        ]
        if missing:
            settings = ", ".join(f"{name}=..." for name in missing)
            raise SettingError(
                f"{checkpoint_path} does not hold the arguments of {cls.__name__}; pass {settings} to load_from_checkpoint, or "
                "build the method yourself and give its checkpoint to trainer.fit or trainer.test as ckpt_path."
            )
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs)

    @property
    def seed(self) -> int:
        """The run's seed (`seed_everything`)."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutput:
        """Run `step` with randomness from (seed, epoch, batch, rank) and log its scalars as `train/*`."""
        output = self.seeded_step(batch, self.current_epoch, batch_idx, self.global_rank)
        loss = output["loss"]
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["index"]))
        self.log_dict({f"train/{name}": value for name, value in output.get("log", {}).items()})
        # An infinite loss may have finite gradients. Times NaN it has none, in no process, and `NonFiniteGuard` sees it.
        output["loss"] = loss * torch.where(loss.isfinite(), 1.0, math.nan)
        return output

    def seeded_step(self, batch: Batch, epoch: int, batch_idx: int, rank: int) -> StepOutput:
        """The step that a process takes at that batch of that epoch, whenever and wherever it is run."""
        key = (self.seed, epoch, batch_idx, rank)
        # Dropout and stochastic depth can only draw from the global generator: give it a state that does not depend on
        # what ran before, so that a resumed run draws the same.
        torch.manual_seed(derive_seed(GLOBAL_STREAM, *key))
        return self.step(batch, device_generator(self.device, TRAIN_STREAM, *key))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training loss on held-out clips, with the same random numbers in every epoch."""
        output = self.step(batch, device_generator(self.device, VAL_STREAM, self.seed, batch_idx, self.global_rank))
        # Lightning averages the processes' numbers of samples as integers: 3 and 2 become 2. Multiples stay whole.
        size = len(batch["index"]) * self.trainer.world_size
        self.log("val/loss", output["loss"], prog_bar=True, sync_dist=True, batch_size=size)
        scalars = {f"val/{name}": value for name, value in output.get("log", {}).items()}
        self.log_dict(scalars, sync_dist=True, batch_size=size)

    def on_fit_start(self) -> None:
        """Compare the clips that the data module makes with those that the backbone takes, before the first step."""
        check_averaging(self.trainer.callbacks, self)  # type: ignore[attr-defined]
        clip = getattr(getattr(self.trainer, "datamodule", None), "clip", None)
        if clip is None:
            return
        for ours, theirs in (("num_frames", "frames"), ("image_size", "size")):
            wanted, given = getattr(self.backbone, ours, None), getattr(clip, theirs, None)
            if wanted is not None and wanted != given:
                raise SettingError(f"data.clip.{theirs} is {given} but model.backbone.{ours} is {wanted}; make them equal.")

    def samples_per_batch(self, data: Any) -> int:
        """What one batch of one device counts for in the learning-rate rule: clips, times `views_per_clip`."""
        clip = getattr(data, "clip", None)
        return batch_size_of(data) * (clip.clips * clip.repeat if clip is not None else 1) * self.views_per_clip

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The settings' optimiser with its peak rate, and a schedule per optimiser step or per epoch."""
        trainer, settings = self.trainer, self.optim_settings
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise SettingError("The schedule needs an end; set trainer.max_epochs or trainer.max_steps.")
        if not math.isfinite(trainer.num_training_batches):
            # With trainer.max_steps alone, Lightning has not looked at the loader yet.
            trainer.fit_loop.setup_data()
        # With trainer.limit_train_batches 0 there are none.
        batches = trainer.num_training_batches if math.isfinite(trainer.num_training_batches) else 1
        epoch_steps = batches / trainer.accumulate_grad_batches
        epochs = settings.horizon_epochs or max(1, steps) / epoch_steps
        if settings.warmup_epochs >= epochs:
            raise SettingError(
                f"model.optim.warmup_epochs {settings.warmup_epochs} lasts as long as the whole schedule "
                f"({epochs:g} epochs); shorten it or raise trainer.max_epochs or model.optim.horizon_epochs."
            )
        per_device = self.samples_per_batch(trainer.datamodule)  # type: ignore[attr-defined]
        global_batch = per_device * trainer.world_size * trainer.accumulate_grad_batches
        peak, final = settings.rates(global_batch)
        rank_zero_info(
            f"Learning rate: peak {peak:.3g} (global batch {global_batch}), {settings.warmup_epochs * epoch_steps:.0f} steps "
            f"of warm-up, {settings.describe(final, epochs * epoch_steps)}; the run has {steps} steps."
        )
        optimiser = settings.build(self, peak, self.no_weight_decay())
        # Lightning refuses to clip gradients for an optimiser that undoes the scaling of float16 itself, as fused ones do, even
        # in bfloat16, where nothing is scaled. Without that offer it undoes the scaling before it clips.
        optimiser._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        per = 1 if settings.per_epoch else epoch_steps
        factor = settings.factor(settings.warmup_epochs * per, epochs * per, final / peak if peak else 0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        interval = "epoch" if settings.per_epoch else "step"
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": interval}}


def batch_size_of(data: Any) -> int:
    """Videos or recordings in one batch of one device.

    Raises:
        SettingError: if the data module does not say.
    """
    batch_size = getattr(data, "batch_size", None)
    if batch_size is None:
        raise SettingError("The learning-rate rule needs the batch size; give the data module an attribute batch_size.")
    return int(batch_size)

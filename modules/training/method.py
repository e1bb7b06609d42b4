"""The base class of all methods: randomness of a step, logging, optimiser. It contains nothing about what is learned."""

import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from modules.core.batch import ADVICE, Batch, Kind, Preparation, check_streams
from modules.core.distributed import share_statistics
from modules.core.errors import SettingError
from modules.core.loading import compare, open_run
from modules.core.output import Answers, Predicted, StepOutput
from modules.core.preprocessing import Origin, known_origin, say
from modules.core.randomness import derive_seed, device_generator
from modules.core.run import run_of, trainer_of
from modules.core.undocumented import FitCounts, epochs_done, is_fitting, make_train_loader, unscale_outside
from modules.training.averaging import check_averaging
from modules.training.optim import ScheduleSettings, hold_frozen
from modules.training.precision import BFloat16Weights
from modules.training.rebuild import recorded_arguments
from modules.training.resume import SampleCounter, check_horizon, choose_peak, fit_counts, reopen_epoch, use_settings
from modules.training.schedules import Schedule
from modules.training.sharding import is_sharded, shard

TRAIN_STREAM, VAL_STREAM, GLOBAL_STREAM = 1, 2, 3


@runtime_checkable
class TakesData(Protocol):
    """A part of a method, stored as an attribute, that takes defaults from the data, such as `RandomFlip`."""

    def take_data(self, data: Any) -> None:
        """Called before the first step with the data module after its setup; None if there is none."""
        ...


class Method(LightningModule, ABC):
    """A self-supervised method.

    A subclass sets `backbone`, calls this constructor, and implements `step`; it may draw `pictures`.

    Several processes compute what one would compute with the joined batch: same loss, same gradients (tests/distributed).
    Dropout and stochastic depth are the exception, because each process draws its own. Methods with further exceptions document
    them.

    Args:
        optim: optimiser and schedule.
    """

    backbone: nn.Module
    stream: str = "video"
    """Name of the stream of the data that the backbone takes."""
    kinds: tuple[Kind, ...] = ("video",)
    """Accepted kinds of that stream."""
    other_streams: str = ADVICE
    """Advice in the error message if the data lack a stream."""
    predicts_by_encoder: ClassVar[bool] = True
    """Whether `predict` needs no weights but the backbone's."""
    views_per_clip: int = 1
    """How often a step uses each clip (masks per clip); counts into the global batch of the learning-rate rule."""

    def __init__(self, optim: ScheduleSettings) -> None:
        super().__init__()
        self.optim_settings = optim
        self._schedule: dict[str, Any] = {}
        """The values that determine the learning rate of this run; stored in every checkpoint."""
        self._before: dict[str, Any] | None = None
        """The same values of the checkpoint that the run resumes from; None after training has started."""
        self._groups: list[dict[str, Any]] = []
        """Settings of the optimiser's groups of parameters, as built."""
        self._decays: list[float] = []
        """Weight decay of these groups before its schedule's factor; empty if it is constant."""
        self._usual_batches: int | float | None = None
        """Batches of a complete epoch, while the rest of a resumed one is trained on."""
        self._resumed = False

    @abstractmethod
    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Loss of a batch, and outputs for pictures. Every random number comes from `generator` or the preparation.

        Args:
            batch: has the streams that `reads` names.
            generator: source of randomness, on the device of the batch.
        """

    def reads(self) -> dict[str, tuple[Kind, ...]]:
        """Streams that `step` needs by name, with the accepted kinds; more than one if a method reads several."""
        return {self.stream: self.kinds}

    def preparation(self) -> Preparation | None:
        """Work on the host for a step as soon as its batch is read; None if there is none.

        A data module without an attribute `preparation` does not do it; then `batch.prepared` is empty in `step`.
        """
        return None

    def inputs(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """The clips [B, V, ...] that an encoder takes: the stream of the backbone, unless a method overrides this.

        Args:
            batch: as in `step`.
            encoder: which of `encoders`.

        Raises:
            SettingError: if the data have no stream of that name and kind.
        """
        return batch.stream(self.stream, *self.kinds).data

    @torch.no_grad()
    def embed(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """Frozen features [B, D] of the first clip of each sample, for probes and export.

        Args:
            batch: as in `step`.
            encoder: which of `encoders`.
        """
        network: Any = self.encoder(encoder)
        return network(network.preprocess(self.inputs(batch, encoder)[:, 0])).float()

    def encoders(self) -> dict[str, nn.Module]:
        """The encoders (`modules.backbones.encoder.Encoder`) by attribute name, the one kept after pretraining first."""
        return {"backbone": self.backbone}

    def encoder(self, name: str) -> nn.Module:
        """One of `encoders`.

        Raises:
            SettingError: if there is none of that name.
        """
        encoders = self.encoders()
        if name not in encoders:
            raise SettingError(f"{type(self).__name__} has no encoder {name!r}; choose one of {', '.join(encoders)}.")
        return encoders[name]

    def copies(self, name: str) -> list[nn.Module]:
        """Further networks with the same input as an encoder, such as its momentum copy: all of its type that are not
        encoders themselves. A method with copies of two encoders of the same type must override this.

        Args:
            name: name of the encoder.
        """
        encoders, kind = list(self.encoders().values()), type(self.encoder(name))
        others = (part for part in self.modules() if part is not self and not any(part is one for one in encoders))
        found = [part for part in others if isinstance(part, kind)]
        if found and sum(isinstance(one, kind) for one in encoders) > 1:
            raise TypeError(f"{type(self).__name__}.copies must define which of two encoders each copy belongs to")
        return found

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Videos for logging, drawn from the output of a step: name -> uint8 [B, T, H, W, 3]."""
        return {"clip": output["show"]["clip"]}

    def picture_notes(self) -> dict[str, str]:
        """What must be known to understand some of `pictures`, by their names; it is written into them."""
        return {}

    def normalise(self, clip: Tensor) -> Tensor:
        """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] as the backbone expects it: its `preprocess`."""
        return self.backbone.preprocess(clip)  # type: ignore[operator]

    def adopt(self, origin: Origin, encoder: str = "backbone") -> None:
        """Use the preprocessing of the network that the method's weights come from, for an encoder and its copies, and
        print it.

        Args:
            origin: origin of the weights.
            encoder: which of `encoders`.
        """
        network: Any = self.encoder(encoder)
        if not hasattr(network, "adopt"):
            return
        say(network.adopt(origin))
        for copy in self.copies(encoder):
            copy.adopt(origin)  # type: ignore[operator]
        if network is self.backbone:
            # Decoders of its tokens.
            for part in self.modules():
                if hasattr(part, "follow"):
                    part.follow(network)  # type: ignore[operator]

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and one-dimensional ones, as declared by the parts."""
        declared = ((prefix, getattr(part, "no_weight_decay", None)) for prefix, part in self.named_children())
        return {f"{prefix}.{name}" for prefix, names in declared if names is not None for name in names()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Layer number of each parameter by name, as timm expects it for layer-wise learning rates.

        Layers are those of the backbone, counted from the input; everything outside the backbone belongs to the last one.

        Args:
            coarse: argument of timm, unused here.
        """
        layers = self.backbone.layer_groups()  # type: ignore[operator]
        number = {id(value): place for place, layer in enumerate(layers) for value in layer}
        return {name: number.get(id(value), len(layers) - 1) for name, value in self.named_parameters()}.__getitem__

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore weights, as `--ckpt_path` does.

        Raises:
            SettingError: with a report, if `strict` and the weights belong to another network.
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
        """Load a method from a checkpoint. Without further arguments it is built with the settings of its run, which
        checkpoints of the command line contain; then it may be called on `Method` itself, for a method of any class.

        Args:
            checkpoint_path: file, or its address.
            map_location: where to put the weights.
            hparams_file: see Lightning.
            strict: see Lightning.
            weights_only: see Lightning.
            kwargs: arguments of the constructor (all without a default), to use instead of the settings of the run, or if the
                checkpoint contains none.

        Raises:
            SettingError: if an argument is missing, the file is not a checkpoint, or it is one of another network.
        """
        content: dict[str, Any] = {}
        if isinstance(checkpoint_path, str | Path) and "://" not in str(checkpoint_path):
            content = open_run(checkpoint_path, "checkpoint_path")
        config = content.get("record", {}).get("config")
        if config and not kwargs:
            kind, arguments = recorded_arguments(config, cls, str(checkpoint_path))
            common = (checkpoint_path, map_location, hparams_file, strict, weights_only)
            return super(Method, kind).load_from_checkpoint(*common, **arguments)
        known = content.get("hyper_parameters", {}).keys() | kwargs.keys()
        missing = [
            name
            for name, one in inspect.signature(cls).parameters.items()
            if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD and name not in known
        ]
        if missing:
            settings = ", ".join(f"{name}=..." for name in missing)
            raise SettingError(
                f"{checkpoint_path} lacks the arguments of {cls.__name__}; pass {settings} to load_from_checkpoint, or "
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
        # Not with `prog_bar`, which would read it in every step; `LossProgressBar` shows it.
        self.log("train/loss", loss.detach(), batch_size=len(batch.index))
        self.log_dict({f"train/{name}": value for name, value in output.get("log", {}).items()})
        # An infinite loss may have finite gradients. Multiplied by NaN, it has none in any process, and `NonFiniteGuard`
        # detects it.
        output["loss"] = loss * torch.where(loss.isfinite(), 1.0, math.nan)
        return output

    def seeded_step(self, batch: Batch, epoch: int, batch_idx: int, rank: int) -> StepOutput:
        """The step of a process for a given batch and epoch; deterministic, whenever and wherever it is run."""
        key = (self.seed, epoch, batch_idx, rank)
        # Dropout and stochastic depth can only draw from the global generator: give it a state that does not depend on
        # what ran before, so that a resumed run draws the same.
        torch.manual_seed(derive_seed(GLOBAL_STREAM, *key))
        return self.step(batch, device_generator(self.device, TRAIN_STREAM, *key))

    def on_validation_model_eval(self) -> None:
        """Validate the network that checkpoints contain, in all processes."""
        super().on_validation_model_eval()
        share_statistics(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training loss on held-out clips, with the same random numbers in every epoch."""
        output = self.step(batch, device_generator(self.device, VAL_STREAM, self.seed, batch_idx, self.global_rank))
        # Lightning averages the processes' numbers of samples as integers: 3 and 2 become 2. Multiples stay exact.
        size = len(batch.index) * self.trainer.world_size
        self.log("val/loss", output["loss"], prog_bar=True, sync_dist=True, batch_size=size)
        scalars = {f"val/{name}": value for name, value in output.get("log", {}).items()}
        self.log_dict(scalars, sync_dist=True, batch_size=size)

    # --- Prediction ---

    def on_predict_start(self) -> None:
        """Compare the data's clips with the backbone's, as before training."""
        self.check_clip()

    def predict_step(self, batch: Batch, batch_idx: int) -> Predicted:
        """Predictions for a batch: features, unless a method overrides this. The callback `Predictions` writes them."""
        views = self.inputs(batch).shape[1]
        # One pass for all views, whose features are averaged.
        feature = self.embed(batch.separate(views)).unflatten(0, (-1, views)).mean(1)
        return Predicted(batch.index, batch.substituted >= 0, feature)

    def answers(self, paths: list[str], value: Tensor) -> Answers | None:
        """Predictions as a readable table. All processes call this with the same arguments.

        Args:
            paths: names of the readable samples, in order.
            value: float [N, D], output of `predict_step` for each sample.

        Returns:
            None if the values are features, which are not shown in a table.
        """
        return None

    def setup(self, stage: str) -> None:
        """Check that the data have the required streams, and that random numbers are not drawn in half precision; pass the
        `preparation` to the data module before it creates loaders.

        Raises:
            SettingError: naming the alternatives.
        """
        data = getattr(self.trainer, "datamodule", None)
        # Third-party data modules may not declare their streams; then the first batch is checked.
        given = getattr(data, "streams", None)
        if given is not None:
            check_streams(given, self.reads(), self.other_streams)
        if data is not None and hasattr(data, "preparation"):
            data.preparation = self.preparation()
        precision = str(self.trainer.precision)
        own = isinstance(self.trainer.precision_plugin, BFloat16Weights)
        if precision.endswith("-true") and precision != "32-true" and not own:
            raise SettingError(
                f"trainer.precision is {precision}, which would also draw masks and motion in that precision; set it to "
                "bf16-mixed, 16-mixed or 32-true, or pass plugins=BFloat16Weights() to the trainer in its place."
            )

    def configure_model(self) -> None:
        """Shard the weights if the strategy does so; called before the optimiser is built.

        Raises:
            SettingError: if that is not possible with these settings.
        """
        trainer = trainer_of(self)
        if trainer is None or not isinstance(trainer.strategy, ModelParallelStrategy) or is_sharded(self):
            return
        if isinstance(trainer.precision_plugin, BFloat16Weights):
            raise SettingError("trainer.precision is bf16-true, which ModelParallelStrategy cannot shard; set bf16-mixed.")
        shard(self, trainer.world_size)

    def take_data(self, data: Any) -> None:
        """Resolve settings that depend on the data before the first step: pass the data module to all parts that need it.

        Args:
            data: data module after its setup; None if there is none.
        """
        for part in (*vars(self).values(), *self.children()):
            if isinstance(part, TakesData):
                part.take_data(data)

    def on_fit_start(self) -> None:
        """Check that the data module's clips have the size that the backbone takes, before the first step."""
        check_averaging(run_of(self.trainer).callbacks, self)
        self.take_data(getattr(self.trainer, "datamodule", None))
        self.check_clip()

    def check_clip(self) -> None:
        """Compare the clips that the data module makes with those that the backbone takes.

        Raises:
            SettingError: if they differ in length or size.
        """
        clip = getattr(getattr(self.trainer, "datamodule", None), "clip", None)
        if clip is None:
            return
        for ours, theirs in (("num_frames", "frames"), ("image_size", "size")):
            wanted, given = getattr(self.backbone, ours, None), getattr(clip, theirs, None)
            if wanted is not None and wanted != given:
                raise SettingError(f"data.clip.{theirs} is {given} but model.backbone.{ours} is {wanted}; make them equal.")

    def samples_per_batch(self, data: Any) -> int:
        """Effective size of one batch on one device in the learning-rate rule: clips, times `views_per_clip`."""
        clip = getattr(data, "clip", None)
        return batch_size_of(data) * (clip.clips * clip.repeat if clip is not None else 1) * self.views_per_clip

    @property
    def epochs_done(self) -> float:
        """Completed epochs plus the fraction of the current one, counted in samples: the run's position in its schedule."""
        loader = self.trainer.train_dataloader
        if isinstance(loader, SampleCounter):
            return loader.epochs_done
        return self.trainer.global_step / self._schedule["epoch_steps"]

    def position(self, ahead: int = 0) -> float:
        """`epochs_done`, some optimiser steps later or earlier; at least 0."""
        return max(0.0, self.epochs_done + ahead / self._schedule["epoch_steps"])

    def scheduled(self, schedule: Schedule, ahead: int = 0) -> float:
        """Value of a schedule at the current position of the run (with the length of the learning-rate schedule if it has no
        horizon); outside of training, its first value.

        Called within a step, before the optimiser's. Nothing needs to be saved: a resumed run is at the same position.

        Args:
            schedule: the schedule.
            ahead: optimiser steps from the current position to the one asked for.
        """
        if trainer_of(self) is None or not self._schedule:
            return schedule.at(0.0, 1.0)
        if schedule.per == "steps":
            return schedule.at(max(0, self.trainer.global_step + ahead))
        return schedule.at(self.position(ahead), self._schedule["epochs"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimiser with its peak learning rate, and a schedule that is a function of completed epochs.

        A run that resumes from a checkpoint keeps its peak, also with another global batch, unless the settings of the rate
        changed.

        Raises:
            SettingError: if the schedule has no end, or its end is no longer known.
        """
        trainer, settings = self.trainer, self.optim_settings
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise SettingError("The schedule needs an end; set trainer.max_epochs or trainer.max_steps.")
        if not math.isfinite(trainer.num_training_batches):
            # With trainer.max_steps alone, Lightning has not read the length of the loader yet.
            make_train_loader(trainer)
        # With trainer.limit_train_batches 0, there are no batches.
        batches = trainer.num_training_batches if math.isfinite(trainer.num_training_batches) else 1
        # The last step of an epoch takes the remaining batches.
        epoch_steps = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
        epochs = settings.horizon_epochs or max(1, steps) / epoch_steps
        before = self._before
        if before is not None and settings.horizon_epochs is None and steps == trainer.max_steps:
            check_horizon(epoch_steps, before)
        warmup = settings.warmup_epochs
        if warmup >= epochs:
            warmup = epochs / 10
            rank_zero_warn(
                f"model.optim.warmup_epochs {settings.warmup_epochs:g} is not less than the schedule's {epochs:g} epochs: "
                f"warm-up takes a tenth of them, {warmup:g}."
            )
        per_device = self.samples_per_batch(run_of(trainer).datamodule)
        global_batch = per_device * trainer.world_size * trainer.accumulate_grad_batches
        peak, final = settings.rates(global_batch)
        share = final / peak if peak else 0.0
        # The settings that determine the rate of each parameter group.
        deciding = ("base_lr", "scale_lr", "layer_decay", "replicas")
        named = {name: value for name, value in asdict(settings).items() if name in deciding}
        peak, global_batch, origin = choose_peak(peak, global_batch, named, before)
        rank_zero_info(
            f"Learning rate: peak {peak:.3g} ({origin}), {warmup:g} epochs of warm-up, "
            f"{settings.describe(share * peak, epochs)}; the run has {steps} steps, {epoch_steps} in an epoch."
        )
        optimiser = settings.build(self, peak, self.no_weight_decay())
        self._schedule = {
            "peak": peak,
            "global_batch": global_batch,
            "settings": named,
            "epoch_steps": epoch_steps,
            "epochs": epochs,
            "warmup": warmup,
            "seed": self.seed,
            "optimiser": settings.describe_groups(optimiser),
        }
        if before is not None and before["optimiser"] != self._schedule["optimiser"]:
            raise SettingError(
                f"model.optim builds {self._schedule['optimiser']}, which cannot resume the checkpoint's "
                f"{before['optimiser']}; choose the optimiser, layer decay and rules of the checkpoint, or start a new run "
                "from its weights."
            )
        unscale_outside(optimiser)
        factor = settings.factor(warmup, epochs, share)
        # Steps are not used: their number per epoch changes with the batch size and the devices.
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, factor if settings.per_epoch else lambda _: factor(self.position(settings.ahead))
        )
        self._decays = [group["weight_decay"] for group in optimiser.param_groups] if settings.decays_by_schedule else []
        own = ("params", "weight_decay") if self._decays else ("params",)
        self._groups = [{name: value for name, value in group.items() if name not in own} for group in optimiser.param_groups]
        interval = "epoch" if settings.per_epoch else "step"
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": interval}}

    # --- Resuming from a checkpoint ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the values that determine the learning rate, and the encoders' preprocessing, which a later command may omit."""
        checkpoint["schedule"] = dict(self._schedule)
        for name, encoder in self.encoders().items():
            if hasattr(encoder, "facts"):
                checkpoint.setdefault("record", {})[name] = encoder.facts()  # type: ignore[operator]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the encoders' preprocessing, the values that determined the learning rate, and the position within the epoch.

        Raises:
            SettingError: if the run already has more epochs than the settings request.
        """
        for name in self.encoders():
            kept = checkpoint.get("record", {}).get(name)
            # Older checkpoints do not store it; those runs always used the defaults.
            kept = kept if isinstance(kept, dict) else {}
            self.adopt(known_origin("the checkpoint", kept.get("normalisation"), kept), name)
        trainer = trainer_of(self)
        if trainer is None or not is_fitting(trainer) or "loops" not in checkpoint:
            return
        reopen_epoch(checkpoint)
        done, wanted = epochs_done(checkpoint), trainer.max_epochs
        if wanted is not None and 0 <= wanted < done:
            raise SettingError(
                f"trainer.max_epochs is {wanted}, but the checkpoint already has {done} epochs; set it above that."
            )
        self._before = checkpoint.get("schedule")

    def on_train_start(self) -> None:
        """Apply the current settings, including those that Lightning and the optimiser restored from the checkpoint."""
        trainer = self.trainer
        loader = trainer.train_dataloader
        if isinstance(loader, SampleCounter):
            loader.limit = int(trainer.num_training_batches)
            # Lightning would replace the sampler by its own, which does not depend on the epoch.
            loader.repeat(run_of(trainer).overfit_batches > 0)
            loader.send_to(self.device)
        before, self._before = self._before, None
        if before is None:
            return
        if before["seed"] != self.seed:
            rank_zero_warn(
                f"seed_everything is {self.seed} and was {before['seed']} when the checkpoint was written: from here on, "
                "masks and augmentations differ from those of an uninterrupted run."
            )
        self._resumed, self._usual_batches = True, trainer.num_training_batches
        if isinstance(loader, SampleCounter):
            fit_counts(trainer, loader)
        (optimiser,), (config,) = trainer.optimizers, trainer.lr_scheduler_configs
        use_settings(optimiser, config.scheduler, self._groups)  # type: ignore[arg-type]

    def on_train_epoch_start(self) -> None:
        """Restore the number of batches of a complete epoch after the remainder of a resumed one."""
        if self._usual_batches is not None:
            FitCounts(self.trainer).set_length(self._usual_batches)
            self._usual_batches = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Exclude batches before the optimiser's step from checkpoints, which do not contain their gradients."""
        loader = self.trainer.train_dataloader
        if isinstance(loader, SampleCounter):
            loader.unfinished = batch_idx % self.trainer.accumulate_grad_batches + 1
        if self._resumed:
            FitCounts(self.trainer).log_by_steps()
            self._resumed = False

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Skip parameters that are still frozen, schedule the weight decay, and include the batches so far in later
        checkpoints."""
        settings = self.optim_settings
        if settings.rules:
            hold_frozen(optimizer, self.epochs_done)
        for group, decay in zip(optimizer.param_groups, self._decays, strict=False):
            group["weight_decay"] = decay * settings.decay_factor(self.position(settings.ahead), self._schedule["epochs"])
        loader = self.trainer.train_dataloader
        if isinstance(loader, SampleCounter):
            loader.unfinished = 0

    def on_fit_end(self) -> None:
        """Warn if nothing was trained."""
        if self._before is None:
            return
        self._before = None
        trainer = self.trainer
        rank_zero_warn(
            f"Nothing was trained: the checkpoint already has {trainer.global_step} steps and {trainer.current_epoch} epochs; "
            f"to train further, raise trainer.max_epochs ({trainer.max_epochs}) or trainer.max_steps ({trainer.max_steps})."
        )


def batch_size_of(data: Any) -> int:
    """Number of videos or recordings in one batch of one device.

    Raises:
        SettingError: if the data module does not define it.
    """
    batch_size = getattr(data, "batch_size", None)
    if batch_size is None:
        raise SettingError("The learning-rate rule needs the batch size; give the data module an attribute batch_size.")
    return int(batch_size)

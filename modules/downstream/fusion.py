"""Classification from several streams at once by late fusion: each has its own encoder and classifier, and their scores are
averaged (the sum rule: https://doi.org/10.1109/34.667881)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from modules.augment.skeletons import SkeletonAugmentation
from modules.backbones import AnyEncoder
from modules.core.batch import Batch, Kind
from modules.core.errors import SettingError
from modules.core.output import Answers, Predicted, StepOutput
from modules.downstream.classification import NO_LABELS, Classification, HeadSettings
from modules.downstream.labels import LabelSettings
from modules.downstream.metrics.classes import ClassReport
from modules.downstream.tally import Tally
from modules.training.method import Method, batch_size_of
from modules.training.optim import AdamWSettings, ScheduleSettings


class FusedClassification(Method):
    """Trains a classifier on samples with several streams, each with its own encoder and linear classifier.

    The scores of a sample are the mean over its available streams. Metrics are those of `Classification`, for the mean as
    `test/top1` and so on, and for each stream alone as `test/<stream>_top1`; a sample without a stream does not count for it.

    Args:
        encoders: encoder of each stream, by the stream's name.
        num_classes: number of outputs; null takes the number of classes of the data.
        mode: `finetune` trains everything; `linear` linear classifiers on frozen encoders.
        fuse: whether `logits` or `probabilities` are averaged.
        loss: `each` is the mean of the streams' losses, so that each is trained as if alone, and none relies on
            another; `fused` is the loss of the averaged scores.
        augmentation: augmentation of training clips of skeletons; null for none.
        labels: see `Classification`.
        head: see `Classification`.
        optim: see `Classification`.

    Raises:
        SettingError: if there are fewer than two encoders, or settings contradict each other.
    """

    predicts_by_encoder = False

    def __init__(
        self,
        encoders: dict[str, AnyEncoder],
        num_classes: int | None = None,
        mode: Literal["finetune", "linear"] = "finetune",
        fuse: Literal["logits", "probabilities"] = "logits",
        loss: Literal["each", "fused"] = "each",
        augmentation: SkeletonAugmentation | None = None,
        labels: LabelSettings = LabelSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        head: HeadSettings = HeadSettings(),  # noqa: B008
        optim: ScheduleSettings | None = None,
    ) -> None:
        super().__init__(optim or AdamWSettings(1e-3, 1e-6, 5, betas=(0.9, 0.999)))
        if len(encoders) < 2:
            raise SettingError(f"model.encoders has {len(encoders)} encoder(s); name two or more, or use Classification.")
        if (fuse, loss) not in [(one, other) for one in ("logits", "probabilities") for other in ("each", "fused")]:
            raise SettingError(
                f"model.fuse is {fuse} and model.loss {loss}; fuse must be logits or probabilities, and loss each or fused."
            )
        self.fuse, self.loss = fuse, loss
        self.branches = nn.ModuleDict()
        for name, encoder in encoders.items():
            changes = augmentation if encoder.kind == "skeleton" else None
            branch = Classification(encoder, num_classes, mode, changes, labels=labels, head=head)
            branch.stream = name
            self.branches[name] = branch
        first = self.parts[0][1]
        self.labels, self.merge = first.labels, first.merge
        self.stream, self.kinds = first.stream, first.kinds
        self.tallies = {name: Tally(self.labels) for name in ("", *encoders)}
        """By stream; the name of the mean is empty."""
        self.test_record: dict[str, Any] = {}
        """See `Classification.test_record`."""
        self.class_report: ClassReport | None = None
        """See `Classification.class_report`; for the mean."""

    # --- Networks ---

    @property
    def parts(self) -> list[tuple[str, Classification]]:
        """Stream and classifier of each encoder."""
        return list(self.branches.items())  # type: ignore[arg-type]

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        """The complete model, because no encoder comes before another."""
        return self.branches

    def encoders(self) -> dict[str, nn.Module]:
        """The encoders by stream."""
        return {name: branch.backbone for name, branch in self.parts}

    def reads(self) -> dict[str, tuple[Kind, ...]]:
        """All streams; see `Method.reads`."""
        return {name: branch.kinds for name, branch in self.parts}

    def inputs(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """The clips of an encoder, by default of the first one; see `Method.inputs`."""
        branches = dict(self.parts)
        return branches.get(encoder, self.parts[0][1]).inputs(batch)

    def setup(self, stage: str) -> None:
        """See `Method.setup`; also attaches the trainer to the classifiers of the streams."""
        super().setup(stage)
        for _, branch in self.parts:
            branch.trainer = self.trainer

    def configure_model(self) -> None:
        """Create the heads; see `Classification.configure_model`."""
        for _, branch in self.parts:
            branch.configure_model()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """See `Classification.load_state_dict`."""
        for name, branch in self.parts:
            prefix = f"branches.{name}."
            branch.fit_head({key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)})
        return super().load_state_dict(state_dict, strict, assign)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `Classification.on_load_checkpoint`."""
        super().on_load_checkpoint(checkpoint)
        self.parts[0][1].take_class_names(checkpoint.get("record", {}).get("class_names"))

    def no_weight_decay(self) -> set[str]:
        """See `Method.no_weight_decay`."""
        return {f"branches.{name}.{own}" for name, branch in self.parts for own in branch.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """See `Method.group_matcher`. The last layers of all encoders are one layer, and so on towards their inputs."""
        depth = max(len(branch.backbone.layer_groups()) for _, branch in self.parts)  # type: ignore[operator]
        number: dict[str, int] = {}
        for name, branch in self.parts:
            missing = depth - len(branch.backbone.layer_groups())  # type: ignore[operator]
            place = branch.group_matcher()
            number |= {f"branches.{name}.{own}": missing + place(own) for own, _ in branch.named_parameters()}
        return number.__getitem__

    def on_fit_start(self) -> None:
        """See `Method.on_fit_start`, for each encoder."""
        for _, branch in self.parts:
            branch.on_fit_start()

    def samples_per_batch(self, data: Any) -> int:
        """Samples; see `Method.samples_per_batch`."""
        return batch_size_of(data)

    # --- Scores ---

    def logits(self, batch: Batch, every: int = 1, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scores of the classes, float32 [B, V, K], by stream; their mean has the name ''.

        Args:
            batch: batch with all streams.
            every: use every n-th clip of each sample.
            generator: see `Classification.clip_logits`.
        """
        found = {name: branch.clip_logits(batch, every, generator) for name, branch in self.parts}
        there = torch.stack([present(batch, name) for name in found])[..., None, None]
        stacked = torch.stack(list(found.values()))
        if self.fuse == "probabilities":
            stacked = self.labels.probabilities(stacked)
        mean = (stacked * there).sum(0) / there.sum(0).clamp_min(1)
        return {"": mean if self.fuse == "logits" else self.labels.logits(mean)} | found

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Loss of all clips; see `Method.step`."""
        logits = self.logits(batch, generator=generator)
        losses: dict[str, Tensor] = {}
        log: dict[str, Tensor] = {}
        for name, scores in logits.items():
            clips, classes = scores.flatten(0, 1), scores.shape[2]
            targets = self.labels.targets(known_labels(batch, name), classes).repeat_interleave(scores.shape[1], 0)
            losses[name] = self.labels.loss(clips, targets)
            log |= prefixed(name, self.labels.progress(clips.detach(), targets))
        fused = losses.pop("")
        return {"loss": fused if self.loss == "fused" else mean_of(losses.values()), "log": log, "show": {}}

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """No pictures: only classifiers of single streams draw some."""
        return {}

    @torch.no_grad()
    def embed(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """Features of the first clip of each sample, [B, D]: those of all streams, each with length 1 (0 for missing streams),
        concatenated; or the features of a single encoder."""
        branches = dict(self.parts)
        if encoder in branches:
            return branches[encoder].embed(batch)
        units = [normalize(branch.embed(batch), dim=1) * present(batch, name)[:, None] for name, branch in self.parts]
        return torch.cat(units, 1)

    # --- Evaluation ---

    def on_validation_epoch_start(self) -> None:
        """Reset the collected results."""
        self._begin()

    def on_test_start(self) -> None:
        """See `Classification.on_test_start`."""
        for _, branch in self.parts:
            branch.on_test_start()

    def on_test_epoch_start(self) -> None:
        """Reset the collected results."""
        self._begin()
        self.test_record = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the class probabilities of a batch."""
        clip = getattr(getattr(self.trainer, "datamodule", None), "clip", None)
        self._keep(batch, clip.repeat if clip is not None else 1)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the class probabilities of a batch, and the number of clips per sample."""
        self.test_record["views"] = self._keep(batch)

    def on_validation_epoch_end(self) -> None:
        """Log losses and accuracies as `val/*`."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log losses and accuracies as `test/*`, and keep the record."""
        self._report("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Predicted:
        """Class probabilities of a batch of samples, [B, K]; see `Classification.predict_step`."""
        return Predicted(batch.index, batch.substituted >= 0, self.labels.merged(self.logits(batch)[""], self.merge))

    def answers(self, paths: list[str], value: Tensor) -> Answers:
        """See `Classification.answers`."""
        return self.parts[0][1].answers(paths, value)

    def on_predict_start(self) -> None:
        """See `Method.on_predict_start`, for each encoder."""
        for _, branch in self.parts:
            branch.on_predict_start()

    def _begin(self) -> None:
        for tally in self.tallies.values():
            tally.clear()

    def _keep(self, batch: Batch, every: int = 1) -> int:
        logits = self.logits(batch, every)
        for name, scores in logits.items():
            self.tallies[name].add(replace(batch, label=known_labels(batch, name)), scores, self.merge)
        return logits[""].shape[1]

    def _report(self, stage: str) -> None:
        classes = self.parts[0][1].classifier.out_features
        found = {name: tally.scores(self.trainer, classes, self.device) for name, tally in self.tallies.items()}
        for name, scores in found.items():
            values = prefixed(name, scores.values)
            self.log_dict({f"{stage}/{key}": value for key, value in values.items()}, sync_dist=True)
        if stage == "test":
            if not found[""].values:
                raise SettingError(NO_LABELS)
            self.test_record |= {"videos": found[""].used, "missed": found[""].missed, "classes": classes}
            names = self.parts[0][1].known_names
            self.class_report = self.labels.report(found[""].probabilities, found[""].rows, names)


def present(batch: Batch, name: str) -> Tensor:
    """Whether a stream is available, bool [B]."""
    stream = batch.stream(name)
    if stream.valid is None:
        return torch.ones(len(batch.index), dtype=torch.bool, device=batch.index.device)
    return stream.valid.flatten(1).any(1)


def known_labels(batch: Batch, name: str) -> Tensor:
    """The labels of a batch; -1 for samples without the stream, if a stream is given."""
    if not name:
        return batch.label
    there = present(batch, name).view(-1, *[1] * (batch.label.ndim - 1))
    return torch.where(there, batch.label, -1)


def prefixed(name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the name of the stream to the keys, if it is not empty."""
    return {f"{name}_{key}" if name else key: value for key, value in values.items()}


def mean_of(losses: Iterable[Tensor]) -> Tensor:
    """Mean of scalars."""
    return torch.stack(list(losses)).mean()

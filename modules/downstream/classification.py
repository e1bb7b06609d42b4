"""Classification of videos, depth, skeletons or sensors: fine-tuning, or a linear or attentive classifier on a frozen backbone.

Recipes: fine-tuning of video transformers as in VideoMAE (https://arxiv.org/abs/2203.12602, official code) and of video CNNs
as in SEVERE (https://arxiv.org/abs/2203.14221, official code); linear classifiers as in SIGMA, SEVERE and
skeleton contrast; attention with one learned query over frozen tokens, in several forms (`modules/layers/attentive.py`), also
over the joined clips of a video (V-JEPA: https://arxiv.org/abs/2404.08471).

Differences from the official code:

* the order and interpolation of augmentation: see `modules/augment/clips.py`;
* validation uses evaluation clips, not random ones;
* a frozen backbone runs in evaluation mode, and without gradient. SEVERE keeps it in training mode, so that its running
  statistics drift: `frozen_batchnorm: false` reproduces this;
* in a test, a video that cannot be read counts as missed and is not replaced by another.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.augment.clips import ClipAugmentation, Mixing, augment_pixels, erase_boxes, mix_clips, prepare_pixels
from modules.augment.skeletons import SkeletonAugmentation
from modules.backbones import AnyEncoder
from modules.backbones.depth import Depth
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.blocks import layer_norm
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch, Kind, Preparation, feature_stream
from modules.core.errors import SettingError, check_positive, check_range, given
from modules.core.loading import load_strictly
from modules.core.output import Answers, Predicted, StepOutput
from modules.core.preprocessing import Normalisation
from modules.core.run import trainer_of
from modules.core.tokens import pool_tokens
from modules.downstream.classifier_weights import (
    attention_of_run,
    check_encoder,
    compare_class_names,
    compare_heads,
    is_probe,
    own_names,
    whole_origin,
)
from modules.downstream.labels import Labels, LabelSettings
from modules.downstream.metrics.classes import ClassReport
from modules.downstream.tally import Tally
from modules.layers.attentive import AttentivePooler, AttentiveSettings, join_clips
from modules.layers.drawing.skeletons import draw_skeletons
from modules.layers.heads import ClassTokenAttention, Standardised, linear_in_float32
from modules.training.method import Method, batch_size_of
from modules.training.optim import AdamWSettings, ScheduleSettings
from modules.weights.files import read_checkpoint
from modules.weights.passport import check_heads, class_names_beside

VIT_HEAD_STD, VIT_HEAD_SCALE = 0.02, 0.001
SHOWN = 8
PICTURES = ("video", "depth")
"""Kinds whose clips are fed to video networks."""
NO_LABELS = "No test video has a label; set data.lists.test or data.lists.val to a list with labels."


@dataclass
class HeadSettings:
    """How the head of a classifier is trained.

    Args:
        dropout: dropout rate of the pooled feature, before the head.
        std: standard deviation of the head's normally distributed initial weights (biases are 0); null initialises the head of
            a video transformer close to zero, and others, and those of V-JEPA's probes, with PyTorch's defaults.
        standardise: for mode linear: standardise the pooled feature over the batch (see `Standardised`), in place of the
            LayerNorm of a video transformer.
        unit_features: divide features by their length before the head (CVRL's linear evaluation).

    Raises:
        SettingError: if a value is out of range.
    """

    dropout: float = 0.0
    std: float | None = None
    standardise: bool = False
    unit_features: bool = False

    def __post_init__(self) -> None:
        check_range("model.head", 0, 1, dropout=self.dropout)
        check_positive("model.head", **given(std=self.std))


class Classification(Method):
    """Trains a classifier on the backbone's kind of samples, pretrained or not (`model.backbone.checkpoint`).

    Top-1, top-5 and mean per-class accuracy, or with several labels mean average precision, are in percent, with every video
    counted once, by the mean or maximum of the class probabilities of its clips. `test` uses the clips of `data.views`.

    Args:
        backbone: encoder. For VideoViT, tokens are averaged before its final norm, followed by a new LayerNorm; for other
            encoders, and for a class token, the pooled feature is used.
        num_classes: number of outputs; null takes the number of classes of the data.
        mode: `finetune` trains everything; `linear` a linear classifier (with that LayerNorm) on the frozen backbone;
            `attentive` attention with one query over its tokens (after the final norm), and a linear classifier; on sequences
            of features, a transformer block, of which the class token is used.
        augmentation: augmentation of training clips of videos, or SkeletonAugmentation for skeletons; null for none.
        mixing: mixup and cutmix of training clips of videos; null for none.
        labels: one or several labels per sample, and how they are used.
        head: dropout before the linear classifier, and its initial weights.
        attention: for mode `attentive`: form of its attention, and the clips of a video that it sees together.
        frozen_batchnorm: whether BatchNorm of a frozen backbone stays in evaluation mode.
        init_from: file with a complete classifier to start from or to test: ours, an official fine-tuned file of VideoMAE,
            SMILE or SIGMA, or a video CNN with torchvision's names and classifier, as SEVERE's official code saves; or an
            official probe of V-JEPA or V-JEPA 2, whose encoder is that of model.backbone.checkpoint.
        optim: optimiser and schedule; null uses AdamW at 1e-3 with 5 epochs of warm-up. Repeated copies of a clip, and several
            clips of a video, are not counted in the learning-rate rule.

    Raises:
        SettingError: if settings contradict each other, or a file does not match.
    """

    predicts_by_encoder = False

    def __init__(
        self,
        backbone: AnyEncoder,
        num_classes: int | None = None,
        mode: Literal["finetune", "linear", "attentive"] = "finetune",
        augmentation: ClipAugmentation | SkeletonAugmentation | None = None,
        mixing: Mixing | None = None,
        labels: LabelSettings = LabelSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        head: HeadSettings = HeadSettings(),  # noqa: B008
        attention: AttentiveSettings = AttentiveSettings(),  # noqa: B008
        frozen_batchnorm: bool = True,
        init_from: str | None = None,
        optim: ScheduleSettings | None = None,
    ) -> None:
        # Not a default argument: its values would also be applied to other optimisers chosen by name.
        super().__init__(optim or AdamWSettings(1e-3, 1e-6, 5, betas=(0.9, 0.999)))
        check_positive("model", **given(num_classes=num_classes))
        self.labels: Labels = labels.make()
        self.merge = labels.merge or self.labels.merge
        self.tally = Tally(self.labels)
        self.backbone, self.mode = backbone, mode
        self.augmentation = augmentation if isinstance(augmentation, ClipAugmentation) else None
        self.mixing = mixing
        self.flip = self.augmentation.mirror() if self.augmentation is not None else None
        self.body_augmentation = augmentation if isinstance(augmentation, SkeletonAugmentation) else None
        self.head_std, self.frozen_batchnorm, self.init_from = head.std, frozen_batchnorm, init_from
        self.unit_features = head.unit_features
        kind: Kind = backbone.kind
        self.stream, self.kinds = kind, (kind,)
        self.feature_stream: str | None = None
        """Stream of frozen features, if the data have them instead of clips."""
        if self.body_augmentation is not None:
            self.body_augmentation.check()
            if kind != "skeleton":
                raise SettingError(f"model.augmentation SkeletonAugmentation is for skeletons; for {kind}s leave it out.")
        changes = self.augmentation is not None or mixing is not None
        if (changes and kind != "video") or (mode == "attentive" and kind not in (*PICTURES, "feature")):
            raise SettingError(
                f"model.mode attentive, model.augmentation and model.mixing are for videos; for {kind}s leave them out."
            )
        width = backbone.embed_dim if mode == "attentive" else backbone.feature_dim
        self.fc_norm: nn.Module = nn.Identity()
        self.attention: nn.Module = nn.Identity()
        self.standardise: nn.Module = nn.Identity()
        if attention != AttentiveSettings() and (mode != "attentive" or kind == "feature"):
            other = mode if mode != "attentive" else "for sequences of features"
            raise SettingError(f"model.attention is for model.mode attentive, not {other}; leave it out.")
        self.attention_settings, self.joined_clips = attention, attention.clips
        if mode == "attentive" and kind == "feature":
            self.attention = ClassTokenAttention(width)
        elif mode == "attentive":
            self.attention = attention.make(width, self.encoder_heads)
        elif (averaging := self.averaging) is not None:
            averaging.norm = nn.Identity()
            if not head.standardise:
                self.fc_norm = layer_norm(width)
        elif isinstance(network := self.network, BEiTVideo):
            # Pooling happens before this norm, so it would get no gradient.
            network.norm.requires_grad_(False)
        if head.standardise:
            if mode != "linear":
                raise SettingError(f"model.head.standardise is for model.mode linear, not {mode}; set it to false.")
            self.standardise = Standardised(width)
        self.width = width
        self.dropout = nn.Dropout(head.dropout)
        self.head: nn.Linear | None = None
        self.is_frozen = mode != "finetune"
        if self.is_frozen:
            backbone.requires_grad_(False)
            self.train()
        self.class_names: list[str] | None = None
        """Class names stored with the weights, by label."""
        self.test_record: dict[str, Any] = {}
        """Record of the last test: `videos` (used), `missed` (indices of unreadable ones), `classes`, `views` (joined clips
        count once)."""
        self.class_report: ClassReport | None = None
        """Per-class results of the last test."""
        if num_classes is not None:
            self._build_head(num_classes)

    # --- Network ---

    @property
    def network(self) -> nn.Module:
        """The backbone, or the video network inside it."""
        backbone: nn.Module = self.backbone
        return backbone.network if isinstance(backbone, Depth) else backbone

    @property
    def averaging(self) -> VideoViT | None:
        """The network, if its tokens are averaged before a new LayerNorm in place of the last one."""
        network = self.network
        return network if isinstance(network, VideoViT) and not network.pools_class else None

    @property
    def encoder_heads(self) -> int | None:
        """Attention heads of the network; None if it has none."""
        heads: int | None = getattr(self.network, "num_heads", None)
        return heads

    def _build_head(self, num_classes: int) -> None:
        head = nn.Linear(self.width, num_classes)
        if self.head_std is not None:
            nn.init.normal_(head.weight, std=self.head_std)
            nn.init.zeros_(head.bias)
        elif isinstance(self.network, VideoViT | BEiTVideo | FrameTower) and not isinstance(self.attention, AttentivePooler):
            nn.init.trunc_normal_(head.weight, std=VIT_HEAD_STD)
            head.weight.data.mul_(VIT_HEAD_SCALE)
            nn.init.zeros_(head.bias)
        self.head = head
        if self.init_from is not None:
            content = read_checkpoint(self.init_from, "model.init_from")
            weights = own_names(content.weights)
            if "head.weight" not in weights:
                raise SettingError(
                    f"model.init_from names {self.init_from}, which contains no classifier; set model.backbone.checkpoint to "
                    "start from an encoder."
                )
            self._check_classes(weights, f"model.init_from names {self.init_from}, which")
            if is_probe(content.weights):
                check_encoder(self.backbone, f"model.init_from names {self.init_from}")
                load_strictly(self, weights, self.init_from, may_miss=("backbone.",))
                return
            # Old files lack the step counters of BatchNorm, which are only needed for a cumulative average.
            counters = tuple(key for key in self.state_dict() if key.endswith("num_batches_tracked"))
            load_strictly(self, weights, self.init_from, may_miss=counters)
            other = attention_of_run(content.record.get("config"))
            if self.mode == "attentive" and other is not None:
                own, theirs = (one.heads_for(self.width, self.encoder_heads) for one in (self.attention_settings, other))
                compare_heads(own, theirs, f"model.init_from names {self.init_from}")
            self.class_names = content.record.get("class_names") or class_names_beside(self.init_from, "model.init_from")
            if isinstance(self.network, VideoViT):
                check_heads(self.init_from, "model.init_from", self.network.num_heads)
            self.adopt(whole_origin(self.init_from, content))

    def _check_classes(self, weights: Mapping[str, Any], source: str) -> None:
        found, own = len(weights["head.weight"]), self.classifier.out_features
        if found != own:
            raise SettingError(
                f"{source} has {found} classes, but there are {own} here; choose the data or model.num_classes that it "
                "was trained for, or start from its encoder alone with model.backbone.checkpoint."
            )

    @property
    def classifier(self) -> nn.Linear:
        """The head, once the number of classes is known."""
        assert self.head is not None, "the head is created when a run starts, or with num_classes"
        return self.head

    def configure_model(self) -> None:
        """Create the head for the data's classes, before weights are restored and the optimiser is created.

        Raises:
            SettingError: if the number of classes is unknown, or the data has more than the head.
        """
        trainer = trainer_of(self)
        if trainer is None:  # in load_from_checkpoint: the weights define the number of classes
            return
        if trainer.predicting:  # the names of the data's classes do not matter here
            if self.head is None and self.init_from is not None:
                self.fit_head(own_names(read_checkpoint(self.init_from, "model.init_from").weights))
            return
        known = getattr(getattr(self.trainer, "datamodule", None), "num_classes", None)
        if self.head is None:
            if not known:
                raise SettingError(
                    "The data has no classes; sort the training videos into one folder per class (train/<class>/), or "
                    "choose data or data.lists with labels."
                )
            self._build_head(known)
        elif known and known > self.head.out_features:
            raise SettingError(
                f"model.num_classes is {self.head.out_features}, but the data has {known} classes; raise it or leave it out."
            )
        source = "The checkpoint" if self.init_from is None else f"model.init_from names {self.init_from}, which"
        self.check_class_names(self.class_names, source)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the classes of a checkpoint with those of the data; see `Method`."""
        super().on_load_checkpoint(checkpoint)
        self.take_class_names(checkpoint.get("record", {}).get("class_names"))

    def take_class_names(self, names: list[str] | None) -> None:
        """Compare the class names of a checkpoint with those of the data, or keep them if the data has none."""
        trainer = trainer_of(self)
        if trainer is None or trainer.predicting:
            self.class_names = names
        else:
            self.check_class_names(names, "The checkpoint")

    def check_class_names(self, known: list[str] | None, source: str) -> None:
        """Compare the order of classes in the data and in the weights.

        Raises:
            SettingError: if a name has different indices in the two, so that the labels have different meanings.
        """
        names = getattr(getattr(trainer_of(self), "datamodule", None), "class_names", None)
        compare_class_names(names or [], known or [], source)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore weights; they define the number of classes if the head does not exist yet."""
        self.fit_head(state_dict)
        return super().load_state_dict(state_dict, strict, assign)

    def fit_head(self, weights: Mapping[str, Any]) -> None:
        """Create the head, if there is none, for the number of classes in the weights to be restored.

        Raises:
            SettingError: if the existing head has another number of classes.
        """
        if "head.weight" in weights:
            if self.head is None:
                self._build_head(len(weights["head.weight"]))
            self._check_classes(weights, "The checkpoint")

    def train(self, mode: bool = True) -> "Classification":
        """Training mode, except for a frozen backbone."""
        super().train(mode)
        if self.is_frozen:
            self.backbone.eval()
            for part in self.backbone.modules():
                if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm):
                    part.train(mode and not self.frozen_batchnorm)
        return self

    def features(self, inputs: Tensor) -> Tensor:
        """Output of the backbone for normalised clips [N, ...]: a feature [N, D], or tokens [N, n, D] for attention."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            if self.mode == "attentive":
                tokens = self.backbone.forward_features(inputs)  # type: ignore[operator]
                return tokens if tokens.ndim == 3 else tokens.flatten(2).transpose(1, 2)
            if (averaging := self.averaging) is not None:
                tokens = averaging.forward_features(inputs, norm=False)
                return pool_tokens(tokens, averaging.grid[:3], averaging.pooling)
            return self.backbone(inputs)

    def pool(self, features: Tensor) -> Tensor:
        """Input of the head: [N, D] or [N, n, D] -> [N, D], outside of autocast. V-JEPA's probes, whose cost is not negligible,
        have the precision of the run, as published."""
        precision: AbstractContextManager[Any] = nullcontext()
        if not isinstance(self.attention, AttentivePooler):
            precision = torch.autocast(features.device.type, enabled=False)
        with precision:
            pooled: Tensor = self.attention(self.standardise(self.fc_norm(features.float())))
            return F.normalize(pooled, dim=-1) if self.unit_features else pooled

    def logits(self, features: Tensor) -> Tensor:
        """Scores of the classes: [N, D] or [N, n, D] -> float32 [N, K]."""
        return linear_in_float32(self.classifier, self.dropout(self.pool(features)))

    def encode(
        self, batch: Batch, clips: int | None = None, every: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Features of clips, as input of the part that is trained in linear or attentive mode.

        Args:
            batch: batch with the stream of the backbone.
            clips: number of clips per sample; None for all.
            every: use every n-th clip.
            generator: see `clip_logits`.

        Returns:
            [B, V, D], or [B, V, n, D] in mode `attentive`.
        """
        inputs = self.inputs(batch)[:, :clips:every]
        rows = inputs.flatten(0, 1)
        if generator is not None and self.body_augmentation is not None:
            rows = self.body_augmentation(rows, generator)
        return self.features(self.normalise(rows)).unflatten(0, inputs.shape[:2])

    def known(self, batch: Batch, clips: int | None = None, every: int = 1) -> Tensor:
        """The frozen features in the data or, without them, the output of `encode`, in the same shape."""
        if self.feature_stream is None:
            return self.encode(batch, clips, every)
        return batch.stream(self.feature_stream, "feature").data[:, :clips:every]

    @torch.no_grad()
    def embed(self, batch: Batch) -> Tensor:  # type: ignore[override]  # of the one encoder
        """Features [B, D] at the input of the head, for the first clip of each sample."""
        return self.pool(self.known(batch, 1)[:, 0]).float()

    # --- Training ---

    def check_clip(self) -> None:
        """See `Method.check_clip`; also compares the numbers of clips with that of the attention.

        Raises:
            SettingError: if they differ.
        """
        super().check_clip()
        data, clips = getattr(self.trainer, "datamodule", None), self.joined_clips
        each = getattr(getattr(data, "clip", None), "clips", None)
        segments = getattr(getattr(data, "test_views", None), "segments", None)
        for setting, number in (("data.clip.clips", each), ("data.views.segments", segments)):
            if clips > 1 and number not in (None, clips):
                raise SettingError(f"{setting} is {number}, but model.attention.clips is {clips}; make them equal.")

    def setup(self, stage: str) -> None:
        """Detect whether the data have clips or features; see `Method.setup`.

        Raises:
            SettingError: if the stream is missing, or for features with a classifier that is not linear.
        """
        self.feature_stream = feature_stream(getattr(self.trainer, "datamodule", None), self.stream)
        if self.feature_stream is not None and self.mode != "linear":
            raise SettingError(f"Frozen features are for a linear classifier; set model.mode to linear, not {self.mode}.")
        super().setup(stage)

    def reads(self) -> dict[str, tuple[Kind, ...]]:
        """Clips, or their features; see `Method.reads`."""
        return super().reads() if self.feature_stream is None else {self.feature_stream: ("feature",)}

    def preparation(self) -> Preparation | None:
        """Augmentation is drawn in the loader workers; see `Method.preparation`."""
        if self.augmentation is None or self.feature_stream is not None:
            return None
        return partial(prepare_pixels, self.augmentation, self.stream, self.seed)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Loss of all clips, after augmentation; see `Method.step`."""
        inputs = self.inputs(batch) if self.feature_stream is None else self.known(batch)
        classes, views = self.classifier.out_features, inputs.shape[1]
        targets = self.labels.targets(batch.label, classes).repeat_interleave(views, 0)
        labelled = (self.labels.rows(batch.label, classes) >= 0).all(1).repeat_interleave(views, 0)
        inputs = inputs.flatten(0, 1)
        show: dict[str, Tensor] = {}
        features = inputs
        if self.feature_stream is not None:
            if self.augmentation is not None or self.mixing is not None or self.body_augmentation is not None:
                raise SettingError("Frozen features cannot be augmented; set model.augmentation and model.mixing to null.")
        else:
            clips = inputs
            if self.augmentation is not None:
                clips = augment_pixels(inputs, self.augmentation, generator, batch.prepared)
            if self.body_augmentation is not None:
                clips = self.body_augmentation(clips, generator)
            clips = self.normalise(clips)
            if self.augmentation is not None and self.augmentation.erase:
                clips = erase_boxes(clips, self.augmentation.erase, generator)
            if self.mixing is not None:
                clips, targets = mix_clips(clips, targets, self.mixing, generator, labelled)
            show["plain_clip" if self.kinds[0] == "video" else self.kinds[0]] = inputs
            if self.kinds[0] in PICTURES:
                show["clip"] = to_pixels(clips, self.network.normalisation)  # type: ignore[arg-type]
            features = join_clips(self.features(clips).unflatten(0, (-1, views)), self.joined_clips).flatten(0, 1)
            # Mixing changes all clips of a video alike, so their targets are equal.
            targets = targets[:: self.joined_clips]
        logits = self.logits(features)
        log = self.labels.progress(logits.detach(), targets)
        return {"loss": self.labels.loss(logits, targets), "log": log, "show": show}

    def take_data(self, data: Any) -> None:
        """Decide whether training clips are mirrored; see `Method.take_data`."""
        super().take_data(data)
        if self.augmentation is not None and self.flip is not None:
            self.augmentation = replace(self.augmentation, flip=self.flip.probability)

    def samples_per_batch(self, data: Any) -> int:
        """Videos or recordings; see `Method.samples_per_batch`."""
        return batch_size_of(data)

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Videos before and after augmentation and mixing, depth as the network sees it, or skeletons; otherwise nothing."""
        show = output["show"]
        if "plain_clip" in show:
            return {"plain": show["plain_clip"], "augmented": show["clip"]}
        if "clip" in show:
            return {"depth": show["clip"]}
        return {"skeleton": draw_skeletons(show["skeleton"][:SHOWN])} if "skeleton" in show else {}

    # --- Evaluation ---

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the class probabilities of a batch of videos."""
        clip = getattr(getattr(self.trainer, "datamodule", None), "clip", None)
        # Without augmentation, copies of a clip are equal.
        self._keep(batch, clip.repeat if clip is not None else 1)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the class probabilities of a batch of videos, and the number of clips per video."""
        self.test_record["views"] = self._keep(batch)

    def on_test_start(self) -> None:
        """Compare the data's clips with the backbone's, as before training, and check for labels.

        Raises:
            SettingError: if they do not match, or no test video has a label.
        """
        self.on_fit_start()
        manifest = getattr(getattr(self.trainer, "datamodule", None), "test_manifest", None)
        if manifest is not None and not manifest.is_labelled:
            raise SettingError(NO_LABELS)

    def on_validation_epoch_start(self) -> None:
        """Reset the collected results."""
        self.tally.clear()

    def on_test_epoch_start(self) -> None:
        """Reset the collected results."""
        self.tally.clear()
        self.test_record = {}

    def on_validation_epoch_end(self) -> None:
        """Log loss and accuracy as `val/*`."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log loss and accuracy as `test/*`, and keep the record."""
        self._report("test")

    def on_predict_start(self) -> None:
        """See `Method.on_predict_start`.

        Raises:
            SettingError: if the clips do not fit, or the classes are unknown because no trained weights are loaded.
        """
        super().on_predict_start()
        if self.head is None:
            raise SettingError("The classifier knows no classes; pass --ckpt_path the checkpoint of a classifier.")

    @property
    def known_names(self) -> list[str] | None:
        """Class names by label: those of the data, otherwise those stored with the weights."""
        return getattr(getattr(trainer_of(self), "datamodule", None), "class_names", None) or self.class_names

    def predict_step(self, batch: Batch, batch_idx: int) -> Predicted:
        """Class probabilities of a batch of videos, [B, K], merged over their clips as in a test."""
        return Predicted(batch.index, batch.substituted >= 0, self.labels.merged(self.clip_logits(batch), self.merge))

    def answers(self, paths: list[str], value: Tensor) -> Answers:
        """See `Method.answers` and `Labels.answers`."""
        return self.labels.answers(value, self.class_names)

    def clip_logits(self, batch: Batch, every: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Scores of the classes for every n-th clip of each sample: float32 [B, V, K]. Joined clips count once.

        Args:
            batch: see `encode`.
            every: see `encode`.
            generator: source of randomness in a training step, for the augmentation of skeletons; None for no augmentation.
        """
        features = self.known(batch, None, every) if generator is None else self.encode(batch, None, every, generator)
        features = join_clips(features, self.joined_clips)
        return self.logits(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def _keep(self, batch: Batch, every: int = 1) -> int:
        """Keep the class probabilities of a batch; returns the number of clips per sample."""
        logits = self.clip_logits(batch, every)
        self.tally.add(batch, logits, self.merge)
        return logits.shape[1]

    def _report(self, stage: str) -> None:
        """Log the scores over all processes; after a test, keep the record.

        Raises:
            SettingError: if no test sample has a label.
        """
        classes = self.classifier.out_features
        found = self.tally.scores(self.trainer, classes, self.device)
        for name, value in found.values.items():
            self.log(f"{stage}/{name}", value, prog_bar=name in ("top1", "map"), sync_dist=True)
        if stage == "test":
            if not found.values:
                raise SettingError(NO_LABELS)
            self.test_record |= {"videos": found.used, "missed": found.missed, "classes": classes}
            self.class_report = self.labels.report(found.probabilities, found.rows, self.known_names)


def to_pixels(video: Tensor, normalisation: Normalisation) -> Tensor:
    """Normalised clips as viewable pixels: float [N, 3, T, H, W] -> uint8 [N, T, H, W, 3]."""
    pixels = normalisation.restore(video.detach()).mul(255).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 4, 1)

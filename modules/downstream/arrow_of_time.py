"""The arrow of time: does a clip run forwards or backwards? A task of SEVERE (https://arxiv.org/abs/2203.14221).

The official code has no arrow of time. What the paper does is not known here beyond its name; ours, which is UNVERIFIED:
clips of training are reversed with a probability of one half, and a binary classifier on the pooled feature is trained with
the encoder, or on the frozen encoder; in the test every video is shown both ways, and each way counts once. Chance is 50 %.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.augment.clips import ClipAugmentation, augment_pixels, erase_boxes, prepare_pixels
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch, Preparation
from modules.core.distributed import gather_once
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.layers.heads import Standardised, linear_in_float32
from modules.training.method import Method, batch_size_of
from modules.training.optim import AdamSettings, ScheduleSettings


class ArrowOfTime(Method):
    """Learns whether clips run forwards or backwards, from a pretrained backbone (`model.backbone.checkpoint`).

    `val/top1` and `test/top1` are the accuracy in percent over every video both ways, by the mean over its clips of the
    probability of running backwards.

    Args:
        backbone: encoder of videos.
        frozen: train only the classifier, on standardised features of the encoder in evaluation mode.
        augmentation: of training clips, of which half are mirrored where it does not say; null for none.
        optim: optimiser and schedule; null takes Adam at 1e-4.

    Raises:
        SettingError: if the feature of the encoder cannot tell the order of frames.
    """

    def __init__(
        self,
        backbone: VideoViT | VideoCNN | BEiTVideo | FrameTower,
        frozen: bool = False,
        augmentation: ClipAugmentation | None = None,
        optim: ScheduleSettings | None = None,
    ) -> None:
        super().__init__(optim or AdamSettings(1e-4))
        if isinstance(backbone, FrameTower) and backbone.pooling == "mean":
            raise SettingError(
                "The mean over the frames of a FrameTower is the same both ways; set model.backbone.pooling to time."
            )
        self.backbone, self.frozen = backbone, frozen
        if augmentation is not None and augmentation.flip is None:
            # Also where left and right are classes of the data, which play no part here.
            augmentation = replace(augmentation, flip=0.5)
        self.augmentation = augmentation
        self.head = nn.Linear(backbone.feature_dim, 1)
        self.standardise: nn.Module = Standardised(backbone.feature_dim) if frozen else nn.Identity()
        self.test_record: dict[str, Any] = {}
        """What the last test saw: `videos` (used) and `missed` (numbers of those that could not be read)."""
        self._seen: list[tuple[Tensor, Tensor]] = []
        if isinstance(backbone, BEiTVideo):
            # Not used for the pooled feature, so it would get no gradient.
            backbone.norm.requires_grad_(False)
        if frozen:
            backbone.requires_grad_(False)
            self.train()

    def train(self, mode: bool = True) -> "ArrowOfTime":
        """Training mode, of which a frozen backbone takes no notice."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def preparation(self) -> Preparation | None:
        """The augmentation is drawn where batches are read; see `Method.preparation`."""
        return None if self.augmentation is None else partial(prepare_pixels, self.augmentation, self.stream, self.seed)

    def logits(self, video: Tensor) -> Tensor:
        """Score of running backwards: normalised clips [N, 3, T, H, W] -> float32 [N]."""
        return linear_in_float32(self.head, self.standardise(self.backbone(video)))[:, 0]

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Binary cross-entropy over all clips; see `Method.step`."""
        clips = self.inputs(batch).flatten(0, 1)
        backwards = torch.rand(len(clips), generator=generator, device=clips.device) < 0.5
        clips = torch.where(backwards[:, None, None, None, None], clips.flip(1), clips)
        if self.augmentation is not None:
            clips = augment_pixels(clips, self.augmentation, generator, batch.prepared)
        video = self.normalise(clips)
        if self.augmentation is not None and self.augmentation.erase:
            video = erase_boxes(video, self.augmentation.erase, generator)
        logits = self.logits(video)
        right = ((logits.detach() > 0) == backwards).float().mean()
        loss = F.binary_cross_entropy_with_logits(logits, backwards.float())
        return {"loss": loss, "log": {"top1": 100 * right}, "show": {"clip": clips}}

    def samples_per_batch(self, data: Any) -> int:
        """Videos; see `Method.samples_per_batch`."""
        return batch_size_of(data)

    # --- Evaluation ---

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep which videos of a batch were recognised."""
        self._keep(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep which videos of a batch were recognised."""
        self._keep(batch)

    def on_test_start(self) -> None:
        """Compare the data's clips with the backbone's, as before training."""
        self.on_fit_start()

    def on_validation_epoch_start(self) -> None:
        """Start empty."""
        self._seen = []

    def on_test_epoch_start(self) -> None:
        """Start empty."""
        self._seen, self.test_record = [], {}

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy as `val/top1`."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log the accuracy as `test/top1`, and keep what was seen.

        Raises:
            SettingError: if no video could be read.
        """
        used, missed = self._report("test")
        if not used:
            raise SettingError("No test video could be read; check data.root and the report of broken files.")
        self.test_record = {"videos": used, "missed": missed, "classes": 2}

    def _keep(self, batch: Batch) -> None:
        clips = self.inputs(batch)
        ways = []
        for shown in (clips, clips.flip(2)):
            logits = self.logits(self.normalise(shown.flatten(0, 1)))
            ways.append(logits.sigmoid().unflatten(0, clips.shape[:2]).mean(1))
        self._seen.append((torch.stack(ways, 1), torch.stack([batch.index, batch.substituted], 1)))

    def _report(self, stage: str) -> tuple[int, list[int]]:
        """Log the accuracy over all processes; gives how many videos were used, and the numbers of those that were missed."""
        # A process without a sample takes part all the same.
        none = (torch.empty(0, 2, device=self.device), torch.empty(0, 2, dtype=torch.long, device=self.device))
        found, facts = (torch.cat(parts) for parts in zip(none, *self._seen, strict=True))
        self._seen = []
        found, facts = gather_once(self.trainer, found, facts, facts[:, 0])
        used = facts[:, 1] < 0
        if used.any():
            right = torch.stack([found[used, 0] < 0.5, found[used, 1] > 0.5])
            self.log(f"{stage}/top1", 100 * right.float().mean(), prog_bar=True, sync_dist=True)
        return int(used.sum()), facts[~used, 0].tolist()

"""SMILE: masked video modelling with CLIP features as target and synthetic moving objects as motion.

Paper: SMILE, https://arxiv.org/abs/2504.00527. VideoMAE with three changes. The target is the patch features of a frozen
CLIP image encoder, normalised per channel over the clip's tokens. In stage 1, two objects that move along smooth paths are
pasted into the clip before student and teacher see it, and the mask follows their trajectories. Stage 2 starts from the
weights of stage 1 and sees natural video only, under tube masks (`paste: null`, `mask: TubeMask`, `init_from`).

Shapes for ViT-B at 16 x 224 x 224: 1568 tokens, 320 visible, prediction [M * B, 1248, 768] with M masks per clip.

In the paper's modes without natural video, objects move over a repeated frame, a black image or a noise image (`background`),
or over still images (from a data module of images), and pixels are predicted.

Differences from the official code:

* objects are drawn on the device by one affine sampling per object instead of PIL and OpenCV in the loader. With the
  official centres, images agree to within one grey level on average (tests/parity/test_smile_motion.py). Our centres are
  those of the boxes; in the official code, rounding of the rotated canvas shifts them by up to 0.7 pixels.
* both masks of a clip go through the encoder in one pass; the loss equals the official mean over both.
* both stages use two masks per clip. The official stage-1 script drops this option because of a missing line continuation.
* the learning rate follows one smooth cosine; with two masks, the official step counter turns it into a sawtooth.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.device import to_device
from modules.core.errors import SettingError, check_positive
from modules.core.output import StepOutput
from modules.core.randomness import host_generator
from modules.layers.masked_autoencoder import MaskedAutoencoder
from modules.layers.relations import RelationSettings
from modules.layers.targets import Target, constant_loss
from modules.masks.base import Mask, MaskGenerator
from modules.motion.appearance import ObjectBank
from modules.motion.render import paste
from modules.motion.trajectory import Motion, MotionRecord
from modules.training.optim import AdamWSettings

Background = Literal["video", "first_frame", "black", "noise"]


def still_background(clip: Tensor, kind: Background, generator: torch.Generator) -> Tensor:
    """Replace the clip by a static image.

    Args:
        clip: uint8 [B, T, H, W, 3]
        kind: `video` keeps the clip; `first_frame` repeats its first frame; `black` is black; `noise` draws each pixel of one
            frame uniformly from 0..255 and repeats it (the paper does not specify its noise).
        generator: source of the noise.
    """
    if kind == "video":
        return clip
    if kind == "first_frame":
        return clip[:, :1].expand_as(clip).contiguous()
    if kind == "black":
        return torch.zeros_like(clip)
    shape = (clip.shape[0], 1, *clip.shape[2:])
    noise = torch.randint(0, 256, shape, generator=generator, device=clip.device, dtype=torch.uint8)
    return noise.expand_as(clip).contiguous()


@dataclass
class PasteSettings:
    """The objects pasted into each clip.

    Args:
        objects: the objects to choose from.
        count: objects per clip.
        motion: how they move.

    Raises:
        SettingError: if the count is not positive.
    """

    objects: ObjectBank | None = None
    count: int = 2
    motion: Motion = field(default_factory=Motion)

    def __post_init__(self) -> None:
        check_positive("model.paste", count=self.count)


class SMILE(MaskedAutoencoder):
    """Masked video modelling with motion and semantics (https://arxiv.org/abs/2504.00527).

    Args:
        backbone: encoder, kept after pretraining.
        target: what is predicted; the paper uses ClipTarget, and PixelTarget for learning without natural video.
        mask: which tokens are hidden; TrajectoryMask in stage 1, TubeMask in stage 2, both with ratio 0.8.
        paste: moving objects that are pasted into the clips (stage 1); its `objects` must be set. Null pastes nothing.
        background: what the objects are pasted on: the video, its first frame repeated, black, or a noise image.
        masks_per_clip: masks per clip and step; further masks are the first ones permuted over the batch of the device.
        decoder: size of the decoder.
        init_from: file with the weights of the whole method to start from, loaded strictly (stage 2 starts from stage 1):
            our .ckpt or .safetensors, or an official .pth. Optimiser and schedule start afresh.
        optim: optimiser and schedule.
        relations: distillation of the relations of visible tokens from a frozen teacher, in addition; null for none.
    """

    def __init__(
        self,
        backbone: VideoViT,
        target: Target,
        mask: MaskGenerator,
        paste: PasteSettings | None = PasteSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        background: Background = "video",
        masks_per_clip: int = 2,
        decoder: DecoderSettings = DecoderSettings(),  # noqa: B008
        init_from: str | None = None,
        optim: AdamWSettings = AdamWSettings(),  # noqa: B008
        relations: RelationSettings | None = None,
    ) -> None:
        super().__init__(backbone, target, mask, optim, relations)
        check_positive("model", masks_per_clip=masks_per_clip)
        if paste is not None and paste.objects is None:
            raise SettingError("model.paste.objects is not set; name ObjectBank, or set model.paste to null to paste nothing.")
        self.paste, self.background = paste, background
        self.views_per_clip = masks_per_clip
        self.build_decoder(decoder)
        if init_from is not None:
            self.start_from(init_from)

    def add_motion(self, clip: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Put the clip on its background and paste moving objects.

        Args:
            clip: uint8 [B, T, H, W, 3]
            generator: source of randomness.

        Returns:
            uint8 clip of the same shape, and float boxes [B, K, T, 4] in pixels on the host (None without objects).
        """
        clip = still_background(clip, self.background, generator)
        if self.paste is None or self.paste.objects is None:
            return clip, None
        count, frames, height, width = clip.shape[:4]
        # These are hundreds of tiny operations, which are faster on the host than their launches would be on a GPU.
        host = host_generator(generator)
        record: MotionRecord = self.paste.motion.draw(count, self.paste.count, frames, (height, width), host)
        record, _ = record.sorted_by_area()
        (size,) = to_device([record.size.mean(2)], clip.device)
        return paste(clip, record, self.paste.objects.draw(size, generator)), record.boxes()

    def repeat_mask(self, mask: Mask, generator: torch.Generator) -> Mask:
        """Add masks: each further set of masks is the first set permuted over the batch (a clip may keep its mask).

        Returns:
            visible [M * B, Nv] and targets [M * B, Nt], ordered by mask, then by clip.
        """
        visible, targets = [mask.visible], [mask.targets]
        for _ in range(self.views_per_clip - 1):
            order = torch.randperm(len(mask.visible), generator=generator, device=generator.device)
            visible.append(mask.visible[order])
            targets.append(mask.targets[order])
        return Mask(torch.cat(visible), torch.cat(targets))

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Paste, mask, encode, decode, compare. Videos are [B, V, T, H, W, 3]; each clip is a sample."""
        clip, boxes = self.add_motion(self.inputs(batch).flatten(0, 1), generator)
        mask = self.repeat_mask(self.draw_mask(clip.shape[0], generator, boxes), generator)
        target = self.targets(clip, mask.targets)
        tokens = self.encode(clip, mask.visible)
        prediction = self.decoder(tokens, mask.visible, mask.targets)
        show = {"clip": clip, "masked": mask.targets, "prediction": prediction.detach(), "target": target}
        if boxes is not None:
            (show["boxes"],) = to_device([boxes], clip.device)
        loss = F.mse_loss(prediction.float(), target)
        output: StepOutput = {"loss": loss, "log": {"constant_loss": constant_loss(target)}, "show": show}
        return self.with_relations(output, tokens, mask.visible)

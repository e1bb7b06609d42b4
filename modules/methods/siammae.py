"""SiamMAE: a later frame of a video is predicted from an earlier one and from 5 % of its own patches.

Paper: Siamese Masked Autoencoders, https://arxiv.org/abs/2305.14344. Two frames of a video, 4 to 47 frames apart, have the same
random crop and the same flip. One encoder sees all patches of the first frame, and the visible patches of the second one. The
decoder gets both: tokens of the second frame, with mask tokens at the hidden places, attend to those of the first. The
loss is the mean squared error of the hidden patches, each standardised by its own mean and standard deviation. What
the network cannot see of the second frame it must move there from the first, so its features have to say which places
correspond; they are used without training to carry masks and key points through videos (label propagation).

Shapes for ViT-S/16 at 224 x 224: 196 patches, 9 of the second frame visible, tokens [B, 197, 384] and [B, 10, 384], prediction
[B, 196, 768].

The code of the SiamMAE authors is not public. Network, loss, pairs and crops are those of the re-implementation in CropMAE's
official code (https://arxiv.org/abs/2403.17823), which agrees with this file given its tensors (tests/parity/test_siammae.py).
Differences:

* the learning rate of a step is that of its position in the schedule. In the official code, the rate is set after the step, so
  the first step is made with the peak rate, before the warm-up, and the second one with 0.
* masks and flips are drawn on the device; training uses bf16 with the loss in float32, instead of fp16 with a scaler.
* clips of several frames are pairs of images frame by frame: frame k of the first clip predicts frame k of the second.
* the initial weights of the decoder, and which of MAE's parameters have weight decay, are those of MAE; this could not be
  verified.

The pooled feature of the encoder is the mean of the class tokens of the frames (`FrameTower`). The papers do not use it, only
the map of patches.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.augment.flips import RandomFlip
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.cross_decoder import CrossDecoderSettings
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.layers.siamese_mae import SiameseMAE
from modules.training.optim import AdamWSettings


class SiamMAE(SiameseMAE):
    """Siamese masked autoencoder of two frames (https://arxiv.org/abs/2305.14344).

    Args:
        backbone: image encoder on each frame of a clip, kept after pretraining.
        mask_ratio: fraction of masked patches of the second frame; floor((1 - ratio) * patches) remain visible.
        normalise: standardise each predicted patch by its own mean and standard deviation, over all pixels and channels.
        decoder: size of the decoder.
        init_from: file with the weights of the whole method (encoder and decoder) to start from, loaded strictly: our .ckpt or
            .safetensors, or an official .pth. Optimiser and schedule start afresh.
        optim: optimiser and schedule. A pair of frames counts as one sample of the batch.
        flip: probability of mirroring both frames of a pair; null takes one half, or 0 if classes of the data distinguish left
            and right.
    """

    def __init__(
        self,
        backbone: FrameTower,
        mask_ratio: float = 0.95,
        normalise: bool = True,
        decoder: CrossDecoderSettings = CrossDecoderSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        init_from: str | None = None,
        optim: AdamWSettings = AdamWSettings(base_lr=1e-4, min_lr=0.0, warmup_epochs=20),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(backbone, mask_ratio, normalise, decoder, optim, init_from)
        self.flip = RandomFlip("model.flip", flip)

    def take_data(self, data: Any) -> None:
        """Check that the clips of a video are in order, and that both have the same crop.

        Raises:
            SettingError: if the data say that they are not.
        """
        super().take_data(data)
        clip: Any = getattr(data, "clip", None)
        if not getattr(data, "clips_in_order", getattr(clip, "ordered", True)):
            raise SettingError(
                "SiamMAE predicts a frame from an earlier one, but data.clip.sampler does not give clips in order; set it to "
                "FramePair, or for generated videos to OrderedClips."
            )
        if not hasattr(clip, "crop") or getattr(data, "shows_complete_frames", False):
            return
        crop: Any = clip.crop
        first, second = crop.boxes(4 * clip.size, 3 * clip.size, clip.size, 2, 1, np.random.default_rng(0))
        if first != second:
            raise SettingError(
                f"data.clip.crop is {type(crop).__name__}, which gives the two frames of a video different crops, so places in "
                "them do not correspond; set it to Shared."
            )

    def pairs(self, views: int) -> int:
        """See `SiameseMAE.pairs`."""
        return views // 2

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Flip, mask, encode, predict. Videos are [B, 2, T, S, S, 3], the earlier clip first."""
        video = self.inputs(batch)
        if video.shape[1] != 2:
            raise SettingError(f"SiamMAE needs two frames of each video, not {video.shape[1]}; set data.clip.clips to 2.")
        first, second = self.mirrored(video, generator).unbind(1)
        return self.rebuild(first, second, generator)

    def mirrored(self, video: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror both clips of some of the pairs: [B, 2, T, S, S, 3] -> the same shape."""
        return self.flip(video.flatten(1, 2), generator).unflatten(1, video.shape[1:3])

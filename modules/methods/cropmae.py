"""CropMAE: one crop of an image is predicted from another crop of it and from two of its own patches.

Paper: Efficient Image Pre-Training with Siamese Cropped Masked Autoencoders, https://arxiv.org/abs/2403.17823. It replaces the
two frames of SiamMAE (https://arxiv.org/abs/2305.14344) by two crops of one image, which may also be a single frame of a video.
Of the global crop, the encoder sees all patches. The local crop is a part of it, enlarged; 98.5 % of its patches are masked.
The decoder gets both: tokens of the local crop, with mask tokens at the hidden places, attend to those of the global one. The
loss is the mean squared error of the hidden patches, each standardised by its own mean and standard deviation. To predict a
patch, the network must find its place in the other crop; its features are used without training to carry masks and key points
through videos (label propagation).

Shapes for ViT-S/16 at 224 x 224: 196 patches, 2 of the second crop visible, tokens [B, 197, 384] and [B, 3, 384], prediction
[B, 196, 768].

Network, loss, boxes and flips agree with the official code given its tensors and draws (tests/parity/test_cropmae.py). As
there, the local box is cut out of the resized global crop, so it is resized twice, and each crop is mirrored on its own. The
worker processes cut the global crop (data.clip.crop); the local one is cut on the device. Differences:

* the learning rate of a step is that of its position in the schedule. In the official code, the rate is set after the step, so
  the first step is made with the peak rate, before the warm-up, and the second one with 0.
* the order of the draws; boxes are drawn again if they do not fit, up to ten times, as in the code that really runs there.
* training uses bf16 with the loss in float32, instead of fp16 with a scaler.
* clips of several frames are several images, each with its own boxes, flips and mask.
* the initial weights of the decoder, and which of MAE's parameters have weight decay, are those of MAE; this could not be
  verified. Nor could the views `local_to_global`, `random` and `same`, which are made after their description.

The pooled feature of the encoder is the mean of the class tokens of the frames (`FrameTower`). The paper does not use it, only
the map of patches.
"""

from typing import Literal

import torch
from torch import Tensor

from modules.augment.crops import enlarge, random_boxes
from modules.augment.flips import RandomFlip
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.cross_decoder import CrossDecoderSettings
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.layers.siamese_mae import SiameseMAE
from modules.training.optim import AdamWSettings

Views = Literal["global_to_local", "local_to_global", "random", "same"]
RATIO = (3 / 4, 4 / 3)
"""Smallest and largest width / height of local crops."""


class CropMAE(SiameseMAE):
    """Siamese masked autoencoder of two crops of an image (https://arxiv.org/abs/2403.17823).

    Args:
        backbone: image encoder on each frame of a clip, kept after pretraining.
        views: `global_to_local` predicts a part of the crop from the crop (the paper's default), `local_to_global` the crop
            from a part of it, `same` the crop from itself, and `random` the second of two crops of a frame from the first
            (data.clip.repeat 2). With data.clip.crop Nested, it is a part of the first one, but cut out of the frame itself.
        local_scale: smallest and largest area of the local crop, as a fraction of the global one; the aspect ratio is 3/4 to
            4/3.
        mask_ratio: fraction of masked patches of the second view; floor((1 - ratio) * patches) remain visible.
        normalise: standardise each predicted patch by its own mean and standard deviation, over all pixels and channels.
        decoder: size of the decoder.
        init_from: file with the weights of the whole method (encoder and decoder) to start from, loaded strictly: our .ckpt or
            .safetensors, or an official .pth. Optimiser and schedule start afresh.
        optim: optimiser and schedule. A pair of views counts as one sample of the batch.
        flip: probability of mirroring each view on its own (of `same`, both together); null takes one half, or 0 if classes of
            the data distinguish left and right.

    Raises:
        SettingError: if a value is out of range.
    """

    def __init__(
        self,
        backbone: FrameTower,
        views: Views = "global_to_local",
        local_scale: tuple[float, float] = (0.3, 0.6),
        mask_ratio: float = 0.985,
        normalise: bool = True,
        decoder: CrossDecoderSettings = CrossDecoderSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        init_from: str | None = None,
        optim: AdamWSettings = AdamWSettings(base_lr=1e-4, min_lr=0.0, warmup_epochs=20),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(backbone, mask_ratio, normalise, decoder, optim, init_from)
        if not 0 < local_scale[0] <= local_scale[1] <= 1:
            raise SettingError(
                f"model.local_scale is {list(local_scale)}; it must be two numbers above 0 and at most 1, the smaller first."
            )
        self.views: Views = views
        self.local_scale = local_scale
        self.flip = RandomFlip("model.flip", flip)

    def pairs(self, views: int) -> int:
        """See `SiameseMAE.pairs`."""
        return views // 2 if self.views == "random" else views

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Crop, flip, mask, encode, predict. Videos are [B, V, T, S, S, 3]; each frame of each clip is an image."""
        return self.rebuild(*self.make_views(self.inputs(batch), generator), generator)

    def make_views(self, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The view that is seen, and the view that is predicted.

        Args:
            video: uint8 [B, V, T, S, S, 3], crops of frames.
            generator: source of randomness.

        Returns:
            two uint8 [P, T, S, S, 3], of P pairs: V for each video, one with `random`.
        """
        if self.views == "random":
            if video.shape[1] != 2:
                raise SettingError(
                    f"CropMAE with random views needs two crops of a frame, not {video.shape[1]}; set data.clip.repeat to 2."
                )
            return self.mirrored(video[:, 0], generator), self.mirrored(video[:, 1], generator)
        whole = video.flatten(0, 1)
        if self.views == "same":
            whole = self.mirrored(whole, generator)
            return whole, whole
        images = whole.flatten(0, 1)[:, None]
        size = images.shape[2], images.shape[3]
        part = enlarge(images, random_boxes(len(images), size, self.local_scale, RATIO, generator))
        # The part is cut out of the crop before this is mirrored.
        pair = self.mirrored(whole, generator), self.mirrored(part[:, 0].unflatten(0, whole.shape[:2]), generator)
        return pair if self.views == "global_to_local" else pair[::-1]

    def mirrored(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror some of the frames: [P, T, S, S, 3] -> the same shape."""
        return self.flip(clip.flatten(0, 1)[:, None], generator)[:, 0].unflatten(0, clip.shape[:2])

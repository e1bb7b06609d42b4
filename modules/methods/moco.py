"""MoCo over time: two clips of one video are a positive pair, clips of other videos are negatives.

Paper: MoCo, https://arxiv.org/abs/1911.05722, applied to video like the temporal contrast baseline of TubeletContrast
(https://arxiv.org/abs/2303.11003): the positive of a clip is another clip of the same video, with its
own crop, flip and colour changes; everything else (encoders, head, queue, optimiser) is as in TubeletContrast. The released
code of that paper no longer contains this baseline; its colour changes are unknown, and ours are drawn per clip.

Shapes for R(2+1)D-18 at 16 x 112 x 112: features [B, 512], compared in 128 dimensions, queue [16384, 128].

With several processes, batch norm must see the whole batch (trainer.sync_batchnorm) for loss and gradients to equal those of
one process with the joined batch. The momentum update happens once per batch, also with gradient accumulation.
"""

import torch
from torch import Tensor

from modules.augment.colour import ColourJitter
from modules.augment.flips import RandomFlip
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.core.randomness import device_generator
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.training.method import Method
from modules.training.optim import SGDSettings

SHUFFLE_STREAM = 4


class MoCo(Method):
    """Momentum contrast of two clips of one video (https://arxiv.org/abs/1911.05722).

    Args:
        backbone: encoder, kept after pretraining.
        contrast: head, queue and key branch.
        colour: colour changes, drawn for each clip.
        optim: optimiser and schedule.
        flip: probability of mirroring a clip; null takes one half, or 0 if classes of the data distinguish left and right.
    """

    def __init__(
        self,
        backbone: VideoCNN | VideoViT,
        contrast: ContrastSettings = ContrastSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        colour: ColourJitter = ColourJitter(),  # noqa: B008
        optim: SGDSettings = SGDSettings(),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(optim)
        self.flip = RandomFlip("model.flip", flip)
        self.backbone = backbone
        self.colour = colour
        self.contrast = MomentumContrast(backbone, contrast)

    def on_fit_start(self) -> None:
        """Check the batch size against the queue before the first step."""
        super().on_fit_start()
        self.contrast.check(self.trainer)

    def on_train_start(self) -> None:
        """Check the queue against the size of the data set before the first step."""
        super().on_train_start()
        self.contrast.check_data(self.trainer)

    def augment(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror some of the clips and change their colours: uint8 [B, T, H, W, 3] -> float of the same shape, 0..255."""
        return self.colour(self.flip(clip, generator).float(), generator)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Augment both clips, encode, compare. Videos are [B, 2, T, H, W, 3]."""
        video = self.inputs(batch)
        if video.shape[1] != 2:
            raise SettingError(f"MoCo needs two clips of each video, not {video.shape[1]}; set data.clip.clips to 2.")
        query, key = self.augment(video[:, 0], generator), self.augment(video[:, 1], generator)
        shuffle = device_generator(self.device, SHUFFLE_STREAM, self.seed, self.global_step)
        found = self.contrast(self.backbone, self.normalise(query), self.normalise(key), shuffle)
        return {
            "loss": found.loss,
            "log": {"top1": found.top1, "top5": found.top5, "batch_top1": found.batch_top1},
            "show": {"clip": query.round().byte(), "key_clip": key.round().byte()},
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Both clips of the pairs."""
        return {"query": output["show"]["clip"], "key": output["show"]["key_clip"]}

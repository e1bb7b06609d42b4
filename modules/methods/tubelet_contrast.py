"""TubeletContrast: clips of different videos are a positive pair if the same patches move over them in the same way.

Paper: TubeletContrast, https://arxiv.org/abs/2303.11003. Patches are cut from one clip and pasted, as tubelets that move along
smooth paths and turn, into this clip and into one of another video. The pair is a positive for momentum contrast; negatives
are clips with other tubelets. The two clips share only the patches and their motion.

Shapes for R(2+1)D-18 at 16 x 112 x 112: clips [B, 2, 16, 112, 112, 3], features [B, 512], compared in 128 dimensions, queue
[16384, 128].

Differences from the official code:

* pairs are made on the device. Clip 0 of a video is a query, and clip 1 of its neighbour in the (shuffled) batch is its key;
  the official code draws the other video from the whole data set, and sometimes draws the same one.
* tubelets are drawn by one affine sampling per object (`modules/motion/tubelets.py` lists what is left out).
* crops are resized with antialiasing, to whole pixels of the original picture.

With several processes, batch norm must see the whole batch (trainer.sync_batchnorm) for loss and gradients to equal those of
one process with the joined batch; batches of each process must be even. The momentum update happens once per batch, also with
gradient accumulation.
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
from modules.core.randomness import device_generator, host_generator
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.layers.drawing.clips import outline
from modules.motion.tubelets import TubeletRecord, TubeletSettings, draw_tubelets, paste_tubelets
from modules.training.method import Method
from modules.training.optim import SGDSettings

SHUFFLE_STREAM = 4


def neighbours(count: int, device: torch.device) -> Tensor:
    """A partner for each row of a batch: rows 0 and 1, rows 2 and 3 and so on are partners; an odd last row takes row 0.

    Returns:
        int64 [count]
    """
    row = torch.arange(count, device=device)
    return (row ^ 1) % count if count % 2 == 0 else torch.where(row == count - 1, 0, row ^ 1)


class TubeletContrast(Method):
    """Contrastive learning from synthetic motion (https://arxiv.org/abs/2303.11003).

    Args:
        backbone: encoder, kept after pretraining.
        tubelets: number, appearance and motion of the tubelets.
        contrast: head, queue and key branch.
        colour: colour changes, drawn for each pair; both clips get the same.
        optim: optimiser and schedule.
        flip: probability of mirroring a clip before tubelets are pasted; null takes one half, or 0 if classes of the
            data distinguish left and right.
    """

    def __init__(
        self,
        backbone: VideoCNN | VideoViT,
        tubelets: TubeletSettings = TubeletSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        contrast: ContrastSettings = ContrastSettings(),  # noqa: B008
        colour: ColourJitter = ColourJitter(),  # noqa: B008
        optim: SGDSettings = SGDSettings(),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(optim)
        self.flip = RandomFlip("model.flip", flip)
        tubelets.check()
        self.backbone = backbone
        self.tubelets, self.colour = tubelets, colour
        self.contrast = MomentumContrast(backbone, contrast)

    def on_fit_start(self) -> None:
        """Check the batch size against the queue before the first step."""
        super().on_fit_start()
        self.contrast.check(self.trainer)

    def make_pairs(self, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, TubeletRecord]:
        """Clips of different videos with the same tubelets and colour changes. Nothing is moved or mirrored after pasting.

        Args:
            video: uint8 [B, 2, T, H, W, 3], two clips of each video.
            generator: source of randomness.

        Returns:
            queries and keys, float [B, T, H, W, 3] from 0 to 255, and their tubelets.

        Raises:
            SettingError: if there is no second clip or, in training, no second video.
        """
        count, clips, frames, height, width = video.shape[:5]
        if clips != 2:
            raise SettingError(f"TubeletContrast needs two clips of each video, not {clips}; set data.clip.clips to 2.")
        # The last batch of a validation may contain a single video, which is then paired with itself.
        if count < 2 and self.training:
            raise SettingError("TubeletContrast pairs clips of different videos; set data.batch_size to 2 or more.")
        query = self.flip(video[:, 0], generator)
        key = self.flip(video[:, 1], generator)[neighbours(count, video.device)]
        # These are hundreds of tiny operations, which are faster on the host than their launches would be on a GPU.
        record = draw_tubelets(self.tubelets, count, frames, (height, width), host_generator(generator)).to(video.device)
        pair = torch.cat(paste_tubelets(query, key, record), dim=1).float()
        query, key = self.colour(pair, generator).split(frames, dim=1)
        return query, key, record

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Pair, paste, encode, compare. Videos are [B, 2, T, H, W, 3]."""
        query, key, record = self.make_pairs(self.inputs(batch), generator)
        shuffle = device_generator(self.device, SHUFFLE_STREAM, self.seed, self.global_step)
        found = self.contrast(self.backbone, self.normalise(query), self.normalise(key), shuffle)
        return {
            "loss": found.loss,
            "log": {"top1": found.top1, "top5": found.top5, "batch_top1": found.batch_top1},
            "show": {"clip": query.round().byte(), "key_clip": key.round().byte(), "corners": record.corners()},
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Both clips of the pairs, with the tubelets' outlines."""
        show = output["show"]
        return {"query": outline(show["clip"], show["corners"]), "key": outline(show["key_clip"], show["corners"])}

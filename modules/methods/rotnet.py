"""RotNet on clips: all frames of a clip are turned by 0, 90, 180 or 270 degrees; which?

Idea: RotNet, https://arxiv.org/abs/1803.07728, for images. To tell how a picture was turned, a network must know what is in it
and how that usually stands. A clip is turned as a whole, one angle for all frames, so motion is evidence as well: things fall
down and people walk upright. The four angles are classes, told by a linear layer on the pooled features; the loss is the
cross-entropy. Turned clips have no seams or other traces, since quarter turns only reorder pixels.

Shapes for R(2+1)D-18 at 16 x 112 x 112: clip [B, 3, 16, 112, 112], features [B, 512], scores [B, 4].

Re-created: there is no official code for clips, and everything but the task is this project's. One angle is drawn for each
clip, uniformly. The paper trains on all four copies of each image in one batch, and says that this is better than one random
angle; `every_angle` does that, at four times the cost of a clip. Videos whose content has no upright side, such as textures
that move, cannot be solved; accuracy is then 25 %.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.augment.flips import RandomFlip
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.output import StepOutput
from modules.layers.drawing.clips import captioned
from modules.training.method import Method
from modules.training.optim import ScheduleSettings, SGDSettings

ANGLES = (0, 90, 180, 270)
"""Degrees, counter-clockwise; a class is a position here."""


def turn(clip: Tensor, quarters: Tensor) -> Tensor:
    """Turn each clip counter-clockwise, all of its frames alike.

    Args:
        clip: [B, T, S, S, C], square frames.
        quarters: int64 [B], 0 to 3 quarter turns.
    """
    quarters = quarters.view(-1, 1, 1, 1, 1)
    turned = torch.where(quarters % 2 == 1, clip.transpose(2, 3), clip)
    turned = torch.where((quarters == 1) | (quarters == 2), turned.flip(2), turned)
    return torch.where(quarters >= 2, turned.flip(3), turned)


class RotNet(Method):
    """Which way up is a clip? (https://arxiv.org/abs/1803.07728)

    Args:
        backbone: encoder, kept after pretraining.
        every_angle: train on all four copies of each clip instead of one with a random angle.
        optim: optimiser and schedule.
        flip: probability of mirroring a clip before it is turned; null takes one half, or 0 if classes of the data
            distinguish left and right.
    """

    def __init__(
        self,
        backbone: VideoCNN | VideoViT,
        every_angle: bool = False,
        optim: ScheduleSettings = SGDSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        flip: float | None = None,
    ) -> None:
        super().__init__(optim)
        self.flip = RandomFlip("model.flip", flip)
        self.backbone, self.every_angle = backbone, every_angle
        self.views_per_clip = len(ANGLES) if every_angle else 1
        self.rotation_head = nn.Linear(backbone.feature_dim, len(ANGLES))

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Turn, encode, tell the angle. Videos are [B, V, T, S, S, 3]."""
        clip = self.flip(self.inputs(batch).flatten(0, 1), generator)
        if self.every_angle:
            label = torch.arange(len(ANGLES), device=clip.device).repeat(len(clip))
            clip = clip.repeat_interleave(len(ANGLES), 0)
        else:
            label = torch.randint(len(ANGLES), (len(clip),), generator=generator, device=clip.device)
        clip = turn(clip, label)
        scores = self.rotation_head(self.backbone(self.normalise(clip))).float()
        guess = scores.argmax(1)
        return {
            "loss": F.cross_entropy(scores, label),
            "log": {"accuracy": (guess == label).float().mean(), "chance": scores.new_full((), 1 / len(ANGLES))},
            "show": {"clip": clip, "label": label, "guess": guess},
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The clips as the encoder sees them, the same turned back, and the angles."""
        show = output["show"]
        texts = [
            f"turned by {ANGLES[label]}, guessed {ANGLES[guess]} degrees"
            for label, guess in zip(show["label"].tolist(), show["guess"].tolist(), strict=True)
        ]
        upright = turn(show["clip"], -show["guess"] % len(ANGLES))
        return {"captioned": captioned(show["clip"], texts), "clip": show["clip"], "turned_back": upright}

    def picture_notes(self) -> dict[str, str]:
        """What the picture says of the guess."""
        return {"turned_back": "turned back by the guessed angle: upright if it is right"}

"""OPN, the order prediction network: in which order were four shuffled frames of a video?

Paper: Lee, Huang, Singh and Yang, https://arxiv.org/abs/1708.01246.

* Four frames of a video are shown in a random order. An order and its reverse are one class, because many motions can be
  reversed: 4! / 2 = 12 classes.
* What would give the order away without looking at the motion is hidden: each frame is cropped at its own place and shows only
  one of its three colours.
* The encoder sees each frame alone, a linear layer follows, then a layer on each pair of frames (`TupleHead`, with batch norm
  of shared statistics and an affine map per pair), and a linear layer on the six pairs; cross-entropy.

Shapes at the published size: clips of 100 px, frames [B, 4, 80, 80, 3], maps of CaffeNet [4 B, 256, 2, 2] as 1024 values,
fc6 1024, pairs [B, 6, 512], logits [B, 12].

Frames are cut from one longer clip on the device: one from each quarter of it. With `frames` above 1, short clips that do not
overlap take the place of frames, for encoders of clips.

Classes and crops equal those of the official code (tests/parity); the rest is re-created from the released network. Its data
layer reads a variable that is not defined (the order of the frames of a tuple); time order is meant. Unverified: how frames
were chosen. Deviations:

* the published tuples and windows were chosen by optical flow, and are in lists; here, each frame is drawn from its quarter in
  proportion to the mean absolute difference of neighbouring frames (`modules.augment.pieces.motion_scores`), and the window
  is the loader's crop.
* linear layers before batch norm have no bias (except `fc7`), and weights have PyTorch's initial values.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.augment.flips import RandomFlip
from modules.augment.frames import FrameAugmentation
from modules.augment.pieces import (
    STILL,
    check_length,
    check_pieces,
    check_source,
    cut_pieces,
    draw_by_weight,
    encode_pieces,
    mean_feature,
    motion_scores,
    runs,
    window_means,
)
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.device import constant
from modules.core.errors import check_whole
from modules.core.output import StepOutput
from modules.layers.drawing.clips import captioned_pieces, mark_frames
from modules.layers.tuple_head import TupleHead
from modules.training.method import Method
from modules.training.optim import ScheduleSettings, SGDSettings

PLACES = 4
ORDERS = (
    (0, 1, 2, 3),
    (0, 2, 1, 3),
    (0, 2, 3, 1),
    (0, 1, 3, 2),
    (0, 3, 1, 2),
    (0, 3, 2, 1),
    (1, 0, 2, 3),
    (1, 0, 3, 2),
    (1, 2, 0, 3),
    (2, 0, 1, 3),
    (2, 0, 3, 1),
    (2, 1, 0, 3),
)
"""The order of each class (official code): which frame in time is shown at each place."""
PAIRS = ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3))
"""Places that are compared, in the official order."""


def labels_of(order: Tensor) -> Tensor:
    """Classes of orders, with that of an order and of its reverse being the same: int64 [B, 4] -> [B]."""
    table = constant(ORDERS, order.dtype, order.device)
    both = torch.stack([table, table.flip(1)])
    return (order[:, None, None] == both).all(3).any(1).long().argmax(1)


class Shuffled(NamedTuple):
    """Shuffled orders of four frames."""

    label: Tensor
    """int64 [B], class"""
    order: Tensor
    """int64 [B, 4], which frame in time is shown at each place"""


def draw_orders(count: int, generator: torch.Generator, device: torch.device) -> Shuffled:
    """Uniform classes, each shown as listed or reversed with equal probability."""
    label = torch.randint(0, len(ORDERS), (count,), generator=generator, device=device)
    order = constant(ORDERS, torch.int64, device)[label]
    reverse = torch.rand(count, generator=generator, device=device) < 0.5
    return Shuffled(label, torch.where(reverse[:, None], order.flip(1), order))


def draw_places(scores: Tensor, frames: int, by_motion: bool, generator: torch.Generator) -> Tensor:
    """A piece from each quarter of a clip.

    Args:
        scores: float [B, T], see `motion_scores`.
        frames: length of a piece.
        by_motion: draw in proportion to the scores; otherwise uniformly.
        generator: source of randomness.

    Returns:
        int64 [B, 4], first frames of the pieces, in time order.
    """
    quarter = scores.shape[1] // PLACES
    parts = scores[:, : PLACES * quarter].unflatten(1, (PLACES, quarter)).flatten(0, 1)
    weight = window_means(parts, frames) + STILL
    chosen = draw_by_weight(weight if by_motion else torch.ones_like(weight), generator).unflatten(0, (-1, PLACES))
    return chosen + quarter * torch.arange(PLACES, device=scores.device)


class SortingHead(nn.Module):
    """Features of four pieces -> logits of the 12 orders.

    Args:
        feature_dim: length of a feature, D.
        hidden: outputs of the layer of each piece.
        dropout: dropout rate after it, and before the logits.
    """

    def __init__(self, feature_dim: int, hidden: int, dropout: float = 0.5) -> None:
        super().__init__()
        linear = nn.Linear(feature_dim, hidden, bias=False)
        self.fc6 = nn.Sequential(linear, nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout))
        self.pairs = TupleHead(hidden, PLACES, len(ORDERS), PAIRS, dropout=dropout, norm=True)

    def forward(self, features: Tensor) -> Tensor:
        """float [B, 4, D] -> float32 logits [B, 12]."""
        logits: Tensor = self.pairs(self.fc6(features.flatten(0, 1)).unflatten(0, (-1, PLACES)))
        return logits


class OPN(Method):
    """Prediction of the order of four shuffled frames (https://arxiv.org/abs/1708.01246), from longer clips.

    Args:
        backbone: encoder of single frames (`CaffeNet`) or of short clips, kept after pretraining.
        augmentation: crop and channel of each frame.
        frames: frames of a piece; 1 shows single frames.
        by_motion: draw frames in proportion to how much the clip changes there; otherwise uniformly.
        hidden: outputs of the linear layer of each frame.
        optim: optimiser and schedule.
        flip: probability of mirroring a clip; null takes one half, or 0 if classes of the data distinguish left and right.
    """

    def __init__(
        self,
        backbone: VideoCNN | VideoViT,
        augmentation: FrameAugmentation = FrameAugmentation(20, 5, True),  # noqa: B008  (never mutated; shows the defaults)
        frames: int = 1,
        by_motion: bool = True,
        hidden: int = 1024,
        optim: ScheduleSettings = SGDSettings(),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(optim)
        check_whole("model", 1, frames=frames, hidden=hidden)
        check_pieces(backbone, "model.frames", frames)
        self.flip = RandomFlip("model.flip", flip)
        self.backbone = backbone
        self.augmentation, self.frames, self.by_motion = augmentation, frames, by_motion
        self.pretext = SortingHead(backbone.feature_dim, hidden)

    @property
    def needed(self) -> int:
        """Fewest frames of a clip."""
        return PLACES * self.frames

    def check_clip(self) -> None:
        """Compare the data's clips with the tuples that are cut out of them."""
        data, reason = getattr(self.trainer, "datamodule", None), f"four pieces of model.frames {self.frames}"
        check_source(data, self.backbone, self.needed, self.augmentation.margin, reason)

    @torch.no_grad()
    def embed(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """Mean feature [B, D] of the pieces of the first clip of each sample."""
        clip = self.inputs(batch, encoder)[:, 0]
        return mean_feature(self.encoder(encoder), clip, self.frames, self.augmentation.margin)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Cut four pieces out of each clip, shuffle, encode, sort. Videos are [B, V, T, H, W, 3]; each clip is a sample."""
        clip = self.flip(self.inputs(batch).flatten(0, 1), generator)
        check_length(clip.shape[1], self.needed, f"four pieces of model.frames {self.frames}")
        place = draw_places(motion_scores(clip), self.frames, self.by_motion, generator)
        label, order = draw_orders(len(clip), generator, clip.device)
        index = runs(place.gather(1, order), self.frames)
        pieces, _ = self.augmentation(cut_pieces(clip, index), generator)
        logits = self.pretext(encode_pieces(self.backbone, pieces))
        found = logits.detach().argmax(1)
        return {
            "loss": F.cross_entropy(logits, label),
            "log": {
                "top1": (found == label).float().mean(),
                "chance": torch.full((), 1 / len(ORDERS), device=clip.device),
            },
            "show": {"clip": clip, "pieces": pieces, "index": index, "order": order, "found": found},
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The clip with the shown frames marked, and the frames in the order shown, each with its true and its guessed place in
        time. A guess says nothing of the direction; it is written in the one that is closer to the truth."""
        show, captions = output["show"], []
        for true, found in zip(show["order"].tolist(), show["found"].tolist(), strict=True):
            guesses = (ORDERS[found], ORDERS[found][::-1])
            guess = max(guesses, key=lambda one: sum(a == b for a, b in zip(one, true, strict=True)))
            captions.append([f"time {a + 1}, guess {b + 1}" for a, b in zip(true, guess, strict=True)])
        return {"clip": mark_frames(show["clip"], show["index"]), "captioned": captioned_pieces(show["pieces"], captions)}

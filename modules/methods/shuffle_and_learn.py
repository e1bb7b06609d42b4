"""Shuffle & Learn: are three frames of a video in their order in time?

Paper: Misra, Zitnick and Hebert, https://arxiv.org/abs/1603.08561.

* Five frames a < b < c < d < e of a video are chosen. The positive tuple is (b, c, d). The negative ones, (b, a, d) and
  (b, e, d), share its first and last frame; only the frame in the middle is from outside. So the ends say nothing.
* b and d are at most `far` frames apart, which bounds the difficulty, and a and e at least `near` frames outside.
* Three of four tuples are negative. Half of all tuples are reversed as a whole, which does not change the answer.
* The encoder sees each frame alone. Two linear layers follow for each frame, with batch norm without affine map and dropout;
  the three results are concatenated, and a linear layer gives two logits; cross-entropy.

Shapes at the published size: frames [B, 3, 227, 227, 3], maps of CaffeNet [3 B, 256, 6, 6] as 9216 values, then 4096 and 4096,
concatenated 12,288, logits [B, 2].

Frames are cut from one longer clip on the device: data.clip.frames bounds how far a and e are from the others. With `frames`
above 1, short clips that do not overlap take the place of frames, for encoders of clips.

Re-created from the paper and the released network and solver; the tuples themselves were published as lists, not as code.
Unverified: how frames were drawn, `near` 15, `far` 60, the share of negatives, reversed tuples. Deviations:

* the published tuples were chosen by the magnitude of optical flow; here, the place of b and d is drawn in proportion to the
  mean absolute difference of neighbouring frames (`modules.augment.pieces.motion_scores`).
* tuples whose outer frame looks like the one in the middle are not rejected.
* where the clip has room on one side only, the outer frame is from that side.
* linear layers before batch norm have no bias, and weights have PyTorch's initial values.
"""

from dataclasses import dataclass
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
    uniform_whole,
)
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.errors import SettingError, check_range, check_whole
from modules.core.output import StepOutput
from modules.layers.drawing.clips import captioned_pieces, mark_frames
from modules.layers.heads import linear_in_float32
from modules.training.method import Method
from modules.training.optim import ScheduleSettings, SGDSettings

FIRST, MIDDLE, LAST = range(3)


@dataclass
class TripleSettings:
    """Which three frames of a clip are shown.

    Args:
        near: fewest frames between a frame from outside and the nearest end of the tuple (tau_min).
        far: most frames between the first and the last frame of a tuple (tau_max).
        negatives: share of tuples that are out of order.
        reverse: share of tuples that are shown from the last to the first frame.
        frames: frames of a piece; 1 shows single frames.
        motion: draw the place of a tuple in proportion to how much the clip changes there; otherwise uniformly.
    """

    near: int = 15
    far: int = 60
    negatives: float = 0.75
    reverse: float = 0.5
    frames: int = 1
    motion: bool = True

    def __post_init__(self) -> None:
        check_whole("model.triples", 1, near=self.near, far=self.far, frames=self.frames)
        check_range("model.triples", 0, 1, negatives=self.negatives, reverse=self.reverse)
        if self.far < 2 * self.frames:
            raise SettingError(
                f"model.triples.far is {self.far}, which leaves no room between the ends for {self.frames} frame(s); set it to "
                f"{2 * self.frames} or more."
            )

    @property
    def outside(self) -> int:
        """Fewest frames from the start of a piece outside to that of the nearest end; pieces do not overlap."""
        return max(self.near, self.frames)

    @property
    def needed(self) -> int:
        """Fewest frames of a clip."""
        return 3 * self.frames + self.outside


class Triples(NamedTuple):
    """Places in clips, by the first frame of each piece, int64 [B]."""

    first: Tensor
    """b"""
    inside: Tensor
    """c"""
    outside: Tensor
    """a or e"""
    last: Tensor
    """d"""
    in_order: Tensor
    """bool [B], whether `inside` is shown"""
    reverse: Tensor
    """bool [B], whether the tuple is shown backwards"""

    def shown(self) -> Tensor:
        """The three pieces as shown: int64 [B, 3]."""
        middle = torch.where(self.in_order, self.inside, self.outside)
        triple = torch.stack([self.first, middle, self.last], dim=1)
        return torch.where(self.reverse[:, None], triple.flip(1), triple)


def draw_triples(scores: Tensor, settings: TripleSettings, generator: torch.Generator) -> Triples:
    """Draw a tuple for each clip.

    The distance of the ends is uniform, then their place is drawn among those with room outside, then the frames inside and
    outside. The distribution of the ends is the same for positive and negative tuples.

    Args:
        scores: float [B, T], see `motion_scores`.
        settings: settings of the tuples.
        generator: source of randomness.

    Raises:
        SettingError: if the clips are too short.
    """
    count, frames = scores.shape
    width, outside, device = settings.frames, settings.outside, scores.device
    check_length(frames, settings.needed, f"model.triples.near {settings.near} and frames {width}")
    final = frames - width  # last place of a piece
    gap = torch.randint(2 * width, min(settings.far, final - outside) + 1, (count,), generator=generator, device=device)
    place = torch.arange(final + 1, device=device)
    end = place + gap[:, None]
    room = (end <= final) & ((place >= outside) | (end + outside <= final))
    total = F.pad(scores, (1, 0)).cumsum(1)
    motion = total.gather(1, (end + width).clamp(max=frames)) - total[:, : final + 1]
    weight = motion / (gap + width)[:, None] + STILL if settings.motion else torch.ones_like(motion)
    first = draw_by_weight(weight * room, generator)
    last = first + gap
    inside = uniform_whole(first + width, last - width, generator)
    before = uniform_whole(torch.zeros_like(first), first - outside, generator)
    after = uniform_whole(last + outside, torch.full_like(last, final), generator)
    chance, negative, reverse = torch.rand((count, 3), generator=generator, device=device).unbind(1)
    is_before = (first >= outside) & ((chance < 0.5) | (last + outside > final))
    return Triples(
        first,
        inside,
        torch.where(is_before, before, after),
        last,
        negative >= settings.negatives,
        reverse < settings.reverse,
    )


class VerificationHead(nn.Module):
    """Features of three pieces -> two logits.

    Args:
        feature_dim: length of a feature, D.
        hidden: outputs of the two layers of each piece.
        dropout: dropout rate after each of them.
    """

    def __init__(self, feature_dim: int, hidden: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.fc6 = _layer(feature_dim, hidden, dropout)
        self.fc7 = _layer(hidden, hidden, dropout)
        self.fc8 = nn.Linear(3 * hidden, 2)

    def forward(self, features: Tensor) -> Tensor:
        """float [B, 3, D] -> float32 logits [B, 2]; the second is that of 'in order'."""
        each = self.fc7(self.fc6(features.flatten(0, 1)))
        return linear_in_float32(self.fc8, each.unflatten(0, (-1, 3)).flatten(1))


def _layer(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    norm = nn.BatchNorm1d(outputs, affine=False)
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), norm, nn.ReLU(), nn.Dropout(dropout))


class ShuffleAndLearn(Method):
    """Verification of the order of three frames (https://arxiv.org/abs/1603.08561), from longer clips.

    Args:
        backbone: encoder of single frames (`CaffeNet`) or of short clips, kept after pretraining.
        triples: which frames are shown.
        augmentation: crop and channel of each frame. The paper has none; OPN's hide low-level cues.
        hidden: outputs of the two linear layers of each frame.
        optim: optimiser and schedule.
        flip: probability of mirroring a clip; null takes one half, or 0 if classes of the data distinguish left and right.
    """

    def __init__(
        self,
        backbone: VideoCNN | VideoViT,
        triples: TripleSettings = TripleSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        augmentation: FrameAugmentation = FrameAugmentation(),  # noqa: B008
        hidden: int = 4096,
        optim: ScheduleSettings = SGDSettings(),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(optim)
        check_whole("model", 1, hidden=hidden)
        check_pieces(backbone, "model.triples.frames", triples.frames)
        self.flip = RandomFlip("model.flip", flip)
        self.backbone = backbone
        self.triples, self.augmentation = triples, augmentation
        self.pretext = VerificationHead(backbone.feature_dim, hidden)

    def check_clip(self) -> None:
        """Compare the data's clips with the tuples that are cut out of them."""
        reason = f"model.triples.near {self.triples.near} and frames {self.triples.frames}"
        data = getattr(self.trainer, "datamodule", None)
        check_source(data, self.backbone, self.triples.needed, self.augmentation.margin, reason)

    @torch.no_grad()
    def embed(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """Mean feature [B, D] of the pieces of the first clip of each sample."""
        clip = self.inputs(batch, encoder)[:, 0]
        return mean_feature(self.encoder(encoder), clip, self.triples.frames, self.augmentation.margin)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Cut a tuple out of each clip, encode its pieces, answer. Videos are [B, V, T, H, W, 3]; each clip is a sample."""
        clip = self.flip(self.inputs(batch).flatten(0, 1), generator)
        triples = draw_triples(motion_scores(clip), self.triples, generator)
        # The fourth piece is drawn in pictures only: the frame that the middle should be.
        index = runs(torch.cat([triples.shown(), triples.inside[:, None]], dim=1), self.triples.frames)
        pieces, _ = self.augmentation(cut_pieces(clip, index), generator)
        logits = self.pretext(encode_pieces(self.backbone, pieces[:, :3]))
        label = triples.in_order.long()
        share = self.triples.negatives
        return {
            "loss": F.cross_entropy(logits, label),
            "log": {
                "top1": (logits.detach().argmax(1) == label).float().mean(),
                "chance": torch.full((), max(share, 1 - share), device=clip.device),
            },
            "show": {
                "clip": clip,
                "pieces": pieces,
                "index": index[:, :3],
                "label": label,
                "probability": logits.detach().softmax(1),
            },
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The clip with the shown frames marked, and the tuple as shown with the frame that belongs in its middle."""
        show = output["show"]
        captions = []
        for label, share in zip(show["label"].tolist(), show["probability"][:, 1].tolist(), strict=True):
            answer = f"in order: {'yes' if label else 'no'}"
            captions.append([answer, f"guess: {'yes' if share > 0.5 else 'no'} ({share:.0%} yes)", "last shown", "true middle"])
        return {"clip": mark_frames(show["clip"], show["index"]), "captioned": captioned_pieces(show["pieces"], captions)}

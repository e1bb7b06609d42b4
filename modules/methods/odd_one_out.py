"""Odd-One-Out (O3N): which of several sub-sequences of a video has its frames in a wrong order?

Paper: Fernando, Bilen, Gavves and Gould, https://arxiv.org/abs/1611.06646.

* N + 1 = 6 sub-sequences of 6 frames are taken from a video. The frames of five are in their order in time. Those of one, the
  odd one, are taken by the same rule and then permuted, but not into their own order or its reverse.
* The answer is the index of the odd one, which is uniform over the 6 places.
* The encoder sees each sub-sequence alone: as one picture made of the differences of its frames (`CaffeNet` with
  model.backbone.encoding `stack_of_differences`, the best, or `sum_of_differences`), or as a clip, for encoders of clips.
* A linear layer of 128 outputs follows for each; the results are fused by the sum of all pairwise differences (the best), or
  concatenated; then a layer of 128 and 6 logits; cross-entropy.

Shapes at the published size: sub-sequences [B, 6, 6, 227, 227, 3], pictures of 15 channels [6 B, 15, 227, 227], maps of
CaffeNet [6 B, 256, 6, 6] as 9216 values, then [B, 6, 128], fused [B, 128], logits [B, 6].

Sub-sequences are cut from one longer clip on the device, and may overlap.

Re-created from the paper; there is no official code. Unverified: all numbers, the size of the window of constrained sampling
(1.5 sub-sequences), that differences are not absolute, layers and dropout after the fusion. Not included: dynamic images.
Deviations: the window of constrained sampling is drawn in proportion to the mean absolute difference of neighbouring frames
(`modules.augment.pieces.motion_scores`), where published tuples of such methods used optical flow; weights have PyTorch's
initial values.
"""

import math
from dataclasses import dataclass
from typing import Literal

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
from modules.backbones.cnn.caffenet import CaffeNet
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.errors import SettingError, check_range, check_whole
from modules.core.output import StepOutput
from modules.layers.drawing.clips import captioned_pieces, mark_frames
from modules.layers.heads import linear_in_float32
from modules.training.method import Method
from modules.training.optim import ScheduleSettings, SGDSettings

LONGEST = 20
"""Frames of a sub-sequence; 20! is the largest number of orders that int64 can count."""


@dataclass
class SequenceSettings:
    """Which sub-sequences of a clip are shown.

    Args:
        even: sub-sequences in their order in time, N; there is one more.
        frames: frames of a sub-sequence, W.
        sampling: `consecutive` frames from anywhere; `sorted` random frames; or `constrained`, consecutive frames from one
            window of the clip that is a little longer than a sub-sequence.
        window: length of that window, in sub-sequences.
        motion: draw the window in proportion to how much the clip changes there; otherwise uniformly.
    """

    even: int = 5
    frames: int = 6
    sampling: Literal["consecutive", "sorted", "constrained"] = "constrained"
    window: float = 1.5
    motion: bool = True

    def __post_init__(self) -> None:
        check_whole("model.sequences", 1, even=self.even)
        # Two frames have no order besides their own and its reverse.
        check_whole("model.sequences", 3, LONGEST, frames=self.frames)
        check_range("model.sequences", 1, window=self.window)

    @property
    def count(self) -> int:
        """N + 1"""
        return self.even + 1

    @property
    def needed(self) -> int:
        """Fewest frames of a clip."""
        return math.ceil(self.window * self.frames) if self.sampling == "constrained" else self.frames


def draw_sequences(scores: Tensor, settings: SequenceSettings, generator: torch.Generator) -> Tensor:
    """Frames of the sub-sequences in time order.

    Args:
        scores: float [B, T], see `motion_scores`.
        settings: settings of the sub-sequences.
        generator: source of randomness.

    Returns:
        int64 [B, N + 1, W]

    Raises:
        SettingError: if the clips are too short.
    """
    total, device, each = scores.shape[1], scores.device, (len(scores), settings.count)
    check_length(total, settings.needed, f"model.sequences.frames {settings.frames} by {settings.sampling} sampling")
    if settings.sampling == "sorted":
        mixed = torch.rand((*each, total), generator=generator, device=device).argsort(-1)
        return mixed[..., : settings.frames].sort(-1).values
    length = settings.needed if settings.sampling == "constrained" else total
    weight = window_means(scores, length) + STILL
    window = draw_by_weight(weight if settings.motion else torch.ones_like(weight), generator)
    start = torch.randint(0, length - settings.frames + 1, each, generator=generator, device=device)
    return runs(window[:, None] + start, settings.frames)


def draw_odd_orders(count: int, frames: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Uniform permutations except for the identity and its reverse.

    Permutations are numbered lexicographically, so that these two are the first and the last.

    Args:
        count: B.
        frames: W, from 3 to 20.
        generator: source of randomness.
        device: where to make them.

    Returns:
        int64 [B, W]
    """
    number = torch.randint(1, math.factorial(frames) - 1, (count,), generator=generator, device=device)
    return nth_permutations(number, frames)


def nth_permutations(number: Tensor, frames: int) -> Tensor:
    """Permutations by their lexicographic number: int64 [B] -> [B, frames]."""
    digits = []
    for place in range(frames):
        below = math.factorial(frames - 1 - place)
        digits.append(number // below)
        number = number % below
    # Each digit counts the smaller elements among those that are left.
    order = digits[-1][:, None]
    for digit in digits[-2::-1]:
        order = torch.cat([digit[:, None], order + (order >= digit[:, None])], dim=1)
    return order


def fuse_differences(features: Tensor) -> Tensor:
    """Sum of the differences of all pairs, later minus earlier: float [B, n, D] -> [B, D]."""
    count = features.shape[1]
    # Place k is the later one of k pairs, and the earlier one of count - 1 - k.
    factor = 2 * torch.arange(count, device=features.device, dtype=features.dtype) - (count - 1)
    return (features * factor[:, None]).sum(1)


class OddHead(nn.Module):
    """Features of the sub-sequences -> logits of which one is odd.

    Args:
        feature_dim: length of a feature, D.
        count: sub-sequences, n.
        hidden: outputs of the layer of each, and of the one after the fusion.
        fusion: `sumdiff` or `concat`.
        dropout: dropout rate before the logits.
    """

    def __init__(
        self, feature_dim: int, count: int, hidden: int, fusion: Literal["sumdiff", "concat"], dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.fc6 = nn.Linear(feature_dim, hidden)
        self.fc7 = nn.Linear(hidden * (count if fusion == "concat" else 1), hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc8 = nn.Linear(hidden, count)

    def forward(self, features: Tensor) -> Tensor:
        """float [B, n, D] -> float32 logits [B, n]."""
        each = F.relu(self.fc6(features))
        fused = each.flatten(1) if self.fusion == "concat" else fuse_differences(each.float())
        return linear_in_float32(self.fc8, self.dropout(F.relu(self.fc7(fused))))


class OddOneOut(Method):
    """Odd-one-out of sub-sequences (https://arxiv.org/abs/1611.06646), from longer clips.

    Args:
        backbone: encoder of sub-sequences, kept after pretraining.
        sequences: which sub-sequences are shown.
        fusion: `sumdiff`, the sum of all pairwise differences, or `concat`.
        augmentation: crop and channel of each sub-sequence. The paper has none; OPN's hide low-level cues.
        hidden: outputs of the linear layer of each sub-sequence.
        optim: optimiser and schedule.
        flip: probability of mirroring a clip; null takes one half, or 0 if classes of the data distinguish left and right.

    Raises:
        SettingError: if the answer could not depend on every sub-sequence and on the order of its frames.
    """

    def __init__(
        self,
        backbone: VideoCNN | VideoViT,
        sequences: SequenceSettings = SequenceSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        fusion: Literal["sumdiff", "concat"] = "sumdiff",
        augmentation: FrameAugmentation = FrameAugmentation(),  # noqa: B008
        hidden: int = 128,
        optim: ScheduleSettings = SGDSettings(),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(optim)
        check_whole("model", 1, hidden=hidden)
        check_pieces(backbone, "model.sequences.frames", sequences.frames)
        if fusion == "sumdiff" and sequences.count % 2:
            raise SettingError(
                f"model.sequences.even is {sequences.even}: the sum of differences of {sequences.count} sub-sequences does not "
                "contain the middle one; set it to an odd number, or model.fusion to concat."
            )
        if isinstance(backbone, CaffeNet) and backbone.encoding == "frames":
            raise SettingError(
                "model.backbone.encoding is frames, and the mean feature of single frames does not depend on their order; set "
                "it to stack_of_differences."
            )
        self.flip = RandomFlip("model.flip", flip)
        self.backbone = backbone
        self.sequences, self.augmentation = sequences, augmentation
        self.pretext = OddHead(backbone.feature_dim, sequences.count, hidden, fusion)

    def check_clip(self) -> None:
        """Compare the data's clips with the sub-sequences that are cut out of them."""
        settings, data = self.sequences, getattr(self.trainer, "datamodule", None)
        reason = f"model.sequences.frames {settings.frames} by {settings.sampling} sampling"
        check_source(data, self.backbone, settings.needed, self.augmentation.margin, reason)

    @torch.no_grad()
    def embed(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """Mean feature [B, D] of consecutive sub-sequences of the first clip of each sample."""
        clip = self.inputs(batch, encoder)[:, 0]
        return mean_feature(self.encoder(encoder), clip, self.sequences.frames, self.augmentation.margin)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Cut sub-sequences out of each clip, permute one, encode, find it. Videos are [B, V, T, H, W, 3]; each clip is a
        sample."""
        clip = self.flip(self.inputs(batch).flatten(0, 1), generator)
        index = draw_sequences(motion_scores(clip), self.sequences, generator)
        label = torch.randint(0, self.sequences.count, (len(clip),), generator=generator, device=clip.device)
        order = draw_odd_orders(len(clip), self.sequences.frames, generator, clip.device)
        is_odd = label[:, None] == torch.arange(self.sequences.count, device=clip.device)
        index = torch.where(is_odd[..., None], index.gather(2, order[:, None].expand_as(index)), index)
        pieces, _ = self.augmentation(cut_pieces(clip, index), generator)
        logits = self.pretext(encode_pieces(self.backbone, pieces))
        return {
            "loss": F.cross_entropy(logits, label),
            "log": {
                "top1": (logits.detach().argmax(1) == label).float().mean(),
                "chance": torch.full((), 1 / self.sequences.count, device=clip.device),
            },
            "show": {
                "clip": clip,
                "pieces": pieces,
                "index": index,
                "label": label,
                "probability": logits.detach().softmax(1),
            },
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The clip with the frames of all sub-sequences marked, and a column for each sub-sequence, with its probability."""
        show, captions = output["show"], []
        for label, shares in zip(show["label"].tolist(), show["probability"].tolist(), strict=True):
            best = shares.index(max(shares))
            marks = [" is odd," * (place == label) + " guess" * (place == best) for place in range(len(shares))]
            captions.append([f"{share:.0%}{mark}" for share, mark in zip(shares, marks, strict=True)])
        return {"clip": mark_frames(show["clip"], show["index"]), "captioned": captioned_pieces(show["pieces"], captions)}

"""Labels of a frame from those of earlier frames, by the similarity of their features; nothing is trained.

Both published forms are here. In each, every token of a frame takes the mean label of the most similar tokens in the first
frame and in the last few, weighted with a softmax of their cosines; labels stay soft and are not normalised again.

* `videowalk` (https://arxiv.org/abs/2006.14613, also SiamMAE and CropMAE; official code): the context is the first frame and
  the last `context` ones. The video continues to the left with copies of its first frame, which take several of the best
  places. In the last frames, tokens count that are less than `radius` tokens away (Euclidean); in the first frame, all do.
* `dino` (https://arxiv.org/abs/2104.14294, official code): no copies; tokens count in a square window of `radius` tokens to
  each side, in the first frame too; all that equal the last of the best count.

Only tokens within reach are compared, one tile of the frame at a time, and no more than the context is kept; the result is that
of comparing all (tests/downstream/test_propagation.py).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.core.device import full_float32
from modules.core.errors import SettingError, check_positive, check_whole

Variant = Literal["videowalk", "dino"]
BLOCK = 64
"""Similarities of which only the largest is compared at first."""


@dataclass
class PropagationSettings:
    """How labels are propagated. The values are those of CropMAE on DAVIS.

    Args:
        variant: Published form, videowalk or dino.
        context: Frames before the current one that are compared, in addition to the first (DINO: 7).
        topk: Most similar tokens whose labels are averaged (DINO: 5).
        radius: Distance of compared tokens, in tokens: strictly less for videowalk, a whole number for dino (DINO: 12).
        temperature: Temperature of the softmax over their cosines (DINO: 0.1).
        norm_mask: Scale the labels of each token from 0 to 1, an option of videowalk's code, off there as well. The dino form
            always scales each label over the frame.
        bf16: Compare features in bfloat16, which is faster on a GPU; weights and labels stay in float32.
        tile: Side of the tiles in tokens; it changes memory and time, not the result.
    """

    variant: Variant = "videowalk"
    context: int = 20
    topk: int = 7
    radius: float = 20.0
    temperature: float = 0.7
    norm_mask: bool = False
    bf16: bool = False
    tile: int = 16

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise SettingError(f"model.rule.variant is {self.variant}; it must be one of {', '.join(get_args(Variant))}.")
        check_whole("model.rule", 1, context=self.context, topk=self.topk, tile=self.tile)
        check_positive("model.rule", radius=self.radius, temperature=self.temperature)
        if self.variant == "dino" and (self.norm_mask or self.radius != int(self.radius)):
            raise SettingError(
                f"model.rule.variant is dino, model.rule.radius {self.radius:g} and model.rule.norm_mask {self.norm_mask}; "
                "dino takes a whole number and false."
            )

    @property
    def reach(self) -> int:
        """Largest distance of a compared row or column."""
        return int(self.radius) if self.variant == "dino" else math.ceil(self.radius) - 1


class Propagator:
    """Propagates labels through one video, frame by frame. It keeps the features of the context only.

    Args:
        features: float [C, h, w], of the first frame.
        labels: float [L, h, w], soft labels of the first frame.
        settings: settings of the propagation.
    """

    def __init__(self, features: Tensor, labels: Tensor, settings: PropagationSettings) -> None:
        self.settings = settings
        self.first = self._unit(features)
        """[h, w, C]"""
        rows = labels.float().permute(1, 2, 0).contiguous()
        # In videowalk's code, the option changes the labels of the first frame in memory, but not those of its copies.
        self.first_labels = scaled(rows) if settings.norm_mask else rows
        self.copied_labels = rows
        """float32 [h, w, L], those of the copies of the first frame"""
        self.recent = self.first.new_zeros(settings.context, *self.first.shape)
        self.recent_labels = rows.new_zeros(settings.context, *rows.shape)
        """[context, h, w, ...] of the last frames, in turns: the order of the context does not matter"""
        self.done = 0
        """Frames after the first"""

    def step(self, features: Tensor) -> Tensor:
        """Labels of the next frame.

        Args:
            features: float [C, h, w]

        Returns:
            float32 [L, h, w]
        """
        frame = self._unit(features)
        height, width = frame.shape[:2]
        side, labels = self.settings.tile, torch.empty_like(self.copied_labels)
        with full_float32(frame.device):
            for top in range(0, height, side):
                for left in range(0, width, side):
                    tile = slice(top, min(top + side, height)), slice(left, min(left + side, width))
                    labels[tile] = self._tile(frame[tile], *tile).view_as(labels[tile])
        self._keep(frame, labels)
        return (scaled(labels) if self.settings.norm_mask else labels).permute(2, 0, 1)

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Take the next frame with known labels, float [C, h, w] and [L, h, w], into the context."""
        self._keep(self._unit(features), labels.float().permute(1, 2, 0))

    def _keep(self, frame: Tensor, labels: Tensor) -> None:
        place = self.done % self.settings.context
        self.recent[place], self.recent_labels[place] = frame, labels
        self.done += 1

    def _unit(self, features: Tensor) -> Tensor:
        """[C, h, w] -> [h, w, C], of unit length."""
        unit = F.normalize(features.float(), dim=0).permute(1, 2, 0).contiguous()
        return unit.bfloat16() if self.settings.bf16 else unit

    def _tile(self, queries: Tensor, rows: slice, columns: slice) -> Tensor:
        """Labels of the tokens of a tile, [y, x, C] -> float32 [y * x, L]."""
        settings, reach = self.settings, self.settings.reach
        filled = min(self.done, settings.context)
        near = tuple(
            slice(max(0, part.start - reach), min(part.stop + reach, side))
            for part, side in zip((rows, columns), self.first.shape[:2], strict=True)
        )
        is_near = self._within((rows, columns), near)
        flat = queries.flatten(0, 1)
        recent = self.recent[(slice(filled), *near)].flatten(1, 2)
        recent_labels = self.recent_labels[(slice(filled), *near)].flatten(0, 2)
        first, first_labels = self.first[near].flatten(0, 1)[None], self.first_labels[near].flatten(0, 1)
        if settings.variant == "dino":
            similarity = _similarity(flat, torch.cat([first, recent]), is_near)
            return _all_of_the_best(similarity, torch.cat([first_labels, recent_labels]), settings)
        anywhere = _best(_similarity(flat, self.first.flatten(0, 1)[None]), self.first_labels.flatten(0, 1), settings.topk)
        found = [anywhere]
        if filled:
            found.append(_best(_similarity(flat, recent, is_near), recent_labels, settings.topk))
        if copies := settings.context - filled:
            values, labels = _best(_similarity(flat, first, is_near), self.copied_labels[near].flatten(0, 1), settings.topk)
            found.append((values.repeat(1, copies), labels.repeat(1, copies, 1)))
        values, labels = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        best, index = values.topk(min(settings.topk, values.shape[1]))
        weights = (best / settings.temperature).softmax(1)
        chosen = labels.gather(1, index[..., None].expand(-1, -1, labels.shape[2]))
        return (weights[..., None] * chosen).sum(1)

    def _within(self, tile: tuple[slice, ...], window: tuple[slice, ...]) -> Tensor:
        """Which tokens of a window each token of a tile is compared with: bool [tile, window]."""
        device = self.first.device
        down, across = (
            torch.arange(there.start, there.stop, device=device) - torch.arange(here.start, here.stop, device=device)[:, None]
            for here, there in zip(tile, window, strict=True)
        )
        down, across = down[:, None, :, None], across[None, :, None, :]
        if self.settings.variant == "dino":
            inside = (down.abs() <= self.settings.radius) & (across.abs() <= self.settings.radius)
        else:
            inside = down.square() + across.square() < self.settings.radius**2
        return inside.flatten(2, 3).flatten(0, 1)


def propagate(features: Tensor, first: Tensor, settings: PropagationSettings) -> Tensor:
    """Labels of all frames of a video.

    Args:
        features: float [T, C, h, w].
        first: float [L, h, w], soft labels of the first frame.
        settings: settings of the propagation.

    Returns:
        float32 [T, L, h, w]
    """
    propagator = Propagator(features[0], first, settings)
    return torch.stack([propagator.first_labels.permute(2, 0, 1), *(propagator.step(frame) for frame in features[1:])])


def scaled(labels: Tensor) -> Tensor:
    """Labels of each token from 0 to 1: float [..., L]; equal ones are left alone."""
    least = labels.amin(-1, keepdim=True)
    spread = labels.amax(-1, keepdim=True) - least
    return torch.where(spread > 0, (labels - least) / spread, labels)


def _similarity(queries: Tensor, keys: Tensor, near: Tensor | None = None) -> Tensor:
    """Cosines [Q, n * S] of queries [Q, C] with keys [n, S, C]; minus infinity where `near`, bool [Q, S], is false."""
    similarity = queries @ keys.flatten(0, 1).T
    if near is not None:
        similarity.view(len(queries), -1, near.shape[1]).masked_fill_(~near[:, None], -math.inf)
    return similarity


def _best(similarity: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest similarities, float32 [Q, k], and the labels of these keys, [Q, k, L]."""
    values, index = largest(similarity, min(k, similarity.shape[1]))
    return values.float(), labels[index]


def _all_of_the_best(similarity: Tensor, labels: Tensor, settings: PropagationSettings) -> Tensor:
    """Mean labels [Q, L] of all keys that are at least as similar as the k-th."""
    best = largest(similarity, min(settings.topk, similarity.shape[1])).values
    raised = (similarity.float() - best[:, :1].float()) / settings.temperature
    weights = torch.where(similarity >= best[:, -1:], raised.exp(), 0)
    return (weights @ labels) / weights.sum(1, keepdim=True)


def largest(values: Tensor, k: int) -> "torch.return_types.topk":
    """`values.topk(k)` of long rows, [Q, n], faster: the k largest are in the k blocks with the largest maxima."""
    count = values.shape[1] // BLOCK
    if count <= 2 * k:
        return values.topk(k)
    blocks = values[:, : count * BLOCK].unflatten(1, (count, BLOCK))
    chosen = blocks.amax(2).topk(k).indices
    inside = blocks.gather(1, chosen[..., None].expand(-1, -1, BLOCK)).flatten(1)
    best = torch.cat([inside, values[:, count * BLOCK :]], 1).topk(k)
    number, rest = best.indices // BLOCK, best.indices % BLOCK
    of_block = chosen.gather(1, number.clamp_max(k - 1)) * BLOCK + rest
    index = torch.where(number < k, of_block, best.indices + (count - k) * BLOCK)
    return torch.return_types.topk((best.values, index))

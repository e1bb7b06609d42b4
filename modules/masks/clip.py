"""Masks over all tokens of a clip, regardless of time slices: random ones for pretraining, and the late or the middle part of
the clip, which the network then continues or interpolates.

Papers: MAE-ST, https://arxiv.org/abs/2205.09113, and a child's perspective, https://arxiv.org/abs/2402.00300 (official code).

All leave floor((1 - ratio) * tokens) tokens visible, computed in float64 as in the official code: 204 of 2048 at 0.9.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from modules.core.tokens import Grid
from modules.masks.base import Mask, MaskGenerator, hide_smallest, mask_from_bool


class ClipMask(MaskGenerator):
    """Base class of masks over all tokens of a clip. The tokens with the largest scores are visible.

    Args:
        ratio: fraction of masked tokens.
    """

    per_slice = False

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = ratio

    def masked_count(self, grid: Grid) -> int:
        """Masked tokens per clip."""
        return grid.tokens - int(grid.tokens * (1 - self.ratio))

    @abstractmethod
    def scores(self, count: int, grid: Grid, generator: torch.Generator) -> Tensor:
        """Scores [count, N] of the tokens, all different in a row, on the generator's device."""

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`; `boxes` are ignored."""
        masked = self.masked_count(grid)
        return mask_from_bool(hide_smallest(self.scores(count, grid, generator), masked), masked)


class UniformMask(ClipMask):
    """Uniformly random tokens of the clip: the mask of MAE-ST. Slices have different numbers of them.

    Args:
        ratio: fraction of masked tokens.
    """

    def scores(self, count: int, grid: Grid, generator: torch.Generator) -> Tensor:
        """See `ClipMask.scores`."""
        return torch.rand(count, grid.tokens, generator=generator, device=generator.device)


class TemporalMask(ClipMask):
    """The last part of the clip, the same for all clips: the network continues the first part. Nothing is random.

    Args:
        ratio: fraction of masked tokens.
    """

    def scores(self, count: int, grid: Grid, generator: torch.Generator) -> Tensor:
        """See `ClipMask.scores`."""
        return -torch.arange(grid.tokens, device=generator.device).expand(count, -1)


class CenterMask(ClipMask):
    """The middle of the clip in time, the same for all clips: the network interpolates between the ends. Nothing is random.

    The tokens nearest to either end of the sequence in the order t, h, w are visible; at 0.5, the first and the last quarter of
    the slices. Of an odd number, the beginning has one more (in the official code, the order of equal distances is undefined).

    Args:
        ratio: fraction of masked tokens.
    """

    def scores(self, count: int, grid: Grid, generator: torch.Generator) -> Tensor:
        """See `ClipMask.scores`."""
        place = torch.arange(grid.tokens, device=generator.device)
        last = grid.tokens - 1
        return -torch.minimum(2 * place, 2 * (last - place) + 1).expand(count, -1)

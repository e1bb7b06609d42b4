"""Masks that are independent of the pixels: tubes over time, random tokens, running cells."""

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.tokens import Grid
from modules.masks.base import Mask, MaskGenerator, mask_from_bool


class TubeMask(MaskGenerator):
    """One random spatial mask per clip, repeated over all time slices (VideoMAE, official code).

    Args:
        ratio: fraction of masked tokens; floor(ratio * tokens per slice) in each slice.
    """

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = ratio

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`; `boxes` are ignored."""
        noise = torch.rand(count, grid.slice_tokens, generator=generator, device=generator.device)
        return self.keep_largest(noise[:, None], grid)


class RandomMask(MaskGenerator):
    """Random tokens, independent of their neighbours in space and time.

    Args:
        ratio: fraction of masked tokens.
        per_slice: mask floor(ratio * tokens per slice) in each slice; false masks floor(ratio * tokens) of the clip.
    """

    def __init__(self, ratio: float = 0.9, per_slice: bool = True) -> None:
        self.ratio, self.per_slice = ratio, per_slice

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`; `boxes` are ignored."""
        noise = torch.rand(count, grid.t, grid.slice_tokens, generator=generator, device=generator.device)
        return self.keep_largest(noise, grid)


class RunningCellMask(MaskGenerator):
    """Identical cells of 2 x 2 tokens whose masked positions shift from slice to slice: the decoder mask of VideoMAE V2.

    The positions of a cell are numbered row by row. In each slice, 4 * ratio consecutive positions are masked (cyclically), and
    the pattern shifts back by one position per slice; its offset is drawn uniformly per clip. So over four slices, every token
    is visible equally often. The cells, the ratio 0.5 and the shift over time are from the paper; the order of the positions
    and the shift by one position per slice are from the official code.

    Args:
        ratio: fraction of masked tokens: 0.25, 0.5 or 0.75.
    """

    def __init__(self, ratio: float = 0.5) -> None:
        self.ratio = ratio

    def check(self, grid: Grid, setting: str = "model.mask") -> None:
        """See `MaskGenerator.check`; cells must also fill the slice."""
        if self.ratio not in (0.25, 0.5, 0.75):
            raise SettingError(f"{setting}.ratio is {self.ratio}; cells of 2 x 2 tokens need 0.25, 0.5 or 0.75.")
        if grid.h % 2 or grid.w % 2:
            raise SettingError(
                f"{setting} is RunningCellMask, whose cells of 2 x 2 tokens do not fill slices of {grid.h} x {grid.w}; change "
                "model.backbone.image_size or model.backbone.patch_size, or choose another mask."
            )

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`; `boxes` are ignored."""
        device = generator.device
        start = torch.randint(4, (count, 1, 1, 1), generator=generator, device=device)
        slice_, row, column = (torch.arange(size, device=device) for size in grid[:3])
        place = 2 * (row[:, None] % 2) + column % 2
        hidden = (place + slice_[:, None, None] + start) % 4 < 4 * self.ratio
        return mask_from_bool(hidden.flatten(1), self.masked_count(grid))

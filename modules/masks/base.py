"""Base class of mask generators, which choose visible and predicted tokens in exact numbers, on the device.

A mask consists of integer index tensors, so that a step needs no boolean indexing (which would cause a host sync). With the
generators in this package, all tokens that are not visible are predicted, and all rows of a batch have the same counts: in
every time slice, floor(ratio * tokens of the slice) are masked (trajectory masks have this number over the clip, and those of
`clip.py` count over the clip).

Generators: `tokens.py` (tubes, random tokens, running cells), `clip.py` (random tokens, late or middle parts of the clip),
`trajectory.py` (moving objects), `noise.py` (filtered noise), `blue_noise.py` (spectrograms). All can be used by any masked
method, as `model.mask` or as `model.decoder_mask` of VideoMAE.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.tokens import Grid


class Mask(NamedTuple):
    """Indices of the visible tokens and of the tokens to predict, for a batch of clips.

    A token may be neither or both. If rows have unequal lengths, shorter ones are padded with other tokens.
    """

    visible: Tensor
    """int64 [B, Nv], ascending up to the padding"""
    targets: Tensor
    """int64 [B, Nt], or [B, K, Nt] for K blocks that are predicted separately; ascending"""
    valid: Tensor | None = None
    """bool like `targets`, False for padding; None if there is none"""
    valid_visible: Tensor | None = None
    """bool like `visible`, as above"""


def mask_from_bool(hidden: Tensor, masked_count: int | None = None) -> Mask:
    """Convert a 0/1 mask whose rows have equal counts to indices.

    Args:
        hidden: [B, N], nonzero for masked tokens.
        masked_count: masked tokens per row. None counts them, which causes a host sync; only for tests and fixtures.
    """
    hidden = hidden.bool()
    if masked_count is None:
        masked_count = int(hidden[0].sum())
    order = hidden.byte().argsort(dim=1, stable=True)
    split = hidden.shape[1] - masked_count
    return Mask(order[:, :split], order[:, split:])


def mask_from_sets(visible: Tensor, targets: Tensor, visible_count: int, target_count: int) -> Mask:
    """Convert sets of tokens, with any number per row and block, to indices.

    Args:
        visible: bool [B, N]
        targets: bool [B, N], or [B, K, N] for K blocks.
        visible_count: tokens in the longest row of `visible`. The caller passes it, because counting would cause a host sync.
        target_count: the same for `targets`.
    """
    seen, predicted = (
        (~chosen).byte().argsort(dim=-1, stable=True)[..., :count]
        for chosen, count in ((visible, visible_count), (targets, target_count))
    )
    return Mask(seen, predicted, targets.gather(-1, predicted), visible.gather(-1, seen))


def is_among(index: Tensor, chosen: Tensor, tokens: int) -> Tensor:
    """Whether tokens of one list are in another.

    Args:
        index: int64 [B, M], token indices.
        chosen: int64 [B, K], token indices.
        tokens: number of tokens per clip.

    Returns:
        bool [B, M]
    """
    marked = torch.zeros(len(chosen), tokens, dtype=torch.bool, device=chosen.device).scatter_(1, chosen, True)
    return marked.gather(1, index)


def hide_smallest(values: Tensor, hidden_count: int) -> Tensor:
    """Mask all except the largest values (ColorMAE, official code). The number is exact, even with ties.

    Args:
        values: float [..., L]
        hidden_count: number of the L values to mask.

    Returns:
        bool [..., L], True if masked.
    """
    shown = values.topk(values.shape[-1] - hidden_count, dim=-1).indices
    return torch.ones(values.shape, dtype=torch.bool, device=values.device).scatter_(-1, shown, False)


class MaskGenerator(ABC):
    """Base class of mask generators."""

    ratio: float
    per_slice: bool = True
    """Whether the ratio applies to each slice or to the clip, see `masked_count`."""

    def masked_count(self, grid: Grid) -> int:
        """Masked tokens per clip: floor(ratio * tokens of a slice) in each slice (VideoMAE, official code)."""
        return grid.t * int(self.ratio * grid.slice_tokens) if self.per_slice else int(self.ratio * grid.tokens)

    def check(self, grid: Grid, setting: str = "model.mask") -> None:
        """Check before the first step that some tokens are visible and some are masked.

        Args:
            grid: token grid.
            setting: command-line path of this generator.

        Raises:
            SettingError: if the generator cannot make masks of this grid.
        """
        if not 0 < self.masked_count(grid) < grid.tokens:
            raise SettingError(
                f"{setting}.ratio {self.ratio} masks {self.masked_count(grid)} of {grid.tokens} tokens; choose a "
                "ratio that leaves at least one token visible and one masked in each slice."
            )

    @abstractmethod
    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """Draw masks for `count` clips on the generator's device.

        Args:
            count: number of clips B.
            grid: token grid.
            generator: source of randomness; its device is the masks' device.
            boxes: float [B, K, T, 4], corners x1 y1 x2 y2 of moving objects in pixels, on that device or the host; None if
                there are no objects.
        """

    def keep_largest(self, values: Tensor, grid: Grid) -> Mask:
        """Make the tokens with the largest values visible, in the number that the ratio leaves per slice or per clip.

        Args:
            values: float [B, t, h * w], or [B, 1, h * w] for one mask in all slices.
            grid: token grid.
        """
        if self.per_slice:
            hidden = hide_smallest(values, int(self.ratio * grid.slice_tokens)).expand(-1, grid.t, -1)
        else:
            hidden = hide_smallest(values.flatten(1), int(self.ratio * grid.tokens))
        return mask_from_bool(hidden.flatten(1), self.masked_count(grid))

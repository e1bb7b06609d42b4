"""Which tokens the encoder sees and which are predicted: mask generators, on the device and exact in number.

A mask is made of integer index tensors, so that a step needs no boolean indexing (which would wait for the device). In those
of the generators here, what is not visible is predicted, and all rows of a batch have the same counts: in every time slice,
floor(ratio * tokens of the slice) are hidden (trajectory masks have as many over the clip).

Generators: `tokens.py` (tubes, random tokens, running cells), `trajectory.py` (what moves), `noise.py` (filtered noise),
`blue_noise.py` (spectrograms). All serve any masked method, as `model.mask` or as `model.decoder_mask` of VideoMAE.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.tokens import Grid


class Mask(NamedTuple):
    """Numbers of the tokens that are visible and of those that are to be predicted, of a batch of clips.

    A token may be neither, or both. Where rows have unequal lengths, the shorter ones are filled up with other tokens.
    """

    visible: Tensor
    """int64 [B, Nv], ascending up to the filling"""
    targets: Tensor
    """int64 [B, Nt], or [B, K, Nt] for K blocks that are predicted one by one; ascending"""
    valid: Tensor | None = None
    """bool like `targets`, False for the filling; None where there is none"""
    valid_visible: Tensor | None = None
    """bool like `visible`, as above"""


def mask_from_bool(hidden: Tensor, masked_count: int | None = None) -> Mask:
    """Index form of a 0/1 mask whose rows have equal counts.

    Args:
        hidden: [B, N], nonzero where masked.
        masked_count: masked tokens per row. None counts them, which waits for the device: for tests and fixtures.
    """
    hidden = hidden.bool()
    if masked_count is None:
        masked_count = int(hidden[0].sum())
    order = hidden.byte().argsort(dim=1, stable=True)
    split = hidden.shape[1] - masked_count
    return Mask(order[:, :split], order[:, split:])


def mask_from_sets(visible: Tensor, targets: Tensor, visible_count: int, target_count: int) -> Mask:
    """Index form of sets of tokens, of any number in each row and each block.

    Args:
        visible: bool [B, N]
        targets: bool [B, N], or [B, K, N] for K blocks.
        visible_count: tokens of the longest row of `visible`. Counted by the caller, for it would wait for the device.
        target_count: number of `targets` per clip.
    """
    seen, predicted = (
        (~chosen).byte().argsort(dim=-1, stable=True)[..., :count]
        for chosen, count in ((visible, visible_count), (targets, target_count))
    )
    return Mask(seen, predicted, targets.gather(-1, predicted), visible.gather(-1, seen))


def is_among(index: Tensor, chosen: Tensor, tokens: int) -> Tensor:
    """Which tokens of one list are in another.

    Args:
        index: int64 [B, M], token numbers.
        chosen: int64 [B, K], token numbers.
        tokens: tokens of a clip.

    Returns:
        bool [B, M]
    """
    marked = torch.zeros(len(chosen), tokens, dtype=torch.bool, device=chosen.device).scatter_(1, chosen, True)
    return marked.gather(1, index)


def hide_smallest(values: Tensor, hidden_count: int) -> Tensor:
    """Mask all but the largest values (ColorMAE, official code). Exact in number, whatever ties there are.

    Args:
        values: float [..., L]
        hidden_count: how many of the L to mask.

    Returns:
        bool [..., L], True where masked.
    """
    shown = values.topk(values.shape[-1] - hidden_count, dim=-1).indices
    return torch.ones(values.shape, dtype=torch.bool, device=values.device).scatter_(-1, shown, False)


class MaskGenerator(ABC):
    """Draws masks. Subclasses say how."""

    ratio: float
    per_slice: bool = True
    """Whether tokens are counted by the slice or by the clip, see `masked_count`."""

    def masked_count(self, grid: Grid) -> int:
        """Masked tokens per clip: floor(ratio * tokens of a slice) in each slice (VideoMAE, official code)."""
        return grid.t * int(self.ratio * grid.slice_tokens) if self.per_slice else int(self.ratio * grid.tokens)

    def check(self, grid: Grid, setting: str = "model.mask") -> None:
        """Fail before the first step if the ratio leaves nothing visible or nothing masked.

        Args:
            grid: token grid.
            setting: what the user calls this generator.

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
            boxes: float [B, K, T, 4], corners x1 y1 x2 y2 in pixels of moving objects, on that device or the host; None where
                there are none.
        """

    def keep_largest(self, values: Tensor, grid: Grid) -> Mask:
        """Show the tokens with the largest values: as many as the ratio leaves, per slice or per clip.

        Args:
            values: float [B, t, h * w], or [B, 1, h * w] for one mask in all slices.
            grid: token grid.
        """
        if self.per_slice:
            hidden = hide_smallest(values, int(self.ratio * grid.slice_tokens)).expand(-1, grid.t, -1)
        else:
            hidden = hide_smallest(values.flatten(1), int(self.ratio * grid.tokens))
        return mask_from_bool(hidden.flatten(1), self.masked_count(grid))

"""Which tokens the encoder sees: mask generators for masked methods, on the device and exact in number.

A mask is a pair of integer index tensors, both ascending, so that a step needs no boolean indexing (which would wait for
the device). All rows of a batch have the same counts: in every time slice, floor(ratio * tokens of the slice) are masked
(trajectory masks have as many over the clip).

Here are the masks that need no filter; `noise_masking.py` has those of filtered noise, `optim_blue.py` those for
spectrograms. All serve any masked method, as `model.mask` or as `model.decoder_mask` of VideoMAE.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from modules.backbones.video_vit import Grid
from modules.core.errors import SettingError


class Mask(NamedTuple):
    """Visible and masked token numbers of a batch of clips."""

    visible: Tensor
    """int64 [B, Nv], ascending"""
    masked: Tensor
    """int64 [B, Nm], ascending"""


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
            boxes: float [B, K, T, 4], corners x1 y1 x2 y2 in pixels of moving objects; None where there are none.
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


class TubeMask(MaskGenerator):
    """One random spatial mask per clip, repeated over all time slices (VideoMAE, official code).

    Args:
        ratio: share of the tokens that is masked; floor(ratio * tokens per slice) in each slice.
    """

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = ratio

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`; `boxes` are ignored."""
        noise = torch.rand(count, grid.slice_tokens, generator=generator, device=generator.device)
        return self.keep_largest(noise[:, None], grid)


class RandomMask(MaskGenerator):
    """Every token alone, independently of its neighbours in space and time.

    Args:
        ratio: share of the tokens that is masked.
        per_slice: mask floor(ratio * tokens per slice) in each slice; false masks floor(ratio * tokens) of the clip
            wherever they fall (MAE).
    """

    def __init__(self, ratio: float = 0.9, per_slice: bool = True) -> None:
        self.ratio, self.per_slice = ratio, per_slice

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`; `boxes` are ignored."""
        noise = torch.rand(count, grid.t, grid.slice_tokens, generator=generator, device=generator.device)
        return self.keep_largest(noise, grid)


class RunningCellMask(MaskGenerator):
    """Cells of 2 x 2 tokens, all alike, whose masked places move on from slice to slice: what VideoMAE V2 decodes.

    The places of a cell are counted row by row. In slice s, as many of them as the ratio says are masked, from place -s on
    and around; where slice 0 begins is drawn per clip, each of the four equally likely. So over four slices every token is
    visible equally often. The cells, the ratio 0.5 and the shift with time are the paper's; the order of the places and
    one place per slice follow the official code as far as it has been described to us, with no tensors to compare with.

    Args:
        ratio: share of the tokens that is masked: 0.25, 0.5 or 0.75.
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
                "model.backbone.image_size or model.backbone.patch_size, or take another mask."
            )

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`; `boxes` are ignored."""
        device = generator.device
        start = torch.randint(4, (count, 1, 1, 1), generator=generator, device=device)
        slice_, row, column = (torch.arange(size, device=device) for size in grid[:3])
        place = 2 * (row[:, None] % 2) + column % 2
        hidden = (place + slice_[:, None, None] + start) % 4 < 4 * self.ratio
        return mask_from_bool(hidden.flatten(1), self.masked_count(grid))


def footprint(boxes: Tensor, grid: Grid) -> Tensor:
    """Tokens that moving objects touch (SMILE, official code).

    In each time slice the union box of the object over the slice's frames covers the token columns
    floor(x1 / patch) .. ceil(x2 / patch), both included, so one column more than the box touches; rows likewise.
    Rotation is ignored.

    Args:
        boxes: float [B, K, T, 4], corners in pixels; may leave the picture.
        grid: token grid.

    Returns:
        bool [B, N]
    """
    b, k = boxes.shape[:2]
    spans = boxes.reshape(b, k, grid.t, grid.tubelet, 4)
    low = (spans[..., :2].amin(3) / grid.patch).floor()
    high = (spans[..., 2:].amax(3) / grid.patch).ceil()
    inside = []
    for axis, cells in ((0, grid.w), (1, grid.h)):
        cell = torch.arange(cells, device=boxes.device)
        first = low[..., axis, None].clamp(0, cells - 1)
        last = high[..., axis, None].clamp(0, cells - 1)
        inside.append((cell >= first) & (cell <= last))
    columns, rows = inside
    return (rows[..., :, None] & columns[..., None, :]).any(1).flatten(1)


class TrajectoryMask(MaskGenerator):
    """Masks along the trajectories of pasted objects, 'tube+traj_mask' of SMILE (official code).

    Inside the objects' footprint all but a small random share is masked; elsewhere a tube mask decides; then the count is
    brought to exactly that of the tube mask by showing tube-masked tokens outside the footprint (or hiding visible ones
    there). All of it is one sort by priority: no loops and no data-dependent shapes.

    Args:
        ratio: share of all tokens that is masked.
        visible_share: share of the footprint that stays visible. The official script passes 0.2, which its code never
            uses: 0.1 is what ran.
    """

    def __init__(self, ratio: float = 0.8, visible_share: float = 0.1) -> None:
        self.ratio, self.visible_share = ratio, visible_share

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`. Without objects, what is left is the tube mask."""
        tube = TubeMask(self.ratio).draw(count, grid, generator)
        if boxes is None:
            return tube
        tube_masked = torch.zeros(count, grid.tokens, dtype=torch.bool, device=generator.device)
        tube_masked.scatter_(1, tube.masked, True)
        return self.balance(footprint(boxes, grid), tube_masked, self.masked_count(grid), generator)

    def balance(self, touched: Tensor, tube_masked: Tensor, masked_count: int, generator: torch.Generator) -> Mask:
        """Combine footprint and tube mask into a mask of exactly `masked_count` tokens.

        Args:
            touched: bool [B, N], the footprint.
            tube_masked: bool [B, N], the tube mask.
            masked_count: tokens to mask.
            generator: source of randomness.
        """
        noise = torch.rand(touched.shape, generator=generator, device=touched.device)
        # Rank of each footprint token among its clip's footprint tokens, to show exactly int(share * count) of them.
        rank = (noise + (~touched).float()).argsort(dim=1).argsort(dim=1)
        shown = touched & (rank < (self.visible_share * touched.sum(1, keepdim=True)).floor())
        # Lower is shown earlier: chosen footprint, tube-visible, tube-masked, rest of the footprint. Half a unit of noise
        # keeps the classes strictly apart in float32.
        priority = torch.where(touched, torch.where(shown, 0.0, 3.0), torch.where(tube_masked, 2.0, 1.0))
        order = (priority + 0.5 * noise).argsort(dim=1)
        visible = touched.shape[1] - masked_count
        return Mask(order[:, :visible].sort(dim=1).values, order[:, visible:].sort(dim=1).values)

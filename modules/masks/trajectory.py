"""Masks along known object trajectories."""

import torch
from torch import Tensor

from modules.core.device import to_device
from modules.core.tokens import Grid
from modules.masks.base import Mask, MaskGenerator
from modules.masks.tokens import TubeMask


def footprint(boxes: Tensor, grid: Grid) -> Tensor:
    """Tokens that moving objects touch (SMILE, official code).

    In each time slice, the union of the object's boxes over the slice's frames covers the token columns
    floor(x1 / patch) .. ceil(x2 / patch), both included, so one column more than the box touches; the same applies to rows.
    Rotation is ignored.

    Args:
        boxes: float [B, K, T, 4], corners in pixels; may be outside the picture.
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

    Inside the objects' footprint, all tokens except a small random fraction are masked; outside, a tube mask is used. Then the
    count is adjusted to exactly that of the tube mask, by unmasking tube-masked tokens outside the footprint (or masking
    visible ones there). This is implemented as one sort by priority, without loops and data-dependent shapes.

    Args:
        ratio: fraction of masked tokens.
        visible_share: fraction of the footprint that remains visible. The official script passes 0.2, but its code ignores this
            and uses 0.1.
    """

    def __init__(self, ratio: float = 0.8, visible_share: float = 0.1) -> None:
        self.ratio, self.visible_share = ratio, visible_share

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`. Without objects, this is the tube mask."""
        tube = TubeMask(self.ratio).draw(count, grid, generator)
        if boxes is None:
            return tube
        tube_masked = torch.zeros(count, grid.tokens, dtype=torch.bool, device=generator.device)
        tube_masked.scatter_(1, tube.targets, True)
        (touched,) = to_device([footprint(boxes, grid)], generator.device)
        return self.balance(touched, tube_masked, self.masked_count(grid), generator)

    def balance(self, touched: Tensor, tube_masked: Tensor, masked_count: int, generator: torch.Generator) -> Mask:
        """Combine footprint and tube mask into a mask of exactly `masked_count` tokens.

        Args:
            touched: bool [B, N], the footprint.
            tube_masked: bool [B, N], the tube mask.
            masked_count: tokens to mask.
            generator: source of randomness.
        """
        noise = torch.rand(touched.shape, generator=generator, device=touched.device)
        # Rank of each footprint token among its clip's footprint tokens, to keep exactly int(share * count) of them visible.
        rank = (noise + (~touched).float()).argsort(dim=1).argsort(dim=1)
        shown = touched & (rank < (self.visible_share * touched.sum(1, keepdim=True)).floor())
        # Tokens of lower priority value are visible first: chosen footprint, tube-visible, tube-masked, rest of the footprint.
        # With half a unit of noise, the classes do not overlap in float32.
        priority = torch.where(touched, torch.where(shown, 0.0, 3.0), torch.where(tube_masked, 2.0, 1.0))
        order = (priority + 0.5 * noise).argsort(dim=1)
        visible = touched.shape[1] - masked_count
        return Mask(order[:, :visible].sort(dim=1).values, order[:, visible:].sort(dim=1).values)

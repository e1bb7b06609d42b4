"""Masks along known object trajectories."""

import torch
from torch import Tensor

from modules.core.device import to_device
from modules.core.tokens import Grid
from modules.masks.base import Mask, MaskGenerator
from modules.masks.tokens import TubeMask


def footprint(boxes: Tensor, grid: Grid) -> Tensor:
    """Tokens that moving objects touch (SMILE, official code).

    In each time slice the union box of the object over the slice's frames covers the token columns
    floor(x1 / patch) .. ceil(x2 / patch), both included, so one column more than the box touches; the same for rows.
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
        ratio: fraction of masked tokens.
        visible_share: fraction of the footprint that stays visible. The official script passes 0.2, which its code never uses:
            0.1 is what was used.
    """

    def __init__(self, ratio: float = 0.8, visible_share: float = 0.1) -> None:
        self.ratio, self.visible_share = ratio, visible_share

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`. Without objects, what is left is the tube mask."""
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
        # Rank of each footprint token among its clip's footprint tokens, to show exactly int(share * count) of them.
        rank = (noise + (~touched).float()).argsort(dim=1).argsort(dim=1)
        shown = touched & (rank < (self.visible_share * touched.sum(1, keepdim=True)).floor())
        # Lower is shown earlier: chosen footprint, tube-visible, tube-masked, rest of the footprint. Half a unit of noise
        # keeps the classes strictly apart in float32.
        priority = torch.where(touched, torch.where(shown, 0.0, 3.0), torch.where(tube_masked, 2.0, 1.0))
        order = (priority + 0.5 * noise).argsort(dim=1)
        visible = touched.shape[1] - masked_count
        return Mask(order[:, :visible].sort(dim=1).values, order[:, visible:].sort(dim=1).values)

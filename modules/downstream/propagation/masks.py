"""Masks of objects as soft labels of tokens, and back, as in the two published forms of label propagation."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.downstream.propagation.propagate import Variant

Size = tuple[int, int]
SAME = 1e-5
"""Relative difference up to which a label counts as the same everywhere."""


class Layout(NamedTuple):
    """Sizes of a video; heights come first."""

    stored: Size
    """pixels of the files"""
    frame: Size
    """pixels of the frames that the encoder takes"""
    grid: Size
    """places of the map"""
    stride: tuple[float, float]
    """pixels of the frame per place"""

    @property
    def padded(self) -> Size:
        """Pixels of the frame with its padding."""
        return round(self.grid[0] * self.stride[0]), round(self.grid[1] * self.stride[1])


class SoftMask(NamedTuple):
    """A mask as soft labels of tokens."""

    ids: Tensor
    """int64 [L], object of each label, 0 for the background"""
    labels: Tensor
    """float32 [L, h, w]"""


def to_labels(mask: Tensor, layout: Layout, variant: Variant) -> SoftMask:
    """Soft labels of the first frame.

    * videowalk: one label per value of the mask at the size of the frame, bilinear without antialiasing.
    * dino: the value at the centre of each token; one label for each number up to the largest value.

    Args:
        mask: uint8 [H0, W0], object ids, at the size of the files.
        layout: sizes.
        variant: published form.
    """
    if variant == "dino":
        rows, columns = (
            _centres(count, step * stored / side, stored).to(mask.device)
            for count, step, side, stored in zip(layout.grid, layout.stride, layout.frame, layout.stored, strict=True)
        )
        small = mask[rows][:, columns].long()
        ids = torch.arange(int(small.max()) + 1, device=mask.device)
        return SoftMask(ids, (small == ids[:, None, None]).float())
    rows, columns = (_corners(count, stored).to(mask.device) for count, stored in zip(layout.frame, layout.stored, strict=True))
    resized = mask[rows][:, columns][None, None].float()
    down, across = (max(0, padded - side) for padded, side in zip(layout.padded, layout.frame, strict=True))
    continued = F.pad(resized, (0, across, 0, down), mode="replicate")[0, 0].long()
    ids = continued.unique()
    planes = (continued == ids[:, None, None]).float()
    return SoftMask(ids, F.interpolate(planes[None], layout.grid, mode="bilinear", align_corners=False)[0])


def upsampled(labels: Tensor, layout: Layout) -> Tensor:
    """Soft labels at the size of the frames, bilinear, without the padding: float [L, h, w] -> [L, H, W]."""
    planes = F.interpolate(labels[None], layout.padded, mode="bilinear", align_corners=False)[0]
    return planes[:, : layout.frame[0], : layout.frame[1]]


def stretched(planes: Tensor) -> Tensor:
    """Each label from 0 to 1 over the frame (dino): float [L, H, W].

    Labels that are the same everywhere up to rounding are left alone; the official code enlarges the rounding errors.
    """
    least, most = planes.amin((1, 2), keepdim=True), planes.amax((1, 2), keepdim=True)
    spread = most - least
    return torch.where(spread > SAME * most, (planes - least) / spread, planes)


def to_mask(soft: SoftMask, layout: Layout, variant: Variant) -> Tensor:
    """Object ids uint8 [H0, W0] at the size of the files: the largest label of each pixel of the frame, nearest neighbour."""
    planes = upsampled(soft.labels, layout)
    ids = soft.ids[(stretched(planes) if variant == "dino" else planes).argmax(0)].byte()
    rows, columns = (
        (_centres(count, side / count, side) if variant == "dino" else _corners(count, side)).to(ids.device)
        for count, side in zip(layout.stored, layout.frame, strict=True)
    )
    return ids[rows][:, columns]


def _centres(count: int, step: float, side: int) -> Tensor:
    """Pixels below the centres of `count` larger or smaller ones of size `step`, int64, at most the last of `side`.

    Centres are added up as Pillow does it, because some are exactly between two pixels.
    """
    steps = torch.full((count,), step, dtype=torch.float64)
    steps[0] /= 2
    return steps.cumsum(0).long().clamp_max(side - 1)


def _corners(count: int, side: int) -> Tensor:
    """Pixels of `side` at the first corners of `count` larger or smaller ones, int64, as OpenCV takes them."""
    return torch.arange(count) * side // count

"""Joints of a body as soft labels of tokens, and back, as videowalk's official code propagates poses."""

import math

import torch
from torch import Tensor

from modules.downstream.propagation.masks import Layout

SIGMA = 0.5
"""Standard deviation of a joint, in tokens."""
READ = 5
"""Tokens with the largest values whose weighted mean is a joint's place."""


def to_grid(joints: Tensor, layout: Layout) -> Tensor:
    """Places in tokens, float64 [J, 2], from x and y in pixels of the files, counted from 0."""
    scale = [frame / stored / step for frame, stored, step in zip(layout.frame, layout.stored, layout.stride, strict=True)]
    return joints.double() * torch.tensor([scale[1], scale[0]], dtype=torch.float64)


def to_pixels(places: Tensor, layout: Layout) -> Tensor:
    """Inverse of `to_grid`."""
    scale = [stored / frame * step for frame, stored, step in zip(layout.frame, layout.stored, layout.stride, strict=True)]
    return places.double() * torch.tensor([scale[1], scale[0]], dtype=torch.float64)


def draw_joints(places: Tensor, grid: tuple[int, int]) -> Tensor:
    """One label per joint, a small Gaussian, and a background where there is none.

    The official code draws it over four tokens, with its peak on the third; coordinates are cut, not rounded. Joints outside
    of the map are left out.

    Args:
        places: float64 [J, 2], x and y in tokens.
        grid: rows and columns of the map.

    Returns:
        float32 [1 + J, h, w], the background first.
    """
    height, width = grid
    reach, side = 3 * SIGMA, int(6 * SIGMA + 1)
    peak = side // 2
    line = torch.arange(side, dtype=torch.float64) - peak
    bump = (-(line[:, None] ** 2 + line**2) / (2 * SIGMA**2)).exp().float()
    drawn = torch.zeros(len(places), height, width)
    for plane, (x, y) in zip(drawn, places.tolist(), strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        left, top, right, bottom = int(x - reach), int(y - reach), int(x + reach + 1), int(y + reach + 1)
        if left >= width or top >= height or right < 0 or bottom < 0:
            continue
        rows, columns = slice(max(0, top), min(bottom, height)), slice(max(0, left), min(right, width))
        plane[rows, columns] = bump[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    background = (drawn.sum(0, keepdim=True) == 0).float()
    return torch.cat([background, drawn])


def read_joints(labels: Tensor) -> Tensor:
    """Places of the joints: the mean of the five best tokens, weighted with their labels.

    Args:
        labels: float [1 + J, h, w].

    Returns:
        float32 [J, 2], x and y in tokens; -1 for joints without any label.
    """
    width = labels.shape[2]
    flat = labels[1:].flatten(1)
    values, index = flat.topk(min(READ, flat.shape[1]))
    weights = values / values.sum(1, keepdim=True)
    places = torch.stack([(index % width * weights).sum(1), (index.div(width, rounding_mode="floor") * weights).sum(1)], 1)
    return torch.where(flat.sum(1, keepdim=True) == 0, -1.0, places)

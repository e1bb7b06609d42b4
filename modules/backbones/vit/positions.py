"""Position codes of tokens, for any grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.core.tokens import Grid


def sincos_positions(count: int, dim: int) -> Tensor:
    """Fixed sin-cos position codes of the flattened token index.

    Channel j of token n is sin (even j) or cos (odd j) of n / 10000^(2 floor(j/2) / dim), computed in float64
    (VideoMAE, official code: not factorised over time, rows and columns).

    Returns:
        float32 [1, count, dim]
    """
    channel = torch.arange(dim, dtype=torch.float64)
    rate = torch.pow(10000.0, -2 * (channel // 2) / dim)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * rate
    table = torch.where(channel.long() % 2 == 0, angle.sin(), angle.cos())
    return table.float()[None]


def position_codes(grid: Grid, trained: Grid, dim: int) -> Tensor:
    """Position codes of a grid for weights pretrained on another grid: `sincos_positions` of the pretraining grid, interpolated
    over time, rows and columns (trilinear, corners not aligned).

    Args:
        grid: grid of the clips.
        trained: grid of the clips that the weights were pretrained on.
        dim: width of a code.

    Returns:
        float32 [1, N, dim]
    """
    table = sincos_positions(trained.tokens, dim)
    if trained[:3] == grid[:3]:
        return table
    cube = table.transpose(1, 2).unflatten(2, trained[:3])
    return F.interpolate(cube, grid[:3], mode="trilinear", align_corners=False).flatten(2).transpose(1, 2).contiguous()

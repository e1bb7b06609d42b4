"""Position codes of tokens of clips and of images, for any grid."""

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


def sincos_positions_2d(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed sin-cos position codes of the patches of an image (MAE, official code), computed in float64.

    The first half of the channels encodes the column, the second half the row; of each half, the first half are sines and the
    second half cosines of the place / 10000^(j / (dim / 4)).

    Args:
        rows: rows of patches.
        columns: columns of patches.
        dim: width of a code, a multiple of 4.

    Returns:
        float32 [1, rows * columns, dim]
    """
    rate = torch.pow(10000.0, -torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * rate for place in (column, row)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()[None]


def resample_frame_positions(codes: Tensor, prefix: int, trained: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Position codes of frames of another size: bicubic, as in the official code of DINO and of CropMAE's label propagation.

    As there, samples are at multiples of trained / (size + 0.1) instead of trained / size along both axes.

    Args:
        codes: float [1, prefix + N, D]
        prefix: codes of other tokens, which are unchanged.
        trained: rows and columns of the N codes.
        size: rows and columns of the result.

    Returns:
        float [1, prefix + rows * columns, D]
    """
    if trained == size:
        return codes
    grid = codes[:, prefix:].transpose(1, 2).unflatten(2, trained)
    scales = [(new + 0.1) / old for new, old in zip(size, trained, strict=True)]
    resampled = F.interpolate(grid, scale_factor=scales, mode="bicubic", align_corners=False)
    return torch.cat([codes[:, :prefix], resampled.flatten(2).transpose(1, 2)], 1)

"""Position codes of tokens of clips and of images, for any grid: fixed or learned."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    return resize_positions(sincos_positions(trained.tokens, dim), trained, grid)


def resize_positions(table: Tensor, trained: Grid, grid: Grid) -> Tensor:
    """Interpolate position codes over time, rows and columns (trilinear, corners not aligned): [1, N0, D] -> [1, N, D].

    Args:
        table: position codes of the grid `trained`.
        trained: its grid.
        grid: grid of the result.
    """
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


def sincos_positions_3d(grid: Grid, dim: int, uniform: bool = True) -> Tensor:
    """Fixed sin-cos position codes of the slice, row and column of a token (V-JEPA, official code), computed in float64.

    Each axis has its own channels, time first: sines, then cosines of the place / 10000^(2j / channels).

    Args:
        grid: grid of the tokens.
        dim: width of a code.
        uniform: all axes have equally many channels, and the last ones are cut to `dim` (the official `uniform_power`).
            Otherwise, time has half of the channels, rows and columns a quarter each.

    Returns:
        float32 [1, N, dim]
    """
    third = -(-dim // 6) * 2
    widths = (third, third, third) if uniform else (dim // 2, dim // 4, dim // 4)
    places = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid[:3]), indexing="ij")
    codes = []
    for place, width in zip(places, widths, strict=True):
        rate = torch.pow(10000.0, -2 * torch.arange(width // 2, dtype=torch.float64) / width)
        angle = place.flatten()[:, None] * rate
        codes += [angle.sin(), angle.cos()]
    return torch.cat(codes, 1)[None, :, :dim].float()


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


Learned = Literal["separable", "joint"]


def learned_table(count: int, dim: int) -> nn.Parameter:
    """Learned vectors [1, count, D], initially truncated normal with standard deviation 0.02 (MAE-ST, official code)."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, dim), std=0.02))


class LearnedPositions(nn.Module):
    """Learned positions of tokens, and optionally a class token with its own position (MAE-ST, official code).

    Args:
        grid: grid of the tokens.
        dim: width of a token.
        kind: `separable` adds a table of the slices [1, t, D] and one of the places in a slice [1, h * w, D]; `joint` is one
            table of all tokens [1, N, D].
        class_token: whether there is a class token.
    """

    def __init__(self, grid: Grid, dim: int, kind: Learned, class_token: bool) -> None:
        super().__init__()
        self.shape = grid[:3]
        self.spatial = learned_table(grid.slice_tokens, dim) if kind == "separable" else None
        self.temporal = learned_table(grid.t, dim) if kind == "separable" else None
        self.joint = learned_table(grid.tokens, dim) if kind == "joint" else None
        self.class_token = learned_table(1, dim) if class_token else None
        self.class_position = learned_table(1, dim) if class_token else None

    def forward(self, grid: Grid) -> Tensor:
        """Positions [1, N, D] of the tokens of a grid. For another grid than its own, they are interpolated over time, rows and
        columns (corners not aligned)."""
        if self.spatial is not None and self.temporal is not None:
            table = self.temporal.unsqueeze(2) + self.spatial.unsqueeze(1)
        else:
            assert self.joint is not None
            table = self.joint.unflatten(1, (self.shape[0], -1))
        if grid[:3] != self.shape:
            cube = table.permute(0, 3, 1, 2).unflatten(3, self.shape[1:])
            table = F.interpolate(cube, grid[:3], mode="trilinear", align_corners=False).permute(0, 2, 3, 4, 1)
        return table.flatten(1, -2)

    def with_prefix(self, tokens: Tensor) -> Tensor:
        """Put the class token with its position before tokens [B, n, D], if there is one."""
        if self.class_token is None or self.class_position is None:
            return tokens
        first = (self.class_token + self.class_position).to(tokens.dtype)
        return torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], dim=1)


def resize_tables(weights: dict[str, Tensor], grid: Grid, source: str) -> tuple[dict[str, Tensor], list[str]]:
    """Resize the separable positions of weights to the grid of a network: bilinear over rows and columns, linear over time.

    Args:
        weights: weights of an encoder with `pos_embed.spatial` and `pos_embed.temporal`; others are unchanged.
        grid: grid of the network.
        source: file, for messages.

    Returns:
        The weights, and lines to print.
    """
    spatial, temporal = weights.get("pos_embed.spatial"), weights.get("pos_embed.temporal")
    if spatial is None or temporal is None or (len(spatial[0]), len(temporal[0])) == (grid.slice_tokens, grid.t):
        return weights, []
    side, slices = math.isqrt(len(spatial[0])), len(temporal[0])
    square = spatial.transpose(1, 2).unflatten(2, (side, side))
    places = F.interpolate(square, (grid.h, grid.w), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    times = F.interpolate(temporal.transpose(1, 2), grid.t, mode="linear", align_corners=False).transpose(1, 2)
    change = f"from {slices} x {side} x {side} to {grid.t} x {grid.h} x {grid.w} tokens"
    lines = [f"Learned positions of {source} are interpolated {change}."]
    return weights | {"pos_embed.spatial": places, "pos_embed.temporal": times}, lines

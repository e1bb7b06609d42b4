"""Cutting clips into tokens; selecting, reassembling and pooling tokens."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.core.errors import SettingError


class Grid(NamedTuple):
    """The token grid of a clip."""

    t: int
    """token slices over time"""
    h: int
    """token rows"""
    w: int
    """token columns"""
    tubelet: int
    """frames per token"""
    patch: int
    """side of a token in pixels"""

    @property
    def slice_tokens(self) -> int:
        """Tokens of one time slice."""
        return self.h * self.w

    @property
    def tokens(self) -> int:
        """Tokens of a clip."""
        return self.t * self.h * self.w

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the clips."""
        return self.t * self.tubelet, self.h * self.patch, self.w * self.patch

    @property
    def token_pixels(self) -> int:
        """Number of pixels of one channel in a token."""
        return self.tubelet * self.patch * self.patch


def patchify(video: Tensor, grid: Grid) -> Tensor:
    """Cut clips into cubes.

    Args:
        video: [B, C, T, H, W]
        grid: token grid of the clips

    Returns:
        [B, N, C, P]: tokens in the order t, h, w; P pixels of each channel in the order time, row, column.

    Raises:
        SettingError: if the clips have another grid.
    """
    if tuple(video.shape[2:]) != grid.clip_shape:
        given, wanted = ("{} frames of {} x {} px".format(*shape) for shape in (video.shape[2:], grid.clip_shape))
        raise SettingError(f"Clips have {given}, but {wanted} are needed; set data.clip.frames and data.clip.size to these.")
    b, c = video.shape[:2]
    cubes = video.reshape(b, c, grid.t, grid.tubelet, grid.h, grid.patch, grid.w, grid.patch)
    return cubes.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, grid.tokens, c, grid.token_pixels)


def unpatchify(cubes: Tensor, grid: Grid) -> Tensor:
    """Inverse of `patchify`: [B, N, C, P] -> [B, C, T, H, W]."""
    b, _, c, _ = cubes.shape
    split = cubes.reshape(b, grid.t, grid.h, grid.w, c, grid.tubelet, grid.patch, grid.patch)
    return split.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, c, grid.t * grid.tubelet, grid.h * grid.patch, grid.w * grid.patch)


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Select tokens by index.

    Args:
        tokens: [B, N, ...]
        index: int64 [B, M]

    Returns:
        [B, M, ...]
    """
    shape = index.shape + tokens.shape[2:]
    return tokens.gather(1, index.reshape(index.shape + (1,) * (tokens.ndim - 2)).expand(shape))


def gather_rounds(tokens: Tensor, index: Tensor) -> Tensor:
    """Select tokens of the same clips several times.

    Args:
        tokens: [B, N, ...]
        index: int64 [R * B, M], all clips for the first round, then all clips for the next.

    Returns:
        [R * B, M, ...]
    """
    rounds = [gather_tokens(tokens, rows) for rows in index.split(len(tokens))]
    return rounds[0] if len(rounds) == 1 else torch.cat(rounds)


Pooling = Literal["mean", "time"]


def pool_tokens(tokens: Tensor, grid: tuple[int, int, int], pooling: Pooling) -> Tensor:
    """One vector per clip from its tokens.

    Args:
        tokens: float [B, N, D] in the order time, row, column; N = t * h * w.
        grid: Number of tokens (t, h, w) along time, height and width.
        pooling: `mean` averages all tokens; `time` averages over space and concatenates the time slices.

    Returns:
        float [B, D] for `mean`, [B, t * D] for `time`.
    """
    t, h, w = grid
    if tokens.shape[1] != t * h * w:
        raise SettingError(f"{tokens.shape[1]} tokens do not make a grid of {t} x {h} x {w}.")
    if pooling == "mean":
        return tokens.mean(dim=1)
    result: Tensor = tokens.unflatten(1, (t, h * w)).mean(dim=2).flatten(1)
    return result

"""A picture that compares the outputs before and after training, for the same clips and random draws."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.layers.drawing.clips import caption_band

GAP = 2
BETWEEN = 10
"""Pixels between columns, and between rows of columns."""


def pick(length: int, count: int) -> Tensor:
    """At most `count` evenly spaced indices, including the first and the last: int64 [n]."""
    return torch.linspace(0, length - 1, min(count, length)).round().long()


def beside(columns: Mapping[str, Tensor]) -> Tensor:
    """Clips in columns under their titles, with one row per clip and the frames next to each other.

    Args:
        columns: uint8 [B, T, H, W, 3] by title. Sizes may differ between columns; only rows that all columns have are drawn.

    Returns:
        uint8 [H', W', 3]
    """
    side, rows = max(video.shape[2] for video in columns.values()), min(len(video) for video in columns.values())
    drawn = []
    for title, video in columns.items():
        tiles = F.pad(video[:rows], (0, 0, GAP, GAP, GAP, GAP + side - video.shape[2]), value=255)
        tile = tiles.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        whole = torch.cat([caption_band(title, tile.shape[1]), tile])
        drawn.append(F.pad(whole, (0, 0, 0, BETWEEN), value=255))
    return torch.cat(drawn, dim=1)


def below(pictures: list[Tensor]) -> Tensor:
    """Stack pictures vertically, with white to the right of narrower ones: uint8 [H, W, 3] each -> [H', W', 3]."""
    width = max(picture.shape[1] for picture in pictures)
    return torch.cat([F.pad(one, (0, 0, 0, width - one.shape[1], 0, BETWEEN), value=255) for one in pictures])

"""One picture of what training has changed: the same clips, with the same random draws, before it and after it."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.layers.drawing import caption_band

GAP = 2
BETWEEN = 10
"""Pixels between columns, and between rows of columns."""


def pick(length: int, count: int) -> Tensor:
    """Numbers of evenly spaced places from the first to the last, at most `count`: int64 [n]."""
    return torch.linspace(0, length - 1, min(count, length)).round().long()


def beside(columns: Mapping[str, Tensor]) -> Tensor:
    """Clips in columns under their titles: a row per clip, and in each column the frames side by side.

    Args:
        columns: uint8 [B, T, H, W, 3] by title; sizes may differ from column to column, and what not all have is left out.

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
    """Pictures one below the other, white beside narrower ones: uint8 [H, W, 3] each -> [H', W', 3]."""
    width = max(picture.shape[1] for picture in pictures)
    return torch.cat([F.pad(one, (0, 0, 0, width - one.shape[1], 0, BETWEEN), value=255) for one in pictures])

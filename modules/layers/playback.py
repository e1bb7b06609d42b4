"""The parts of PRP after its encoder: a head that tells the playback rate, and a decoder that draws the slow clip.

Sizes and parameter names are those of the official code (https://github.com/yuanyao366/PRP, models/sscn.py and net_part.py).
"""

import torch
from torch import Tensor, nn

SPATIAL = 16
"""Rows and columns of the decoder's output for one of the map."""


class ConvBlock(nn.Module):
    """A 3 x 3 x 3 convolution with bias, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv3d = nn.Sequential(nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))

    def forward(self, video: Tensor) -> Tensor:
        """[B, C, t, h, w] -> [B, C', t, h, w]."""
        result: Tensor = self.conv3d(video)
        return result


class Up(nn.Module):
    """Enlarges a map with a transposed convolution, then narrows it with a `ConvBlock`."""

    def __init__(self, inputs: int, outputs: int, double_time: bool) -> None:
        super().__init__()
        self.up3d = enlarge(inputs, double_time)
        self.conv3d = ConvBlock(inputs, outputs)

    def forward(self, video: Tensor) -> Tensor:
        """[B, C, t, h, w] -> [B, C', t or 2 t, 2 h, 2 w]."""
        result: Tensor = self.conv3d(self.up3d(video))
        return result


def enlarge(width: int, double_time: bool) -> nn.ConvTranspose3d:
    """A transposed convolution without overlap that doubles rows and columns, and frames if `double_time`."""
    factor = (2 if double_time else 1, 2, 2)
    return nn.ConvTranspose3d(width, width, factor, stride=factor)


class RateHead(nn.Module):
    """Scores of playback rates from the encoder's last map.

    Args:
        width: channels of the map.
        rates: number of rates.
    """

    def __init__(self, width: int, rates: int) -> None:
        super().__init__()
        self.conv6_cls = ConvBlock(width, width)
        self.fc8 = nn.Linear(width, rates)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, D, t, h, w] -> [B, rates]."""
        pooled = self.conv6_cls(maps).mean((2, 3, 4), dtype=torch.promote_types(maps.dtype, torch.float32))
        result: Tensor = self.fc8(pooled)
        return result


class ClipDecoder(nn.Module):
    """Draws a clip from the encoder's last map: four steps that double rows and columns, so 16 times as many of both.

    The output is not negative, because the last layer ends with batch norm and ReLU (official code).

    Args:
        width: channels of the map, a multiple of 8.
        doublings: steps that double the frames too, 0 to 4; the last ones do.
    """

    def __init__(self, width: int, doublings: int = 4) -> None:
        super().__init__()
        self.conv6_rec = ConvBlock(width, width)
        self.up1 = Up(width, width // 2, doublings > 3)
        self.up2 = Up(width // 2, width // 4, doublings > 2)
        self.up3 = Up(width // 4, width // 8, doublings > 1)
        self.up4_1 = enlarge(width // 8, doublings > 0)
        self.outc = ConvBlock(width // 8, 3)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, D, t, h, w] -> [B, 3, 2^doublings t, 16 h, 16 w]; 1 is white."""
        hidden = self.up3(self.up2(self.up1(self.conv6_rec(maps))))
        result: Tensor = self.outc(self.up4_1(hidden))
        return result

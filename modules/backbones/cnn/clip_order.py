"""The small R3D and R(2+1)D of VCOP (CVPR 2019, official code), with one residual block per stage.

They differ from torchvision's networks (`VideoResNet`) in more than depth: each factorised convolution has its own number of
channels between its two parts, the shortcuts of R(2+1)D are factorised too, and its stem has more channels between its parts.
"""

from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from modules.backbones.cnn.base import VideoCNN
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation

ClipOrderName = Literal["r3d", "r2plus1d"]


class ClipOrderResNet(VideoCNN):
    """R3D or R(2+1)D with a stem and four residual blocks. Its feature map has 8 * width channels and is downsampled by
    8 x 16 x 16. Layers have the official names, except that those of the stem are below `stem`.

    Args:
        name: r3d (14,361,792 parameters) or r2plus1d (14,365,303).
        width: channels of the first stage; each later stage has twice as many as the previous one. 64 is the published network.
        bn_eps: eps of every BatchNorm; null uses that of the weights, or 1e-5 (official code).
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        recompute_blocks: trade compute for memory: activations within stages are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, or an official file of VCOP (`base_network.*`).
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.

    Raises:
        SettingError: if the width is not positive, or the checkpoint does not fit.
    """

    smallest_clip = (4, 16)
    default_eps = 1e-5

    def __init__(
        self,
        name: ClipOrderName = "r3d",
        width: int = 64,
        bn_eps: float | None = None,
        channels_last: bool = True,
        recompute_blocks: bool = False,
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise SettingError(f"model.backbone.width is {width}; set it to 1 or more.")
        self.embed_dim = 8 * width
        conv = FactorisedConv if name == "r2plus1d" else FullConv
        stem = {"conv1": conv(3, width, (3, 7, 7), (1, 2, 2)), "bn1": nn.BatchNorm3d(width), "relu1": nn.ReLU(inplace=True)}
        self.stem = nn.Sequential(OrderedDict(stem))
        self.conv2 = _stage(width, width, conv)
        self.conv3 = _stage(width, 2 * width, conv)
        self.conv4 = _stage(2 * width, 4 * width, conv)
        self.conv5 = _stage(4 * width, 8 * width, conv)
        self.finish(bn_eps, 0.1, channels_last, recompute_blocks, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Stem and four stages of one residual block."""
        return [[self.stem], [self.conv2], [self.conv3], [self.conv4], [self.conv5]]


class FullConv(nn.Module):
    """A convolution over space and time, without bias."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.temporal_spatial_conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, inputs, T, H, W] -> [B, outputs, t, h, w]."""
        result: Tensor = self.temporal_spatial_conv(hidden)
        return result


class FactorisedConv(nn.Module):
    """A convolution over space, batch norm, ReLU and a convolution over time. The middle width gives about as many parameters
    as the full convolution has."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        time, rows, columns = kernel
        full, space = time * rows * columns * inputs * outputs, rows * columns * inputs
        middle = full // (space + time * outputs)
        if middle < 1:
            raise SettingError("model.backbone.width is too small for r2plus1d; set it to 2 or more.")
        self.spatial_conv = nn.Conv3d(
            inputs, middle, (1, rows, columns), (1, *stride[1:]), (0, rows // 2, columns // 2), bias=False
        )
        self.bn = nn.BatchNorm3d(middle)
        self.temporal_conv = nn.Conv3d(middle, outputs, (time, 1, 1), (stride[0], 1, 1), (time // 2, 0, 0), bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, inputs, T, H, W] -> [B, outputs, t, h, w]."""
        result: Tensor = self.temporal_conv(F.relu(self.bn(self.spatial_conv(hidden)), inplace=True))
        return result


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut. If the width grows, time and space are halved."""

    def __init__(self, inputs: int, outputs: int, conv: type[FullConv] | type[FactorisedConv]) -> None:
        super().__init__()
        stride = (1, 1, 1) if inputs == outputs else (2, 2, 2)
        self.downsampleconv = None if inputs == outputs else conv(inputs, outputs, (1, 1, 1), stride)
        self.downsamplebn = None if inputs == outputs else nn.BatchNorm3d(outputs)
        self.conv1 = conv(inputs, outputs, (3, 3, 3), stride)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = conv(outputs, outputs, (3, 3, 3), (1, 1, 1))
        self.bn2 = nn.BatchNorm3d(outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, inputs, T, H, W] -> [B, outputs, t, h, w]."""
        shortcut = hidden
        if self.downsampleconv is not None and self.downsamplebn is not None:
            shortcut = self.downsamplebn(self.downsampleconv(hidden))
        inner = F.relu(self.bn1(self.conv1(hidden)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)) + shortcut, inplace=True)


def _stage(inputs: int, outputs: int, conv: type[FullConv] | type[FactorisedConv]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(block1=ResidualBlock(inputs, outputs, conv)))

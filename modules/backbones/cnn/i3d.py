"""I3D (https://arxiv.org/abs/1705.07750) as trained by TubeletContrast (https://arxiv.org/abs/2303.11003, official code).

Inception-v1 with kernels inflated to three dimensions, BatchNorm after every convolution, no biases, and a static form of
TensorFlow's "SAME" padding: kernel - stride zeros per axis, the smaller half before and the larger half after, independent of
the size of the clip. Parameters have the official names.

There is one deviation, without effect on results: symmetric padding is done by the layer, so that nothing is copied. Max
pooling then pads with minus infinity instead of zeros. The result is the same because all its inputs are outputs of a ReLU.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.backbones.cnn.base import INCEPTION_STAGES, VideoCNN
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation

# Channels of the branches of each block (official code): 1x1 | 1x1, 3x3x3 | 1x1, 3x3x3 | pool, 1x1.
Branches = tuple[int, int, int, int, int, int]
BRANCHES: dict[str, Branches] = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


class ConvUnit(nn.Module):
    """Convolution, BatchNorm and ReLU. The output has the size of the input, or half of it with stride 2.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: side of the cubic kernel, odd.
        stride: stride of all axes.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        before, odd = divmod(kernel - stride, 2)
        self.extra = odd
        """additional zeros at the end of every axis, compared to its start"""
        self.before = before
        padding = 0 if odd else before
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
        self.batch3d = nn.BatchNorm3d(outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, D, T / stride, H / stride, W / stride]."""
        if self.extra:
            hidden = F.pad(hidden, [self.before, self.before + self.extra] * 3)
        return F.relu(self.batch3d(self.conv3d(hidden)), inplace=True)


class HalvingPool(nn.MaxPool3d):
    """Max pooling with stride 2 over space and optionally time, with zeros after the end of each axis.

    Args:
        kernel: side of the window, 2 or 3.
        time: also halve the number of frames; otherwise, the window is one frame long.
    """

    def __init__(self, kernel: int, time: bool) -> None:
        super().__init__((kernel if time else 1, kernel, kernel), (2 if time else 1, 2, 2), ceil_mode=True)
        after = kernel - 2
        self.after = [0, after, 0, after, 0, after if time else 0]

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, T, H, W], non-negative -> half the size, rounded up."""
        result: Tensor = super().forward(F.pad(hidden, self.after) if any(self.after) else hidden)
        return result


class Mixed(nn.Module):
    """Inception block: four branches over the same map, concatenated by channel.

    Args:
        inputs: input channels.
        branches: channels of the branches, as in `BRANCHES`.
    """

    def __init__(self, inputs: int, branches: Branches) -> None:
        super().__init__()
        alone, narrow1, wide1, narrow2, wide2, pooled = branches
        self.branch_0 = ConvUnit(inputs, alone)
        self.branch_1 = nn.Sequential(ConvUnit(inputs, narrow1), ConvUnit(narrow1, wide1, 3))
        self.branch_2 = nn.Sequential(ConvUnit(inputs, narrow2), ConvUnit(narrow2, wide2, 3))
        self.branch_3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), ConvUnit(inputs, pooled))
        self.outputs = alone + wide1 + wide2 + pooled

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, t, h, w] -> [B, sum of the branches' last channels, t, h, w]."""
        branches = (self.branch_0, self.branch_1, self.branch_2, self.branch_3)
        return torch.cat([branch(hidden) for branch in branches], dim=1)


class I3D(VideoCNN):
    """I3D without pooling and classifier. Its feature map has 1024 channels and is downsampled by 8 x 32 x 32; 12,287,264
    parameters.

    Args:
        width_factor: factor on the channels of every layer, for small runs. 1 is the published network.
        bn_eps: eps of every BatchNorm; null uses that of the weights, or 1e-5 (TubeletContrast, official code).
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        recompute_blocks: trade compute for memory: activations within stages are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, or an official .pth of TubeletContrast.
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.

    Raises:
        SettingError: if the factor is not positive, or the checkpoint does not fit.
    """

    smallest_clip = (4, 32)
    default_eps = 1e-5

    def __init__(
        self,
        width_factor: float = 1.0,
        bn_eps: float | None = None,
        channels_last: bool = True,
        recompute_blocks: bool = False,
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        if width_factor <= 0:
            raise SettingError(f"model.backbone.width_factor is {width_factor}; set it above 0 (1 is the published width).")
        stem, wide = _scaled(64, width_factor), _scaled(192, width_factor)
        self.conv3d_1a_7x7 = ConvUnit(3, stem, kernel=7, stride=2)
        self.pool_2a = HalvingPool(3, time=False)
        self.conv3d_2b_1x1 = ConvUnit(stem, stem)
        self.conv3d_2c_3x3 = ConvUnit(stem, wide, kernel=3)
        self.pool_3a = HalvingPool(3, time=False)
        self.mixed_3b = _mixed(wide, "3b", width_factor)
        self.mixed_3c = _mixed(self.mixed_3b.outputs, "3c", width_factor)
        self.pool_4a = HalvingPool(3, time=True)
        self.mixed_4b = _mixed(self.mixed_3c.outputs, "4b", width_factor)
        self.mixed_4c = _mixed(self.mixed_4b.outputs, "4c", width_factor)
        self.mixed_4d = _mixed(self.mixed_4c.outputs, "4d", width_factor)
        self.mixed_4e = _mixed(self.mixed_4d.outputs, "4e", width_factor)
        self.mixed_4f = _mixed(self.mixed_4e.outputs, "4f", width_factor)
        self.pool_5a = HalvingPool(2, time=True)
        self.mixed_5b = _mixed(self.mixed_4f.outputs, "5b", width_factor)
        self.mixed_5c = _mixed(self.mixed_5b.outputs, "5c", width_factor)
        self.embed_dim = self.mixed_5c.outputs
        self.finish(bn_eps, 0.1, channels_last, recompute_blocks, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Stem and three groups of Inception blocks, in the order in which the attributes are set."""
        parts = list(self.children())
        return [parts[stage] for stage in INCEPTION_STAGES]


def _scaled(channels: int, factor: float) -> int:
    return max(1, round(channels * factor))


def _mixed(inputs: int, block: str, factor: float) -> Mixed:
    a, b, c, d, e, f = (_scaled(channels, factor) for channels in BRANCHES[block])
    return Mixed(inputs, (a, b, c, d, e, f))

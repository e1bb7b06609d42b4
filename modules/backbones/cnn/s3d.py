"""S3D from torchvision, and S3D-G (both https://arxiv.org/abs/1712.04851) as in RSPNet's official code."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video import s3d

from modules.backbones.cnn.base import INCEPTION_STAGES, VideoCNN
from modules.backbones.cnn.i3d import BRANCHES
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation


class S3D(VideoCNN):
    """Torchvision's S3D without pooling and classifier. Its feature map has 1024 channels and is downsampled by 8 x 32 x 32;
    7,910,048 parameters.

    Args:
        bn_eps: eps of every BatchNorm; null uses that of the weights, or 1e-3 (torchvision's).
        bn_momentum: momentum of BatchNorm's running statistics. With torchvision's 0.001, they need thousands of steps to
            converge from their initial values; this does not matter for fine-tuning from its weights.
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        recompute_blocks: trade compute for memory: activations within stages are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, or torchvision's.
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.

    Raises:
        SettingError: if the checkpoint does not fit.
    """

    embed_dim = 1024
    default_eps = 1e-3
    # One frame more than half the stride, because the last pooling layer does not pad.
    smallest_clip = (5, 32)

    def __init__(
        self,
        bn_eps: float | None = None,
        bn_momentum: float = 0.1,
        channels_last: bool = True,
        recompute_blocks: bool = False,
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        self.features = s3d(weights=None).features
        self.finish(bn_eps, bn_momentum, channels_last, recompute_blocks, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Stem and three groups of Inception blocks."""
        parts = list(self.features)
        return [parts[stage] for stage in INCEPTION_STAGES]


class Unit(nn.Module):
    """Convolution, BatchNorm and ReLU. With stride 1, the size of the map is kept.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: odd sides of the kernel over time, rows and columns.
        stride: stride of all axes.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int] = (1, 1, 1), stride: int = 1) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, D, T / stride, H / stride, W / stride]."""
        return F.relu(self.bn(self.conv3d(hidden)), inplace=True)


class GatedConv(nn.Module):
    """A spatial and a temporal convolution, then self-gating: each channel is scaled by the sigmoid of a linear function of the
    channels' means over the clip.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: side of both kernels.
        stride: stride of all axes of the spatial convolution, including time, as in the official code.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.sep_conv = nn.Sequential(
            Unit(inputs, outputs, (1, kernel, kernel), stride), Unit(outputs, outputs, (kernel, 1, 1))
        )
        self.excitation = nn.Conv3d(outputs, outputs, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, D, T / stride, H / stride, W / stride]."""
        hidden = self.sep_conv(hidden)
        return hidden * torch.sigmoid(self.excitation(hidden.mean((2, 3, 4), keepdim=True)))


class GatedMixed(nn.Module):
    """Inception block: four branches over the same map, concatenated by channel.

    Args:
        inputs: input channels.
        branches: channels of the branches, as in `modules.backbones.cnn.i3d.BRANCHES`.
    """

    def __init__(self, inputs: int, branches: list[int]) -> None:
        super().__init__()
        alone, narrow1, wide1, narrow2, wide2, pooled = branches
        self.branch0 = Unit(inputs, alone)
        self.branch1 = nn.Sequential(Unit(inputs, narrow1), GatedConv(narrow1, wide1))
        self.branch2 = nn.Sequential(Unit(inputs, narrow2), GatedConv(narrow2, wide2))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), Unit(inputs, pooled))
        self.outputs = alone + wide1 + wide2 + pooled

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, t, h, w] -> [B, sum of the branches' last channels, t, h, w]."""
        branches = (self.branch0, self.branch1, self.branch2, self.branch3)
        return torch.cat([branch(hidden) for branch in branches], dim=1)


class S3DG(VideoCNN):
    """S3D with self-gating, without pooling and classifier. Its feature map has 1024 channels and is downsampled by
    8 x 32 x 32; 8,675,744 parameters, with the names of RSPNet's official code.

    Args:
        width_factor: factor on the channels of every layer, for small runs. 1 is the published network.
        bn_eps: eps of every BatchNorm; null uses that of the weights, or 1e-3 (official code).
        bn_momentum: momentum of BatchNorm's running statistics. The official 0.001 needs thousands of steps to converge from
            the initial values; set 0.1 for short runs.
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        recompute_blocks: trade compute for memory: activations within stages are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, or an official file of RSPNet.
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.

    Raises:
        SettingError: if the factor is not positive, or the checkpoint does not fit.
    """

    default_eps = 1e-3
    # One frame more than half the stride, because the last pooling layer does not pad.
    smallest_clip = (5, 32)

    def __init__(
        self,
        width_factor: float = 1.0,
        bn_eps: float | None = None,
        bn_momentum: float = 0.001,
        channels_last: bool = True,
        recompute_blocks: bool = False,
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        if width_factor <= 0:
            raise SettingError(f"model.backbone.width_factor is {width_factor}; set it above 0 (1 is the published width).")

        def scaled(channels: int) -> int:
            return max(1, round(channels * width_factor))

        stem, hidden = scaled(64), scaled(192)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["sepConv1"] = GatedConv(3, stem, kernel=7, stride=2)
        layers["pool1"] = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        layers["basicConv3d"] = Unit(stem, stem)
        layers["sep_conv2"] = GatedConv(stem, hidden)
        layers["pool2"] = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        for name, channels in BRANCHES.items():
            block = GatedMixed(hidden, [scaled(one) for one in channels])
            layers[f"sepInc_{name}"], hidden = block, block.outputs
            if name == "3c":
                layers["pool3"] = nn.MaxPool3d(3, 2, 1)
            if name == "4f":
                layers["pool4"] = nn.MaxPool3d(2, 2)
        self.feature = nn.Sequential(layers)
        self.embed_dim = hidden
        self.finish(bn_eps, bn_momentum, channels_last, recompute_blocks, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Stem and three groups of Inception blocks."""
        parts = list(self.feature)
        return [parts[stage] for stage in INCEPTION_STAGES]

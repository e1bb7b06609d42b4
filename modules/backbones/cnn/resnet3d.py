"""3D ResNet-18 of Hara et al. (https://arxiv.org/abs/1711.09577), the `resnet18` of RSPNet's official code."""

import torch.nn.functional as F
from torch import Tensor, nn

from modules.backbones.cnn.base import VideoCNN
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation


class Block(nn.Module):
    """Two 3 x 3 x 3 convolutions with BatchNorm, added to the input or its 1 x 1 x 1 convolution (shortcut type B).

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: stride of all three axes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            convolution = nn.Conv3d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm3d(outputs))

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, D, T / stride, H / stride, W / stride]."""
        shortcut = hidden if self.downsample is None else self.downsample(hidden)
        hidden = F.relu(self.bn1(self.conv1(hidden)), inplace=True)
        return F.relu(self.bn2(self.conv2(hidden)) + shortcut, inplace=True)


class ResNet3D(VideoCNN):
    """3D ResNet-18 with a stem of 7 x 7 x 7 and max pooling over space and time, without pooling and classifier. Its feature
    map has 8 * width channels and is downsampled by 16 x 32 x 32; 33,203,904 parameters. `VideoResNet` r3d_18 is another
    network: its stem is 3 x 7 x 7, without max pooling.

    Parameters have the names of the official code. As in the other networks, initial weights are PyTorch's defaults.

    Args:
        width: channels of the first stage; each later stage has twice as many as the previous one. 64 is the published network.
        bn_eps: eps of every BatchNorm; null uses that of the weights, or 1e-5 (official code).
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        recompute_blocks: trade compute for memory: activations within stages are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, or an official file of RSPNet.
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.

    Raises:
        SettingError: if the width is not positive, or the checkpoint does not fit.
    """

    smallest_clip = (8, 32)
    default_eps = 1e-5

    def __init__(
        self,
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
        self.conv1 = nn.Conv3d(3, width, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(Block(4 * width, 8 * width, 2), Block(8 * width, 8 * width, 1))
        self.finish(bn_eps, 0.1, channels_last, recompute_blocks, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Stem and four stages of two residual blocks."""
        stem: list[nn.Module] = [self.conv1, self.bn1, self.relu, self.maxpool]
        return [stem, [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

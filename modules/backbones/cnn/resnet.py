"""R3D-18 and R(2+1)D-18 (https://arxiv.org/abs/1711.11248), and TCLR's variant, built from torchvision's blocks."""

from typing import Literal

from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DSimple

from modules.backbones.cnn.base import VideoCNN
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation

ResNetName = Literal["r3d_18", "r2plus1d_18", "r2plus1d_18_tclr"]


class VideoResNet(VideoCNN):
    """R3D-18 or R(2+1)D-18 without pooling and classifier. Its feature map has 8 * width channels and is downsampled by
    8 x 16 x 16.

    TCLR's published encoder (https://arxiv.org/abs/2101.07974) is an R(2+1)D-18 without temporal stride in the last stage. Its
    map is downsampled by 4 x 16 x 16, and the first convolution of that stage is a full 3 x 3 x 3 one, dilated by 2 in time.
    Its input is blue, green, red from 0 to 1, as in the official code of SEVERE. That code normalises clips for all other
    networks, including torchvision's, with ImageNet's mean and standard deviation; here, torchvision's files with 400 classes
    use torchvision's own.

    Args:
        name: r3d_18 (3 x 3 x 3 convolutions; 33,166,272 parameters), r2plus1d_18 (factorised over space and time; 31,300,125)
            or r2plus1d_18_tclr (TCLR's variant; 31,300,587).
        width: channels of the first stage; each later stage has twice as many as the previous one. 64 is the published network.
        bn_eps: eps of every BatchNorm; null uses that of the weights: 1e-3 for weights of TubeletContrast and CtP (official
            code) and for random initialisation, 1e-5 for weights of torchvision and of the other published methods.
        channels_last: use the channels-last memory layout for weights and maps, which cuDNN's half-precision kernels expect.
            Results and names are the same. There is no gain on CPU: R3D-18 is as fast, R(2+1)D-18 trains about 20 % slower.
        recompute_blocks: trade compute for memory: activations within stages are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, torchvision's, an official .pth of
            TubeletContrast or CtP, or a published file supported by `from_published`.
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.

    Raises:
        SettingError: if the width is not positive, or the checkpoint does not fit.
    """

    smallest_clip = (4, 16)
    default_eps = 1e-3

    def __init__(
        self,
        name: ResNetName = "r2plus1d_18",
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
        split = name != "r3d_18"
        conv = Conv2Plus1D if split else Conv3DSimple
        self.stem = _split_stem(width) if split else _stem(width)
        self.layer1 = _stage(width, width, conv)
        self.layer2 = _stage(width, 2 * width, conv)
        self.layer3 = _stage(2 * width, 4 * width, conv)
        self.layer4 = _stage(4 * width, 8 * width, conv, keep_time=name == "r2plus1d_18_tclr")
        self.finish(bn_eps, 0.1, channels_last, recompute_blocks, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Stem and four stages of two residual blocks."""
        return [[self.stem], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]


# Torchvision's stems have a fixed width. These have the same layers and names.
def _stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def _split_stem(width: int) -> nn.Sequential:
    middle = max(1, 45 * width // 64)
    return nn.Sequential(
        nn.Conv3d(3, middle, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def _stage(inputs: int, outputs: int, conv: type[Conv2Plus1D] | type[Conv3DSimple], keep_time: bool = False) -> nn.Sequential:
    """Two residual blocks. If the width grows, the first one halves time and space, or only space with `keep_time`."""
    if inputs == outputs:
        return nn.Sequential(BasicBlock(inputs, outputs, conv), BasicBlock(outputs, outputs, conv))
    stride = (1, 2, 2) if keep_time else 2
    shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))
    first = BasicBlock(inputs, outputs, conv, 2, shortcut)
    if keep_time:
        first.conv1[0] = nn.Conv3d(inputs, outputs, 3, stride, padding=(2, 1, 1), dilation=(2, 1, 1), bias=False)
    return nn.Sequential(first, BasicBlock(outputs, outputs, conv))

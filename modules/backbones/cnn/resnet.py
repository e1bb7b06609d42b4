"""R3D-18 and R(2+1)D-18 (https://arxiv.org/abs/1711.11248), and TCLR's variant, from torchvision's parts."""

from typing import Literal

from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DSimple

from modules.backbones.cnn.base import VideoCNN
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation

ResNetName = Literal["r3d_18", "r2plus1d_18", "r2plus1d_18_tclr"]


class VideoResNet(VideoCNN):
    """R3D-18 or R(2+1)D-18 without pooling and classifier: 8 x 16 x 16 smaller maps of 8 * width channels.

    TCLR's published encoder (https://arxiv.org/abs/2101.07974) is an R(2+1)D-18 whose last stage keeps all time steps: its maps
    are 4 x 16 x 16 smaller, and the first convolution of that stage is a whole 3 x 3 x 3 one, dilated by 2 in time. It takes
    blue, green, red from 0 to 1, and gets them (official code of SEVERE, which feeds all others, torchvision's among them, red,
    green, blue with ImageNet's mean and standard deviation; here torchvision's files with 400 classes get theirs).

    Args:
        name: r3d_18 (3 x 3 x 3 convolutions; 33,166,272 parameters), r2plus1d_18 (space and time apart; 31,300,125) or
            r2plus1d_18_tclr (TCLR's form of it; 31,300,587).
        width: channels of the first stage; each next one has twice as many. 64 is the published network.
        bn_eps: eps of every BatchNorm; null takes that of the weights: 1e-3 for those of TubeletContrast and CtP (official
            code) and for fresh ones, 1e-5 for torchvision's and those of the other published methods.
        channels_last: memory layout of weights and maps (channels innermost, which half-precision kernels of cuDNN work in).
            Results and names are the same. On CPU it gains nothing: R3D-18 is as fast, R(2+1)D-18 trains some 20 % slower.
        recompute_blocks: trade compute for memory: activations within stages are recomputed in the backward pass.
        checkpoint: file with weights: our .safetensors or .ckpt, torchvision's, an official .pth of TubeletContrast or CtP, or
            a published file that `from_published` knows.
        normalisation: of the clips; null takes that of the weights, or ImageNet's where the file does not say.

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


# torchvision's stems have a fixed width; these have the same layers and names.
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
    """Two residual blocks, of which the first halves time and space, or space alone, where the width grows."""
    if inputs == outputs:
        return nn.Sequential(BasicBlock(inputs, outputs, conv), BasicBlock(outputs, outputs, conv))
    stride = (1, 2, 2) if keep_time else 2
    shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))
    first = BasicBlock(inputs, outputs, conv, 2, shortcut)
    if keep_time:
        first.conv1[0] = nn.Conv3d(inputs, outputs, 3, stride, padding=(2, 1, 1), dilation=(2, 1, 1), bias=False)
    return nn.Sequential(first, BasicBlock(outputs, outputs, conv))

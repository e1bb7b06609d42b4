"""C3D with batch norm, as in the official code of VCOP (CVPR 2019; the network without batch norm: arXiv 1412.0767)."""

from collections import OrderedDict

from torch import nn

from modules.backbones.cnn.base import VideoCNN
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation


class C3D(VideoCNN):
    """Eight 3 x 3 x 3 convolutions, each with bias, batch norm and ReLU, and four max-pooling layers. Its feature map has
    8 * width channels and is downsampled by 8 x 16 x 16; 27,661,440 parameters.

    Convolutions and batch norms have the official names, below the name of their block. The last block has no pooling, and the
    fully connected layers of the first C3D are missing, as in the official code of VCOP.

    Args:
        width: channels of the first block; the following ones have 2, 4, 8 and 8 times as many. 64 is the published network.
        bn_eps: eps of every BatchNorm; null uses that of the weights, or 1e-5 (official code).
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        recompute_blocks: trade compute for memory: activations within blocks are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, or an official file of VCOP (`base_network.*`).
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.

    Raises:
        SettingError: if the width is not positive, or the checkpoint does not fit.
    """

    smallest_clip = (8, 16)
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
        self.block1 = _block(3, width, ["1"], nn.MaxPool3d((1, 2, 2)))
        self.block2 = _block(width, 2 * width, ["2"], nn.MaxPool3d(2))
        self.block3 = _block(2 * width, 4 * width, ["3a", "3b"], nn.MaxPool3d(2))
        self.block4 = _block(4 * width, 8 * width, ["4a", "4b"], nn.MaxPool3d(2))
        self.block5 = _block(8 * width, 8 * width, ["5a", "5b"], nn.Identity())
        self.finish(bn_eps, 0.1, channels_last, recompute_blocks, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Five blocks, each with the pooling after it."""
        return [[self.block1], [self.block2], [self.block3], [self.block4], [self.block5]]


def _block(inputs: int, outputs: int, names: list[str], pool: nn.Module) -> nn.Sequential:
    """Convolutions with the names `conv3a`, `bn3a` and so on, then the pooling."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name in names:
        layers[f"conv{name}"] = nn.Conv3d(inputs, outputs, 3, padding=1)
        layers[f"bn{name}"] = nn.BatchNorm3d(outputs)
        layers[f"relu{name}"] = nn.ReLU(inplace=True)
        inputs = outputs
    layers["pool"] = pool
    return nn.Sequential(layers)

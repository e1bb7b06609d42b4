"""SlowOnly-like R3D-50, the network of CVRL (https://arxiv.org/abs/2008.03800, official code): a ResNet-50 whose last two
stages have temporal kernels.

Stem of 5 x 7 x 7 with stride 2 in time and space, pooling over space alone, then bottlenecks: a temporal convolution (1 x 1 x 1
in the first two stages, 3 x 1 x 1 in the last two), a 1 x 3 x 3 one with the stride, and a 1 x 1 x 1 one. Time is never halved
again. For 16 x 224 x 224, the stages have 256 x 8 x 56 x 56, 512 x 8 x 28 x 28, 1024 x 8 x 14 x 14 and 2048 x 8 x 7 x 7 values.

Initial weights are PyTorch's defaults, not TensorFlow's.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from modules.backbones.cnn.base import VideoCNN
from modules.core.errors import SettingError, check_positive
from modules.core.preprocessing import TO_ONE, Normalisation, Origin

Padding = Literal["same", "symmetric"]
Triple = tuple[int, int, int]
TEMPORAL_KERNELS = (1, 1, 3, 3)


class PaddedConv(nn.Conv3d):
    """Convolution without bias whose output has the size of the input over the stride, rounded up.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: odd sides of the kernel.
        stride: strides.
        padding: TensorFlow's `same` puts the odd zero of an even input with stride 2 after it; `symmetric` has as many zeros
            before as after, so that the kernels are shifted by half a step.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple, padding: Padding) -> None:
        middle = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(inputs, outputs, kernel, stride, middle, bias=False)
        self.mode = padding

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, D, T / stride, H / stride, W / stride]."""
        zeros = same_zeros(hidden.shape[2:], self.kernel_size, self.stride)
        # With odd inputs or stride 1, both paddings are equal, and the layer's own copies nothing.
        if self.mode == "symmetric" or all(before == after for before, after in zeros):
            return super().forward(hidden)
        padded = F.pad(hidden, [number for pair in reversed(zeros) for number in pair])
        return F.conv3d(padded, self.weight, None, self.stride)


class SpatialPool(nn.MaxPool3d):
    """Max pooling of 1 x 3 x 3 with stride 2 over space, for maps without negative values.

    Args:
        padding: see `PaddedConv`.
    """

    def __init__(self, padding: Padding) -> None:
        super().__init__((1, 3, 3), (1, 2, 2), (0, 1, 1) if padding == "symmetric" else 0)
        self.mode = padding

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C, T, H / 2, W / 2], rounded up."""
        if self.mode == "same":
            # TensorFlow pads with minus infinity; after a ReLU, zeros give the same maximum.
            height, width = same_zeros(hidden.shape[3:], (3, 3), (2, 2))
            hidden = F.pad(hidden, [*width, *height])
        result: Tensor = super().forward(hidden)
        return result


def same_zeros(sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[tuple[int, int]]:
    """Zeros before and after each axis for TensorFlow's padding SAME."""
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, stride, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


class Bottleneck(nn.Module):
    """Residual block; BatchNorm after every convolution, a projection in the shortcut of the first block of a stage.

    Args:
        inputs: input channels.
        width: channels of the first two convolutions; the output has four times as many.
        kernel: length of the temporal kernel.
        stride: spatial stride.
        first: whether it is the first block of its stage.
        padding: see `PaddedConv`.
    """

    def __init__(self, inputs: int, width: int, kernel: int, stride: int, first: bool, padding: Padding) -> None:
        super().__init__()
        outputs, strides = 4 * width, (1, stride, stride)
        self.shortcut = nn.Sequential()
        if first:
            self.shortcut = nn.Sequential(PaddedConv(inputs, outputs, (1, 1, 1), strides, padding), nn.BatchNorm3d(outputs))
        self.temporal = PaddedConv(inputs, width, (kernel, 1, 1), (1, 1, 1), padding)
        self.norm1 = nn.BatchNorm3d(width)
        self.spatial = PaddedConv(width, width, (1, 3, 3), strides, padding)
        self.norm2 = nn.BatchNorm3d(width)
        self.expand = PaddedConv(width, outputs, (1, 1, 1), (1, 1, 1), padding)
        self.norm3 = nn.BatchNorm3d(outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, 4 * width, T, H / stride, W / stride]."""
        made = F.relu(self.norm1(self.temporal(hidden)), inplace=True)
        made = F.relu(self.norm2(self.spatial(made)), inplace=True)
        return F.relu(self.norm3(self.expand(made)) + self.shortcut(hidden), inplace=True)


class SlowOnly(VideoCNN):
    """SlowOnly-like R3D-50 without pooling and classifier. Its feature map has 32 * width channels and is downsampled by
    2 x 32 x 32; 31,672,128 parameters.

    Args:
        width: channels of the stem and of the first bottlenecks. 64 is the published network; CVRL's R3D-152 (2x) has 128 and
            blocks [3, 8, 36, 3].
        blocks: bottlenecks of each of the four stages.
        padding: `same` as in TensorFlow, with one zero less before than after in layers of stride 2 with even inputs;
            `symmetric` as usual in PyTorch. With the weights of one, the other gives different features. Null uses that of the
            weights, or `same`.
        bn_eps: eps of every BatchNorm; null uses that of the weights, or 1e-5 (official code).
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        recompute_blocks: trade compute for memory: activations within stages are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, or CVRL's arrays exported from TensorFlow
            (docs/weights.md).
        normalisation: normalisation of the clips; null uses that of the weights, or none (pixels from 0 to 1, official code).

    Raises:
        SettingError: if a number is not positive, or the checkpoint does not fit.
    """

    smallest_clip = (2, 32)
    default_eps = 1e-5
    usual_normalisation = TO_ONE

    def __init__(
        self,
        width: int = 64,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        padding: Padding | None = None,
        bn_eps: float | None = None,
        channels_last: bool = True,
        recompute_blocks: bool = False,
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        check_positive("model.backbone", width=width)
        if len(blocks) != 4 or min(blocks) < 1:
            raise SettingError(
                f"model.backbone.blocks is {list(blocks)}; set it to four positive integers, one for each stage."
            )
        self.embed_dim = 32 * width
        self.asked_padding = padding
        mode: Padding = padding or "same"
        self.stem = nn.Sequential(
            PaddedConv(3, width, (5, 7, 7), (2, 2, 2), mode),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            SpatialPool(mode),
        )
        self.layer1 = _stage(width, width, blocks[0], TEMPORAL_KERNELS[0], 1, mode)
        self.layer2 = _stage(4 * width, 2 * width, blocks[1], TEMPORAL_KERNELS[1], 2, mode)
        self.layer3 = _stage(8 * width, 4 * width, blocks[2], TEMPORAL_KERNELS[2], 2, mode)
        self.layer4 = _stage(16 * width, 8 * width, blocks[3], TEMPORAL_KERNELS[3], 2, mode)
        self.finish(bn_eps, 0.1, channels_last, recompute_blocks, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Stem and four stages of bottlenecks."""
        return [[self.stem], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def pad(self, padding: Padding) -> None:
        """Set the padding of all layers."""
        for part in self.modules():
            if isinstance(part, PaddedConv | SpatialPool):
                part.mode = padding
            if isinstance(part, SpatialPool):
                part.padding = (0, 1, 1) if padding == "symmetric" else 0

    @property
    def padding(self) -> Padding:
        """Padding of all layers."""
        stem: PaddedConv = self.stem[0]  # type: ignore[assignment]
        return stem.mode

    def adopt(self, origin: Origin) -> list[str]:
        """See `VideoCNN.adopt`; the padding is adopted too."""
        lines, known = super().adopt(origin), origin.padding
        if self.asked_padding is None:
            self.pad(known or "same")
        elif known is not None and known != self.asked_padding:
            lines.append(f"model.backbone.padding is {self.asked_padding}, though {origin.source} was trained with {known}.")
        return lines

    def facts(self) -> dict[str, object]:
        """See `VideoCNN.facts`."""
        return super().facts() | {"padding": self.padding}


def _stage(inputs: int, width: int, count: int, kernel: int, stride: int, padding: Padding) -> nn.Sequential:
    """Bottlenecks, the first of which has the stride."""
    first = Bottleneck(inputs, width, kernel, stride, True, padding)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, kernel, 1, False, padding) for _ in range(count - 1)))

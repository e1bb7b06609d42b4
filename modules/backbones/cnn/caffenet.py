"""CaffeNet, the AlexNet (NIPS 2012) that comes with Caffe, as the trunk of the first methods that learned from the order of
frames: Shuffle & Learn (https://arxiv.org/abs/1603.08561), OPN (https://arxiv.org/abs/1708.01246) and Odd-One-Out
(https://arxiv.org/abs/1611.06646).

A 2-D network: its kernels see one frame. Clips keep their time axis, so that everything that takes encoders of clips takes this
one, and the feature of a clip is the mean over its frames. Differences of frames as input make pictures of motion out of short
runs of frames (Odd-One-Out). Weights and encoding of the frames belong together; the encoding is stored with the weights.

Maps have the sizes of Caffe, which rounds up in pooling: 227 px give 55, 27, 13, 13 and 6; 80 px give 18, 9, 4, 4 and 2.

Deviations: weights are initialised with PyTorch's defaults, and convolutions before batch norm have no bias, which it would
remove. There are no published weights in a format without Caffe; names are our own.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from modules.backbones.cnn.base import VideoCNN
from modules.core.errors import SettingError, check_whole
from modules.core.preprocessing import Normalisation, Origin

Norm = Literal["scaled", "plain", "none"]
Encoding = Literal["frames", "sum_of_differences", "stack_of_differences"]
Stem = Literal["large", "small"]


class CaffeNet(VideoCNN):
    """The five convolutions of CaffeNet, without its linear layers. The feature map has 8/3 * width channels and is downsampled
    by about 32, or 16 with the small stem; it has one slice for each frame, or for each run of frames. 2,332,704
    weights besides biases and norms.

    Args:
        width: channels of the first layer, even; the others follow. 96 is the published network.
        norm: batch norm after the last three convolutions: `scaled` with an affine map (OPN), `plain` without (Shuffle &
            Learn), `none` (Odd-One-Out).
        stem: `large` is 11 x 11 with stride 4, for 39 px or more; `small`, for small clips, 7 x 7 with stride 2, for 21 px or
            more.
        encoding: what the first layer sees: each of the `frames`; or of each run of `window` frames the `sum_of_differences` of
            neighbouring frames (which is the last minus the first frame), or the `stack_of_differences`, all of them as
            channels.
        window: frames of a run; used for differences only.
        image_size: side of the clips in pixels. `forward` then returns the map of a frame as it is, 9216 values at 227 px and
            1024 at 80 px, as the linear layers of Caffe's networks take it; null averages over the map.
        bn_eps: eps of every BatchNorm; null uses that of the weights, or 1e-5 (Caffe).
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        checkpoint: file with weights: a .safetensors or .ckpt of this project.
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.

    Raises:
        SettingError: if a size is impossible, or the checkpoint does not fit or was trained with another encoding.
    """

    default_eps = 1e-5

    def __init__(
        self,
        width: int = 96,
        norm: Norm = "scaled",
        stem: Stem = "large",
        encoding: Encoding = "frames",
        window: int = 6,
        image_size: int | None = None,
        bn_eps: float | None = None,
        channels_last: bool = True,
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        check_whole("model.backbone", 2, width=width, window=window)
        if width % 2:
            raise SettingError(f"model.backbone.width is {width}; set it to an even number, for two groups of channels.")
        self.norm, self.encoding, self.image_size = norm, encoding, image_size
        self.window = 1 if encoding == "frames" else window
        kernel, stride, least = (11, 4, 39) if stem == "large" else (7, 2, 21)
        self.smallest_clip = (self.window, least)
        if image_size is not None and image_size < least:
            raise SettingError(
                f"model.backbone.image_size is {image_size}, but model.backbone.stem {stem} takes {least} pixels or more; set "
                "one of them."
            )
        inputs = 3 * (window - 1) if encoding == "stack_of_differences" else 3
        # Two of the convolutions have two groups.
        outer, inner = 2 * round(width * 4 / 3), 4 * width
        self.embed_dim = outer
        self.conv1 = _conv(inputs, width, kernel, stride)
        self.conv2 = _conv(width, outer, 5, padding=2, groups=2)
        self.conv3 = _conv(outer, inner, 3, padding=1, bias=norm == "none")
        self.conv4 = _conv(inner, inner, 3, padding=1, groups=2, bias=norm == "none")
        self.conv5 = _conv(inner, outer, 3, padding=1, groups=2, bias=norm == "none")
        self.bn3, self.bn4, self.bn5 = (_norm(norm, channels) for channels in (inner, inner, outer))
        self.pool1, self.pool2, self.pool5 = (nn.MaxPool3d((1, 3, 3), (1, 2, 2), ceil_mode=True) for _ in range(3))
        self.lrn1, self.lrn2 = (nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75) for _ in range(2))
        self.relu1, self.relu2, self.relu3, self.relu4, self.relu5 = (nn.ReLU() for _ in range(5))
        self.side = None if image_size is None else _map_side((image_size - kernel) // stride + 1)
        self.finish(bn_eps, 0.1, channels_last, False, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """The five convolutions, each with what follows it."""
        return [
            [self.conv1, self.relu1, self.pool1, self.lrn1],
            [self.conv2, self.relu2, self.pool2, self.lrn2],
            [self.conv3, self.bn3, self.relu3],
            [self.conv4, self.bn4, self.relu4],
            [self.conv5, self.bn5, self.relu5, self.pool5],
        ]

    @property
    def feature_dim(self) -> int:
        """Length of the feature that `forward` returns."""
        return self.embed_dim * (1 if self.side is None else self.side**2)

    def adopt(self, origin: Origin) -> list[str]:
        """See `VideoCNN.adopt`.

        Raises:
            SettingError: if the weights were trained with another encoding, of which their shapes say little.
        """
        lines, known = super().adopt(origin), origin.encoding
        if known is None:
            lines.append(
                f"{origin.source} does not record the encoding of its frames: {self.encoding} assumed; model.backbone.encoding "
                "changes it."
            )
        elif (known, origin.window or 1) != (self.encoding, self.window):
            run = "" if known == "frames" else f" and model.backbone.window to {origin.window}"
            raise SettingError(
                f"model.backbone has the encoding {self.encoding} with runs of {self.window} frame(s), but {origin.source} was "
                f"trained with {known}; set model.backbone.encoding to {known}{run}."
            )
        return lines

    def facts(self) -> dict[str, Any]:
        """See `VideoCNN.facts`."""
        run = {} if self.encoding == "frames" else {"window": self.window}
        return super().facts() | {"encoding": self.encoding} | run

    def check_clip(self, frames: int, height: int, width: int) -> None:
        """See `VideoCNN.check_clip`.

        Raises:
            SettingError: also if the clips have another size than `image_size`.
        """
        super().check_clip(frames, height, width)
        if self.image_size is not None and (height, width) != (self.image_size, self.image_size):
            raise SettingError(
                f"model.backbone.image_size is {self.image_size}, but clips have {height} x {width} pixels; set it to null, or "
                "make them equal."
            )

    def _begin(self, video: Tensor) -> Tensor:
        """Checked clips, or the differences of their frames, in the memory layout of the first layer."""
        checked = super()._begin(video)
        if self.encoding == "frames":
            return checked
        complete = video.shape[2] // self.window * self.window
        # [B, 3, t, W, H, W]
        pieces: Tensor = checked[:, :, :complete].unflatten(2, (-1, self.window))
        if self.encoding == "sum_of_differences":
            made = pieces[:, :, :, -1] - pieces[:, :, :, 0]
        else:
            steps = pieces[:, :, :, 1:] - pieces[:, :, :, :-1]
            made = steps.permute(0, 3, 1, 2, 4, 5).flatten(1, 2)
        return made.contiguous(memory_format=self.memory_format)

    def forward(self, video: Tensor) -> Tensor:
        """Mean of the last map over time, and over rows and columns unless `image_size` is set: [B, 3, T, H, W] -> float32
        [B, feature_dim]."""
        if self.side is None:
            return super().forward(video)
        maps = self.forward_features(video)
        return maps.mean(2, dtype=torch.promote_types(maps.dtype, torch.float32)).flatten(1)


def _conv(
    inputs: int, outputs: int, side: int, stride: int = 1, padding: int = 0, groups: int = 1, bias: bool = True
) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, (1, side, side), (1, stride, stride), (0, padding, padding), groups=groups, bias=bias)


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.Identity() if norm == "none" else nn.BatchNorm3d(channels, affine=norm == "scaled")


def _map_side(side: int) -> int:
    """Side of the last map from that of the first, after three poolings that round up."""
    for _ in range(3):
        side = -((3 - side) // 2) + 1
    return side

"""Video CNNs from torchvision's parts: R3D-18 and R(2+1)D-18 (https://arxiv.org/abs/1711.11248), S3D
(https://arxiv.org/abs/1712.04851).

Names of parameters are torchvision's, so its published weights load. Weights of the official code of TubeletContrast
(https://arxiv.org/abs/2303.11003) and CtP load as well: same network, other names (`from_official`).

Two things that differ between torchvision and the official contrastive code:

* R3D and R(2+1)D were pretrained there with BatchNorm eps 1e-3; torchvision has 1e-5. Features of the same weights differ by
  up to a tenth of their mean size, so eps is a setting.
* weights start from PyTorch's defaults (Conv3d: Kaiming uniform with a = sqrt 5; BatchNorm 1 and 0), which is what the official
  contrastive code does, and not from torchvision's Kaiming normal (fan out).
"""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.video import s3d
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DSimple

from modules.core.errors import SettingError, check_range, given
from modules.core.loading import LoadReport, load_strictly
from modules.core.preprocessing import IMAGENET, Normalisation, Origin, say, settle_normalisation
from modules.weights.files import read_checkpoint
from modules.weights.names.video_cnn import backbone_part, from_official, from_published
from modules.weights.origin import origin_of, published_origin

# The parts of S3D and I3D in groups: the stem, then Inception blocks at one resolution, with the pool behind them.
INCEPTION_STAGES = (slice(0, 5), slice(5, 8), slice(8, 14), slice(14, 16))


ResNetName = Literal["r3d_18", "r2plus1d_18", "r2plus1d_18_tclr"]


class VideoCNN(nn.Module, ABC):
    """What the video CNNs have in common. A subclass sets `embed_dim` and builds its layers, then calls `finish`."""

    embed_dim: int
    """channels of the last map"""
    smallest_clip: tuple[int, int]
    """fewest frames (half the stride in time) and smallest side (the stride in space); less leaves mostly padding"""
    default_eps: float
    """of every BatchNorm, where neither the settings nor the weights say"""
    normalisation: Normalisation

    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """Layers in the order in which a clip goes through them, grouped from the stem to the last stage."""

    def finish(
        self,
        bn_eps: float | None,
        bn_momentum: float,
        channels_last: bool,
        checkpoint: str | None,
        normalisation: Normalisation | None,
    ) -> None:
        """Settings of every BatchNorm, memory layout, how clips are fed, and weights.

        Raises:
            SettingError: if the checkpoint does not fit.
        """
        check_range("model.backbone", 0, 1, bn_momentum=bn_momentum, **given(bn_eps=bn_eps))
        self.normalisation, self.asked_normalisation, self.asked_eps = normalisation or IMAGENET, normalisation, bn_eps
        self.set_eps(self.default_eps if bn_eps is None else bn_eps)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm3d):
                part.momentum = bn_momentum
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        if checkpoint is not None:
            self.load(checkpoint)

    def load(self, path: str) -> LoadReport:
        """Load backbone weights strictly; everything else in the file (heads, key branch, queue) is reported as left over.

        Args:
            path: our .ckpt or .safetensors of a method (`backbone.*`) or of the backbone alone, an official .pth of
                TubeletContrast or CtP (`backbone.*`), a published file that `from_published` knows, or torchvision's weights.

        Returns:
            The report that was printed.

        Raises:
            SettingError: if the file cannot be read, or lacks a weight, or has another one or another shape.
        """
        content = read_checkpoint(path, "model.backbone.checkpoint")
        inner, rest = backbone_part(from_official(from_published(content.weights)))
        # Some official files lack the counters of BatchNorm, which only a cumulative average would need.
        counters = tuple(key for key in self.state_dict() if key.endswith("num_batches_tracked"))
        # "fc." and "classifier." are the heads of torchvision's networks.
        report = load_strictly(self, rest | inner, path, may_miss=counters, may_leave=(*rest, "fc.", "classifier."))
        say(self.adopt(published_origin(content.weights, origin_of(path, content))))
        return report

    def set_eps(self, eps: float) -> None:
        """Set the eps of every BatchNorm."""
        self.bn_eps = eps
        for part in self.modules():
            if isinstance(part, nn.BatchNorm3d):
                part.eps = eps

    def preprocess(self, clip: Tensor) -> Tensor:
        """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] as the weights want it."""
        return self.normalisation.apply(clip)

    def adopt(self, origin: Origin) -> list[str]:
        """Feed clips as the network was fed that the weights come from, and take its eps. Settings take precedence;
        what is not known is assumed.

        Args:
            origin: of the weights.

        Returns:
            Lines to print.
        """
        self.normalisation, lines = settle_normalisation(self.asked_normalisation, origin, IMAGENET)
        asked, known = self.asked_eps, origin.bn_eps
        if asked is None and known is None:
            lines.append(
                f"{origin.source} does not say with which eps of BatchNorm it was trained: {self.default_eps:g} assumed; "
                "model.backbone.bn_eps changes it."
            )
        elif asked is not None and known is not None and asked != known:
            lines.append(f"model.backbone.bn_eps is {asked:g}, though {origin.source} was trained with {known:g}.")
        self.set_eps(next((eps for eps in (asked, known) if eps is not None), self.default_eps))
        return lines

    def facts(self) -> dict[str, Any]:
        """What `adopt` needs again, for checkpoints."""
        return {"normalisation": self.normalisation.as_record(), "bn_eps": self.bn_eps}

    def check_clip(self, frames: int, height: int, width: int) -> None:
        """Refuse clips that the strides would use up.

        Raises:
            SettingError: naming data.clip.frames or data.clip.size.
        """
        fewest, smallest = self.smallest_clip
        name = type(self).__name__
        if frames < fewest:
            raise SettingError(f"Clips of {frames} frames are too short for {name}; set data.clip.frames to {fewest} or more.")
        if min(height, width) < smallest:
            raise SettingError(
                f"Clips of {height} x {width} pixels are too small for {name}; set data.clip.size to {smallest} or more."
            )

    def forward_features(self, video: Tensor) -> Tensor:
        """Encode clips.

        Args:
            video: float [B, 3, T, H, W], of `preprocess`.

        Returns:
            last map [B, D, t, h, w].

        Raises:
            SettingError: if the clips are too short or too small for the network's strides.
        """
        self.check_clip(*video.shape[2:])
        hidden = video.contiguous(memory_format=self.memory_format)
        for stage in self.stages():
            for part in stage:
                hidden = part(hidden)
        return hidden

    def forward(self, video: Tensor) -> Tensor:
        """Mean over time, rows and columns of the last map: [B, 3, T, H, W] -> float32 [B, D], also of a map in bfloat16."""
        maps = self.forward_features(video)
        return maps.mean((2, 3, 4), dtype=torch.promote_types(maps.dtype, torch.float32))

    def no_weight_decay(self) -> set[str]:
        """Parameters that an optimiser must not decay, besides biases and one-dimensional ones: none here."""
        return set()

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from the input to the output, for layer-wise learning rates: the stem, then each stage."""
        return [[value for part in stage for value in part.parameters()] for stage in self.stages()]


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
        self.finish(bn_eps, 0.1, channels_last, checkpoint, normalisation)

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


class S3D(VideoCNN):
    """S3D without pooling and classifier (torchvision's): 8 x 32 x 32 smaller maps of 1024 channels; 7,910,048 parameters.

    Args:
        bn_eps: eps of every BatchNorm; null takes that of the weights, or 1e-3 (torchvision's).
        bn_momentum: share of a batch in BatchNorm's running statistics. torchvision has 0.001, with which they need
            thousands of steps to forget their start; they do not matter for fine-tuning from its weights.
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        checkpoint: file with weights: our .safetensors or .ckpt, or torchvision's.
        normalisation: of the clips; null takes that of the weights, or ImageNet's where the file does not say.

    Raises:
        SettingError: if the checkpoint does not fit.
    """

    embed_dim = 1024
    default_eps = 1e-3
    # One frame more than half the stride, because the last pool does not pad.
    smallest_clip = (5, 32)

    def __init__(
        self,
        bn_eps: float | None = None,
        bn_momentum: float = 0.1,
        channels_last: bool = True,
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        self.features = s3d(weights=None).features
        self.finish(bn_eps, bn_momentum, channels_last, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Stem and three groups of Inception blocks."""
        parts = list(self.features)
        return [parts[stage] for stage in INCEPTION_STAGES]


# --- Weights ---

"""Video CNNs from torchvision's parts: R3D-18 and R(2+1)D-18 (https://arxiv.org/abs/1711.11248), S3D
(https://arxiv.org/abs/1712.04851).

Parameters have torchvision's names, so its published weights can be loaded. Weights of the official code of TubeletContrast
(https://arxiv.org/abs/2303.11003) and CtP can be loaded as well: the networks are the same, only the names differ
(`from_official`).

Torchvision and the official contrastive code differ in two ways:

* The contrastive code pretrained R3D and R(2+1)D with BatchNorm eps 1e-3; torchvision uses 1e-5. With the same weights,
  features then differ by up to a tenth of their mean size, so eps is a setting.
* Weights are initialised with PyTorch's defaults (Conv3d: Kaiming uniform with a = sqrt 5; BatchNorm 1 and 0), as in the
  official contrastive code, not with torchvision's Kaiming normal (fan out).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from modules.backbones.checks import check_video
from modules.backbones.intermediates import Layered, Layers, maps
from modules.backbones.pixels import PixelInput
from modules.core.errors import SettingError, check_range, given
from modules.core.loading import LoadReport, load_strictly
from modules.core.preprocessing import Normalisation, Origin, say
from modules.weights.files import read_checkpoint
from modules.weights.names.cnn.video_cnn import backbone_part, from_official, from_published
from modules.weights.origin import origin_of, published_origin

# The layers of S3D and I3D by stage: the stem, then Inception blocks at one resolution with the pooling after them.
INCEPTION_STAGES = (slice(0, 5), slice(5, 8), slice(8, 14), slice(14, 16))


class VideoCNN(PixelInput, Layered, nn.Module, ABC):
    """Base class of video CNNs. A subclass sets `embed_dim` and builds its layers, then calls `finish`."""

    embed_dim: int
    """channels of the last feature map"""
    smallest_clip: tuple[int, int]
    """fewest frames (half the temporal stride) and smallest side (the spatial stride); smaller clips would be mostly padding"""
    default_eps: float
    """eps of every BatchNorm if neither the settings nor the weights specify it"""

    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """Layers in order of execution, grouped by stage, from the stem to the last stage."""

    def finish(
        self,
        bn_eps: float | None,
        bn_momentum: float,
        channels_last: bool,
        recompute_blocks: bool,
        checkpoint: str | None,
        normalisation: Normalisation | None,
    ) -> None:
        """Apply the settings of BatchNorm, memory layout, recomputation and normalisation, then load weights.

        Raises:
            SettingError: if the checkpoint does not fit.
        """
        check_range("model.backbone", 0, 1, bn_momentum=bn_momentum, **given(bn_eps=bn_eps))
        self.feed(normalisation)
        self.recompute_blocks = recompute_blocks
        self.asked_eps = bn_eps
        self.set_eps(self.default_eps if bn_eps is None else bn_eps)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm3d):
                part.momentum = bn_momentum
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        if checkpoint is not None:
            self.load(checkpoint)

    def load(self, path: str) -> LoadReport:
        """Load backbone weights strictly. All other weights in the file (heads, key branch, queue) are reported as unused.

        Args:
            path: a .ckpt or .safetensors file of this project, of a method (`backbone.*`) or of the backbone only; an official
                .pth of TubeletContrast or CtP (`backbone.*`); a published file supported by `from_published`; or torchvision's
                weights.

        Returns:
            The report that was printed.

        Raises:
            SettingError: if the file cannot be read, or weights are missing, unexpected or of another shape.
        """
        content = read_checkpoint(path, "model.backbone.checkpoint")
        inner, rest = backbone_part(from_official(from_published(content.weights)))
        # Some official files lack the counters of BatchNorm, which are only needed for a cumulative average.
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

    def adopt(self, origin: Origin) -> list[str]:
        """See `PixelInput.adopt`; the eps of BatchNorm is adopted too."""
        lines = super().adopt(origin)
        asked, known = self.asked_eps, origin.bn_eps
        if asked is None and known is None:
            lines.append(
                f"{origin.source} does not record the eps of its BatchNorm: {self.default_eps:g} assumed; "
                "model.backbone.bn_eps changes it."
            )
        elif asked is not None and known is not None and asked != known:
            lines.append(f"model.backbone.bn_eps is {asked:g}, though {origin.source} was trained with {known:g}.")
        self.set_eps(next((eps for eps in (asked, known) if eps is not None), self.default_eps))
        return lines

    def facts(self) -> dict[str, Any]:
        """What `adopt` needs when a checkpoint is loaded."""
        return super().facts() | {"bn_eps": self.bn_eps}

    def check_clip(self, frames: int, height: int, width: int) -> None:
        """Check that clips are large enough for the strides.

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
            video: float [B, 3, T, H, W], output of `preprocess`.

        Returns:
            last feature map [B, D, t, h, w].

        Raises:
            SettingError: if these are not normalised clips, or they are too short or too small for the network's strides.
        """
        hidden = self._begin(video)
        again = self.recompute_blocks and self.training and torch.is_grad_enabled()
        for stage in self.stages():
            for part in stage:
                hidden = _recomputed(part, hidden) if again else part(hidden)
        return hidden

    def _begin(self, video: Tensor) -> Tensor:
        """Checked clips in the memory layout of the stem."""
        check_video(video, next(self.parameters()), type(self).__name__)
        self.check_clip(*video.shape[2:])
        return video.contiguous(memory_format=self.memory_format)

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`: the stem and each stage; the grid is [B, C, t, h, w]."""
        return maps(self._begin(clip), [partial(_through, stage) for stage in self.stages()])

    def forward(self, video: Tensor) -> Tensor:
        """Mean of the last map over time, rows and columns: [B, 3, T, H, W] -> float32 [B, D], even if the map is bfloat16."""
        maps = self.forward_features(video)
        return maps.mean((2, 3, 4), dtype=torch.promote_types(maps.dtype, torch.float32))

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the parts of each stage, in which BatchNorm and ReLU can be fused."""
        return [part for stage in self.stages() for part in stage]

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters: none here."""
        return set()

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by layer, for layer-wise learning rates: the stem, then each stage."""
        return [[value for part in stage for value in part.parameters()] for stage in self.stages()]


def _through(parts: list[nn.Module], hidden: Tensor) -> Tensor:
    """The output of several layers."""
    for part in parts:
        hidden = part(hidden)
    return hidden


# --- Recomputed parts ---


def _recomputed(part: nn.Module, hidden: Tensor) -> Tensor:
    """The output of a part of a network, whose activations are recomputed in the backward pass."""
    result: Tensor = recompute(part, hidden, use_reentrant=False, context_fn=lambda: (nullcontext(), _aside(part)))
    return result


@contextmanager
def _aside(part: nn.Module) -> Iterator[None]:
    """Context in which BatchNorm updates copies of its running statistics, so that recomputation does not count clips twice."""
    norms = [one for one in part.modules() if getattr(one, "track_running_stats", False)]
    kept = [(norm, dict(norm.named_buffers())) for norm in norms]
    for norm, buffers in kept:
        for name, value in buffers.items():
            setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, buffers in kept:
            for name, value in buffers.items():
                setattr(norm, name, value)


# --- Weights ---

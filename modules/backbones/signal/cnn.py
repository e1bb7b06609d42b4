"""A one-dimensional residual network for accelerations, angular rates and other sensor signals."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from modules.backbones.checks import check_signal
from modules.backbones.intermediates import Layered, Layers, maps
from modules.backbones.loading import load_encoder
from modules.core.errors import SettingError, check_whole
from modules.weights.files import read_weights

LEAST = 1e-5
"""Smallest standard deviation that a channel is divided by."""


class SignalCNN(Layered, nn.Module):
    """Residual blocks of two convolutions in three stages. The output has 4 * width channels and a quarter of the steps.

    The architecture is a one-dimensional ResNet (https://arxiv.org/abs/1512.03385); the sizes are this project's. An initial
    BatchNorm without weights brings channels of different units to a common scale.

    Args:
        channels: channels of the signal, C.
        width: channels of the first stage; each later stage has twice as many channels and half the steps.
        blocks: blocks per stage.
        kernel: kernel size of the convolutions in steps, odd.
        standardise: standardise each channel of each clip to mean 0 and standard deviation 1. This removes the strength of a
            movement and the direction of gravity.
        checkpoint: file with weights; see `load_encoder`.

    Raises:
        SettingError: if a size is impossible, or the checkpoint does not fit.
    """

    kind: Literal["signal"] = "signal"

    def __init__(
        self,
        channels: int = 6,
        width: int = 32,
        blocks: int = 1,
        kernel: int = 5,
        standardise: bool = False,
        checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        check_whole("model.backbone", 1, channels=channels, width=width, blocks=blocks, kernel=kernel)
        if kernel % 2 == 0:
            raise SettingError(f"model.backbone.kernel is {kernel}; it must be an odd number.")
        self.channels, self.standardise, self.embed_dim = channels, standardise, 4 * width
        self.scale = nn.BatchNorm1d(channels, affine=False)
        self.stem = nn.Sequential(
            nn.Conv1d(channels, width, kernel, padding=kernel // 2, bias=False), nn.BatchNorm1d(width), nn.ReLU()
        )
        widths = (width, width, 2 * width, 4 * width)
        self.stages = nn.ModuleList(_stage(inputs, outputs, blocks, kernel) for inputs, outputs in pairwise(widths))
        if checkpoint is not None:
            load_encoder(self, read_weights(checkpoint, "model.backbone.checkpoint"), checkpoint)

    def preprocess(self, clip: Tensor) -> Tensor:
        """float [B, C, L] -> float32 [B, C, L], standardised if `standardise` is set."""
        clip = clip.float()
        check_signal(clip, next(self.parameters()), self.channels, type(self).__name__)
        if not self.standardise:
            return clip
        return (clip - clip.mean(2, keepdim=True)) / clip.std(2, keepdim=True, correction=0).clamp_min(LEAST)

    def forward_features(self, signal: Tensor) -> Tensor:
        """Last feature map: float [B, C, L], from `preprocess` -> [B, D, l].

        Raises:
            SettingError: if the signal has other axes, channels or another type.
        """
        return self.layers(signal).through()

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`: the stem and each stage; the grid is [B, C, l]."""
        check_signal(clip, next(self.parameters()), self.channels, type(self).__name__)
        return maps(self.scale(clip), [self.stem, *self.stages])

    def forward(self, signal: Tensor) -> Tensor:
        """Mean of the last feature map over time: [B, C, L] -> float32 [B, D]."""
        return self.forward_features(signal).mean(2, dtype=torch.float32)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters: none here."""
        return set()

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by layer, for layer-wise learning rates: the stem, then each stage."""
        return [list(part.parameters()) for part in (self.stem, *self.stages)]


class _Block(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel, 1, kernel // 2, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm1d(outputs), nn.BatchNorm1d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv1d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm1d(outputs))

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(relu(self.norm1(self.conv1(hidden)))))
        return relu(inner + self.shortcut(hidden))


def _stage(inputs: int, outputs: int, blocks: int, kernel: int) -> nn.Sequential:
    """A sequence of blocks. The first halves the steps if the number of channels grows."""
    first = _Block(inputs, outputs, 1 if inputs == outputs else 2, kernel)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1, kernel) for _ in range(blocks - 1)))

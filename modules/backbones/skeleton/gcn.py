"""Skeletons as graphs: A-GCN, the joint stream of 2s-AGCN (https://arxiv.org/abs/1805.07694), as in skeleton contrast
(https://arxiv.org/abs/2108.03656, official code). Parameters have the official names.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.backbones.intermediates import Layers, maps
from modules.backbones.skeleton.base import JOINTS, PERSONS, SkeletonEncoder, adjacency
from modules.core.errors import SettingError

SUBSETS = 3


def _batch_norm(width: int, weight: float = 1.0) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width)
    nn.init.constant_(norm.weight, weight)
    return norm


def _conv(inputs: int, outputs: int, length: int = 1, stride: int = 1) -> nn.Conv2d:
    """Convolution over `length` frames of each joint."""
    conv = nn.Conv2d(inputs, outputs, (length, 1), (stride, 1), (length // 2, 0))
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class GraphConv(nn.Module):
    """Graph convolution over joints with three graphs (self, inward and outward edges). Each adjacency matrix is the sum of
    the skeleton's, a learned one, and attention.

    The three graphs are computed together.

    Args:
        inputs: input channels.
        outputs: output channels, at least 4.
    """

    A: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = outputs // 4
        self.register_buffer("A", adjacency(), persistent=False)
        self.PA = nn.Parameter(torch.full((SUBSETS, JOINTS, JOINTS), 1e-6))
        self.conv_a = nn.ModuleList(_conv(inputs, self.inner) for _ in range(SUBSETS))
        self.conv_b = nn.ModuleList(_conv(inputs, self.inner) for _ in range(SUBSETS))
        self.conv_d = nn.ModuleList(_conv(inputs, outputs) for _ in range(SUBSETS))
        for conv in self.conv_d:
            nn.init.normal_(conv.weight, std=math.sqrt(2 / (outputs * inputs * SUBSETS)))  # type: ignore[arg-type]
        self.bn = _batch_norm(outputs, 1e-6)
        self.down = nn.Sequential(_conv(inputs, outputs), _batch_norm(outputs)) if inputs != outputs else nn.Identity()

    def attention(self, hidden: Tensor) -> Tensor:
        """Attention weight of joint v for each joint w: [N, C, T, J] -> [N, 3, J, J]; sums to 1 over v."""
        convs = [*self.conv_a, *self.conv_b]
        weight, bias = (torch.cat([getattr(conv, name) for conv in convs]) for name in ("weight", "bias"))
        ours, theirs = F.conv2d(hidden, weight, bias).unflatten(1, (2, SUBSETS, self.inner)).flatten(3, 4).unbind(1)
        result: Tensor = (ours.transpose(-1, -2) @ theirs / ours.shape[2]).softmax(dim=-2)
        return result

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, C, T, J] -> [N, C', T, J]"""
        graph = self.attention(hidden) + self.A + self.PA
        # The channels of the graphs are concatenated, so that one convolution maps and sums them.
        mixed = (hidden.flatten(1, 2)[:, None] @ graph.to(hidden.dtype)).unflatten(2, hidden.shape[1:3]).flatten(1, 2)
        weight = torch.cat([conv.weight for conv in self.conv_d], dim=1)  # type: ignore[misc]
        bias = torch.stack([conv.bias for conv in self.conv_d]).sum(0)  # type: ignore[misc]
        return F.relu(self.bn(F.conv2d(mixed, weight, bias)) + self.down(hidden))


class TimeConv(nn.Module):
    """Convolution over frames and batch norm.

    Args:
        inputs: input channels.
        outputs: output channels.
        length: kernel size in frames.
        stride: stride in frames.
    """

    def __init__(self, inputs: int, outputs: int, length: int, stride: int) -> None:
        super().__init__()
        self.conv = _conv(inputs, outputs, length, stride)
        self.bn = _batch_norm(outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, C, T, J] -> [N, C', t, J]"""
        result: Tensor = self.bn(self.conv(hidden))
        return result


class Block(nn.Module):
    """Graph convolution over joints, then convolution over frames, with an optional residual connection.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: stride in frames.
        residual: add a residual connection.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.gcn1 = GraphConv(inputs, outputs)
        self.tcn1 = TimeConv(outputs, outputs, 9, stride)
        same = inputs == outputs and stride == 1
        self.residual = nn.Identity() if same or not residual else TimeConv(inputs, outputs, 1, stride)
        self.past = residual

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, C, T, J] -> [N, C', t, J]"""
        inner = self.tcn1(self.gcn1(hidden))
        return F.relu(inner + self.residual(hidden) if self.past else inner)


class AGCN(SkeletonEncoder):
    """Adaptive graph convolutional network. Its output has 4 * width channels and a quarter of the frames. 3,454,090
    parameters by default.

    Args:
        width: channels of the first blocks; later blocks have twice and four times as many. 64 is the published network.
        checkpoint: file with weights; see `load`.

    Raises:
        SettingError: if the width is below 4, or the checkpoint does not fit.
    """

    def __init__(self, width: int = 64, checkpoint: str | None = None) -> None:
        super().__init__()
        if width < 4:
            raise SettingError(f"AGCN has width {width}; set it to 4 or more.")
        self.embed_dim = 4 * width
        self.data_bn = nn.BatchNorm1d(PERSONS * JOINTS * 3)
        widths = [3, *[width] * 4, *[2 * width] * 3, *[4 * width] * 3]
        for number in range(1, len(widths)):
            stride = 2 if number in (5, 8) else 1
            block = Block(widths[number - 1], widths[number], stride, residual=number > 1)
            self.add_module(f"l{number}", block)
        if checkpoint is not None:
            self.load(checkpoint)

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`; the grid, which `forward_features` returns, is [B, C, t, J, M]."""
        self.check(clip)
        batch, coordinates, frames, joints, persons = clip.shape
        flat = self.data_bn(clip.permute(0, 4, 3, 1, 2).reshape(batch, persons * joints * coordinates, frames))
        start = flat.view(batch * persons, joints, coordinates, frames).permute(0, 2, 3, 1).contiguous()
        blocks = [block for name, block in self.named_children() if name != "data_bn"]
        return maps(start, blocks, lambda hidden: hidden.unflatten(0, (batch, persons)).permute(0, 2, 3, 4, 1))

    def forward(self, skeleton: Tensor) -> Tensor:
        """Mean over frames, joints and persons: [B, 3, T, J, M] -> float32 [B, D], even if the map is bfloat16."""
        maps = self.forward_features(skeleton)
        return maps.mean((2, 3, 4), dtype=torch.promote_types(maps.dtype, torch.float32))

    def init_head(self, last: nn.Linear) -> None:
        """Normal weights with a standard deviation of sqrt(2 / outputs), and PyTorch's default bias (official code)."""
        nn.init.normal_(last.weight, std=math.sqrt(2 / last.out_features))

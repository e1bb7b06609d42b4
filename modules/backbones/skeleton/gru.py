"""Skeletons as sequences: the recurrent encoder of skeleton contrast (https://arxiv.org/abs/2108.03656, official code)."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from modules.backbones.intermediates import Layers
from modules.backbones.skeleton.base import JOINTS, PERSONS, SkeletonEncoder
from modules.core.errors import SettingError

# The official names are those of one nn.GRU of several layers.


def to_sequence(skeleton: Tensor) -> Tensor:
    """Frames as vectors: [B, 3, T, J, M] -> [B, T, J * 3 * M], column 6 v + 2 c + m for joint v, coordinate c, person m."""
    return skeleton.permute(0, 2, 3, 1, 4).flatten(2)


class BiGRU(SkeletonEncoder):
    """Layers of two GRUs each, whose concatenated states are the input of the next layer. 44,998,656 parameters by default.

    The official network calls a bidirectional GRU with one frame at a time and the previous states. With single frames, there
    is no backward direction, so both GRUs of a layer run forward in time, and the published weights require this. Here, each
    GRU runs over the entire sequence in one call, with equal results.

    Args:
        hidden: length of the state of each GRU; 1024 is the published network.
        layers: number of layers.
        direction: `forward_twice` as in the official code, or `true_bidirectional`: the second GRU of each layer runs
            backward, and the feature consists of the final states of both.
        checkpoint: file with weights; see `load`.

    Raises:
        SettingError: if a size is not positive, or the checkpoint does not fit.
    """

    def __init__(
        self,
        hidden: int = 1024,
        layers: int = 3,
        direction: Literal["forward_twice", "true_bidirectional"] = "forward_twice",
        checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        if min(hidden, layers) < 1:
            raise SettingError(f"BiGRU has hidden {hidden} and layers {layers}; set both to 1 or more.")
        self.embed_dim = 2 * hidden
        self.backward_in_time = direction == "true_bidirectional"
        widths = [JOINTS * 3 * PERSONS, *[2 * hidden] * (layers - 1)]
        self.first = nn.ModuleList(nn.GRU(inputs, hidden, batch_first=True) for inputs in widths)
        self.second = nn.ModuleList(nn.GRU(inputs, hidden, batch_first=True) for inputs in widths)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
        if checkpoint is not None:
            self.load(checkpoint)

    def layers(self, clip: Tensor) -> Layers:
        """See `Layered.layers`. `forward_features` returns the states of the last layer, [B, T, D]; the grid is [B, D, T]."""
        self.check(clip)
        pairs = zip(self.first, self.second, strict=True)
        blocks = [partial(self._layer, first, second) for first, second in pairs]
        return Layers(to_sequence(clip), blocks, lambda states, norm: states.transpose(1, 2), lambda states: states)

    def _layer(self, first: nn.Module, second: nn.Module, hidden: Tensor) -> Tensor:
        one, other = first(hidden)[0], second(self._turn(hidden))[0]
        return torch.cat([one, self._turn(other)], dim=-1)

    def _turn(self, hidden: Tensor) -> Tensor:
        return hidden.flip(1) if self.backward_in_time else hidden

    def forward(self, skeleton: Tensor) -> Tensor:
        """The final states of both GRUs of the last layer: [B, 3, T, J, M] -> [B, D]."""
        states = self.forward_features(skeleton)
        one, other = states.chunk(2, dim=-1)
        return torch.cat([one[:, -1], other[:, 0 if self.backward_in_time else -1]], dim=-1)

    def init_head(self, last: nn.Linear) -> None:
        """Glorot weights, and PyTorch's default bias (official code)."""
        nn.init.xavier_uniform_(last.weight)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters of each layer."""
        pairs = zip(self.first, self.second, strict=True)
        return [[*first.parameters(), *second.parameters()] for first, second in pairs]

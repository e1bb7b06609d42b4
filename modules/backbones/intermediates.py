"""Intermediate features of encoders, with the interface of timm."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from modules.core.errors import SettingError

OutputFormat = Literal["grid", "NLC"]


class Layers(NamedTuple):
    """The blocks of an encoder, with their input for a batch of clips."""

    start: Tensor
    """input of the first block"""
    blocks: Sequence[Callable[[Tensor], Tensor]]
    """in order; each takes the output of the previous one"""
    grid: Callable[[Tensor, bool], Tensor]
    """output of a block, and whether to apply the network's final norm -> [B, D, ...], channels before the axes of the grid"""
    features: Callable[[Tensor], Tensor]
    """output of the last block -> output of `forward_features`"""

    def through(self) -> Tensor:
        """Run all blocks, and return the output of `forward_features`."""
        hidden = self.start
        for block in self.blocks:
            hidden = block(hidden)
        return self.features(hidden)


def _same(hidden: Tensor) -> Tensor:
    return hidden


def maps(start: Tensor, blocks: Sequence[Callable[[Tensor], Tensor]], shape: Callable[[Tensor], Tensor] = _same) -> Layers:
    """Layers of a network without a final norm, whose `forward_features` is the last grid.

    Args:
        start: input of the first block.
        blocks: the blocks in order.
        shape: output of a block -> [B, D, ...].
    """
    return Layers(start, blocks, lambda hidden, norm: shape(hidden), shape)


class Layered(ABC):
    """Mixin of encoders that provides `forward_intermediates` from their `layers`."""

    embed_dim: int

    @property
    def feature_dim(self) -> int:
        """Length of the pooled feature that `forward` returns."""
        return self.embed_dim

    @abstractmethod
    def layers(self, clip: Tensor) -> Layers:
        """The encoder's layers, with the output of `preprocess` as their input.

        Raises:
            SettingError: if the encoder cannot take the clips.
        """

    def forward_intermediates(
        self,
        clip: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: OutputFormat = "grid",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of blocks, with the arguments of timm's method of the same name.

        Args:
            clip: output of `preprocess`.
            indices: block indices, negative ones from the end; an integer n selects the last n blocks, None all blocks. The
                outputs are in the order of the network.
            norm: apply the network's final norm, if it has one, to each output.
            stop_early: stop after the last selected block; the features are then computed from its output.
            output_fmt: `grid` returns [B, D, ...] with the axes of the network's grid, `NLC` tokens [B, N, D].
            intermediates_only: return only the outputs of the blocks.

        Returns:
            the output of `forward_features` and the outputs of the blocks, or only the latter. Class tokens are removed.

        Raises:
            SettingError: if the encoder cannot take the clips, or has no such block.
        """
        if output_fmt not in ("grid", "NLC"):
            raise SettingError(f"output_fmt is {output_fmt!r}; it must be 'grid' or 'NLC'.")
        layers = self.layers(clip)
        wanted = _numbers(indices, len(layers.blocks), type(self).__name__)
        count = max(wanted, default=-1) + 1 if stop_early or intermediates_only else len(layers.blocks)
        hidden, found = layers.start, []
        for number, block in enumerate(layers.blocks[:count]):
            hidden = block(hidden)
            if number in wanted:
                grid = layers.grid(hidden, norm)
                found.append(grid if output_fmt == "grid" else grid.flatten(2).transpose(1, 2))
        return found if intermediates_only else (layers.features(hidden), found)


def _numbers(indices: int | Sequence[int] | None, count: int, name: str) -> set[int]:
    """Indices of the selected blocks, from 0."""
    if indices is None:
        return set(range(count))
    asked = range(-indices, 0) if isinstance(indices, int) else indices
    if not asked or not all(-count <= index < count for index in asked):
        raise SettingError(f"indices is {indices}, but {name} has {count} blocks; ask for 1 to {count} of them.")
    return {index % count for index in asked}

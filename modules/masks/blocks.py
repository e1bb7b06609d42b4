"""Multi-block masks of V-JEPA (https://arxiv.org/abs/2404.08471, official code): blocks are predicted from the rest of a clip.

The size of the blocks is drawn once for a batch, the same in all processes; their places are drawn for each clip. All tokens in
any block are predicted, and all others are the context. Clips therefore have unequal numbers of both. The official code cuts
every clip to the smallest number of the batch and keeps the first tokens, so that late ones are dropped (`cut`); padding keeps
all tokens (`pad`).

The numbers are needed on the host, which must not wait for a GPU, so masks are drawn where batches are read
(`modules.core.batch.Preparation`) and travel with the batch.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from modules.core.batch import Batch
from modules.core.errors import SettingError, check_positive, check_range, given
from modules.core.randomness import derive_seed, worker_rng
from modules.core.tokens import Grid
from modules.masks.base import Mask, mask_from_sets

Unequal = Literal["cut", "pad"]
"""What happens to clips with unequal numbers of tokens."""
SIZES, PLACES = 0x57A1, 0x57A2
"""Streams of random numbers."""
TRIES = 1000


@dataclass
class MultiBlockMask:
    """One set of blocks. V-JEPA predicts two sets per clip: 8 short-range blocks with an area of 0.15, and 2 long-range ones
    of 0.7.

    Args:
        blocks: number of blocks.
        area: smallest and largest fraction of a frame that a block covers.
        time: smallest and largest fraction of the clip's length that it covers.
        aspect: smallest and largest ratio of height to width.
        context_time: fraction of the clip that the context may be from, counted from its start. Everything later is predicted.
        context_tokens: maximum number of context tokens, of which the first are kept; null keeps all.

    Raises:
        SettingError: if a value is out of range.
    """

    blocks: int = 8
    area: tuple[float, float] = (0.15, 0.15)
    time: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (0.75, 1.5)
    context_time: float = 1.0
    context_tokens: int | None = None

    def __post_init__(self) -> None:
        check_positive("model.masks", blocks=self.blocks, **given(context_tokens=self.context_tokens))
        check_range("model.masks", 0, 1, context_time=self.context_time)
        for name, (low, high) in (("area", self.area), ("time", self.time), ("aspect", self.aspect)):
            largest = math.inf if name == "aspect" else 1
            if not 0 < low <= high <= largest:
                raise SettingError(
                    f"model.masks.{name} is {[low, high]}; the first must be positive and at most the second"
                    + ("." if name == "aspect" else ", which must be at most 1.")
                )

    def block_size(self, step: int, grid: Grid) -> tuple[int, int, int]:
        """Slices, rows and columns of the blocks in a step: a function of the step's number (official code).

        Args:
            step: number or seed of the step.
            grid: token grid.
        """
        generator = torch.Generator().manual_seed(step)
        ranges = (self.time, self.area, self.aspect)
        drawn = [low + torch.rand(1, generator=generator).item() * (high - low) for low, high in ranges]
        time, tokens, aspect = drawn[0], int(grid.slice_tokens * drawn[1]), drawn[2]
        rows, columns = round(math.sqrt(tokens * aspect)), round(math.sqrt(tokens / aspect))
        return max(1, int(grid.t * time)), min(rows, grid.h), min(columns, grid.w)

    def covered(self, corners: np.ndarray, size: tuple[int, int, int], grid: Grid) -> np.ndarray:
        """Which tokens are predicted, with blocks at given places.

        Args:
            corners: int [blocks, 3], first row, column and slice of each block.
            size: slices, rows and columns of a block.
            grid: token grid.

        Returns:
            bool [N]
        """
        hidden = np.zeros(grid[:3], bool)
        t, h, w = size
        for top, left, start in corners.tolist():
            hidden[start : start + t, top : top + h, left : left + w] = True
        hidden[max(1, int(grid.t * self.context_time)) :] = True
        return hidden.ravel()

    def draw(self, size: tuple[int, int, int], grid: Grid, rng: np.random.Generator) -> np.ndarray:
        """Which tokens of a clip are predicted, with blocks at random places: bool [N]. If no context is left, places are drawn
        again.

        Args:
            size: slices, rows and columns of a block.
            grid: token grid.
            rng: source of randomness.

        Raises:
            SettingError: if the blocks leave no context.
        """
        t, h, w = size
        most = (grid.h - h + 1, grid.w - w + 1, grid.t - t + 1)
        for _ in range(TRIES):
            hidden = self.covered(rng.integers(0, most, (self.blocks, 3)), size, grid)
            if not hidden.all():
                return hidden
        raise SettingError(
            f"{self.blocks} blocks of {t} x {h} x {w} tokens leave no context in a clip of {grid.t} x {grid.h} x {grid.w}; set "
            "smaller model.masks.blocks or model.masks.area."
        )

    def check(self, grid: Grid) -> None:
        """Check before the first step that blocks cover at least one token of a grid and, mostly, leave others.

        Raises:
            SettingError: if they do not.
        """
        smallest = int(grid.slice_tokens * self.area[0])
        if min(round(math.sqrt(smallest * aspect)) for aspect in (self.aspect[0], 1 / self.aspect[1])) < 1:
            raise SettingError(
                f"Blocks with model.masks.area {self.area[0]:g} cover no token of frames of {grid.h} x {grid.w} tokens; set a "
                "larger one, or larger clips."
            )
        for number in range(8):
            self.draw(self.block_size(number, grid), grid, np.random.default_rng(number))

    def collect(self, hidden: np.ndarray, unequal: Unequal) -> Mask:
        """Indices of context and predicted tokens of a batch, on the host.

        Args:
            hidden: bool [B, N], which tokens are predicted.
            unequal: `cut` or `pad`, see the module.
        """
        context, predicted = (~hidden).sum(1), hidden.sum(1)
        choose = np.min if unequal == "cut" else np.max
        kept = min(int(choose(context)), self.context_tokens or hidden.shape[1])
        tokens = torch.from_numpy(hidden)
        mask = mask_from_sets(~tokens, tokens, kept, int(choose(predicted)))
        return mask if unequal == "pad" else Mask(mask.visible, mask.targets)


def draw_sets(
    sets: list[MultiBlockMask], grid: Grid, unequal: Unequal, step: int, rngs: list[np.random.Generator]
) -> list[Mask]:
    """The masks of a batch, on the host.

    Args:
        sets: all sets of blocks.
        grid: token grid.
        unequal: `cut` or `pad`, see the module.
        step: seed of the blocks' sizes.
        rngs: source of the places of each clip.
    """
    masks = []
    for one in sets:
        size = one.block_size(step, grid)
        masks.append(one.collect(np.stack([one.draw(size, grid, rng) for rng in rngs]), unequal))
    return masks


def prepare_sets(
    sets: list[MultiBlockMask],
    grid: Grid,
    unequal: Unequal,
    stream: str,
    seed: int,
    batch: Batch,
    epoch: int | None,
) -> None:
    """Draw the masks of a batch, as a `modules.core.batch.Preparation`: sizes are a function of seed, epoch and the batch's
    place in the epoch, places of seed, epoch and row.

    Args:
        sets: see `draw_sets`.
        grid: see `draw_sets`.
        unequal: see `draw_sets`.
        stream: name of the clips' stream, [B, V, ...].
        seed: seed of the run.
        batch: see `Preparation`.
        epoch: see `Preparation`.
    """
    when = () if epoch is None else (epoch,)
    views = batch.stream(stream).data.shape[1]
    rngs = [rng for row in batch.index.tolist() for rng in [worker_rng(PLACES, seed, *when, row)] * views]
    batch.prepared = draw_sets(sets, grid, unequal, derive_seed(SIZES, seed, *when, batch.reading.place), rngs)

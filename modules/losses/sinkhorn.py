"""Balanced assignment of rows to prototypes by the Sinkhorn-Knopp algorithm, for rows that are distributed over processes.

Source: SIGMA (https://arxiv.org/abs/2407.15447, official code). E = exp(scores / epsilon) is alternately scaled over prototypes
and over rows, until all prototypes have about the same number of rows; each row's entries then sum to 1.

Deviation: the official code rewrites the n x K matrix in every iteration. Here, two vectors contain the scales, u of the
prototypes and v of the rows, and E is not modified. A row's assignments are the softmax of scores / epsilon + log u, so only u
needs to be returned. Results agree up to rounding (tests/parity/test_sigma.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from modules.core.distributed import position
from modules.core.errors import SettingError, check_positive

# Number of float32 scores per chunk: 32 MB on a CPU, small compared to the complete matrix; 512 MB on a GPU, where each launch
# has a cost. Sums over n rows are sums of chunk sums, which is more precise.
CHUNK_ENTRIES, CHUNK_ENTRIES_GPU = 1 << 23, 1 << 27
# For smaller values, products of exp(1 / epsilon), exp(-1 / epsilon) and the number of rows exceed the range of float32.
LEAST_EPSILON = 0.02


@dataclass
class SinkhornSettings:
    """Settings of the assignment of rows to prototypes. The defaults are SIGMA's for Kinetics-400 (official scripts).

    Args:
        epsilon: divisor of the cosine similarities; smaller is sharper. At least 0.02.
        iterations: number of iterations.
        soft: soft assignments (the paper's text) instead of only the best prototype (official code).
        side_by_side: scale both branches at once, with one all-reduce per iteration for both instead of one for each, and with
            two n x K matrices in memory instead of one. Null enables this with several processes.
    """

    epsilon: float = 0.05
    iterations: int = 10
    soft: bool = False
    side_by_side: bool | None = None

    def check(self, setting: str) -> None:
        """Raise a SettingError that names the setting if a number is invalid."""
        check_positive(setting, iterations=self.iterations)
        if self.epsilon < LEAST_EPSILON:
            raise SettingError(
                f"{setting}.epsilon is {self.epsilon}; exponentials of cosines over less than {LEAST_EPSILON} do not fit into "
                "float32: set a larger one."
            )
        if self.iterations < 1:
            raise SettingError(f"{setting}.iterations is {self.iterations}; set at least 1.")


def chunk_rows(prototypes: Tensor) -> int:
    """Number of rows per chunk of scores."""
    entries = CHUNK_ENTRIES_GPU if prototypes.device.type == "cuda" else CHUNK_ENTRIES
    return max(1, entries // len(prototypes))


class Balanced(NamedTuple):
    """Output of `balance`."""

    best: Tensor
    """int64 [branches, n], the best prototype of each row"""
    log_weights: Tensor
    """float32 [branches, K], log u; a constant added to a branch has no effect"""


@torch.no_grad()
def balance(
    branches: Sequence[Tensor], prototypes: Tensor, settings: SinkhornSettings, over_processes: bool = False
) -> Balanced:
    """Assign the rows of each branch separately, with about the same number of rows for all prototypes.

    Additional memory: one n x K matrix (one per branch with `side_by_side`), and vectors. All computations are in float32.

    Args:
        branches: float32 [n, C] per branch, unit rows.
        prototypes: float32 [K, C], unit rows.
        settings: settings of the algorithm.
        over_processes: balance over the rows of all processes, which must have the same number of rows and make the same number
            of calls.
    """
    world = position()[1] if over_processes else 1
    together = world > 1 if settings.side_by_side is None else settings.side_by_side
    groups = [list(branches)] if together else [[branch] for branch in branches]
    with torch.autocast(prototypes.device.type, enabled=False):
        done = [_balance(group, prototypes, settings, world) for group in groups]
    return Balanced(*(torch.cat(parts) for parts in zip(*done, strict=True)))


def _balance(branches: list[Tensor], prototypes: Tensor, settings: SinkhornSettings, world: int) -> Balanced:
    """`balance` of branches that are scaled at once."""
    rows = chunk_rows(prototypes)
    # Rows per prototype. Since each row has mass 1, this keeps the scales from growing or shrinking with every iteration.
    share = len(branches[0]) * world / len(prototypes)
    kernels = [_kernel(features, prototypes, settings.epsilon, rows) for features in branches]
    masses = torch.stack([torch.stack([part.sum(dim=0) for part in parts]).sum(dim=0) for parts in kernels])
    for turn in range(settings.iterations):
        if world > 1:
            distributed.all_reduce(masses)
        weights = share / masses
        # The last scales of the rows would not change the assignments.
        if turn < settings.iterations - 1:
            masses = torch.stack([_column_masses(parts, u) for parts, u in zip(kernels, weights, strict=True)])
    best = [torch.cat([part.mul_(u).argmax(dim=1) for part in parts]) for parts, u in zip(kernels, weights, strict=True)]
    return Balanced(torch.stack(best), weights.log())


def _kernel(features: Tensor, prototypes: Tensor, epsilon: float, rows: int) -> tuple[Tensor, ...]:
    """exp(scores / epsilon), [n, K], in chunks of rows."""
    chunks: tuple[Tensor, ...] = features.new_empty(len(features), len(prototypes)).split(rows)
    for part, out in zip(features.split(rows), chunks, strict=True):
        torch.mm(part, prototypes.T, out=out).div_(epsilon).exp_()
    return chunks


def _column_masses(kernel: tuple[Tensor, ...], weights: Tensor) -> Tensor:
    """Mass of each prototype, [K], after the rows have been scaled to equal mass."""
    return torch.stack([(part @ weights).reciprocal() @ part for part in kernel]).sum(dim=0)


def shares(scores: Tensor, log_weights: Tensor, epsilon: float) -> Tensor:
    """Soft assignments, whose maximum is the hard assignment.

    Args:
        scores: float32 [n, K], cosine similarities.
        log_weights: float32 [K], from `balance`.
        epsilon: as in `balance`.

    Returns:
        float32 [n, K], rows sum to 1.
    """
    return (scores / epsilon + log_weights).softmax(dim=1)

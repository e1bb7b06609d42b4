"""Balanced assignment of rows to prototypes by Sinkhorn and Knopp, for rows that are spread over processes.

Source: SIGMA (https://arxiv.org/abs/2407.15447, official code). E = exp(scores / epsilon) is scaled in turns over prototypes
and over rows, until every prototype holds about as many rows as any other; each row's entries then sum to 1.

Deviation from the official code, which rewrites the n x K matrix in every turn: two vectors hold the scales, u of the
prototypes and v of the rows, and E is only read. A row's shares of the prototypes are the softmax of scores / epsilon + log u,
so u is all that is needed of it. Results agree to rounding (tests/parity/test_sigma.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from modules.core.distributed import position
from modules.core.errors import SettingError, check_positive

# Scores that are made at once, in float32: 32 MB on a CPU, small beside the whole; 512 MB on a GPU, where every piece of work
# has its price. Sums over n rows are sums of sums over a chunk, which loses fewer digits.
CHUNK_ENTRIES, CHUNK_ENTRIES_GPU = 1 << 23, 1 << 27
# Below it, exp(1 / epsilon) and exp(-1 / epsilon), times each other and the rows, leave the range of float32.
LEAST_EPSILON = 0.02


@dataclass
class SinkhornSettings:
    """How rows are assigned to prototypes. The defaults are SIGMA's for Kinetics-400 (official scripts).

    Args:
        epsilon: divides the cosines; smaller is sharper. At least 0.02.
        iterations: number of iterations.
        soft: soft assignments (the paper's text) instead of the best prototype only (official code).
        side_by_side: scale both branches at once, with one all-reduce per iteration for both instead of one for each, and with
            two n x K matrices in memory instead of one. Null does so with several processes.
    """

    epsilon: float = 0.05
    iterations: int = 10
    soft: bool = False
    side_by_side: bool | None = None

    def check(self, setting: str) -> None:
        """Raise a SettingError that names the setting, if a number makes no sense."""
        check_positive(setting, iterations=self.iterations)
        if self.epsilon < LEAST_EPSILON:
            raise SettingError(
                f"{setting}.epsilon is {self.epsilon}; exponentials of cosines over less than {LEAST_EPSILON} do not fit into "
                "float32: set a larger one."
            )
        if self.iterations < 1:
            raise SettingError(f"{setting}.iterations is {self.iterations}; set at least 1.")


def chunk_rows(prototypes: Tensor) -> int:
    """Rows whose scores against all prototypes are one chunk."""
    entries = CHUNK_ENTRIES_GPU if prototypes.device.type == "cuda" else CHUNK_ENTRIES
    return max(1, entries // len(prototypes))


class Balanced(NamedTuple):
    """What `balance` returns."""

    best: Tensor
    """int64 [branches, n], the prototype that has most of each row"""
    log_weights: Tensor
    """float32 [branches, K], log u; a constant on top of a branch has no effect"""


@torch.no_grad()
def balance(
    branches: Sequence[Tensor], prototypes: Tensor, settings: SinkhornSettings, over_processes: bool = False
) -> Balanced:
    """Assign the rows of each branch separately, so that all prototypes have equally many.

    Extra memory: one matrix n x K (one per branch where they go side by side), and vectors. float32 throughout.

    Args:
        branches: of each branch float32 [n, C], unit rows.
        prototypes: float32 [K, C], unit rows.
        settings: of the algorithm.
        over_processes: balance over the rows of all processes, which must have equally many and call this equally often.
    """
    world = position()[1] if over_processes else 1
    together = world > 1 if settings.side_by_side is None else settings.side_by_side
    groups = [list(branches)] if together else [[branch] for branch in branches]
    with torch.autocast(prototypes.device.type, enabled=False):
        done = [_balance(group, prototypes, settings, world) for group in groups]
    return Balanced(*(torch.cat(parts) for parts in zip(*done, strict=True)))


def _balance(branches: list[Tensor], prototypes: Tensor, settings: SinkhornSettings, world: int) -> Balanced:
    """`balance` of branches that go side by side."""
    rows = chunk_rows(prototypes)
    # Rows per prototype. As each row weighs 1, this keeps the scales from growing or shrinking with every turn.
    share = len(branches[0]) * world / len(prototypes)
    kernels = [_kernel(features, prototypes, settings.epsilon, rows) for features in branches]
    masses = torch.stack([torch.stack([part.sum(dim=0) for part in parts]).sum(dim=0) for parts in kernels])
    for turn in range(settings.iterations):
        if world > 1:
            distributed.all_reduce(masses)
        weights = share / masses
        # The last turn's scales of the rows change no row's shares.
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
    """Soft assignments, of which the best is the hard one.

    Args:
        scores: float32 [n, K], cosines.
        log_weights: float32 [K] of `balance`.
        epsilon: that of `balance`.

    Returns:
        float32 [n, K], rows sum to 1.
    """
    return (scores / epsilon + log_weights).softmax(dim=1)

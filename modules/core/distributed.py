"""Rows of a batch that is distributed over processes. With one process nothing is sent and nothing is copied.

All processes must call these functions equally often, and those of training, where every process has full batches, with
equally many rows. `gather_lists` and `gather_once` are for evaluation, where they differ.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor, distributed, nn

T = TypeVar("T")

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process takes itself for the only one, and sends nothing: to try a step that the others do not take."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def position() -> tuple[int, int]:
    """Rank of this process and the number of processes; (0, 1) without a process group, and in `alone`."""
    if _alone or not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gather_rows(values: Tensor) -> Tensor:
    """The rows of all processes, rank after rank, without gradient; one process gets its own memory back.

    Args:
        values: [B, ...], of the same shape and type in every process.

    Returns:
        [W * B, ...] for W processes, the same in all of them.
    """
    values = values.detach()
    _, world = position()
    if world == 1:
        return values
    gathered = values.new_empty(world * len(values), *values.shape[1:])
    distributed.all_gather_into_tensor(gathered, values.contiguous())
    return gathered


@torch.no_grad()
def share_statistics(module: nn.Module) -> None:
    """Give all processes the running statistics of the first one's normalisation layers, which checkpoints hold.

    In training each process has those of its own batches, unless they are synchronised.

    Args:
        module: the same in every process.
    """
    if position()[1] == 1:
        return
    for part in module.modules():
        if getattr(part, "track_running_stats", False):
            for buffer in part.buffers(recurse=False):
                distributed.broadcast(buffer, 0)


@torch.no_grad()
def shuffled(network: Callable[[Tensor], Tensor], values: Tensor, generator: torch.Generator) -> Tensor:
    """What a network makes of `values`, after a shuffle of the rows of all processes (shuffle BN of MoCo, official code).

    Each process runs the network on a random share of all rows, and gets the results for its own rows. So the batch
    statistics of batch norm do not tell which query a key belongs to. Without gradient; one process shuffles nothing and
    draws nothing.

    Args:
        network: maps [B, ...] to one row per row.
        values: [B, ...], as many rows in every process.
        generator: on the device of `values`, in the same state in every process, so not seeded with the rank.

    Returns:
        [B, ...], row i for row i of `values`.
    """
    rank, world = position()
    if world == 1:
        return network(values)
    order = torch.randperm(world * len(values), generator=generator, device=values.device)
    results = gather_rows(network(gather_rows(values)[order.chunk(world)[rank]]))
    return results[order.argsort().chunk(world)[rank]]


def gather_lists(values: list[T]) -> list[T]:
    """What the processes have in lists, rank after rank; for evaluation, their lengths may differ."""
    world = position()[1]
    if world == 1:
        return values
    parts: list[list[T] | None] = [None] * world
    distributed.all_gather_object(parts, values)
    return [value for part in parts if part is not None for value in part]


def gather_once(trainer: Trainer, rows: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Join what the processes have, in the order of sample numbers, each number once.

    Args:
        trainer: knows the processes.
        rows: [n, D], n may differ between processes.
        labels: [n, ...]
        numbers: int64 [n], sample numbers.
    """
    if trainer.world_size > 1:
        sizes = trainer.strategy.all_gather(torch.tensor(rows.shape, device=rows.device))
        longest, width = sizes.flatten(0, -2).amax(0).tolist()
        missing = longest - len(rows)
        rows = rows if len(rows) else rows.new_empty(0, width)

        def everyone(values: Tensor, empty: float) -> Tensor:
            filler = values.new_full((missing, *values.shape[1:]), empty)
            return trainer.strategy.all_gather(torch.cat([values, filler])).flatten(0, 1)

        rows, labels, numbers = everyone(rows, 0), everyone(labels, 0), everyone(numbers, -1)
    order = numbers.argsort(stable=True)
    sorted_numbers = numbers[order]
    first = torch.ones_like(sorted_numbers, dtype=torch.bool)
    first[1:] = sorted_numbers[1:] != sorted_numbers[:-1]
    order = order[first & (sorted_numbers >= 0)]
    return rows[order], labels[order]

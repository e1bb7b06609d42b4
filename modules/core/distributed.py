"""Gathering of rows across processes. With one process, nothing is sent or copied.

All processes must call these functions the same number of times. The functions for training expect the same number of rows
in every process; `gather_lists` and `gather_once` are for evaluation, where the numbers may differ.
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
    """Context in which this process acts as the only one and sends nothing, to try a step that the others do not run."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def position() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) without a process group and within `alone`."""
    if _alone or not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gather_rows(values: Tensor) -> Tensor:
    """Gather the rows of all processes in order of rank, without gradient. A single process gets a view of its own rows.

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
    """Copy the running statistics of normalisation layers from the first process, which writes checkpoints, to all others.

    In training, each process has the statistics of its own batches, unless the layers are synchronised.

    Args:
        module: the same module in every process.
    """
    if position()[1] == 1:
        return
    for part in module.modules():
        if getattr(part, "track_running_stats", False):
            for buffer in part.buffers(recurse=False):
                distributed.broadcast(buffer, 0)


@torch.no_grad()
def shuffled(network: Callable[[Tensor], Tensor], values: Tensor, generator: torch.Generator) -> Tensor:
    """Run a network on rows that are shuffled across processes (shuffle BN of MoCo, official code).

    Each process runs the network on a random share of all rows, and receives the results for its own rows. So the batch
    statistics of batch norm do not reveal which query a key belongs to. No gradient; with one process, nothing is shuffled
    and no random number is drawn.

    Args:
        network: maps [B, ...] to one output row per input row.
        values: [B, ...], the same number of rows in every process.
        generator: generator on the device of `values`, in the same state in every process, so not seeded with the rank.

    Returns:
        [B, ...], row i is the output for row i of `values`.
    """
    rank, world = position()
    if world == 1:
        return network(values)
    order = torch.randperm(world * len(values), generator=generator, device=values.device)
    results = gather_rows(network(gather_rows(values)[order.chunk(world)[rank]]))
    return results[order.argsort().chunk(world)[rank]]


def gather_lists(values: list[T]) -> list[T]:
    """Concatenate the lists of all processes in order of rank. Their lengths may differ, as in evaluation."""
    world = position()[1]
    if world == 1:
        return values
    parts: list[list[T] | None] = [None] * world
    distributed.all_gather_object(parts, values)
    return [value for part in parts if part is not None for value in part]


def gather_once(trainer: Trainer, rows: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the rows and labels of all processes, sorted by sample index, each sample once.

    Args:
        trainer: trainer of the processes.
        rows: [n, D], n may differ between processes.
        labels: [n, ...]
        numbers: int64 [n], sample indices.
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

"""Rows of a batch that is spread over processes. With one process nothing is sent and nothing is copied.

All processes must call these functions equally often and with equally many rows: as in training, where every process has
full batches, and not as in validation, where the last batches differ.
"""

from collections.abc import Callable

import torch
from torch import Tensor, distributed


def position() -> tuple[int, int]:
    """Rank of this process and the number of processes; (0, 1) without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
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

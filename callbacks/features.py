"""Frozen features of a loader, for probes: the network in evaluation mode, nothing else touched."""

from collections.abc import Callable, Iterable

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from modules.core.batch import Batch
from modules.core.contexts import evaluating
from modules.core.distributed import gather_once
from modules.training.method import Method


def usable(batch: Batch) -> Tensor:
    """Samples that count, bool [B]: labelled, and not a substitute for a broken file."""
    return (batch.label >= 0) & (batch.substituted < 0)


def extract(
    trainer: Trainer,
    method: Method,
    loader: Iterable[Batch],
    readout: Callable[[Batch], Tensor],
) -> tuple[Tensor, Tensor]:
    """Features and labels of all usable samples of a loader, from all processes, each sample once.

    Args:
        trainer: moves batches and knows the processes.
        method: in whose evaluation mode the readout runs.
        loader: of labelled batches.
        readout: batch -> float [B, D].

    Returns:
        float32 [N, D] and int64 [N] on the method's device; empty if nothing is labelled.
    """
    rows, labels, numbers = [], [], []
    with evaluating(method), trainer.precision_plugin.forward_context():
        for batch in loader:
            batch = trainer.strategy.batch_to_device(batch)
            if batch.label.ndim != 1:
                break
            keep = usable(batch)
            rows.append(readout(batch).float()[keep])
            labels.append(batch.label[keep])
            numbers.append(batch.index[keep])
    if not rows:
        # A process without a sample takes part all the same: the others wait for it.
        none = torch.empty(0, dtype=torch.long, device=method.device)
        return gather_once(trainer, torch.empty(0, 0, device=method.device), none, none)
    return gather_once(trainer, torch.cat(rows), torch.cat(labels), torch.cat(numbers))

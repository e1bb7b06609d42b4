"""Frozen features of a loader, for probes: the network in evaluation mode, nothing else touched."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from modules.core.batch import VideoBatch
from modules.core.distributed import gather_once
from modules.training.method import Method


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient; afterwards each part has its own mode again, and the random state its value."""
    training = [part for part in module.modules() if part.training]
    state = torch.get_rng_state()
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
        torch.set_rng_state(state)


def usable(batch: VideoBatch) -> Tensor:
    """Samples that count, bool [B]: labelled, and not a substitute for a broken file."""
    keep = batch["label"] >= 0
    return keep & (batch["substituted"] < 0) if "substituted" in batch else keep


def extract(
    trainer: Trainer,
    method: Method,
    loader: Iterable[VideoBatch],
    readout: Callable[[VideoBatch], Tensor],
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
            if batch["label"].ndim != 1:
                break
            keep = usable(batch)
            rows.append(readout(batch).float()[keep])
            labels.append(batch["label"][keep])
            numbers.append(batch["index"][keep])
    if not rows:
        # A process without a sample takes part all the same: the others wait for it.
        none = torch.empty(0, dtype=torch.long, device=method.device)
        return gather_once(trainer, torch.empty(0, 0, device=method.device), none, none)
    return gather_once(trainer, torch.cat(rows), torch.cat(labels), torch.cat(numbers))

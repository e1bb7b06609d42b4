"""Collects the class probabilities of all samples of an evaluation, from all processes."""

from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from modules.core.batch import Batch
from modules.core.distributed import gather_once
from modules.downstream.labels import Labels, Merge


@dataclass
class Scores:
    """Result of an evaluation."""

    values: dict[str, Tensor]
    """`Labels.scores`; empty if no sample has a label"""
    used: int
    """number of evaluated samples"""
    missed: list[int]
    """indices of samples that could not be read"""
    probabilities: Tensor
    """float [N, K], probabilities of the evaluated samples"""
    rows: Tensor
    """int64 [N, ...], their labels; see `Labels.rows`"""


class Tally:
    """Class probabilities of the samples of an evaluation, each merged over its clips.

    Args:
        labels: type of labels.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.clear()

    def clear(self) -> None:
        """Reset the collected results."""
        self._seen: list[tuple[Tensor, Tensor]] = []

    def add(self, batch: Batch, logits: Tensor, merge: Merge) -> None:
        """Add a batch.

        Args:
            batch: batch of samples.
            logits: logits of their clips, float [B, V, K].
            merge: how the probabilities of a sample's clips are merged.
        """
        merged = self.labels.merged(logits, merge)
        facts = torch.stack([batch.index, batch.substituted], 1)
        self._seen.append((merged, torch.cat([facts, self.labels.rows(batch.label, merged.shape[1])], 1)))

    def scores(self, trainer: Trainer, classes: int, device: torch.device) -> Scores:
        """Scores of the collected samples of all processes, each once; all processes must call this. Resets the results.

        Args:
            trainer: trainer of the processes.
            classes: number of classes, K.
            device: device, also for a process without samples.
        """
        # A process without samples takes part as well.
        facts = torch.empty(0, 2, dtype=torch.long, device=device)
        none = (torch.empty(0, classes, device=device), torch.cat([facts, self.labels.rows(facts[:, 0], classes)], 1))
        probabilities, facts = (torch.cat(parts) for parts in zip(none, *self._seen, strict=True))
        self.clear()
        probabilities, facts = gather_once(trainer, probabilities, facts, facts[:, 0])
        number, substituted, label = facts[:, 0], facts[:, 1], facts[:, 2:]
        used = (label >= 0).all(1) & (substituted < 0)
        probabilities, label = probabilities[used], label[used]
        values = self.labels.scores(probabilities, label) if used.any() else {}
        return Scores(values, int(used.sum()), number[substituted >= 0].tolist(), probabilities, label)

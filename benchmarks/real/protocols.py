"""How frozen features are measured in the benchmark `real_motion`, alike for all rows. All accuracies are in percent."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.studies.harness import random_rows, train
from modules.downstream.metrics.probes import knn_accuracy, linear_accuracy
from modules.layers.attentive import AttentivePooler

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties of the linear probe. 300 clips with hundreds of features overfit, so the best one on subject 7 is taken."""
NEIGHBOURS = 5
"""There are 12 to 16 training clips of each class, so 20 neighbours would always include other classes."""
HEADS = 4
DRAW_STREAM = 11


class Features(NamedTuple):
    """Features of training and test clips, and their labels."""

    known: Tensor
    """float [n, d]; tokens [n, t, p, d] for the attentive probe"""
    label: Tensor
    new: Tensor
    truth: Tensor


class AttentiveProbe(NamedTuple):
    """Training of the attentive probe; the batch is 64 clips.

    Args:
        lr: peak learning rate.
        steps: optimiser steps.
    """

    lr: float = 1e-3
    steps: int = 300


ATTENTIVE = (AttentiveProbe(3e-4), AttentiveProbe(1e-3), AttentiveProbe(3e-3))
"""What the final stage chooses from on subject 7; the search uses `AttentiveProbe()`."""


def linear(found: Features, penalty: float) -> float:
    """A linear classifier on standardised features."""
    return 100 * linear_accuracy(*found, l2=penalty)


def best_penalty(found: Features) -> float:
    """The penalty with the highest accuracy on subject 7; of equal ones the largest."""
    return max(reversed(PENALTIES), key=lambda penalty: linear(found, penalty))


def knn(found: Features) -> float:
    """Nearest neighbours."""
    return 100 * knn_accuracy(*found, k=NEIGHBOURS)


class Attentive(nn.Module):
    """V-JEPA's probe on frozen tokens: one block of cross-attention, then a linear classifier.

    Tokens are standardised, and a learned place in time is added for all rows alike, because the maps of a CNN have none.

    Args:
        known: tokens of the training clips, [n, t, p, d].
        classes: number of classes.
    """

    def __init__(self, known: Tensor, classes: int) -> None:
        super().__init__()
        width = known.shape[-1]
        self.register_buffer("mean", known.mean((0, 1, 2)))
        self.register_buffer("deviation", known.std((0, 1, 2)).clamp_min(1e-6))
        self.mean: Tensor
        self.deviation: Tensor
        self.place = nn.Parameter(torch.zeros(known.shape[1], 1, width))
        self.pool = AttentivePooler(width, HEADS, "vjepa")
        self.classify = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, t, p, d] -> logits [B, K]"""
        seen = (tokens - self.mean) / self.deviation + self.place
        logits: Tensor = self.classify(self.pool(seen.flatten(1, 2)))
        return logits


def fit_attentive(found: Features, settings: AttentiveProbe, seed: int) -> Attentive:
    """Train the attentive probe on the tokens of training clips."""
    torch.manual_seed(seed)
    probe = Attentive(found.known, int(torch.cat([found.label, found.truth]).max()) + 1)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(found.known), 64, generator)
        return F.cross_entropy(probe(found.known[rows]), found.label[rows])

    train(probe, loss_of, settings.steps, settings.lr, seed)
    return probe.eval()


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Tensor, truth: Tensor) -> float:
    """Of a classifier on its inputs."""
    right = torch.cat([network(part).argmax(1) for part in inputs.split(64)]) == truth
    return 100 * float(right.double().mean())


def attentive(found: Features, settings: AttentiveProbe, seed: int) -> float:
    """The attentive probe, trained and tested."""
    return accuracy(fit_attentive(found, settings, seed), found.new, found.truth)

"""Head of order pretexts: it compares the features of a tuple of clips or frames pair by pair (OPN, arXiv 1708.01246; VCOP,
CVPR 2019)."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.layers.heads import linear_in_float32


class TupleHead(nn.Module):
    """Features of a tuple -> logits of its classes: a shared layer on every pair, then a linear layer on all pairs together.

    Parameters have the official names of VCOP: `fc7` and `fc8`.

    Args:
        feature_dim: length of a feature, D.
        places: clips or frames of a tuple, n.
        classes: number of outputs.
        pairs: places that are compared, in the order in which their results are concatenated; None takes every pair i < j in
            lexicographic order, as VCOP does. OPN has an order of its own.
        hidden: outputs of `fc7`.
        dropout: dropout rate of the concatenated pairs.
        norm: batch norm between `fc7` and its ReLU, with statistics of all pairs together and an affine map per pair (OPN).
    """

    def __init__(
        self,
        feature_dim: int,
        places: int,
        classes: int,
        pairs: Sequence[tuple[int, int]] | None = None,
        hidden: int = 512,
        dropout: float = 0.5,
        norm: bool = False,
    ) -> None:
        super().__init__()
        chosen = list(itertools.combinations(range(places), 2)) if pairs is None else list(pairs)
        self.register_buffer("firsts", torch.tensor([first for first, _ in chosen]), persistent=False)
        self.register_buffer("seconds", torch.tensor([second for _, second in chosen]), persistent=False)
        self.fc7 = nn.Linear(2 * feature_dim, hidden)
        self.norm = PairNorm(len(chosen), hidden) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc8 = nn.Linear(hidden * len(chosen), classes)

    firsts: Tensor
    seconds: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Compare the places of each tuple.

        Args:
            features: float [B, n, D].

        Returns:
            float32 logits [B, classes].
        """
        pairs = torch.cat([features[:, self.firsts], features[:, self.seconds]], dim=2)
        compared = F.relu(self.norm(self.fc7(pairs)))
        return linear_in_float32(self.fc8, self.dropout(compared.flatten(1)))


class PairNorm(nn.Module):
    """Batch norm of [B, pairs, C] with one mean and variance per channel over all pairs, and a scale and shift per pair.

    Args:
        pairs: number of pairs.
        channels: C.
    """

    def __init__(self, pairs: int, channels: int) -> None:
        super().__init__()
        self.statistics = nn.BatchNorm1d(channels, affine=False)
        self.weight = nn.Parameter(torch.ones(pairs, channels))
        self.bias = nn.Parameter(torch.zeros(pairs, channels))

    def forward(self, values: Tensor) -> Tensor:
        """[B, pairs, C] -> the same shape."""
        normal: Tensor = self.statistics(values.flatten(0, 1)).view_as(values)
        return normal * self.weight + self.bias

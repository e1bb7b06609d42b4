"""Nearest neighbours and clusters of features, and how well both agree with classes.

Everything is computed from the features, by cosine similarity, and not from the map. Axis letters: `P` points,
`D` width, `k` neighbours.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torchmetrics.functional.clustering import normalized_mutual_info_score

from modules.core.device import full_float32
from modules.downstream.metrics.probes import vote

TEMPERATURE = 0.07
STARTS, ROUNDS = 3, 50
SHUFFLES = 10


class Neighbours(NamedTuple):
    """The nearest points of other files."""

    number: Tensor
    """int64 [P, k], the nearest first"""
    similarity: Tensor
    """float32 [P, k], cosine"""


def most_neighbours(group: Tensor) -> int:
    """Minimum number of points of other groups, over all points."""
    return len(group) - int(group.bincount().max())


def nearest_others(feature: Tensor, group: Tensor, k: int, chunk: int = 1024) -> Neighbours:
    """The nearest points of other groups, exactly.

    Args:
        feature: float32 [P, D].
        group: int64 [P]; a point's own group is left out.
        k: number of neighbours, at most `most_neighbours`.
        chunk: points compared at once; limits memory, and does not change the result.
    """
    unit = F.normalize(feature, dim=1)
    parts = []
    with full_float32(feature.device):
        for part, own in zip(unit.split(chunk), group.split(chunk), strict=True):
            parts.append((part @ unit.T).masked_fill_(own[:, None] == group, -torch.inf).topk(k, dim=1))
    return Neighbours(torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts]).clamp(-1, 1))


def cluster(feature: Tensor, count: int) -> Tensor:
    """K-means on features of unit length; the best of several starts from fixed seeds (k-means++).

    Args:
        feature: float32 [P, D].
        count: number of clusters; the result has fewer if some stay empty.

    Returns:
        int64 [P], the largest cluster is 0.
    """
    unit = F.normalize(feature, dim=1).numpy()
    best, least = torch.zeros(len(unit), dtype=torch.int64), torch.inf
    for seed in range(STARTS):
        # If there are fewer distinct points than clusters, some stay empty.
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.filterwarnings("ignore", "One of the clusters is empty")
            centres, found = kmeans2(unit, count, iter=ROUNDS, minit="++", seed=seed)
        if (spread := float(((unit - centres[found]) ** 2).sum())) < least:
            best, least = torch.from_numpy(found).long(), spread
    sizes = best.bincount(minlength=count)
    rank = torch.empty_like(sizes)
    rank[sizes.argsort(descending=True, stable=True)] = torch.arange(count)
    return rank[best]


def purity(clusters: Tensor, classes: Tensor) -> float:
    """Fraction of points whose class is the most frequent one of their cluster.

    Args:
        clusters: int64 [P], from 0.
        classes: int64 [P], from 0.
    """
    width = int(classes.max()) + 1
    table = (clusters * width + classes).bincount(minlength=(int(clusters.max()) + 1) * width).view(-1, width)
    return float(table.amax(1).sum()) / len(classes)


def scores(feature: Tensor, group: Tensor, clusters: Tensor, classes: Tensor, k: int) -> list[str]:
    """Sentences about how well neighbours and clusters agree with classes, compared with chance.

    Args:
        feature: float32 [P, D].
        group: int64 [P], file index of each point: neighbours from the same file do not vote.
        clusters: int64 [P], from 0.
        classes: int64 [P], from 0; -1 for none.
        k: maximum number of neighbours that vote.
    """
    known = classes >= 0
    own, group, clusters = classes[known], group[known], clusters[known]
    if own.unique().numel() < 2:
        return ["Fewer than two classes: no accuracy, purity or NMI."]
    k = min(k, most_neighbours(group))
    told = []
    if k > 0:
        found = nearest_others(feature[known], group, k)
        right = vote(found.similarity, own[found.number], TEMPERATURE) == own
        largest = float(own.bincount().max()) / len(own)
        told.append(
            f"kNN accuracy {100 * float(right.double().mean()):.1f} % (always the largest class: {100 * largest:.1f} %): "
            f"{k} nearest by cosine vote, each video left out in turn; {len(own)} labelled points, "
            f"{own.unique().numel()} classes."
        )
    # Chance: classes are shuffled between videos, not between the steps of a video.
    videos, member = group.unique(return_inverse=True)
    of_video = own.new_zeros(len(videos)).scatter(0, member, own)
    orders = [torch.randperm(len(videos), generator=torch.Generator().manual_seed(seed)) for seed in range(SHUFFLES)]
    mixed = [of_video[order][member] for order in orders]
    chance_purity = sum(purity(clusters, one) for one in mixed) / SHUFFLES
    chance_nmi = sum(_nmi(clusters, one) for one in mixed) / SHUFFLES
    told.append(
        f"{clusters.unique().numel()} k-means clusters of normalised features: purity {100 * purity(clusters, own):.1f} % "
        f"(shuffled classes: {100 * chance_purity:.1f} %), NMI {_nmi(clusters, own):.3f} (shuffled: {chance_nmi:.3f})."
    )
    return told


def _nmi(clusters: Tensor, classes: Tensor) -> float:
    with warnings.catch_warnings():
        # A warning of torch about code in torchmetrics.
        warnings.filterwarnings("ignore", "Sparse invariant checks")
        return float(normalized_mutual_info_score(clusters, classes))

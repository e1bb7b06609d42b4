"""Positions of points on the map: the two directions of largest variance, or UMAP.

Axis letters: `P` points, `D` width.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.core.device import full_float32
from modules.core.errors import SettingError

MethodName = Literal["pca", "umap"]
NEIGHBOURHOOD = 15
"""Neighbours whose distances UMAP preserves (its default)."""
FEWEST_FOR_UMAP = 8


class Layout(NamedTuple):
    """A map."""

    place: Tensor
    """float32 [P, 2], right and up"""
    axes: tuple[str, str]
    """names of the axes"""
    note: str
    """how to read the map, in a sentence"""

    def order(self) -> Tensor:
        """Random order in which points are drawn, so that no class covers the others: int64 [P], always the same."""
        return torch.randperm(len(self.place), generator=torch.Generator().manual_seed(0))


def lay_out(feature: Tensor, method: MethodName) -> Layout:
    """Place points in the plane. The result is deterministic.

    Args:
        feature: float32 [P, D], not all equal.
        method: pca of the features, or umap of their cosine similarities.

    Raises:
        SettingError: if UMAP is not installed, or there are too few points for it.
    """
    if method == "umap":
        place = umap(feature)
        note = "UMAP of cosine similarities: neighbours stay near; axes have no unit, and large distances mean little."
        return Layout(place, ("UMAP 1", "UMAP 2"), note)
    place, shares = pca(feature)
    first, second = (f"{100 * share:.1f} %" for share in shares)
    note = f"PCA: the two axes hold {first} and {second} of the variance."
    return Layout(place, (f"PC 1 ({first} of the variance)", f"PC 2 ({second} of the variance)"), note)


def pca(feature: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Coordinates along the two directions of largest variance, and the fractions of the variance that they explain.

    The largest coordinate of each direction is positive, so that the map is not mirrored on other machines.

    Args:
        feature: float32 [P, D].

    Returns:
        float32 [P, 2], and two fractions from 0 to 1.
    """
    centred = feature.double() - feature.double().mean(0)
    with full_float32(feature.device):
        if feature.shape[1] <= len(feature):
            variance, directions = torch.linalg.eigh(centred.T @ centred)
            place = centred @ directions[:, -2:].flip(1)
        else:
            variance, directions = torch.linalg.eigh(centred @ centred.T)
            place = directions[:, -2:].flip(1) * variance[-2:].flip(0).clamp(min=0).sqrt()
    if place.shape[1] < 2:  # features of a single number
        place, variance = torch.cat([place, torch.zeros_like(place)], 1), torch.cat([variance.new_zeros(1), variance])
    largest = place.gather(0, place.abs().argmax(0, keepdim=True))
    place = place * torch.where(largest < 0, -1.0, 1.0)
    first, second = (variance.clamp(min=0)[[-1, -2]] / variance.clamp(min=0).sum()).tolist()
    return place.float(), (first, second)


def umap(feature: Tensor) -> Tensor:
    """UMAP (https://arxiv.org/abs/1802.03426) by umap-learn, from a fixed seed: float32 [P, 2].

    Raises:
        SettingError: if it is not installed, or there are too few points for it.
    """
    if len(feature) < FEWEST_FOR_UMAP:
        raise SettingError(f"--method umap needs {FEWEST_FOR_UMAP} points, but there are {len(feature)}; pass --method pca.")
    try:
        # Imported here because it takes seconds.
        from umap import UMAP
    except ImportError as error:
        raise SettingError(
            f"--method umap needs umap-learn ({error}); install it with pip install -e .[map], or pass --method pca."
        ) from error
    # With a seed, UMAP uses one thread; setting it avoids a warning.
    reducer = UMAP(n_neighbors=min(NEIGHBOURHOOD, len(feature) - 1), metric="cosine", random_state=0, n_jobs=1)
    return torch.from_numpy(reducer.fit_transform(feature.numpy())).float()

"""Scores of propagated labels, of one video and of a data set."""

import torch
from torch import Tensor

from modules.core.run import Measure
from modules.downstream.metrics.joints import joint_distances, pck
from modules.downstream.metrics.segmentation import class_overlaps, confusion, davis_metrics, object_scores

MAIN: dict[Measure, str] = {"objects": "j_and_f", "parts": "miou", "joints": "pck_0.1"}
"""The value that papers compare."""
Scores = tuple[Tensor, ...]
"""What a video contributes: J and F of its objects, a confusion matrix, or distances of joints; on the host."""


def score(measure: Measure, predicted: Tensor, truth: Tensor, num_labels: int | None) -> Scores:
    """Compare the labels of a video with the true ones.

    Args:
        measure: what they are.
        predicted: uint8 [T, H, W]; of joints float64 [T, J, 2] in pixels, below 0 where a joint was not found.
        truth: of the same shape.
        num_labels: number of classes of parts.
    """
    if measure == "objects":
        return tuple(object_scores(predicted, truth))
    if measure == "parts":
        assert num_labels is not None
        return (confusion(predicted, truth, num_labels).cpu(),)
    return (joint_distances(predicted, truth, predicted[..., 0] >= 0).cpu(),)


def summary(measure: Measure, scores: list[Scores]) -> dict[str, float]:
    """Values in percent of some videos, by name; the first is the one in `MAIN`."""
    if measure == "objects":
        return davis_metrics([pair for own in scores for pair in zip(*own, strict=True)])
    if measure == "parts":
        return {"miou": float(100 * class_overlaps(torch.stack([own[0] for own in scores]).sum(0)).nanmean())}
    return pck(torch.cat([own[0] for own in scores]))

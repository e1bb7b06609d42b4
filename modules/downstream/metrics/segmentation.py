"""Measures of video segmentation: J, F and J&F of DAVIS (https://arxiv.org/abs/1704.00675, official code davis2017-evaluation),
and the mean overlap of classes.

Axis letters: `N` pairs of masks, `T` frames, `K` objects or classes.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

VOID = 255
"""Value of pixels that belong to no object."""
TOLERANCE = 0.008
"""Distance at which two contours match, in diagonals of the frame."""
BINS = 4
GOOD = 0.5
"""Least value of a frame that counts for the recall."""


class Statistics(NamedTuple):
    """Statistics of the values of one object over the frames."""

    mean: float
    recall: float
    """share of frames above one half"""
    decay: float
    """mean of the first quarter of the frames less that of the last"""


def jaccard(predicted: Tensor, truth: Tensor) -> Tensor:
    """J, intersection over union of masks: bool [N, H, W] -> float64 [N]; 1 if both are empty."""
    inter = (predicted & truth).sum((1, 2)).double()
    union = (predicted | truth).sum((1, 2)).double()
    return torch.where(union > 0, inter / union.clamp_min(1), 1)


def contours(masks: Tensor) -> Tensor:
    """Contours one pixel wide: pixels that differ from their right, lower or lower right neighbour: bool [N, H, W]."""
    right, lower = masks.roll(-1, 2), masks.roll(-1, 1)
    corner = lower.roll(-1, 2)
    found = (masks ^ right) | (masks ^ lower) | (masks ^ corner)
    # The last row and column have one neighbour, the last pixel none.
    found[:, -1] = (masks ^ right)[:, -1]
    found[:, :, -1] = (masks ^ lower)[:, :, -1]
    found[:, -1, -1] = False
    return found


def dilated(masks: Tensor, radius: int) -> Tensor:
    """Masks grown by a disk: bool [N, H, W]."""
    height = masks.shape[1]
    # Sums of runs of a row tell whether a run has a pixel.
    sums = F.pad(masks, (radius + 1, radius, radius, radius)).int().cumsum(2, dtype=torch.int32)
    grown = torch.zeros_like(masks)
    width = masks.shape[2]
    for down in range(-radius, radius + 1):
        half = math.isqrt(radius**2 - down**2)
        rows = sums[:, radius + down : radius + down + height]
        middle = radius + 1
        grown |= rows[:, :, middle + half : middle + half + width] > rows[:, :, middle - half - 1 : middle - half - 1 + width]
    return grown


def contour_f(predicted: Tensor, truth: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """F, harmonic mean of the precision and recall of contours.

    Args:
        predicted: bool [N, H, W].
        truth: bool [N, H, W].
        tolerance: distance at which contours match, in pixels; below 1, in diagonals of the frame, rounded up.

    Returns:
        float64 [N]; 1 if no mask has a contour, 0 if only one has.
    """
    radius = round(tolerance) if tolerance >= 1 else math.ceil(tolerance * math.hypot(*truth.shape[1:]))
    ours, theirs = contours(predicted), contours(truth)
    length, true_length = ours.sum((1, 2)).double(), theirs.sum((1, 2)).double()
    matched = (ours & dilated(theirs, radius)).sum((1, 2)).double()
    found = (theirs & dilated(ours, radius)).sum((1, 2)).double()
    precision, recall = matched / length.clamp_min(1), found / true_length.clamp_min(1)
    score = 2 * precision * recall / (precision + recall).clamp_min(torch.finfo(torch.float64).tiny)
    one_is_empty, none_has = (length == 0) != (true_length == 0), (length == 0) & (true_length == 0)
    return torch.where(none_has, 1, torch.where(one_is_empty, 0, score))


def statistics(values: Tensor) -> Statistics:
    """Statistics of the values float64 [T] of an object.

    The quarters overlap by one frame, as in the official code, whose indices wrap around above 255 frames; these do not.
    """
    # A tiny number, so that halves are rounded up.
    edges = [round(1 + (len(values) - 1) * number / BINS + 1e-10) - 1 for number in range(BINS + 1)]
    first, last = values[edges[0] : edges[1] + 1], values[edges[-2] : edges[-1] + 1]
    return Statistics(float(values.mean()), float((values > GOOD).double().mean()), float(first.mean() - last.mean()))


class ObjectScores(NamedTuple):
    """J and F of the objects of a sequence."""

    j: Tensor
    """float64 [K, T - 2], without the first and the last frame"""
    f: Tensor
    """float64 [K, T - 2]"""


def object_scores(predicted: Tensor, truth: Tensor, chunk: int = 16) -> ObjectScores:
    """Semi-supervised scores of a sequence: of each object of the first true mask, in all frames but the first and the last.

    Args:
        predicted: uint8 [T, H, W], object ids; objects that are missing have empty masks.
        truth: uint8 [T, H, W], object ids; 255 belongs to none.
        chunk: frames at once; bounds the memory.
    """
    truth = torch.where(truth == VOID, 0, truth)
    objects = int(truth[0].max())
    pairs = list(zip(predicted[1:-1].split(chunk), truth[1:-1].split(chunk), strict=True))
    rows = []
    for number in range(1, objects + 1):
        masks = [(ours == number, theirs == number) for ours, theirs in pairs]
        rows.append([torch.cat([score(*pair) for pair in masks]) for score in (jaccard, contour_f)])
    return ObjectScores(*(torch.stack(column).cpu() for column in zip(*rows, strict=True)))


def davis_metrics(objects: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Scores of a data set in percent: `j_and_f`, and mean, recall and decay of J and F, each the mean over all objects.

    Args:
        objects: float64 [T'] J and F of each object of each sequence.
    """
    found: dict[str, float] = {}
    for name, column in zip("jf", zip(*objects, strict=True), strict=True):
        each = [statistics(values) for values in column]
        for part in Statistics._fields:
            found[f"{name}_{part}"] = 100 * sum(getattr(one, part) for one in each) / len(each)
    return {"j_and_f": (found["j_mean"] + found["f_mean"]) / 2} | found


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """How often each class is predicted for each true class: uint8 [...] twice -> int64 [K, K], true classes in rows."""
    known = (truth < classes) & (predicted < classes)
    pairs = truth[known].long() * classes + predicted[known].long()
    return pairs.bincount(minlength=classes**2).view(classes, classes)


def class_overlaps(matrix: Tensor) -> Tensor:
    """Intersection over union of each class from a confusion matrix: float64 [K]; NaN for classes that do not occur."""
    right = matrix.diagonal().double()
    return right / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())

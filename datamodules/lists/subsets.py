"""Subsets of a training set."""

from collections.abc import Callable, Sequence

import numpy as np

PROBE_SAMPLES, PROBE_SAMPLES_PER_CLASS, MOST_PROBE_SAMPLES = 2048, 50, 20_000


def pick_evenly(labels: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Draw rows in proportion to the classes, up to rounding by one; drawing fewer rows returns a prefix of this.

    Args:
        labels: int64 [N]
        wanted: rows to draw.
        seed: random seed.

    Returns:
        int64 [n], row numbers in the order in which they were drawn.
    """
    generator = np.random.default_rng(seed)
    mixed = generator.permutation(len(labels))
    # The rows of a class are placed at equal distances from 0 to 1, from a random start.
    _, number, count = np.unique(labels[mixed], return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) - np.repeat(np.cumsum(count) - count, count)
    moment = (place + generator.random(len(count))[number]) / count[number]
    return mixed[np.argsort(moment, kind="stable")[:wanted]]


def pick_per_class(labels: np.ndarray, wanted: Callable[[int], int], seed: int) -> np.ndarray:
    """Draw some rows of each class without replacement, class by class, from one generator.

    The rule and the generator (NumPy's legacy one) are those of TubeletContrast and SEVERE (official code).

    Args:
        labels: int64 [N]; rows without label count as a class.
        wanted: number of rows to draw from a class of a given size.
        seed: random seed.

    Returns:
        int64 [n], row numbers in the order in which they were drawn.
    """
    generator = np.random.RandomState(seed)
    picked = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        picked.append(rows[generator.choice(len(rows), min(len(rows), wanted(len(rows))), replace=False)])
    return np.concatenate(picked)


def pick_for_probes(labels: np.ndarray) -> np.ndarray:
    """Evenly spaced rows of each class: 50, or more if the total is below 2,048, or fewer if it exceeds 20,000. Smaller classes
    contribute all rows; the others then have more.

    kNN needs many rows per class: for simulated features of 400 classes, 20-NN accuracy is 42 % with 5 rows per class,
    59 % with 12, 71 % with 28, 76 % with 50 and 86 % with 200; fewer neighbours are worse.

    Args:
        labels: int64 [N], all from 0.

    Returns:
        int64 [n], row numbers in order.
    """
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    count = np.array([len(own) for own in rows])
    wanted = min(MOST_PROBE_SAMPLES, max(PROBE_SAMPLES, PROBE_SAMPLES_PER_CLASS * len(rows)))
    each = 1
    while each < count.max() and np.minimum(count, each + 1).sum() <= wanted:
        each += 1
    return np.sort(np.concatenate([own[spread(len(own), each)] for own in rows]))


def spread(length: int, wanted: int) -> np.ndarray:
    """Evenly spaced row numbers, from the first to the last: int64 [min(wanted, length)]."""
    return np.linspace(0, length - 1, min(wanted, length)).astype(int)


def balancing_weights(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Sampling weights that balance rare classes: the sum of 1000 / (count + .01) over a sample's labels.

    AudioSet is sampled with these weights (AudioMAE and CAV-MAE, official code).

    Args:
        labels: labels of each sample, any number.
        classes: number of classes.

    Returns:
        float64 [N], not normalised; a sample without label has weight 0.
    """
    sizes = np.array([len(own) for own in labels], np.int64)
    flat = np.fromiter((label for own in labels for label in own), np.int64, int(sizes.sum()))
    weights = 1000.0 / (np.bincount(flat, minlength=classes) + 0.01)
    return np.bincount(np.repeat(np.arange(len(sizes)), sizes), weights[flat], len(sizes))

"""Per-class results of a test: confusions, accuracies and average precisions.

Axis letters: `N` samples, `K` classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix


class Confused(NamedTuple):
    """Samples of one class that are predicted as another."""

    true: int
    predicted: int
    times: int
    of: int
    """samples of the class"""


@dataclass
class ClassReport:
    """Per-class results for samples with one class each or, without a matrix, with several."""

    names: list[str]
    """names of the K classes, or their indices"""
    count: Tensor
    """int64 [K], samples of each class"""
    confusion: Tensor | None = None
    """int64 [K, K], number of samples by true and predicted class"""
    precision: Tensor | None = None
    """float64 [K], average precision from 0 to 1, NaN for classes without a sample"""

    def most_confused(self, most: int) -> list[Confused]:
        """The most frequently confused pairs of different classes; may be empty."""
        if self.confusion is None:
            return []
        wrong = self.confusion.clone().fill_diagonal_(0)
        found = wrong.flatten().sort(descending=True, stable=True)
        pairs = zip(found.indices[:most].tolist(), found.values[:most].tolist(), strict=True)
        size = len(self.names)
        return [Confused(place // size, place % size, value, int(self.count[place // size])) for place, value in pairs if value]

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """A row per class: `class`, `videos`, and either `correct`, `accuracy` in percent, `taken_for` (the most frequent wrong
        prediction) and `taken_for_count`, or `average_precision` in percent. Values are None for classes without a sample."""
        rows: list[dict[str, str | int | float | None]] = []
        wrong = None if self.confusion is None else self.confusion.clone().fill_diagonal_(0)
        for number, (name, count) in enumerate(zip(self.names, self.count.tolist(), strict=True)):
            row: dict[str, str | int | float | None] = {"class": name, "videos": count}
            if self.confusion is not None and wrong is not None:
                correct, (most, other) = int(self.confusion[number, number]), (int(one) for one in wrong[number].max(0))
                row |= {"correct": correct, "accuracy": 100 * correct / count if count else None}
                row |= {"taken_for": self.names[other] if most else None, "taken_for_count": most}
            if self.precision is not None:
                row["average_precision"] = 100 * float(self.precision[number]) if count else None
            rows.append(row)
        return rows


def report_single(predicted: Tensor, label: Tensor, names: list[str]) -> ClassReport:
    """Report for samples with one class each.

    Args:
        predicted: int64 [N], predicted classes.
        label: int64 [N], true classes.
        names: names of all K classes.
    """
    # torchmetrics does not support a single class.
    every = multiclass_confusion_matrix(predicted, label, max(2, len(names))).cpu()
    confusion = every[: len(names), : len(names)]
    return ClassReport(names, confusion.sum(1), confusion)


def report_several(precision: Tensor, positive: Tensor, names: list[str]) -> ClassReport:
    """Report for samples with any number of classes.

    Args:
        precision: float64 [K], average precision.
        positive: bool [N, K], whether a sample belongs to a class.
        names: names of all K classes.
    """
    return ClassReport(names, positive.sum(0).cpu(), precision=precision.cpu())


def class_names(known: list[str] | None, classes: int) -> list[str]:
    """Names of all classes: the known names, or indices if their number differs."""
    return [str(name) for name in known] if known and len(known) == classes else [str(number) for number in range(classes)]

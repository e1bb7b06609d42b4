"""Labels of a classifier: targets, loss, probabilities and metrics, for one or several labels per sample."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import multiclass_accuracy

from modules.core.errors import SettingError
from modules.core.output import Answers, Columns
from modules.downstream.metrics.classes import ClassReport, class_names, report_several, report_single

Merge = Literal["mean", "max", "mean_logits"]
# Probabilities closer to 0 or 1 have no finite logarithm in float32.
SMALLEST = 1e-7
SHOWN = 5
"""Number of most likely classes in predictions."""
LIKELY = 0.5
"""With several labels per sample, classes with at least this probability are predicted."""


class Labels(ABC):
    """Labels of one kind. Axis letters: `N` samples, `K` classes."""

    merge: ClassVar[Merge]
    """Default for merging the probabilities of a video's views."""
    is_single: ClassVar[bool]
    """Whether samples have exactly one class each."""

    @abstractmethod
    def rows(self, label: Tensor, classes: int) -> Tensor:
        """Labels in the form that evaluation collects.

        Args:
            label: labels of a batch, int64 [N] or float [N, K].
            classes: number of classes, K.

        Returns:
            int64 [N, 1] or [N, K]; -1 for samples without label.

        Raises:
            SettingError: if the data has another type of labels.
        """

    @abstractmethod
    def targets(self, label: Tensor, classes: int) -> Tensor:
        """Targets of the network: labels of a batch -> float32 [N, K]."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits [N, K]; targets may be mixed. Samples without label have none."""

    @abstractmethod
    def progress(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Scalars to log at each step, over the samples with a label."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities from logits: [..., K] -> [..., K]."""

    @abstractmethod
    def logits(self, probabilities: Tensor) -> Tensor:
        """Inverse of `probabilities`, which are clamped to at least `SMALLEST`: [..., K] -> [..., K]."""

    def merged(self, logits: Tensor, merge: Merge) -> Tensor:
        """Probabilities of samples from the logits of their clips: [N, V, K] -> [N, K]."""
        if merge == "mean_logits":
            return self.probabilities(logits.mean(1))
        views = self.probabilities(logits.flatten(0, 1)).unflatten(0, logits.shape[:2])
        return views.mean(1) if merge == "mean" else views.amax(1)

    def answers(self, probabilities: Tensor, names: list[str] | None) -> Answers:
        """Predicted class, its probability, and the most likely classes: a row for each sample.

        Args:
            probabilities: float [N, K].
            names: class names; None for their indices.
        """
        count = probabilities.shape[1]
        names = class_names(names, count)
        best = probabilities.topk(min(SHOWN, count), 1)
        numbers, values = best.indices.tolist(), best.values.tolist()
        chosen = self.chosen(probabilities)
        columns: Columns = {
            "class": [[names[one] for one in own] for own, _ in chosen],
            "probability": [own for _, own in chosen],
        }
        if self.is_single:
            columns = {name: [own[0] for own in values] for name, values in columns.items()}
        for place in range(best.indices.shape[1]):
            columns[f"class_{place + 1}"] = [names[own[place]] for own in numbers]
            columns[f"probability_{place + 1}"] = [own[place] for own in values]
        return Answers(columns, {"class_names": names})

    @abstractmethod
    def report(self, probabilities: Tensor, rows: Tensor, names: list[str] | None) -> ClassReport:
        """Per-class report of labelled samples, from probabilities [N, K], `rows` and class names."""

    @abstractmethod
    def chosen(self, probabilities: Tensor) -> list[tuple[list[int], list[float]]]:
        """Predicted classes of each sample, and their probabilities: [N, K] -> N pairs."""

    @abstractmethod
    def scores(self, probabilities: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Metrics of a complete evaluation, from probabilities [N, K] and `rows` of labelled samples."""


class OneLabel(Labels):
    """One label per sample: softmax and cross-entropy.

    Args:
        smoothing: fraction of the target that is spread evenly over all classes.
    """

    merge: ClassVar[Merge] = "mean"
    is_single = True

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = smoothing

    def rows(self, label: Tensor, classes: int) -> Tensor:
        """See `Labels.rows`."""
        if label.ndim != 1:
            raise SettingError(
                "Classification expects one label per sample, but the data have several; set model.labels.per_sample to "
                "several, or choose other data."
            )
        return label[:, None]

    def targets(self, label: Tensor, classes: int) -> Tensor:
        """See `Labels.targets`."""
        return smooth_targets(self.rows(label, classes)[:, 0], classes, self.smoothing)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, mean over the samples."""
        return -(targets * logits.log_softmax(1)).sum(1).mean()

    def progress(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`top1`, in percent."""
        known = targets.sum(1) > 0
        return {"top1": 100 * ((logits.argmax(1) == targets.argmax(1)) & known).sum() / known.sum().clamp_min(1)}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax."""
        return logits.softmax(-1)

    def logits(self, probabilities: Tensor) -> Tensor:
        """See `Labels.logits`."""
        return probabilities.clamp_min(SMALLEST).log()

    def report(self, probabilities: Tensor, rows: Tensor, names: list[str] | None) -> ClassReport:
        """With a confusion matrix; see `Labels.report`."""
        return report_single(probabilities.argmax(1), rows[:, 0], class_names(names, probabilities.shape[1]))

    def chosen(self, probabilities: Tensor) -> list[tuple[list[int], list[float]]]:
        """The most likely class of each sample; see `Labels.chosen`."""
        best = probabilities.max(1)
        return [([number], [value]) for number, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def scores(self, probabilities: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """See `accuracies`.

        Raises:
            SettingError: if a label is not below the number of classes.
        """
        label, classes = rows[:, 0], probabilities.shape[1]
        if (label >= classes).any():
            raise SettingError(
                f"A video has the label {int(label.max())}, but the classifier only has {classes} classes, from 0; set "
                f"model.num_classes to {int(label.max()) + 1} or more, or correct data.lists.val or data.lists.test."
            )
        return accuracies(probabilities, label)


class SeveralLabels(Labels):
    """Any number of labels per sample, including none: a sigmoid and binary cross-entropy for every class, like SEVERE for
    Charades (https://arxiv.org/abs/2203.14221, official code). If the data has one label per sample, it is the only positive
    class."""

    merge: ClassVar[Merge] = "max"
    is_single = False

    def rows(self, label: Tensor, classes: int) -> Tensor:
        """See `Labels.rows`."""
        if label.ndim == 1:
            is_it = label[:, None] == torch.arange(classes, device=label.device)
            return torch.where(label[:, None] < 0, -1, is_it.long())
        return label.long()

    def targets(self, label: Tensor, classes: int) -> Tensor:
        """See `Labels.targets`; -1 for samples without label."""
        return self.rows(label, classes).float()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, mean over samples and classes."""
        return (binary_cross_entropy_with_logits(logits, targets, reduction="none") * (targets >= 0)).mean()

    def progress(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`hit1`: percentage of samples whose most likely class is one of their labels."""
        known = (targets >= 0).all(1)
        return {"hit1": 100 * (targets.gather(1, logits.argmax(1, keepdim=True)) > 0).sum() / known.sum().clamp_min(1)}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid."""
        return logits.sigmoid()

    def logits(self, probabilities: Tensor) -> Tensor:
        """See `Labels.logits`."""
        return probabilities.clamp(SMALLEST, 1 - SMALLEST).logit()

    def report(self, probabilities: Tensor, rows: Tensor, names: list[str] | None) -> ClassReport:
        """With average precisions; see `Labels.report`."""
        positive = rows > 0
        precision = average_precisions(probabilities, positive)
        return report_several(precision, positive, class_names(names, probabilities.shape[1]))

    def chosen(self, probabilities: Tensor) -> list[tuple[list[int], list[float]]]:
        """All classes with a probability of at least one half, the most likely first; see `Labels.chosen`."""
        found = []
        for own in probabilities:
            values, numbers = own.sort(descending=True)
            count = int((values >= LIKELY).sum())
            found.append((numbers[:count].tolist(), values[:count].tolist()))
        return found

    def scores(self, probabilities: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """`loss` (mean binary cross-entropy) and `map` (mean average precision in percent, over classes that occur)."""
        found, positive = probabilities.clamp(SMALLEST, 1 - SMALLEST), rows > 0
        each = average_precisions(probabilities, positive)
        return {
            "loss": -torch.where(positive, found, 1 - found).log().mean(),
            "map": 100 * each.nanmean().to(probabilities),
        }


@dataclass
class LabelSettings:
    """The type of labels, and how they are used.

    Args:
        per_sample: `one`, with softmax, or `several` (Charades), with a sigmoid for every class.
        smoothing: label smoothing: fraction of the target spread over all classes; for one label per sample.
        merge: how the clips of a video are merged: by the mean or the maximum of their class probabilities, or by the mean of
            their logits (VCOP, official code); null uses the mean for one label, and the maximum for several (SEVERE, official
            code).

    Raises:
        SettingError: if the smoothing is out of range, or set for several labels.
    """

    per_sample: Literal["one", "several"] = "one"
    smoothing: float = 0.0
    merge: Merge | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise SettingError(f"model.labels.smoothing is {self.smoothing}; it must be at least 0 and below 1.")
        if self.smoothing and self.per_sample == "several":
            raise SettingError(
                f"model.labels.smoothing is {self.smoothing}, but for model.labels.per_sample several it must be 0."
            )

    def make(self) -> Labels:
        """The implementation for this type of labels."""
        return OneLabel(self.smoothing) if self.per_sample == "one" else SeveralLabels()


def smooth_targets(label: Tensor, classes: int, smoothing: float) -> Tensor:
    """Target probabilities: smoothing / K for every class, plus 1 - smoothing for the correct class.

    Args:
        label: int64 [N]; samples with -1 get zeros and therefore no loss.
        classes: number of classes, K.
        smoothing: fraction that is spread evenly over all classes.

    Returns:
        float32 [N, K]
    """
    one = torch.zeros(len(label), classes, device=label.device).scatter_(1, label.clamp_min(0)[:, None], 1 - smoothing)
    return (one + smoothing / classes) * (label >= 0)[:, None]


def accuracies(probabilities: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Loss, and accuracies in percent.

    Args:
        probabilities: float [N, K], one row per video: the mean over its views.
        label: int64 [N], from 0.

    Returns:
        `loss` (mean negative log-likelihood), `top1`, `top5` (all, if there are fewer than 5 classes), `per_class` (mean over
        the classes that occur of the accuracy of their videos) and `per_class_all` (mean over all K classes, where missing ones
        count as 0).
    """
    classes = probabilities.shape[1]
    top1, top5 = (multiclass_accuracy(probabilities, label, classes, average="micro", top_k=k) for k in (1, min(5, classes)))
    right = (probabilities.argmax(1) == label).float()
    count = torch.bincount(label, minlength=classes)
    each = torch.zeros(classes, device=label.device).scatter_add_(0, label, right) / count.clamp_min(1)
    return {
        "loss": -probabilities.gather(1, label[:, None]).log().mean(),
        "top1": 100 * top1,
        "top5": 100 * top5,
        "per_class": 100 * each.sum() / (count > 0).sum(),
        "per_class_all": 100 * each.mean(),
    }


def average_precisions(scores: Tensor, positive: Tensor) -> Tensor:
    """Average precision of every class, as defined by scikit-learn: the sum over thresholds of the increase in recall times
    precision. A threshold includes all samples with the same score. (torchmetrics computes in float32, which is not precise
    enough.)

    Args:
        scores: float [N, K], higher means more likely.
        positive: bool [N, K]

    Returns:
        float64 [K], from 0 to 1; NaN for classes without a positive.
    """
    ordered, order = scores.sort(0, descending=True)
    hits = positive.gather(0, order).double().cumsum(0)
    seen = torch.arange(1, len(scores) + 1, device=scores.device)[:, None]
    last = torch.ones_like(positive)
    last[:-1] = ordered[1:] != ordered[:-1]
    # Hits at the previous threshold: the maximum over all earlier positions at which a threshold ends.
    ended = torch.where(last, hits, 0.0).cummax(0).values
    gained = hits - torch.cat([torch.zeros_like(ended[:1]), ended[:-1]])
    return torch.where(last, gained * hits / seen, 0.0).sum(0) / hits[-1]

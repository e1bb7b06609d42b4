"""How a classifier uses labels: targets, loss, probabilities and metrics, for one label per sample or several."""

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

Merge = Literal["mean", "max"]
# Nearer to 0 or 1 a float32 probability has no finite logarithm.
SMALLEST = 1e-7
SHOWN = 5
"""Likeliest classes that predictions list."""
LIKELY = 0.5
"""Of several classes per sample, those of this probability or more are predicted."""


class Labels(ABC):
    """Labels of one kind. Axis letters: `N` samples, `K` classes."""

    merge: ClassVar[Merge]
    """How the probabilities of a video's views become those of the video, unless a setting says otherwise."""
    is_single: ClassVar[bool]
    """Whether a sample has one class, and not any number of them."""

    @abstractmethod
    def rows(self, label: Tensor, classes: int) -> Tensor:
        """Labels as evaluation collects them.

        Args:
            label: as in the batch, int64 [N] or float [N, K].
            classes: K.

        Returns:
            int64 [N, 1] or [N, K]; -1 where there is none.

        Raises:
            SettingError: if the data has labels of another kind.
        """

    @abstractmethod
    def targets(self, label: Tensor, classes: int) -> Tensor:
        """What the network learns: labels as in the batch -> float32 [N, K]."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits [N, K]; targets may be mixed. Samples without label have none."""

    @abstractmethod
    def progress(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Scalars to log at each step, over the samples with a label."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the classes: [..., K] -> [..., K]."""

    @abstractmethod
    def logits(self, probabilities: Tensor) -> Tensor:
        """Logits that give these probabilities, all at least `SMALLEST`: inverse of `probabilities`, of any shape [..., K]."""

    def merged(self, logits: Tensor, merge: Merge) -> Tensor:
        """Probabilities of samples from the logits of their clips: [N, V, K] -> [N, K]."""
        views = self.probabilities(logits.flatten(0, 1)).unflatten(0, logits.shape[:2])
        return views.mean(1) if merge == "mean" else views.amax(1)

    def answers(self, probabilities: Tensor, names: list[str] | None) -> Answers:
        """Class and probability of samples, and their likeliest classes: a row for each of [N, K].

        Args:
            probabilities: float [N, K].
            names: of the classes; None for their numbers.
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
        """What a test says of each class, of labelled samples: probabilities [N, K], `rows`, and names of the classes."""

    @abstractmethod
    def chosen(self, probabilities: Tensor) -> list[tuple[list[int], list[float]]]:
        """The classes that each sample is taken to be of, and their probabilities: [N, K] -> N pairs."""

    @abstractmethod
    def scores(self, probabilities: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Numbers of a whole evaluation, of labelled samples: probabilities [N, K] and `rows`."""


class OneLabel(Labels):
    """One label per sample: softmax and cross-entropy.

    Args:
        smoothing: share of the target that all classes get alike.
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
        """The likeliest class of each sample; see `Labels.chosen`."""
        best = probabilities.max(1)
        return [([number], [value]) for number, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def scores(self, probabilities: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """See `accuracies`.

        Raises:
            SettingError: if a label is beyond the classes.
        """
        label, classes = rows[:, 0], probabilities.shape[1]
        if (label >= classes).any():
            raise SettingError(
                f"A video has the label {int(label.max())}, but the classifier only has {classes} classes, from 0; set "
                f"model.num_classes to {int(label.max()) + 1} or more, or correct data.lists.val or data.lists.test."
            )
        return accuracies(probabilities, label)


class SeveralLabels(Labels):
    """Any number of labels per sample, also none: a sigmoid and binary cross-entropy for every class, as SEVERE learns Charades
    (https://arxiv.org/abs/2203.14221, official code). Where the data gives one label, it is the only one of its sample."""

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
        """`hit1`: percentage of samples whose likeliest class is one of theirs."""
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
        """All classes of a probability of one half or more, the likeliest first; see `Labels.chosen`."""
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
        merge: how the class probabilities of a video's clips are merged; null uses the mean for one label, and the maximum for
            several (SEVERE, official code).

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
    """Probabilities that the network learns: smoothing / K, and 1 - smoothing more for the right class.

    Args:
        label: int64 [N]; samples with -1 get zeros, and so no loss.
        classes: K.
        smoothing: share that all classes get alike.

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
        `loss` (mean negative log-likelihood), `top1`, `top5` (of fewer than 5 classes all), `per_class` (mean over the classes
        that occur of the share of their videos that are right) and `per_class_all` (over all K, where others count 0).
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
    """Average precision of every class, as scikit-learn defines it: the sum over thresholds of gained recall times precision.
    A threshold lets in all samples of the same score. (torchmetrics computes in float32, which is not exact enough.)

    Args:
        scores: float [N, K], the higher the likelier.
        positive: bool [N, K]

    Returns:
        float64 [K], from 0 to 1; NaN for classes without a positive.
    """
    ordered, order = scores.sort(0, descending=True)
    hits = positive.gather(0, order).double().cumsum(0)
    seen = torch.arange(1, len(scores) + 1, device=scores.device)[:, None]
    last = torch.ones_like(positive)
    last[:-1] = ordered[1:] != ordered[:-1]
    # Hits at the threshold before: the most of all earlier places where one ends.
    ended = torch.where(last, hits, 0.0).cummax(0).values
    gained = hits - torch.cat([torch.zeros_like(ended[:1]), ended[:-1]])
    return torch.where(last, gained * hits / seen, 0.0).sum(0) / hits[-1]

"""Nearest neighbours of test samples among the training samples: kNN accuracy and retrieval, from the same frozen features.

Protocols: SIGMA (https://arxiv.org/abs/2407.15447: weighted kNN with k of 20 and 200), skeleton contrast
(https://arxiv.org/abs/2108.03656: k of 1), retrieval of videos (R@k: https://arxiv.org/abs/2010.09709) and VCOP (CVPR 2019: R@k
with the last feature map instead of its mean).

Differences from the official code: the backbone is in evaluation mode (skeleton contrast leaves it in training mode), the bank
is the training set (SIGMA uses the test set, in which each query finds itself), and features are those of the encoder (SIGMA
uses the outputs of an untrained classifier).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from modules.backbones import AnyEncoder
from modules.backbones.cnn.base import VideoCNN
from modules.core.batch import Batch, Kind, feature_stream
from modules.core.distributed import gather_once
from modules.core.errors import SettingError, check_positive, given
from modules.core.output import Answers, Columns, Predicted, StepOutput
from modules.core.run import TrainingBank, run_of
from modules.downstream.metrics.classes import ClassReport, class_names, report_single
from modules.downstream.metrics.probes import nearest, say_bank, vote
from modules.training.method import Method
from modules.training.optim import AdamWSettings

NO_LABELS = "NearestNeighbours needs labelled training and test samples; choose data with labels."


class _Samples(NamedTuple):
    """Samples of all processes."""

    feature: Tensor
    """float32 [n, D]"""
    label: Tensor
    """int64 [n]"""
    number: Tensor
    """int64 [n]"""
    missed: list[int]
    """indices of samples that could not be read"""


class NearestNeighbours(Method):
    """Evaluates a frozen backbone by the nearest training samples of each test sample; nothing is trained.

    The bank consists of all training samples, with evaluation clips. The feature of a test sample with several views
    is their mean. `test/knn<k>` is the accuracy of a vote weighted with exp(cosine / temperature) in percent, `test/R@<k>` the
    percentage of test samples with a sample of the same class among the nearest k.

    Args:
        backbone: encoder, with `checkpoint` set.
        k: neighbours of each kNN vote.
        recall: neighbours of each R@k.
        temperature: temperature of the vote; smaller values give near neighbours more weight.
        map_pool: for video CNNs: features are the last map after spatial max pooling by this factor, as one long vector (VCOP:
            2; 9216 numbers for clips of 16 x 112 x 112); null takes the pooled feature of the encoder.

    Raises:
        SettingError: if a value is not positive, or `map_pool` is set for an encoder without such a map.
    """

    def __init__(
        self,
        backbone: AnyEncoder,
        k: list[int] = [1],  # noqa: B006  (never mutated; shows the defaults in --help)
        recall: list[int] = [1, 5, 10, 20, 50],  # noqa: B006
        temperature: float = 0.07,
        map_pool: int | None = None,
    ) -> None:
        super().__init__(AdamWSettings())
        check_positive("model", **given(map_pool=map_pool))
        if map_pool is not None and not isinstance(backbone, VideoCNN):
            raise SettingError(
                f"model.map_pool is {map_pool}, but {type(backbone).__name__} is not a video CNN; set it to null."
            )
        if min([*k, *recall, 1]) < 1 or temperature <= 0 or not [*k, *recall]:
            raise SettingError(
                f"model.k is {k}, model.recall {recall} and model.temperature {temperature}; all values must be above 0."
            )
        self.backbone, self.k, self.recall, self.temperature = backbone.requires_grad_(False), k, recall, temperature
        self.map_pool = map_pool
        kind: Kind = backbone.kind
        self.stream, self.kinds = kind, (kind,)
        self.feature_stream: str | None = None
        """Stream of frozen features, if the data have them instead of clips."""
        self.test_record: dict[str, Any] = {}
        """Record of the last test: `videos` (used), `missed` (indices of unreadable ones), `bank` (training samples
        used), `classes`, `views`."""
        self.class_report: ClassReport | None = None
        """Per-class results of the vote with the first `k`; None without a vote."""
        self._seen: list[tuple[Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        """Refuse training, and samples that have no labels or are in the training set, before any sample is read.

        Raises:
            SettingError: for commands other than test and predict, for samples without labels (in predict, only those of the
                training set), or if a sample is in the training set.
        """
        data = run_of(self.trainer).datamodule
        self.feature_stream = feature_stream(data, self.stream)
        if self.feature_stream is not None and self.map_pool is not None:
            raise SettingError("Frozen features are pooled already; set model.map_pool to null, or use data with clips.")
        super().setup(stage)
        if stage not in ("test", "predict"):
            raise SettingError("NearestNeighbours has nothing to train; run python main.py test with the same settings.")
        if not isinstance(data, TrainingBank):
            raise SettingError(f"{type(data).__name__} does not give its training samples once each; choose another --data.")
        predicts = stage == "predict"
        if predicts:
            # Lightning has only set up the prediction samples.
            data.setup("fit")
        # Cached features are not read yet, but the clips that they come from already have labels.
        source = getattr(data, "data", data)
        manifests = (getattr(source, name, None) for name in ("train_manifest", *([] if predicts else ["test_manifest"])))
        if any(manifest is not None and not manifest.is_labelled for manifest in manifests):
            raise SettingError(NO_LABELS)
        if both := data.tested_in_training(stage):
            raise SettingError(
                f"{both} {'' if predicts else 'test '}sample(s) are in the training set too, where each would find itself; "
                "choose data with a separate test set."
            )

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """There is no loss.

        Raises:
            SettingError: always.
        """
        raise SettingError("NearestNeighbours has nothing to train; run python main.py test with the same settings.")

    def reads(self) -> dict[str, tuple[Kind, ...]]:
        """Clips, or their features; see `Method.reads`."""
        return super().reads() if self.feature_stream is None else {self.feature_stream: ("feature",)}

    def encode(self, batch: Batch) -> Tensor:
        """Features [B, V, D] of all clips.

        Raises:
            SettingError: if the batch does not contain the stream of the backbone, or its map is smaller than `map_pool`.
        """
        clips = self.inputs(batch)
        ready = self.normalise(clips.flatten(0, 1))
        if self.map_pool is None:
            return self.backbone(ready).unflatten(0, clips.shape[:2])
        maps = self.backbone.forward_features(ready)  # type: ignore[operator]
        height, width = maps.shape[3:]
        if min(height, width) < self.map_pool:
            raise SettingError(
                f"model.map_pool is {self.map_pool}, but the last map has {height} x {width} places; lower it, or raise "
                "data.clip.size."
            )
        return max_pool3d(maps, (1, self.map_pool, self.map_pool)).flatten(1).unflatten(0, clips.shape[:2])

    def known(self, batch: Batch) -> Tensor:
        """The frozen features in the data or, without them, the output of `encode`, in the same shape."""
        return self.encode(batch) if self.feature_stream is None else batch.stream(self.feature_stream, "feature").data

    @torch.no_grad()
    def embed(self, batch: Batch) -> Tensor:  # type: ignore[override]  # of the one encoder
        """Mean feature [B, D] of the clips of each sample."""
        return self.known(batch).float().mean(1)

    def on_test_start(self) -> None:
        """Compare the data's clips with the backbone's."""
        self.on_fit_start()
        self._seen, self.class_report = [], None

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the features of a batch of test samples."""
        self._keep(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Predicted:
        """Features of a batch of samples."""
        return Predicted(batch.index, batch.substituted >= 0, self.embed(batch))

    def answers(self, paths: list[str], value: Tensor) -> Answers:
        """Read the training set, and find the nearest training samples of each sample: the maximum of `k` and `recall`.

        The predicted class is that of the vote with the first `k`, or of the nearest sample. The table `neighbours` has a row
        for each pair.

        Args:
            paths: names of the samples.
            value: float [N, D], their features.
        """
        data = run_of(self.trainer).datamodule
        self._seen = []
        with self.trainer.precision_plugin.forward_context():
            for batch in data.train_once():
                self._keep(self.trainer.strategy.batch_to_device(batch))
        bank = self._gather()
        if not len(bank.feature):
            raise SettingError(NO_LABELS)
        similarity, rows = nearest(bank.feature, value.to(self.device), max(self.k or self.recall))
        first = self.k[0] if self.k else 1
        voted = vote(similarity[:, :first], bank.label[rows[:, :first]], self.temperature).tolist() if len(value) else []
        manifest, names = getattr(getattr(data, "data", data), "train_manifest", None), getattr(data, "class_names", None) or []
        known = [names[label] if label < len(names) else str(label) for label in range(int(bank.label.max()) + 1)]
        numbers, labels = bank.number[rows].tolist(), bank.label[rows].tolist()
        found = [[manifest.paths[one] if manifest is not None else str(one) for one in own] for own in numbers]
        cosines, width = similarity.tolist(), rows.shape[1]
        pairs: Columns = {
            "path": [path for path in paths for _ in range(width)],
            "rank": [*range(1, width + 1)] * len(paths),
            "neighbour": [one for own in found for one in own],
            "class": [known[label] for own in labels for label in own],
            "similarity": [one for own in cosines for one in own],
        }
        columns: Columns = {
            "class": [known[label] for label in voted],
            "neighbour": [own[0] for own in found],
            "similarity": [own[0] for own in cosines],
        }
        facts = {"class_names": known, "k": first, "bank": len(bank.feature)}
        return Answers(columns, facts, {"neighbours": pairs})

    def on_test_epoch_end(self) -> None:
        """Read the training set, compute the metrics and log them."""
        bank_batches = run_of(self.trainer).datamodule.train_once()
        queries, label, _, missed = self._gather()
        with self.trainer.precision_plugin.forward_context():
            for batch in bank_batches:
                self._keep(self.trainer.strategy.batch_to_device(batch))
        bank, bank_label, _, _ = self._gather()
        if not len(queries) or not len(bank):
            raise SettingError(NO_LABELS)
        if self.k:
            say_bank("NearestNeighbours", bank_label, max(self.k))
        found = neighbour_scores(bank, bank_label, queries, label, self.k, self.recall, self.temperature)
        self.log_dict({f"test/{name}": value for name, value in found.items()}, sync_dist=True)
        classes = int(torch.cat([bank_label, label]).max()) + 1
        self.test_record |= {"videos": len(queries), "missed": missed, "bank": len(bank), "classes": classes}
        if self.k:
            similarity, rows = nearest(bank, queries, self.k[0])
            names = class_names(getattr(run_of(self.trainer).datamodule, "class_names", None), classes)
            self.class_report = report_single(vote(similarity, bank_label[rows], self.temperature), label, names)

    def _keep(self, batch: Batch) -> None:
        label = batch.label
        if label.ndim != 1:
            raise SettingError("NearestNeighbours needs one label per sample, but the data have several; choose other data.")
        features = self.known(batch).float()
        self.test_record.setdefault("views", features.shape[1])
        self._seen.append((features.mean(1), torch.stack([batch.index, label, batch.substituted], 1)))

    def _gather(self) -> _Samples:
        """The kept samples of all processes, each once, without unlabelled or unreadable ones."""
        # A process without samples takes part as well; it takes the width of the others' features.
        none = (torch.empty(0, 0, device=self.device), torch.empty(0, 3, dtype=torch.long, device=self.device))
        features, facts = (torch.cat(parts) for parts in zip(*(self._seen or [none]), strict=True))
        self._seen = []
        features, facts = gather_once(self.trainer, features, facts, facts[:, 0])
        number, label, substituted = facts.unbind(1)
        used = (label >= 0) & (substituted < 0)
        return _Samples(features[used], label[used], number[used], number[substituted >= 0].tolist())


def neighbour_scores(
    bank: Tensor, bank_label: Tensor, queries: Tensor, label: Tensor, k: list[int], recall: list[int], temperature: float
) -> dict[str, float]:
    """kNN accuracies and recalls from one comparison.

    Args:
        bank: float [n, D].
        bank_label: int64 [n], from 0.
        queries: float [m, D].
        label: int64 [m], from 0.
        k: neighbours of each vote; at most n are used.
        recall: neighbours of each R@k; at most n are used.
        temperature: temperature of the vote.

    Returns:
        `knn<k>` and `R@<k>` in percent.
    """
    similarity, rows = nearest(bank, queries, max([*k, *recall]))
    classes = bank_label[rows]
    scores = {f"knn{number}": vote(similarity[:, :number], classes[:, :number], temperature) == label for number in k} | {
        f"R@{number}": (classes[:, :number] == label[:, None]).any(1) for number in recall
    }
    return {name: 100 * float(right.double().mean()) for name, right in scores.items()}

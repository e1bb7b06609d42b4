"""Iterating over a training set exactly once, in order; and the identity of its samples."""

import copy
import hashlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch.utils.data import Dataset

from datamodules.lists.manifest import shared_rows
from datamodules.loading.loader import EpochSampler, ResumableLoader, SampleKey
from datamodules.loading.mixing import MixedSamples
from datamodules.skeleton.clips import SkeletonDataset
from datamodules.streams.dataset import StreamDataset
from datamodules.video.dataset import VideoClipDataset
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError

PROBED = 16


class Loaders(Protocol):
    """The loaders that `SinglePass` takes its samples from."""

    def train_dataloader(self) -> ResumableLoader:
        """Training samples in random order."""

    def test_dataloader(self) -> ResumableLoader:
        """Test samples."""

    def predict_dataloader(self) -> "Batches":
        """Samples to predict."""


class Batches:
    """A loader that Lightning does not replace. For `predict`, it would replace a DataLoader by one that does not continue
    after a worker died.

    Args:
        loader: loader of the samples to predict.
    """

    def __init__(self, loader: ResumableLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)


class SinglePass:
    """Interface of data modules with a training and a test set, besides Lightning's loaders; see `TrainingBank`."""

    def predict_dataloader(self: Loaders) -> Batches:
        """The samples of `predict`: those of a test."""
        return Batches(self.test_dataloader())

    def train_once(self: Loaders) -> ResumableLoader:
        """Every training sample once, in order, with the clips of evaluation."""
        return once(self.train_dataloader())

    def tested_in_training(self: Loaders, stage: str = "test") -> int:
        """Number of test samples, or prediction samples, that are also training samples; 0 for generated samples."""
        loader = self.test_dataloader() if stage == "test" else self.predict_dataloader().loader
        theirs, ours = loader.dataset, self.train_dataloader().dataset
        if isinstance(theirs, VideoClipDataset) and isinstance(ours, VideoClipDataset):
            return int(shared_rows(ours.manifest, theirs.manifest).sum())
        return len(sample_names(ours) & sample_names(theirs))


def once(loader: ResumableLoader, epoch: int | None = None) -> ResumableLoader:
    """A loader of the same samples in order, each in one process only, including an incomplete last batch.

    Args:
        loader: training loader of a data module.
        epoch: epoch of the random clips; None takes the evaluation clips.

    Raises:
        SettingError: for mixed data sets.
    """
    dataset, sampler = copy.copy(loader.dataset), loader.batches.sampler
    if isinstance(dataset, MixedSamples):
        raise SettingError("The samples of MixedData change in every epoch and cannot be cached; use one of its sets alone.")
    if epoch is None and hasattr(dataset, "train"):
        dataset.train = False
    length = len(dataset)  # type: ignore[arg-type]
    ordered = EpochSampler(length, sampler.seed, False, sampler.rank, sampler.world_size)
    ordered.set_epoch(epoch or 0)
    return ResumableLoader(
        dataset,
        ordered,
        loader.batches.batch_size,
        loader.num_workers,
        loader.collate_fn,
        loader.on_batch,
        loader.guard,
        loader.prefetch_factor or 2,
    )


def sample_names(dataset: Dataset) -> set[str]:
    """Files, parts of files, or rows of a store of the samples; empty for generated samples."""
    if isinstance(dataset, VideoClipDataset):
        spans = dataset.manifest.spans
        parts = [""] * len(dataset) if spans is None else [f" {first} {last}" for first, last in spans.tolist()]
        return {f"{dataset.manifest.file(row)}{part}" for row, part in enumerate(parts)}
    if isinstance(dataset, SkeletonDataset):
        return {f"{id(dataset.recordings)} {row}" for row in dataset.rows.tolist()}
    return set()


def fingerprint(dataset: Dataset) -> str:
    """Hash of the clips of a data set: names, labels, and clip settings.

    Generated samples have no names; some of them are hashed instead.
    """
    if isinstance(dataset, VideoClipDataset):
        facts = f"{dataset.manifest.root} {dataset.manifest.sha256()} {dataset.views} {dataset.decoder}"
        if isinstance(dataset, StreamDataset):
            facts += f" {dataset.wanted.described}"
    elif isinstance(dataset, SkeletonDataset):
        facts = dataset.recordings.sha256(dataset.rows)
    else:
        length = len(dataset)  # type: ignore[arg-type]
        rows = torch.linspace(0, length - 1, min(PROBED, length)).long().tolist()
        batch: Batch = dataset.__getitems__([SampleKey(0, row) for row in rows])  # type: ignore[attr-defined]
        data = {name: stream.data for name, stream in batch.streams.items() if isinstance(stream, Stream)}
        digest = hashlib.sha256(str(length).encode())
        for name, value in (data | {"index": batch.index, "label": batch.label} | batch.extra).items():
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()
    # Clips for evaluation do not depend on the seed.
    chance = dataset.seed if dataset.train else None
    return hashlib.sha256(f"{type(dataset).__name__} {facts} {dataset.clip} {chance}".encode()).hexdigest()

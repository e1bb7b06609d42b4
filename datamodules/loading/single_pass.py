"""Every sample of a training set exactly once, in order; and which samples a data set has."""

import copy
import hashlib
from typing import Protocol

import torch
from torch.utils.data import Dataset

from datamodules.loading.loader import EpochSampler, ResumableLoader, SampleKey
from datamodules.skeleton.clips import SkeletonDataset
from datamodules.streams.dataset import StreamDataset
from datamodules.video.dataset import VideoClipDataset
from modules.core.batch import Batch, Stream

PROBED = 16


class Loaders(Protocol):
    """The loaders that `SinglePass` takes its samples from."""

    def train_dataloader(self) -> ResumableLoader:
        """Training samples in random order."""

    def test_dataloader(self) -> ResumableLoader:
        """Test samples."""


class SinglePass:
    """What data modules with a training and a test set offer besides Lightning's loaders; see `TrainingBank`."""

    def train_once(self: Loaders) -> ResumableLoader:
        """Every training sample once, in order, with the clips of evaluation."""
        return once(self.train_dataloader())

    def tested_in_training(self: Loaders) -> int:
        """Number of test samples that are training samples too; 0 where samples are generated."""
        theirs, ours = (sample_names(loader.dataset) for loader in (self.test_dataloader(), self.train_dataloader()))
        return len(ours & theirs)


def once(loader: ResumableLoader, epoch: int | None = None) -> ResumableLoader:
    """A loader of the same samples in order, each in one process only, the last batch however small.

    Args:
        loader: of a training set, as a data module gives it.
        epoch: whose random clips to take; None takes those of evaluation.
    """
    dataset, sampler = copy.copy(loader.dataset), loader.batches.sampler
    if epoch is None and isinstance(dataset, VideoClipDataset | SkeletonDataset):
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
    """Files, or rows of a store, that the samples come from; none where they are generated."""
    if isinstance(dataset, VideoClipDataset):
        return {str(dataset.manifest.file(row)) for row in range(len(dataset))}
    if isinstance(dataset, SkeletonDataset):
        return {f"{id(dataset.recordings)} {row}" for row in dataset.rows.tolist()}
    return set()


def fingerprint(dataset: Dataset) -> str:
    """Hash of which clips a data set gives: names, labels, and how they are cut out.

    Generated samples have no names; of these, some are looked at.
    """
    if isinstance(dataset, VideoClipDataset):
        facts = f"{dataset.manifest.root} {dataset.manifest.sha256()} {dataset.views} {dataset.decoder}"
        if isinstance(dataset, StreamDataset):
            facts += f" {[(name, type(one).__name__, vars(one)) for name, one in sorted(dataset.wanted.readers.items())]}"
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

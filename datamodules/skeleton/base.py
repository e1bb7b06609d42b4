"""Base class of all skeleton data modules. A data set defines its recordings and their split."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from lightning import LightningDataModule

from datamodules.lists.subsets import pick_per_class, spread
from datamodules.loading.loader import EpochSampler, LoaderMemory, ResumableLoader
from datamodules.loading.single_pass import SinglePass
from datamodules.settings import LoadSettings, RecordingSubset, choose_benchmark
from datamodules.skeleton.clips import SkeletonClipSettings, SkeletonDataset
from datamodules.skeleton.store import Recordings
from modules.core.batch import Batch, Kind
from modules.core.errors import MAX_SEED, SettingError, check_whole, given


class Split(NamedTuple):
    """A data set, and the rows of its recordings for training and validation."""

    recordings: Recordings
    train: np.ndarray
    """int64 [N], rows of the recordings"""
    val: np.ndarray
    """int64 [N], as above"""


def _whole(batch: Batch) -> Batch:
    return batch


class SkeletonDataModule(SinglePass, LightningDataModule, ABC):
    """Clips from recordings of skeletons (see `modules.core.batch.Stream`).

    Workers read and crop; everything else happens on the device.

    Args:
        clip: clips per recording, frames, and how training crops are drawn.
        batch_size: recordings per batch and device; a batch contains batch_size x clip.clips clips.
        reading: worker processes.
        subset: part of the training recordings to train on.
        probe_samples: number of training recordings for probes, with centre crops.
        seed: random seed of order and crops; null takes the run's seed.
    """

    num_classes: int
    streams: ClassVar[dict[str, Kind]] = {"skeleton": "skeleton"}
    """Streams of a batch."""

    def __init__(
        self,
        clip: SkeletonClipSettings,
        batch_size: int,
        reading: LoadSettings,
        subset: RecordingSubset,
        probe_samples: int,
        seed: int | None,
    ) -> None:
        super().__init__()
        check_whole("data", 1, batch_size=batch_size, probe_samples=probe_samples)
        check_whole("data", 0, MAX_SEED, **given(seed=seed))
        self.clip, self.batch_size, self.reading, self.subset = clip, batch_size, reading, subset
        self.probe_samples = probe_samples
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.split: Split | None = None
        self._train_loader = LoaderMemory()

    @abstractmethod
    def load(self) -> Split:
        """Open or generate the recordings, and split them."""

    @property
    def class_names(self) -> list[str] | None:
        """Class names in the order of labels, if known."""
        return None

    @property
    def manifest_hash(self) -> str | None:
        """Hash of the training recordings, for the record of a run."""
        return None if self.split is None else self.split.recordings.sha256(self.split.train)

    def check(self, stage: str) -> None:
        """Check settings and data before a network is built; `setup` does not open them again."""
        self.setup(stage)

    def setup(self, stage: str) -> None:
        """Open the recordings and check the settings.

        Raises:
            SettingError: for a missing or wrong data set, labels without a class, or a batch larger than the training set.
        """
        if self.split is None:
            found = self.load()
            labels = found.recordings.label[np.concatenate([found.train, found.val])]
            if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
                raise SettingError(
                    f"The recordings have labels from {labels.min()} to {labels.max()}, but {type(self).__name__} has "
                    f"{self.num_classes} classes, from 0; prepare the data again."
                )
            self.split = found._replace(train=self._some_of(found))
        world = self._rank()[1]
        if len(self.split.train) // world < self.batch_size:
            raise SettingError(
                f"data.batch_size {self.batch_size} on {world} device(s) is more than the {len(self.split.train)} training "
                "recordings; lower it."
            )
        if 0 < len(self.split.val) < world:
            raise SettingError(
                f"{len(self.split.val)} validation recording(s) cannot be distributed over {world} processes, which need one "
                "each; lower trainer.devices."
            )

    def _some_of(self, found: Split) -> np.ndarray:
        fraction, seed = self.subset.fraction, self.subset.seed
        if fraction == 1:
            return found.train
        if self.subset.per_class:
            labels = found.recordings.label[found.train]
            picked = pick_per_class(labels, lambda count: int(np.ceil(count * fraction)), seed)
        else:
            picked = np.random.default_rng(seed).permutation(len(found.train))[: int(len(found.train) * fraction)]
        return found.train[np.sort(picked)]

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _loader(self, rows: np.ndarray, train: bool) -> ResumableLoader:
        assert self.split is not None
        dataset = SkeletonDataset(self.split.recordings, rows, self.clip, self.seed, train)
        sampler = EpochSampler(len(rows), self.seed, train, *self._rank())
        workers, ahead = self.reading.num_workers, self.reading.prefetch_factor
        return ResumableLoader(dataset, sampler, self.batch_size, workers, _whole, prefetch_factor=ahead)

    def train_dataloader(self) -> ResumableLoader:
        """Random crops in random order; the last, incomplete batch is dropped."""
        assert self.split is not None
        return self._train_loader.keep(self._loader(self.split.train, train=True), self.manifest_hash)

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """The middle of the validation recordings in order; empty if there are none."""
        assert self.split is not None
        return self._loader(self.split.val, train=False) if len(self.split.val) else []

    def test_dataloader(self) -> ResumableLoader:
        """The middle of the validation recordings, which are the published test set, in order.

        Raises:
            SettingError: if there are none.
        """
        assert self.split is not None
        if not len(self.split.val):
            raise SettingError("The data has no recordings to test on; choose other data.")
        return self._loader(self.split.val, train=False)

    def probe_dataloader(self) -> ResumableLoader:
        """The middle of evenly spaced training recordings, for probes."""
        assert self.split is not None
        rows = self.split.train
        return self._loader(rows[spread(len(rows), self.probe_samples)], train=False)

    def state_dict(self) -> dict[str, Any]:
        """Position of training within the epoch."""
        return {"loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position within the epoch."""
        self._train_loader.load_state_dict(state["loader"])


class PreparedSkeletons(SkeletonDataModule):
    """Recordings from a folder written by `python main.py prepare`.

    Args:
        root: folder that the command wrote.
        benchmark: official split; null takes the first of the data set.
        clip: clips per recording, frames, and how training crops are drawn.
        batch_size: recordings per batch and device; a batch contains batch_size x clip.clips clips.
        reading: worker processes.
        subset: part of the training recordings to train on.
        probe_samples: number of training recordings for probes, with centre crops; null takes 4,096, or 6,144 of
            NTU RGB+D 120.
        seed: random seed of order and crops; null takes the run's seed.
    """

    benchmarks: ClassVar[tuple[str, ...]]
    """Values of `benchmark`, the default first."""
    probes: ClassVar[int] = 4096
    """Default of `probe_samples`."""

    def __init__(
        self,
        root: str,
        benchmark: str | None = None,
        clip: SkeletonClipSettings = SkeletonClipSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 64,
        reading: LoadSettings = LoadSettings(),  # noqa: B008
        subset: RecordingSubset = RecordingSubset(),  # noqa: B008
        probe_samples: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(clip, batch_size, reading, subset, self.probes if probe_samples is None else probe_samples, seed)
        self.root, self.benchmark = Path(root), choose_benchmark(type(self), self.benchmarks, benchmark)

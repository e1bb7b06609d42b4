"""Training on several data sets."""

import hashlib
import os
from functools import partial
from typing import Any, Literal

import numpy as np
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from datamodules.cached_features import CachedFeatures
from datamodules.loading.loader import EpochSampler, LoaderMemory, PreparedBatches, ResumableLoader
from datamodules.loading.mixing import Common, JoinedGuard, MixedSamples, MixedSet, SampleWeights
from datamodules.loading.single_pass import SinglePass
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.settings import LoadSettings
from datamodules.video.dataset import VideoClipDataset
from modules.core.batch import Batch, Kind, Preparation
from modules.core.errors import MAX_SEED, SettingError, check_positive, check_whole, given
from modules.core.run import run_of


def _whole(batch: Batch) -> Batch:
    return batch


class MixedData(LightningDataModule):
    """Trains on several data sets, mixed in every batch.

    Sets are sampled in proportion to the weights; over an epoch the proportions are exact. Every set has its own
    random order, which continues over epochs: no row is repeated before all rows of the set have been used. (Samples left out
    at the end of an epoch, where the last batch would be incomplete, are used again in the next round.) The
    set and row at a position of an epoch are a function of (seed, epoch, position), so that a run can resume at
    any sample, also with a different number of workers or processes or another batch size. Sets with `sample_weights` are
    sampled with these weights. Broken files are replaced by other files of the same set; each set has its own `bad_videos.tsv`,
    in a sub-folder of the run that is named after it.

    The sets must have the same streams with the same shapes. `extra` of a batch contains `source` (index of the set) and `row`.

    Validation, tests, probes and nearest neighbours only use the first set, whose classes come first in the list.

    Args:
        sets: data modules. Their own seeds and workers are used for validation, tests and probes; their batch sizes are not
            used.
        weights: relative number of samples from each set; null takes the sizes of the sets.
        epoch_samples: samples in an epoch, over all processes; null takes the total size of the sets, which without
            weights is every sample once.
        labels: `joint` concatenates the class lists of all sets, so that classes of the same name in two sets stay
            separate; `none` sets the label of training samples to -1, and keeps the labels of the first set for
            validation and probes.
        batch_size: samples per batch and device, also for validation of the first set; null takes the batch size of that set.
        reading: worker processes for training.
        seed: random seed of the order; null takes the run's seed.

    Raises:
        SettingError: if a value is out of range, or the sets are incompatible.
    """

    preparation: Preparation | None = None
    """The method's preparation of training and validation batches, run as soon as they are read."""

    def __init__(
        self,
        sets: list[LightningDataModule],
        weights: list[float] | None = None,
        epoch_samples: int | None = None,
        labels: Literal["joint", "none"] = "joint",
        batch_size: int | None = None,
        reading: LoadSettings = LoadSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_whole("data", 1, **given(epoch_samples=epoch_samples, batch_size=batch_size))
        check_whole("data", 0, MAX_SEED, **given(seed=seed))
        if not sets:
            raise SettingError("data.sets is empty; name at least one data set.")
        if weights is not None and len(weights) != len(sets):
            raise SettingError(f"data.weights has {len(weights)} values for the {len(sets)} sets of data.sets; pass one each.")
        for weight in weights or ():
            check_positive("data", weights=weight)
        for one in sets:
            if isinstance(one, CachedFeatures | MixedData):
                raise SettingError(
                    f"data.sets has {type(one).__name__}, which cannot be mixed; use individual samples instead."
                )
        self.sets, self.weights, self.epoch_samples, self.labels = sets, weights, epoch_samples, labels
        self.batch_size = batch_size if batch_size is not None else getattr(sets[0], "batch_size", 1)
        self.reading = reading
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.names = [f"{number}_{type(one).__name__}" for number, one in enumerate(sets)]
        self._train_loader = LoaderMemory()
        self._common: Common | None = None

    # --- Interface for methods and callbacks ---

    @property
    def streams(self) -> dict[str, Kind]:
        """Streams of a batch, once the sets are set up."""
        return getattr(self.sets[0], "streams", {})

    @property
    def clip(self) -> Any:
        """Settings of the clips, the same in all sets."""
        return getattr(self.sets[0], "clip", None)

    @property
    def num_classes(self) -> int | None:
        """Classes of all sets with labels; None if no set has any."""
        return sum(self._classes()) or None

    @property
    def class_names(self) -> list[str] | None:
        """Names by label, prefixed with the name of their set if there are several; None if some are unknown."""
        names = []
        for own, one, count in zip(self.names, self.sets, self._classes(), strict=True):
            listed = getattr(one, "class_names", None) or []
            if len(listed) != count:
                return None
            names += [f"{own}/{name}" if self.labels == "joint" and len(self.sets) > 1 else name for name in listed]
            if self.labels == "none":
                break
        return names or None

    @property
    def flips_change_labels(self) -> bool:
        """Whether left and right matter in any of the sets."""
        return any(getattr(one, "flips_change_labels", False) for one in self.sets)

    @property
    def test_manifest(self) -> Any:
        """List of the test samples, if there is one."""
        return getattr(self.sets[0], "test_manifest", None)

    @property
    def predict_manifest(self) -> Any:
        """List of the samples of `predict`, if there is one."""
        return getattr(self.sets[0], "predict_manifest", None)

    @property
    def manifest_hash(self) -> str:
        """Hash of the training lists and of how they are mixed, for the record of a run."""
        hashes = [getattr(one, "manifest_hash", None) for one in self.sets]
        return hashlib.sha256(f"{hashes} {self.weights} {self.epoch_samples}".encode()).hexdigest()

    def _classes(self) -> list[int]:
        """Number of classes of each set that is used for labels."""
        counting = self.sets if self.labels == "joint" else self.sets[:1]
        counts = [getattr(one, "num_classes", None) or 0 for one in counting]
        return counts + [0] * (len(self.sets) - len(counting))

    # --- Lightning ---

    def prepare_data(self) -> None:
        """Delegates to the sets."""
        for one in self.sets:
            one.prepare_data()

    def check(self, stage: str) -> None:
        """Check settings, folders and lists before a network is built."""
        self.setup(stage)

    def setup(self, stage: str) -> None:
        """Set all sets up, and read one sample of each to check that they are compatible.

        Raises:
            SettingError: if they are not, or if an epoch has no sample of a set or no batch.
        """
        for number, (name, one) in enumerate(zip(self.names, self.sets, strict=True)):
            one.trainer = self.trainer
            if hasattr(one, "report_folder"):
                one.report_folder = name
            # Batches are mixed, so a set may be smaller than a batch.
            one.batch_size = 1  # type: ignore[attr-defined]
            # Only the first set is tested.
            one.setup(stage if number == 0 else "fit")
            one.batch_size = self.batch_size  # type: ignore[attr-defined]
        if stage != "fit":
            return
        if self.trainer is not None and run_of(self.trainer).overfit_batches:
            raise SettingError(
                "trainer.overfit_batches is set, but every epoch of MixedData mixes other samples; train on one of data.sets "
                "alone."
            )
        mixed, _ = self._mixed()
        world = self._rank()[1]
        if len(mixed) // world < self.batch_size:
            raise SettingError(
                f"data.batch_size {self.batch_size} on {world} device(s) is more than the {len(mixed)} samples of an epoch; "
                "lower it, or raise data.epoch_samples."
            )
        if self._common is None:
            self._common = mixed.common
            told = ", ".join(f"{one.share} of {len(one)} from {one.name}" for one in mixed.sets)
            rank_zero_info(f"MixedData: {len(mixed)} training samples in an epoch: {told}.")

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _mixed(self) -> tuple[MixedSamples, list[ResumableLoader]]:
        """The training samples, and the loaders of the sets."""
        loaders = [one.train_dataloader() for one in self.sets]
        for name, loader in zip(self.names, loaders, strict=True):
            if not isinstance(loader, ResumableLoader):
                raise SettingError(f"{name} of data.sets has training samples without random access; leave it out.")
        sources = [_source(loader, self.reading.num_workers) for loader in loaders]
        shares = share_out([len(dataset) for dataset, _ in sources], self.weights, self.epoch_samples)
        classes = self._classes()
        mixed = []
        for number, ((dataset, collate), share) in enumerate(zip(sources, shares, strict=True)):
            weights = _weights_of(self.sets[number], self.names[number], len(dataset))
            first = sum(classes[:number]) if self.labels == "joint" else None
            mixed.append(MixedSet(self.names[number], dataset, collate, share, weights, first))
        return MixedSamples(mixed, self.seed, self._common), loaders

    def train_dataloader(self) -> ResumableLoader:
        """Mixed batches in random order; the last, incomplete batch is dropped."""
        mixed, loaders = self._mixed()
        guards = [one.dataset.guard for one in mixed.sets if isinstance(one.dataset, VideoClipDataset)]
        sampler = EpochSampler(len(mixed), self.seed, True, *self._rank())
        note = partial(_note, mixed, [loader.on_batch for loader in loaders])
        workers, ahead = self.reading.num_workers, self.reading.prefetch_factor
        loader = ResumableLoader(
            mixed, sampler, self.batch_size, workers, _whole, note, JoinedGuard(guards), ahead, self.preparation
        )
        return self._train_loader.keep(loader, mixed.sha256(self.manifest_hash))

    def _first(self) -> Any:
        """The set that is used for validation, tests and probes."""
        first = self.sets[0]
        if hasattr(first, "preparation"):
            first.preparation = self.preparation
        return first

    def val_dataloader(self) -> Any:
        """Delegates to the first set."""
        return self._first().val_dataloader()

    def test_dataloader(self) -> Any:
        """Delegates to the first set."""
        return self._first().test_dataloader()

    def predict_dataloader(self) -> Any:
        """Delegates to the first set."""
        return self._first().predict_dataloader()

    def probe_dataloader(self) -> Any:
        """Delegates to the first set."""
        return self._first().probe_dataloader()

    def train_once(self) -> Any:
        """Training samples of the first set, see `SinglePass`."""
        return self._bank().train_once()

    def tested_in_training(self, stage: str = "test") -> int:
        """Number of test (or prediction) samples of the first set that are also training samples."""
        return self._bank().tested_in_training(stage)

    def _bank(self) -> Any:
        first = self.sets[0]
        if not isinstance(first, SinglePass):
            raise SettingError(f"{self.names[0]} of data.sets cannot return every training sample once; put another set first.")
        return first

    def state_dict(self) -> dict[str, Any]:
        """Position of training within the epoch."""
        return {"loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position within the epoch."""
        self._train_loader.load_state_dict(state["loader"])


def share_out(sizes: list[int], weights: list[float] | None, total: int | None) -> list[int]:
    """Number of samples of each set in an epoch; they add up to `total`.

    Args:
        sizes: number of samples of each set.
        weights: relative weights; None for the sizes.
        total: samples in an epoch; None for the total size.

    Raises:
        SettingError: if a set would have no sample.
    """
    total = sum(sizes) if total is None else total
    ends = np.cumsum(np.array(sizes if weights is None else weights, np.float64))
    # The cumulative shares are rounded, so that they add up.
    shares = np.diff(np.round(ends / ends[-1] * total), prepend=0).astype(np.int64).tolist()
    if 0 in shares:
        raise SettingError(
            f"An epoch of {total} samples has none of set {shares.index(0)} of data.sets; raise its share in data.weights, or "
            "data.epoch_samples."
        )
    return shares


def _source(loader: ResumableLoader, workers: int) -> tuple[Any, Any]:
    """Dataset and collate function of a loader, with a guard for the given number of workers."""
    dataset, collate = loader.dataset, loader.collate_fn
    if isinstance(dataset, PreparedBatches):
        # Mixed batches are prepared after they are joined.
        collate, dataset = dataset.collate, dataset.dataset
    if isinstance(dataset, VideoClipDataset):
        dataset.guard = WorkerGuard(workers, dataset.guard.limit, dataset.guard.condemned)
    return dataset, collate


def _weights_of(one: LightningDataModule, name: str, length: int) -> np.ndarray | None:
    """The validated sampling weights of a set."""
    weights = one.sample_weights if isinstance(one, SampleWeights) else None
    if weights is None:
        return None
    weights = np.asarray(weights, np.float64)
    if weights.shape != (length,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise SettingError(
            f"{name} of data.sets has weights for {len(weights)} of {length} training samples, or some that are negative or "
            "not finite; correct its sample_weights."
        )
    return weights


def _note(mixed: MixedSamples, notes: list[Any], batch: Batch) -> None:
    """Let each set record its own samples and broken files."""
    for number, note in enumerate(notes):
        if note is not None:
            note(mixed.own_part(batch, number))

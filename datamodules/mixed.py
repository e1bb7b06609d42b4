"""Several data sets in one training."""

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
    """Several data sets in one training, mixed in every batch.

    Which set gives a sample is drawn in proportion to the weights; over an epoch the shares are exact. Every set is walked
    through in a random order of its own, over the epochs: no row comes twice before all of the set had their turn. (What an
    epoch leaves out at its end, where the last batch would be incomplete, has its turn again in the next round.) Which set and
    row a place in an epoch takes is a function of (seed, epoch, place), so that a run goes on at any sample, also with other
    workers, another batch size or another number of processes. Sets with `sample_weights`, which say how often each row is to
    be drawn, are walked through in these proportions. Broken files are replaced by others of their set; each set has its own
    `bad_videos.tsv`, in a folder of the run's that is named after it.

    The sets must give the same streams with the same shapes. `extra` of a batch has `source`, the number of the set, and `row`.

    Validation, tests, probes and nearest neighbours are those of the first set alone, whose classes come first in the list.

    Args:
        sets: data modules. What they set of order and workers concerns validation, tests and probes; their batch sizes are not
            used.
        weights: share of the samples that each set gives, in proportion; null takes the sizes of the sets.
        epoch_samples: samples in an epoch, over all processes; null takes as many as the sets have together, which without
            weights is every sample once.
        labels: `joint` makes one list of all classes, those of each set behind those of the sets before it, so that classes of
            the same name in two sets are two; `none` gives training samples the label -1, and leaves those of the first set
            for validation and probes.
        batch_size: samples per batch and device, of the first set in validation too; null takes what that set has.
        reading: worker processes for training.
        seed: the order is a function of it; null takes the run's seed.

    Raises:
        SettingError: if a number is out of its range, or the sets do not fit together.
    """

    preparation: Preparation | None = None
    """What the method does with batches of training and validation as soon as they are read."""

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
            raise SettingError(f"data.weights has {len(weights)} numbers for the {len(sets)} sets of data.sets; give one each.")
        for weight in weights or ():
            check_positive("data", weights=weight)
        for one in sets:
            if isinstance(one, CachedFeatures | MixedData):
                raise SettingError(f"data.sets has {type(one).__name__}, which cannot be mixed; take data of samples instead.")
        self.sets, self.weights, self.epoch_samples, self.labels = sets, weights, epoch_samples, labels
        self.batch_size = batch_size if batch_size is not None else getattr(sets[0], "batch_size", 1)
        self.reading = reading
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.names = [f"{number}_{type(one).__name__}" for number, one in enumerate(sets)]
        self._train_loader = LoaderMemory()
        self._common: Common | None = None

    # --- What methods and callbacks ask of a data module ---

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
        """Classes of all sets with labels; None where no set has any."""
        return sum(self._classes()) or None

    @property
    def class_names(self) -> list[str] | None:
        """Names by label, with the name of their set before them where there are several; None where not all are known."""
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
        """Whether left and right mean something in any of the sets."""
        return any(getattr(one, "flips_change_labels", False) for one in self.sets)

    @property
    def test_manifest(self) -> Any:
        """List of the test samples, where there is one."""
        return getattr(self.sets[0], "test_manifest", None)

    @property
    def predict_manifest(self) -> Any:
        """List of the samples that `predict` takes, where there is one."""
        return getattr(self.sets[0], "predict_manifest", None)

    @property
    def manifest_hash(self) -> str:
        """Hash of the training lists and of how they are mixed, for the record of a run."""
        hashes = [getattr(one, "manifest_hash", None) for one in self.sets]
        return hashlib.sha256(f"{hashes} {self.weights} {self.epoch_samples}".encode()).hexdigest()

    def _classes(self) -> list[int]:
        """Of each set that counts for labels."""
        counting = self.sets if self.labels == "joint" else self.sets[:1]
        counts = [getattr(one, "num_classes", None) or 0 for one in counting]
        return counts + [0] * (len(self.sets) - len(counting))

    # --- Lightning ---

    def prepare_data(self) -> None:
        """Those of the sets."""
        for one in self.sets:
            one.prepare_data()

    def check(self, stage: str) -> None:
        """Find out what is wrong with settings, folders and lists before a network is built."""
        self.setup(stage)

    def setup(self, stage: str) -> None:
        """Set all sets up, and read one sample of each to see that they fit together.

        Raises:
            SettingError: if they do not, or if an epoch holds no sample of a set or no batch.
        """
        for number, (name, one) in enumerate(zip(self.names, self.sets, strict=True)):
            one.trainer = self.trainer
            if hasattr(one, "report_folder"):
                one.report_folder = name
            # Batches are the mix's: a set may be smaller than one.
            one.batch_size = 1  # type: ignore[attr-defined]
            # Only the first one's tests are asked for.
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
        """The samples of training, and the loaders of the sets that they are from."""
        loaders = [one.train_dataloader() for one in self.sets]
        for name, loader in zip(self.names, loaders, strict=True):
            if not isinstance(loader, ResumableLoader):
                raise SettingError(f"{name} of data.sets has training samples that cannot be read in any order; leave it out.")
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
        """Mixed batches in random order; the last, incomplete one is dropped."""
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
        """The set of validation, tests and probes."""
        first = self.sets[0]
        if hasattr(first, "preparation"):
            first.preparation = self.preparation
        return first

    def val_dataloader(self) -> Any:
        """That of the first set."""
        return self._first().val_dataloader()

    def test_dataloader(self) -> Any:
        """That of the first set."""
        return self._first().test_dataloader()

    def predict_dataloader(self) -> Any:
        """That of the first set."""
        return self._first().predict_dataloader()

    def probe_dataloader(self) -> Any:
        """That of the first set."""
        return self._first().probe_dataloader()

    def train_once(self) -> Any:
        """Training samples of the first set, see `SinglePass`."""
        return self._bank().train_once()

    def tested_in_training(self, stage: str = "test") -> int:
        """Test samples of the first set, or those to predict, that are among its training samples."""
        return self._bank().tested_in_training(stage)

    def _bank(self) -> Any:
        first = self.sets[0]
        if not isinstance(first, SinglePass):
            raise SettingError(f"{self.names[0]} of data.sets does not give its training samples once each; put another first.")
        return first

    def state_dict(self) -> dict[str, Any]:
        """Where in the epoch the training is."""
        return {"loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore where in the epoch the training was."""
        self._train_loader.load_state_dict(state["loader"])


def share_out(sizes: list[int], weights: list[float] | None, total: int | None) -> list[int]:
    """Samples of each set in an epoch, which add up to `total`.

    Args:
        sizes: samples that each set has.
        weights: in proportion; None for the sizes.
        total: samples in an epoch; None for as many as there are.

    Raises:
        SettingError: if a set would have none.
    """
    total = sum(sizes) if total is None else total
    ends = np.cumsum(np.array(sizes if weights is None else weights, np.float64))
    # The ends of the shares are rounded, so that they add up.
    shares = np.diff(np.round(ends / ends[-1] * total), prepend=0).astype(np.int64).tolist()
    if 0 in shares:
        raise SettingError(
            f"An epoch of {total} samples has none of set {shares.index(0)} of data.sets; raise its share in data.weights, or "
            "data.epoch_samples."
        )
    return shares


def _source(loader: ResumableLoader, workers: int) -> tuple[Any, Any]:
    """The data set behind a loader and what collates its samples, guarded in so many workers."""
    dataset, collate = loader.dataset, loader.collate_fn
    if isinstance(dataset, PreparedBatches):
        # Mixed batches are prepared as a whole.
        collate, dataset = dataset.collate, dataset.dataset
    if isinstance(dataset, VideoClipDataset):
        dataset.guard = WorkerGuard(workers, dataset.guard.limit, dataset.guard.condemned)
    return dataset, collate


def _weights_of(one: LightningDataModule, name: str, length: int) -> np.ndarray | None:
    """What a set says of how often its rows are to be drawn, checked."""
    weights = one.sample_weights if isinstance(one, SampleWeights) else None
    if weights is None:
        return None
    weights = np.asarray(weights, np.float64)
    if weights.shape != (length,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise SettingError(
            f"{name} of data.sets has weights for {len(weights)} of {length} training samples, or some that are no numbers "
            "from 0; correct its sample_weights."
        )
    return weights


def _note(mixed: MixedSamples, notes: list[Any], batch: Batch) -> None:
    """Have each set take note of its own samples and broken files."""
    for number, note in enumerate(notes):
        if note is not None:
            note(mixed.own_part(batch, number))

"""Base class of all video data modules. Data sets differ only in the location of their files and labels."""

import os
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.lists.files import read_list
from datamodules.lists.folders import shorten
from datamodules.lists.manifest import UNLABELLED, Manifest, check_root, is_file, shared_rows
from datamodules.lists.official import find_file
from datamodules.lists.packed import PackedStrings
from datamodules.lists.subsets import PROBE_SAMPLES, pick_for_probes, spread
from datamodules.loading.faults import PREDICTED, FaultLog
from datamodules.loading.loader import EpochSampler, LoaderMemory, ResumableLoader
from datamodules.loading.single_pass import Batches, SinglePass
from datamodules.loading.worker_guard import GRACE, WorkerGuard
from datamodules.settings import ListSettings, ReadSettings, SubsetSettings, choose_benchmark
from datamodules.streams.dataset import StreamDataset, Wanted, learn_stream
from datamodules.streams.reader import StreamReader
from datamodules.streams.readers import make_reader
from datamodules.streams.settings import StreamSettings
from datamodules.streams.stored import FLOW_FACTS
from datamodules.video.dataset import VideoClipDataset, collate
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.batch import Batch, Kind, Preparation
from modules.core.errors import MAX_SEED, SettingError, check_whole, given
from modules.core.files import read_json
from modules.core.run import run_of


class VideoDataModule(SinglePass, LightningDataModule, ABC):
    """Clips from video files.

    Workers decode, crop and resize; batches contain uint8 (see `modules.core.batch`) and everything else
    happens on the device. Broken files are replaced, counted and listed in `bad_videos.tsv` in the run's folder, including
    those that crash or block a worker.

    Args:
        root: folder of the videos; relative paths in lists are relative to it.
        lists: lists of videos; the default is the data set's usual files in `root`.
        clip: frames, stride, size, crop and number of clips.
        batch_size: videos per batch and device; a batch contains batch_size x clip.clips x clip.repeat clips.
        reading: worker processes, decoder, and tolerance for broken files.
        subset: part of the training videos to train on.
        views: clips and crops of each test video. A batch has as many clips as in training, and therefore fewer videos.
        benchmark: which of the data set's official splits, subsets or label types to use, if it has several; null uses the
            first in its description.
        probe_samples: number of labelled training videos for online probes, with centre crops, evenly spaced over the list;
            null takes at least 50 per class if available, and at most 20,000 (see `pick_for_probes`).
        seed: random seed of order, frames and crops; null takes the run's seed.
        streams: streams in a batch, in addition to the video or instead of it.

    Raises:
        SettingError: if a value is out of range, or the data set has no such benchmark, list or stream.
    """

    benchmarks: ClassVar[tuple[str, ...]] = ()
    """Values of `benchmark`, the default first; empty if the data set has no choice."""
    flips_change_labels: ClassVar[bool] = False
    """Whether classes or captions depend on left and right, so that a mirrored clip may have another label."""
    lists_taken: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    """Splits that `lists` may provide a list for."""
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    """Official splits; other splits are only read if `lists` contains a list for them."""
    needed: ClassVar[tuple[str, ...]] = ("train",)
    """Splits whose official lists are required."""
    places: ClassVar[tuple[str, ...]] = ("", "annotations", "labels")
    """Sub-folders that may contain the official lists; '' is the folder itself."""
    offers: ClassVar[dict[str, Kind]] = {"video": "video", "audio": "audio", "flow": "flow"}
    """Streams that `streams.names` may contain, by name. The stream of the listed files comes first. Videos also have audio,
    and the flow written by `prepare flow`."""
    gives: ClassVar[tuple[str, ...]] = ("video",)
    """Streams of a batch if `streams.names` is not set."""
    preparation: Preparation | None = None
    """The method's preparation of training and validation batches, run as soon as they are read."""
    report_folder: str = ""
    """Sub-folder of the run's folder for `bad_videos.tsv`; with several data sets, each has its own."""

    def __init__(
        self,
        root: str,
        lists: ListSettings = ListSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        batch_size: int = 16,
        reading: ReadSettings = ReadSettings(),  # noqa: B008
        subset: SubsetSettings = SubsetSettings(),  # noqa: B008
        views: ViewSettings = ViewSettings(),  # noqa: B008
        benchmark: str | None = None,
        probe_samples: int | None = None,
        seed: int | None = None,
        streams: StreamSettings = StreamSettings(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.stream_settings = streams
        self.benchmark = choose_benchmark(type(self), self.benchmarks, benchmark)
        check_whole("data", 1, batch_size=batch_size, **given(probe_samples=probe_samples))
        check_whole("data", 0, MAX_SEED, **given(seed=seed))
        unknown = [name for name in streams.names or () if name not in self.offers]
        if unknown or streams.names == []:
            raise SettingError(
                f"data.streams.names is {streams.names}; {type(self).__name__} has {', '.join(self.offers)}; name at least one "
                "of them, and no others."
            )
        if subset.validation and lists.val is not None:
            raise SettingError(
                f"data.lists.val is {lists.val} and data.subset.validation {subset.validation:g}; validate either on a list, "
                "or on a share of the training videos."
            )
        for split in ("train", "val", "test"):
            if lists.of(split) is not None and split not in self.lists_taken:
                raise SettingError(f"data.lists.{split} is set, which {type(self).__name__} does not use; leave it out.")
        self.root, self.lists, self.list_folder = Path(root), lists, Path(lists.folder or root)
        self.clip, self.views, self.batch_size = clip, views, batch_size
        self.reading, self.subset = reading, subset
        self.probe_samples = probe_samples
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.train_manifest: Manifest | None = None
        self.val_manifest: Manifest | None = None
        self.test_manifest: Manifest | None = None
        self._own_val: Manifest | None = None
        """The data set's own validation videos, also if a part of the training videos is used for validation instead."""
        self.predict_manifest: Manifest | None = None
        self.faults: FaultLog | None = None
        self._reported_to: Trainer | None = None
        self._train_loader = LoaderMemory()

    @abstractmethod
    def read_official(self, split: str) -> Manifest | None:
        """Manifest of one of `splits` from the data set's own files; None if they are missing."""

    def read_listed(self, path: Path, split: str) -> Manifest:
        """Manifest from an existing list: rows 'path label', unless lists of the data set have a different format."""
        return read_list(path, self.root)

    def read_split(self, split: str) -> Manifest | None:
        """Manifest of 'train', 'val' or 'test'; None if the data set has no such split."""
        named = self.lists.of(split)
        if named is not None:
            return self._with_flow(self.read_listed(named, split))
        found = self.read_official(split) if split in self.splits else None
        return self._with_flow(found) if found is not None else None

    def _with_flow(self, manifest: Manifest) -> Manifest:
        """Add the files written by `prepare flow`, if flow is requested and the list has no flow column."""
        if self.wanted.get("flow") != "flow" or "flow" in manifest.further or next(iter(self.offers)) == "flow":
            return manifest
        folder = self.stream_settings.flow.folder
        if folder is None or not Path(folder).is_dir():
            raise SettingError(
                f"data.streams.names has flow, and data.streams.flow.folder is {folder or 'null'}; set it to the folder that "
                f"python main.py prepare flow --root {self.root} wrote."
            )
        stored = read_json(Path(folder, FLOW_FACTS)).get("bound")
        if stored not in (None, bound := self.stream_settings.flow.bound):
            raise SettingError(
                f"data.streams.flow.bound is {bound:g}, but the flow in {folder} was stored with {stored:g}; set it."
            )
        # The root of a split may be a sub-folder, and two splits may contain different files of the same name.
        below = os.path.relpath(manifest.root, self.root)
        inside = (
            os.path.relpath(path, self.root) if path.startswith("/") else os.path.normpath(f"{below}/{path}")
            for path in manifest.paths
        )
        # Folder names have no suffix, but may contain dots.
        stems = inside if manifest.fps is not None else (os.path.splitext(path)[0] for path in inside)  # noqa: PTH122
        flow = PackedStrings(f"{Path(folder).absolute()}/{stem}" for stem in stems)
        return replace(manifest, further=manifest.further | {"flow": flow})

    def find_list(self, *names: str) -> Path | None:
        """The first of these official files that exists in one of `places`."""
        return find_file(self.list_folder, self.places, names)

    def read_first(self, split: str, *names: str) -> Manifest | None:
        """Manifest from the first official list that exists.

        Args:
            split: 'train', 'val' or 'test'.
            names: possible names of its list, in order of preference.

        Raises:
            SettingError: if a list is `needed` and missing.
        """
        found = self.find_list(*names)
        if found is None and split in self.needed:
            raise self.lacks(names[0], f"data.lists.{split}")
        return self.read_listed(found, split) if found is not None else None

    def lacks(self, name: str, setting: str | None = None) -> SettingError:
        """The error for a missing official file.

        Args:
            name: name of the file.
            setting: setting that can be set to the file itself.
        """
        instead = f"{setting} to it, or data.lists.folder" if setting is not None else "data.lists.folder"
        return SettingError(f"{self.list_folder} contains no {name}; set {instead} to the folder of the official files.")

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the training videos; None without labels."""
        if self.train_manifest is None or not self.train_manifest.is_labelled:
            return None
        return self.train_manifest.num_classes

    @property
    def wanted(self) -> dict[str, Kind]:
        """Kind of each stream that is read from files, by name."""
        names = self.stream_settings.names
        return {name: self.offers[name] for name in (self.gives if names is None else names)}

    @property
    def streams(self) -> dict[str, Kind]:
        """Streams of a batch; available once the lists are read."""
        manifest = self.train_manifest or self.test_manifest or self.predict_manifest
        has_texts = manifest is not None and manifest.texts is not None
        return self.wanted | ({"text": "text"} if has_texts else {})

    def reader_of(self, name: str) -> StreamReader:
        """The reader of a stream other than the video; data sets with special files override this."""
        return make_reader(self.offers[name], self.stream_settings)

    @property
    def class_names(self) -> list[str] | None:
        """Class names in the order of labels, if known."""
        return (self.train_manifest.class_names or None) if self.train_manifest is not None else None

    @property
    def split_record(self) -> dict[str, Any]:
        """Source of the validation and test samples, for the record of a run and of a test."""
        held_out = bool(self.subset.validation)
        return {
            "validation": f"{self.subset.validation:g} of the training samples" if held_out else "validation set",
            "validation_samples": len(self.val_manifest) if self.val_manifest is not None else 0,
            "tested_on_validation": self.test_manifest is not None and self.test_manifest is self.val_manifest,
        }

    @property
    def samples_read(self) -> dict[str, dict[str, int]]:
        """Of the training and the validation list: how many samples were `used`, and how many `missed`, their files broken."""
        found = {}
        for split, manifest in (("train", self.train_manifest), ("val", self.val_manifest)):
            if manifest is not None:
                broken = self.faults.broken(split) if self.faults is not None else set()
                missed = sum(path in broken for path in manifest.paths) if broken else 0
                found[split] = {"used": len(manifest) - missed, "missed": missed}
        return found

    @property
    def manifest_hash(self) -> str | None:
        """Hash of the training list, for the record of a run."""
        return self.train_manifest.sha256() if self.train_manifest is not None else None

    def check_root(self) -> None:
        """Check that the root exists; overridden by data sets that are not in a folder."""
        check_root(self.root)

    def check(self, stage: str) -> None:
        """Check settings, folders and lists before a network is built; `setup` does not read the lists again."""
        self.setup(stage)

    def setup(self, stage: str) -> None:
        """Read the lists and check the settings.

        Raises:
            SettingError: for a missing folder or list, no videos, a wrong root, labels that do not match those of training, or
                a batch larger than the data set.
        """
        if stage == "predict":
            self._setup_predict()
            return
        if self.train_manifest is None:
            self._check_lists()
            train = self.read_split("train")
            if train is None:
                raise SettingError(
                    f"No list of training videos was found in {self.root}; set data.lists.train, or data.root to the "
                    "folder that contains it."
                )
            own_val = val = _same_classes(train, self.read_split("val"), "validation")
            if self.subset.validation:
                train, val = train.hold_out(self.subset.validation, self.subset.seed)
            if self.subset.fraction < 1:
                train = train.share(self.subset.fraction, self.subset.seed)
            if self.subset.low_shot is not None:
                train = train.few(self.subset.low_shot, self.subset.seed)
            rank_zero_info(
                f"{type(self).__name__}: {len(train)} training samples{_classes_of(train)}, "
                f"{'no' if val is None else len(val)} validation samples"
                f"{', taken from the training samples' if self.subset.validation else ''}."
            )
            self.train_manifest, self.val_manifest, self._own_val = train, val, own_val
        # A list of test videos from the settings is read now, so that errors show before hours of training.
        if (stage == "test" or self.lists.test is not None) and self.test_manifest is None:
            test = _same_classes(self.train_manifest, self.read_split("test"), "test")
            usable = test is not None and test.is_labelled
            own_val = self._own_val if self._own_val is not None else self.val_manifest
            self.test_manifest = test if usable or self.lists.test is not None else own_val
            if self.subset.validation and self.test_manifest is self.val_manifest:
                rank_zero_warn(
                    f"There are no test videos in {self.root}, so the test uses the validation videos: if these chose the "
                    "epoch or a setting, its result is too good. Set data.lists.test for videos that nothing has seen."
                )
            if self.test_manifest is None:
                raise SettingError(f"There are neither test nor validation videos in {self.root}; set data.lists.test.")
            rank_zero_info(f"{type(self).__name__}: {len(self.test_manifest)} test samples.")
        self._check_sizes(self.train_manifest, self.val_manifest)
        if self.faults is None or self.trainer is not self._reported_to:
            self._start_report()

    def _check_lists(self) -> None:
        """Check that the root and the named lists exist."""
        self.check_root()
        for split in ("train", "val", "test"):
            listed = self.lists.of(split)
            if listed is not None and not is_file(listed):
                raise SettingError(f"The list {listed} does not exist; set data.lists.{split} to an existing file.")

    def _setup_predict(self) -> None:
        """Find the videos for `predict`, with or without labels: those of the test list, otherwise of the validation list,
        otherwise all videos, if the data have no splits (a folder of videos, for example).

        Raises:
            SettingError: for a missing folder or list, no videos, or fewer than processes.
        """
        if self.predict_manifest is None:
            self._check_lists()
            splits = ((split, self.read_split(split)) for split in ("test", "val", "train"))
            split, found = next((pair for pair in splits if pair[1] is not None), ("", None))
            if found is None:
                raise SettingError(f"There are no videos to predict in {self.root}; set data.lists.test.")
            named = {"test": "test samples", "val": "validation samples", "train": "samples, all that there are"}[split]
            rank_zero_info(f"{type(self).__name__}: predicts {len(found)} {named}.")
            if len(found) < (world := self._rank()[1]):
                raise SettingError(
                    f"{len(found)} sample(s) to predict cannot be shared by {world} processes, of which each needs one; lower "
                    "trainer.devices."
                )
            self.predict_manifest = found
        if self.faults is None or self.trainer is not self._reported_to:
            # Broken files are listed next to the predictions; the report of the run only contains paths of its own data.
            self.faults, self._reported_to = FaultLog(self.reading.max_bad_fraction), self.trainer

    def _check_sizes(self, train: Manifest, val: Manifest | None) -> None:
        world = self._rank()[1]
        if len(train) // world < self.batch_size:
            raise SettingError(
                f"data.batch_size {self.batch_size} on {world} device(s) is more than the {len(train)} training videos "
                f"of {self.root}; lower it."
            )
        if val is not None and len(val) < world:
            raise SettingError(
                f"{len(val)} validation video(s) in {val.root} cannot be distributed over {world} processes, which need one "
                "each; add videos, or lower trainer.devices."
            )

    def _start_report(self) -> None:
        """Start the report of broken files in the folder of the trainer."""
        trainer = self._reported_to = self.trainer
        self.faults = FaultLog(self.reading.max_bad_fraction)
        if trainer is not None and not run_of(trainer).fast_dev_run:
            self.faults.write_to(Path(trainer.default_root_dir) / self.report_folder, self._rank()[0])

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _loader(self, manifest: Manifest, split: str, train: bool, views: ViewSettings | None = None) -> ResumableLoader:
        assert self.faults is not None
        workers, timeout = self.reading.num_workers, self.reading.decode_timeout
        limit = None if timeout is None else timeout + GRACE
        guard = WorkerGuard(workers, limit, self.faults.crashes(manifest, split))
        sampler = EpochSampler(len(manifest), self.seed, train, *self._rank())
        note = partial(self.faults.record, manifest=manifest, split=split, counts=train)
        dataset, batch_size = self._dataset(manifest, train, views, guard), self._samples_at_once(train, views)
        ahead = self.reading.prefetch_factor
        prepare = self.preparation if train or split == "val" else None
        return ResumableLoader(dataset, sampler, batch_size, workers, self._collate, note, guard, ahead, prepare)

    @staticmethod
    def _collate(samples: list[dict[str, Any]]) -> Batch:
        """Join samples of `_dataset` to a batch."""
        return collate(samples)

    def _dataset(self, manifest: Manifest, train: bool, views: ViewSettings | None, guard: WorkerGuard) -> VideoClipDataset:
        """The torch dataset that reads the samples of a manifest."""
        decoder, timeout = self.reading.decoder, self.reading.decode_timeout
        kinds, main = self.wanted, next(iter(self.offers))
        if list(kinds) == ["video"] and main == "video":
            return VideoClipDataset(manifest, self.clip, self.seed, train, decoder, timeout, guard, views)
        readers = {name: self.reader_of(name) for name in kinds if name != "video"}
        for name, reader in readers.items():
            learn_stream(reader, self.train_manifest or manifest, name, main)
        wanted = Wanted(kinds, readers, main, self.stream_settings.on_missing)
        return StreamDataset(manifest, self.clip, self.seed, train, wanted, decoder, timeout, guard, views)

    def _samples_at_once(self, train: bool, views: ViewSettings | None) -> int:
        """Samples per batch and device; reduced with `views`, so that a batch has as many clips as in training."""
        return self.batch_size if views is None else max(1, self.batch_size * self.clip.views // views.views)

    def train_dataloader(self) -> ResumableLoader:
        """Random clips in random order."""
        assert self.train_manifest is not None
        return self._train_loader.keep(self._loader(self.train_manifest, "train", train=True), self.manifest_hash)

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """Centre clips of the validation videos in order; empty if there are none."""
        return self._loader(self.val_manifest, "val", train=False) if self.val_manifest is not None else []

    @property
    def test_views(self) -> ViewSettings | None:
        """Clips and crops of each test sample; None for the clips of validation."""
        return self.views

    def test_dataloader(self) -> ResumableLoader:
        """All views of the test videos in order; each video is decoded once."""
        assert self.test_manifest is not None
        return self._loader(self.test_manifest, "test", train=False, views=self.test_views)

    def predict_dataloader(self) -> Batches:
        """The videos of `predict` in order, with the views of a test."""
        assert self.predict_manifest is not None
        return Batches(self._loader(self.predict_manifest, PREDICTED, train=False, views=self.test_views))

    def probe_dataloader(self) -> ResumableLoader:
        """Centre clips of training videos for probes; only labelled videos, if there are any."""
        manifest = self.train_manifest
        assert manifest is not None
        labelled = np.flatnonzero(manifest.labels != UNLABELLED)
        rows = labelled if len(labelled) else np.arange(len(manifest))
        one_class_each = len(labelled) > 0 and manifest.texts is None and manifest.intervals is None
        if self.probe_samples is None and one_class_each:
            picked = pick_for_probes(manifest.labels[rows])
        else:
            picked = spread(len(rows), self.probe_samples or PROBE_SAMPLES)
        return self._loader(manifest.subset(rows[picked]), "train", train=False)

    def state_dict(self) -> dict[str, Any]:
        """Position of training within the epoch. (Broken files are not included: they are recorded in the report.)"""
        return {"loader": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position within the epoch."""
        self._train_loader.load_state_dict(state["loader"])


def _classes_of(train: Manifest) -> str:
    """Text for the number of classes."""
    return f" of {train.num_classes} classes" if train.has_classes else ""


def _same_classes(train: Manifest, other: Manifest | None, kind: str) -> Manifest | None:
    """Validation or test videos with the label indices of training, so that a missing class does not shift the others.

    Args:
        train: training videos.
        other: validation or test videos.
        kind: 'validation' or 'test', for messages.

    Raises:
        SettingError: if the labels of the two cannot be matched, or a label is above those of training.
    """
    if other is None:
        return None
    _tell_shared(train, other, kind)
    if not train.has_classes or not other.has_classes:
        return other
    if not (train.class_names and other.class_names):
        if bool(train.class_names) != bool(other.class_names) and not _paths_agree(train, other):
            named, numbered = ("training", kind) if train.class_names else (kind, "training")
            raise SettingError(
                f"The {named} videos have class names, but the {numbered} videos have labels without names, and their "
                "paths do not confirm that both use the same numbers; set data.lists.train, data.lists.val and data.lists.test "
                "all to lists of the same kind, or to none."
            )
        highest, most = int(other.labels.max()), train.num_classes - 1
        if highest > most:
            raise SettingError(
                f"A {kind} video in {other.root} has the label {highest}, but the highest training label is {most}; correct "
                f"data.lists.{'val' if kind == 'validation' else 'test'}, or data.lists.train."
            )
    elif other.class_names != train.class_names:
        known = {name.lower(): name for name in train.class_names}
        unknown = sorted(set(other.class_names) - set(train.class_names))
        if alike := [name for name in unknown if name.lower() in known]:
            raise SettingError(
                f"{other.root} has the class {alike[0]} but training has {known[alike[0].lower()]}; give a class the same "
                "name everywhere."
            )
        if unknown:
            rank_zero_warn(
                f"{len(unknown)} classes of the {kind} videos in {other.root} do not occur in training and count as "
                f"unlabelled: {shorten(unknown)}."
            )
        other = other.with_classes(train.class_names)
    lacking = np.setdiff1d(other.labels, np.append(train.labels, UNLABELLED))
    if len(lacking):
        count = int(np.isin(other.labels, lacking).sum())
        rank_zero_warn(
            f"{count} {kind} videos in {other.root} belong to {len(lacking)} classes without training videos, the first "
            f"is {int(lacking[0])}."
        )
    return other


def _paths_agree(train: Manifest, other: Manifest) -> bool:
    """Whether each labelled path of the list without class names contains the class folder of that index in the other list."""
    named, numbered = (train, other) if train.class_names else (other, train)
    names = dict(enumerate(named.class_names))
    pairs = zip(numbered.paths, numbered.labels.tolist(), strict=True)
    return all(label == UNLABELLED or names.get(label) in path.split("/")[:-1] for path, label in pairs)


def _tell_shared(train: Manifest, other: Manifest, kind: str) -> None:
    """Warn about files that are also training videos."""
    shared = other.paths[shared_rows(train, other)]
    if shared:
        files, shared_files = (len(np.unique(one.first_rows())) for one in (other.paths, shared))
        rank_zero_warn(
            f"{shared_files} of the {files} {kind} videos are also training videos, the first is {shared[0]}: results on them "
            "do not reflect unseen videos."
        )

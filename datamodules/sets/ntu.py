"""NTU RGB+D 60 and 120: skeletons that `python main.py prepare ntu` has prepared, and the videos."""

from pathlib import Path

import numpy as np

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_list
from datamodules.lists.folders import video_files
from datamodules.lists.manifest import Manifest, make_manifest
from datamodules.skeleton.base import SkeletonDataModule, Split
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.skeleton.raw import NTU_CLASSES, parse_ntu_name
from datamodules.skeleton.splits import (
    NTU60_CLASSES,
    NTU60_SETUPS,
    TRAINS,
    NTU60Benchmark,
    NTU120Benchmark,
    is_ntu60,
)
from datamodules.skeleton.store import open_store
from modules.core.errors import SettingError

COMMAND = "python main.py prepare ntu --raw DIR --out DIR"


def load_ntu(root: str, benchmark: str, only_60: bool) -> Split:
    """Open a prepared folder and split its recordings by name.

    Raises:
        SettingError: if the folder is no store of NTU RGB+D, or lacks what is asked for.
    """
    recordings = open_store(Path(root), "ntu", COMMAND)
    names = [parse_ntu_name(name) for name in recordings.name.tolist()]
    kept = [(row, name) for row, name in enumerate(names) if name is not None and (is_ntu60(name) or not only_60)]
    if not only_60 and not any(name.setup > NTU60_SETUPS for _, name in kept):
        raise SettingError(
            f"data.root {root} holds only NTU RGB+D 60; prepare the files of setups 18 to 32 too, or use --data NTU60."
        )
    trains = TRAINS[benchmark]
    train = np.array([row for row, name in kept if trains(name)], np.int64)
    val = np.array([row for row, name in kept if not trains(name)], np.int64)
    return Split(recordings, train, val)


class NTU60(SkeletonDataModule):
    """NTU RGB+D 60: 56,578 recordings of 60 actions by 40 people, 3 cameras.

    Args:
        root: folder that `python main.py prepare ntu` wrote; that of NTU RGB+D 120 will do.
        benchmark: xsub trains on 20 of the people, xview on cameras 2 and 3.
        clip: clips per recording, frames, and how training crops are drawn.
        batch_size: recordings per batch and device; a batch holds batch_size x clip.clips clips.
        num_workers: worker processes per device.
        seed: order and crops are functions of it; null takes the run's seed.
        probe_samples: training recordings that probes read, with centre crops.
        fraction: share of the training recordings to train on.
        per_class: take that share of every class, rounded up; false takes it of all, rounded down.
        subset_seed: which recordings these are.
    """

    num_classes = NTU60_CLASSES

    def __init__(
        self,
        root: str,
        benchmark: NTU60Benchmark = "xsub",
        clip: SkeletonClipSettings = SkeletonClipSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 64,
        num_workers: int = 4,
        seed: int | None = None,
        probe_samples: int = 4096,
        fraction: float = 1.0,
        per_class: bool = False,
        subset_seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size, num_workers, seed, probe_samples, fraction, per_class, subset_seed)
        self.root, self.benchmark = root, benchmark

    def load(self) -> Split:
        """See `SkeletonDataModule.load`."""
        return load_ntu(self.root, self.benchmark, only_60=True)


class NTU120(SkeletonDataModule):
    """NTU RGB+D 120: 113,945 recordings of 120 actions by 106 people, 32 setups.

    Args:
        root: folder that `python main.py prepare ntu` wrote.
        benchmark: xsub trains on 53 of the people, xset on the setups with even numbers.
        clip: clips per recording, frames, and how training crops are drawn.
        batch_size: recordings per batch and device; a batch holds batch_size x clip.clips clips.
        num_workers: worker processes per device.
        seed: order and crops are functions of it; null takes the run's seed.
        probe_samples: training recordings that probes read, with centre crops.
        fraction: share of the training recordings to train on.
        per_class: take that share of every class, rounded up; false takes it of all, rounded down.
        subset_seed: which recordings these are.
    """

    num_classes = NTU_CLASSES

    def __init__(
        self,
        root: str,
        benchmark: NTU120Benchmark = "xsub",
        clip: SkeletonClipSettings = SkeletonClipSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 64,
        num_workers: int = 4,
        seed: int | None = None,
        probe_samples: int = 6144,
        fraction: float = 1.0,
        per_class: bool = False,
        subset_seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size, num_workers, seed, probe_samples, fraction, per_class, subset_seed)
        self.root, self.benchmark = root, benchmark

    def load(self) -> Split:
        """See `SkeletonDataModule.load`."""
        return load_ntu(self.root, self.benchmark, only_60=False)


class NTUVideos(VideoDataModule):
    """RGB videos of NTU RGB+D, `SsssCcccPpppRrrrAaaa_rgb.avi` anywhere below `root`, split as the skeletons are.

    Benchmarks: ntu60_xsub, ntu60_xview, ntu120_xsub, ntu120_xset.
    """

    benchmarks = ("ntu60_xsub", "ntu60_xview", "ntu120_xsub", "ntu120_xset")

    def read_split(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_split`."""
        if (given := self.given_list(split)) is not None:
            return read_list(given, self.root)
        part, _, benchmark = self.benchmark.partition("_")
        rows = []
        for file in video_files(self.root):
            name = parse_ntu_name(file.rpartition("/")[2])
            if name is None or (part == "ntu60" and not is_ntu60(name)):
                continue
            if TRAINS[benchmark](name) == (split == "train"):
                rows.append((file, name.action - 1))
        if not rows and split == "train":
            raise SettingError(
                f"data.root {self.root} holds no training video of {self.benchmark}, with a name like "
                "S001C001P001R001A001_rgb.avi; pass the folder of all videos."
            )
        classes = NTU60_CLASSES if part == "ntu60" else NTU_CLASSES
        names = [f"action {number}" for number in range(1, classes + 1)]
        return make_manifest(self.root, rows, self.root, names) if rows else None

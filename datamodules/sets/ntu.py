"""NTU RGB+D 60 and 120: skeletons prepared by `python main.py prepare ntu`, and the videos."""

from collections.abc import Callable

import numpy as np

from datamodules.base import VideoDataModule
from datamodules.lists.folders import video_files
from datamodules.lists.manifest import Manifest, make_manifest
from datamodules.skeleton.base import PreparedSkeletons, Split
from datamodules.skeleton.raw import NTU_CLASSES, NTUName, parse_ntu_name
from datamodules.skeleton.splits import (
    NTU60_CLASSES,
    NTU60_SETUPS,
    TRAINS,
    is_ntu60,
)
from datamodules.skeleton.store import Recordings, open_store
from modules.core.errors import SettingError

COMMAND = "python main.py prepare ntu --raw DIR --out DIR"


class NTU60(PreparedSkeletons):
    """NTU RGB+D 60 (benchmarks xsub, xview): 56,578 recordings of 60 actions by 40 people, 3 cameras.

    xsub trains on 20 of the people, xview on cameras 2 and 3. A folder of NTU RGB+D 120 also works.
    """

    num_classes = NTU60_CLASSES
    benchmarks = ("xsub", "xview")

    def load(self) -> Split:
        """See `SkeletonDataModule.load`."""
        return split_ntu(open_store(self.root, "ntu", COMMAND), self.benchmark, is_ntu60)


class NTU120(PreparedSkeletons):
    """NTU RGB+D 120 (benchmarks xsub, xset): 113,945 recordings of 120 actions by 106 people, 32 setups.

    xsub trains on 53 of the people, xset on the setups with even numbers.
    """

    num_classes = NTU_CLASSES
    benchmarks = ("xsub", "xset")
    probes = 6144

    def load(self) -> Split:
        """See `SkeletonDataModule.load`."""
        recordings = open_store(self.root, "ntu", COMMAND)
        names = filter(None, map(parse_ntu_name, recordings.name.tolist()))
        if not any(name.setup > NTU60_SETUPS for name in names):
            raise SettingError(
                f"data.root {self.root} only has NTU RGB+D 60; prepare the files of setups 18 to 32 too, or use --data NTU60."
            )
        return split_ntu(recordings, self.benchmark)


def split_ntu(recordings: Recordings, benchmark: str, belongs: Callable[[NTUName], bool] = lambda name: True) -> Split:
    """Split recordings by their file names.

    Args:
        recordings: recordings of a folder.
        benchmark: a key of `TRAINS`.
        belongs: whether a recording belongs to the data set.
    """
    names = [parse_ntu_name(name) for name in recordings.name.tolist()]
    kept = [(row, name) for row, name in enumerate(names) if name is not None and belongs(name)]
    train, val = (
        np.array([row for row, name in kept if TRAINS[benchmark](name) == trains], np.int64) for trains in (True, False)
    )
    return Split(recordings, train, val)


class NTUVideos(VideoDataModule):
    """RGB videos of NTU RGB+D, `SsssCcccPpppRrrrAaaa_rgb.avi` anywhere below `root`, with the same splits as the skeletons.

    Benchmarks: ntu60_xsub, ntu60_xview, ntu120_xsub, ntu120_xset.
    """

    benchmarks = ("ntu60_xsub", "ntu60_xview", "ntu120_xsub", "ntu120_xset")
    splits = ("train", "val")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
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
                f"data.root {self.root} contains no training video of {self.benchmark}, with a name like "
                "S001C001P001R001A001_rgb.avi; pass the folder of all videos."
            )
        classes = NTU60_CLASSES if part == "ntu60" else NTU_CLASSES
        names = [f"action {number}" for number in range(1, classes + 1)]
        return make_manifest(self.root, rows, self.root, names) if rows else None

"""ActivityNet 1.3: 200 activities, as clips of the annotated intervals."""

from pathlib import Path
from typing import NamedTuple

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_json
from datamodules.lists.folders import by_stem
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import found_manifest
from modules.core.errors import SettingError

NAMES = ("activity_net.v1-3.min.json", "activity_net.v1-3.json")
SUBSETS = {"train": "training", "val": "validation", "test": "validation"}


class Interval(NamedTuple):
    """An interval of a video with its activity."""

    name: str
    video: str
    start: float
    stop: float
    subset: str
    label: str


class ActivityNet(VideoDataModule):
    """ActivityNet 1.3 for classification: one clip per annotated interval, `v_<id>_<number of the interval>.mp4`.

    The videos are long; `python main.py prepare videos --list activity_net.v1-3.min.json` cuts them. The list is that file
    in the folder of the lists, or the files of lists.train and lists.val. Labels are indices in the sorted list of names.
    Intervals without length are left out.
    """

    splits = needed = ("train", "val")
    places = ("", "annotations")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, *NAMES)

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        intervals = read_intervals(path)
        names = sorted({interval.label for interval in intervals})
        number = {name: label for label, name in enumerate(names)}
        rows = [(interval.name, number[interval.label]) for interval in intervals if interval.subset == SUBSETS[split]]
        return found_manifest(self.root, rows, by_stem(self.root), path, names)


def read_intervals(path: Path) -> list[Interval]:
    """All annotated intervals, in the order of the file.

    Raises:
        SettingError: if the file has another format.
    """
    found = []
    try:
        for video, entry in read_json(path)["database"].items():
            for number, one in enumerate(entry["annotations"]):
                start, stop = (float(moment) for moment in one["segment"])
                if stop > start:
                    found.append(Interval(f"v_{video}_{number}", f"v_{video}", start, stop, entry["subset"], one["label"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SettingError(
            f"{path} is not in the format of ActivityNet 1.3 ({type(error).__name__}: {error}); pass the official file."
        ) from error
    return found

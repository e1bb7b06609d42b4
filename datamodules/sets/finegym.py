"""FineGym: elements of gymnastic routines, which differ in details (Gym99, Gym288 and parts of Gym99)."""

from pathlib import Path
from typing import NamedTuple

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_json, read_lines
from datamodules.lists.folders import by_stem
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import class_label, found_manifest
from modules.core.errors import SettingError

# First label and number of classes in the list; all but gym288 are parts of Gym99 (SEVERE).
SUBSETS: dict[str, tuple[int, int]] = {
    "gym99": (0, 99),
    "gym288": (0, 288),
    "vault": (0, 6),
    "floor": (6, 35),
    "fx_s1": (6, 11),
    "ub_s1": (74, 15),
}


class FineGym(VideoDataModule):
    """FineGym, as clips of elements cut by `python main.py prepare videos` or otherwise.

    Reads the official lists (`<id>_E_002407_002435_A_0003_0005 78`, with or without suffix). Clips are found by name.
    Copies of the data set usually lack some videos; the number of available videos is printed at the start.

    Benchmarks: gym99, gym288, the events vault and floor, and the sets fx_s1 (leaps and jumps on floor) and ub_s1 (circles on
    uneven bars). Labels of a part of Gym99 count from 0.
    """

    benchmarks = tuple(SUBSETS)
    needed = ("train", "val")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        base = "gym288" if self.benchmark == "gym288" else "gym99"
        names = [f"{base}_{split}{end}.txt" for end in ("_element_v1.1", "_element_v1.0", "_element", "", "_org")]
        return self.read_first(split, *names)

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        return read_gym_list(path, self.benchmark, self.root)


def read_gym_list(path: Path, subset: str, root: Path) -> Manifest:
    """The rows of a list that belong to a subset.

    Raises:
        SettingError: if a line does not consist of a name and a label, or no line belongs to the subset.
    """
    first, classes = SUBSETS[subset]
    total = SUBSETS["gym288" if subset == "gym288" else "gym99"][1]
    rows = []
    for number, line in read_lines(path).items():
        name, _, text = line.strip().rpartition(" ")
        label = class_label(text, total, f"Line {number} of {path}") - first
        if 0 <= label < classes:
            rows.append((Path(name.strip()).stem, label))
    return found_manifest(root, rows, by_stem(root), path, [f"{subset} {label}" for label in range(classes)])


class Element(NamedTuple):
    """A part of a routine: its time in an event, and the event's time in a video."""

    name: str
    event: str
    video: str
    event_start: float
    start: float
    stop: float


def read_elements(path: Path) -> list[Element]:
    """The elements of the official annotation; a vault has several stages and lasts from the first to the last.

    Raises:
        SettingError: if the file has another format.
    """
    found = []
    try:
        for video, events in read_json(path).items():
            for event, entry in events.items():
                begin = float(entry["timestamps"][0][0])
                for name, segment in (entry["segments"] or {}).items():
                    start, stop = float(segment["timestamps"][0][0]), float(segment["timestamps"][-1][1])
                    found.append(Element(f"{video}_{event}_{name}", f"{video}_{event}", video, begin, start, stop))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SettingError(
            f"{path} is not in the format of FineGym's annotation ({type(error).__name__}: {error}); pass the official file."
        ) from error
    return found

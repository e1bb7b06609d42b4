"""Charades: 157 actions of daily life in videos of half a minute; actions overlap and have start and end times."""

from dataclasses import replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_lines
from datamodules.lists.folders import by_stem
from datamodules.lists.manifest import UNLABELLED, Manifest, is_file
from datamodules.lists.official import found_manifest, read_table
from modules.core.errors import SettingError

CLASSES_FILE = "Charades_v1_classes.txt"
LISTS = {"train": ("Charades_v1_train.csv", "train.csv"), "val": ("Charades_v1_test.csv", "val.csv")}
COLUMNS = ("id", "actions", "length")
FRAME_HEADER = b"original_vido_id"
FRAME_RATE = 24

Intervals = list[tuple[float, float, int]]


class Charades(VideoDataModule):
    """Charades, for a classifier with `model.labels: several`. The test uses the validation videos.

    The label of a training clip is the union of the actions between its first and its last frame (with clip.clips or
    clip.repeat the union over all clips of the video), and that of a validation or test video the union over the video. A video
    without any action is a sample without positive classes.

    Videos are `<id>.mp4` at any depth below `root`, or have another suffix. Times are in seconds, so videos may have any
    frame rate. Reads Charades_v1_train.csv and Charades_v1_test.csv, or SlowFast's lists of frames (train.csv, val.csv; reading
    their millions of lines takes a while), and Charades_v1_classes.txt in all cases, from the folder of the lists.
    """

    splits = needed = ("train", "val")
    places = ("", "Charades", "annotations")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, *LISTS[split])

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        named = self.find_list(CLASSES_FILE)
        if named is None:
            raise self.lacks(CLASSES_FILE)
        names = read_class_names(named)
        videos = (read_frame_list if _is_frame_list(path) else read_actions)(path, len(names))
        rows = [(name, UNLABELLED) for name in videos]
        manifest = found_manifest(self.root, rows, by_stem(self.root), path, names)
        return replace(manifest, intervals=list(videos.values()))


def read_class_names(path: Path) -> list[str]:
    """The names of the classes, from lines like `c000 Holding some clothes`.

    Raises:
        SettingError: if a line does not consist of the next number and a name.
    """
    names: list[str] = []
    for number, line in read_lines(path).items():
        code, _, name = line.strip().partition(" ")
        if code != f"c{len(names):03d}" or not name:
            raise SettingError(f"Line {number} of {path} is {line.strip()!r}; expected c{len(names):03d} and a name.")
        names.append(name)
    return names


def read_actions(path: Path, classes: int) -> dict[str, Intervals]:
    """The actions of an official table by video, in its order. Annotations are cut at the end of their video.

    Args:
        path: path of the table.
        classes: number of classes.

    Raises:
        SettingError: if the file or a column is missing, or an action is not `c092 11.90 21.20`; the message names the line.
    """
    videos: dict[str, Intervals] = {}
    left_out = []
    for line, row in read_table(path, COLUMNS):
        found = videos.setdefault(row["id"], [])
        try:
            length = float(row["length"])
            for action in filter(None, row["actions"].split(";")):
                code, first, last = action.split()
                interval = (float(first), min(float(last), length), _label(code.removeprefix("c"), classes))
                if interval[0] <= interval[1]:
                    found.append(interval)
                else:
                    left_out.append(row["id"])
        except ValueError as error:
            raise SettingError(
                f"Line {line} of {path} has the actions {row['actions']!r} and the length {row['length']!r}; expected actions "
                f"like c092 11.90 21.20 of {classes} classes, separated by semicolons, and seconds."
            ) from error
    if left_out:
        rank_zero_warn(
            f"{path}: {len(left_out)} actions begin after the end of their video or after their own end and are left out, the "
            f"first in {left_out[0]}."
        )
    return videos


def read_frame_list(path: Path, classes: int) -> dict[str, Intervals]:
    """The actions of SlowFast's list of labels per frame (24 per second), as intervals.

    Args:
        path: path of the list, with lines `AB1CD 0 12 AB1CD/AB1CD-000013.jpg "92,147"`, frames from 0 (their files from 1) in
            order.
        classes: number of classes.

    Raises:
        SettingError: if a line has another format; the message names it.
    """
    videos: dict[str, dict[int, list[list[int]]]] = {}
    # The file is read line by line: it has a line for each of millions of frames.
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if number == 1 or not line.strip():
                continue
            try:
                name, _, frame_text, _, text = line.split()
                frame, labels = int(frame_text), [_label(one, classes) for one in text.strip('"').split(",") if one]
            except ValueError as error:
                raise SettingError(
                    f"Line {number} of {path} is {line.strip()!r}; expected a video, its number, a frame, a path and labels of "
                    f'{classes} classes in quotes, like "92,147".'
                ) from error
            video = videos.setdefault(name, {})
            for label in labels:
                runs = video.setdefault(label, [])
                if runs and frame == runs[-1][1] + 1:
                    runs[-1][1] = frame
                else:
                    runs.append([frame, frame])
    return {
        name: [(first / FRAME_RATE, last / FRAME_RATE, label) for label, runs in video.items() for first, last in runs]
        for name, video in videos.items()
    }


def _is_frame_list(path: Path) -> bool:
    if not is_file(path):
        return False
    with path.open("rb") as file:
        return FRAME_HEADER in file.readline()


def _label(text: str, classes: int) -> int:
    if not (text.isdecimal() and int(text) < classes):
        raise ValueError(text)
    return int(text)

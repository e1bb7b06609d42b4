"""EPIC-Kitchens-100: egocentric videos of actions in kitchens, labelled with verbs, nouns and both."""

import re
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import VideoDataModule
from datamodules.lists.folders import by_stem
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import class_label, found_manifest, read_table
from modules.core.errors import SettingError

LISTS = {"train": "EPIC_100_train.csv", "val": "EPIC_100_validation.csv"}
VERBS, NOUNS = 97, 300
COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class")


class Segment(NamedTuple):
    """A narrated action: its video, start and end, verb and noun."""

    name: str
    video: str
    start: float
    stop: float
    verb: int
    noun: int


class EpicKitchens100(VideoDataModule):
    """EPIC-Kitchens-100, as one clip per narration, `P01_01_12.mp4`.

    The recordings are long; `python main.py prepare videos --list EPIC_100_train.csv` cuts them. The official lists of
    training and validation give the labels; an action is a pair of verb and noun that occurs in one of them.

    Benchmarks select the label: verb (97), noun (300), or action, numbered in the order of verb, then noun.
    """

    benchmarks = ("verb", "noun", "action")
    splits = ("train", "val")
    places = ("", "epic-kitchens-100-annotations", "annotations")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, LISTS[split])

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        segments = read_segments(path)
        if self.benchmark == "action":
            both = [self.lists.of(part) or self.find_list(name) for part, name in LISTS.items()]
            pairs = sorted({(row.verb, row.noun) for other in both if other is not None for row in read_segments(other)})
            number = {pair: label for label, pair in enumerate(pairs)}
            rows = [(row.name, number[row.verb, row.noun]) for row in segments]
            names = [f"verb {verb}, noun {noun}" for verb, noun in pairs]
        else:
            rows = [(row.name, row.verb if self.benchmark == "verb" else row.noun) for row in segments]
            names = [f"{self.benchmark} {label}" for label in range(VERBS if self.benchmark == "verb" else NOUNS)]
        return found_manifest(self.root, rows, by_stem(self.root), path, names)


def read_segments(path: Path) -> list[Segment]:
    """The narrations of an official list. Narrations that stop before they start are left out.

    Raises:
        SettingError: if the file or a column is missing, or a row has no times or labels; the message names the line.
    """
    segments, left_out = [], []
    for line, row in read_table(path, COLUMNS):
        verb = class_label(row["verb_class"], VERBS, f"Line {line} of {path}")
        noun = class_label(row["noun_class"], NOUNS, f"Line {line} of {path}")
        start, stop = (seconds(row[name], path, line) for name in ("start_timestamp", "stop_timestamp"))
        if stop > start:
            segments.append(Segment(row["narration_id"], row["video_id"], start, stop, verb, noun))
        else:
            left_out.append(row["narration_id"])
    if left_out:
        rank_zero_warn(f"{path}: {len(left_out)} narrations stop before they start and are left out, the first: {left_out[0]}.")
    return segments


def seconds(text: str, path: Path, line: int) -> float:
    """Convert a time like 00:01:02.5 to seconds.

    Raises:
        SettingError: if it has another format.
    """
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip())
    if match is None:
        raise SettingError(f"Line {line} of {path} has the time {text!r}; expected hours:minutes:seconds.")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])

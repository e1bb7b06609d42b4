"""AudioSet: 527 classes of sounds in clips of 10 s with several labels each."""

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from datamodules.base import VideoDataModule
from datamodules.lists.files import number_lines
from datamodules.lists.folders import SOUND_SUFFIXES, USUAL_SUFFIXES, by_stem
from datamodules.lists.manifest import UNLABELLED, Manifest
from datamodules.lists.official import found_manifest, read_table
from modules.core.batch import Kind
from modules.core.errors import SettingError

CLASSES_FILE = "class_labels_indices.csv"
BALANCED, UNBALANCED, EVAL = (f"{name}_segments.csv" for name in ("balanced_train", "unbalanced_train", "eval"))
COLUMNS = ("index", "mid", "display_name")

Intervals = list[tuple[float, float, int]]


class AudioSet(VideoDataModule):
    """AudioSet, for a classifier with `model.labels: several`; validation uses the evaluation clips.

    Files are audio or video files at any depth below `root`, named `<id>` or `<id>_<start second>`; with `streams.names`
    [video, audio] they must be videos, otherwise audio files are preferred to videos of the same name. Reads
    balanced_train_segments.csv, unbalanced_train_segments.csv (not for the benchmark as20k), eval_segments.csv and
    class_labels_indices.csv from the folder of the lists. Set `streams.sound.seconds` to 10, or less for random parts.

    Not all clips can be downloaded any more: the number of available clips is printed and should be reported with every
    result.
    """

    splits = needed = ("train", "val")
    benchmarks = ("as2m", "as20k")
    offers: ClassVar[dict[str, Kind]] = {"audio": "audio", "video": "video"}
    gives = ("audio",)

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        names = {"val": (EVAL,), "train": (BALANCED,) if self.benchmark == "as20k" else (BALANCED, UNBALANCED)}[split]
        found = []
        for name in names:
            path = self.find_list(name)
            if path is None:
                raise self.lacks(name, f"data.lists.{split}")
            found.append(path)
        return self._read(found)

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        return self._read([path])

    def _read(self, paths: list[Path]) -> Manifest:
        named = self.find_list(CLASSES_FILE)
        if named is None:
            raise self.lacks(CLASSES_FILE)
        numbers = read_mids(named)
        names = [name for _, name in numbers.values()]
        existing = by_stem(self.root, USUAL_SUFFIXES)
        if "video" not in self.wanted:
            existing |= by_stem(self.root, SOUND_SUFFIXES)
        # Clips with the same labels share one list to save memory: there are two million clips.
        shared: dict[frozenset[int], Intervals] = {}
        labels: dict[str, Intervals] = {}
        for path in paths:
            for clip, start, own in read_segments(path, {mid: number for mid, (number, _) in numbers.items()}):
                stems = (clip, f"{clip}_{start:g}", f"{clip}_{start:.3f}", f"{clip}_{int(start):06d}")
                name = next((stem for stem in stems if stem in existing), clip)
                labels[name] = shared.setdefault(own, [(-math.inf, math.inf, label) for label in sorted(own)])
        suffix = ".mp4" if "video" in self.wanted else ".flac"
        manifest = found_manifest(self.root, [(name, UNLABELLED) for name in labels], existing, paths[0], names, suffix)
        return replace(manifest, intervals=list(labels.values()))


def read_mids(path: Path) -> dict[str, tuple[int, str]]:
    """Index and name of each class by its id (such as /m/09x0r), in the order of the indices.

    Raises:
        SettingError: if a column is missing, or the rows are not numbered from 0.
    """
    found: dict[str, tuple[int, str]] = {}
    for line, row in read_table(path, COLUMNS):
        if row["index"] != str(len(found)):
            raise SettingError(f"Line {line} of {path} has the index {row['index']!r}; expected {len(found)}.")
        found[row["mid"]] = (len(found), row["display_name"])
    return found


def read_segments(path: Path, numbers: dict[str, int]) -> Iterator[tuple[str, float, frozenset[int]]]:
    """Id, start second and labels of each clip: `--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"`, with or without spaces.

    Args:
        path: path of the list.
        numbers: index of each class by its id.

    Raises:
        SettingError: if a line has another format or an unknown class; the message names the line.
    """
    for number, line in number_lines(path):
        if line.startswith("#"):
            continue
        try:
            clip, start, _, mids = next(csv.reader([line], skipinitialspace=True))
            yield clip, float(start), frozenset(numbers[mid] for mid in mids.split(","))
        except (ValueError, KeyError, csv.Error) as error:
            raise SettingError(
                f"Line {number} of {path} is {line!r}; expected an id, two times, and class ids of {CLASSES_FILE} in quotes."
            ) from error

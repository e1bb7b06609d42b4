"""ESC-50: 50 classes of environmental sounds, 40 clips of 5 s each, in five folds."""

from pathlib import Path
from typing import ClassVar

from datamodules.base import VideoDataModule
from datamodules.lists.folders import SOUND_SUFFIXES, by_stem
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import class_label, found_manifest, read_table
from modules.core.batch import Kind
from modules.core.errors import SettingError

FOLDS = 5
CLASSES = 50
COLUMNS = ("filename", "fold", "target", "category")


class ESC50(VideoDataModule):
    """ESC-50, from `audio/<fold>-<clip>-<take>-<target>.wav` and meta/esc50.csv.

    The benchmarks fold1 to fold5 select the validation fold; the others are for training. The usual result is the mean accuracy
    of all five: fragments of one recording are in the same fold, so do not use another split. Set `streams.sound.seconds` to
    5.
    """

    splits = needed = ("train", "val")
    lists_taken = ()
    places = ("meta", "")
    benchmarks = tuple(f"fold{fold}" for fold in range(1, FOLDS + 1))
    offers: ClassVar[dict[str, Kind]] = {"audio": "audio"}
    gives = ("audio",)

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, "esc50.csv")

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        names = [""] * CLASSES
        rows = []
        for line, row in read_table(path, COLUMNS):
            label = class_label(row["target"], CLASSES, f"Line {line} of {path}")
            if names[label] not in ("", row["category"]):
                raise SettingError(f"Line {line} of {path} calls class {label} {row['category']}, and earlier {names[label]}.")
            names[label] = row["category"]
            fold = f"fold{row['fold']}"
            if fold not in self.benchmarks:
                raise SettingError(f"Line {line} of {path} has the fold {row['fold']!r}; expected 1 to {FOLDS}.")
            if (fold == self.benchmark) == (split == "val"):
                rows.append((Path(row["filename"]).stem, label))
        return found_manifest(self.root, rows, by_stem(self.root, SOUND_SUFFIXES), path, names, ".wav")

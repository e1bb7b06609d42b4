"""Jester: 27 hand gestures in front of a webcam."""

from pathlib import Path

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_lines
from datamodules.lists.folders import by_stem
from datamodules.lists.manifest import UNLABELLED, Manifest
from datamodules.lists.official import found_manifest
from modules.core.errors import SettingError

NAMES = {"train": "train", "val": "validation", "test": "test"}


class Jester(VideoDataModule):
    """Jester, as video files `<number>.mp4`; `python main.py prepare videos` creates them from the folders of pictures.

    Reads jester-v1-train.csv and jester-v1-validation.csv with jester-v1-labels.csv next to them. Mirroring changes
    the classes.
    """

    flips_change_labels = True
    prefix = "jester-v1-"

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, f"{self.prefix}{NAMES[split]}.csv")

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        labels = path.parent / f"{self.prefix}labels.csv"
        if not labels.is_file():
            raise SettingError(f"The list of classes {labels.name} is missing next to {path}; copy it there.")
        return read_numbered_list(path, labels, self.root)


def read_numbered_list(path: Path, labels: Path, root: Path) -> Manifest:
    """Read a list of lines '101;Swiping Left', or of numbers without labels. The label of a class is its line index in
    `labels`.

    Raises:
        SettingError: if a class is unknown, or only folders of pictures exist instead of videos.
    """
    names = [line.strip() for line in read_lines(labels).values()]
    number = {name: label for label, name in enumerate(names)}
    rows = []
    for line_number, line in read_lines(path).items():
        video, _, name = line.strip().partition(";")
        if name and name not in number:
            raise SettingError(f"Line {line_number} of {path} has the class {name!r}, which {labels} does not list.")
        rows.append((video, number.get(name, UNLABELLED)))
    if (root / rows[0][0]).is_dir():
        raise SettingError(
            f"{root} contains folders of pictures; run `python main.py prepare videos --source {root} --out DIR` and set "
            "data.root to that DIR."
        )
    return found_manifest(root, rows, by_stem(root), path, names)

"""HMDB51: 51 actions, with the official files of three splits."""

import re
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_lines
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import by_place, found_manifest
from modules.core.errors import SettingError

CLASSES = 51
FLAGS = {"0": "unused", "1": "train", "2": "val"}


class HMDB51(VideoDataModule):
    """HMDB51. Results are usually the mean over the three splits; validation uses the test videos.

    Videos are `<class>/<name>.avi` at any depth below `root`, or have another suffix. Lists are brush_hair_test_split1.txt and
    so on, or rows 'path label' in lists.train and lists.val. Benchmarks are the official splits: split1, split2, split3.
    """

    benchmarks = ("split1", "split2", "split3")
    splits = ("train", "val")
    places = ("", "testTrainMulti_7030_splits", "test_train_splits", "annotations", "labels")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        folders = (self.list_folder / place for place in self.places)
        found = next((files for folder in folders if (files := split_files(folder, self.benchmark))), None)
        if found is None:
            raise self.lacks(f"<class>_test_{self.benchmark}.txt")
        if len(found) != CLASSES:
            folder = next(iter(found.values())).parent
            rank_zero_warn(f"HMDB51 has {CLASSES} classes, but {folder} contains files of {len(found)}.")
        return read_hmdb_split(found, split, self.root)


def split_files(folder: Path, split: str) -> dict[str, Path]:
    """The files of a split by class, in the order of labels. Backup files of editors are ignored."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = re.fullmatch(rf"([^.].*)_test_{split}\.txt", path.name)
        if match is not None:
            found[match[1]] = path
    return dict(sorted(found.items()))


def read_hmdb_split(files: dict[str, Path], split: str, root: Path) -> Manifest:
    """The videos of 'train' or 'val'. Labels are indices in the sorted list of classes that have a file.

    Raises:
        SettingError: if a line does not consist of a name and a flag: 1 training, 2 test, 0 unused.
    """
    rows = []
    for label, (name, path) in enumerate(files.items()):
        for number, line in read_lines(path).items():
            file, _, flag = line.strip().rpartition(" ")
            if flag not in FLAGS or not file:
                raise SettingError(f"Line {number} of {path} is {line.strip()!r}; expected a file name and 0, 1 or 2.")
            if FLAGS[flag] == split:
                rows.append((f"{name}/{Path(file.strip()).stem}", label))
    return found_manifest(root, rows, by_place(root), next(iter(files.values())).parent, list(files), ".avi")

"""Kinetics-400, -600, -700 and Mini-Kinetics-200.

Lists may be the official tables (label, youtube_id, time_start, time_end, split), 'path label' lists as VideoMAE and SMILE
use them, or 'path num_frames label' lists as SEVERE does. Without a list, `<root>/<split>.csv` is used if it exists, otherwise
the folders `<root>/<split>/<class>/`; splits may have other usual names (`validate`, `validation`). Class names contain spaces:
tables with tabs or commas are safer than spaces.
"""

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import VideoDataModule
from datamodules.lists.files import is_kinetics_csv, read_kinetics_csv, read_list, read_mini_kinetics
from datamodules.lists.folders import SPLITS, read_folder, split_folders
from datamodules.lists.manifest import Manifest


class Kinetics400(VideoDataModule):
    """Kinetics-400: 400 actions, clips of 10 s."""

    classes = 400
    needed = ()
    places = ("", "annotations")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        found = self.read_first(split, *(f"{name}.csv" for name in SPLITS[split]))
        folder = split_folders(self.root).get(split) if found is None else None
        return self._checked(read_folder(folder), folder, split) if folder is not None else found

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        read = read_kinetics_csv if is_kinetics_csv(path) else read_list
        return self._checked(read(path, self.root), path, split)

    def _checked(self, manifest: Manifest, source: Path, split: str) -> Manifest:
        if manifest.num_classes != self.classes:
            rank_zero_warn(
                f"{type(self).__name__} has {self.classes} classes, the {split} split in {source} has {manifest.num_classes}."
            )
        return manifest


class Kinetics600(Kinetics400):
    """Kinetics-600: 600 actions, clips of 10 s."""

    classes = 600


class Kinetics700(Kinetics400):
    """Kinetics-700: 700 actions, clips of 10 s."""

    classes = 700


class MiniKinetics(VideoDataModule):
    """Mini-Kinetics-200: 200 actions, videos in the tree of Kinetics-400.

    Text lists (`name label`) count labels from 1, csv lists ('path label') from 0; both are converted to labels from 0.
    """

    places = ("",)

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        text, table = ("train_mini1.txt", "train") if split == "train" else ("val_split_1.txt", "val")
        return self.read_first(split, text, f"{table}_mini_kinetics.csv", f"mini_kinetics/{split}.csv")

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        return read_mini_kinetics(path, self.root)

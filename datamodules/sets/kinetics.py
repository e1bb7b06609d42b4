"""Kinetics-400, -600, -700 and Mini-Kinetics-200.

Lists may be the official tables (label, youtube_id, time_start, time_end, split), 'path label' lists as VideoMAE and SMILE
use them, or 'path num_frames label' lists as SEVERE does. Without a list, `<root>/<split>.csv` is taken if it exists, else
the folders `<root>/<split>/<class>/`; splits may have other usual names (`validate`, `validation`). Class names hold spaces:
tables with tabs or commas are safer than spaces.
"""

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import VideoDataModule
from datamodules.lists.files import is_kinetics_csv, read_kinetics_csv, read_list, read_mini_kinetics
from datamodules.lists.folders import SPLITS, read_folder, split_folders
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import find_file


class Kinetics400(VideoDataModule):
    """Kinetics-400: 400 actions, clips of 10 s."""

    classes = 400

    def read_split(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_split`."""
        names = [f"{name}.csv" for name in SPLITS[split]]
        listed = self.given_list(split) or find_file(self.lists, ("", "annotations"), names)
        folder = split_folders(self.root).get(split) if listed is None else None
        if listed is None and folder is None:
            return None
        if listed is None:
            assert folder is not None
            manifest = read_folder(folder)
        elif is_kinetics_csv(listed):
            manifest = read_kinetics_csv(listed, self.root)
        else:
            manifest = read_list(listed, self.root)
        if manifest.num_classes != self.classes:
            rank_zero_warn(
                f"{type(self).__name__} has {self.classes} classes, the {split} split in {listed or folder} "
                f"has {manifest.num_classes}."
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

    Text lists (`name label`) count labels from 1, csv lists ('path label') from 0; both give labels from 0.
    """

    classes = 200

    def read_split(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_split`."""
        usual = (
            ("train_mini1.txt", "train_mini_kinetics.csv") if split == "train" else ("val_split_1.txt", "val_mini_kinetics.csv")
        )
        listed = self.given_list(split) or find_file(self.lists, ("",), [*usual, f"mini_kinetics/{split}.csv"])
        return read_mini_kinetics(listed, self.root) if listed is not None else None

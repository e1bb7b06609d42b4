"""Any folder of videos."""

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from datamodules.base import VideoDataModule
from datamodules.lists.folders import is_hidden, read_folder, shorten, split_folders, video_files
from datamodules.lists.manifest import Manifest
from modules.core.errors import SettingError


class VideoFolder(VideoDataModule):
    """Any folder of videos or images (an image is a video of one frame).

    Sub-folders `train`, `val` and (optionally) `test` are the splits; other common names are accepted (`training`,
    `validation`, `Val`); without them, all videos are for training. Sub-folders are classes. A few videos next to the class
    folders are left out, and so are hidden files. `lists.train`, `lists.val` and `lists.test` replace these rules.
    """

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        folders = split_folders(self.root)
        if split in folders:
            if split == "train":
                self._check_beside(folders)
            return read_folder(folders[split])
        if split != "train":
            return None
        if folders:
            named = next(iter(folders.values())).name
            raise SettingError(
                f"data.root {self.root} contains {named} but no train; put the training videos into a folder train, or set "
                "data.lists.train."
            )
        return read_folder(self.root)

    def _check_beside(self, folders: dict[str, Path]) -> None:
        """Print the folders next to the split folders that are not read; refuse a single `train` that may be a class."""
        known = {folder.name for folder in folders.values()}
        others = sorted(path.name for path in self.root.iterdir() if path.is_dir() and path.name not in known)
        others = [name for name in others if not is_hidden(name)]
        if len(folders) == 1 and (used := [name for name in others if video_files(self.root / name)]):
            name = folders["train"].name
            raise SettingError(
                f"data.root {self.root} contains a folder {name} next to {shorten(used)}, so {name} could be a split or "
                "a class; put all class folders into a folder train, or move the others away."
            )
        if others:
            rank_zero_info(f"{self.root}: folders next to {' and '.join(sorted(known))} are left out: {shorten(others)}.")

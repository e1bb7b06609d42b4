"""Any folder of videos."""

from datamodules.base import VideoDataModule
from datamodules.video.manifest import Manifest, read_folder, read_list
from modules.core.errors import SettingError


class VideoFolder(VideoDataModule):
    """Any folder of videos or pictures (a picture is a video of one frame).

    If it has sub-folders `train`, `val` and perhaps `test`, these are the splits; otherwise all videos train. Sub-folders
    are classes, if every video lies in one. With `train_list`, `val_list` and `test_list`, the lists decide instead.
    """

    def read_split(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_split`."""
        listed = self.given_list(split)
        if listed is not None:
            return read_list(listed, self.root)
        folder = self.root / split
        if folder.is_dir():
            return read_folder(folder)
        if split != "train":
            return None
        if (self.root / "val").is_dir():
            raise SettingError(
                f"data.root {self.root} holds val but no train; put the training videos into a folder train, or set "
                "data.train_list."
            )
        return read_folder(self.root)

"""Something-Something v1 and v2: 174 templates of hand-object interactions; most classes differ only in motion."""

from pathlib import Path

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_list, read_something_json
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import find_file
from datamodules.sets.jester import Jester
from modules.core.errors import SettingError

PREFIX = "something-something-v2-"


class SSv2(VideoDataModule):
    """Something-Something v2.

    Reads the official json lists (with the table of labels next to them), or 'path label' lists. Videos are found by
    number below `root`, as webm, mp4 or avi. Mirroring changes the classes.
    """

    flips_change_labels = True
    places = ("", "labels", "annotations")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        official = "train" if split == "train" else "validation"
        return self.read_first(split, f"{PREFIX}{official}.json", f"{official}.json", f"{split}.csv")

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        if path.suffix != ".json":
            return read_list(path, self.root)
        labels = find_file(path.parent, ("",), [f"{PREFIX}labels.json", "labels.json"])
        if labels is None:
            raise SettingError(f"The table of labels ({PREFIX}labels.json or labels.json) is missing next to {path}.")
        return read_something_json(path, labels, self.root)


class SSv1(Jester):
    """Something-Something v1, as video files `<number>.mp4`, created by `python main.py prepare videos` from its pictures.

    Reads something-something-v1-train.csv and -validation.csv with something-something-v1-labels.csv next to them,
    in the same format as Jester's.
    """

    prefix = "something-something-v1-"

"""Something-Something v1 and v2: 174 templates of hand-object interactions, where only motion tells most classes apart."""

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_list, read_something_json
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import find_file
from datamodules.sets.jester import Jester
from modules.core.errors import SettingError

PREFIX = "something-something-v2-"


class SSv2(VideoDataModule):
    """Something-Something v2.

    Takes the official json lists (with the table of labels beside them), or 'path label' lists. Videos are found by
    number below `root`, as webm, mp4 or avi. Flips would turn left into right.
    """

    flips_change_labels = True
    classes = 174

    def read_split(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_split`."""
        official = "train" if split == "train" else "validation"
        listed = self.given_list(split) or find_file(self.lists, ("", "labels", "annotations"), _names(official, split))
        if listed is None:
            return None
        if listed.suffix != ".json":
            return read_list(listed, self.root)
        labels = next((listed.parent / name for name in _names("labels") if (listed.parent / name).is_file()), None)
        if labels is None:
            raise SettingError(f"The table of labels ({PREFIX}labels.json or labels.json) is missing beside {listed}.")
        return read_something_json(listed, labels, self.root)


class SSv1(Jester):
    """Something-Something v1, as video files `<number>.mp4`, which `python main.py prepare videos` makes of its pictures.

    Takes something-something-v1-train.csv and -validation.csv with something-something-v1-labels.csv beside them, which
    are written as those of Jester are.
    """

    prefix = "something-something-v1-"


def _names(official: str, split: str | None = None) -> list[str]:
    return [f"{PREFIX}{official}.json", f"{official}.json"] + ([f"{split}.csv"] if split else [])

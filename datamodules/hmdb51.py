"""HMDB51: 51 actions, with the official files of three splits."""

import re
from pathlib import Path
from typing import Literal

from datamodules.base import VideoDataModule
from datamodules.video.decode import Decoder
from datamodules.video.manifest import Manifest, read_lines
from datamodules.video.official import by_place, found_manifest
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.errors import SettingError

FOLDERS = ("", "testTrainMulti_7030_splits", "test_train_splits", "annotations", "labels")
FLAGS = {"0": "unused", "1": "train", "2": "val"}


class HMDB51(VideoDataModule):
    """HMDB51. Results are usually the mean over the three splits; the test videos are those that validate.

    Args:
        root: folder of the videos, `<class>/<name>.avi` at any depth; other suffixes do as well.
        split: which of the official splits.
        lists: folder of brush_hair_test_split1.txt and so on; null looks in `root`.
        clip: frames, stride, size, crop and number of clips.
        batch_size: videos per batch and device; a batch holds batch_size x clip.clips x clip.repeat clips.
        num_workers: worker processes per device that decode.
        seed: order, frames and crops are functions of it; null takes the run's seed.
        probe_samples: training videos that online probes read, with centre crops.
        fraction: share of the training videos to train on, the same of every class.
        subset_seed: which videos these are.
        max_bad_fraction: share of broken files above which the run stops, see `VideoDataModule`.
        decode_timeout: seconds after which a file counts as broken; null waits for ever.
        decoder: library that decodes.
        views: clips and crops of each test video.
    """

    def __init__(
        self,
        root: str,
        split: Literal[1, 2, 3] = 1,
        lists: str | None = None,
        clip: ClipSettings = ClipSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        batch_size: int = 16,
        num_workers: int = 4,
        seed: int | None = None,
        probe_samples: int = 2048,
        fraction: float = 1.0,
        subset_seed: int = 12345,
        max_bad_fraction: float = 0.05,
        decode_timeout: float | None = 60.0,
        decoder: Decoder = "pyav",
        views: ViewSettings = ViewSettings(),  # noqa: B008
    ) -> None:
        super().__init__(
            root,
            clip=clip,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            probe_samples=probe_samples,
            fraction=fraction,
            subset_seed=subset_seed,
            max_bad_fraction=max_bad_fraction,
            decode_timeout=decode_timeout,
            decoder=decoder,
            views=views,
        )
        self.split, self.lists = split, Path(lists) if lists else self.root

    def read_split(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_split`."""
        if split == "test":
            return None
        found = next((files for folder in FOLDERS if (files := split_files(self.lists / folder, self.split))), None)
        if found is None:
            raise SettingError(
                f"{self.lists} holds no <class>_test_split{self.split}.txt; set data.lists to the folder of the official files."
            )
        return read_hmdb_split(found, split, self.root)


def split_files(folder: Path, split: int) -> dict[str, Path]:
    """The files of a split by class, in the order of labels. What editors left in the folder is passed over."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = re.fullmatch(rf"([^.].*)_test_split{split}\.txt", path.name)
        if match is not None:
            found[match[1]] = path
    return dict(sorted(found.items()))


def read_hmdb_split(files: dict[str, Path], split: str, root: Path) -> Manifest:
    """The videos of 'train' or 'val'. A class's label is its place in the sorted list of classes that have a file.

    Raises:
        SettingError: if a line is not a name and a flag: 1 training, 2 test, 0 unused.
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

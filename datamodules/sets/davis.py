"""DAVIS: short videos with a mask of the moving objects in every frame, for label propagation."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_lines
from datamodules.lists.manifest import UNLABELLED, Manifest
from datamodules.lists.packed import PackedStrings
from modules.core.batch import Kind
from modules.core.errors import SettingError

FPS = 24.0
"""Assumed, because the folders do not contain the rate; only times in seconds depend on it."""
PICTURES, MASKS, LISTS = "JPEGImages", "Annotations", "ImageSets"
USUAL = "480p"


class DAVIS2017(VideoDataModule):
    """DAVIS-2017: folders of pictures `JPEGImages/480p/<sequence>`, masks in `Annotations/480p/<sequence>`, and the official
    lists in `ImageSets/2017`; without 480p, the only other size is used.

    The streams are video and mask; there are no labels. Mask values are object ids: `streams.mask.objects` 1 returns the union
    of all objects, larger values one plane per object; files with more objects count as broken.
    """

    places: ClassVar[tuple[str, ...]] = (f"{LISTS}/2017",)
    splits = ("train", "val")
    offers: ClassVar[dict[str, Kind]] = {"video": "video", "mask": "mask", "flow": "flow"}
    gives = ("video", "mask")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, f"{split}.txt")

    def read_listed(self, path: Path, split: str) -> Manifest:
        """Manifest from a list of sequences, or of pictures as in DAVIS-2016: '/JPEGImages/480p/bear/00000.jpg /...'."""
        size = self._size()
        lines = (line.split()[0] for line in read_lines(path).values() if line.strip())
        names = list(dict.fromkeys(Path(line).parent.name if "/" in line else line for line in lines))
        missing = [name for name in names if not (self.root / PICTURES / size / name).is_dir()]
        if missing or not names:
            raise SettingError(
                f"{len(missing)} of {len(names)} sequences of {path} are not in {self.root / PICTURES / size}, the first is "
                f"{next(iter(missing), '')}; set data.root to the folder that contains {PICTURES} and {MASKS}."
            )
        folders, masks = ([f"{kind}/{size}/{name}" for name in names] for kind in (PICTURES, MASKS))
        labels = np.full(len(names), UNLABELLED)
        further = {"mask": PackedStrings(masks)}
        return Manifest(self.root, PackedStrings(folders), labels, further=further, fps=FPS)

    def _size(self) -> str:
        """The name of the folder of the image size to use."""
        sizes = sorted(path.name for path in (self.root / PICTURES).glob("*") if path.is_dir())
        if USUAL in sizes:
            return USUAL
        if len(sizes) != 1:
            raise SettingError(
                f"data.root {self.root} has the folders {', '.join(sizes) or 'none'} in {PICTURES}, where {USUAL} or a single "
                "one is expected; pass the folder of the data set."
            )
        return sizes[0]


class DAVIS2016(DAVIS2017):
    """DAVIS-2016: like DAVIS-2017, with lists in `ImageSets/2016` or `ImageSets/480p`, and masks of a single object."""

    places = (f"{LISTS}/2016", f"{LISTS}/{USUAL}")

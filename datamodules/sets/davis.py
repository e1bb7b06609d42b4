"""DAVIS: short videos with a mask of the moving objects in every frame, as clips to train on and as complete sequences for
label propagation."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_lines
from datamodules.lists.manifest import UNLABELLED, Manifest
from datamodules.lists.official import find_file
from datamodules.lists.packed import PackedStrings
from datamodules.sequences import LabelledSequenceData, LabelledVideo, UnreadableError, read_masks
from modules.core.batch import Kind
from modules.core.errors import SettingError

FPS = 24.0
"""Assumed, because the folders do not contain the rate; only times in seconds depend on it."""
PICTURES, MASKS, LISTS = "JPEGImages", "Annotations", "ImageSets"
USUAL = "480p"
VOID = 255
"""Value of pixels that belong to no object."""


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
        size = image_size(self.root)
        names = listed_sequences(path, self.root, size)
        folders, masks = ([f"{kind}/{size}/{name}" for name in names] for kind in (PICTURES, MASKS))
        labels = np.full(len(names), UNLABELLED)
        further = {"mask": PackedStrings(masks)}
        return Manifest(self.root, PackedStrings(folders), labels, further=further, fps=FPS)


class DAVIS2016(DAVIS2017):
    """DAVIS-2016: like DAVIS-2017, with lists in `ImageSets/2016` or `ImageSets/480p`, and masks of a single object."""

    places = (f"{LISTS}/2016", f"{LISTS}/{USUAL}")


class DAVIS2017Sequences(LabelledSequenceData):
    """DAVIS-2017 for `LabelPropagation`: complete sequences with their masks, by default those of `val.txt`. The files are
    those of `DAVIS2017`. A pixel of 255 belongs to no object."""

    places: ClassVar[tuple[str, ...]] = DAVIS2017.places

    def find_videos(self) -> list[LabelledVideo]:
        """See `LabelledSequenceData.find_videos`."""
        listed = self.listed or find_file(self.root, self.places, ["val.txt"])
        if listed is None:
            raise SettingError(f"{self.root} contains no {self.places[0]}/val.txt; set data.listed to a list of sequences.")
        size = image_size(self.root)
        names = listed_sequences(listed, self.root, size)
        return self.with_masks(names, self.root / PICTURES / size, self.root / MASKS / size)

    def read_labels(self, video: LabelledVideo, stored: tuple[int, int]) -> dict[str, Tensor]:
        """See `LabelledSequenceData.read_labels`."""
        masks = read_masks(video, stored)
        if not ((masks[0] > 0) & (masks[0] < VOID)).any():
            raise UnreadableError(f"{video.labels[0].name}: no object in the first mask")
        return {"mask": masks}


class DAVIS2016Sequences(DAVIS2017Sequences):
    """DAVIS-2016 for `LabelPropagation`: like DAVIS-2017, with lists in `ImageSets/2016` or `ImageSets/480p`. All objects of a
    mask are one."""

    places = DAVIS2016.places

    def read_labels(self, video: LabelledVideo, stored: tuple[int, int]) -> dict[str, Tensor]:
        """See `LabelledSequenceData.read_labels`."""
        masks = (read_masks(video, stored) > 0).byte()
        if not masks[0].any():
            raise UnreadableError(f"{video.labels[0].name}: no object in the first mask")
        return {"mask": masks}


# --- Files ---


def image_size(root: Path) -> str:
    """The name of the folder of the image size to use.

    Raises:
        SettingError: if there is not exactly one, nor 480p.
    """
    sizes = sorted(path.name for path in (root / PICTURES).glob("*") if path.is_dir())
    if USUAL in sizes:
        return USUAL
    if len(sizes) != 1:
        raise SettingError(
            f"data.root {root} has the folders {', '.join(sizes) or 'none'} in {PICTURES}, where {USUAL} or a single one is "
            "expected; pass the folder of the data set."
        )
    return sizes[0]


def listed_sequences(path: Path, root: Path, size: str) -> list[str]:
    """Names in a list of sequences, or of pictures, as in DAVIS-2016.

    Raises:
        SettingError: if one of them has no folder.
    """
    lines = (line.split()[0] for line in read_lines(path).values() if line.strip())
    names = list(dict.fromkeys(Path(line).parent.name if "/" in line else line for line in lines))
    missing = [name for name in names if not (root / PICTURES / size / name).is_dir()]
    if missing or not names:
        raise SettingError(
            f"{len(missing)} of {len(names)} sequences of {path} are not in {root / PICTURES / size}, the first is "
            f"{next(iter(missing), '')}; set data.root to the folder that contains {PICTURES} and {MASKS}."
        )
    return names

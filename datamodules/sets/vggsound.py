"""VGGSound: 309 audio-visual classes, in clips of 10 s."""

import csv
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import VideoDataModule
from datamodules.lists.files import number_lines
from datamodules.lists.folders import SOUND_SUFFIXES, USUAL_SUFFIXES, by_stem
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import found_manifest
from modules.core.errors import SettingError

SPLITS = {"train": "train", "val": "test"}


class VGGSound(VideoDataModule):
    """VGGSound with audio; validation uses the official test clips.

    Videos are `<id>_<start second, six digits>.mp4` at any depth below `root`, or audio files of that name if `streams.names`
    has no video. Reads vggsound.csv (id, start second, label, split) from the folder of the lists, or lists of rows
    `name,label`. Labels are indices in the sorted list of names.
    """

    splits = needed = ("train", "val")
    lists_taken = ("train", "val")
    gives = ("video", "audio")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        return self.read_first(split, "vggsound.csv")

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        clips = read_clip_list(path)
        names = sorted({label for _, label, _ in clips})
        number = {name: label for label, name in enumerate(names)}
        rows = [(name, number[label]) for name, label, part in clips if part in ("", SPLITS[split])]
        existing = by_stem(self.root, USUAL_SUFFIXES)
        if "video" not in self.wanted:
            existing |= by_stem(self.root, SOUND_SUFFIXES)
        return found_manifest(self.root, rows, existing, path, names)


def read_clip_list(path: Path) -> list[tuple[str, str, str]]:
    """Name without suffix, label and split of each clip; the split is '' if the list has none.

    Labels that contain commas are in quotes. The official lists have lines of a single word; these are left out and counted.

    Raises:
        SettingError: if a start is not a number or a split is unknown (the message names the line), or if the list has no clip.
    """
    clips, odd = [], []
    for number, line in number_lines(path):
        cells = next(csv.reader([line], skipinitialspace=True))
        if len(cells) == 4:
            clip, start, label, split = cells
            if not start.isdecimal():
                raise SettingError(f"Line {number} of {path} has the start {start!r}; expected an integer number of seconds.")
            if split not in SPLITS.values():
                raise SettingError(f"Line {number} of {path} has the split {split!r}; expected train or test.")
            clips.append((f"{clip}_{int(start):06d}", label, split))
        elif len(cells) == 2:
            clips.append((cells[0].removesuffix(".mp4"), cells[1], ""))
        else:
            odd.append(f"line {number}: {line}")
    if odd:
        rank_zero_warn(f"{path}: {len(odd)} lines are not clips and were left out, the first is {odd[0]}.")
    if not clips:
        raise SettingError(f"{path} has no line of the form id,start,label,split; pass the official vggsound.csv.")
    return clips

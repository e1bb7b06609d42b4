"""Which windows of which videos are embedded, and reading them in worker processes.

Axis letters: `v` clips of an item, `T` frames.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.lists.files import read_list
from datamodules.lists.folders import VIDEO_SUFFIXES, read_folder, split_folders
from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedStrings
from datamodules.video.crops import view_boxes
from datamodules.video.decode import ChooseFrames, DecodedClips, DecodeError, VideoInfo, probe, read_clips
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from datamodules.video.transforms import cut_views
from modules.core.errors import SettingError

WINDOWS_AT_ONCE = 4
"""Windows of a long video that are decoded in one pass; more would take too much memory."""
TIMEOUT = 60.0
"""Seconds after which a file counts as broken."""


class Item(NamedTuple):
    """What a worker reads at once."""

    row: int
    """of the list of videos"""
    windows: tuple[tuple[float, float], ...]
    """first and last second of each window; empty for clips that are spread over the whole video"""


class Read(NamedTuple):
    """What a worker made of an item."""

    row: int
    clips: Tensor | None
    """uint8 [v, T, H, W, 3]; None where the file could not be read"""
    time: Tensor
    """float32 [v, 2], seconds"""
    reason: str
    """why it could not be read, else empty"""


def windows_of(seconds: float, every: float) -> list[tuple[float, float]]:
    """Windows of a video, one behind the other; a rest that is shorter than half a window belongs to the last one."""
    count = max(1, math.floor(seconds / every + 0.5))
    starts = [place * every for place in range(count)]
    return list(zip(starts, [*starts[1:], max(seconds, starts[-1] + 1e-3)], strict=True))


def make_items(manifest: Manifest, seconds: np.ndarray | None, every: float | None) -> list[Item]:
    """The items of all videos, in order.

    Args:
        manifest: videos.
        seconds: float64 [N], their lengths, NaN of those that could not be read; None where windows are not asked for.
        every: length of a window in seconds; None takes clips that are spread over each video.
    """
    if seconds is None or every is None:
        return [Item(row, ()) for row in range(len(manifest))]
    items = []
    for row, length in enumerate(seconds.tolist()):
        windows = windows_of(0 if math.isnan(length) else length, every)
        groups = (windows[first : first + WINDOWS_AT_ONCE] for first in range(0, len(windows), WINDOWS_AT_ONCE))
        items += [Item(row, tuple(group)) for group in groups]
    return items


class Lengths(Dataset[tuple[float, float]]):
    """Seconds and frames per second of each video, or NaN."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> tuple[float, float]:
        try:
            info = probe(self.manifest.file(row), TIMEOUT)
        except DecodeError:
            return math.nan, math.nan
        return info.num_frames / info.fps, info.fps


class Windows(Dataset[Read]):
    """Clips of items, with centred squares.

    Args:
        manifest: videos.
        items: what to read.
        clip: frames, size, number of clips per video and their stride.
    """

    def __init__(self, manifest: Manifest, items: list[Item], clip: ClipSettings) -> None:
        self.manifest, self.items, self.clip = manifest, items, clip

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Read:
        item = self.items[place]
        try:
            decoded = read_clips(self.manifest.file(item.row), self._chooser(item), None, decode_timeout=TIMEOUT)
        except DecodeError as error:
            return Read(item.row, None, torch.zeros(0, 2), str(error))
        square = view_boxes(decoded.info.width, decoded.info.height, 1, self.clip.crop.centre)
        clips = cut_views(decoded, square * len(decoded.position), self.clip.size)
        return Read(item.row, clips, self._time(item, decoded), "")

    def _chooser(self, item: Item) -> ChooseFrames:
        def choose(info: VideoInfo, rng: np.random.Generator | None) -> np.ndarray:
            if not item.windows:
                return self.clip.choose(info, None)
            return np.stack([middle_of(info, window, self.clip) for window in item.windows])

        return choose

    def _time(self, item: Item, decoded: DecodedClips) -> Tensor:
        return torch.tensor(item.windows, dtype=torch.float32) if item.windows else torch.from_numpy(decoded.time)


def middle_of(info: VideoInfo, window: tuple[float, float], clip: ClipSettings) -> np.ndarray:
    """Frames of the clip whose middle is that of a window, moved into the video where it would reach beyond: int64 [T]."""
    assert isinstance(clip.sampler, Dense)
    length = (clip.frames - 1) * clip.sampler.stride
    first = round(sum(window) / 2 * info.fps - length / 2)
    first = max(0, min(first, info.num_frames - 1 - length))
    return (first + clip.sampler.stride * np.arange(clip.frames)).clip(0, info.num_frames - 1)


def videos_of(source: Path, root: Path | None) -> Manifest:
    """The videos of a folder, with all its sub-folders, or of a list.

    Raises:
        SettingError: if there are none.
    """
    if not source.is_dir() and (source.suffix.lower() in VIDEO_SUFFIXES or not source.exists()):
        raise SettingError(f"--source is {source}; pass an existing folder of videos, or a list of them.")
    if not source.is_dir():
        return read_list(source, root or source.parent)
    splits = split_folders(source)
    if not splits:
        return read_folder(source, "--source")
    # All splits, with the classes of all of them.
    parts = {folder: read_folder(folder, "--source") for folder in sorted(splits.values())}
    names = sorted({name for part in parts.values() for name in part.class_names})
    paths = [f"{folder.relative_to(source).as_posix()}/{path}" for folder, part in parts.items() for path in part.paths]
    labels = [part.with_classes(names).labels if part.class_names else part.labels for part in parts.values()]
    return Manifest(source, PackedStrings(paths), np.concatenate(labels), names)

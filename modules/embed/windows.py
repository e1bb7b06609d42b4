"""Windows of videos to embed, and their reader.

Axis letters: `v` clips of an item, `T` frames.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.lists.manifest import Manifest
from datamodules.loading.worker_guard import GRACE, WorkerGuard
from datamodules.video.crops import view_boxes
from datamodules.video.decode import ChooseFrames, DecodedClips, DecodeError, VideoInfo, probe, read_clips
from datamodules.video.pyav_reader import facts_kept_in
from datamodules.video.readers import PictureFolder
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, part_of
from datamodules.video.transforms import cut_views
from modules.embed.reading import Read

WINDOWS_AT_ONCE = 4
"""Maximum windows of a long video that are decoded in one pass, to limit memory."""
TIMEOUT = 60.0
"""Seconds after which a file counts as broken."""


class Item(NamedTuple):
    """The unit that a worker reads at once."""

    row: int
    """row in the list of videos"""
    windows: tuple[tuple[float, float], ...]
    """start and end of each window in seconds, from the start of the row's part of the file; empty for clips that are spread
    over all of it"""


def windows_of(seconds: float, every: float) -> list[tuple[float, float]]:
    """Consecutive windows of a video; a remainder shorter than half a window is added to the last one."""
    count = max(1, math.floor(seconds / every + 0.5))
    starts = [place * every for place in range(count)]
    return list(zip(starts, [*starts[1:], max(seconds, starts[-1] + 1e-3)], strict=True))


def make_items(count: int, seconds: np.ndarray | None, every: float | None) -> list[Item]:
    """The items of all videos, in order.

    Args:
        count: number of videos, N.
        seconds: float64 [N], their lengths, NaN if unreadable; None without windows.
        every: length of a window in seconds; None spreads clips over each video.
    """
    if seconds is None or every is None:
        return [Item(row, ()) for row in range(count)]
    items = []
    for row, length in enumerate(seconds.tolist()):
        windows = windows_of(0 if math.isnan(length) else length, every)
        groups = (windows[first : first + WINDOWS_AT_ONCE] for first in range(0, len(windows), WINDOWS_AT_ONCE))
        items += [Item(row, tuple(group)) for group in groups]
    return items


class Videos:
    """The files of a manifest, and the guard of the workers that read them.

    Args:
        manifest: videos, or parts of videos.
        num_workers: number of reading processes.
        facts: cache folder for the results of scanning long files; None keeps them in memory.
    """

    def __init__(self, manifest: Manifest, num_workers: int, facts: Path | None = None) -> None:
        self.manifest, self.facts = manifest, facts
        self.guard = WorkerGuard(num_workers, TIMEOUT + GRACE)

    def file(self, row: int) -> Path | PictureFolder:
        """The file of a row, or its folder of images."""
        path = self.manifest.file(row)
        return path if self.manifest.fps is None else PictureFolder(path, self.manifest.fps)

    def span(self, row: int) -> np.ndarray | None:
        """First and last second of the row's part of the file; None for the complete file."""
        return self.manifest.spans[row] if self.manifest.spans is not None else None


class Lengths:
    """Reads seconds and frames per second of each video, or of the row's part of it; NaN for broken files."""

    def __init__(self, videos: Videos) -> None:
        self.videos, self.guard = videos, videos.guard

    def __len__(self) -> int:
        return len(self.videos.manifest)

    def read(self, place: int) -> tuple[float, float]:
        """Read one row."""
        try:
            with self.guard.reading(place), facts_kept_in(self.videos.facts):
                _, part = part_of(probe(self.videos.file(place), TIMEOUT), self.videos.span(place))
        except DecodeError:
            return math.nan, math.nan
        return part.num_frames / part.fps, part.fps


class Windows:
    """Reads clips of items, with centred squares.

    Args:
        videos: the videos of the items.
        items: the items to read.
        clip: frames, size, number of clips per video and their stride.
    """

    def __init__(self, videos: Videos, items: list[Item], clip: ClipSettings) -> None:
        self.videos, self.items, self.clip, self.guard = videos, items, clip, videos.guard

    def __len__(self) -> int:
        return len(self.items)

    def read(self, place: int) -> Read:
        """Clips of one item: uint8 [v, T, H, W, 3]."""
        item = self.items[place]
        try:
            with self.guard.reading(item.row), facts_kept_in(self.videos.facts):
                decoded = read_clips(self.videos.file(item.row), self._chooser(item), None, decode_timeout=TIMEOUT)
        except DecodeError as error:
            return Read(item.row, None, torch.zeros(0, 2), str(error))
        square = view_boxes(decoded.info.width, decoded.info.height, 1, self.clip.crop.centre)
        clips = cut_views(decoded, square * len(decoded.position), self.clip.size)
        return Read(item.row, clips, self._time(item, decoded), "")

    def _chooser(self, item: Item) -> ChooseFrames:
        def choose(info: VideoInfo, rng: np.random.Generator | None) -> np.ndarray:
            first, part = part_of(info, self.videos.span(item.row))
            if not item.windows:
                return first + self.clip.choose(part, None)
            return first + np.stack([clip_of(part, window, self.clip) for window in item.windows])

        return choose

    def _time(self, item: Item, decoded: DecodedClips) -> Tensor:
        if not item.windows:
            return torch.from_numpy(decoded.time)
        span = self.videos.span(item.row)
        start = 0.0 if span is None else max(0.0, float(span[0]))
        return torch.tensor(item.windows, dtype=torch.float32) + start


def clip_of(info: VideoInfo, window: tuple[float, float], clip: ClipSettings) -> np.ndarray:
    """Frames of the clip of a window, int64 [T].

    With a stride, the clip has the same middle as the window, and is shifted into the video if it extends beyond it; with
    another sampler, it is chosen within the window.
    """
    if not isinstance(clip.sampler, Dense):
        first, part = part_of(info, np.array(window))
        chosen: np.ndarray = first + clip.sampler.draw(part, 1, clip.frames, None)[0]
        return chosen
    length = (clip.frames - 1) * clip.sampler.stride
    first = round(sum(window) / 2 * info.fps - length / 2)
    first = max(0, min(first, info.num_frames - 1 - length))
    return (first + clip.sampler.stride * np.arange(clip.frames)).clip(0, info.num_frames - 1)

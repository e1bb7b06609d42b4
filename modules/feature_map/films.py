"""Small films of points, read from their videos in worker processes.

Axis letters: `n` frames.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.video.crops import view_boxes
from datamodules.video.decode import ChooseFrames, DecodeError, VideoInfo, read_clips
from datamodules.video.transforms import cut_views

FRAMES, SIDE, QUALITY = 8, 80, 60
TIMEOUT = 60.0
"""Seconds after which a file counts as broken."""


class Film(NamedTuple):
    """A film, as made by a worker."""

    strip: bytes
    """WebP with frames from left to right; empty if the file could not be read"""
    frames: int
    seconds: float
    """seconds from the first to the last frame"""
    reason: str
    """why it could not be read; empty if it could"""


class Films(Dataset[Film]):
    """Films of points: the centred square of evenly spread frames.

    Args:
        files: video of each point.
        spans: start and end of each point in seconds; None takes the complete video.
    """

    def __init__(self, files: list[Path], spans: list[tuple[float, float]] | None) -> None:
        self.files, self.spans = files, spans

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Film:
        span = self.spans[place] if self.spans is not None else None
        try:
            decoded = read_clips(self.files[place], spread_over(span), None, decode_timeout=TIMEOUT)
        except DecodeError as error:
            return Film(b"", 0, 0.0, str(error))
        square = view_boxes(decoded.info.width, decoded.info.height, 1)
        seconds = float(decoded.moments[0, -1] - decoded.moments[0, 0])
        clip = cut_views(decoded, square, SIDE)[0]
        return Film(to_strip(clip), len(clip), seconds, "")


def spread_over(span: tuple[float, float] | None) -> ChooseFrames:
    """Chooses frames spread evenly over a part of a video, including its first and last frame."""

    def choose(info: VideoInfo, rng: np.random.Generator | None) -> np.ndarray:
        ends = (0.0, np.inf) if span is None else span
        first, last = (int(min(max(0, round(min(end * info.fps, 1e9))), info.num_frames - 1)) for end in ends)
        return np.linspace(first, last, min(FRAMES, last - first + 1)).round().astype(np.int64)[None]

    return choose


def read_films(files: list[Path], spans: list[tuple[float, float]] | None, num_workers: int) -> list[Film]:
    """Films of points, in order; see `Films`."""
    ahead = 4 if num_workers else None
    loader: Any = DataLoader(Films(files, spans), batch_size=None, num_workers=num_workers, prefetch_factor=ahead)
    return list(tqdm(loader, desc="Films", unit="film", disable=None))


def to_strip(clip: Tensor) -> bytes:
    """Frames side by side: uint8 [n, H, W, 3] -> WebP."""
    content = io.BytesIO()
    Image.fromarray(torch.cat(list(clip), dim=1).numpy()).save(content, "WEBP", quality=QUALITY, method=4)
    return content.getvalue()


def middle_frame(film: Film) -> Image.Image:
    """The middle frame of a film, 80 x 80; grey if there is none."""
    if not film.strip:
        return Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    strip = Image.open(io.BytesIO(film.strip)).convert("RGB")
    left = film.frames // 2 * SIDE
    return strip.crop((left, 0, left + SIDE, SIDE))

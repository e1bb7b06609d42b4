"""Small videos with repetitions, and annotations in the official format."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from datamodules.prepare.synthesise import write_video

WIDTH, HEIGHT = 48, 32


def swinging(frames: int, period: float) -> Tensor:
    """A bright square that moves from left to right and back: uint8 [T, H, W, 3]."""
    video = torch.full((frames, HEIGHT, WIDTH, 3), 30, dtype=torch.uint8)
    for number in range(frames):
        left = round((WIDTH - 12) * (0.5 - 0.5 * np.cos(2 * np.pi * number / period)))
        video[number, 10:22, left : left + 12] = 220
    return video


def write_annotation(path: Path, borders: list[int], length: int | None = None) -> None:
    """An official file, with arrays of the smallest types; `length` is that of all cycles, or None where it is not known."""
    frames = borders[-1] - borders[0] + 1
    offsets = np.full((1, frames), -1 if length is None else length, np.int16)
    label = {
        "duration": np.array([[frames]], np.uint8 if frames < 256 else np.uint16),
        "start_frame": np.array([[borders[0]]], np.uint8),
        "end_frame": np.array([[borders[-1]]], np.uint8 if borders[-1] < 256 else np.uint16),
        "temporal_bound_num": np.array([[len(borders)]], np.uint8),
        "temporal_bound": np.array(borders, np.uint8 if borders[-1] < 256 else np.uint16)[:, None],
        "offset_next_estimate": offsets,
        "offset_pre_estimate": offsets,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"label": label})


def write_ucfrep(root: Path, train: int = 6, val: int = 3, pictures: bool = False) -> Path:
    """Videos that swing with periods of 6 to 8 frames, and their annotations.

    Args:
        root: folder to write to.
        train: number of training videos.
        val: number of validation videos.
        pictures: write folders of pictures instead of videos.
    """
    for split, numbers in (("train", range(train)), ("val", range(train, train + val))):
        for number in numbers:
            period, cycles = 6 + number % 3, 3 + number % 2
            action = ("YoYo", "HandStandPushups")[number % 2]
            name = f"v_{action}_g{number + 1:02d}_c01"
            # Two frames before the first cycle, and one behind the last.
            video = swinging(period * cycles + 4, period)
            write_annotation(root / f"annotations/{split}/{name}.mat", [3 + period * k for k in range(cycles + 1)], period)
            folder = root / "imgs" / split / action / name if pictures else root / action
            folder.mkdir(parents=True, exist_ok=True)
            if not pictures:
                write_video(folder / f"{name}.mp4", video, fps=8)
            for place, frame in enumerate(video.numpy() if pictures else [], 1):
                Image.fromarray(frame).save(folder / f"image_{place:05d}.jpg", quality=95)
    return root

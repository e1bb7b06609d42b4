"""Clips of skeleton recordings: workers crop in time and resize to T frames; everything else runs on the device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.loading.loader import SampleKey
from datamodules.skeleton.normalise import JOINTS, PERSONS
from datamodules.skeleton.store import Recordings
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError
from modules.core.randomness import worker_rng


@dataclass
class SkeletonClipSettings:
    """The clips that a method needs from each recording: their number, and how they are cropped in time.

    Training takes a random part of a recording and resizes it to `frames`; a part is never shorter than `frames`,
    and shorter recordings are used completely (Skeleton-Contrast, official code). Evaluation takes the middle.

    Args:
        frames: Frames per clip after resizing, T.
        clips: Clips per recording, each from a different part.
        share: Shortest and longest part for training, as fractions of the recording: 0.1 to 1 for pretraining, 0.5 to 1 for
            classification (official code).
        centre_share: Middle part for evaluation, as a fraction of the recording.
    """

    frames: int = 64
    clips: int = 1
    share: tuple[float, float] = (0.1, 1.0)
    centre_share: float = 0.95

    def __post_init__(self) -> None:
        for name in ("frames", "clips"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingError(f"data.clip.{name} is {value!r}; it must be an integer of at least 1.")
        low, high = self.share
        if not 0 < low <= high <= 1:
            raise SettingError(
                f"data.clip.share is {list(self.share)}; it must be two numbers above 0 and at most 1, the smaller first."
            )
        if not 0 < self.centre_share <= 1:
            raise SettingError(f"data.clip.centre_share is {self.centre_share}; it must be above 0 and at most 1.")

    @property
    def repeat(self) -> int:
        """Copies of each clip: always one (videos may have more)."""
        return 1

    @property
    def views(self) -> int:
        """V, clips per recording in a batch."""
        return self.clips


def crop_length(num_frames: int, share: float, frames: int) -> int:
    """Length of a training crop: a fraction of the recording, but at least `frames` and at most its length.

    Args:
        num_frames: Length of the recording.
        share: Fraction, drawn from `SkeletonClipSettings.share`.
        frames: Frames of the clip after resizing.
    """
    return min(max(int(num_frames * share), frames), num_frames)


def centre_start(num_frames: int, share: float) -> int:
    """First frame of the centred part; the same number of frames is left out before and after it."""
    return int((1 - share) * num_frames / 2)


def choose_part(settings: SkeletonClipSettings, num_frames: int, rng: np.random.Generator | None) -> tuple[int, int]:
    """Start and end (exclusive) of a crop: random with a generator, the middle without."""
    if rng is None:
        start = centre_start(num_frames, settings.centre_share)
        return start, num_frames - start
    low, high = settings.share
    length = crop_length(num_frames, low + (high - low) * rng.random(), settings.frames)
    start = int(rng.integers(num_frames - length + 1))
    return start, start + length


def resize_time(part: np.ndarray, frames: int) -> np.ndarray:
    """Linear interpolation along the first axis, between the centres of frames, without smoothing: [L, ...] -> [T, ...]."""
    length = len(part)
    position = ((np.arange(frames) + 0.5) * (length / frames) - 0.5).clip(0, None)
    before = position.astype(np.int64)
    after = np.minimum(before + 1, length - 1)
    weight = (position - before).astype(np.float32).reshape(-1, *[1] * (part.ndim - 1))
    return part[before] * (1 - weight) + part[after] * weight


class SkeletonDataset(Dataset[Batch]):
    """Crops of some recordings, served in whole batches. A sample is a function of (seed, epoch, row).

    Args:
        recordings: recordings of the complete data set.
        rows: int64 [N], rows of the split.
        clip: how to crop.
        seed: random seed of the run.
        train: random crops; False uses the middle.
    """

    def __init__(self, recordings: Recordings, rows: np.ndarray, clip: SkeletonClipSettings, seed: int, train: bool) -> None:
        self.recordings, self.rows, self.clip, self.seed, self.train = recordings, rows, clip, seed, train

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """A complete batch. `extra` contains the `length` of the complete recordings in frames."""
        found = self.rows[[key.row for key in keys]]
        clips = np.empty((len(keys), self.clip.clips, 3, self.clip.frames, JOINTS, PERSONS), np.float32)
        for key, row, views in zip(keys, found.tolist(), clips, strict=True):
            rng = worker_rng(self.seed, key.epoch, key.row) if self.train else None
            for view in views:
                start, end = choose_part(self.clip, int(self.recordings.length[row]), rng)
                part = self.recordings.read(row, start, end)
                view[..., : part.shape[-1]] = resize_time(part, self.clip.frames).swapaxes(0, 1)
                view[..., part.shape[-1] :] = 0
        return Batch(
            torch.tensor([key.row for key in keys]),
            torch.from_numpy(self.recordings.label[found]),
            {"skeleton": Stream("skeleton", torch.from_numpy(clips))},
            extra={"length": torch.from_numpy(self.recordings.length[found])},
        )

"""Samples from files: decode, crop, resize; a broken file is replaced by another one, always the same."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from datamodules.video.decode import DecodeError, Decoder, VideoInfo, read_clips
from datamodules.video.guard import WorkerGuard
from datamodules.video.loader import SampleKey
from datamodules.video.manifest import Manifest
from datamodules.video.sampling import ClipSettings, ViewSettings, choose_frames, choose_views
from datamodules.video.transforms import make_clips
from modules.core.randomness import worker_rng

ATTEMPTS = 10


class VideoClipDataset(Dataset[dict[str, Any]]):
    """Clips of the videos of a manifest.

    A sample is a function of (seed, epoch, index). A file that cannot be read is replaced by another one drawn from the
    same key, and named in the sample.

    Args:
        manifest: files and labels.
        clip: frames and crop.
        seed: of the run.
        train: random frames and crops; False takes the centre.
        decoder: library that decodes.
        decode_timeout: seconds after which a file counts as broken.
        guard: is told what is read, and knows files that must not be.
        views: test views, in the place of the clips of training or evaluation.
    """

    def __init__(
        self,
        manifest: Manifest,
        clip: ClipSettings,
        seed: int,
        train: bool,
        decoder: Decoder = "pyav",
        decode_timeout: float | None = None,
        guard: WorkerGuard | None = None,
        views: ViewSettings | None = None,
    ) -> None:
        self.views = views
        self.manifest, self.clip, self.seed, self.train = manifest, clip, seed, train
        self.decoder, self.decode_timeout = decoder, decode_timeout
        self.guard = guard or WorkerGuard(0)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """One sample.

        Returns:
            video uint8 [V, T, H, W, 3], index, label, time float32 [V, 2], decode_ms, substituted (row of the broken
            file that was wanted, or -1), faults (list of broken rows with reasons), unreplaced (bool).
        """
        start = time.perf_counter()
        # Evaluation is the same in every epoch, its substitutes too.
        epoch = key.epoch if self.train else 0
        faults: list[tuple[int, str]] = []
        for attempt in range(ATTEMPTS):
            rng = worker_rng(self.seed, epoch, key.row, attempt)
            row = key.row if attempt == 0 else int(rng.integers(len(self)))
            try:
                with self.guard.reading(row):
                    video, moments = self._read(row, rng if self.train else None)
                break
            except DecodeError as error:
                faults.append((row, error.reason))
        else:
            clip, views = self.clip, (self.views or self.clip).views
            video = torch.zeros(views, clip.frames, clip.size, clip.size, 3, dtype=torch.uint8)
            moments = np.zeros((views, 2), np.float32)
        return {
            "video": video,
            "index": torch.tensor(key.row),
            "label": torch.tensor(self.manifest.labels[row]),
            "time": torch.from_numpy(moments),
            "decode_ms": 1e3 * (time.perf_counter() - start),
            "substituted": torch.tensor(faults[0][0] if faults else -1),
            "unreplaced": torch.tensor(len(faults) == ATTEMPTS),
            "faults": faults,
        }

    def _read(self, row: int, rng: np.random.Generator | None) -> tuple[Tensor, np.ndarray]:
        def choose(info: VideoInfo, generator: np.random.Generator | None) -> np.ndarray:
            if self.views is not None:
                return choose_views(self.clip, self.views.segments, info)
            return choose_frames(self.clip, info, generator)

        crops = self.views.crops if self.views is not None else None
        decoded = read_clips(self.manifest.file(row), choose, rng, decode_timeout=self.decode_timeout, decoder=self.decoder)
        return make_clips(decoded, self.clip, rng, crops), np.repeat(decoded.time, crops or self.clip.repeat, axis=0)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Join samples; what only the host reads stays in lists: faults, chained, and decode times."""
    faults = [fault for sample in samples for fault in sample.pop("faults")]
    times = [sample.pop("decode_ms") for sample in samples]
    return default_collate(samples) | {"faults": faults, "decode_ms": times}

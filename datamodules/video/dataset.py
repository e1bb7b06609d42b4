"""Samples from files: decode, crop, resize; a broken file is replaced by another one, which is always the same."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.lists.manifest import Manifest
from datamodules.loading.loader import SampleKey
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.video.decode import ChooseFrames, DecodeError, Decoder, VideoInfo, read_clips
from datamodules.video.pyav_reader import facts_kept_in
from datamodules.video.readers import PictureFolder, Source
from datamodules.video.sampling import ClipSettings, Plan, ViewSettings, make_plan, part_of
from datamodules.video.transforms import cut_views
from modules.core.batch import Batch, Reading, Stream, Text, join_streams
from modules.core.randomness import worker_rng

ATTEMPTS = 10


class VideoClipDataset(Dataset[dict[str, Any]]):
    """Clips of the videos of a manifest.

    A sample is a function of (seed, epoch, index). A file that cannot be read is replaced by another file, drawn from the
    same key, and its row is recorded in the sample.

    Args:
        manifest: files and labels.
        clip: frames and crop.
        seed: random seed of the run.
        train: random frames and crops; False uses the centre.
        decoder: decoding library.
        decode_timeout: seconds after which a file counts as broken.
        guard: records which file is being read, and knows the files that must not be read.
        views: test views, instead of the clips of training or evaluation.
    """

    facts: Path | None = None
    """Cache folder for the results of scanning files, for large files; None lets every process scan them itself."""

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
            video uint8 [V, T, H, W, 3], index, label (with intervals: float32 [K], 1 for classes that occur in any of the clips
            between its first and last frame, or in evaluation in the part of the video of the row), time float32 [V, 2], box
            float32 [V, 4] (x1, y1, x2, y2 in pixels of the file's frames), decode_ms, substituted (row of the requested file
            that was broken, or -1), faults (list of broken rows with reasons), unreplaced (bool), and captions (list of
            sentences) if the manifest has captions. Other streams are in `streams`, by name; without video there are no video,
            time and box.
        """
        start = time.perf_counter()
        # Evaluation is the same in every epoch, including its substitutes.
        epoch = key.epoch if self.train else 0
        faults: list[tuple[int, str]] = []
        for attempt in range(ATTEMPTS):
            rng = worker_rng(self.seed, epoch, key.row, attempt)
            row = key.row if attempt == 0 else int(rng.integers(len(self)))
            try:
                with self.guard.reading(row), facts_kept_in(self.facts):
                    content = self._read(row, rng if self.train else None)
                break
            except DecodeError as error:
                faults.append((row, error.counted))
        else:
            content = self._nothing(row)
        return content | {
            "index": torch.tensor(key.row),
            "decode_ms": 1e3 * (time.perf_counter() - start),
            "substituted": torch.tensor(faults[0][0] if faults else -1),
            "unreplaced": len(faults) == ATTEMPTS,
            "faults": faults + content.pop("marked", []),
        }

    def _read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Read the file of a row: `video`, `label`, `time` and `box`. Raises DecodeError."""
        decoded = read_clips(self._file(row), self._choose(row), rng, decode_timeout=self.decode_timeout, decoder=self.decoder)
        plan = make_plan(decoded, self.clip, rng, self.views, self._end(row))
        return self._content(row, cut_views(decoded, plan.boxes, self.clip.size), plan)

    def _choose(self, row: int) -> ChooseFrames:
        """The function that chooses the frames of the file of a row."""

        def choose(info: VideoInfo, generator: np.random.Generator | None) -> np.ndarray:
            first, part = part_of(info, self._span(row))
            if self.views is not None:
                return first + self.clip.sampler.views(part, self.views.segments, self.clip.frames)
            return first + self.clip.choose(part, generator)

        return choose

    def _span(self, row: int) -> np.ndarray | None:
        """First and last second of the row's part of the file; None for the complete file."""
        return self.manifest.spans[row] if self.manifest.spans is not None else None

    def _end(self, row: int) -> float | None:
        """Last second of a row's part of the file; None if it ends with the file."""
        span = self._span(row)
        return float(span[1]) if span is not None and np.isfinite(span[1]) else None

    def _file(self, row: int) -> Source | PictureFolder:
        """The file of a row, on disk or in memory, or its folder of images."""
        return self._as_video(self.manifest.file(row))

    def _as_video(self, path: Path) -> Path | PictureFolder:
        """The video of a path: a file or a folder of images."""
        return path if self.manifest.fps is None else PictureFolder(path, self.manifest.fps)

    def _nothing(self, row: int) -> dict[str, Any]:
        """Black clips instead of files that could not be replaced; the run stops then."""
        clip, views = self.clip, (self.views or self.clip).views
        video = torch.zeros(views, clip.frames, clip.size, clip.size, 3, dtype=torch.uint8)
        return self._content(row, video, Plan.empty(views, clip.frames))

    def _content(self, row: int, video: Tensor | None, plan: Plan) -> dict[str, Any]:
        """A sample; data sets with further streams read them with the same plan, and add them as `streams` by name."""
        if self.manifest.intervals is None:
            label = torch.tensor(self.manifest.labels[row])
        else:
            span = self._span(row)
            whole = None if span is None else span[None]
            label = torch.from_numpy(self.manifest.shown(row, plan.time if self.train else whole))
        content: dict[str, Any] = {"label": label}
        if video is not None:
            content |= {"video": video, "time": torch.from_numpy(plan.time), "box": torch.from_numpy(plan.corners)}
        return content if self.manifest.texts is None else content | {"captions": self.manifest.texts[row]}


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Join samples of `VideoClipDataset` to a batch."""
    streams: dict[str, Stream | Text] = {}
    if "video" in samples[0]:
        clips = [Stream("video", one["video"], None, one.get("time"), one.get("box"), one.get("length")) for one in samples]
        streams["video"] = join_streams(clips)
    for name in samples[0].get("streams", {}):
        streams[name] = join_streams([sample["streams"][name] for sample in samples])
    if "captions" in samples[0]:
        streams["text"] = Text([sample["captions"] for sample in samples])
    spent: dict[str, list[float]] = {}
    for sample in samples:
        for name, milliseconds in sample.get("stream_ms", {}).items():
            spent.setdefault(name, []).append(milliseconds)
    reading = Reading(
        [sample["decode_ms"] for sample in samples],
        [fault for sample in samples for fault in sample["faults"]],
        [sample["unreplaced"] for sample in samples],
        spent,
    )
    index, label, substituted = (torch.stack([one[name] for one in samples]) for name in ("index", "label", "substituted"))
    return Batch(index, label, streams, substituted, reading=reading)

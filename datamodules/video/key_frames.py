"""Clips around key frames of films, with boxes of persons, for action detection.

Boxes are (x1, y1, x2, y2): fractions of width and height in lists, pixels of the clip in batches. Axis letters: `N` key frames,
`M` boxes, `K` actions, `T` frames.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.lists.folders import is_hidden
from datamodules.lists.manifest import Manifest
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.video.crops import Box
from datamodules.video.dataset import VideoClipDataset, collate
from datamodules.video.decode import DecodedClips, DecodeError, Decoder, VideoInfo, read_clips
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, Plan
from datamodules.video.transforms import crop_and_resize
from modules.core.batch import Batch, Regions

RATE = 30
"""Frame rate of clip strides, and of films that are folders of pictures."""


@dataclass(kw_only=True)
class KeyFrames(Manifest):
    """Key frames of one split. A film has several key frames, so paths repeat; labels are indices of films.

    Args:
        seconds: float64 [N], timestamp of each key frame, from the start of the film's file.
        boxes: float64 [M, 4], boxes of all key frames, concatenated.
        actions: bool [M, K]
        first: int64 [N + 1], index of the first box of each key frame, and finally M.
    """

    seconds: np.ndarray
    boxes: np.ndarray
    actions: np.ndarray
    first: np.ndarray

    @property
    def has_classes(self) -> bool:
        """False: labels are indices of films."""
        return False

    def of(self, row: int) -> slice:
        """The box indices of a key frame."""
        return slice(int(self.first[row]), int(self.first[row + 1]))

    def subset(self, rows: np.ndarray) -> "KeyFrames":
        """See `Manifest.subset`; boxes are renumbered."""
        kept = np.concatenate([np.arange(self.first[row], self.first[row + 1]) for row in rows])
        chosen: KeyFrames = super().subset(rows)  # type: ignore[assignment]
        return replace(
            chosen,
            seconds=self.seconds[rows],
            boxes=self.boxes[kept],
            actions=self.actions[kept],
            first=np.concatenate([[0], np.diff(self.first)[rows].cumsum()]),
        )

    def sha256(self) -> str:
        """Hash of films, timestamps, boxes and actions."""
        tables = (self.seconds, self.boxes, self.actions, self.first)
        names = [f"{path}\t{film}" for path, film in zip(self.paths, self.labels.tolist(), strict=True)]
        digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape"))
        for table in tables:
            digest.update(np.ascontiguousarray(table).tobytes())
        return digest.hexdigest()


def key_frame_indices(seconds: float, frames: int, stride: int, info: VideoInfo) -> np.ndarray:
    """The frame indices of a clip around a timestamp: positions -T/2 to T/2 - 1, `stride` thirtieths of a second apart for any
    frame rate of the film, which is assumed to be constant. Beyond the film, its first or last frame repeats (SEVERE, official
    code).

    Args:
        seconds: timestamp of the key frame.
        frames: T.
        stride: distance of frames, in thirtieths of a second.
        info: description of the film.

    Returns:
        int64 [1, T], ascending.

    Raises:
        DecodeError: if the film ends before the key frame.
    """
    if seconds >= info.num_frames / info.fps:
        raise DecodeError("no frame decoded", f"the film ends before second {seconds:g}")
    moments = seconds + (np.arange(frames) - frames // 2) * stride / RATE
    return np.floor(moments * info.fps + 0.5).astype(np.int64).clip(0, info.num_frames - 1)[None]


@cache
def _pictures_in(folder: Path) -> int:
    return sum(not is_hidden(path.name) for path in folder.glob("*.jpg"))


def read_pictures(folder: Path, seconds: float, frames: int, stride: int) -> DecodedClips:
    """A clip of a film that is a folder of pictures, 30 per second, starting with `<folder>_000001.jpg`.

    Args:
        folder: folder with the name of the film.
        seconds: timestamp of the key frame.
        frames: T.
        stride: distance of frames, in thirtieths of a second.

    Raises:
        DecodeError: if a picture is missing or broken.
    """
    info = VideoInfo(_pictures_in(folder), float(RATE), 0, 0)
    numbers = key_frame_indices(seconds, frames, stride, info)
    unique, position = np.unique(numbers, return_inverse=True)
    pictures = []
    for number in unique.tolist():
        file = folder / f"{folder.name}_{number + 1:06d}.jpg"
        try:
            with Image.open(file) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
        except FileNotFoundError as error:
            raise DecodeError("file not found", file.name) from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DecodeError("failed while decoding", f"{file.name}: {error}") from error
    if len({picture.shape for picture in pictures}) > 1:
        raise DecodeError("frame size changes")
    return DecodedClips(pictures, position.reshape(numbers.shape), info, numbers, (numbers / RATE).astype(np.float32))


def move_boxes(boxes: np.ndarray, frame: tuple[int, int], crop: Box, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes relative to a crop of the frame, and which of them are inside.

    Args:
        boxes: float64 [M, 4], as fractions of the frame.
        frame: its width and height.
        crop: part of the frame.
        size: width and height that the crop is resized to.

    Returns:
        float32 [M, 4] in pixels of the resized crop, clipped to its borders, and bool [M], whether the clipped box has an area.
    """
    frame_twice, size_twice = np.tile(frame, 2), np.tile(size, 2)
    moved = (boxes * frame_twice - [crop.x, crop.y] * 2) * size_twice / ([crop.width, crop.height] * 2)
    moved = np.clip(moved, 0, size_twice)
    inside = (moved[:, 2:] > moved[:, :2]).all(1)
    return torch.from_numpy(moved.astype(np.float32)), torch.from_numpy(inside)


class KeyFrameDataset(VideoClipDataset):
    """Clips around key frames.

    Training uses a square of the frame, drawn by `clip.crop`, and the boxes in it; evaluation the complete frame and all boxes.

    Args:
        manifest: films, key frames and boxes.
        clip: frames, size and crop; its sampler is `Dense`, with the stride in thirtieths of a second.
        seed: random seed of the run.
        train: whether squares are random.
        square: whether evaluation resizes the complete frame to a square; otherwise its shorter side becomes `clip.size`.
        decoder: decoding library.
        decode_timeout: seconds after which a film counts as broken.
        guard: records which film is being read.
    """

    manifest: KeyFrames

    def __init__(
        self,
        manifest: KeyFrames,
        clip: ClipSettings,
        seed: int,
        train: bool,
        square: bool = False,
        decoder: Decoder = "pyav",
        decode_timeout: float | None = None,
        guard: WorkerGuard | None = None,
    ) -> None:
        super().__init__(manifest, clip, seed, train, decoder, decode_timeout, guard)
        assert isinstance(clip.sampler, Dense)
        self.square, self.stride = square, clip.sampler.stride

    def _read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        path, seconds, clip = self.manifest.file(row), float(self.manifest.seconds[row]), self.clip
        if path.is_dir():
            decoded = read_pictures(path, seconds, clip.frames, self.stride)
        else:
            decoded = read_clips(
                path,
                lambda info, _: key_frame_indices(seconds, clip.frames, self.stride, info),
                rng,
                decode_timeout=self.decode_timeout,
                decoder=self.decoder,
            )
        height, width = decoded.frames[0].shape[:2]
        size, crop = (clip.size, clip.size), Box(0, 0, width, height)
        if rng is not None:
            crop = clip.crop.draw(width, height, clip.size, rng)
        elif not self.square:
            size = tuple(max(clip.size, side * clip.size // min(width, height)) for side in (width, height))
        video = crop_and_resize(decoded.frames, crop, size[::-1])[torch.from_numpy(decoded.position)]
        boxes, inside = move_boxes(self.manifest.boxes[self.manifest.of(row)], (width, height), crop, size)
        # Every detected box must get a score, wherever it is.
        kept = inside if rng is not None else torch.ones_like(inside)
        return self._sample(row, video, boxes, kept, Plan(decoded.numbers, decoded.moments, decoded.time, [crop]))

    def _nothing(self, row: int) -> dict[str, Any]:
        video = torch.zeros(1, self.clip.frames, self.clip.size, self.clip.size, 3, dtype=torch.uint8)
        boxes = torch.zeros(self.manifest.of(row).stop - self.manifest.of(row).start, 4)
        return self._sample(row, video, boxes, torch.zeros(len(boxes), dtype=torch.bool), Plan.empty(1, self.clip.frames))

    def _sample(self, row: int, video: Tensor, boxes: Tensor, kept: Tensor, plan: Plan) -> dict[str, Any]:
        place = self.manifest.of(row)
        actions = torch.from_numpy(self.manifest.actions[place])
        return {
            "video": video,
            "label": actions.any(0).float(),
            "regions": Regions(boxes[kept], actions[kept].float(), torch.arange(place.start, place.stop)[kept]),
            "time": torch.from_numpy(plan.time),
            "box": torch.from_numpy(plan.corners),
        }


def collate_boxes(samples: list[dict[str, Any]]) -> Batch:
    """Join samples; the boxes of all clips are concatenated, each with the index of its clip in the batch in front."""
    regions = [sample["regions"] for sample in samples]
    clip = torch.repeat_interleave(torch.arange(len(regions)), torch.tensor([len(own.box) for own in regions]))
    boxes, actions, numbers = (torch.cat([getattr(own, name) for own in regions]) for name in ("box", "action", "number"))
    return replace(collate(samples), regions=Regions(torch.cat([clip[:, None].float(), boxes], 1), actions, numbers))

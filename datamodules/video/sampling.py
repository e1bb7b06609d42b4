"""Which frames and which crop of each video are used, chosen once for all streams of a sample.

Axis letters: `V` views, `T` frames.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from datamodules.video.crops import Box, Crop, MultiScale, view_boxes
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.samplers import Dense, Sampler
from modules.core.errors import check_whole


@dataclass(kw_only=True)
class ClipSettings:
    """The clips that a method needs from each video: number, frames and crops.

    Args:
        frames: Frames per clip, T.
        size: Height and width of the clips after crop and resize, in pixels.
        clips: Clips per video, each with its own start; the file is opened only once.
        repeat: Copies of each clip, decoded once and cropped independently. A batch has V = clips * repeat clips per
            video, the copies of one clip next to each other.
        sampler: Which frames: Dense, Jittered, Looped, Segments, Spanning, Strided, Timed or Wrapped for independent clips;
            Partitioned for clips of equal parts; OrderedClips, DecreasingGap or FramePair for clips at certain distances.
        crop: Crop of the training clips: MultiScale, RandomResized, Stretched, Square or Centre for independent
            crops; Shared or Nested for related crops of several clips. Evaluation uses centred squares.
    """

    frames: int = 16
    size: int = 224
    clips: int = 1
    repeat: int = 1
    sampler: Sampler = field(default_factory=Dense)
    crop: Crop = field(default_factory=MultiScale)

    def __post_init__(self) -> None:
        check_whole("data.clip", 1, frames=self.frames, size=self.size, clips=self.clips, repeat=self.repeat)
        self.sampler.check(self.clips, self.frames)
        self.crop.check(self.clips, self.repeat)

    @property
    def views(self) -> int:
        """V, clips per video in a batch."""
        return self.clips * self.repeat

    @property
    def ordered(self) -> bool:
        """Whether the clips of a video follow each other in time, in the order of their numbers."""
        return self.sampler.ordered

    def choose(self, info: VideoInfo, rng: np.random.Generator | None) -> np.ndarray:
        """The frames of all clips of a video, int64 [clips, T], without copies; see `Sampler.draw`."""
        return self.sampler.draw(info, self.clips, self.frames, rng)


@dataclass
class ViewSettings:
    """The views of each test video: V = segments * crops, the crops of one segment next to each other.

    Args:
        segments: Clips over time, distributed by `data.clip.sampler` (VideoMAE: 5, with `Segments` 2; SEVERE: 10).
        crops: Squares along the longer side, from one end to the other (VideoMAE: 3), or one in the centre.
    """

    segments: int = 5
    crops: int = 3

    def __post_init__(self) -> None:
        check_whole("data.views", 1, segments=self.segments, crops=self.crops)

    @property
    def views(self) -> int:
        """V, clips per video in a batch."""
        return self.segments * self.crops


@dataclass
class Plan:
    """The times and boxes of the views of one sample. All streams of the sample use it.

    Args:
        frames: int64 [V, T], frame indices in the video, or steps of the stream that the plan was made for.
        moments: float32 [V, T], timestamps of the frames, in seconds from the first frame of the file.
        time: float32 [V, 2], start and end of the part of the video that a view shows.
        boxes: Box of each view, in pixels of the upright frame; empty boxes if the plan was made for a stream without pictures.
        picture: Width and height of the frames that the boxes refer to.
        length: Number of frames of the complete recording, or of steps of the stream; 0 if unknown.
        file: The file that the plan was made for.
        span: First and last second of the row's part of the file; infinite for the ends of the file, None for the complete
            file.
        duration: Length of the complete file in seconds.
    """

    frames: np.ndarray
    moments: np.ndarray
    time: np.ndarray
    boxes: list[Box]
    picture: tuple[int, int] = (0, 0)
    length: int = 0
    file: Path | None = None
    span: tuple[float, float] | None = None
    duration: float = 0.0

    @classmethod
    def empty(cls, views: int, frames: int) -> "Plan":
        """An empty plan, for black clips."""
        nothing = np.zeros((views, frames), np.float32)
        return cls(nothing.astype(np.int64), nothing, np.zeros((views, 2), np.float32), [Box(0, 0, 0, 0)] * views)

    @property
    def views(self) -> int:
        """V"""
        return len(self.boxes)

    @property
    def corners(self) -> np.ndarray:
        """The boxes as float32 [V, 4]: x1, y1, x2, y2."""
        return np.array([(x, y, x + width, y + height) for x, y, width, height in self.boxes], np.float32)

    def frames_at(self, fps: float, num_frames: int) -> np.ndarray:
        """The frames of another stream of the same sample at the plan's timestamps.

        Args:
            fps: Frame rate of that stream.
            num_frames: Its length; after its end, the last frame is used.

        Returns:
            int64 [V, T]
        """
        return np.floor(self.moments.astype(np.float64) * fps + 0.5).astype(np.int64).clip(0, num_frames - 1)


def part_of(info: VideoInfo, span: np.ndarray | None) -> tuple[int, VideoInfo]:
    """The part of a recording that a row of a list refers to.

    Args:
        info: Description of the complete file.
        span: float64 [2], first and last second; infinite for the file's ends, None for the complete file.

    Returns:
        Its first frame, and the description of a recording that consists of this part only.

    Raises:
        DecodeError: If the span contains nothing of the file.
    """
    if span is None:
        return 0, info
    ends = np.clip(np.asarray(span, np.float64) * info.fps + 0.5, 0, info.num_frames)
    first, last = (int(end) for end in np.floor(ends))
    if last <= first:
        raise DecodeError("too short", f"nothing between {span[0]:g} s and {span[1]:g} s of {info.num_frames / info.fps:g} s")
    return first, replace(info, num_frames=last - first)


class Chosen(Protocol):
    """The steps of a recording in the clips of a sample, and their timestamps."""

    info: VideoInfo
    """description of the upright recording; its width is 0 if it has no pictures"""
    numbers: np.ndarray
    """int64 [clips, T]"""
    moments: np.ndarray
    """float32 [clips, T], seconds from the first frame of the file"""


@dataclass
class Steps:
    """`Chosen` for a stream without pictures."""

    info: VideoInfo
    numbers: np.ndarray
    moments: np.ndarray


def make_plan(
    chosen: Chosen,
    clip: ClipSettings,
    rng: np.random.Generator | None,
    views: ViewSettings | None = None,
    end: float | None = None,
) -> Plan:
    """Make a plan from chosen frames by drawing the boxes of all views.

    Args:
        chosen: Chosen frames of each clip.
        clip: Settings of the clips.
        rng: Source of randomness for the boxes; `None` uses centred squares, for evaluation.
        views: Test views, whose crops are used instead.
        end: End of the part that may be shown, in seconds; `None` for the end of the file.
    """
    info, frames, moments = chosen.info, chosen.numbers, chosen.moments
    width, height, clips = info.width, info.height, len(frames)
    time = np.stack([moments[np.arange(clips), frames.argmin(1)], moments[:, -1]], 1)
    # A clip that continues with the beginning of a short video shows all of it.
    time[frames[:, -1] < frames.max(1), 1] = info.num_frames / info.fps if end is None else end
    copies = clip.repeat if views is None else views.crops
    if not width:
        boxes = [Box(0, 0, 0, 0)] * (clips * copies)
    elif views is not None:
        boxes = view_boxes(width, height, views.crops, clip.crop.centre) * clips
    elif rng is not None:
        boxes = clip.crop.boxes(width, height, clip.size, clips, clip.repeat, rng)
    else:
        boxes = view_boxes(width, height, 1, clip.crop.centre) * clip.views
    frames, moments, time = (np.repeat(table, copies, axis=0) for table in (frames, moments, time))
    whole = (info.num_frames, info.num_frames / info.fps)
    return Plan(frames, moments, time, boxes, (width, height), length=whole[0], duration=whole[1])

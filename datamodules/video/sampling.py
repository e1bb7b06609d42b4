"""Which frames of a video make a clip. Pure functions of the video's length and a generator.

With a generator the clips are those of training; with `None` they are fixed, for evaluation. Numbers count the frames
of the video in display order, from 0. Axis letters: `V` clips, `T` frames.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.video.readers import VideoInfo
from modules.core.errors import SettingError

Short = Literal["first_frame", "spread"]


@dataclass
class ClipSettings:
    """What a method needs of each video: how many clips, which frames, and how they are cropped.

    Args:
        frames: Frames per clip, T.
        stride: Frames of the video from one sampled frame to the next, or the largest of them. Not for `segment` and `timed`.
        size: Height and width of the clips after crop and resize, in pixels.
        clips: Clips per video, each with its own start; the file is opened once.
        repeat: Copies of each clip, decoded once and cropped independently. A batch holds V = clips * repeat clips per
            video, the copies of one clip next to each other.
        sampling: `dense` takes every stride-th frame from a random start. `jittered` draws the stride from 1 to `stride` for
            each training clip, and moves each frame by less than it (TubeletContrast). `segment` cuts the video into T
            equal parts and takes one frame of each (TSN; usual for Something-Something). `spanning` spreads T frames over
            T * stride of them, the last included, for fine-tuning of VideoMAE. `timed` takes `fps` frames per second.
        fps: Frames per second of `sampling: timed` (SEVERE).
        short: What `segment` makes of a video with fewer than T frames. `first_frame` repeats its first frame T times, as
            the official code does in training and validation; `spread` spreads its frames evenly over the clip, as the
            official code does when testing. (`dense` always repeats the last frame that it reaches.)
        crop: How training clips are cropped, one draw per clip: `multi_scale` (VideoMAE pretraining),
            `random_resized` (random area and aspect ratio), `stretched` (a square of the picture stretched to 4:3,
            TubeletContrast), `square` (of random side, anywhere), or `centre`. Evaluation always uses `centre`.
        centre: Side of a `centre` crop as a share of the picture's shorter side (SEVERE 0.875).
        scale: Smallest and largest area of a `random_resized` crop, as a share of the picture; or side of a `square` crop, as a
            share of the picture's shorter side.
        ratio: Smallest and largest aspect ratio (width / height) of a `random_resized` crop.
    """

    frames: int = 16
    stride: int = 4
    size: int = 224
    clips: int = 1
    repeat: int = 1
    sampling: Literal["dense", "jittered", "segment", "spanning", "timed"] = "dense"
    fps: float = 16.0
    short: Short = "first_frame"
    crop: Literal["multi_scale", "random_resized", "stretched", "square", "centre"] = "multi_scale"
    centre: float = 1.0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "size", "clips", "repeat"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingError(f"data.clip.{name} is {value!r}; it must be a whole number of at least 1.")
        if not self.fps > 0 or not 0 < self.centre <= 1:
            raise SettingError(
                f"data.clip.fps is {self.fps} and data.clip.centre {self.centre}; the one must be above 0, the other above 0 "
                "and at most 1."
            )
        _check_range("scale", self.scale, highest=1.0)
        _check_range("ratio", self.ratio, highest=float("inf"))

    @property
    def views(self) -> int:
        """V, clips per video in a batch."""
        return self.clips * self.repeat


@dataclass
class ViewSettings:
    """The views of each test video: V = segments * crops, the crops of one segment next to each other.

    Segments follow `data.clip.sampling`. `dense`, `jittered` and `spanning`: windows of T frames spread evenly over every
    stride-th frame of the whole video (VideoMAE: 5). `segment`: T frames spread over the whole video, each view shifted by an
    equal part of the way to the next frame (VideoMAE: 2). `timed`: windows spread over the video at `fps` (SEVERE: 10).

    Args:
        segments: Clips over time.
        crops: Squares along the longer side, from one end to the other (VideoMAE: 3), or one in the centre.
    """

    segments: int = 5
    crops: int = 3

    def __post_init__(self) -> None:
        for name in ("segments", "crops"):
            if getattr(self, name) < 1:
                raise SettingError(f"data.views.{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def views(self) -> int:
        """V, clips per video in a batch."""
        return self.segments * self.crops


def _check_range(name: str, bounds: tuple[float, float], highest: float) -> None:
    low, high = bounds
    if not 0 < low <= high <= highest:
        limit = "above 0" if highest == float("inf") else f"above 0 and at most {highest:g}"
        raise SettingError(f"data.clip.{name} is {list(bounds)}; it must be two numbers {limit}, the smaller first.")


def dense_indices(
    num_frames: int, frames: int, stride: int, rng: np.random.Generator | None, position: float = 0.5
) -> np.ndarray:
    """Every `stride`-th frame from one start: the pretraining rule of VideoMAE, official code.

    A video of at least `frames * stride` frames gives a start drawn uniformly from all that leave room for that span.
    A shorter one is read from its beginning, and the last frame reached is repeated.

    Args:
        num_frames: Length of the video.
        frames: Length of the clip, T.
        stride: Distance between sampled frames.
        rng: Draws the start; `None` takes it at `position`.
        position: Where the clip lies without a generator, from 0 (first possible start) to 1 (last); 0.5 is the centre.

    Returns:
        int64 [T], ascending.
    """
    room = num_frames - frames * stride
    if room < 0:
        last = (num_frames - 1) // stride * stride
        return np.minimum(np.arange(frames) * stride, last)
    start = int(position * room) if rng is None else int(rng.integers(0, room + 1))
    return start + np.arange(frames) * stride


def jittered_indices(num_frames: int, stride: int, jitter: np.ndarray, start: int) -> np.ndarray:
    """Frames of TubeletContrast (official code): start + i * stride + jitter[i], the last frame repeated beyond the end.

    Args:
        num_frames: Length of the video.
        stride: Distance between frames before jitter.
        jitter: int64 [T], from 0 to stride - 1.
        start: First frame, before jitter.

    Returns:
        int64 [T], ascending.
    """
    return np.minimum(start + np.arange(len(jitter)) * stride + jitter, num_frames - 1)


def draw_jittered(num_frames: int, frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """Draw stride, jitter and start of `jittered_indices`; a start is drawn where the frames before jitter leave room.

    Args:
        num_frames: Length of the video.
        frames: Length of the clip, T.
        stride: Largest stride; all from 1 on are equally likely.
        rng: Source of randomness.
    """
    chosen = int(rng.integers(1, stride + 1))
    jitter = rng.integers(0, chosen, size=frames)
    room = num_frames - (chosen * (frames - 1) + 1)
    return jittered_indices(num_frames, chosen, jitter, int(rng.integers(0, room + 1)) if room > 0 else 0)


def segment_indices(
    num_frames: int, frames: int, rng: np.random.Generator | None, position: float = 0.5, short: Short = "first_frame"
) -> np.ndarray:
    """One frame of each of T equal segments: the fine-tuning rule of VideoMAE for SSv2, official code (TSN).

    Training segments are `num_frames // frames` long, so up to T - 1 last frames are never drawn, as in the official
    code.

    Args:
        num_frames: Length of the video.
        frames: Number of segments, T.
        rng: Draws one frame per segment; `None` takes the one at `position` of each segment.
        position: From 0 (beginning of the segment) to 1 (its end, exclusive); 0.5 is the centre.
        short: Where the video has fewer than T frames, `first_frame` gives T times frame 0, and `spread` all frames in
            order, each repeated as often as needed.

    Returns:
        int64 [T], ascending.
    """
    if num_frames < frames and short == "first_frame":
        return np.zeros(frames, np.int64)
    if rng is None or num_frames < frames:
        offset = position if rng is None else 0.0
        return ((np.arange(frames) + offset) * (num_frames / frames)).astype(np.int64)
    length = num_frames // frames
    return np.arange(frames) * length + rng.integers(0, length, size=frames)


def spanning_indices(
    num_frames: int, frames: int, stride: int, rng: np.random.Generator | None, position: float = 0.5
) -> np.ndarray:
    """T frames spread evenly over a span of T * stride, its last one included: fine-tuning of VideoMAE on Kinetics, official
    code. So frames are a little more than `stride` apart.

    Args:
        num_frames: Length of the video.
        frames: Length of the clip, T.
        stride: Span over the length of the clip.
        rng: Draws the end of the span; `None` takes it at `position`.
        position: Where the span lies without a generator, from 0 to 1; 0.5 is the centre.

    Returns:
        int64 [T], ascending. A video that is not longer than the span is read as a whole, every stride-th frame, and its last
        frame repeated.
    """
    span = frames * stride
    if num_frames <= span:
        spread = np.linspace(0, num_frames, num_frames // stride)
        spread = np.concatenate([spread, np.full(frames - len(spread), num_frames)])
        return spread.clip(0, num_frames - 1).astype(np.int64)
    room = num_frames - 1 - span
    end = span + (int(position * room) if rng is None else int(rng.integers(0, room + 1)))
    return np.linspace(end - span, end, frames).clip(end - span, end - 1).astype(np.int64)


def resample(num_frames: int, source_fps: float, fps: float, start: float, duration: float) -> np.ndarray:
    """Frames of a stretch of time at another rate: SEVERE, official code.

    Args:
        num_frames: Length of the video.
        source_fps: Of the video.
        fps: Wanted rate; a slower video repeats frames.
        start: In seconds.
        duration: In seconds.

    Returns:
        int64 [n], ascending, at least one frame and at most duration * fps.
    """
    end = min(start + duration - 0.5 / source_fps, num_frames / source_fps)
    moments = np.arange(start, end, 1 / fps)[: max(1, int(duration * fps))]
    return (moments * source_fps).astype(np.int64).clip(0, num_frames - 1)


def timed_indices(
    info: VideoInfo, frames: int, fps: float, rng: np.random.Generator | None, position: float = 0.5
) -> np.ndarray:
    """T frames at a rate: SEVERE, official code. A video that is too short is read from its beginning and then repeated.

    Args:
        info: The video; its length and rate are used.
        frames: Length of the clip, T.
        fps: Wanted frames per second.
        rng: Draws the start; `None` takes it at `position`.
        position: Where the clip lies without a generator, from 0 to 1; 0.5 is the centre.

    Returns:
        int64 [T]
    """
    duration = frames / fps
    room = max(0.0, info.num_frames / info.fps - duration)
    start = position * room if rng is None else rng.uniform(0, room)
    return np.resize(resample(info.num_frames, info.fps, fps, start, duration), frames)


def choose_views(settings: ClipSettings, segments: int, info: VideoInfo) -> np.ndarray:
    """The frame numbers of the test clips of one video; see `ViewSettings`.

    Args:
        settings: What to sample.
        segments: Clips per video.
        info: The video.

    Returns:
        int64 [segments, T], all in 0 .. num_frames - 1.
    """
    total, frames = info.num_frames, settings.frames
    if settings.sampling == "segment":
        tick = total / frames
        return (tick / segments * np.arange(segments)[:, None] + tick * np.arange(frames)).astype(np.int64)
    starts: np.ndarray
    if settings.sampling == "timed":
        whole = resample(total, info.fps, settings.fps, 0.0, total / info.fps)
        starts = np.linspace(0, max(len(whole) - frames, 1), segments) if len(whole) > frames else np.zeros(segments)
    else:
        whole = np.arange(0, total, settings.stride)
        # A single window lies in the middle.
        room = max(len(whole) - frames, 0)
        starts = np.arange(segments) * (room / (segments - 1)) if segments > 1 else np.array([room / 2])
        whole = np.concatenate([whole, np.full(max(0, frames - len(whole)), whole[-1])])
    return np.stack([np.resize(whole[int(start) : int(start) + frames], frames) for start in starts])


def choose_frames(settings: ClipSettings, info: VideoInfo, rng: np.random.Generator | None) -> np.ndarray:
    """The frame numbers of every clip of one video.

    Without a generator one clip lies in the centre; several are spread evenly, dense ones from the first possible
    start to the last, segment ones over the segments' lengths.

    Args:
        settings: What to sample.
        info: The video; its length is used, and its rate for `timed`.
        rng: Each clip draws from it in turn; `None` for the fixed clips of evaluation.

    Returns:
        int64 [clips, T], all in 0 .. num_frames - 1, each row ascending but for what `timed` repeats of a short video.
        Copies of a clip are not in it: they differ only in their crop.
    """
    rows = []
    for clip in range(settings.clips):
        position = clip / (settings.clips - 1) if settings.clips > 1 else 0.5
        if settings.sampling == "segment":
            position = (clip + 0.5) / settings.clips
            rows.append(segment_indices(info.num_frames, settings.frames, rng, position, settings.short))
        elif settings.sampling == "timed":
            rows.append(timed_indices(info, settings.frames, settings.fps, rng, position))
        elif settings.sampling == "jittered" and rng is not None:
            rows.append(draw_jittered(info.num_frames, settings.frames, settings.stride, rng))
        elif settings.sampling == "spanning":
            rows.append(spanning_indices(info.num_frames, settings.frames, settings.stride, rng, position))
        else:
            rows.append(dense_indices(info.num_frames, settings.frames, settings.stride, rng, position))
    return np.stack(rows).astype(np.int64)

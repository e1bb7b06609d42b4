"""Temporal sampling of clips: one class per rule, selected by `data.clip.sampler`.

With a generator, clips are random, for training; with `None`, they are fixed, for evaluation. Frame indices count the frames
of the video in display order, from 0. Axis letters: `V` clips, `T` frames.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from datamodules.video.readers import DecodeError, VideoInfo
from modules.core.errors import SettingError, check_positive, check_whole, given

Short = Literal["first_frame", "spread"]
OWNER = "data.clip.sampler"


class Sampler(ABC):
    """Chooses the frames of all clips of a video at once."""

    related: ClassVar[bool] = False
    """Whether the positions of a video's clips are related."""
    ordered: ClassVar[bool] = False
    """Whether the clips of a video follow each other in time, in the order of their numbers."""

    def check(self, clips: int, frames: int) -> None:  # noqa: B027  (most rules serve any)
        """Refuse a number of clips per video, or of frames per clip, that the rule does not support.

        Raises:
            SettingError: with the number that the rule supports.
        """

    @abstractmethod
    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """The clips of training or, with `None`, of validation and probes.

        Args:
            info: Description of the video; its length is used, and its rate if a rule depends on seconds.
            clips: Number of clips, V.
            frames: Frames per clip, T.
            rng: Source of randomness, used by each clip in turn; without it, one clip is in the centre, and several are spread
                evenly.

        Returns:
            int64 [V, T], all in 0 .. num_frames - 1.

        Raises:
            DecodeError: If the video is too short for the rule.
        """

    @abstractmethod
    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """The clips of a test, spread over the complete video.

        Args:
            info: Description of the video.
            segments: Number of clips.
            frames: Frames per clip, T.

        Returns:
            int64 [segments, T], all in 0 .. num_frames - 1.
        """


@dataclass(frozen=True)
class Dense(Sampler):
    """Every `stride`-th frame from a random start (VideoMAE).

    A test takes windows of T frames, spaced evenly over every stride-th frame of the complete video (VideoMAE: 5).

    Args:
        stride: Frames of the video between sampled frames.
    """

    stride: int = 4

    def __post_init__(self) -> None:
        check_whole(OWNER, 1, stride=self.stride)

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`; without generator, clips are spread from the first possible start to the last."""
        return np.stack([dense_indices(info.num_frames, frames, self.stride, rng, place) for place in evenly(clips)])

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`."""
        return strided_views(info.num_frames, segments, frames, self.stride)


@dataclass(frozen=True)
class Jittered(Sampler):
    """Frames at a random stride, each shifted by less than the stride (TubeletContrast); evaluation and test like `Dense`.

    Args:
        stride: Largest stride; each training clip draws its own, from 1 on. Evaluation and test use the largest.
    """

    stride: int = 4

    def __post_init__(self) -> None:
        check_whole(OWNER, 1, stride=self.stride)

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`."""
        if rng is None:
            return Dense(self.stride).draw(info, clips, frames, None)
        return np.stack([draw_jittered(info.num_frames, frames, self.stride, rng) for _ in range(clips)])

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`."""
        return strided_views(info.num_frames, segments, frames, self.stride)


@dataclass(frozen=True)
class Segments(Sampler):
    """One frame of each of T equal parts of the video (TSN; usual for Something-Something).

    A test takes T frames spaced over the complete video, each view shifted by an equal fraction of the spacing
    (VideoMAE: 2).

    Args:
        short: How to handle a video with fewer than T frames. `first_frame` repeats its first frame T times, as VideoMAE's
            official code does in training and validation; `spread` spreads its frames evenly over the clip, as that code does
            when testing.
    """

    short: Short = "first_frame"

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`; without generator, clips are spread over the length of a part."""
        places = (np.arange(clips) + 0.5) / clips
        return np.stack([segment_indices(info.num_frames, frames, rng, float(place), self.short) for place in places])

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`."""
        tick = info.num_frames / frames
        return (tick / segments * np.arange(segments)[:, None] + tick * np.arange(frames)).astype(np.int64)


@dataclass(frozen=True)
class Spanning(Sampler):
    """T frames spread over a span of T * `stride` frames, including its last one (VideoMAE's fine-tuning); test like `Dense`.

    Args:
        stride: Frames of the video for each frame of the clip.
    """

    stride: int = 4

    def __post_init__(self) -> None:
        check_whole(OWNER, 1, stride=self.stride)

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`."""
        return np.stack([spanning_indices(info.num_frames, frames, self.stride, rng, place) for place in evenly(clips)])

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`."""
        return strided_views(info.num_frames, segments, frames, self.stride)


@dataclass(frozen=True)
class Partitioned(Sampler):
    """One clip of each of several equal parts of the video, each like `Spanning` (attentive probes of V-JEPA, official code).

    Training starts anywhere in each part, evaluation and test in its middle (the official code also draws those). If the parts
    are not longer than a clip, the clips overlap and are spread from the beginning of the video to its end.

    Args:
        stride: Frames of the video for each frame of the clip.
    """

    stride: int = 4

    def __post_init__(self) -> None:
        check_whole(OWNER, 1, stride=self.stride)

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`."""
        return partitioned(info.num_frames, clips, frames, self.stride, rng)

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`."""
        return partitioned(info.num_frames, segments, frames, self.stride, None)


@dataclass(frozen=True)
class Strided(Sampler):
    """Every `stride`-th frame of a video of `fps` frames per second, whatever its own rate (SlowFast's and SEVERE's Charades).

    A clip that is longer than the video starts at most so far before it or ends so far behind it, and repeats its first or
    last frame there. A test takes windows evenly spaced from the first to the last possible one (SEVERE: 10).

    Args:
        stride: Frames between sampled ones, at that rate.
        fps: Frames per second that the stride counts.
    """

    stride: int = 8
    fps: float = 24.0

    def __post_init__(self) -> None:
        check_whole(OWNER, 1, stride=self.stride)
        check_positive(OWNER, fps=self.fps)

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`."""
        room = self._length(info) - self._span(frames)
        if rng is None:
            starts = [round(max(room, 0) * place) for place in evenly(clips)]
        else:
            starts = rng.integers(min(room, 0), max(room, 0), clips, endpoint=True).tolist()
        return self._at(info, starts, frames)

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`."""
        room = max(0, self._length(info) - self._span(frames))
        return self._at(info, [round(room / max(segments - 1, 1) * number) for number in range(segments)], frames)

    def _span(self, frames: int) -> int:
        return (frames - 1) * self.stride + 1

    def _length(self, info: VideoInfo) -> int:
        return max(1, round(info.num_frames / info.fps * self.fps))

    def _at(self, info: VideoInfo, starts: list[int], frames: int) -> np.ndarray:
        places = np.array(starts)[:, None] + self.stride * np.arange(frames)
        own = places.clip(0, self._length(info) - 1) * (info.fps / self.fps)
        return own.round().astype(np.int64).clip(0, info.num_frames - 1)


@dataclass(frozen=True)
class Timed(Sampler):
    """Frames at a fixed rate, independent of the video's rate (SEVERE). A test takes evenly spaced windows at that rate
    (SEVERE: 10).

    Args:
        fps: Frames per second.
    """

    fps: float = 16.0

    def __post_init__(self) -> None:
        check_positive(OWNER, fps=self.fps)

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`; if the video is too short, the clip continues with its beginning."""
        return np.stack([timed_indices(info, frames, self.fps, rng, place) for place in evenly(clips)])

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`."""
        whole = resample(info.num_frames, info.fps, self.fps, 0.0, info.num_frames / info.fps)
        starts = np.linspace(0, max(len(whole) - frames, 1), segments) if len(whole) > frames else np.zeros(segments)
        return np.stack([np.resize(whole[int(start) : int(start) + frames], frames) for start in starts])


@dataclass(frozen=True)
class Looped(Sampler):
    """Every `stride`-th frame from a random start; a video with fewer frames than a clip is repeated (RSPNet, official code).

    If the video is long enough for a clip, but not at this stride, the clip is spread over the complete video. A test takes
    windows spaced evenly from the first to the last possible one (RSPNet: 10).

    Args:
        stride: Frames between sampled ones.
        fps: Frames per second to which videos are resampled first; null uses those of the video.
    """

    stride: int = 1
    fps: float | None = None

    def __post_init__(self) -> None:
        check_whole(OWNER, 1, stride=self.stride)
        check_positive(OWNER, **given(fps=self.fps))

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`."""
        if rng is None:
            return self.views(info, clips, frames)
        room = self._room(self._frames(info), frames)
        return self._at(info, [int(rng.integers(room + 1)) if room > 0 else 0 for _ in range(clips)], frames)

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`; a single clip is in the middle."""
        room = max(0, self._room(self._frames(info), frames))
        starts = [room // 2] if segments == 1 else np.linspace(0, room, segments).round().astype(np.int64).tolist()
        return self._at(info, starts, frames)

    def _frames(self, info: VideoInfo) -> np.ndarray:
        """The frames of the video at the requested rate."""
        return np.arange(info.num_frames) if self.fps is None else at_rate(info.num_frames, info.fps, self.fps)

    def _room(self, whole: np.ndarray, frames: int) -> int:
        """The last possible start; negative if the video is too short for this stride."""
        return len(whole) - ((frames - 1) * self.stride + 1)

    def _at(self, info: VideoInfo, starts: list[int], frames: int) -> np.ndarray:
        whole = self._frames(info)
        if len(whole) <= frames:
            places = np.arange(frames) % len(whole)
        elif self._room(whole, frames) < 0:
            places = np.linspace(0, len(whole) - 1, frames).round().astype(np.int64)
        else:
            places = self.stride * np.arange(frames)
            return whole[np.array(starts)[:, None] + places]
        return np.tile(whole[places], (len(starts), 1))


@dataclass(frozen=True)
class OrderedClips(Sampler):
    """Clips one after the other with a gap between them, in the video's order (clip order prediction, VCOP; official code).

    The first start is uniform over all starts that leave room for the last clip. A video that is too short counts as broken,
    because overlapping or repeated clips have no order. Test like `Dense`.

    Args:
        gap: Frames of the video between the last frame of a clip and the first of the next.
        stride: Frames of the video from one frame of a clip to the next.
    """

    gap: int = 8
    stride: int = 1
    related: ClassVar[bool] = True
    ordered: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole(OWNER, 0, gap=self.gap)
        check_whole(OWNER, 1, stride=self.stride)

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`; in evaluation, the clips are in the middle of the video."""
        step = (frames - 1) * self.stride + 1 + self.gap
        room = info.num_frames - self.span(clips, frames)
        if room < 0:
            raise DecodeError("too short", f"{info.num_frames} frames, {self.span(clips, frames)} needed")
        start = room // 2 if rng is None else int(rng.integers(room + 1))
        return start + step * np.arange(clips)[:, None] + self.stride * np.arange(frames)

    def span(self, clips: int, frames: int) -> int:
        """Frames of the video from the first frame of the first clip to the last frame of the last one."""
        return clips * ((frames - 1) * self.stride + 1 + self.gap) - self.gap

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`."""
        return strided_views(info.num_frames, segments, frames, self.stride)


@dataclass(frozen=True)
class DecreasingGap(Sampler):
    """Two clips, with small distances preferred (CVRL, official code).

    The density of the distance between their starts decreases linearly to 0 at the longest possible distance;
    their order is random. In a video that is too short for a clip, both start anywhere, and the end of the video
    is followed by its beginning.

    Args:
        stride: Frames of the video between sampled frames.
    """

    stride: int = 2
    related: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole(OWNER, 1, stride=self.stride)

    def check(self, clips: int, frames: int) -> None:
        """See `Sampler.check`."""
        _check_two("DecreasingGap", clips)

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`."""
        if rng is None:
            return self.views(info, clips, frames)
        room = info.num_frames - (frames - 1) * self.stride
        if room > 0:
            gap = decreasing_gap(room, rng.random())
            first = int(rng.integers(room - gap))
            starts = [first, first + gap]
        else:
            starts = rng.integers(info.num_frames, size=2).tolist()
        if rng.random() < 0.5:
            starts.reverse()
        return wrapped(np.array(starts), info.num_frames, frames, self.stride)

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`; a single clip is in the middle."""
        return wrapped_views(info.num_frames, segments, frames, self.stride)


@dataclass(frozen=True)
class Wrapped(Sampler):
    """Every `stride`-th frame from a random start; after its end, the video starts again (TensorFlow's official models, such as
    CVRL's linear evaluation).

    Training starts anywhere that leaves room for the clip's frames, or in a short video anywhere. Evaluation and test leave
    `stride` - 1 more frames free, and a test takes evenly spaced windows (CVRL: 10).

    Args:
        stride: Frames of the video between sampled frames.
    """

    stride: int = 2

    def __post_init__(self) -> None:
        check_whole(OWNER, 1, stride=self.stride)

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`."""
        if rng is None:
            return self.views(info, clips, frames)
        room = info.num_frames - (frames - 1) * self.stride
        starts = rng.integers(room if room > 0 else info.num_frames, size=clips)
        return wrapped(starts, info.num_frames, frames, self.stride)

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`; a single clip is in the middle."""
        return wrapped_views(info.num_frames, segments, frames, self.stride)


@dataclass(frozen=True)
class FramePair(Sampler):
    """Two frames, the earlier one first, a random distance apart (SiamMAE, as in the official code of CropMAE).

    Distance and position are uniform; both bounds of the distance are limited by the length of the video. Each frame is a clip:
    data.clip.clips is 2 and data.clip.frames 1. A test takes single frames spread evenly over the video.

    Args:
        gap: Smallest and largest distance in frames, both included.
    """

    gap: tuple[int, int] = (4, 47)
    related: ClassVar[bool] = True
    ordered: ClassVar[bool] = True

    def __post_init__(self) -> None:
        low, high = self.gap
        if not 0 <= low <= high:
            raise SettingError(f"{OWNER}.gap is {list(self.gap)}; it must be two integers of at least 0, the smaller first.")

    def check(self, clips: int, frames: int) -> None:
        """See `Sampler.check`."""
        _check_two("FramePair", clips)
        if frames != 1:
            raise SettingError(f"data.clip.frames is {frames}, but FramePair uses clips of a single frame; set it to 1.")

    def draw(self, info: VideoInfo, clips: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Sampler.draw`; evaluation uses the middle of the possible distances and positions."""
        low, high = np.minimum(self.gap, info.num_frames - 1).tolist()
        if rng is None:
            gap = (low + high) // 2
            first = (info.num_frames - 1 - gap) // 2
        else:
            gap = int(rng.integers(low, high, endpoint=True))
            first = int(rng.integers(info.num_frames - gap))
        return np.array([[first], [first + gap]], np.int64)

    def views(self, info: VideoInfo, segments: int, frames: int) -> np.ndarray:
        """See `Sampler.views`."""
        return strided_views(info.num_frames, segments, frames, 1)


def _check_two(name: str, clips: int) -> None:
    if clips != 2:
        raise SettingError(f"data.clip.clips is {clips}, but {name} needs two clips of each video; set it to 2.")


# --- Rules ---


def evenly(count: int) -> list[float]:
    """Positions of several clips, from 0 (first possible) to 1 (last possible); a single clip is in the centre."""
    return [place / (count - 1) for place in range(count)] if count > 1 else [0.5]


def dense_indices(
    num_frames: int, frames: int, stride: int, rng: np.random.Generator | None, position: float = 0.5
) -> np.ndarray:
    """Every `stride`-th frame from one start: the pretraining rule of VideoMAE, official code.

    For videos of at least `frames * stride` frames, the start is uniform over all that leave room for that span.
    A shorter video is read from its beginning, and its last sampled frame is repeated.

    Args:
        num_frames: Length of the video.
        frames: Length of the clip, T.
        stride: Distance between sampled frames.
        rng: Draws the start; `None` uses `position`.
        position: Position of the clip without a generator, from 0 (first possible start) to 1 (last); 0.5 is the centre.

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
    """Frames of TubeletContrast (official code): start + i * stride + jitter[i]; beyond the end, the last frame is repeated.

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
    """Draw stride, jitter and start of `jittered_indices`; the start leaves room for the frames before jitter.

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

    Training segments are `num_frames // frames` long, so up to T - 1 frames at the end are never drawn, as in the official
    code.

    Args:
        num_frames: Length of the video.
        frames: Number of segments, T.
        rng: Draws one frame per segment; `None` uses the frame at `position` of each segment.
        position: From 0 (beginning of the segment) to 1 (its end, exclusive); 0.5 is the centre.
        short: For videos with fewer than T frames, `first_frame` repeats frame 0 T times, and `spread` returns all frames in
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
    """T frames spread evenly over a span of T * stride frames, including its last frame, so that they are a little more than
    `stride` apart: fine-tuning of VideoMAE on Kinetics, official code.

    Args:
        num_frames: Length of the video.
        frames: Length of the clip, T.
        stride: Length of the span divided by the length of the clip.
        rng: Draws the end of the span; `None` uses `position`.
        position: Position of the span without a generator, from 0 to 1; 0.5 is the centre.

    Returns:
        int64 [T], ascending. A video that is not longer than the span is read completely, every stride-th frame, and its last
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


def partitioned(num_frames: int, clips: int, frames: int, stride: int, rng: np.random.Generator | None) -> np.ndarray:
    """Clips of equal parts of a video: evaluation of V-JEPA, official code.

    Args:
        num_frames: Length of the video.
        clips: Number of parts.
        frames: Length of a clip, T.
        stride: Frames of the video for each frame of the clip.
        rng: Draws a span in each part; `None` takes the one in the middle.

    Returns:
        int64 [clips, T], rows ascending.
    """
    length, span = num_frames // clips, frames * stride
    if length > span:
        return np.stack([part * length + spanning_indices(length, frames, stride, rng) for part in range(clips)])
    # One clip from the beginning, moved in equal steps; its last frame is repeated.
    last = max(1, min(span, num_frames) - 1)
    first = np.linspace(0, last, last // stride)
    first = np.concatenate([first, np.full(frames - len(first), last)]).clip(0, last - 1).astype(np.int64)
    step = max(0, num_frames - span) // max(1, clips - 1)
    return first + step * np.arange(clips)[:, None]


def resample(num_frames: int, source_fps: float, fps: float, start: float, duration: float) -> np.ndarray:
    """Frames of an interval of time at another rate: SEVERE, official code.

    Args:
        num_frames: Length of the video.
        source_fps: Frame rate of the video.
        fps: Requested rate; frames of a slower video are repeated.
        start: Start of the interval in seconds.
        duration: Length of the interval in seconds.

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
        fps: Requested frames per second.
        rng: Draws the start; `None` uses `position`.
        position: Position of the clip without a generator, from 0 to 1; 0.5 is the centre.

    Returns:
        int64 [T]
    """
    duration = frames / fps
    room = max(0.0, info.num_frames / info.fps - duration)
    start = position * room if rng is None else rng.uniform(0, room)
    return np.resize(resample(info.num_frames, info.fps, fps, start, duration), frames)


def at_rate(num_frames: int, source_fps: float, fps: float) -> np.ndarray:
    """Frames of a complete video at another rate: RSPNet, official code. Only complete steps are used, so up to one step at the
    end is missing, unless the rates are multiples.

    Args:
        num_frames: Length of the video.
        source_fps: Frame rate of the video.
        fps: Requested rate; frames of a slower video are repeated.

    Returns:
        int64 [n], ascending, at least one frame.
    """
    step = source_fps / fps
    if step.is_integer():
        return np.arange(0, num_frames, int(step))
    return (np.arange(max(1, int(num_frames / step))) * step).astype(np.int64)


def decreasing_gap(room: int, u: float) -> int:
    """The distance of two starts, by inverting its distribution: the density decreases linearly to 0 at `room` (CVRL).

    Args:
        room: Number of possible starts.
        u: Uniform, from 0 to 1 exclusive.
    """
    return int(room * (1 - math.sqrt(1 - u)))


def wrapped(starts: np.ndarray, num_frames: int, frames: int, stride: int) -> np.ndarray:
    """Every `stride`-th frame from each start; after its end, the video starts again.

    Args:
        starts: int64 [V].
        num_frames: Length of the video.
        frames: T.
        stride: Distance between sampled frames.

    Returns:
        int64 [V, T]
    """
    return (starts[:, None] + stride * np.arange(frames)) % num_frames


def wrapped_views(num_frames: int, segments: int, frames: int, stride: int) -> np.ndarray:
    """Evenly spaced windows of `wrapped`; a single one is in the middle (CVRL, official code).

    Args:
        num_frames: Length of the video.
        segments: Number of windows.
        frames: T.
        stride: Distance between sampled frames.

    Returns:
        int64 [segments, T]
    """
    room = max(0, num_frames - frames * stride)
    starts = np.linspace(0, room, segments).astype(np.int64) if segments > 1 else np.array([room // 2])
    return wrapped(starts, num_frames, frames, stride)


def strided_views(num_frames: int, segments: int, frames: int, stride: int) -> np.ndarray:
    """Windows spread evenly over every `stride`-th frame of a video; a single one is in the middle. VideoMAE, official code.

    Args:
        num_frames: Length of the video; the last frame of a short video is repeated.
        segments: Number of windows.
        frames: Length of a window, T.
        stride: Distance between sampled frames.

    Returns:
        int64 [segments, T], rows ascending.
    """
    whole = np.arange(0, num_frames, stride)
    room = max(len(whole) - frames, 0)
    starts = np.arange(segments) * (room / (segments - 1)) if segments > 1 else np.array([room / 2])
    whole = np.concatenate([whole, np.full(max(0, frames - len(whole)), whole[-1])])
    return np.stack([whole[int(start) : int(start) + frames] for start in starts])

"""Settings of the streams of a sample: which are read, and how."""

import math
from dataclasses import dataclass, field
from typing import Literal

from modules.core.errors import SettingError, check_positive, check_range, check_whole, given


@dataclass
class SoundSettings:
    """How audio is read.

    Args:
        rate: Samples per second after resampling.
        channels: `first` takes the first channel, as in CAV-MAE's preparation, `mean` the mean of all, `stereo` two (mono
            is duplicated).
        seconds: Length from the first frame of the clip; null takes the duration of the clip.
        whole: Use the audio of the complete file instead of the clip's part (CAV-MAE), cut or padded to `seconds`.
    """

    rate: int = 16000
    channels: Literal["first", "mean", "stereo"] = "first"
    seconds: float | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        check_whole("data.streams.sound", 1000, rate=self.rate)
        check_positive("data.streams.sound", **given(seconds=self.seconds))


@dataclass
class SignalSettings:
    """How sensor tables are read.

    Args:
        rate: Samples per second: the rate of files without time stamps; files with time stamps are resampled to it.
        steps: Samples per clip, interpolated linearly from the start of the clip to its end; null derives it
            from the rate.
        max_gap: Longest gap between two samples, in seconds.
        offset: Offset from the file's time stamps to those of the video, in seconds.
        columns: Names of the columns of csv files that are read, in this order; null takes all except the time stamps, in the
            order of the first file.
        time: Name of the time column; null takes t, time or timestamp, whichever exists.
        unit: Unit of the time stamps: s or ms.
        from_first: Subtract the first time stamp of each file, e.g. for Unix time.
        whole: Read the complete recording, or the part given by the list, instead of the clip's part.
        median: Width of a median filter, an odd number of samples, applied first (IMU-video: 5); 1 disables it.
        standardise: Standardise each column of a complete recording to mean 0 and standard deviation 1 (IMU-video).
        window: Use samples without interpolation, padded with zeros to round(seconds) * rate (IMU-video, with whole).
    """

    rate: float = 50.0
    steps: int | None = None
    max_gap: float = 0.5
    offset: float = 0.0
    columns: list[str] | None = None
    time: str | None = None
    unit: Literal["s", "ms"] = "s"
    from_first: bool = False
    whole: bool = False
    median: int = 1
    standardise: bool = False
    window: bool = False

    def __post_init__(self) -> None:
        check_positive("data.streams.signal", rate=self.rate, max_gap=self.max_gap)
        check_whole("data.streams.signal", 1, median=self.median, **given(steps=self.steps))
        check_range("data.streams.signal", -1e6, 1e6, offset=self.offset)
        if self.median % 2 == 0:
            raise SettingError(f"data.streams.signal.median is {self.median}; it must be an odd number.")
        if self.columns is not None and len(set(self.columns)) != len(self.columns or [""]):
            raise SettingError(f"data.streams.signal.columns is {self.columns}; name each column once, or leave it out.")
        if self.window and self.steps is not None:
            raise SettingError("data.streams.signal.window does not interpolate; leave data.streams.signal.steps out.")


@dataclass
class FlowSettings:
    """How stored flow is read: from each frame to the next one of the file, in pixels of the file, scaled
    to pixels of the clip. With a stride above 1, it is not the flow between consecutive frames of the clip.

    Args:
        bound: For flow in 8-bit pictures, 0 to 255 mean -bound to bound pixels.
        folder: Folder written by `prepare flow`; for data sets whose lists have no flow files.
    """

    bound: float = 20.0
    folder: str | None = None

    def __post_init__(self) -> None:
        check_positive("data.streams.flow", bound=self.bound)


@dataclass
class DepthSettings:
    """How stored depth is read: a stored value v other than 0 means v * scale + shift millimetres.

    Args:
        scale: Millimetres per unit of the file, negative if nearer is brighter, 1000 for
            metres; null treats 16-bit integers as millimetres, and refuses other files.
        shift: Millimetres to add.
        least: Smallest valid stored value; values below it become 0. Lossy videos need more than 1.
        fps: Frames per second of folders and arrays, also for flow and masks. Not needed for files with as many frames
            as the video, which are matched frame by frame; null counts all others as broken.
    """

    scale: float | None = None
    shift: float = 0.0
    least: float = 1.0
    fps: float | None = None

    def __post_init__(self) -> None:
        check_range("data.streams.depth", -1e6, 1e6, shift=self.shift, **given(scale=self.scale))
        check_range("data.streams.depth", 0, least=self.least)
        if self.scale == 0:
            raise SettingError("data.streams.depth.scale is 0; it must be non-zero, or null.")
        check_positive("data.streams.depth", **given(fps=self.fps))


@dataclass
class MaskSettings:
    """How masks are read.

    Args:
        objects: Planes of a mask. One is the union of all objects; with more, each object has its own plane, and files store
            its id, from 1, in each pixel.
    """

    objects: int = 1

    def __post_init__(self) -> None:
        check_whole("data.streams.mask", 1, 255, objects=self.objects)


@dataclass
class SkeletonSettings:
    """How joints in arrays are read.

    Args:
        fps: Frames per second.
        persons: Persons per clip, M; files may have fewer.
        origin: Index of the joint of the first person that is moved to 0 in the first frame; null does not move joints.
    """

    fps: float = 30.0
    persons: int = 1
    origin: int | None = None

    def __post_init__(self) -> None:
        check_positive("data.streams.skeleton", fps=self.fps)
        check_whole("data.streams.skeleton", 1, persons=self.persons)
        check_whole("data.streams.skeleton", 0, **given(origin=self.origin))


@dataclass
class FeatureSettings:
    """How feature sequences are read.

    Args:
        whole: Take the sequence of the complete recording, or of the part given by the list; false takes
            the steps within the clip.
        rate: Steps per second of files without time stamps; null refuses such files if times are needed.
    """

    whole: bool = True
    rate: float | None = None

    def __post_init__(self) -> None:
        check_positive("data.streams.feature", **given(rate=self.rate))


NO_PICTURES = "data.streams.names has boxes, but no video that they refer to; name video too."


@dataclass
class TrackSettings:
    """How boxes from detectors are read.

    Args:
        most: Maximum number of objects per clip or frame, K; those with the highest scores are used.
        unit: Unit of boxes: pixels of the video's frames, or share, from 0 to 1 of their width and height.
        first_frame: Number of a video's first frame in the file.
        reach: Maximum distance between a frame and its boxes, in frames or seconds, as in the file.
        score: Minimum score of boxes; null takes all.
        classes: Classes of boxes to use, as written in the file; null takes all.
    """

    most: int = 8
    unit: Literal["pixels", "share"] = "pixels"
    first_frame: int = 0
    reach: float = 0.5
    score: float | None = None
    classes: list[str] | None = None

    def __post_init__(self) -> None:
        check_whole("data.streams.track", 1, most=self.most)
        check_whole("data.streams.track", 0, first_frame=self.first_frame)
        check_range("data.streams.track", 0, reach=self.reach)
        check_range("data.streams.track", -math.inf, **given(score=self.score))


@dataclass
class PictureSettings:
    """Which object of a video is cropped.

    Args:
        pick: Which box of a frame to use: the largest, the most central, or the one with the highest score.
        track: Name of the only track to use; null takes all.
        enlarge: Side of the square crop, as a multiple of the box's longer side.
    """

    pick: Literal["largest", "central", "score"] = "largest"
    track: str | None = None
    enlarge: float = 1.0

    def __post_init__(self) -> None:
        check_positive("data.streams.picture", enlarge=self.enlarge)


@dataclass
class StreamSettings:
    """Which streams a batch has.

    Args:
        names: Streams by name; null takes the defaults of the data set.
        on_missing: What to do with a sample if a further stream is missing or broken: `replace` takes another sample, as for
            broken videos; `mark` fills the stream with zeros marked as not valid. Both count and list the file.
        sound: Settings of audio streams.
        signal: Settings of sensors.
        flow: Settings of optical flow.
        depth: Settings of depth.
        skeleton: Settings of joints in arrays.
        feature: Settings of features.
        track: Settings of boxes.
        picture: Settings of object crops.
        mask: Settings of masks.
    """

    names: list[str] | None = None
    on_missing: Literal["replace", "mark"] = "replace"
    sound: SoundSettings = field(default_factory=SoundSettings)
    signal: SignalSettings = field(default_factory=SignalSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    depth: DepthSettings = field(default_factory=DepthSettings)
    skeleton: SkeletonSettings = field(default_factory=SkeletonSettings)
    feature: FeatureSettings = field(default_factory=FeatureSettings)
    track: TrackSettings = field(default_factory=TrackSettings)
    picture: PictureSettings = field(default_factory=PictureSettings)
    mask: MaskSettings = field(default_factory=MaskSettings)

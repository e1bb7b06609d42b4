"""Which streams of a sample are read, and how each kind is."""

import math
from dataclasses import dataclass, field
from typing import Literal

from modules.core.errors import SettingError, check_positive, check_range, check_whole, given


@dataclass
class SoundSettings:
    """How sound is read.

    Args:
        rate: Samples per second after resampling.
        channels: `first` takes the first channel, as CAV-MAE's preparation does, `mean` the mean of all, `stereo` two (a single
            one twice).
        seconds: Length from the first frame of the clip on; null takes the time that the clip shows.
        whole: Take the sound of the whole file, whichever frames the clip has (CAV-MAE), cut or filled up to `seconds`.
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
    """How tables of sensors are read.

    Args:
        rate: Samples per second. A file without times has so many; one with times is read at that rate.
        steps: Samples per clip, interpolated linearly from the first moment that the clip shows to its last; null takes as many
            as the rate gives.
        max_gap: Longest gap between two samples, in seconds.
        offset: What to add to the file's times to get those of the video, in seconds.
        columns: Names of the columns of csv files that are read, in this order; null takes all but that of times, in the order
            of the first file.
        time: Name of the column of times; null takes t, time or timestamp, whichever there is.
        unit: Of times: s or ms.
        from_first: Count times from the first one of each file on, as for clocks that count from 1970.
        whole: Read the whole recording, or the part of it that the list names, whichever frames the clip has.
        median: Take the median over so many samples, an odd number, before anything else (IMU-video: 5); 1 takes none.
        standardise: Bring each column of a whole recording to mean 0 and deviation 1 (IMU-video).
        window: Take the samples as they are and fill up with zeros at the end to round(seconds) * rate (IMU-video, with whole).
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
            raise SettingError("data.streams.signal.window takes samples as they are; leave data.streams.signal.steps out.")


@dataclass
class FlowSettings:
    """How stored flow is read: that of each frame to the next one of the file, in pixels of its pictures, which become those of
    the clip. Where a clip leaves frames out (a stride above 1), it is not the flow from one frame of the clip to the next.

    Args:
        bound: Of flow in pictures of 8 bits, 0 to 255 mean -bound to bound pixels.
        folder: Folder that `prepare flow` wrote; for data sets whose lists name no files of flow.
    """

    bound: float = 20.0
    folder: str | None = None

    def __post_init__(self) -> None:
        check_positive("data.streams.flow", bound=self.bound)


@dataclass
class DepthSettings:
    """How stored depth is read: a stored value v, which is not 0, means v * scale + shift millimetres.

    Args:
        scale: Millimetres that one unit of the file means, below 0 where nearer is brighter, 1000 for metres; null takes whole
            numbers of 16 bits as millimetres, and refuses other files, which do not say what they mean.
        shift: Millimetres to add.
        least: Smallest stored value that was measured; what lies below it is 0. Lossy videos need more than 1.
        fps: Frames per second of folders and arrays, which do not say it; flow and masks take it too. Files of as many frames
            as the video need none: they are taken frame by frame. null counts all others as broken.
    """

    scale: float | None = None
    shift: float = 0.0
    least: float = 1.0
    fps: float | None = None

    def __post_init__(self) -> None:
        check_range("data.streams.depth", -1e6, 1e6, shift=self.shift, **given(scale=self.scale))
        check_range("data.streams.depth", 0, least=self.least)
        if self.scale == 0:
            raise SettingError("data.streams.depth.scale is 0; it must be another number, or null.")
        check_positive("data.streams.depth", **given(fps=self.fps))


@dataclass
class MaskSettings:
    """How masks are read.

    Args:
        objects: Planes of a mask. One shows what belongs to any object; more show each object by itself, of which files state
            the number from 1 in each pixel.
    """

    objects: int = 1

    def __post_init__(self) -> None:
        check_whole("data.streams.mask", 1, 255, objects=self.objects)


@dataclass
class SkeletonSettings:
    """How joints in arrays are read.

    Args:
        fps: Frames per second.
        persons: Persons of a clip, M; files may have fewer.
        origin: Number of the joint of the first person that stands at 0 in the first frame; null leaves joints where they are.
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
    """How sequences of features are read.

    Args:
        whole: Take the sequence of the whole recording, or of the part of it that the list names; false takes the steps within
            the time that the clip shows.
        rate: Steps per second of files that do not say when their steps are; null refuses these where times are needed.
    """

    whole: bool = True
    rate: float | None = None

    def __post_init__(self) -> None:
        check_positive("data.streams.feature", **given(rate=self.rate))


NO_PICTURES = "data.streams.names has boxes, but no stream of pictures to place them in; name video too."


@dataclass
class TrackSettings:
    """How boxes from detectors are read.

    Args:
        most: Objects per clip or frame, K; those with the highest scores are taken.
        unit: Of boxes: pixels of the video's frames, or share, from 0 to 1 of their width and height.
        first_frame: Number of a video's first frame in the file.
        reach: How far from a frame its boxes may be, in frames or seconds, as the file counts.
        score: Lowest score of boxes that are taken; null takes all.
        classes: Classes of boxes that are taken, as written in the file; null takes all.
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
    """Which object of a video is cut out.

    Args:
        pick: Of the boxes of a frame: the largest, the most central, or that with the highest score.
        track: Name of the only track that is taken; null takes all.
        enlarge: Side of the square that is cut out, as a multiple of the box's longer side.
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
        names: Streams by name; null takes those that the data set gives by default.
        on_missing: What becomes of a sample of which a further stream is missing or broken: `replace` takes another sample, as
            for broken videos; `mark` fills the stream up with zeros that are not valid. Both count and name the file.
        sound: Of the streams of kind audio.
        signal: Of sensors.
        flow: Of optical flow.
        depth: Of depth.
        skeleton: Of joints in arrays.
        feature: Of features.
        track: Of boxes.
        picture: Of objects that are cut out.
        mask: Of masks.
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

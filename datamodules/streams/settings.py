"""Which streams of a sample are read, and how each kind is."""

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
        rate: Samples per second of the file, where it has no column of times.
        steps: Samples per clip, resampled linearly over the time that the clip shows; null takes those of the file at `rate`.
        max_gap: Longest gap between two samples, in seconds.
        offset: What to add to the file's times to get those of the video, in seconds.
    """

    rate: float = 50.0
    steps: int | None = None
    max_gap: float = 0.5
    offset: float = 0.0

    def __post_init__(self) -> None:
        check_positive("data.streams.signal", rate=self.rate, max_gap=self.max_gap)
        check_whole("data.streams.signal", 1, **given(steps=self.steps))
        check_range("data.streams.signal", -1e6, 1e6, offset=self.offset)


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
        mask: Of masks.
    """

    names: list[str] | None = None
    on_missing: Literal["replace", "mark"] = "replace"
    sound: SoundSettings = field(default_factory=SoundSettings)
    signal: SignalSettings = field(default_factory=SignalSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    depth: DepthSettings = field(default_factory=DepthSettings)
    mask: MaskSettings = field(default_factory=MaskSettings)

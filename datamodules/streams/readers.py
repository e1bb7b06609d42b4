"""The reader of each kind of stream, with its settings."""

from datamodules.audio.reader import AudioReader
from datamodules.streams.detections import TrackReader
from datamodules.streams.features import FeatureReader
from datamodules.streams.joints import JointsReader
from datamodules.streams.pictures import PictureReader
from datamodules.streams.planes import DepthReader, FlowReader, FurtherVideo, MaskReader
from datamodules.streams.reader import StreamReader
from datamodules.streams.settings import StreamSettings
from datamodules.streams.tables import SignalReader
from modules.core.batch import Kind
from modules.core.errors import SettingError


def make_reader(kind: Kind, settings: StreamSettings) -> StreamReader:
    """The reader of a kind of stream.

    Raises:
        SettingError: if no reader supports the kind.
    """
    if kind == "signal":
        return SignalReader(settings.signal)
    if kind == "feature":
        return FeatureReader(settings.feature)
    if kind == "track":
        return TrackReader(settings.track)
    if kind == "picture":
        return PictureReader(settings.picture, settings.track)
    if kind == "skeleton":
        return JointsReader(settings.skeleton)
    if kind == "audio":
        return AudioReader(settings.sound)
    if kind == "video":
        return FurtherVideo(settings.depth.fps)
    if kind == "flow":
        return FlowReader(settings.flow, settings.depth.fps)
    if kind == "depth":
        return DepthReader(settings.depth)
    if kind == "mask":
        return MaskReader(settings.mask, settings.depth.fps)
    raise SettingError(f"data.streams.names has a stream of kind {kind}, which cannot be read from files; leave it out.")

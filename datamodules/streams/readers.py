"""The reader of each kind of stream, with the settings that concern it."""

from datamodules.streams.planes import DepthReader, FlowReader, FurtherVideo, MaskReader
from datamodules.streams.reader import StreamReader
from datamodules.streams.settings import StreamSettings
from modules.core.batch import Kind
from modules.core.errors import SettingError


def make_reader(kind: Kind, settings: StreamSettings) -> StreamReader:
    """What reads streams of a kind from files.

    Raises:
        SettingError: if nothing does.
    """
    if kind == "video":
        return FurtherVideo(settings.depth.fps)
    if kind == "flow":
        return FlowReader(settings.flow, settings.depth.fps)
    if kind == "depth":
        return DepthReader(settings.depth)
    if kind == "mask":
        return MaskReader(settings.mask, settings.depth.fps)
    raise SettingError(f"data.streams.names has a stream of kind {kind}, which is not read from files; leave it out.")

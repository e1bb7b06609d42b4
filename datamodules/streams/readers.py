"""The reader of each kind of stream, with the settings that concern it."""

from datamodules.audio.reader import AudioReader
from datamodules.streams.reader import StreamReader
from datamodules.streams.settings import StreamSettings
from modules.core.batch import Kind
from modules.core.errors import SettingError


def make_reader(kind: Kind, settings: StreamSettings) -> StreamReader:
    """What reads streams of a kind from files.

    Raises:
        SettingError: if nothing does.
    """
    if kind == "audio":
        return AudioReader(settings.sound)
    raise SettingError(f"data.streams.names has a stream of kind {kind}, which is not read from files; leave it out.")

"""The one exception that users are meant to read."""

from typing import ClassVar


class SettingError(Exception):
    """Something that the user can change is wrong: a setting, a path, a file.

    The message is one sentence or two that say what is wrong, where, and what to change, naming settings by their
    command-line path (``data.clip.frames``). `main.py` prints it without a traceback.
    """

    latest: ClassVar["SettingError | None"] = None
    """The last one that was made. A parser that tries several types keeps no more of an exception than its words."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        SettingError.latest = self

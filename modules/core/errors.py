"""The one exception that users are meant to read."""


class SettingError(Exception):
    """Something that the user can change is wrong: a setting, a path, a file.

    The message is one sentence or two that say what is wrong, where, and what to change, naming settings by their
    command-line path (``data.clip.frames``). `main.py` prints it without a traceback.
    """

"""The one exception that users are meant to read, and checks of numbers that raise it."""

import math
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


def check_positive(owner: str, **values: float | None) -> None:
    """Refuse numbers that are not above 0, or not finite; None stands for a default.

    Args:
        owner: what the settings belong to, by its command-line path.
        values: by name of the setting.

    Raises:
        SettingError: for the first one that is wrong.
    """
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise SettingError(f"{owner}.{name} is {value}; it must be a number above 0.")


def check_range(owner: str, low: float, high: float, **values: float | None) -> None:
    """Refuse numbers outside of a range to which both ends belong; None stands for a default.

    Args:
        owner: what the settings belong to, by its command-line path.
        low: smallest number.
        high: largest number; math.inf where there is none, but infinity itself is refused.
        values: by name of the setting.

    Raises:
        SettingError: for the first one that is wrong.
    """
    for name, value in values.items():
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise SettingError(f"{owner}.{name} is {value}; it must be a number, {limits}.")

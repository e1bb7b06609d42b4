"""The exception for user errors, and checks of settings that raise it."""

import math
import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

MAX_SEED = 2**32 - 1
"""Largest seed that all generators take."""


class SettingError(Exception):
    """An error that the user can fix: a setting, a path, a file.

    The message is one sentence or two that say what is wrong, where, and what to change, naming settings by their
    command-line path (``data.clip.frames``). `main.py` prints it without a traceback.
    """

    latest: ClassVar["SettingError | None"] = None
    """The last one that was made. A parser that tries several types keeps no more of an exception than its words."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        SettingError.latest = self


# --- Checks ---
# `owner` is what the settings belong to, by its command-line path; "--" for the options of a command.


def given(**values: object) -> dict[str, Any]:
    """The values that are not None, to check settings for which null stands for a default."""
    return {name: value for name, value in values.items() if value is not None}


def check_positive(owner: str, /, **values: object) -> None:
    """Refuse what is not a finite number above 0.

    Args:
        owner: what the settings belong to.
        values: by name of the setting.

    Raises:
        SettingError: for the first one that is wrong.
    """
    for name, value in values.items():
        if not (_is_number(value) and 0 < value < math.inf):  # type: ignore[operator]
            raise _wrong(owner, name, value, "number above 0")


def check_range(owner: str, low: float, high: float = math.inf, /, **values: object) -> None:
    """Refuse what is not a finite number in a range to which both ends belong.

    Args:
        owner: what the settings belong to.
        low: smallest number.
        high: largest number.
        values: by name of the setting.

    Raises:
        SettingError: for the first one that is wrong.
    """
    for name, value in values.items():
        if not (_is_number(value) and low <= value <= high and value < math.inf):  # type: ignore[operator]
            raise _wrong(owner, name, value, f"number {_limits(low, high)}")


def check_whole(owner: str, low: int, high: float = math.inf, /, **values: object) -> None:
    """Refuse what is not a whole number in a range to which both ends belong; see `check_range`."""
    for name, value in values.items():
        if not (isinstance(value, Integral) and _is_number(value) and low <= value <= high):  # type: ignore[operator]
            raise _wrong(owner, name, value, f"whole number {_limits(low, high)}")


def check_writable(setting: str, folder: Path) -> None:
    """Refuse a folder that can neither be written to nor created; it is not created yet.

    Args:
        setting: its name on the command line.
        folder: its value.

    Raises:
        SettingError: with the reason.
    """
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "is not a folder" if not there.is_dir() else "is not writable"
        raise SettingError(f"{setting} {folder} cannot be written ({there} {reason}); pass another folder.")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _limits(low: float, high: float) -> str:
    return f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:.10g}"


def _wrong(owner: str, name: str, value: object, kind: str) -> SettingError:
    setting = f"--{name}" if owner == "--" else f"{owner}.{name}"
    return SettingError(f"{setting} is {'null' if value is None else value}; it must be a {kind}.")

"""The exception for user errors, and checks of settings that raise it."""

import math
import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

MAX_SEED = 2**32 - 1
"""Largest seed that all generators accept."""


class SettingError(Exception):
    """An error that the user can fix: a setting, a path, a file.

    The message is one or two sentences that state what is wrong, where, and what to change. It names settings by their
    command-line path (``data.clip.frames``). `main.py` prints it without a traceback.
    """

    latest: ClassVar["SettingError | None"] = None
    """The last instance. A parser that tries several types keeps only the message of an exception, so it is stored here."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        SettingError.latest = self


# --- Checks ---
# `owner` is the command-line path of the object that has the settings; "--" for the options of a command.


def given(**values: object) -> dict[str, Any]:
    """The values that are not None, to check settings for which null means a default."""
    return {name: value for name, value in values.items() if value is not None}


def check_positive(owner: str, /, **values: object) -> None:
    """Check that values are finite numbers above 0.

    Args:
        owner: command-line path of the object that has the settings.
        values: values by name of the setting.

    Raises:
        SettingError: for the first invalid value.
    """
    for name, value in values.items():
        if not (_is_number(value) and 0 < value < math.inf):  # type: ignore[operator]
            raise _wrong(owner, name, value, "number above 0")


def check_range(owner: str, low: float, high: float = math.inf, /, **values: object) -> None:
    """Check that values are finite numbers in a closed range.

    Args:
        owner: command-line path of the object that has the settings.
        low: smallest number.
        high: largest number.
        values: values by name of the setting.

    Raises:
        SettingError: for the first invalid value.
    """
    for name, value in values.items():
        if not (_is_number(value) and low <= value <= high and value < math.inf):  # type: ignore[operator]
            raise _wrong(owner, name, value, f"number {_limits(low, high)}")


def check_whole(owner: str, low: int, high: float = math.inf, /, **values: object) -> None:
    """Check that values are integers in a closed range; see `check_range`."""
    for name, value in values.items():
        if not (isinstance(value, Integral) and _is_number(value) and low <= value <= high):  # type: ignore[operator]
            raise _wrong(owner, name, value, f"whole number {_limits(low, high)}")


def check_writable(setting: str, folder: Path) -> None:
    """Check that a folder can be written to or created. It is not created yet.

    Args:
        setting: name of the setting on the command line.
        folder: value of the setting.

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

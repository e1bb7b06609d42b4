"""Checks of settings that data modules and the commands beside them share."""

import math
import os
from numbers import Integral, Real
from pathlib import Path

from modules.core.errors import SettingError

MAX_SEED = 2**32 - 1
"""Largest seed that all generators take."""


def check_whole(setting: str, value: object, lowest: int, highest: int | None = None) -> None:
    """Raises a `SettingError` unless `value` is a whole number from `lowest` to `highest`."""
    good = isinstance(value, Integral) and not isinstance(value, bool)
    number = int(value) if good else lowest  # type: ignore[call-overload]
    if not good or number < lowest or (highest is not None and number > highest):
        limit = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise SettingError(f"{setting} is {_shown(value)}; set it to a whole number {limit}.")


def check_number(setting: str, value: object, lowest: float, highest: float = math.inf, above: bool = False) -> None:
    """Raises a `SettingError` unless `value` is a finite number from `lowest` to `highest`; `above` leaves `lowest` out."""
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not (good and (lowest < value if above else lowest <= value) and value <= highest):  # type: ignore[operator]
        limit = f"{'above' if above else 'of at least'} {lowest:g}"
        upper = f" and at most {highest:g}" if math.isfinite(highest) else ""
        raise SettingError(f"{setting} is {_shown(value)}; set it to a number {limit}{upper}.")


def check_writable(setting: str, folder: Path) -> None:
    """Raises a `SettingError` unless a folder can be written or made; nothing is made yet."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "is no folder" if not there.is_dir() else "is not writable"
        raise SettingError(f"{setting} {folder} cannot be written ({there} {reason}); pass another folder.")


def _shown(value: object) -> str:
    return "null" if value is None else str(value)

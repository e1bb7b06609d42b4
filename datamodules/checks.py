"""Checks of numbers among the settings of data modules."""

import math
from types import UnionType

from modules.core.errors import SettingError

MAX_SEED = 2**32 - 1
"""Largest seed that all generators take."""


def check_whole(setting: str, value: object, lowest: int, highest: int | None = None) -> None:
    """Raises a `SettingError` unless `value` is a whole number from `lowest` to `highest`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest or (highest is not None and value > highest):
        limit = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise SettingError(f"{setting} is {_shown(value)}; set it to a whole number {limit}.")


def check_number(setting: str, value: object, lowest: float, highest: float = math.inf, above: bool = False) -> None:
    """Raises a `SettingError` unless `value` is a finite number from `lowest` to `highest`; `above` leaves `lowest` out."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (good and (lowest < value if above else lowest <= value) and value <= highest):  # type: ignore[operator]
        limit = f"{'above' if above else 'of at least'} {lowest:g}"
        upper = f" and at most {highest:g}" if math.isfinite(highest) else ""
        raise SettingError(f"{setting} is {_shown(value)}; set it to a number {limit}{upper}.")


def check_kind(setting: str, value: object, kind: type | UnionType) -> None:
    """Raises a `SettingError` unless `value` is of a class; the command line takes null in the place of any."""
    if not isinstance(value, kind):
        raise SettingError(f"{setting} is {_shown(value)}; leave it out or give its settings.")


def _shown(value: object) -> str:
    return "null" if value is None else str(value)

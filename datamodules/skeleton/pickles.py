"""Reads pickles of NumPy arrays, numbers, strings and plain containers, without running code from them."""

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from modules.core.errors import SettingError


def _encode(text: str, encoding: str) -> bytes:
    """Restore bytes that protocol 2 stores as text; codecs that pickle does not use are refused."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds text in {encoding}")
    return text.encode(encoding)


def _dtype(*facts: Any) -> np.dtype:
    """A type of array elements; arrays of objects are refused."""
    found = np.dtype(*facts)
    if found.hasobject:
        raise pickle.UnpicklingError("it holds an array of objects")
    return found


def _allowed() -> dict[tuple[str, str], Any]:
    """The names used in NumPy's own pickles, in all its versions."""
    # The package was renamed in NumPy 2.
    core = "numpy._core" if hasattr(np, "_core") else "numpy.core"
    multiarray, numeric = import_module(f"{core}.multiarray"), import_module(f"{core}.numeric")
    found: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): _dtype}
    for package in ("numpy.core", "numpy._core"):
        found[f"{package}.multiarray", "_reconstruct"] = multiarray._reconstruct
        found[f"{package}.multiarray", "scalar"] = multiarray.scalar
        found[f"{package}.numeric", "_frombuffer"] = numeric._frombuffer
    found["_codecs", "encode"] = _encode
    return found


ALLOWED = _allowed()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, which could run code and is not read")
        return ALLOWED[module, name]


def read_pickle(path: Path) -> Any:
    """Content of a pickle.

    Raises:
        SettingError: if it is damaged, or contains anything but arrays and plain values.
    """
    try:
        with path.open("rb") as file:
            return _load(file)
    except Exception as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise SettingError(f"{path} cannot be read ({type(error).__name__}: {reason}); pass another file.") from error


def _load(file: BinaryIO) -> Any:
    return _Unpickler(file, encoding="latin1").load()

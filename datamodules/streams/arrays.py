"""Arrays from files: .npy, .npz, and single arrays or rows of a file with several, as `file#name`."""

import zipfile
from pathlib import Path

import numpy as np

from datamodules.video.decode import DecodeError

MARK = "#"
"""Separates a file from the name of an array or row in it."""


def split_source(source: Path) -> tuple[Path, str | None]:
    """The file of a source, and the name of an array in it: `joints.npz#a01_s1_t1` is one array of a file.

    Args:
        source: a file (its name may contain a `#`), or a file followed by `#` and a name.
    """
    path, mark, name = str(source).rpartition(MARK)
    return (Path(path), name) if mark and not is_there(source) else (source, None)


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; False for invalid or overlong names."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_file(path: Path) -> None:
    """Refuse a path that is not a file, or an empty file. Raises DecodeError."""
    if not is_there(path):
        raise DecodeError("file not found", str(path))
    if not path.is_file():
        raise DecodeError("cannot open", "not a file")
    if path.stat().st_size == 0:
        raise DecodeError("empty file")


def load_arrays(source: Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of a .npy or .npz file; nothing in it can run code.

    Args:
        source: a .npy file; a .npz file, of which the named arrays are read if they exist; or `file.npz#name`.
        names: names of arrays, the main one first. A .npz file without the main array must contain exactly one array that is
            not among `names`, or be followed by `#` and the name of its main array.

    Returns:
        The arrays by name. The main array is always included; a .npy file is memory-mapped, so that only the used part is read.

    Raises:
        DecodeError: if the file or array does not exist.
    """
    path, chosen = split_source(source)
    check_file(path)
    try:
        content = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {names[0]: content}
        with content:
            others = [name for name in content.files if name not in names[1:]]
            main = chosen or (names[0] if names[0] in others else others[0] if len(others) == 1 else "")
            if main not in content.files:
                detail = f"no array {main}" if main else f"{len(others)} arrays; write the file with {MARK} and the name of one"
                raise DecodeError("no such stream", detail)
            found = {name: content[name] for name in names[1:] if name in content.files}
            return {names[0]: content[main]} | found
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DecodeError("cannot open", str(error).partition("\n")[0]) from error


def check_numbers(array: np.ndarray, first: int = 0) -> None:
    """Refuse values that are not finite numbers: text, objects, NaN and infinity.

    Args:
        array: [N, ...]
        first: index of its first row, for the message.

    Raises:
        DecodeError: with the first invalid row.
    """
    if array.dtype.kind not in "iufb":
        raise DecodeError("not numbers", f"of type {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = first + int(np.argwhere(~np.isfinite(array))[0][0])
        raise DecodeError("not numbers", f"row {row} has NaN or infinity")

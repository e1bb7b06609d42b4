"""Folders of images instead of a video file: the order of the files, and a reader of requested frames."""

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.lists.folders import IMAGE_SUFFIXES, is_hidden, suffix_of
from datamodules.video.readers import DecodeError, Picture, PictureFolder, VideoInfo

MOST = 2**62
LAST_NUMBER = re.compile(r"\d+(?=\D*$)")


def in_order(folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES, prefix: str = "") -> list[Path]:
    """The files of a folder by the last number in their names, so that 10 follows 9; without numbers, by name.

    Args:
        folder: Folder of the files; its sub-folders are ignored.
        suffixes: Suffixes of the files, in lower case.
        prefix: Beginning of their names.

    Raises:
        DecodeError: If the folder cannot be read or has no such file, only some names have numbers, two have the same number,
            or numbers are not evenly spaced: then a frame is missing, and later frames would be mistaken for earlier ones.
    """
    wanted = set(suffixes)
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise DecodeError("file not found", str(error)) from error
    names = sorted(one for one in names if suffix_of(one) in wanted and one.startswith(prefix) and not is_hidden(one))
    if not names:
        raise DecodeError("no frame decoded", f"{folder} contains no {prefix}*{' or *'.join(sorted(wanted))}")
    numbers = [LAST_NUMBER.search(name[: -len(suffix_of(name))]) for name in names]
    if not any(numbers):
        return [folder / name for name in names]
    if None in numbers:
        raise DecodeError("another format", f"{names[numbers.index(None)]} has no number, but other names have")
    ordered = sorted((int(number.group()), name) for number, name in zip(numbers, names, strict=True) if number is not None)
    steps = np.diff([number for number, _ in ordered])
    odd = np.flatnonzero(steps != max(1, steps.min(initial=MOST)))
    if len(odd):
        raise DecodeError("a gap in time", f"{ordered[odd[0] + 1][1]} follows {ordered[odd[0]][1]}")
    return [folder / name for _, name in ordered]


def open_picture(path: Path) -> Image.Image:
    """A decoded picture, as it is stored. Raises DecodeError."""
    try:
        picture: Image.Image = Image.open(path)
        picture.load()
    except FileNotFoundError as error:
        raise DecodeError("file not found", str(error)) from error
    # Pillow raises many types of errors for broken files.
    except Exception as error:
        raise DecodeError("failed while decoding", f"{path.name}: {error}".partition("\n")[0]) from error
    return picture


class PictureFolderReader:
    """Reads frames of a folder of images by index in the order of the files.

    Args:
        source: The folder and its frame rate.
        timeout: Seconds after which reading stops.

    Raises:
        DecodeError: Like `in_order`, or if the first picture cannot be read.
    """

    def __init__(self, source: PictureFolder, timeout: float | None) -> None:
        self._files = in_order(source.path)
        self._deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with Image.open(self._files[0]) as first:
                width, height = first.size
        except Exception as error:
            raise DecodeError("failed while decoding", f"{self._files[0].name}: {error}".partition("\n")[0]) from error
        self.info = VideoInfo(len(self._files), source.fps, width, height)

    def read(self, numbers: list[int]) -> list[Picture]:
        """The frames of these ascending, distinct indices. Raises DecodeError."""
        pictures = []
        for number in numbers:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise DecodeError("timed out")
            picture = open_picture(self._files[number])
            if picture.mode[0] in "IF":
                raise DecodeError("another format", f"{self._files[number].name} has more than 8 bits per colour")
            pictures.append(Picture(np.asarray(picture.convert("RGB")), number / self.info.fps))
        return pictures

    def close(self) -> None:
        """Do nothing: no file is open."""

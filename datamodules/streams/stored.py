"""Readers of stored flow, depth and masks: folders of pictures, arrays, videos. Axis letters: `N` frames, `C` channels."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from datamodules.lists.folders import IMAGE_SUFFIXES, VIDEO_SUFFIXES, suffix_of
from datamodules.video.decode import DecodeError, VideoInfo, read_clips
from datamodules.video.picture_folder import in_order, open_picture
from datamodules.video.readers import LENIENT, PictureFolder

PLANE_SUFFIXES = IMAGE_SUFFIXES | {".flo", ".npy"}
"""Suffixes of files with one frame each, in a folder."""
ARRAY_SUFFIXES = (".npy", ".npz")
FLO_MAGIC = b"PIEH"
FLOW_FACTS = "flow.json"
"""File that `prepare flow` writes next to its results, with their settings."""


class Stored(Protocol):
    """An opened file or folder."""

    info: VideoInfo
    """description; the rate is 0 if unknown"""

    def read(self, numbers: list[int]) -> np.ndarray:
        """The frames of these ascending, distinct indices, [N, h, w, C] as stored. Raises DecodeError."""


class Pictures:
    """Files of one frame each.

    Args:
        channels: files of each channel, or one list for all channels.

    Raises:
        DecodeError: if the channels have different numbers of files, or the first file cannot be read.
    """

    def __init__(self, *channels: list[Path]) -> None:
        self._channels = channels
        counts = [len(files) for files in channels]
        if len(set(counts)) > 1:
            raise DecodeError("a gap in time", f"{' and '.join(map(str, counts))} pictures in {channels[0][0].parent}")
        self._first = read_plane(channels[0][0])
        height, width = self._first.shape[:2]
        self.info = VideoInfo(counts[0], 0.0, width, height)
        self.is_lossy = suffix_of(channels[0][0].name) in (".jpg", ".jpeg")

    def read(self, numbers: list[int]) -> np.ndarray:
        """See `Stored.read`."""
        frames = [np.concatenate([self._plane(files, number) for files in self._channels], -1) for number in numbers]
        return np.stack(frames)

    def _plane(self, files: list[Path], number: int) -> np.ndarray:
        plane = self._first if number == 0 and files is self._channels[0] else read_plane(files[number])
        if plane.shape[:2] != self._first.shape[:2]:
            raise DecodeError("frame size changes", f"at {files[number].name}")
        if plane.shape != self._first.shape or plane.dtype != self._first.dtype:
            raise DecodeError("another format", f"{files[number].name} is stored in another way than those before it")
        return plane


class Arrays:
    """An array of all frames, [N, h, w] or [N, h, w, C]; a .npy file is memory-mapped.

    Args:
        path: .npy file, or .npz file with one array.

    Raises:
        DecodeError: if it cannot be opened, or has a wrong number of axes.
    """

    def __init__(self, path: Path) -> None:
        self._array = _as_frames(load_array(path), 3)
        frames, height, width = self._array.shape[:3]
        self.info = VideoInfo(frames, 0.0, width, height)

    def read(self, numbers: list[int]) -> np.ndarray:
        """See `Stored.read`."""
        # Consecutive frames are a slice of the file, so that only the crops are copied.
        if numbers[-1] - numbers[0] + 1 == len(numbers):
            return self._array[numbers[0] : numbers[-1] + 1]
        return self._array[numbers]


class VideoFile:
    """An 8-bit video, [N, h, w, 3].

    Args:
        source: file, or folder of pictures.

    Raises:
        DecodeError: if it cannot be opened.
    """

    def __init__(self, source: Path | PictureFolder) -> None:
        self._source = source
        self.info = read_clips(source, lambda info, rng: np.zeros((1, 1), np.int64), None).info

    def read(self, numbers: list[int]) -> np.ndarray:
        """See `Stored.read`."""
        wanted = np.array([numbers])
        return np.stack(read_clips(self._source, lambda info, rng: wanted.clip(max=info.num_frames - 1), None).frames)


@lru_cache(65536)
def bits_of(path: Path) -> int:
    """Bits per colour of a video; looked up once per process. Raises DecodeError."""
    try:
        with av.open(str(path), **LENIENT) as container:
            return max(component.bits for component in container.streams.video[0].format.components)
    except (av.FFmpegError, OSError, IndexError, AttributeError) as error:
        raise DecodeError("cannot open", str(error)) from error


def open_planes(source: Path) -> Stored:
    """Open masks, or depth that is not stored as a video. Raises DecodeError."""
    return _open(source, lambda folder: Pictures(in_order(folder, PLANE_SUFFIXES)))


def open_flow(source: Path) -> Stored:
    """Open flow: a folder of .flo or .npy files, or of pictures of u and v (in folders u and v, or named flow_x* and flow_y*),
    or an array; .npy is added if `source` has no suffix. Raises DecodeError."""
    array = source.with_name(f"{source.name}.npy")
    if array.is_file():
        if source.exists():
            raise DecodeError("another format", f"{source} exists twice, without suffix and as {array.name}; remove one")
        source = array
    return _open(source, _flow_folder)


def _flow_folder(folder: Path) -> Pictures:
    if (folder / "u").is_dir() and (folder / "v").is_dir():
        return Pictures(in_order(folder / "u"), in_order(folder / "v"))
    # The folder may also contain colour pictures.
    if next(folder.glob("flow_x*"), None) is not None:
        return Pictures(in_order(folder, prefix="flow_x"), in_order(folder, prefix="flow_y"))
    return Pictures(in_order(folder, PLANE_SUFFIXES))


def _open(source: Path, open_folder: Callable[[Path], Pictures]) -> Stored:
    if source.is_dir():
        return open_folder(source)
    if not source.exists():
        raise DecodeError("file not found", str(source))
    suffix = suffix_of(source.name)
    if suffix in ARRAY_SUFFIXES:
        return Arrays(source)
    if suffix in VIDEO_SUFFIXES or suffix not in PLANE_SUFFIXES:
        raise DecodeError("another format", f"{source.name} is neither an array nor a folder of pictures")
    return Pictures([source])


def read_plane(path: Path) -> np.ndarray:
    """A file of one frame as stored, [h, w, C]; palette images keep their indices. Raises DecodeError."""
    if path.suffix.lower() == ".flo":
        return read_flo(path)
    plane = load_array(path) if path.suffix.lower() == ".npy" else np.asarray(open_picture(path))
    return _as_frames(plane, 2)


def read_flo(path: Path) -> np.ndarray:
    """A .flo file of the Middlebury benchmark: float32 [h, w, 2], pixels to the right and down. Raises DecodeError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DecodeError("file not found", str(error)) from error
    width, height = (int(side) for side in np.frombuffer(content[4:12].ljust(8, b"\0"), "<i4"))
    if content[:4] != FLO_MAGIC or width < 1 or height < 1 or len(content) != 12 + 8 * width * height:
        raise DecodeError("cannot open", f"{path.name} is not a complete .flo file")
    return np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped, or the only array of a .npz file. Raises DecodeError."""
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            if len(content.files) != 1:
                raise DecodeError("another format", f"{path.name} contains the arrays {', '.join(content.files)}, not one")
            array: np.ndarray = content[content.files[0]]
            return array
    except FileNotFoundError as error:
        raise DecodeError("file not found", str(error)) from error
    except DecodeError:
        raise
    # NumPy raises many types of errors for broken files.
    except Exception as error:
        raise DecodeError("cannot open", f"{path.name}: {error}".partition("\n")[0]) from error


def _as_frames(array: np.ndarray, axes: int) -> np.ndarray:
    """Add a channel axis after `axes` other axes, if it is missing. Raises DecodeError."""
    if array.ndim not in (axes, axes + 1) or 0 in array.shape:
        raise DecodeError("another format", f"an array of shape {array.shape}")
    return array[..., None] if array.ndim == axes else array

"""Common parts of the readers of video files, and the readers that need optional extras: decord and torchcodec.

A reader numbers frames in display order, as ffmpeg outputs them from the start of the file, and returns the requested
ones. `datamodules/video/decode.py` combines them to clips; `datamodules/video/pyav_reader.py` is the default reader.
"""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import av
import numpy as np

from modules.core.errors import SettingError

# Maximum memory of the decoded frames of one file, for all its clips: 680 frames of full HD, 160 of 4K.
MAX_BYTES = 4 * 2**30
# Metadata in any encoding must not prevent reading a file; PyAV 19 does not need this option.
LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}

Reason = Literal[
    "file not found",
    "empty file",
    "cannot open",
    "no video stream",
    "no frame decoded",
    "failed while decoding",
    "frame size changes",
    "too short",
    "too large",
    "timed out",
    "decoder crashed",
    "no such stream",
    "silent",
    "another rate",
    "another size",
    "another width",
    "another format",
    "a gap in time",
    "times not ascending",
    "no such column",
    "not numbers",
]


class VideoBytes(NamedTuple):
    """A video file in memory, as read from a shard."""

    name: str
    """original file name; its suffix helps ffmpeg to detect the container, like that of a path"""
    content: bytes

    def open(self) -> io.BytesIO:
        """An open file of that name; the content is not copied."""
        file = io.BytesIO(self.content)
        file.name = self.name
        return file


class PictureFolder(NamedTuple):
    """A folder of pictures that is read as a video."""

    path: Path
    fps: float
    """frames per second, which the folder does not contain"""


Source = Path | VideoBytes
"""Input of a decoder."""


class DecodeError(Exception):
    """The requested frames cannot be read from a file.

    Args:
        reason: Cause of the error, one of a few fixed texts, so that errors can be counted.
        detail: Message of the decoder, if any.
        stream: Name of the file's stream, if it is a further stream of its sample.
    """

    def __init__(self, reason: Reason, detail: str = "", stream: str = "") -> None:
        self.reason: Reason = reason
        self.detail, self.stream = detail, stream
        super().__init__(f"{self.counted} ({detail})" if detail else self.counted)

    @property
    def counted(self) -> str:
        """The reason, with the name of the stream if it is a further one."""
        return f"{self.stream}: {self.reason}" if self.stream else self.reason

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[Reason, str, str]]:
        """Support pickling, to pass the error from a worker process to the trainer."""
        return DecodeError, (self.reason, self.detail, self.stream)


def open_container(source: Source, deadline: float | None) -> av.container.InputContainer:
    """Open a file with PyAV.

    Args:
        source: the file.
        deadline: time (`time.monotonic`) at which reading stops; None waits forever.

    Raises:
        DecodeError: if it cannot be opened, or the time limit is exceeded.
    """
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        return av.open(source.open() if isinstance(source, VideoBytes) else str(source), timeout=left, **LENIENT)
    except av.error.ExitError as error:
        raise DecodeError("timed out", "while opening") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError("cannot open", str(error)) from error


def check_time(deadline: float | None) -> None:
    """Raise DecodeError after the deadline."""
    if deadline is not None and time.monotonic() > deadline:
        raise DecodeError("timed out")


def check_size(width: int, height: int, frames: int) -> None:
    """Refuse frames that would take too much memory. Raises DecodeError."""
    if width * height * 3 * frames > MAX_BYTES:
        raise DecodeError("too large", f"{frames} frames of {width} x {height}")


class FewerFramesError(Exception):
    """The file ended before the last requested frame.

    Args:
        num_frames: Number of frames that were decoded.
    """

    def __init__(self, num_frames: int) -> None:
        super().__init__(f"{num_frames} frames decoded")
        self.num_frames = num_frames


@contextmanager
def only_decode_errors() -> Iterator[None]:
    """Convert any error of a library into a DecodeError: a broken file must not end a run."""
    try:
        yield
    except (DecodeError, FewerFramesError, SettingError):
        raise
    except Exception as error:
        raise DecodeError("failed while decoding", f"{type(error).__name__}: {error}".partition("\n")[0]) from error


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Args:
        num_frames: Number of frames of plain decoding.
        fps: Frames per second, averaged over the file.
        width: Pixels, after rotation.
        height: Pixels, after rotation.
    """

    num_frames: int
    fps: float
    width: int
    height: int


class Picture(NamedTuple):
    """One decoded frame."""

    frame: np.ndarray
    """uint8 [h, w, 3], RGB, upright."""
    seconds: float
    """Timestamp in seconds from the start of the video."""


class Reader(Protocol):
    """An open file. Its `info` has the size before rotation; the rotation is known only once a frame is decoded."""

    info: VideoInfo

    def read(self, numbers: list[int]) -> list[Picture]:
        """The frames of these ascending, distinct indices. Raises DecodeError or FewerFramesError."""

    def close(self) -> None:
        """Close the file."""


def _optional(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise SettingError(
            f"The decoder {package} cannot be imported ({error}); run `pip install {package}`, or choose pyav."
        ) from error


class DecordReader:
    """decord, an optional extra. It reads the largest video stream and does not support a time limit.

    If a group of pictures is open (usual in HEVC, rare in H.264) or the container's index is wrong, decord returns wrong
    frames; `read_clips` refuses such files.

    Args:
        source: The file.
        threads: Decoder threads.
    """

    def __init__(self, source: Source, threads: int) -> None:
        decord = _optional("decord", "decord")
        self._errors = (decord.DECORDError, RuntimeError, IndexError)
        file = source.open() if isinstance(source, VideoBytes) else str(source)
        try:
            self._video = decord.VideoReader(file, num_threads=threads)
            height, width = self._video[0].shape[:2]
        except self._errors as error:
            raise DecodeError("cannot open", str(error).partition("\n")[0]) from error
        self.info = VideoInfo(len(self._video), float(self._video.get_avg_fps()), width, height)

    def close(self) -> None:
        """Close the file."""
        del self._video

    def read(self, numbers: list[int]) -> list[Picture]:
        """The frames of these ascending, distinct indices. Raises DecodeError."""
        try:
            frames = self._video.get_batch(numbers).asnumpy()
        except self._errors as error:
            raise DecodeError("failed while decoding", str(error).partition("\n")[0]) from error
        seconds = self._video.get_frame_timestamp(numbers)[:, 0] - self._video.get_frame_timestamp(0)[0]
        return [Picture(frame, float(moment)) for frame, moment in zip(frames, seconds, strict=True)]


class TorchCodecReader:
    """torchcodec, an optional extra that needs ffmpeg's shared libraries. Reads the largest video stream, without time limit.

    It finds frames by the timestamps and keyframes of the container; `read_clips` refuses files in which these are wrong.
    It uses exact seeking: approximate seeking is not faster, and wrong if the frame rate varies. With one thread, as in a
    worker, PyAV is faster (`benchmarks/loader.py`): it skips non-reference frames.

    Args:
        source: The file.
        threads: Decoder threads.
    """

    def __init__(self, source: Source, threads: int) -> None:
        decoders = _optional("torchcodec.decoders", "torchcodec")
        file = source.content if isinstance(source, VideoBytes) else str(source)
        try:
            self._video = decoders.VideoDecoder(file, dimension_order="NHWC", num_ffmpeg_threads=threads)
        except (RuntimeError, ValueError) as error:
            if "libtorchcodec" in str(error):
                raise SettingError(
                    "The decoder torchcodec cannot find ffmpeg's shared libraries; install ffmpeg, or choose pyav."
                ) from error
            raise DecodeError("cannot open", str(error).partition("\n")[0]) from error
        about = self._video.metadata
        self.info = VideoInfo(len(self._video), float(about.average_fps or 25), int(about.width), int(about.height))
        self._start = float(about.begin_stream_seconds or 0)

    def close(self) -> None:
        """Close the file."""
        del self._video

    def read(self, numbers: list[int]) -> list[Picture]:
        """The frames of these ascending, distinct indices. Raises DecodeError."""
        try:
            batch = self._video.get_frames_at(numbers)
        except (RuntimeError, IndexError) as error:
            raise DecodeError("failed while decoding", str(error).partition("\n")[0]) from error
        moments = (batch.pts_seconds - self._start).tolist()
        return [Picture(frame, moment) for frame, moment in zip(batch.data.numpy(), moments, strict=True)]

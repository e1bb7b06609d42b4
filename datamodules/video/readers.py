"""What every reader of video files has in common, and those that stand on optional extras: decord and torchcodec.

A reader numbers frames in display order, as ffmpeg puts them out from the start of the file, and returns those asked
for. `datamodules/video/decode.py` makes clips of them; `datamodules/video/pyav_reader.py` is the reader normally used.
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

# Decoded frames of one file may take this much memory, all its clips together: 680 frames of full HD, 160 of 4K.
MAX_BYTES = 4 * 2**30
# Titles in any encoding must not keep a file from being read; PyAV 19 needs no telling.
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
    """A video file that is in memory, as it comes out of a shard."""

    name: str
    """what it was called; the suffix helps ffmpeg to tell the container, as that of a path does"""
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
    """frames per second, which nothing in the folder says"""


Source = Path | VideoBytes
"""What a decoder reads."""


class DecodeError(Exception):
    """A file cannot give the frames that were asked of it.

    Args:
        reason: What is wrong, in a few stable words, fit for counting.
        detail: What the decoder said, if anything.
        stream: Name of the stream that the file is of, where it is a further one of its sample.
    """

    def __init__(self, reason: Reason, detail: str = "", stream: str = "") -> None:
        self.reason: Reason = reason
        self.detail, self.stream = detail, stream
        super().__init__(f"{self.counted} ({detail})" if detail else self.counted)

    @property
    def counted(self) -> str:
        """The reason, and the stream that it is of, if it is a further one."""
        return f"{self.stream}: {self.reason}" if self.stream else self.reason

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[Reason, str, str]]:
        """Survive the way from a worker process to the trainer."""
        return DecodeError, (self.reason, self.detail, self.stream)


def open_container(source: Source, deadline: float | None) -> av.container.InputContainer:
    """Open a file with PyAV.

    Args:
        source: the file.
        deadline: of `time.monotonic`, when to give up reading; None waits for ever.

    Raises:
        DecodeError: if it cannot be opened, or time is up.
    """
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        return av.open(source.open() if isinstance(source, VideoBytes) else str(source), timeout=left, **LENIENT)
    except av.error.ExitError as error:
        raise DecodeError("timed out", "while opening") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError("cannot open", str(error)) from error


def check_time(deadline: float | None) -> None:
    """Raise DecodeError when time is up."""
    if deadline is not None and time.monotonic() > deadline:
        raise DecodeError("timed out")


def check_size(width: int, height: int, frames: int) -> None:
    """Refuse frames that would take too much memory. Raises DecodeError."""
    if width * height * 3 * frames > MAX_BYTES:
        raise DecodeError("too large", f"{frames} frames of {width} x {height}")


class FewerFramesError(Exception):
    """The file ended before the last wanted frame.

    Args:
        num_frames: How many frames came out.
    """

    def __init__(self, num_frames: int) -> None:
        super().__init__(f"{num_frames} frames decoded")
        self.num_frames = num_frames


@contextmanager
def only_decode_errors() -> Iterator[None]:
    """Whatever a broken file makes a library raise is the file's fault, and must not end a run."""
    try:
        yield
    except (DecodeError, FewerFramesError, SettingError):
        raise
    except Exception as error:
        raise DecodeError("failed while decoding", f"{type(error).__name__}: {error}".partition("\n")[0]) from error


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video.

    Args:
        num_frames: Frames that plain decoding puts out.
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
    """From the start of the video."""


class Reader(Protocol):
    """An open file. Its `info` has the size before rotation, which is known only once a frame is decoded."""

    info: VideoInfo

    def read(self, numbers: list[int]) -> list[Picture]:
        """The frames of these ascending, different numbers. Raises DecodeError or FewerFramesError."""

    def close(self) -> None:
        """Let go of the file."""


def _optional(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise SettingError(
            f"The decoder {package} cannot be imported ({error}); run `pip install {package}`, or choose pyav."
        ) from error


class DecordReader:
    """decord, an optional extra. It takes the largest video stream and cannot be given a deadline.

    Where a group of pictures is open (usual in HEVC, rare in H.264), or the container's index is wrong, decord returns wrong
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
        """Let go of the file."""
        del self._video

    def read(self, numbers: list[int]) -> list[Picture]:
        """The frames of these ascending, different numbers. Raises DecodeError."""
        try:
            frames = self._video.get_batch(numbers).asnumpy()
        except self._errors as error:
            raise DecodeError("failed while decoding", str(error).partition("\n")[0]) from error
        seconds = self._video.get_frame_timestamp(numbers)[:, 0] - self._video.get_frame_timestamp(0)[0]
        return [Picture(frame, float(moment)) for frame, moment in zip(frames, seconds, strict=True)]


class TorchCodecReader:
    """torchcodec, an optional extra that needs ffmpeg's shared libraries. Largest video stream, no deadline.

    It picks frames by the times and keyframes that the container states; `read_clips` refuses files in which these are wrong.
    It seeks exactly: to guess places from the rate is not faster, and wrong where the rate varies. With one thread, as in a
    worker, PyAV is faster (`benchmarks/loader.py`): it leaves out frames to which no other refers.

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
        """Let go of the file."""
        del self._video

    def read(self, numbers: list[int]) -> list[Picture]:
        """The frames of these ascending, different numbers. Raises DecodeError."""
        try:
            batch = self._video.get_frames_at(numbers)
        except (RuntimeError, IndexError) as error:
            raise DecodeError("failed while decoding", str(error).partition("\n")[0]) from error
        moments = (batch.pts_seconds - self._start).tolist()
        return [Picture(frame, moment) for frame, moment in zip(batch.data.numpy(), moments, strict=True)]

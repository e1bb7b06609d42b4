"""Read chosen frames of a video file with `read_clips`, or only its properties with `probe`.

The file is opened once and read from the keyframe before the first requested frame to the last one; only requested
frames are converted to RGB. Frames are numbered in display order, as ffmpeg outputs them from the start of the file.
Axis letters: `V` clips, `T` frames.
"""

import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.audio.decode import OpenSound
from datamodules.video.picture_folder import PictureFolderReader
from datamodules.video.pyav_reader import MISSING_FRAMES, MISSING_SHARE, PyAVReader, SoundWish
from datamodules.video.readers import (
    DecodeError,
    DecordReader,
    FewerFramesError,
    PictureFolder,
    Reader,
    Source,
    TorchCodecReader,
    VideoBytes,
    VideoInfo,
    check_size,
    only_decode_errors,
)

__all__ = [
    *("ChooseFrames", "DecodeError", "DecodedClips", "Decoder", "VideoBytes", "VideoInfo", "probe", "read_clips"),
    "reading_clips",
]

Decoder = Literal["pyav", "decord", "torchcodec"]
ChooseFrames = Callable[[VideoInfo, np.random.Generator | None], np.ndarray]


@dataclass
class DecodedClips:
    """The requested frames of one video, each decoded once.

    Args:
        frames: The distinct frames, uint8 [h, w, 3], RGB, upright, all of the same size.
        position: int64 [V, T], index into `frames`.
        info: The video.
        numbers: int64 [V, T], frame indices in the video.
        moments: float32 [V, T], timestamps of the frames, in seconds from the start of the video.
        sound: Reads the audio of the same file while it is open; None if no audio was requested.
    """

    frames: list[np.ndarray]
    position: np.ndarray
    info: VideoInfo
    numbers: np.ndarray
    moments: np.ndarray
    sound: OpenSound | None = None

    @property
    def time(self) -> np.ndarray:
        """float32 [V, 2], timestamps of the first and last frame of each clip."""
        return self.moments[:, [0, -1]]


@contextmanager
def reading_clips(
    source: str | Source | PictureFolder,
    choose: ChooseFrames,
    rng: np.random.Generator | None,
    threads: int = 1,
    decode_timeout: float | None = None,
    decoder: Decoder = "pyav",
    sound: SoundWish | None = None,
) -> Iterator[DecodedClips]:
    """Like `read_clips`, but the file stays open in the context, so that its audio can be read.

    Args:
        source: See `read_clips`.
        choose: See `read_clips`.
        rng: See `read_clips`.
        threads: See `read_clips`.
        decode_timeout: See `read_clips`.
        decoder: See `read_clips`. PyAV always reads the audio; with another video decoder, it reads the file a second time.
        sound: Which part of the audio will be read, so that one pass is enough: `near` the frames, or the `whole` of it.

    Raises:
        DecodeError: The frames cannot be read from the file.
    """
    source = source if isinstance(source, VideoBytes | PictureFolder) else Path(source).absolute()
    with ExitStack() as stack:
        with only_decode_errors():
            reader, beside = _open(source, threads, decode_timeout, decoder, sound, stack)
        decoded = _read(reader, choose, rng)
        if sound is not None and beside is not None:
            decoded.sound = OpenSound(beside.sound, beside.first_moment)
        yield decoded


def read_clips(
    source: str | Source | PictureFolder,
    choose: ChooseFrames,
    rng: np.random.Generator | None,
    threads: int = 1,
    decode_timeout: float | None = None,
    decoder: Decoder = "pyav",
) -> DecodedClips:
    """Read the frames of one or several clips from a file that is opened once.

    Frame k is the frame k of plain decoding from the start, and the number of frames is that of plain decoding, whatever the
    container says. A file that ends early (by more than two frames and 5 % of its stated number of frames), or that plain
    decoding cannot read to its end, is an error, whichever frames are requested. If damage within packets of H.264 makes the
    decoder leave out a few frames, `choose` is called again with the true length.

    Args:
        source: A video, or an image, which is a video of one frame: a path, or a file in memory; or a folder of images with
            its frame rate, which is read without a decoder.
        choose: Given the video's description and `rng`, returns the requested frame indices, int [V, T]. Width and height
            in this description are those before rotation.
        rng: Passed on to `choose`.
        threads: Decoder threads. Use one in loader workers.
        decode_timeout: Seconds after which reading stops (PyAV only), checked between frames and by ffmpeg when it
            reads. Not checked while a frame is decoded; `datamodules/loading/worker_guard.py` ends workers that hang there.
        decoder: The decoding library. decord and torchcodec are refused where they would return other frames: for files with
            several video streams, of which they use the largest and this project the first; for files whose frames have to be
            counted (all but regular mp4 and mkv); for files in which they count differently; and decord for files with open
            groups of pictures (usual in HEVC).

    Raises:
        DecodeError: The frames cannot be read from the file.
    """
    with reading_clips(source, choose, rng, threads, decode_timeout, decoder) as decoded:
        return decoded


def _read(reader: Reader, choose: ChooseFrames, rng: np.random.Generator | None) -> DecodedClips:
    """Read the clips of `read_clips` from an open file."""
    info = reader.info
    for is_last_try in (False, True):
        if info.num_frames < 1:
            raise DecodeError("no frame decoded")
        numbers = _checked(choose(info, rng), info.num_frames)
        unique, position = np.unique(numbers, return_inverse=True)
        check_size(info.width, info.height, len(unique))
        try:
            with only_decode_errors():
                pictures = reader.read(unique.tolist())
            break
        except FewerFramesError as short:
            info = _shortened(info, short, is_last_try)
    if len({picture.frame.shape for picture in pictures}) > 1:
        raise DecodeError("frame size changes")
    height, width = pictures[0].frame.shape[:2]
    position = position.reshape(numbers.shape)
    seconds = np.array([picture.seconds for picture in pictures], dtype=np.float32)
    return DecodedClips(
        frames=[picture.frame for picture in pictures],
        position=position,
        info=replace(info, width=width, height=height),
        numbers=numbers,
        moments=seconds[position],
    )


def probe(path: str | Source | PictureFolder, decode_timeout: float | None = None) -> VideoInfo:
    """Number of frames, rate and upright size of a video. Decodes the first frame, so that a file without frames is detected.

    Args:
        path: A video, or an image.
        decode_timeout: Seconds after which reading stops.

    Raises:
        DecodeError: The file cannot be opened, or has no frame.
    """
    first = np.zeros((1, 1), dtype=np.int64)
    return read_clips(path, lambda info, rng: first, None, decode_timeout=decode_timeout).info


def _size(source: Source) -> int:
    """Size of a file in bytes. Raises DecodeError if the file does not exist."""
    if isinstance(source, VideoBytes):
        return len(source.content)
    try:
        status = source.stat()
    except (OSError, ValueError) as error:
        raise DecodeError("file not found", str(error)) from error
    # Opening a pipe would block until a process writes into it.
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError("cannot open", "not a file")
    return status.st_size


def _open(
    source: Source | PictureFolder,
    threads: int,
    decode_timeout: float | None,
    decoder: Decoder,
    sound: SoundWish | None,
    stack: ExitStack,
) -> tuple[Reader, PyAVReader | None]:
    """Open a file with one of the decoders, after checks that are common to all, and with PyAV; `stack` closes it.

    Folders of images have no PyAV reader.
    """
    if isinstance(source, PictureFolder):
        return PictureFolderReader(source, decode_timeout), None
    if _size(source) == 0:
        raise DecodeError("empty file")
    reader = stack.enter_context(closing(PyAVReader(source, threads, decode_timeout, sound)))
    if decoder == "pyav":
        return reader, reader
    if sound is None:
        reader.close()
    other = DecordReader(source, threads) if decoder == "decord" else TorchCodecReader(source, threads)
    stack.enter_context(closing(other))
    differs = not reader.is_plain or other.info.num_frames != reader.info.num_frames
    if differs or (decoder == "decord" and reader.has_open_groups):
        detail = f"{decoder} would give wrong frames of this file; set data.reading.decoder to pyav"
        raise DecodeError("cannot open", detail)
    other.info = replace(other.info, fps=reader.info.fps)
    return other, reader


def _checked(numbers: np.ndarray, num_frames: int) -> np.ndarray:
    if numbers.ndim != 2 or numbers.size == 0 or numbers.min() < 0 or numbers.max() >= num_frames:
        raise ValueError(f"frame numbers must be [V, T] and in 0 .. {num_frames - 1}, not {numbers.tolist()}")
    return numbers


def _shortened(info: VideoInfo, short: FewerFramesError, is_last_try: bool) -> VideoInfo:
    """The description with the true length, if another try is allowed."""
    if short.num_frames == 0:
        raise DecodeError("no frame decoded", str(short.__cause__ or "")) from short
    overstated_by = info.num_frames - short.num_frames
    if is_last_try or overstated_by > max(MISSING_FRAMES, MISSING_SHARE * info.num_frames):
        raise DecodeError("failed while decoding", f"{short} of {info.num_frames}") from short
    return replace(info, num_frames=short.num_frames)

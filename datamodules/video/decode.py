"""Read chosen frames of a video file: one function, `read_clips`, and `probe`, which only looks.

The file is opened once, read from the keyframe before the first wanted frame to the last wanted one, and only wanted
frames are converted to RGB. Frames are numbered in display order, as ffmpeg puts them out from the start of the file.
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
    """The wanted frames of one video, each decoded once.

    Args:
        frames: The different frames, uint8 [h, w, 3], RGB, upright, all of one size.
        position: int64 [V, T], index into `frames`.
        info: The video.
        numbers: int64 [V, T], the frames' numbers in the video.
        moments: float32 [V, T], when they are shown, in seconds from the video's start.
        sound: Reads the sound of the same file, as long as that is open; None unless asked for.
    """

    frames: list[np.ndarray]
    position: np.ndarray
    info: VideoInfo
    numbers: np.ndarray
    moments: np.ndarray
    sound: OpenSound | None = None

    @property
    def time(self) -> np.ndarray:
        """float32 [V, 2], moment of the first and the last frame of each clip."""
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
    """As `read_clips`; the file stays open inside, for its sound.

    Args:
        source: See `read_clips`.
        choose: See `read_clips`.
        rng: See `read_clips`.
        threads: See `read_clips`.
        decode_timeout: See `read_clips`.
        decoder: See `read_clips`. Of the sound, PyAV is; with another library of the video, it reads the file once more.
        sound: Which part of it will be read, so that the file is read only once: what is `near` the frames, or the `whole`.

    Raises:
        DecodeError: The file cannot give these frames.
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

    Frame k is what plain decoding from the start puts out as frame k, and there are as many frames as it puts out, whatever the
    container says. A file that breaks off before the frames that it states (by more than two frames and 5 %), or that plain
    decoding cannot read to its end, is an error, whichever frames are wanted. If damage within packets of H.264 makes the
    decoder leave out a few frames, `choose` is called again with the true length.

    Args:
        source: A video, or an image, which is a video of one frame: a path, or a file in memory; or a folder of pictures with
            its rate, which is read by none of the decoders.
        choose: Given the video's description and `rng`, returns the wanted frame numbers, int [V, T]. Width and height
            in this description are those before rotation.
        rng: Passed on to `choose`.
        threads: Decoder threads. One is right inside loader workers.
        decode_timeout: Seconds after which to give up the file (PyAV only), checked between frames and by ffmpeg when it
            reads. Not checked within the decoding of a frame; `datamodules/loading/worker_guard.py` ends what hangs there.
        decoder: The library that decodes. decord and torchcodec are refused where they would give other frames: in files
            with several video streams, of which they take the largest and this project the first, where frames have to
            be counted (all but mp4 and mkv, and what is odd among these), where they count otherwise, and decord in files
            with open groups of pictures (usual in HEVC).

    Raises:
        DecodeError: The file cannot give these frames.
    """
    with reading_clips(source, choose, rng, threads, decode_timeout, decoder) as decoded:
        return decoded


def _read(reader: Reader, choose: ChooseFrames, rng: np.random.Generator | None) -> DecodedClips:
    """What `read_clips` reads, from an open file."""
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
    """Length, rate and upright size of a video. Decodes its first frame, so that a file without any is detected.

    Args:
        path: A video, or an image.
        decode_timeout: Seconds after which to give up.

    Raises:
        DecodeError: The file cannot be opened, or gives no frame.
    """
    first = np.zeros((1, 1), dtype=np.int64)
    return read_clips(path, lambda info, rng: first, None, decode_timeout=decode_timeout).info


def _size(source: Source) -> int:
    """Bytes of a file. Raises DecodeError if there is none."""
    if isinstance(source, VideoBytes):
        return len(source.content)
    try:
        status = source.stat()
    except (OSError, ValueError) as error:
        raise DecodeError("file not found", str(error)) from error
    # Opening a pipe would wait for somebody to write into it.
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
    """Open a file with one of the decoders, after the checks that are the same for all, and with PyAV; `stack` closes it.

    Folders of pictures have no reader of PyAV.
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
    """The description with the true length, if the file may be read once more with it."""
    if short.num_frames == 0:
        raise DecodeError("no frame decoded", str(short.__cause__ or "")) from short
    overstated_by = info.num_frames - short.num_frames
    if is_last_try or overstated_by > max(MISSING_FRAMES, MISSING_SHARE * info.num_frames):
        raise DecodeError("failed while decoding", f"{short} of {info.num_frames}") from short
    return replace(info, num_frames=short.num_frames)

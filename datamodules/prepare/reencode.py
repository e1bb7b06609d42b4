"""Write a video, or a part of it, as a small mp4 file with fast random access, and check the result."""

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple

import av
from av.video.reformatter import ColorRange, VideoReformatter

from datamodules.lists.folders import IMAGE_SUFFIXES, is_hidden
from datamodules.lists.manifest import is_file
from datamodules.video.bitstream import REORDERING
from datamodules.video.pyav_reader import MISSING_FRAMES, MISSING_SHARE, PyAVReader, display_matrix, upright
from datamodules.video.readers import LENIENT, DecodeError

SAME_BYTES = "threads=1:lookahead-threads=1:mbtree=0"
"""Options of x264 with which the same frames always give the same file. One thread for each file leaves the other cores to
other files. With macroblock trees, a few files in a hundred differ from run to run, also with one thread."""
# Used if the time base of a file is unusable.
TICKS = Fraction(1, 90000)
# Tolerance, because times in lists are rounded.
EPSILON = 1e-6


class Encoding(NamedTuple):
    """Settings of the written videos."""

    short_side: int
    """pixels of the shorter side; smaller videos keep their size"""
    gop: int
    """maximum number of frames from one keyframe to the next"""
    quality: int
    """x264's constant rate factor, lower is better"""
    rate: float
    """frames per second of folders of pictures"""


class Timed(NamedTuple):
    """A frame, its time and usual duration in ticks, and seconds per tick."""

    frame: av.VideoFrame
    time: int
    tick: Fraction
    length: int


def reencode(source: Path, out: Path, start: float | None, stop: float | None, encoding: Encoding) -> int:
    """Write a video upright and without audio, keeping the timestamps of its frames.

    Args:
        source: a video file, or a folder of pictures in the order of their names.
        out: file to write, with any suffix.
        start: first second to write; null for the start of the video.
        stop: end in seconds, exclusive; null for the end of the video.
        encoding: settings of the written video.

    Returns:
        Number of frames.

    Raises:
        DecodeError: if the source is broken, or the written file cannot be read.
    """
    frames = _pictures(source, encoding.rate) if source.is_dir() else _frames(source, start, stop)
    reformatter = VideoReformatter()
    with av.open(str(out), "w", format="mp4") as container:
        stream: av.VideoStream | None = None
        size, last, count = (0, 0), -1, 0
        for frame, ticks, tick, length in frames:
            upright = _upright(frame)
            if stream is None:
                size = (upright.width, upright.height)
                stream = _add_stream(container, size, tick, encoding)
                # Videos without colour metadata would be displayed with different colours.
                stream.codec_context.color_range = ColorRange.MPEG
                stream.codec_context.colorspace = upright.colorspace
                first = ticks
            if (upright.width, upright.height) != size:
                raise DecodeError("frame size changes")
            small = reformatter.reformat(
                upright, stream.width, stream.height, "yuv420p", dst_color_range=ColorRange.MPEG, threads=1
            )
            # Timestamps must increase; a few files repeat one.
            last = max(last + 1, ticks - first)
            small.pts, small.time_base = last, tick
            # Let the encoder decide where keyframes are.
            small.pict_type = av.video.frame.PictureType.NONE
            _mux(container, stream.encode(small), length)
            count += 1
        if stream is None:
            raise DecodeError("no frame decoded")
        _mux(container, stream.encode(None), length)
        written = (stream.width, stream.height)
    _check(out, count, written)
    return count


def _add_stream(
    container: av.container.OutputContainer, size: tuple[int, int], tick: Fraction, encoding: Encoding
) -> av.VideoStream:
    options = {"crf": str(encoding.quality), "preset": "veryfast", "g": str(encoding.gop)}
    options["x264-params"] = SAME_BYTES
    stream = container.add_stream("libx264", options=options)
    scale = min(1.0, encoding.short_side / min(size))
    # This pixel format requires even sides.
    stream.width, stream.height = (max(2, 2 * round(side * scale / 2)) for side in size)
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = tick
    return stream


def _mux(container: av.container.OutputContainer, packets: list[av.Packet], length: int) -> None:
    for packet in packets:
        # Otherwise the last frame has no duration, which increases the stated frame rate.
        packet.duration = packet.duration or length
        container.mux(packet)


def _upright(frame: av.VideoFrame) -> av.VideoFrame:
    matrix = display_matrix(frame)
    (a, b), (c, d) = matrix[0, :2].tolist(), matrix[1, :2].tolist()
    if b == c == 0 and a > 0 and d > 0:
        return frame
    return av.VideoFrame.from_ndarray(upright(frame.to_ndarray(format="rgb24"), matrix), format="rgb24")


def _pictures(folder: Path, rate: float) -> Iterator[Timed]:
    there = [path for path in folder.iterdir() if not is_hidden(path.name)]
    files = sorted(path for path in there if path.suffix.lower() in IMAGE_SUFFIXES)
    tick = 1 / Fraction(rate).limit_denominator(1001)
    for number, path in enumerate(files):
        try:
            with av.open(str(path), **LENIENT) as container:
                frame = next(container.decode(video=0))
        except (av.FFmpegError, OSError, IndexError, StopIteration) as error:
            raise DecodeError("failed while decoding", f"{path.name}: {error}") from error
        yield Timed(frame, number, tick, 1)


def _frames(path: Path, start: float | None, stop: float | None) -> Iterator[Timed]:
    """Frames of a file."""
    if not is_file(path):
        raise DecodeError("file not found")
    if path.stat().st_size == 0:
        raise DecodeError("empty file")
    with closing(PyAVReader(path, 1, None)) as reader:
        yield from _part(reader, start, stop)


def _part(reader: PyAVReader, start: float | None, stop: float | None) -> Iterator[Timed]:
    stream = reader.stream
    base = stream.time_base or TICKS
    rate = max(Fraction(1, 10**5), Fraction(reader.info.fps).limit_denominator(10**5))
    tick = base if base.numerator == 1 and base.denominator <= 10**6 else TICKS
    first, decoded = reader.start, 0
    try:
        for frame, stamp in _in_order(reader, start or 0, rate * base):
            first = stamp if first is None else first
            seconds = (stamp - first) * base
            decoded += 1
            if stop is not None and seconds >= stop - EPSILON:
                break
            if start is None or seconds >= start - EPSILON:
                yield Timed(frame, round(seconds / tick), tick, max(1, round(1 / rate / tick)))
    except av.FFmpegError as error:
        raise DecodeError("failed while decoding", f"{error}, after {decoded} frames") from error
    stated = reader.info.num_frames
    if start is None and stop is None and stated - decoded > max(MISSING_FRAMES, MISSING_SHARE * stated):
        raise DecodeError("failed while decoding", f"{decoded} of {stated} frames")


def _in_order(reader: PyAVReader, start: float, frames_per_tick: Fraction) -> Iterator[tuple[av.VideoFrame, int]]:
    """Frames in display order with their times. If timestamps are wrong, they are decode times, as in AVI, and are sorted."""
    depth = 0 if reader.finds_by_time else REORDERING
    frames: deque[av.VideoFrame] = deque()
    stamps: list[int] = []
    for number, frame in enumerate(reader.frames_from(start)):
        stamp = frame.pts if frame.pts is not None else frame.dts
        frames.append(frame)
        heappush(stamps, stamp if stamp is not None else round(number / frames_per_tick))
        if len(frames) > depth:
            yield frames.popleft(), heappop(stamps)
    while frames:
        yield frames.popleft(), heappop(stamps)


def _check(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Decode the complete written file."""
    count = 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                count += (frame.width, frame.height) == size
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DecodeError("failed while decoding", f"what was written: {error}") from error
    if count != frames:
        raise DecodeError("failed while decoding", f"{count} of the {frames} frames that were written")

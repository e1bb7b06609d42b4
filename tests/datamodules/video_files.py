"""Small video files of every kind, whole and broken, written by PyAV, and their frames from plain decoding."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from datamodules.video.decode import VideoInfo

X264, X265 = "x264-params", "x265-params"
RATE = 25


def write_video(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    frames: int = 72,
    size: tuple[int, int] = (64, 48),
    pix_fmt: str = "yuv420p",
    irregular: bool = False,
    first_time: int = 0,
) -> Path:
    """A moving texture with a square and scene cuts, so that every kind of frame and reference occurs."""
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this build of PyAV cannot write {codec}")
    width, height = size
    texture = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    texture = np.kron(texture, np.ones((8, 8, 1), dtype=np.uint8))
    ticks = Fraction(1, 1000) if irregular else Fraction(1, RATE)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=RATE, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.time_base = stream.codec_context.time_base = ticks
        for number in range(frames):
            texture = 255 - texture if number % 31 == 30 else texture
            picture = np.roll(texture, (-number, -2 * number), (0, 1))[:height, :width].copy()
            left = number * 3 % (width - 8)
            picture[8:24, left : left + 8] = number * 5 % 256
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = ticks
            frame.pts = number * 40 + number**2 % 23 if irregular else first_time + number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_still(path: Path, frames: int, gap: int = 1) -> Path:
    """One shade per frame, `gap` seconds apart: hours of video are written quickly."""
    codec = "libx264" if path.suffix == ".mkv" else "mpeg4"
    shades = {}
    for shade in {number * 7 % 256 for number in range(min(frames, 256))}:
        picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), shade, np.uint8), format="rgb24")
        shades[shade] = picture.reformat(format="yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1, options={"g": "250", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1)
        for number in range(frames):
            frame = shades[number * 7 % 256]
            frame.time_base, frame.pts = Fraction(1), number * gap
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_with_sound(path: Path, video: Path) -> Path:
    """A copy of a video with a second of silence."""
    with av.open(str(video)) as source, av.open(str(path), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        sound = container.add_stream("mp2", rate=16000, layout="mono")
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        frame.rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def decode_all(path: Path) -> list[np.ndarray]:
    """The reference: all frames of plain decoding, until it ends or fails."""
    frames = []
    with av.open(str(path)) as container:
        try:
            for frame in container.decode(container.streams.video[0]):
                frames.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
        except av.FFmpegError:
            pass
    return frames


def fixed(*rows: list[int]) -> Callable[[VideoInfo, np.random.Generator | None], np.ndarray]:
    """A choice that does not look at the video."""
    return lambda info, rng: np.array(rows)


def places_of(path: Path) -> list[tuple[int, int]]:
    """Position and size in the file of every packet of an mp4."""
    with av.open(str(path)) as container:
        return [(entry.pos, entry.size) for entry in container.streams.video[0].index_entries]


def overwrite(path: Path, places: list[tuple[int, int]]) -> Path:
    """Destroy parts of a file."""
    data = bytearray(path.read_bytes())
    for position, size in places:
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    return path


def shorten(path: Path, by: int) -> Path:
    """Leave out the last bytes."""
    path.write_bytes(path.read_bytes()[:-by])
    return path


def filled(path: Path, content: bytes) -> Path:
    """A file of these bytes."""
    path.write_bytes(content)
    return path


def write_sound(path: Path, codec: str, samples: int, cover: bool) -> Path:
    """A short silence, with or without a cover picture."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=16000)
        if cover:
            stream = container.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
            stream.disposition = Disposition.attached_pic
            picture = av.VideoFrame(32, 32, "yuvj420p")
            picture.pts = 0
            container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def write_no_frames(path: Path) -> Path:
    """A container that states a video stream, but contains no frame of it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def write_two_sizes(folder: Path) -> Path:
    """A stream whose picture becomes smaller half way."""
    parts = [write_video(folder / f"{width}.h264", frames=30, size=(width, 48)) for width in (64, 32)]
    return filled(folder / "file.h264", b"".join(part.read_bytes() for part in parts))


def write_destroyed(path: Path) -> Path:
    """An intact container around frames that are noise."""
    write_video(path)
    return overwrite(path, places_of(path))


FAST_START = {"movflags": "faststart"}
# Kind of damage -> (makes such a file in a folder, reason that reading it must give).
DAMAGE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "file.mp4", "file not found"),
    "folder": (lambda d: d, "cannot open"),
    "empty": (lambda d: filled(d / "file.mp4", b""), "empty file"),
    "noise": (lambda d: filled(d / "file.mp4", np.random.default_rng(0).bytes(5000)), "cannot open"),
    "text": (lambda d: filled(d / "file.txt", b"not a video\n" * 99), "no video stream"),
    "no index": (lambda d: shorten(write_video(d / "file.mp4"), 2000), "cannot open"),
    "truncated": (
        lambda d: shorten(write_video(d / "file.mp4", container_options=FAST_START), 9000),
        "failed while decoding",
    ),
    "truncated avi": (lambda d: shorten(write_video(d / "file.avi", "mpeg4"), 9000), "failed while decoding"),
    "no frames": (lambda d: write_no_frames(d / "file.avi"), "no frame decoded"),
    "noise for frames": (lambda d: write_destroyed(d / "file.mp4"), "no frame decoded"),
    "sound": (lambda d: write_sound(d / "file.mp4", "aac", 1024, cover=False), "no video stream"),
    "sound with cover": (lambda d: write_sound(d / "file.mp3", "libmp3lame", 1152, cover=True), "no video stream"),
    "two sizes": (write_two_sizes, "frame size changes"),
}

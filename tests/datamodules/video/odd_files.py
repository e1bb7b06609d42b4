"""Video files in which times, counts or key frames are odd: packets of encoded streams, put into containers in many ways."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import pytest

FRAMES = 40
GOP = "g", "10"
# Codec -> encoder, its options, and the container that the packets are taken from.
CODECS: dict[str, tuple[str, dict[str, str], str]] = {
    "h264": ("libx264", {"x264-params": "bframes=3:b-adapt=0:keyint=10:min-keyint=10:scenecut=0"}, "mp4"),
    "h264_open": ("libx264", {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=10:min-keyint=10:scenecut=0"}, "mp4"),
    "h264_plain": ("libx264", {"x264-params": "bframes=0:keyint=10:scenecut=0"}, "mp4"),
    "h264_annexb": ("libx264", {"x264-params": "bframes=2:keyint=10:repeat-headers=1"}, "ts"),
    "hevc": ("libx265", {"x265-params": "keyint=10:min-keyint=10:bframes=4:log-level=none"}, "mp4"),
    "mpeg4": ("mpeg4", {"bf": "2", "g": "10"}, "mp4"),
    "mpeg4_plain": ("mpeg4", {"g": "10"}, "avi"),
    "mpeg2": ("mpeg2video", {"bf": "2", "g": "10"}, "ts"),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "10", "auto-alt-ref": "1", "lag-in-frames": "8"}, "webm"),
    "vp9": ("libvpx-vp9", {"deadline": "good", "cpu-used": "8", "g": "10", "auto-alt-ref": "1", "lag-in-frames": "12"}, "webm"),
    "av1": ("libsvtav1", {"preset": "12", "g": "10", "svtav1-params": "lp=1"}, "mp4"),
    "mjpeg": ("mjpeg", {}, "avi"),
    "flv1": ("flv", {"g": "10"}, "flv"),
    "wmv2": ("wmv2", {"g": "10"}, "asf"),
    "theora": ("libtheora", {"g": "10"}, "ogv"),
    "h263": ("h263", {"g": "10"}, "3gp"),
    "gif": ("gif", {}, "gif"),
}


@dataclass(frozen=True)
class Part:
    """A packet; times in ticks of its stream."""

    data: bytes
    pts: int | None
    dts: int | None
    is_key: bool
    duration: int


Oddity = Callable[[list[Part], int], list[Part]]


def _pts_equal_dts(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, pts=part.dts) for part in parts]


def _dts_equal_pts(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, dts=part.pts) for part in parts]


def _shifted(by: float) -> Oddity:
    def shift(parts: list[Part], tick: int) -> list[Part]:
        ticks = round(by * tick)
        moved = [(None if p.pts is None else p.pts + ticks, None if p.dts is None else p.dts + ticks) for p in parts]
        return [replace(part, pts=pts, dts=dts) for part, (pts, dts) in zip(parts, moved, strict=True)]

    return shift


def _no_pts(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, pts=None) for part in parts]


def _no_times(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, pts=None, dts=None) for part in parts]


def _some_without_pts(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, pts=None) if number % 7 == 3 else part for number, part in enumerate(parts)]


def _all_key(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, is_key=True) for part in parts]


def _first_key(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, is_key=number == 0) for number, part in enumerate(parts)]


def _no_key(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, is_key=False) for part in parts]


def _wrong_keys(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, is_key=number % 10 == 4) for number, part in enumerate(parts)]


def _all_key_pts_equal_dts(parts: list[Part], tick: int) -> list[Part]:
    return _all_key(_pts_equal_dts(parts, tick), tick)


def _cut_start(parts: list[Part], tick: int) -> list[Part]:
    return parts[5:]


def _cut_to_second_key(parts: list[Part], tick: int) -> list[Part]:
    return (
        parts[next(n for n, part in enumerate(parts) if n and part.is_key) :] if sum(p.is_key for p in parts) > 1 else parts[1:]
    )


def _dropped(parts: list[Part], tick: int) -> list[Part]:
    return parts[:13] + parts[15:]


def _dropped_many(parts: list[Part], tick: int) -> list[Part]:
    return [part for number, part in enumerate(parts) if number % 6 != 4]


def _dropped_key(parts: list[Part], tick: int) -> list[Part]:
    keys = [number for number, part in enumerate(parts) if part.is_key and number]
    return [part for number, part in enumerate(parts) if number not in keys[:1]]


def _doubled(parts: list[Part], tick: int) -> list[Part]:
    return _retimed([part for part in parts for _ in range(2)], tick)


def _repeated_end(parts: list[Part], tick: int) -> list[Part]:
    return parts + _shifted(len(parts))(parts[20:], tick)


def _twice(parts: list[Part], tick: int) -> list[Part]:
    return parts + _shifted(len(parts) + 4)(parts, tick)


def _twice_first_pts_equal_dts(parts: list[Part], tick: int) -> list[Part]:
    return _pts_equal_dts(parts, tick) + _shifted(len(parts) + 4)(parts, tick)


def _twice_last_pts_equal_dts(parts: list[Part], tick: int) -> list[Part]:
    return parts + _shifted(len(parts) + 4)(_pts_equal_dts(parts, tick), tick)


def _reversed_halves(parts: list[Part], tick: int) -> list[Part]:
    return _retimed(parts[20:] + parts[:20], tick)


def _retimed(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, pts=number * tick, dts=number * tick) for number, part in enumerate(parts)]


def _equal_times(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, pts=(part.pts or 0) // (4 * tick) * 4 * tick if part.pts is not None else None) for part in parts]


def _gap(parts: list[Part], tick: int) -> list[Part]:
    return parts[:17] + _shifted(1000)(parts[17:], tick)


def _gap_to_hours(parts: list[Part], tick: int) -> list[Part]:
    return parts[:20] + _shifted(25 * 36000)(parts[20:], tick)


def _back(parts: list[Part], tick: int) -> list[Part]:
    """The second half starts again at time 0."""
    return parts[:20] + _shifted(-20)(parts[20:], tick)


def _shuffled_pts(parts: list[Part], tick: int) -> list[Part]:
    order = np.random.default_rng(0).permutation(len(parts))
    return [
        replace(part, pts=None if parts[place].pts is None else parts[place].pts)
        for part, place in zip(parts, order, strict=True)
    ]


def _swapped_pts(parts: list[Part], tick: int) -> list[Part]:
    """Two neighbouring pictures change their times."""
    parts = list(parts)
    parts[25], parts[26] = replace(parts[25], pts=parts[26].pts), replace(parts[26], pts=parts[25].pts)
    return parts


def _variable_rate(parts: list[Part], tick: int) -> list[Part]:
    def moved(time: int | None) -> int | None:
        return None if time is None else time + (time // tick) ** 2 * tick // 40

    return [replace(part, pts=moved(part.pts), dts=moved(part.dts)) for part in parts]


def _empty_packets(parts: list[Part], tick: int) -> list[Part]:
    return [replace(part, data=b"", is_key=False) if number in (8, 21, 22) else part for number, part in enumerate(parts)]


def _half_packets(parts: list[Part], tick: int) -> list[Part]:
    """Pictures without their second half."""
    return [
        replace(part, data=part.data[: len(part.data) // 2]) if number in (7, 24) else part for number, part in enumerate(parts)
    ]


def _noise(parts: list[Part], tick: int) -> list[Part]:
    noise = np.random.default_rng(0).bytes(80)
    return [replace(part, data=noise) if number == 12 else part for number, part in enumerate(parts)]


def _joined(parts: list[Part], tick: int) -> list[Part]:
    """Two pictures in one packet."""
    joined = replace(parts[23], data=parts[23].data + parts[24].data)
    return [*parts[:23], joined, *parts[25:]]


def _swapped_packets(parts: list[Part], tick: int) -> list[Part]:
    parts = list(parts)
    parts[15], parts[16] = replace(parts[15], data=parts[16].data), replace(parts[16], data=parts[15].data)
    return parts


def _long_last(parts: list[Part], tick: int) -> list[Part]:
    return [*parts[:-1], replace(parts[-1], duration=500 * tick)]


ODDITIES: dict[str, Oddity] = {
    "as it is": lambda parts, tick: parts,
    "pts equal dts": _pts_equal_dts,
    "dts equal pts": _dts_equal_pts,
    "late start": _shifted(50),
    "early start": _shifted(-7),
    "odd start": _shifted(-7.4),
    "no pts": _no_pts,
    "no times": _no_times,
    "some without pts": _some_without_pts,
    "all key": _all_key,
    "first key": _first_key,
    "no key": _no_key,
    "wrong keys": _wrong_keys,
    "all key, pts equal dts": _all_key_pts_equal_dts,
    "cut start": _cut_start,
    "cut to second key": _cut_to_second_key,
    "dropped": _dropped,
    "dropped many": _dropped_many,
    "dropped key": _dropped_key,
    "doubled": _doubled,
    "repeated end": _repeated_end,
    "twice": _twice,
    "twice, first pts equal dts": _twice_first_pts_equal_dts,
    "twice, last pts equal dts": _twice_last_pts_equal_dts,
    "reversed halves": _reversed_halves,
    "equal times": _equal_times,
    "gap": _gap,
    "gap of hours": _gap_to_hours,
    "back": _back,
    "shuffled pts": _shuffled_pts,
    "swapped pts": _swapped_pts,
    "variable rate": _variable_rate,
    "empty packets": _empty_packets,
    "half packets": _half_packets,
    "noise": _noise,
    "joined": _joined,
    "swapped packets": _swapped_packets,
    "long last": _long_last,
}
# Suffix -> ffmpeg's name of the container, and options of it.
CONTAINERS: dict[str, tuple[str, dict[str, str]]] = {
    "mp4": ("mp4", {}),
    "frag.mp4": ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "noedit.mp4": ("mp4", {"use_editlist": "0"}),
    "mov": ("mov", {}),
    "mkv": ("matroska", {}),
    "webm": ("webm", {}),
    "avi": ("avi", {}),
    "ts": ("mpegts", {}),
    "flv": ("flv", {}),
    "3gp": ("3gp", {}),
    "mpg": ("mpeg", {}),
    "vob": ("vob", {}),
    "wmv": ("asf", {}),
    "ogv": ("ogg", {}),
    "nut": ("nut", {}),
    "mts": ("mpegts", {"mpegts_m2ts_mode": "1"}),
}


def write_source(path: Path, codec: str, frames: int = FRAMES, size: tuple[int, int] = (64, 48)) -> Path:
    """A moving texture in which the number of each frame is drawn, bit by bit."""
    encoder, options, _ = CODECS[codec]
    try:
        av.codec.Codec(encoder, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this build of PyAV cannot write {encoder}")
    if codec == "h263":
        size = (176, 144)
    width, height = size
    texture = np.kron(
        np.random.default_rng(1).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8)
    )
    formats = {"mjpeg": "yuvj420p", "gif": "rgb8"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, formats.get(codec, "yuv420p")
        for number in range(frames):
            picture = np.roll(texture, (-number, -2 * number), (0, 1))
            for bit in range(6):
                picture[:16, bit * 8 : bit * 8 + 8] = 255 * (number >> bit & 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_parts(source: Path) -> tuple[list[Part], int]:
    """The packets of a file, and the ticks of one frame."""
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        tick = max(1, round(1 / (25 * stream.time_base)))
        parts = [Part(bytes(p), p.pts, p.dts, p.is_keyframe, p.duration or tick) for p in container.demux(stream) if p.size]
    return parts, tick


def write_odd(path: Path, source: Path, parts: list[Part], container: str, streams: int = 1) -> Path | None:
    """Put packets into a container; None if the container does not support them."""
    name, options = CONTAINERS[container]
    try:
        with av.open(str(source)) as old, av.open(str(path), "w", format=name, options=options) as new:
            template = old.streams.video[0]
            # PyAV's decoder of AV1 has no encoder of the same name.
            copies = [
                new.add_stream_from_template(template, opaque=template.codec_context.name == "libdav1d") for _ in range(streams)
            ]
            for part in parts:
                for number, copy in enumerate(copies):
                    packet = av.Packet(part.data) if part.data else av.Packet(0)
                    packet.pts, packet.dts, packet.duration = part.pts, part.dts, part.duration
                    packet.is_keyframe = part.is_key
                    packet.time_base, packet.stream = template.time_base, copy
                    if number == 0 or part.is_key:
                        new.mux(packet)
    except (av.FFmpegError, ValueError, OSError):
        return None
    return path

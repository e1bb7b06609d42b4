"""Read video files with PyAV: seek, decode what is needed, convert what is wanted."""

import time
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from datamodules.video.readers import DecodeError, FewerFramesError, Picture, VideoInfo, check_size

# Frames of these carry reliable presentation times, one frame per packet, so a frame's number is the rank of its
# packet's time. AVI carries decode times only; frames of any other container are counted from the start of the file.
TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
TIMED_CODECS = ("h264", "hevc", "mpeg4", "vp9", "av1", "libdav1d")
# Of these, unwanted frames that no other frame refers to are not decoded; tests show that the others stay bit-equal.
SKIPPING_CODECS = ("h264",)
# No codec above displays a frame more than 16 places away from its place in the file.
REORDERING = 16
# Bytes of packets that are kept; only hours between keyframes need more, and are counted frame by frame instead.
MAX_PACKETS = 2**30

# Titles in any encoding must not keep a file from being read; PyAV 19 needs no telling.
LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}


class _Keyframe(NamedTuple):
    before: int  # displayed frames that stand before it in the file
    timestamp: int  # decode or presentation time, whichever PyAVReader._clock names


class PyAVReader:
    """Decodes from the keyframe at or before the first wanted frame to the last wanted one.

    In mp4 and mkv, frames are found by presentation time: the keyframe's place in the file says how many frames precede
    it, the ranks of the times after it say the rest. Everywhere else, and wherever that does not give every frame,
    frames are counted as they come out, from the start of the file.

    Args:
        path: The file.
        threads: Decoder threads.
        timeout: Seconds after which to give up.
    """

    def __init__(self, path: Path, threads: int, timeout: float | None) -> None:
        self._path = path
        self._threads = threads
        self._wanted = 1
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._reformatter = VideoReformatter()
        self._matrix: np.ndarray | None = None
        self._clock: Literal["dts", "pts"] = "pts"
        self._start = 0
        self._at_start = True
        # Whether the container states how many frames there are, so that fewer of them mean a broken file.
        self._promised = True
        self._container, self._stream = self._opened()
        try:
            self._keyframes, num_frames = self._index()
        except BaseException:
            self.close()
            raise
        self._places = [keyframe.before for keyframe in self._keyframes]
        rate = self._stream.average_rate or self._stream.guessed_rate
        coded = self._stream.codec_context
        # 25 is ffmpeg's own assumption for streams without a rate.
        self.info = VideoInfo(num_frames, float(rate or 25), coded.width, coded.height)

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def read(self, numbers: list[int]) -> list[Picture]:
        """The frames of these ascending, different numbers. Raises DecodeError or FewerFramesError."""
        self._wanted = len(numbers)
        pictures: list[Picture] = []
        for run in _runs(numbers, self._places):
            part = self._read_by_time(run)
            if part is None:
                # Counting, without any short cut, settles what is in a file that gave less than was asked of it.
                return self._read_by_count(numbers)
            pictures += part
        return pictures

    def _opened(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            container = av.open(str(self._path), timeout=left, **LENIENT)
        except av.error.ExitError as error:
            raise DecodeError("timed out", "while opening") from error
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DecodeError("cannot open", str(error)) from error
        # The cover picture of a sound file is no video, nor is text, which ffmpeg draws as a terminal would.
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or container.format.name == "tty" or streams[0].codec_context is None:
            container.close()
            raise DecodeError("no video stream")
        streams[0].codec_context.thread_count = self._threads
        if self._threads != 1:
            streams[0].codec_context.thread_type = "AUTO"
        return container, streams[0]

    def _index(self) -> tuple[list[_Keyframe], int]:
        """Keyframes, or none where frames must be counted, and the number of frames."""
        name = self._container.format.name
        if name not in TIMED_CONTAINERS or self._stream.codec_context.name not in TIMED_CODECS:
            # ffmpeg's readers of single pictures are called jpeg_pipe, png_pipe and so on.
            single = 1 if name.endswith("_pipe") else 0
            self._promised = self._stream.frames > 0
            return [], self._stream.frames or single or sum(1 for _ in self._packets())
        if name.startswith("mov") and 0 < self._stream.frames == len(self._stream.index_entries):
            self._clock = "dts"
            entries = [(e.timestamp, e.is_keyframe, not e.is_discard) for e in self._stream.index_entries]
            self._start = self._stream.start_time or 0
        else:
            entries = [(p.pts, p.is_keyframe, not p.is_discard) for p in self._packets() if p.pts is not None]
            # ffmpeg's own start time may change while it reads, where gaps are long.
            self._start = min((pts for pts, _, is_shown in entries if is_shown), default=0)
        keyframes, before = [], 0
        # A file cut between keyframes begins with frames that no decoder puts out: then places tell nothing.
        self._promised = bool(entries) and entries[0][1]
        for timestamp, is_keyframe, is_shown in entries:
            if is_keyframe:
                keyframes.append(_Keyframe(before, timestamp))
            before += is_shown
        return keyframes if self._promised else [], before

    def _packets(self) -> Iterator[av.Packet]:
        """Packets with content, from the current place in the file to where it ends or breaks off."""
        self._at_start = False
        try:
            for packet in self._container.demux(self._stream):
                self._check_time()
                if packet.size:
                    yield packet
        except av.error.ExitError as error:
            raise DecodeError("timed out", "while reading") from error
        except av.FFmpegError:
            return

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise DecodeError("timed out")

    def _read_by_time(self, numbers: list[int]) -> list[Picture] | None:
        """Pick frames by presentation time; None where that does not give all of them."""
        # Frames of an open group of pictures stand after a keyframe but are displayed before it, and refer to frames
        # of the group before: then the search goes on one keyframe earlier.
        for place in reversed(range(bisect_right(self._places, numbers[0]))):
            keyframe = self._keyframes[place]
            packets = self._packets_from(keyframe, numbers[-1])
            pts_of = _numbered(packets, keyframe.before)
            if all(number in pts_of for number in numbers):
                return self._decode(packets, [pts_of[number] for number in numbers])
            if not pts_of or min(pts_of) <= numbers[0]:
                return None
        return None

    def _packets_from(self, keyframe: _Keyframe, last: int) -> list[av.Packet]:
        """Packets from a keyframe to surely behind the frame of number `last`; none if the seek missed or they are too many."""
        self._at_start = False
        packets: list[av.Packet] = []
        missing = last - keyframe.before + 1 + REORDERING
        size = 0
        try:
            self._container.seek(keyframe.timestamp, stream=self._stream)
        except av.FFmpegError:
            return []
        for packet in self._packets():
            time_stamp = packet.dts if self._clock == "dts" else packet.pts
            if not packets and time_stamp != keyframe.timestamp:
                if time_stamp is None or time_stamp > keyframe.timestamp:
                    break
                continue  # some containers seek to an earlier keyframe than asked
            packets.append(packet)
            missing -= not packet.is_discard
            size += packet.size
            if missing == 0:
                break
            if size > MAX_PACKETS:
                return []
        return packets

    def _decode(self, packets: list[av.Packet], wanted: list[int]) -> list[Picture] | None:
        """The frames of these presentation times; None if the decoder fails or holds one back."""
        context = self._stream.codec_context
        skips = context.name in SKIPPING_CODECS
        tick = self._stream.time_base or Fraction(1)
        times = set(wanted)
        last = max(place for place, packet in enumerate(packets) if packet.pts in times)
        found: dict[int, Picture] = {}
        try:
            # None asks the decoder for the frames that it still holds.
            for packet in [*packets[: last + 1], None]:
                self._check_time()
                if skips:
                    context.skip_frame = "NONREF" if packet is not None and packet.pts not in times else "DEFAULT"
                for frame in context.decode(packet):
                    if frame.pts in times:
                        found[frame.pts] = self._picture(frame, float((frame.pts - self._start) * tick))
        except av.FFmpegError:
            return None
        return [found[pts] for pts in wanted] if len(found) == len(wanted) else None

    def _read_by_count(self, numbers: list[int]) -> list[Picture]:
        """Pick frames by counting what the decoder puts out, from the start of the file."""
        if not self._at_start:
            # Not every container can seek back to its first packet.
            self.close()
            self._container, self._stream = self._opened()
        self._at_start = False
        wanted = set(numbers)
        pictures: list[Picture] = []
        count = 0
        try:
            for frame in self._container.decode(self._stream):
                self._check_time()
                if count in wanted:
                    pictures.append(self._picture(frame, count / self.info.fps))
                count += 1
                if len(pictures) == len(numbers):
                    return pictures
        except av.error.ExitError as error:
            raise DecodeError("timed out", "while reading") from error
        except av.FFmpegError as error:
            raise FewerFramesError(count, promised=True) from error
        raise FewerFramesError(count, self._promised)

    def _picture(self, frame: av.VideoFrame, seconds: float) -> Picture:
        """Convert to RGB at decoded size, which need not be the one that the container states, and set upright."""
        check_size(frame.width, frame.height, self._wanted)
        array = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if self._matrix is None:
            data: Any = frame.side_data.get("DISPLAYMATRIX")
            entries = np.eye(3, dtype=np.int32) if data is None else np.frombuffer(bytes(data), np.int32)
            self._matrix = entries.reshape(3, 3)
        return Picture(_upright(array, self._matrix), seconds)


def _runs(numbers: list[int], keyframes: list[int]) -> list[list[int]]:
    """Cut ascending frame numbers where a keyframe allows to jump over more frames than a new start costs."""
    runs = [numbers[:1]]
    for previous, number in pairwise(numbers):
        place = bisect_right(keyframes, number) - 1
        if place >= 0 and keyframes[place] - previous > REORDERING:
            runs.append([])
        runs[-1].append(number)
    return runs


def _numbered(packets: list[av.Packet], before: int) -> dict[int, int]:
    """Frame number -> presentation time, of the frames that can be decoded from the first packet on.

    Frames displayed before that keyframe are counted but left out. Nothing, if times are missing or not unique.
    """
    times = [packet.pts for packet in packets if packet.pts is not None]
    first = times[0] if times else 0
    if len(set(times)) < len(packets):
        return {}
    shown = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
    return {before + rank: pts for rank, pts in enumerate(shown) if pts >= first}


def _upright(array: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply the quarter turns and mirrorings of a display matrix.

    Args:
        array: uint8 [h, w, 3].
        matrix: [3, 3] as in mp4 and ffmpeg: a row vector (x, y, 1) of a decoded pixel times it is its place on screen.
            Angles between quarter turns are not honoured.
    """
    (a, b), (c, d) = matrix[0, :2].tolist(), matrix[1, :2].tolist()
    if abs(b) > abs(a):
        array, a, d = array.transpose(1, 0, 2), c, b
    if a < 0:
        array = array[:, ::-1]
    if d < 0:
        array = array[::-1]
    return np.ascontiguousarray(array)

"""Read video files with PyAV: seek, decode what is needed, convert what is wanted."""

import contextlib
import hashlib
import io
import math
import os
import time
import zipfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from datamodules.audio.decode import MARGIN, SoundTrack
from datamodules.video.bitstream import REORDERING, Coded, PacketOrder
from datamodules.video.readers import (
    DecodeError,
    FewerFramesError,
    Picture,
    Source,
    VideoBytes,
    VideoInfo,
    check_size,
    check_time,
    open_container,
)

# In these, frames may be found by presentation time, if the packets' contents say the same as the container does.
TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# Of these, what the packets' headers say is believed without decoding, for speed. The decoders of others leave frames out, or
# fail, more often although all headers look right.
BELIEVED_CODECS = ("h264",)
# Of these, unwanted frames that no other frame refers to are not decoded; tests show that the others stay bit-equal.
SKIPPING_CODECS = ("h264",)
# Of these, frames are counted from the start all the same: what does not fit the size that the file states is concealed, and in
# another way after a seek.
COUNTED_CODECS = ("mpeg4",)
# Bytes of packets that are kept; only hours between keyframes need more, and are counted frame by frame instead.
MAX_PACKETS = 2**30
# Bytes of packets that are kept while a file is looked at, so that a small one need not be read twice.
MAX_KEPT = 2**26
# A file may hold slightly fewer frames than it states: so many, or this share. If it holds fewer still, it was cut off.
MISSING_FRAMES, MISSING_SHARE = 2, 0.05
# Keyframes of files that a process keeps in mind; each file counts for some more. These are about 25 MB.
MAX_REMEMBERED, PER_FILE = 2**17, 4
# Version of the files in which facts are kept.
FACTS = 1

# An option of decoders: damage is an error, and not concealed.
EXPLODE = {"err_detect": "explode"}


SoundWish = Literal["near", "whole"]


class _Keyframe(NamedTuple):
    before: int  # displayed frames that stand before it in the file
    timestamp: int  # decode or presentation time, whichever PyAVReader._clock names
    pts: int
    is_open: bool  # whether frames that stand behind it are displayed before it


class _Packet(NamedTuple):
    """What the container says of a packet."""

    pts: int | None
    dts: int | None
    is_keyframe: bool
    is_shown: bool


class _Facts(NamedTuple):
    """What a look at all packets of a file, and if need be at all of its frames, has shown."""

    num_frames: int
    fps: float
    keyframes: list[_Keyframe]
    """where reading by time may start; none where frames must be counted"""
    start: int
    """presentation time of the first frame"""
    is_plain: bool
    """whether the container's index names just these keyframes, and all frames are displayed"""
    fault: str
    """why the file cannot be read to its end; empty where it can"""


class _Memory:
    """Facts of the files that were looked at last, by path, size and time of change, or hash of what is in memory."""

    def __init__(self) -> None:
        self.facts: OrderedDict[tuple[str, int, int], _Facts] = OrderedDict()
        self.size = 0
        self.folder: Path | None = None
        """Where facts are kept for later, and for other processes; None keeps them in mind only."""

    def get(self, file: tuple[str, int, int]) -> _Facts | None:
        """What is known of a file."""
        facts = self.facts.get(file)
        if facts is None and self.folder is not None:
            facts = _load_facts(self.folder / _name_of(file))
            if facts is not None:
                self._remember(file, facts)
        return facts

    def add(self, file: tuple[str, int, int], facts: _Facts) -> None:
        """Keep facts. A fault is not kept for later: it may be the disk's."""
        self._remember(file, facts)
        if self.folder is not None and not facts.fault:
            _save_facts(self.folder / _name_of(file), facts)

    def _remember(self, file: tuple[str, int, int], facts: _Facts) -> None:
        """Forget the oldest where there is no room."""
        self.facts[file] = facts
        self.size += PER_FILE + len(facts.keyframes)
        while self.size > MAX_REMEMBERED:
            _, oldest = self.facts.popitem(last=False)
            self.size -= PER_FILE + len(oldest.keyframes)


_memory = _Memory()


@contextlib.contextmanager
def facts_kept_in(folder: Path | None) -> Iterator[None]:
    """Keep in a folder what looks at files show meanwhile, and look at no file of which it is there.

    Args:
        folder: a file for each file that is read; None keeps them in memory only.
    """
    before, _memory.folder = _memory.folder, folder
    try:
        yield
    finally:
        _memory.folder = before


def _name_of(file: tuple[str, int, int]) -> str:
    # Other versions may find something else.
    return hashlib.sha256(f"{FACTS} {av.__version__} {file}".encode("utf-8", "surrogateescape")).hexdigest()[:32] + ".npz"


def _save_facts(path: Path, facts: _Facts) -> None:
    keyframes = np.array([tuple(one) for one in facts.keyframes], np.int64).reshape(-1, len(_Keyframe._fields))
    numbers = np.array([facts.num_frames, facts.start, facts.is_plain], np.int64)
    # A name of this process's own: others may look at the same file.
    partial = path.with_suffix(f".{os.getpid()}")
    # Without it, the file is looked at again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, keyframes=keyframes, numbers=numbers, fps=np.float64(facts.fps))
        partial.replace(path)


def _load_facts(path: Path) -> _Facts | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            num_frames, start, is_plain = kept["numbers"].tolist()
            keyframes = [
                _Keyframe(before, stamp, pts, bool(is_open)) for before, stamp, pts, is_open in kept["keyframes"].tolist()
            ]
            return _Facts(num_frames, float(kept["fps"]), keyframes, start, bool(is_plain), "")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


class PyAVReader:
    """Decodes from the keyframe at or before the first wanted frame to the last wanted one.

    A file is looked at once, and what was found is kept for as long as the process lives. No word of the container is taken for
    granted: the packets' own headers (`datamodules.video.bitstream`) must say that each packet holds one frame, that frames
    are displayed in the order of their times, and where decoding may start. Then, in mp4 and mkv, frames are found by
    presentation time: the keyframe's place in the file says how many frames precede it, the ranks of the times after it say
    the rest. Everywhere else, and wherever that does not give every frame, frames are counted as they come out, from the start
    of the file. Unless it is H.264 whose headers say how many frames there are, the look decodes the whole file.

    A file that plain decoding cannot read to its end, or that breaks off before the frames that it states, is an error as a
    whole: its length would be a guess, and whether a clip can be had would depend on the draw.

    Args:
        source: The file.
        threads: Decoder threads.
        timeout: Seconds after which to give up.
        sound: Keep what is met of the sound, for `sound`: `near` from a little before the first wanted frame on, `whole` from
            the start of the file; None does not look at it.

    Raises:
        DecodeError: The file cannot be opened, breaks off or cannot be decoded to its end, or time is up.
    """

    def __init__(self, source: Source, threads: int, timeout: float | None, sound: SoundWish | None = None) -> None:
        self._source, self._wish = source, sound
        self._threads = threads
        self._wanted = 1
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._reformatter = VideoReformatter()
        self._matrix: np.ndarray | None = None
        # mp4 finds keyframes by decode time, Matroska by presentation time.
        self._clock: Literal["dts", "pts"] = "pts"
        # All packets of the file, as long as the decoder has seen none.
        self._kept: list[av.Packet] = []
        self._at_start = True
        self._container, self._stream = self._opened()
        try:
            if self._container.format.name.startswith("mov"):
                self._clock = "dts"
            self._facts = self._index()
            if self._facts.fault:
                raise _failure(self._facts.num_frames, self._facts.fault)
        except BaseException:
            self.close()
            raise
        coded = self._stream.codec_context
        self._places = [] if coded.name in COUNTED_CODECS else [keyframe.before for keyframe in self._facts.keyframes]
        self.info = VideoInfo(self._facts.num_frames, self._facts.fps, coded.width, coded.height)

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    @property
    def finds_by_time(self) -> bool:
        """Whether times and places that the container states are right."""
        return bool(self._facts.keyframes)

    @property
    def is_plain(self) -> bool:
        """Whether nothing in the container misleads: it holds one video, all frames are displayed, and its index is right."""
        return self.finds_by_time and self._facts.is_plain and self._streams == 1

    @property
    def has_open_groups(self) -> bool:
        """Whether frames that stand behind a keyframe are displayed before it."""
        return any(keyframe.is_open for keyframe in self._facts.keyframes)

    @property
    def start(self) -> int | None:
        """Time of the first frame; None where times are not right."""
        return self._facts.start if self.finds_by_time else None

    @property
    def first_moment(self) -> float:
        """Time of the first frame in seconds, as well as it is known."""
        return float(self._facts.start * (self._stream.time_base or 0))

    @property
    def stream(self) -> av.VideoStream:
        """The stream that is read; another object after `frames_from`."""
        return self._stream

    def frames_from(self, seconds: float) -> Iterator[av.VideoFrame]:
        """Frames as plain decoding gives them: all from this moment on, and some before it. Raises av.FFmpegError."""
        moment = self._facts.start + round(Fraction(seconds) / (self._stream.time_base or 1))
        place = bisect_right([keyframe.pts for keyframe in self._facts.keyframes], moment) - 1
        if place > 0 and self._places:
            keyframe = self._facts.keyframes[place]
            self._reopen()
            self._at_start = False
            self._seek(keyframe.pts)
            frames = chain.from_iterable(packet.decode() for packet in self._demuxed())
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= keyframe.pts:
                yield first
                yield from frames
                return
        yield from self._frames()

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
        container = open_container(self._source, self._deadline)
        # The cover picture of a sound file is no video, nor is text, which ffmpeg draws as a terminal would.
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or container.format.name == "tty" or streams[0].codec_context is None:
            container.close()
            raise DecodeError("no video stream")
        self._streams = len(streams)
        self.sound = SoundTrack(self._source, container, self._deadline)
        streams[0].codec_context.thread_count = self._threads
        if self._threads != 1:
            streams[0].codec_context.thread_type = "AUTO"
        return container, streams[0]

    def _index(self) -> _Facts:
        """What is known of the file, or is found by a look at it."""
        if isinstance(self._source, VideoBytes):
            file = (self._source.name, len(self._source.content), hash(self._source.content))
        else:
            status = self._source.stat()
            file = (str(self._source), status.st_size, status.st_mtime_ns)
        facts = _memory.get(file)
        if facts is None:
            facts = self._look()
            _memory.add(file, facts)
        return facts

    def _look(self) -> _Facts:
        """Read all packets, and decode them if they do not tell what decoding would give."""
        context = self._stream.codec_context
        indexed = len(self._stream.index_entries)
        order = PacketOrder(context.name, context.extradata or b"")
        packets: list[_Packet] = []
        size = 0
        is_whole = True
        try:
            for packet in self._packets():
                packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard))
                is_odd = packet.is_corrupt or packet.has_sidedata("new_extradata")
                order.add(b"" if is_odd else bytes(packet))  # which no parser accepts
                size += packet.size
                if size <= MAX_KEPT:
                    self._kept.append(packet)
        except av.FFmpegError:
            is_whole = False  # decoding, which ends here with the same error, tells how many frames came before
        if not is_whole or size > MAX_KEPT:
            self._kept = []
        named = {entry.timestamp for entry in self._stream.index_entries if entry.is_keyframe}
        count, fault = sum(packet.is_shown for packet in packets), ""
        keyframes: list[_Keyframe] = []
        is_known = is_whole and order.is_known()
        if is_known and context.name not in BELIEVED_CODECS:
            shown = sorted(packet.pts for packet in packets if packet.is_shown and packet.pts is not None)
            # What is concealed looks otherwise where decoding starts elsewhere.
            is_known = self._is_timed and self._decoded_times(conceals=False) == (shown, "")
        if is_known:
            keyframes = self._keyframes(packets, order.pictures)
        # ffmpeg's readers of single pictures are called jpeg_pipe, png_pipe and so on.
        elif count > 1 or not self._container.format.name.endswith("_pipe"):
            decoded, fault = self._decoded_times()
            count = len(decoded)
        stated, found = self._stated(packets, indexed)
        if not fault and stated - found > max(MISSING_FRAMES, MISSING_SHARE * stated):
            fault = f"breaks off: {count} of {stated} frames"
        times = sorted(time for p in packets if p.is_shown and (time := p.dts if p.pts is None else p.pts) is not None)
        is_plain = named == {keyframe.timestamp for keyframe in keyframes} and all(packet.is_shown for packet in packets)
        return _Facts(
            num_frames=count,
            fps=self._fps(times, count),
            keyframes=keyframes,
            start=times[0] if times else 0,
            is_plain=is_plain,
            fault=fault,
        )

    @property
    def _is_timed(self) -> bool:
        return self._container.format.name in TIMED_CONTAINERS

    def _keyframes(self, packets: list[_Packet], pictures: list[Coded]) -> list[_Keyframe]:
        """Where reading by time may start; nothing where it may not.

        Args:
            packets: all of the file.
            pictures: what is in them.
        """
        times = [packet.pts for packet in packets if packet.pts is not None]
        moments = (packet.dts if self._clock == "dts" else packet.pts for packet in packets)
        clock = [moment for moment in moments if moment is not None]
        if not self._is_timed or len(set(times)) < len(packets) or len(clock) < len(packets):
            return []
        if self._clock == "dts" and any(one >= other for one, other in pairwise(clock)):
            return []
        by_order = sorted(range(len(packets)), key=lambda number: pictures[number].order)
        if any(times[one] >= times[other] for one, other in pairwise(by_order)):
            return []
        keyframes, before, latest = [], 0, min(times, default=0) - 1
        for number, packet in enumerate(packets):
            if packet.is_keyframe and pictures[number].restarts and times[number] > latest:
                is_open = any(time < times[number] for time in times[number + 1 : number + 1 + REORDERING])
                keyframes.append(_Keyframe(before, clock[number], times[number], is_open))
            before += packet.is_shown
            latest = max(latest, times[number])
        return keyframes

    def _decoded_times(self, conceals: bool = True) -> tuple[list[int | None], str]:
        """Presentation times of the frames that plain decoding gives, and what it fails with on the way, if it does.

        Args:
            conceals: whether decoding continues if a decoder can conceal damage.
        """
        times: list[int | None] = []
        fault = ""
        try:
            for frame in self._frames(conceals):
                times.append(frame.pts)
        except av.error.ExitError as error:
            raise DecodeError("timed out", "while reading") from error
        except av.FFmpegError as error:
            fault = f"{error}, after {len(times)} frames"
        self._reopen()
        return times, fault

    def _frames(self, conceals: bool = True) -> Iterator[av.VideoFrame]:
        """Plain decoding, from the start of the file. Raises av.FFmpegError."""
        kept, self._kept = self._kept, []
        if not kept and not self._at_start:
            # Not every container can seek back to its first packet.
            self._reopen()
        if not conceals:
            self._stream.codec_context.options = EXPLODE
        self._at_start = False
        coded = self._stream.codec_context
        decoding = map(coded.decode, [*kept, None]) if kept else (packet.decode() for packet in self._demuxed())
        for frame in chain.from_iterable(decoding):
            self._check_time()
            yield frame

    def _reopen(self) -> None:
        self.close()
        self._container, self._stream = self._opened()
        self._at_start = True

    def _stated(self, packets: list[_Packet], indexed: int) -> tuple[int, int]:
        """How many frames the container states, and how many of these are there; 0 and 0 where it states nothing to go by."""
        name = self._container.format.name
        if name.startswith("mov"):
            return indexed, len(packets)
        if name != "avi":
            return self._stream.frames, len(packets)
        # AVI may state any number; its size tells whether it was cut off.
        with self._source.open() if isinstance(self._source, VideoBytes) else self._source.open("rb") as file:
            if int.from_bytes(file.read(8)[4:], "little") + 8 <= file.seek(0, io.SEEK_END):
                return 0, 0
        # It counts in ticks, several of which may make a frame, and dropped frames among them.
        moments = [packet.dts for packet in packets if packet.dts is not None]
        ticks = min((other - one for one, other in pairwise(moments) if other > one), default=1)
        return self._stream.frames // ticks, (max(moments, default=0) - min(moments, default=0)) // ticks + 1

    def _fps(self, times: list[int], count: int) -> float:
        """Frames per second: what the container states, unless the frames' times say otherwise."""
        # 25 is ffmpeg's own assumption for streams without a rate.
        stated = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        if count < 2 or not times or self._stream.time_base is None:
            return stated
        seconds = float((times[-1] - times[0]) * self._stream.time_base)
        # Times are rounded, and a few frames may be missing.
        differs = abs(seconds - (count - 1) / stated) > 1 / stated + 0.1 * seconds
        return (count - 1) / seconds if differs and seconds > 0 else stated

    def _packets(self) -> Iterator[av.Packet]:
        """Packets from the current place in the file to its end. Raises DecodeError when time is up, else av.FFmpegError."""
        self._at_start = False
        try:
            for packet in self._demuxed():
                self._check_time()
                # The last one has no content and tells the decoder that it is the last.
                if packet.size or packet.dts is not None:
                    yield packet
        except av.error.ExitError as error:
            raise DecodeError("timed out", "while reading") from error

    def _demuxed(self) -> Iterator[av.Packet]:
        """Packets of the video from the current place on, and last one without content; those of sound are handed over."""
        sound = self.sound.stream if self._wish else None
        for packet in self._container.demux(self._stream, *([sound] if sound is not None else [])):
            if packet.stream_index == self._stream.index:
                yield packet
            else:
                self.sound.add(packet)

    def _seek(self, timestamp: int) -> None:
        self.sound.seeked()
        self._container.seek(timestamp, stream=self._stream)

    def _check_time(self) -> None:
        check_time(self._deadline)

    def _read_by_time(self, numbers: list[int]) -> list[Picture] | None:
        """Pick frames by presentation time; None where that does not give all of them."""
        # Frames of an open group of pictures stand after a keyframe but are displayed before it, and refer to frames
        # of the group before: then the search goes on one keyframe earlier.
        for place in reversed(range(bisect_right(self._places, numbers[0]))):
            keyframe = self._facts.keyframes[place]
            packets = self._packets_from(keyframe, numbers[0], numbers[-1])
            pts_of = _numbered(packets, keyframe.before)
            if all(number in pts_of for number in numbers):
                return self._decode(packets, [pts_of[number] for number in numbers])
            if not pts_of or min(pts_of) <= numbers[0]:
                return None
        return None

    def _packets_from(self, keyframe: _Keyframe, first: int, last: int) -> list[av.Packet]:
        """Packets from a keyframe to surely behind the frame of number `last`; none if the seek missed or they are too many."""
        start = self._start_for_sound(keyframe, first)
        is_there = self._wish is not None and self._at_start and start is self._facts.keyframes[0]
        self._kept, self._at_start = [], False
        if not self.has_open_groups:
            # What cannot be decoded without error gets what plain decoding makes of it. In open groups that is so by nature: of
            # frames that are displayed before their keyframe, which are not wanted.
            self._stream.codec_context.options = EXPLODE
        packets: list[av.Packet] = []
        missing = last - keyframe.before + 1 + REORDERING
        size = 0
        try:
            if not is_there:
                self._seek(start.timestamp)
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
        except av.FFmpegError:
            return []
        return packets

    def _start_for_sound(self, keyframe: _Keyframe, first: int) -> _Keyframe:
        """Where to start reading, so that the sound comes along that is needed with the frame of number `first`."""
        if self._wish is None:
            return keyframe
        keyframes = self._facts.keyframes
        if self._wish == "whole":
            return keyframes[0]
        # A frame more: its moment is only a guess as yet.
        seconds = max(0.0, (first - keyframe.before - 1) / self._facts.fps) - MARGIN
        moment = keyframe.pts + math.floor(seconds / (self._stream.time_base or 1))
        return keyframes[max(0, bisect_right([one.pts for one in keyframes], moment) - 1)]

    def _decode(self, packets: list[av.Packet], wanted: list[int]) -> list[Picture] | None:
        """The frames of these presentation times; None if the decoder fails or holds one back."""
        context = self._stream.codec_context
        skips = context.name in SKIPPING_CODECS
        tick = self._stream.time_base or Fraction(1)
        times, first = set(wanted), packets[0].pts or 0
        last = max(place for place, packet in enumerate(packets) if packet.pts in times)
        found: dict[int, Picture] = {}
        latest: int | None = None
        try:
            # None asks the decoder for the frames that it still holds.
            for packet in [*packets[: last + 1], None]:
                self._check_time()
                if skips:
                    context.skip_frame = "NONREF" if packet is not None and packet.pts not in times else "DEFAULT"
                for frame in context.decode(packet):
                    if frame.pts is None or (latest is not None and frame.pts <= latest):
                        return None
                    latest = frame.pts
                    if frame.is_corrupt and latest >= first:
                        return None  # what stands for the damage depends on frames before the keyframe
                    if frame.pts in times:
                        found[frame.pts] = self._picture(frame, float((frame.pts - self._facts.start) * tick))
        except av.FFmpegError:
            return None
        return [found[pts] for pts in wanted] if len(found) == len(wanted) else None

    def _read_by_count(self, numbers: list[int]) -> list[Picture]:
        """Pick frames by counting what the decoder puts out, from the start of the file."""
        wanted = set(numbers)
        pictures: list[Picture] = []
        count = 0
        tick = self._stream.time_base or Fraction(1)
        try:
            for frame in self._frames():
                if count in wanted:
                    seconds = count / self.info.fps
                    if self.finds_by_time and frame.pts is not None:
                        seconds = float((frame.pts - self._facts.start) * tick)
                    pictures.append(self._picture(frame, seconds))
                count += 1
                if len(pictures) == len(numbers):
                    return pictures
        except av.error.ExitError as error:
            raise DecodeError("timed out", "while reading") from error
        except av.FFmpegError as error:
            raise _failure(count, f"{error}, after {count} frames") from error
        raise FewerFramesError(count)

    def _picture(self, frame: av.VideoFrame, seconds: float) -> Picture:
        """Convert to RGB at decoded size, which need not be the one that the container states, and set upright."""
        check_size(frame.width, frame.height, self._wanted)
        array = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if self._matrix is None:
            self._matrix = display_matrix(frame)
        return Picture(upright(array, self._matrix), seconds)


def _failure(num_frames: int, detail: str) -> DecodeError:
    """Of a file that gives so many frames, and then no more."""
    return DecodeError("failed while decoding" if num_frames else "no frame decoded", detail)


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


def display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """How a frame is to be turned or mirrored: int32 [3, 3]; see `upright`."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    entries = np.eye(3, dtype=np.int32) if data is None else np.frombuffer(bytes(data), np.int32)
    return entries.reshape(3, 3)


def upright(array: np.ndarray, matrix: np.ndarray) -> np.ndarray:
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

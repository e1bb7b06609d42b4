"""Read video files with PyAV: seek, decode the necessary frames, convert the requested ones."""

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

# Containers in which frames may be found by presentation time, if the packets' contents agree with the container.
TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# Codecs whose packet headers are trusted without decoding, for speed. Decoders of other codecs drop frames or fail more often
# although all headers look right.
BELIEVED_CODECS = ("h264",)
# Codecs for which unrequested non-reference frames are not decoded; tests show that the other frames stay bit-identical.
SKIPPING_CODECS = ("h264",)
# Codecs whose frames are always counted from the start: frames that do not match the size stated by the file are concealed, and
# in a different way after a seek.
COUNTED_CODECS = ("mpeg4",)
# Maximum bytes of packets in memory. Only hours between keyframes need more; frames are counted one by one then.
MAX_PACKETS = 2**30
# Maximum bytes of packets kept while a file is scanned, so that a small file is not read twice.
MAX_KEPT = 2**26
# A file may contain slightly fewer frames than it states: this number or fraction. If it contains fewer, it was cut off.
MISSING_FRAMES, MISSING_SHARE = 2, 0.05
# Maximum number of keyframes that a process caches, about 25 MB; each file counts as some more.
MAX_REMEMBERED, PER_FILE = 2**17, 4
# Version of the cache files.
FACTS = 1

# Decoder option: damage is an error and is not concealed.
EXPLODE = {"err_detect": "explode"}


SoundWish = Literal["near", "whole"]


class _Keyframe(NamedTuple):
    before: int  # number of displayed frames before it in the file
    timestamp: int  # decode or presentation time, whichever PyAVReader._clock names
    pts: int
    is_open: bool  # whether frames after it in the file are displayed before it


class _Packet(NamedTuple):
    """Properties of a packet according to the container."""

    pts: int | None
    dts: int | None
    is_keyframe: bool
    is_shown: bool


class _Facts(NamedTuple):
    """Results of scanning all packets of a file and, if necessary, decoding all frames."""

    num_frames: int
    fps: float
    keyframes: list[_Keyframe]
    """where reading by time may start; empty if frames must be counted"""
    start: int
    """presentation time of the first frame"""
    is_plain: bool
    """whether the container's index contains exactly these keyframes, and all frames are displayed"""
    fault: str
    """why the file cannot be read to its end; empty if it can"""


class _Memory:
    """Cache of the facts of recent files, by path, size and modification time, or by hash for files in memory."""

    def __init__(self) -> None:
        self.facts: OrderedDict[tuple[str, int, int], _Facts] = OrderedDict()
        self.size = 0
        self.folder: Path | None = None
        """Cache folder, shared with later runs and other processes; None keeps facts in memory only."""

    def get(self, file: tuple[str, int, int]) -> _Facts | None:
        """Cached facts of a file, if any."""
        facts = self.facts.get(file)
        if facts is None and self.folder is not None:
            facts = _load_facts(self.folder / _name_of(file))
            if facts is not None:
                self._remember(file, facts)
        return facts

    def add(self, file: tuple[str, int, int], facts: _Facts) -> None:
        """Cache facts. Faults are not written to the cache folder, because they may be faults of the disk."""
        self._remember(file, facts)
        if self.folder is not None and not facts.fault:
            _save_facts(self.folder / _name_of(file), facts)

    def _remember(self, file: tuple[str, int, int], facts: _Facts) -> None:
        """Add to the cache, and remove the oldest entries if it is full."""
        self.facts[file] = facts
        self.size += PER_FILE + len(facts.keyframes)
        while self.size > MAX_REMEMBERED:
            _, oldest = self.facts.popitem(last=False)
            self.size -= PER_FILE + len(oldest.keyframes)


_memory = _Memory()


@contextlib.contextmanager
def facts_kept_in(folder: Path | None) -> Iterator[None]:
    """Use a cache folder for scan results: files whose facts are in the folder are not scanned again.

    Args:
        folder: gets one cache file per file that is read; None keeps results in memory only.
    """
    before, _memory.folder = _memory.folder, folder
    try:
        yield
    finally:
        _memory.folder = before


def _name_of(file: tuple[str, int, int]) -> str:
    # Other versions may give other results.
    return hashlib.sha256(f"{FACTS} {av.__version__} {file}".encode("utf-8", "surrogateescape")).hexdigest()[:32] + ".npz"


def _save_facts(path: Path, facts: _Facts) -> None:
    keyframes = np.array([tuple(one) for one in facts.keyframes], np.int64).reshape(-1, len(_Keyframe._fields))
    numbers = np.array([facts.num_frames, facts.start, facts.is_plain], np.int64)
    # The name is unique to this process, because others may scan the same file.
    partial = path.with_suffix(f".{os.getpid()}")
    # If this fails, the file is scanned again later.
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
    """Decodes from the keyframe at or before the first requested frame to the last requested one.

    A file is scanned once, and the result is cached for the lifetime of the process. The container is not trusted: the packets'
    own headers (`datamodules.video.bitstream`) must confirm that each packet contains one frame, that frames are displayed in
    the order of their timestamps, and where decoding may start. Then, in mp4 and mkv, frames are found by presentation time:
    the keyframe's position gives the number of frames before it, and the ranks of the later timestamps give the rest. In all
    other cases, and whenever this does not return every frame, frames are counted from the start of the file. Except for H.264
    whose headers give the number of frames, the scan decodes the whole file.

    A file that plain decoding cannot read to its end, or that has fewer frames than it states, is an error for all clips:
    its length would be a guess, and a clip would be readable or not depending on the random draw.

    Args:
        source: The file.
        threads: Decoder threads.
        timeout: Seconds after which reading stops.
        sound: Which audio packets to keep for `sound`: `near` from a little before the first requested frame on, `whole` from
            the start of the file; None ignores the audio.

    Raises:
        DecodeError: The file cannot be opened, breaks off or cannot be decoded to its end, or the time limit is exceeded.
    """

    def __init__(self, source: Source, threads: int, timeout: float | None, sound: SoundWish | None = None) -> None:
        self._source, self._wish = source, sound
        self._threads = threads
        self._wanted = 1
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._reformatter = VideoReformatter()
        self._matrix: np.ndarray | None = None
        # mp4 seeks to keyframes by decode time, Matroska by presentation time.
        self._clock: Literal["dts", "pts"] = "pts"
        # All packets of the file, until the decoder gets the first one.
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
        """Close the file."""
        self._container.close()

    @property
    def finds_by_time(self) -> bool:
        """Whether timestamps and positions stated by the container are right."""
        return bool(self._facts.keyframes)

    @property
    def is_plain(self) -> bool:
        """Whether the container is regular: it has one video stream, all frames are displayed, and its index is right."""
        return self.finds_by_time and self._facts.is_plain and self._streams == 1

    @property
    def has_open_groups(self) -> bool:
        """Whether some frames after a keyframe are displayed before it."""
        return any(keyframe.is_open for keyframe in self._facts.keyframes)

    @property
    def start(self) -> int | None:
        """Timestamp of the first frame; None if timestamps are wrong."""
        return self._facts.start if self.finds_by_time else None

    @property
    def first_moment(self) -> float:
        """Best known timestamp of the first frame, in seconds."""
        return float(self._facts.start * (self._stream.time_base or 0))

    @property
    def stream(self) -> av.VideoStream:
        """The video stream; a new object after `frames_from`."""
        return self._stream

    def frames_from(self, seconds: float) -> Iterator[av.VideoFrame]:
        """Frames of plain decoding: all from this time on, and some before it. Raises av.FFmpegError."""
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
        """The frames of these ascending, distinct indices. Raises DecodeError or FewerFramesError."""
        self._wanted = len(numbers)
        pictures: list[Picture] = []
        for run in _runs(numbers, self._places):
            part = self._read_by_time(run)
            if part is None:
                # If the file returned too few frames, count from the start to get its real content.
                return self._read_by_count(numbers)
            pictures += part
        return pictures

    def _opened(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        container = open_container(self._source, self._deadline)
        # The cover picture of an audio file is not a video, and neither is text, which ffmpeg renders like a terminal.
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
        """Facts of the file, from the cache or a scan."""
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
        """Read all packets, and decode them if their headers do not determine the decoded frames."""
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
                order.add(b"" if is_odd else bytes(packet))  # no parser accepts empty data
                size += packet.size
                if size <= MAX_KEPT:
                    self._kept.append(packet)
        except av.FFmpegError:
            is_whole = False  # decoding ends here with the same error, and gives the number of frames before it
        if not is_whole or size > MAX_KEPT:
            self._kept = []
        named = {entry.timestamp for entry in self._stream.index_entries if entry.is_keyframe}
        count, fault = sum(packet.is_shown for packet in packets), ""
        keyframes: list[_Keyframe] = []
        is_known = is_whole and order.is_known()
        if is_known and context.name not in BELIEVED_CODECS:
            shown = sorted(packet.pts for packet in packets if packet.is_shown and packet.pts is not None)
            # Concealed frames look different if decoding starts elsewhere.
            is_known = self._is_timed and self._decoded_times(conceals=False) == (shown, "")
        if is_known:
            keyframes = self._keyframes(packets, order.pictures)
        # ffmpeg's formats for single images are called jpeg_pipe, png_pipe and so on.
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
        """Keyframes at which reading by time may start; empty if it is not possible.

        Args:
            packets: all packets of the file.
            pictures: the picture of each packet.
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
        """Presentation times of the frames of plain decoding, and its error message, if it fails.

        Args:
            conceals: whether decoding continues after damage that the decoder can conceal.
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
            # Some containers cannot seek back to their first packet.
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
        """Number of frames stated by the container, and how many of them exist; 0 and 0 if nothing usable is stated."""
        name = self._container.format.name
        if name.startswith("mov"):
            return indexed, len(packets)
        if name != "avi":
            return self._stream.frames, len(packets)
        # The number stated by AVI is unreliable; its size shows whether it was cut off.
        with self._source.open() if isinstance(self._source, VideoBytes) else self._source.open("rb") as file:
            if int.from_bytes(file.read(8)[4:], "little") + 8 <= file.seek(0, io.SEEK_END):
                return 0, 0
        # It counts in ticks. A frame may take several ticks, and dropped frames count, too.
        moments = [packet.dts for packet in packets if packet.dts is not None]
        ticks = min((other - one for one, other in pairwise(moments) if other > one), default=1)
        return self._stream.frames // ticks, (max(moments, default=0) - min(moments, default=0)) // ticks + 1

    def _fps(self, times: list[int], count: int) -> float:
        """Frames per second: the value of the container, unless the timestamps contradict it."""
        # ffmpeg assumes 25 for streams without a rate.
        stated = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        if count < 2 or not times or self._stream.time_base is None:
            return stated
        seconds = float((times[-1] - times[0]) * self._stream.time_base)
        # Timestamps are rounded, and a few frames may be missing.
        differs = abs(seconds - (count - 1) / stated) > 1 / stated + 0.1 * seconds
        return (count - 1) / seconds if differs and seconds > 0 else stated

    def _packets(self) -> Iterator[av.Packet]:
        """Packets from the current position to the end. Raises DecodeError after the time limit, otherwise av.FFmpegError."""
        self._at_start = False
        try:
            for packet in self._demuxed():
                self._check_time()
                # The last packet is empty and signals the end to the decoder.
                if packet.size or packet.dts is not None:
                    yield packet
        except av.error.ExitError as error:
            raise DecodeError("timed out", "while reading") from error

    def _demuxed(self) -> Iterator[av.Packet]:
        """Video packets from the current position on, then an empty one; audio packets are passed to the sound track."""
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
        """Pick frames by presentation time; None if this does not return all of them."""
        # In an open group of pictures, some frames are stored after the keyframe but displayed before it, and refer to frames
        # of the previous group: then the search continues one keyframe earlier.
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
        """Packets from a keyframe to safely after frame `last`; empty if the seek failed or there are too many."""
        start = self._start_for_sound(keyframe, first)
        is_there = self._wish is not None and self._at_start and start is self._facts.keyframes[0]
        self._kept, self._at_start = [], False
        if not self.has_open_groups:
            # For frames that cannot be decoded without error, the result of plain decoding is used. In open groups, errors are
            # normal for frames that are displayed before their keyframe, which are not requested.
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
                    continue  # some containers seek to an earlier keyframe than requested
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
        """The keyframe to start from, so that the audio for frame `first` is read, too."""
        if self._wish is None:
            return keyframe
        keyframes = self._facts.keyframes
        if self._wish == "whole":
            return keyframes[0]
        # One more frame, because its timestamp is only estimated here.
        seconds = max(0.0, (first - keyframe.before - 1) / self._facts.fps) - MARGIN
        moment = keyframe.pts + math.floor(seconds / (self._stream.time_base or 1))
        return keyframes[max(0, bisect_right([one.pts for one in keyframes], moment) - 1)]

    def _decode(self, packets: list[av.Packet], wanted: list[int]) -> list[Picture] | None:
        """The frames of these presentation times; None if the decoder fails or does not output one."""
        context = self._stream.codec_context
        skips = context.name in SKIPPING_CODECS
        tick = self._stream.time_base or Fraction(1)
        times, first = set(wanted), packets[0].pts or 0
        last = max(place for place, packet in enumerate(packets) if packet.pts in times)
        found: dict[int, Picture] = {}
        latest: int | None = None
        try:
            # None flushes the decoder.
            for packet in [*packets[: last + 1], None]:
                self._check_time()
                if skips:
                    context.skip_frame = "NONREF" if packet is not None and packet.pts not in times else "DEFAULT"
                for frame in context.decode(packet):
                    if frame.pts is None or (latest is not None and frame.pts <= latest):
                        return None
                    latest = frame.pts
                    if frame.is_corrupt and latest >= first:
                        return None  # the concealed content depends on frames before the keyframe
                    if frame.pts in times:
                        found[frame.pts] = self._picture(frame, float((frame.pts - self._facts.start) * tick))
        except av.FFmpegError:
            return None
        return [found[pts] for pts in wanted] if len(found) == len(wanted) else None

    def _read_by_count(self, numbers: list[int]) -> list[Picture]:
        """Pick frames by counting the decoder's output from the start of the file."""
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
        """Convert to RGB at the decoded size, which may differ from the stated one, and rotate upright."""
        check_size(frame.width, frame.height, self._wanted)
        array = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if self._matrix is None:
            self._matrix = display_matrix(frame)
        return Picture(upright(array, self._matrix), seconds)


def _failure(num_frames: int, detail: str) -> DecodeError:
    """The error for a file that ends after this number of frames."""
    return DecodeError("failed while decoding" if num_frames else "no frame decoded", detail)


def _runs(numbers: list[int], keyframes: list[int]) -> list[list[int]]:
    """Split ascending frame indices where seeking to a keyframe skips more frames than a new start costs."""
    runs = [numbers[:1]]
    for previous, number in pairwise(numbers):
        place = bisect_right(keyframes, number) - 1
        if place >= 0 and keyframes[place] - previous > REORDERING:
            runs.append([])
        runs[-1].append(number)
    return runs


def _numbered(packets: list[av.Packet], before: int) -> dict[int, int]:
    """Frame index -> presentation time, of the frames that can be decoded from the first packet on.

    Frames displayed before that keyframe are counted but left out. Empty if timestamps are missing or not unique.
    """
    times = [packet.pts for packet in packets if packet.pts is not None]
    first = times[0] if times else 0
    if len(set(times)) < len(packets):
        return {}
    shown = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
    return {before + rank: pts for rank, pts in enumerate(shown) if pts >= first}


def display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """Rotation and mirroring of a frame for display: int32 [3, 3]; see `upright`."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    entries = np.eye(3, dtype=np.int32) if data is None else np.frombuffer(bytes(data), np.int32)
    return entries.reshape(3, 3)


def upright(array: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply the quarter turns and mirrorings of a display matrix.

    Args:
        array: uint8 [h, w, 3].
        matrix: [3, 3] as in mp4 and ffmpeg: a row vector (x, y, 1) of a decoded pixel times this matrix is its position on
            screen. Angles other than quarter turns are ignored.
    """
    (a, b), (c, d) = matrix[0, :2].tolist(), matrix[1, :2].tolist()
    if abs(b) > abs(a):
        array, a, d = array.transpose(1, 0, 2), c, b
    if a < 0:
        array = array[:, ::-1]
    if d < 0:
        array = array[::-1]
    return np.ascontiguousarray(array)

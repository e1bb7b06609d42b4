"""Sound of an open file: which packets cover what is wanted, and samples at their moments.

Moments count in seconds from the first frame of the file's video, or, without one, from the first sample. Axis letters: `V`
parts, `C` channels, `S` samples.
"""

import io
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
from av.stream import Disposition

from datamodules.video.readers import DecodeError, Source, VideoBytes, check_time, only_decode_errors, open_container

Channels = Literal["first", "mean", "stereo"]

# Decoding starts so many seconds early: what some codecs give first after a seek is wrong.
MARGIN = 0.2
# Samples follow each other, whatever the packets' rounded times say, unless these are so many seconds away.
GAP = 0.004
# How far, in seconds, before the wanted moment to look for packets, one after the other, before all of the file is read.
STEPS_BACK = (0.0, 5.0, 30.0)
# What lies further ahead, in seconds, is sought and not read up to.
FAR = 10.0
# A file that states its length exactly may lack so many seconds, or this share.
EXACT = ("mov", "flac")
MISSING_SECONDS, MISSING_SHARE = 0.2, 0.05
# Sizes from here on in the header of a wav stand for one that is not known.
UNKNOWN = 2**31 - 1
# Of files that hold arrays.
ARRAY_SUFFIXES = (".npy", ".npz")
# Bytes of packets that are kept while a video is read.
MAX_KEPT = 2**26


class Sound(NamedTuple):
    """Parts of the sound of one file."""

    data: np.ndarray
    """float32 [V, C, S], from -1 to 1; 0 where the file has none"""
    valid: np.ndarray
    """bool [V, S], where the file has sound"""
    faults: int
    """packets that could not be decoded, and breaks"""


class _Run:
    """Packets that stand behind each other in the file.

    Args:
        is_first: whether the first of them is the first of the file.
        tick: seconds of a tick of their clock.
    """

    def __init__(self, is_first: bool, tick: float) -> None:
        self.packets: list[av.Packet] = []
        # In the file's own time; NaN, which is neither early nor late, where a packet does not say so.
        self.begins: list[float] = []
        self.end = -math.inf
        self.is_first, self.is_last, self.fault = is_first, False, ""
        self._tick = tick

    def append(self, packet: av.Packet) -> None:
        """Take the next packet of the file."""
        ticks = packet.dts if packet.pts is None else packet.pts
        self.packets.append(packet)
        self.begins.append(math.nan if ticks is None else ticks * self._tick)
        self.end = self.begins[-1] + (packet.duration or 0) * self._tick

    def begins_by(self, moment: float) -> bool:
        """Whether nothing before a moment is needed that is not here."""
        return self.is_first or (bool(self.packets) and self.begins[0] <= moment)

    def reaches(self, moment: float) -> bool:
        """Whether all up to a moment is here."""
        return self.is_last or self.end >= moment


class _Segment:
    """Decoded samples without a gap, through one resampler.

    Args:
        start: moment of the first one, in the file's own time.
        frame: the first one.
        rate: wanted.
    """

    def __init__(self, start: float, frame: av.AudioFrame, rate: int) -> None:
        self.start, self.source_rate, self.layout = start, frame.sample_rate, frame.layout.name
        # Channels as they are: the library's own mix of two equal channels is 1.414 times as loud.
        self._resampler = av.AudioResampler(format="fltp", rate=rate)
        self._parts: list[np.ndarray] = []
        self._taken = 0

    def continues(self, moment: float | None, frame: av.AudioFrame) -> bool:
        """Whether a frame belongs behind those that are here."""
        near = moment is None or abs(self.start + self._taken / self.source_rate - moment) <= GAP
        return near and (frame.sample_rate, frame.layout.name) == (self.source_rate, self.layout)

    def add(self, frame: av.AudioFrame | None) -> None:
        """Take a frame, or None at the end."""
        if frame is not None:
            self._taken += frame.samples
            frame.pts = None
        self._parts += [part.to_ndarray() for part in self._resampler.resample(frame)]

    def samples(self) -> np.ndarray:
        """All of it, float32 [channels, n]. What a codec makes louder than full scale is cut off, as in 16-bit files."""
        return np.concatenate(self._parts, axis=1).clip(-1, 1) if self._parts else np.zeros((1, 0), np.float32)


class SoundTrack:
    """The first sound stream of an open file.

    Whoever demuxes the file for its video hands over the packets of sound that it meets, so that the file is read once; what
    these do not cover is looked up by a seek. Decoding starts at a packet that only the wanted moment decides, so that samples
    do not depend on what else was read.

    Args:
        source: the file.
        container: it, open, and not read from.
        deadline: of `time.monotonic`, when to give up.
    """

    def __init__(self, source: Source, container: av.container.InputContainer, deadline: float | None) -> None:
        self._source, self._container, self._deadline = source, container, deadline
        self.stream = next((one for one in container.streams.audio if one.codec_context is not None), None)
        self._tick = float((self.stream.time_base if self.stream is not None else None) or 0)
        self._runs = [_Run(True, self._tick)]
        self._size = 0

    def seeked(self) -> None:
        """The packets that follow do not stand behind those before them."""
        self._size = 0
        self._runs.append(_Run(False, self._tick))

    def add(self, packet: av.Packet) -> None:
        """A packet of the stream, as it came out of the file. Of hours, only the last ones are kept."""
        if not _has_content(packet):
            return
        self._size += packet.size
        if self._size > MAX_KEPT:
            self._runs.pop()
            self.seeked()
        self._runs[-1].append(packet)

    def read(self, starts: np.ndarray, samples: int, rate: int, channels: Channels, origin: float) -> Sound:
        """Parts of the sound.

        Args:
            starts: float [V], moments of their first samples.
            samples: S, length of all of them.
            rate: samples per second.
            channels: `first` of the file's, the `mean` of all, or `stereo`, a single one twice.
            origin: moment 0 in the file's own time.

        Raises:
            DecodeError: if there is no stream of sound, nothing of it in any of the parts, nothing but zeros in all of it, or
                time is up. What is broken is 0, and not valid.
        """
        self._stream_or_fail()
        count = 2 if channels == "stereo" else 1
        data = np.zeros((len(starts), count, samples), np.float32)
        valid = np.zeros((len(starts), samples), bool)
        faults, parts = 0, dict[float, int]()
        for view, start in enumerate(starts.astype(np.float64).tolist()):
            if start in parts:
                data[view], valid[view] = data[parts[start]], valid[parts[start]]
                continue
            parts[start] = view
            faults += self._fill(data[view], valid[view], origin + start, rate, channels)
        if not valid.any():
            raise DecodeError("too short", f"no sound in {samples / rate:g} s from {starts.min():g} s on")
        if not data.any() and self._is_silent():
            raise DecodeError("silent")
        return Sound(data, valid, faults)

    def whole_length(self, origin: float) -> float:
        """Seconds from moment 0 to the end of the sound. Raises DecodeError."""
        stated = self._stream_or_fail().duration
        end = self._covering(-math.inf, math.inf).end if stated is None else self.start + stated * self._tick
        if not end > origin:
            raise DecodeError("too short", "no sound")
        return end - origin

    @property
    def start(self) -> float:
        """Moment of the first sample in the file's own time, as the container states it."""
        return (self._stream_or_fail().start_time or 0) * self._tick

    def _stream_or_fail(self) -> av.AudioStream:
        if self.stream is None:
            raise DecodeError("no such stream", "no sound")
        return self.stream

    def _fill(self, data: np.ndarray, valid: np.ndarray, start: float, rate: int, channels: Channels) -> int:
        """Write one part into its place, and count what is broken.

        Args:
            data: float32 [C, S], zeros.
            valid: bool [S], false.
            start: of the part, in the file's own time.
            rate: samples per second.
            channels: see `read`.
        """
        samples = len(valid)
        end = start + samples / rate
        run = self._covering(start - MARGIN, end + MARGIN)
        early = max((place for place, begin in enumerate(run.begins) if begin <= start - MARGIN), default=0)
        late = next((place for place, begin in enumerate(run.begins) if begin >= end + MARGIN), None)
        segments, faults = self._decoded(run.packets[early:late], rate)
        for segment in segments:
            mixed = mix(segment.samples(), channels)
            place = math.floor((segment.start - start) * rate + 0.5)
            first, last = max(place, 0), min(place + mixed.shape[1], samples)
            if first < last:
                data[:, first:last] = mixed[:, first - place : last - place]
                valid[first:last] = True
        return faults + bool(run.fault)

    def _decoded(self, packets: list[av.Packet], rate: int) -> tuple[list[_Segment], int]:
        """What packets give, and how many of them are broken."""
        segments: list[_Segment] = []
        context, faults = self._stream_or_fail().codec_context, 0
        for packet in [*packets, None]:
            check_time(self._deadline)
            try:
                frames = context.decode(packet)
            except av.FFmpegError:
                faults += 1
                continue
            for frame in frames:
                moment = None if frame.pts is None else frame.pts * self._tick
                if not segments or not segments[-1].continues(moment, frame):
                    if segments:
                        segments[-1].add(None)
                    segments.append(_Segment(self.start if moment is None else moment, frame, rate))
                segments[-1].add(frame)
        if segments:
            segments[-1].add(None)
        context.flush_buffers()
        return segments, faults

    def _is_silent(self) -> bool:
        """Whether the whole track is nothing but zeros. Reads the file once more, up to the first sound: it is asked only where
        what was wanted of it is silent."""
        resampler = av.AudioResampler(format="fltp")
        with closing(open_container(self._source, self._deadline)) as container:
            stream = next(one for one in container.streams.audio if one.index == self._stream_or_fail().index)
            try:
                for packet in container.demux(stream):
                    check_time(self._deadline)
                    for frame in _frames_of(stream.codec_context, packet):
                        frame.pts = None
                        if any(part.to_ndarray().any() for part in resampler.resample(frame)):
                            return False
            except av.error.ExitError as error:
                raise DecodeError("timed out", "while reading") from error
            except av.FFmpegError:
                pass  # what is broken was counted by who asked, or lies behind it
        return True

    def _covering(self, first: float, last: float) -> _Run:
        """Packets from a moment to another, both in the file's own time; they may begin before and end behind."""
        for run in self._runs:
            if run.begins_by(first):
                end = run.end if run.packets else self.start
                if run is self._runs[-1] and not first > end + FAR:
                    self._extend(run, last)
                if run.reaches(last):
                    return run
        stream = self._stream_or_fail()
        for back in STEPS_BACK:
            # Times before the first are no place to go to, and mean the first.
            wanted = max(first - back, self.start - 1)
            self.seeked()
            run = self._runs[-1]
            try:
                self._container.seek(round(Fraction(wanted) / (stream.time_base or 1)), stream=stream)
            except av.FFmpegError:
                break
            self._extend(run, -math.inf)
            run.is_first = wanted < self.start and run.begins_by(self.start)
            if run.begins_by(first):
                self._extend(run, last)
                return run
        # A container that cannot be sought.
        run = _Run(True, self._tick)
        with closing(open_container(self._source, self._deadline)) as container:
            self._extend(run, last, container)
        self._runs.insert(0, run)
        return run

    def _extend(self, run: _Run, last: float, container: av.container.InputContainer | None = None) -> None:
        """Read on until a run reaches a moment, by at least one packet."""
        if run.packets and run.reaches(last):
            return
        for packet in self._demuxed(run, container):
            run.append(packet)
            if run.reaches(last):
                return

    def _demuxed(self, run: _Run, container: av.container.InputContainer | None = None) -> Iterator[av.Packet]:
        """Packets of the stream from the current place in the file to its end."""
        container = container or self._container
        try:
            for packet in container.demux(container.streams[self._stream_or_fail().index]):
                check_time(self._deadline)
                if _has_content(packet):
                    yield packet
        except av.error.ExitError as error:
            raise DecodeError("timed out", "while reading") from error
        except av.FFmpegError as error:
            run.fault = str(error)
        run.is_last = True
        if not run.fault and self._breaks_off(run.end):
            run.fault = "breaks off"

    def _breaks_off(self, end: float) -> bool:
        """Whether the container states a later end of the sound than that of the last packet."""
        stream, name = self._stream_or_fail(), self._container.format.name
        if name == "wav":
            return _is_cut(self._source)
        if not name.startswith(EXACT) or stream.duration is None or not math.isfinite(end):
            return False
        stated = stream.duration * self._tick
        return self.start + stated - end > max(MISSING_SECONDS, MISSING_SHARE * stated)


@dataclass(frozen=True)
class OpenSound:
    """The sound of an open file.

    Args:
        track: of it.
        origin: moment 0 in the file's own time.
    """

    track: SoundTrack
    origin: float

    def read(self, starts: np.ndarray, samples: int, rate: int, channels: Channels) -> Sound:
        """See `SoundTrack.read`. Raises DecodeError."""
        with only_decode_errors():
            return self.track.read(starts, samples, rate, channels, self.origin)

    def length(self) -> float:
        """Seconds from moment 0 to the end of the sound. Raises DecodeError."""
        with only_decode_errors():
            return self.track.whole_length(self.origin)


@contextmanager
def open_sound(source: Path) -> Iterator[OpenSound]:
    """Open a file for its sound alone.

    Raises:
        DecodeError: if it cannot be opened, or has no sound.
    """
    try:
        size = source.stat().st_size
    except (OSError, ValueError) as error:
        raise DecodeError("file not found", str(error)) from error
    if size == 0:
        raise DecodeError("empty file")
    # Equal numbers look like one of the codecs that have no header.
    if source.suffix.lower() in ARRAY_SUFFIXES:
        raise DecodeError("cannot open", "an array of numbers is no file of sound")
    with closing(open_container(source, None)) as container:
        track = SoundTrack(source, container, None)
        videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        starts = [one.start_time * one.time_base for one in videos if one.start_time is not None and one.time_base is not None]
        yield OpenSound(track, float(starts[0]) if starts else track.start)


def sound_length(path: Path) -> float:
    """Seconds of sound in a file. Remembered as long as the file is the same.

    Raises:
        DecodeError: if it cannot be opened, or has no sound.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise DecodeError("file not found", str(error)) from error
    return _length(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2**16)
def _length(path: Path, size: int, changed: int) -> float:
    with open_sound(path) as sound:
        return sound.length()


def mix(samples: np.ndarray, channels: Channels) -> np.ndarray:
    """Choose or average channels: float32 [channels, n] -> [C, n]; see `SoundTrack.read`."""
    if channels == "first":
        return samples[:1]
    if channels == "mean":
        return samples.mean(axis=0, keepdims=True)
    return samples[:2] if len(samples) > 1 else np.repeat(samples, 2, axis=0)


def _frames_of(context: av.AudioCodecContext, packet: av.Packet) -> list[av.AudioFrame]:
    """What a packet gives; nothing where it is broken."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []


def _is_cut(source: Source) -> bool:
    """Whether a RIFF file is shorter than it states, unless it states what programs write that do not know it."""
    with source.open() if isinstance(source, VideoBytes) else source.open("rb") as file:
        stated = int.from_bytes(file.read(8)[4:], "little")
        return stated < UNKNOWN and stated + 8 > file.seek(0, io.SEEK_END)


def _has_content(packet: av.Packet) -> bool:
    """Whether a packet is more than the mark of the end."""
    return packet.size > 0 or packet.dts is not None

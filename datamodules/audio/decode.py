"""Audio of an open file: finding the packets that cover a requested part, and placing samples at their time stamps.

Times are in seconds from the first frame of the file's video or, without video, from the first sample. Axis letters: `V`
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

# Decoding starts this many seconds early: some codecs return wrong samples first after a seek.
MARGIN = 0.2
# Samples are contiguous, whatever the packets' rounded time stamps say, unless these differ by this many seconds.
GAP = 0.004
# Distances in seconds before the requested time at which to look for packets, in turn, before the complete file is read.
STEPS_BACK = (0.0, 5.0, 30.0)
# Parts further ahead than this, in seconds, are reached by a seek instead of reading.
FAR = 10.0
# A file that states its exact length may be shorter by this many seconds, or by this fraction.
EXACT = ("mov", "flac")
MISSING_SECONDS, MISSING_SHARE = 0.2, 0.05
# Sizes from here on in a wav header mean that the size is unknown.
UNKNOWN = 2**31 - 1
# Magic bytes of files that contain arrays.
ARRAY_SUFFIXES = (".npy", ".npz")
# Maximum bytes of packets kept while a video is read.
MAX_KEPT = 2**26


class Sound(NamedTuple):
    """Parts of the audio of one file."""

    data: np.ndarray
    """float32 [V, C, S], from -1 to 1; 0 where the file has no audio"""
    valid: np.ndarray
    """bool [V, S], where the file has audio"""
    faults: int
    """number of packets that could not be decoded, and of gaps"""


class _Run:
    """Consecutive packets of the file.

    Args:
        is_first: whether the first packet is the first of the file.
        tick: seconds per tick of their clock.
    """

    def __init__(self, is_first: bool, tick: float) -> None:
        self.packets: list[av.Packet] = []
        # In the file's own time; NaN, which compares false, if a packet has no time stamp.
        self.begins: list[float] = []
        self.end = -math.inf
        self.is_first, self.is_last, self.fault = is_first, False, ""
        self._tick = tick

    def append(self, packet: av.Packet) -> None:
        """Add the next packet of the file."""
        ticks = packet.dts if packet.pts is None else packet.pts
        self.packets.append(packet)
        self.begins.append(math.nan if ticks is None else ticks * self._tick)
        self.end = self.begins[-1] + (packet.duration or 0) * self._tick

    def begins_by(self, moment: float) -> bool:
        """Whether all packets needed to start at a time are included."""
        return self.is_first or (bool(self.packets) and self.begins[0] <= moment)

    def reaches(self, moment: float) -> bool:
        """Whether all packets up to a time are included."""
        return self.is_last or self.end >= moment


class _Segment:
    """Decoded samples without a gap, through one resampler.

    Args:
        start: time of the first sample, in the file's own time.
        frame: the first frame.
        rate: requested sample rate.
    """

    def __init__(self, start: float, frame: av.AudioFrame, rate: int) -> None:
        self.start, self.source_rate, self.layout = start, frame.sample_rate, frame.layout.name
        # Channels are not mixed here: the library's mix of two equal channels is 1.414 times as loud.
        self._resampler = av.AudioResampler(format="fltp", rate=rate)
        self._parts: list[np.ndarray] = []
        self._taken = 0

    def continues(self, moment: float | None, frame: av.AudioFrame) -> bool:
        """Whether a frame directly follows the frames so far."""
        near = moment is None or abs(self.start + self._taken / self.source_rate - moment) <= GAP
        return near and (frame.sample_rate, frame.layout.name) == (self.source_rate, self.layout)

    def add(self, frame: av.AudioFrame | None) -> None:
        """Add a frame, or None at the end."""
        if frame is not None:
            self._taken += frame.samples
            frame.pts = None
        self._parts += [part.to_ndarray() for part in self._resampler.resample(frame)]

    def samples(self) -> np.ndarray:
        """All samples, float32 [channels, n]. Values beyond full scale are clipped, as in 16-bit files."""
        return np.concatenate(self._parts, axis=1).clip(-1, 1) if self._parts else np.zeros((1, 0), np.float32)


class SoundTrack:
    """The first audio stream of an open file.

    The reader that demuxes the file for its video passes on the audio packets that it meets, so that the file is read
    once; missing parts are found by a seek. Decoding starts at a packet that depends only on the requested time, so that
    samples do not depend on what else was read.

    Args:
        source: the file.
        container: the open file, from which nothing has been read.
        deadline: time (`time.monotonic`) at which reading stops.
    """

    def __init__(self, source: Source, container: av.container.InputContainer, deadline: float | None) -> None:
        self._source, self._container, self._deadline = source, container, deadline
        self.stream = next((one for one in container.streams.audio if one.codec_context is not None), None)
        self._tick = float((self.stream.time_base if self.stream is not None else None) or 0)
        self._runs = [_Run(True, self._tick)]
        self._size = 0

    def seeked(self) -> None:
        """Note that the following packets are not contiguous with those before."""
        self._size = 0
        self._runs.append(_Run(False, self._tick))

    def add(self, packet: av.Packet) -> None:
        """Add a packet of the stream, in file order. For long files, only the last packets are kept."""
        if not _has_content(packet):
            return
        self._size += packet.size
        if self._size > MAX_KEPT:
            self._runs.pop()
            self.seeked()
        self._runs[-1].append(packet)

    def read(self, starts: np.ndarray, samples: int, rate: int, channels: Channels, origin: float) -> Sound:
        """Read parts of the audio.

        Args:
            starts: float [V], times of their first samples.
            samples: length of each part, S.
            rate: samples per second.
            channels: `first` channel of the file, `mean` of all, or `stereo` (mono is duplicated).
            origin: time 0 in the file's own time.

        Raises:
            DecodeError: if there is no audio stream, no audio in any of the parts, only zeros in the complete track, or the
                time limit is exceeded. Broken parts are 0, and not valid.
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
        """Seconds from time 0 to the end of the audio. Raises DecodeError."""
        stated = self._stream_or_fail().duration
        end = self._covering(-math.inf, math.inf).end if stated is None else self.start + stated * self._tick
        if not end > origin:
            raise DecodeError("too short", "no sound")
        return end - origin

    @property
    def start(self) -> float:
        """Time of the first sample in the file's own time, as stated by the container."""
        return (self._stream_or_fail().start_time or 0) * self._tick

    def _stream_or_fail(self) -> av.AudioStream:
        if self.stream is None:
            raise DecodeError("no such stream", "no sound")
        return self.stream

    def _fill(self, data: np.ndarray, valid: np.ndarray, start: float, rate: int, channels: Channels) -> int:
        """Write one part into an array, and count broken packets.

        Args:
            data: float32 [C, S], zeros.
            valid: bool [S], false.
            start: start of the part, in the file's own time.
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
        """Decode packets, and count the broken ones."""
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
        """Whether the complete track is zero. Reads the file again, up to the first non-zero sample; only called
        if the requested part is silent."""
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
                pass  # broken packets were counted by the caller, or come later
        return True

    def _covering(self, first: float, last: float) -> _Run:
        """Packets between two times, both in the file's own time; they may start earlier and end later."""
        for run in self._runs:
            if run.begins_by(first):
                end = run.end if run.packets else self.start
                if run is self._runs[-1] and not first > end + FAR:
                    self._extend(run, last)
                if run.reaches(last):
                    return run
        stream = self._stream_or_fail()
        for back in STEPS_BACK:
            # Seeking before the first time stamp fails, so it means the first.
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
        # A container without seeking.
        run = _Run(True, self._tick)
        with closing(open_container(self._source, self._deadline)) as container:
            self._extend(run, last, container)
        self._runs.insert(0, run)
        return run

    def _extend(self, run: _Run, last: float, container: av.container.InputContainer | None = None) -> None:
        """Continue reading, at least one packet, until a run reaches a time."""
        if run.packets and run.reaches(last):
            return
        for packet in self._demuxed(run, container):
            run.append(packet)
            if run.reaches(last):
                return

    def _demuxed(self, run: _Run, container: av.container.InputContainer | None = None) -> Iterator[av.Packet]:
        """Packets of the stream from the current position to the end of the file."""
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
        """Whether the container states a later end of the audio than the last packet."""
        stream, name = self._stream_or_fail(), self._container.format.name
        if name == "wav":
            return _is_cut(self._source)
        if not name.startswith(EXACT) or stream.duration is None or not math.isfinite(end):
            return False
        stated = stream.duration * self._tick
        return self.start + stated - end > max(MISSING_SECONDS, MISSING_SHARE * stated)


@dataclass(frozen=True)
class OpenSound:
    """The audio of an open file.

    Args:
        track: audio track of the file.
        origin: time 0 in the file's own time.
    """

    track: SoundTrack
    origin: float

    def read(self, starts: np.ndarray, samples: int, rate: int, channels: Channels) -> Sound:
        """See `SoundTrack.read`. Raises DecodeError."""
        with only_decode_errors():
            return self.track.read(starts, samples, rate, channels, self.origin)

    def length(self) -> float:
        """Seconds from time 0 to the end of the audio. Raises DecodeError."""
        with only_decode_errors():
            return self.track.whole_length(self.origin)


@contextmanager
def open_sound(source: Path) -> Iterator[OpenSound]:
    """Open a file to read its audio only.

    Raises:
        DecodeError: if it cannot be opened, or has no audio.
    """
    try:
        size = source.stat().st_size
    except (OSError, ValueError) as error:
        raise DecodeError("file not found", str(error)) from error
    if size == 0:
        raise DecodeError("empty file")
    # Constant values look like a codec without a header.
    if source.suffix.lower() in ARRAY_SUFFIXES:
        raise DecodeError("cannot open", "an array of numbers is not an audio file")
    with closing(open_container(source, None)) as container:
        track = SoundTrack(source, container, None)
        videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        starts = [one.start_time * one.time_base for one in videos if one.start_time is not None and one.time_base is not None]
        yield OpenSound(track, float(starts[0]) if starts else track.start)


def sound_length(path: Path) -> float:
    """Seconds of audio in a file. Cached while the file does not change.

    Raises:
        DecodeError: if it cannot be opened, or has no audio.
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
    """Frames of a packet; none if it is broken."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []


def _is_cut(source: Source) -> bool:
    """Whether a RIFF file is shorter than it states, unless it states a placeholder for an unknown length."""
    with source.open() if isinstance(source, VideoBytes) else source.open("rb") as file:
        stated = int.from_bytes(file.read(8)[4:], "little")
        return stated < UNKNOWN and stated + 8 > file.seek(0, io.SEEK_END)


def _has_content(packet: av.Packet) -> bool:
    """Whether a packet contains data and is not the end marker."""
    return packet.size > 0 or packet.dts is not None

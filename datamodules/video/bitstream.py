"""Read the headers of video packets: which pictures they contain, in which order these are displayed, and where decoding may
start. Containers state the same, but some state it wrongly; decoders follow the packets.

Only headers are read, for five codecs. Anything unusual raises ValueError; then the file has to be decoded to find its frames.
"""

from bisect import bisect, insort
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

# The first bytes of a unit, which contain everything that is read from it.
HEADER = 64
# Maximum distance between the display position and the file position of a picture, in all codecs below.
REORDERING = 16
# Picture order counts (POC) of one group of pictures are within this range.
GROUP = 2**40


class Coded(NamedTuple):
    """The single picture of a packet."""

    order: int
    """display order of the picture"""
    restarts: bool
    """whether decoding may start here: neither this picture nor any displayed later refers to one earlier in the file"""


class _Bits:
    """Reads numbers from bits; raises ValueError after the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def u(self, bits: int) -> int:
        """Unsigned integer of a fixed length."""
        self._left -= bits
        return self._value >> self._left & (1 << bits) - 1

    def ue(self) -> int:
        """Unsigned Exp-Golomb code."""
        rest = self._value & (1 << self._left) - 1
        zeros = self._left - rest.bit_length()
        self._left -= zeros
        return self.u(zeros + 1) - 1


def _payload(unit: bytes, header: int, length: int | None = HEADER) -> _Bits:
    """Bits of an H.264 or HEVC unit after its header, without emulation prevention bytes."""
    return _Bits(unit[header:length].replace(b"\0\0\3", b"\0\0"))


def _units(data: bytes, length_size: int) -> Iterator[bytes]:
    """H.264 or HEVC units, each preceded by its length, or by a start code if `length_size` is 0."""
    if not length_size:
        for unit in data.split(b"\0\0\1")[1:]:
            yield unit.rstrip(b"\0")
        return
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + length_size], "big")
        position += length_size
        if not 0 < length <= len(data) - position:
            raise ValueError("length of a unit")
        yield data[position : position + length]
        position += length


class _Sequence(NamedTuple):
    """Fields of a sequence parameter set of H.264 or HEVC."""

    reorder: int
    """maximum number of pictures that a decoder reorders; -1 if only known while decoding"""
    lsb_bits: int
    """bits of the picture order count in slices; 0 if pictures are displayed in file order"""
    frame_bits: int = 0
    """bits of H.264's frame number"""
    gaps: bool = False
    """whether gaps in frame numbers are allowed"""
    frames_only: bool = True
    """whether slices have no flag for fields"""
    planes: bool = False
    """whether slices state their colour plane"""


class _H264:
    is_even = False

    def __init__(self, extradata: bytes) -> None:
        self._extradata = extradata
        self._length_size = (extradata[4] & 3) + 1 if extradata[:1] == b"\1" else 0
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._group = self._frame = self._lsb = self._msb = self._count = 0
        self._was_reference = False
        for unit in _sets_of_h264(extradata) if self._length_size else _units(extradata, 0):
            if unit[0] & 31 == 7:
                number, sequence = _sequence_of_h264(unit)
                self._sequences[number] = sequence
            elif unit[0] & 31 == 8:
                bits = _payload(unit, 1)
                number = bits.ue()
                self._sequence_of[number] = bits.ue()
        self.reorder = min((sequence.reorder for sequence in self._sequences.values()), default=-1)

    def picture(self, data: bytes) -> Coded:
        """The picture of a packet."""
        recovers = False
        slices: list[bytes] = []
        for unit in _units(data, self._length_size):
            kind = unit[0] & 31
            if kind in (1, 5):
                slices.append(unit)
            elif kind == 6:
                recovers |= _is_recovery_point(unit)
            elif kind in (7, 8) and unit not in self._extradata:
                raise ValueError("other parameters than those of the file")
            elif kind in (2, 3, 4):
                raise ValueError("partitioned slices")
        # The first macroblock of a picture is number 0, which is coded as a one.
        if sum(unit[1] >> 7 for unit in slices) != 1 or not slices[0][1] >> 7 or len({unit[0] & 31 for unit in slices}) != 1:
            raise ValueError("not one picture")
        is_idr, is_reference = slices[0][0] & 31 == 5, bool(slices[0][0] & 96)
        bits = _payload(slices[0], 1)
        bits.ue()
        kind = bits.ue()
        sequence = self._sequences[self._sequence_of[bits.ue()]]
        if sequence.planes:
            bits.u(2)
        frame = bits.u(sequence.frame_bits)
        if not sequence.frames_only and bits.u(1):
            raise ValueError("fields")
        recovers = recovers and all(_kind_of_slice(unit) % 5 == 2 for unit in slices)
        if is_idr:
            bits.ue()
            self._group += 1
            self._msb = self._lsb = self._count = 0
        elif not recovers or self._count:
            expected = (self._frame + self._was_reference) % (1 << sequence.frame_bits)
            if frame != expected and not (sequence.gaps and is_reference):
                raise ValueError("a picture that others refer to is missing")
        self._frame, self._was_reference = frame, is_reference
        self._count += 1
        if not sequence.lsb_bits:
            return Coded(self._group * GROUP + self._count, is_idr or recovers)
        lsb = bits.u(sequence.lsb_bits)
        msb = _high_bits(lsb, self._lsb, self._msb, 1 << sequence.lsb_bits)
        if is_reference:
            self._lsb, self._msb = lsb, msb
        return Coded(self._group * GROUP + msb + lsb, is_idr or recovers)


def _kind_of_slice(unit: bytes) -> int:
    bits = _payload(unit, 1)
    bits.ue()
    return bits.ue()


def _high_bits(lsb: int, last_lsb: int, last_msb: int, period: int) -> int:
    """The upper part of a picture order count, which is not in the slice, from the count of the previous picture."""
    if lsb < last_lsb and last_lsb - lsb >= period // 2:
        return last_msb + period
    if lsb > last_lsb and lsb - last_lsb > period // 2:
        return last_msb - period
    return last_msb


def _is_recovery_point(unit: bytes) -> bool:
    """Whether a supplemental information unit states that decoding may start at this picture."""
    data = unit[1:].replace(b"\0\0\3", b"\0\0")
    position = 0
    while position + 2 < len(data):
        kind = size = 0
        while data[position] == 255:
            kind, position = kind + 255, position + 1
        kind, position = kind + data[position], position + 1
        while data[position] == 255:
            size, position = size + 255, position + 1
        size, position = size + data[position], position + 1
        if kind == 6:
            return bool(data[position] >> 7)
        position += size
    return False


def _sets_of_h264(extradata: bytes) -> Iterator[bytes]:
    """Parameter sets in the configuration record of mp4 and Matroska."""
    position = 5
    for mask in (31, 255):
        left, position = extradata[position] & mask, position + 1
        for _ in range(left):
            length = int.from_bytes(extradata[position : position + 2], "big")
            yield extradata[position + 2 : position + 2 + length]
            position += 2 + length


def _sequence_of_h264(unit: bytes) -> tuple[int, _Sequence]:
    bits = _payload(unit, 1, None)
    profile = bits.u(24) >> 16
    number, planes = bits.ue(), False
    if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
        chroma = bits.ue()
        planes = chroma == 3 and bool(bits.u(1))
        bits.ue(), bits.ue(), bits.u(1)
        if bits.u(1):
            for place in range(12 if chroma == 3 else 8):
                if bits.u(1):
                    _skip_scaling(bits, 16 if place < 6 else 64)
    frame_bits, kind = bits.ue() + 4, bits.ue()
    if kind == 1:
        raise ValueError("picture order count of type 1")
    lsb_bits = bits.ue() + 4 if kind == 0 else 0
    bits.ue()
    gaps = bool(bits.u(1))
    bits.ue(), bits.ue()
    frames_only = bool(bits.u(1))
    bits.u(1 if frames_only else 2)
    if bits.u(1):
        bits.ue(), bits.ue(), bits.ue(), bits.ue()
    reorder = _reordering_of_h264(bits) if bits.u(1) else -1
    return number, _Sequence(reorder, lsb_bits, frame_bits, gaps, frames_only, planes)


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.ue()
            following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
        last = following or last


def _reordering_of_h264(bits: _Bits) -> int:
    """Number of reordered pictures from the usability information; -1 if it is not stated."""
    if bits.u(1) and bits.u(8) == 255:
        bits.u(32)
    if bits.u(1):
        bits.u(1)
    if bits.u(1):
        bits.u(4)
        if bits.u(1):
            bits.u(24)
    if bits.u(1):
        bits.ue(), bits.ue()
    if bits.u(1):
        bits.u(65)
    has_buffers = False
    for _ in range(2):
        if bits.u(1):
            has_buffers = True
            count = bits.ue() + 1
            bits.u(8)
            for _ in range(count):
                bits.ue(), bits.ue(), bits.u(1)
            bits.u(20)
    bits.u(2 if has_buffers else 1)
    if not bits.u(1):
        return -1
    bits.u(1)
    for _ in range(4):
        bits.ue()
    return bits.ue()


class _Hevc:
    is_even = True

    def __init__(self, extradata: bytes) -> None:
        self._extradata = extradata
        is_record = extradata[:1] == b"\1"
        self._length_size = (extradata[21] & 3) + 1 if is_record else 0
        self._sequences: dict[int, _Sequence] = {}
        # Index of the sequence, whether slices have a flag for pictures that are not displayed, bits to skip.
        self._pictures: dict[int, tuple[int, bool, int]] = {}
        self._group = self._lsb = self._msb = 0
        for unit in _sets_of_hevc(extradata) if is_record else _units(extradata, 0):
            if unit[0] >> 1 == 33:
                number, sequence = _sequence_of_hevc(unit)
                self._sequences[number] = sequence
            elif unit[0] >> 1 == 34:
                bits = _payload(unit, 2)
                number, of = bits.ue(), bits.ue()
                bits.u(1)
                self._pictures[number] = (of, bool(bits.u(1)), bits.u(3))
        self.reorder = min((sequence.reorder for sequence in self._sequences.values()), default=-1)

    def picture(self, data: bytes) -> Coded:
        """The picture of a packet."""
        slices: list[bytes] = []
        for unit in _units(data, self._length_size):
            kind = unit[0] >> 1 & 63
            if kind < 32:
                slices.append(unit)
            elif kind in (32, 33, 34) and unit not in self._extradata:
                raise ValueError("other parameters than those of the file")
            elif kind in (36, 37):
                raise ValueError("end of a sequence")
        if sum(unit[2] >> 7 for unit in slices) != 1 or not slices[0][2] >> 7:
            raise ValueError("not one picture")
        first = slices[0]
        kind, layer = first[0] >> 1 & 63, (first[0] & 1) << 5 | first[1] >> 3
        if layer or not (kind < 10 or 19 <= kind <= 21):
            raise ValueError("several layers, an edit, or pictures of reserved types")
        bits = _payload(first, 2)
        bits.u(1)
        if kind >= 16 and bits.u(1):
            raise ValueError("pictures before this one may be left out")
        of, says_output, skipped = self._pictures[bits.ue()]
        sequence = self._sequences[of]
        bits.u(skipped)
        bits.ue()
        if says_output and not bits.u(1):
            raise ValueError("a picture that is not displayed")
        if sequence.planes:
            bits.u(2)
        if kind in (19, 20):
            self._group += 1
            self._lsb = self._msb = 0
            return Coded(self._group * GROUP, True)
        lsb = bits.u(sequence.lsb_bits)
        msb = _high_bits(lsb, self._lsb, self._msb, 1 << sequence.lsb_bits)
        # Relative to the last picture of the lowest temporal layer that other pictures refer to.
        if first[1] & 7 == 1 and not 6 <= kind <= 9 and not (kind < 10 and kind % 2 == 0):
            self._lsb, self._msb = lsb, msb
        return Coded(self._group * GROUP + msb + lsb, kind >= 16)


def _sets_of_hevc(extradata: bytes) -> Iterator[bytes]:
    position = 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            length = int.from_bytes(extradata[position : position + 2], "big")
            yield extradata[position + 2 : position + 2 + length]
            position += 2 + length


def _sequence_of_hevc(unit: bytes) -> tuple[int, _Sequence]:
    bits = _payload(unit, 2, None)
    bits.u(4)
    layers = bits.u(3)
    bits.u(1 + 96)
    if layers:
        present = [(bits.u(1), bits.u(1)) for _ in range(8)]
        for has_profile, has_level in present[:layers]:
            bits.u(88 * has_profile + 8 * has_level)
    number, chroma = bits.ue(), bits.ue()
    planes = chroma == 3 and bool(bits.u(1))
    bits.ue(), bits.ue()
    if bits.u(1):
        bits.ue(), bits.ue(), bits.ue(), bits.ue()
    bits.ue(), bits.ue()
    lsb_bits = bits.ue() + 4
    reorder = 0
    for _ in range(layers + 1 if bits.u(1) else 1):
        bits.ue()
        reorder = bits.ue()
        bits.ue()
    return number, _Sequence(reorder, lsb_bits, planes=planes)


class _Mpeg4:
    is_even = False

    def __init__(self, extradata: bytes) -> None:
        self.reorder = REORDERING
        self._references = self._between = 0
        # Seconds of the last two pictures that are not B-frames, time of the last one, and its distance to the one before.
        self._earlier = self._seconds = self._time = self._distance = 0
        # The layer's description is in the start codes 0x20 to 0x2f.
        layers = [part for part in extradata.split(b"\0\0\1") if part and 0x20 <= part[0] < 0x30]
        if len(layers) != 1:
            raise ValueError("not one layer")
        self._layer = layers[0].rstrip(b"\0")
        bits = _Bits(self._layer[1:])
        bits.u(9)
        if bits.u(1):
            bits.u(7)
        if bits.u(4) == 15:
            bits.u(16)
        self._reorders = False
        if bits.u(1):
            bits.u(2)
            self._reorders = not bits.u(1)
            if bits.u(1):
                bits.u(79)
        if bits.u(2):
            raise ValueError("shapes")
        bits.u(1)
        self._rate = bits.u(16)
        self._time_bits = max(1, (self._rate - 1).bit_length())
        bits.u(1)
        if bits.u(1):
            bits.u(self._time_bits)
        bits.u(29)
        self._is_interlaced = bool(bits.u(1))

    def picture(self, data: bytes) -> Coded:
        """The picture of a packet."""
        parts = [part for part in data.split(b"\0\0\1") if part]
        if any(0x20 <= part[0] < 0x30 and part.rstrip(b"\0") != self._layer for part in parts[data[:3] != b"\0\0\1" :]):
            raise ValueError("another layer")
        (planes,) = (part for part in parts if part[0] == 0xB6)
        for part in parts:
            if part[0] == 0xB3:  # a group begins, and states its time
                bits = _Bits(part[1:4])
                hours, minutes = bits.u(5), bits.u(6)
                bits.u(1)
                self._seconds = (hours * 60 + minutes) * 60 + bits.u(6)
        bits = _Bits(planes[1:HEADER])
        kind, seconds = bits.u(2), 0
        while bits.u(1):
            seconds += 1
        bits.u(1)
        ticks = bits.u(self._time_bits)
        bits.u(1)
        if not bits.u(1):
            raise ValueError("a picture that is not coded")
        if kind == 2:
            if self._is_interlaced:
                raise ValueError("a picture whose vectors, if it is displayed at all, depend on the times of all before it")
            # Decoders drop B-frames that are not displayed between the last two other pictures.
            before_last = self._time - (self._earlier + seconds) * self._rate - ticks
            if not self._reorders or self._references < 2 or not 0 < before_last < self._distance:
                raise ValueError("a picture between two others where there should be none")
            self._between += 1
            return Coded((self._references - 1) * GROUP + self._between, False)
        self._earlier, self._seconds = self._seconds, self._seconds + seconds
        time = self._seconds * self._rate + ticks
        self._time, self._distance = time, time - self._time
        self._references += 1
        self._between = 0
        return Coded(self._references * GROUP, kind == 0)


class _Vp9:
    is_even, reorder = False, 0

    def __init__(self, extradata: bytes) -> None:
        self._count = 0

    def picture(self, data: bytes) -> Coded:
        """The picture of a packet."""
        frames = [data]
        last = data[-1]
        if last & 0xE0 == 0xC0:  # several frames, one of which is displayed
            size, count = (last >> 3 & 3) + 1, (last & 7) + 1
            index = data[-2 - size * count :]
            if index[0] == last:
                position, frames = 0, []
                for place in range(count):
                    length = int.from_bytes(index[1 + place * size : 1 + (place + 1) * size], "little")
                    frames.append(data[position : position + length])
                    position += length
        shown = restarts = 0
        for frame in frames:
            bits = _Bits(frame[:4])
            if bits.u(2) != 2:
                raise ValueError("no frame")
            if bits.u(1) + 2 * bits.u(1) == 3:
                bits.u(1)
            if bits.u(1):
                shown += 1  # an earlier one
                continue
            is_key, is_shown = not bits.u(1), bits.u(1)
            restarts += is_key and is_shown and len(frames) == 1
            shown += is_shown
        if shown != 1:
            raise ValueError("not one picture")
        self._count += 1
        return Coded(self._count, bool(restarts))


class _Av1:
    is_even, reorder = False, 0

    def __init__(self, extradata: bytes) -> None:
        self._count = 0
        self._sequence = b""

    def picture(self, data: bytes) -> Coded:
        """The picture of a packet."""
        position = shown = frames = 0
        has_sequence = restarts = False
        while position < len(data):
            begin, header = position, data[position]
            if header & 0x80 or not header & 2:
                raise ValueError("unit without a size")
            position += 1
            if header & 4:
                if data[position] >> 3 & 3:
                    raise ValueError("several layers")
                position += 1
            size = shift = 0
            while True:
                byte = data[position]
                size |= (byte & 127) << shift
                shift, position = shift + 7, position + 1
                if not byte & 128:
                    break
            kind, content = header >> 3 & 15, data[position : position + min(size, 4)]
            position += size
            if kind == 1:
                has_sequence = True
                self._sequence = self._sequence or data[begin:position]
                if content[0] & 8 or data[begin:position] != self._sequence:
                    raise ValueError("a still picture, or other parameters than before")
            if kind in (3, 6):
                bits = _Bits(content)
                frames += 1
                if bits.u(1):
                    shown += 1  # an earlier one
                    continue
                is_key, is_shown = bits.u(2) == 0, bits.u(1)
                restarts = bool(is_key and is_shown)
                shown += is_shown
        if shown != 1 or position != len(data):
            raise ValueError("not one picture")
        self._count += 1
        return Coded(self._count, has_sequence and restarts and frames == 1)


_Parser = _H264 | _Hevc | _Mpeg4 | _Vp9 | _Av1
_PARSERS: dict[str, Callable[[bytes], _Parser]] = {
    "h264": _H264,
    "hevc": _Hevc,
    "mpeg4": _Mpeg4,
    "vp9": _Vp9,
    "av1": _Av1,
    "libdav1d": _Av1,
}


class PacketOrder:
    """Reads packets in order, and checks whether decoding gives one picture per packet, in a known order.

    Args:
        codec: ffmpeg's name of the decoder.
        extradata: the codec's parameters as stored in the container.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self.pictures: list[Coded] = []
        """pictures of all packets so far"""
        self._parser: _Parser | None = None
        self._largest: list[int] = []
        with suppress(ValueError, IndexError, KeyError):
            self._parser = _PARSERS[codec](extradata)

    def add(self, data: bytes) -> None:
        """Read the next packet."""
        if self._parser is None:
            return
        try:
            picture = self._parser.picture(data)
        except (ValueError, IndexError, KeyError):
            self._parser = None
            return
        # A decoder whose reorder buffer is too small for the display order loses pictures.
        held_back = len(self._largest) - bisect(self._largest, picture.order)
        is_first = not self.pictures
        if held_back > max(self._parser.reorder, 0) or not (
            picture.restarts if is_first else picture.order > self.pictures[0].order
        ):
            self._parser = None
            return
        insort(self._largest, picture.order)
        del self._largest[: -REORDERING - 1]
        self.pictures.append(picture)

    def is_known(self) -> bool:
        """Whether all packets could be read: then decoding gives exactly their pictures, in display order."""
        if self._parser is None or not self.pictures:
            return False
        orders = sorted(picture.order for picture in self.pictures)
        steps = {other - one for one, other in pairwise(orders) if one // GROUP == other // GROUP}
        # If a picture is missing, HEVC decoders drop others that refer to it.
        return 0 not in steps and (len(steps) < 2 or not self._parser.is_even)

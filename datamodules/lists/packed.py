"""Many strings in one buffer.

A list of a million Python strings takes two to three times the memory of its text. Worker processes share it with
the main process only until they access it: reading a string changes its reference count, so its memory page is
copied. Reading from a buffer writes nothing.
"""

import reprlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np

# UTF-8 that can represent every Python string, including undecodable file names, which have lone surrogates.
CODEC = ("utf-8", "surrogatepass")
# Number of offsets that are Python integers at a time.
CHUNK = 4096


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings that takes the bytes of their UTF-8 encoding plus eight each.

    Equal to any list or tuple of the same strings.

    Args:
        strings: strings to pack; packed strings are shared, not copied.
    """

    _buffer: bytes
    _starts: np.ndarray

    def __init__(self, strings: Iterable[str]) -> None:
        if isinstance(strings, PackedStrings):
            self._buffer, self._starts = strings._buffer, strings._starts
            return
        self._fill(string.encode(*CODEC) for string in strings)

    def _fill(self, encoded: Iterable[bytes]) -> None:
        buffer, starts = bytearray(), array("q", [0])
        for piece in encoded:
            buffer += piece
            starts.append(len(buffer))
        self._buffer = bytes(buffer)
        self._starts = np.array(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int | np.integer) -> str: ...

    @overload
    def __getitem__(self, row: slice | np.ndarray) -> "PackedStrings": ...

    def __getitem__(self, row: "int | np.integer | slice | np.ndarray") -> "str | PackedStrings":
        """One string, or the packed strings of a slice, of row numbers [n], or of a mask [N]."""
        if isinstance(row, slice | np.ndarray):
            part = PackedStrings(())
            part._fill(map(self._piece, np.arange(len(self))[row]))
            return part
        place = range(len(self))[row]
        return self._piece(place).decode(*CODEC)

    def _piece(self, row: int) -> bytes:
        return self._buffer[self._starts[row] : self._starts[row + 1]]

    def _pieces(self) -> Iterator[bytes]:
        for first in range(0, len(self), CHUNK):
            for start, end in pairwise(self._starts[first : first + CHUNK + 1].tolist()):
                yield self._buffer[start:end]

    def __iter__(self) -> Iterator[str]:
        return (piece.decode(*CODEC) for piece in self._pieces())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedStrings):
            return self is other or (self._buffer == other._buffer and np.array_equal(self._starts, other._starts))
        if isinstance(other, list | tuple):
            return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedStrings({reprlib.repr(list(self[:7]))})"

    @property
    def nbytes(self) -> int:
        """Size of the strings in bytes."""
        return len(self._buffer) + self._starts.nbytes

    def first_rows(self) -> np.ndarray:
        """For each row the first one with the same string: int64 [N]."""
        hashes = np.fromiter(map(hash, self._pieces()), np.int64, len(self))
        _, number, count = np.unique(hashes, return_inverse=True, return_counts=True)
        first = np.arange(len(self))
        seen: dict[bytes, int] = {}
        # Empty for most lists; strings with equal hashes are compared, since they may differ.
        for row in np.flatnonzero(count[number] > 1).tolist():
            first[row] = seen.setdefault(self._piece(row), row)
        return first


class PackedLists(Sequence[list[str]]):
    """An immutable sequence of lists of strings, in one buffer like `PackedStrings`.

    Args:
        lists: lists to pack; packed lists are shared, not copied.
    """

    _strings: PackedStrings
    _starts: np.ndarray

    def __init__(self, lists: Iterable[Sequence[str]]) -> None:
        if isinstance(lists, PackedLists):
            self._strings, self._starts = lists._strings, lists._starts
            return
        starts = array("q", [0])

        def strings() -> Iterator[str]:
            for own in lists:
                starts.append(starts[-1] + len(own))
                yield from own

        self._strings = PackedStrings(strings())
        self._starts = np.array(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int | np.integer) -> list[str]: ...

    @overload
    def __getitem__(self, row: slice | np.ndarray) -> "PackedLists": ...

    def __getitem__(self, row: "int | np.integer | slice | np.ndarray") -> "list[str] | PackedLists":
        """The strings of one row, or the packed lists of a slice, of row numbers [n], or of a mask [N]."""
        if isinstance(row, slice | np.ndarray):
            return PackedLists(self[place] for place in np.arange(len(self))[row])
        place = range(len(self))[row]
        return [self._strings[number] for number in range(self._starts[place], self._starts[place + 1])]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedLists):
            return self._strings == other._strings and np.array_equal(self._starts, other._starts)
        if isinstance(other, list | tuple):
            return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedLists({reprlib.repr(list(self[:7]))})"

    @property
    def nbytes(self) -> int:
        """Size of the strings in bytes."""
        return self._strings.nbytes + self._starts.nbytes

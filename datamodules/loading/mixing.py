"""One training set from several: the assignment of samples to sets, and mixed batches.

A sample is determined by its position in an epoch: the set, and the row of the set, are functions of (seed, epoch, position).
Therefore order, resuming, and distribution over processes work as for any other data set (`EpochSampler`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.loading.loader import SampleKey, read_samples
from datamodules.loading.worker_guard import WorkerGuard
from modules.core.batch import SEQUENCE_AXIS, Batch, Reading, Stream, Text, join_streams
from modules.core.errors import SettingError
from modules.core.randomness import worker_rng

WALK = 0x3A1C
"""First number of the random keys for the order of the rows of a set."""


OPTIONAL = ("valid", "time", "box")
"""Fields of a stream that some data do not have."""


@runtime_checkable
class SampleWeights(Protocol):
    """A data module that defines sampling weights of its training samples, e.g. for sets with rare classes."""

    @property
    def sample_weights(self) -> np.ndarray | None:
        """float [N], one relative weight per training sample; None for equal weights."""


@dataclass
class MixedSet:
    """One of the sets.

    Args:
        name: for messages.
        dataset: returns its samples for `SampleKey`s: complete batches, or one by one.
        collate: makes a batch from the output of `dataset`.
        share: number of its samples in an epoch.
        weights: float [N], see `SampleWeights`; None draws all rows equally often.
        first_label: number of its first class in the list of all; None for batches without labels.
    """

    name: str
    dataset: Dataset
    collate: Callable[[Any], Batch]
    share: int
    weights: np.ndarray | None = None
    first_label: int | None = None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


class Common(NamedTuple):
    """The fields that the samples of all sets have, so that every batch has them."""

    fields: dict[str, frozenset[str]]
    """Fields of `OPTIONAL` for each stream by name."""
    extra: frozenset[str]
    """Names in `Batch.extra`."""


def walk(key: tuple[int, ...], length: int, first: int, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """A part of the infinite series of rows of a set: a sequence of random permutations of all rows.

    With weights, each permutation contains a row as often as its weight, randomly rounded up or down.

    Args:
        key: random key of the series.
        length: number of rows of the set.
        first: position in the series where the part starts.
        count: number of rows.
        weights: float [length]; None for equal ones.

    Returns:
        int64 [count, 2]: row, and a number that distinguishes repetitions of this row.
    """
    part = np.empty((count, 2), np.int64)
    most = 1 if weights is None else 1 + int(np.ceil(length * weights.max() / weights.sum()))
    for number in range(first // length, (first + count - 1) // length + 1):
        rng, rows, again = worker_rng(*key, number), np.arange(length), np.zeros(length, np.int64)
        if weights is not None:
            ends = np.cumsum(weights)
            rows = np.searchsorted(ends, (rows + rng.random()) * (ends[-1] / length), side="right").clip(max=length - 1)
            again = np.arange(length) - np.searchsorted(rows, rows)
        order = rng.permutation(length)
        before = number * length
        start, end = max(before, first), min(before + length, first + count)
        taken = order[start - before : end - before]
        part[start - first : end - first] = np.stack([rows[taken], number * most + again[taken]], 1)
    return part


class MixedSamples(Dataset[Batch]):
    """Samples of several sets, in mixed batches. The row of a key is the sample's position in the epoch, from 0.

    Positions are assigned to the sets in blocks, in order; the sampler mixes them. For each set, an epoch continues after the
    samples of the previous epoch, in the set's own random order: no row is repeated before all others have been used. Clips are
    drawn again each time that a row is used, also within an epoch.

    A batch has the fields that all sets have. `index` is the position; `extra` has `source`, int64 [B], the number of the set,
    and `row`, int64 [B], the row in it; `substituted` counts in that set, too. `reading.faults` count through the rows of all
    sets, and `own_part` converts them back.

    Args:
        sets: the sets to mix.
        seed: random seed of the run.
        common: fields that all sets have; None reads the first sample of each to determine them.

    Raises:
        SettingError: if the sets' samples are incompatible.
    """

    def __init__(self, sets: Sequence[MixedSet], seed: int, common: Common | None = None) -> None:
        self.sets, self.seed = list(sets), seed
        self.first_place = np.cumsum([0, *(one.share for one in sets)])
        self.first_row = np.cumsum([0, *map(len, self.sets)])
        self._walks: dict[int, np.ndarray] = {}
        self._epoch = -1
        if common is None:
            parts = [self._part(number, [SampleKey(0, 0)]) for number in range(len(self.sets))]
            common = find_common([one.name for one in self.sets], parts)
        self.common = common

    def __len__(self) -> int:
        return int(self.first_place[-1])

    def __getstate__(self) -> dict[str, Any]:
        """State for another process; permutations are computed again there."""
        return vars(self) | {"_walks": {}, "_epoch": -1}

    def taken(self, epoch: int, place: np.ndarray) -> np.ndarray:
        """The samples at some positions of an epoch.

        Args:
            epoch: its number.
            place: int64 [n]

        Returns:
            int64 [n, 3]: number of the set, row in it, and a number that distinguishes repetitions of this row.
        """
        if epoch != self._epoch:
            self._walks, self._epoch = {}, epoch
        source = np.searchsorted(self.first_place, place, side="right") - 1
        found = np.empty((len(place), 3), np.int64)
        found[:, 0] = source
        for number in np.unique(source).tolist():
            one = self.sets[number]
            if number not in self._walks:
                key, first = (self.seed, WALK, number), epoch * one.share
                self._walks[number] = walk(key, len(one), first, one.share, one.weights)
            mine = source == number
            found[mine, 1:] = self._walks[number][place[mine] - self.first_place[number]]
        return found

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """A complete batch. Raises SettingError if the sets' samples are incompatible."""
        place = np.array([key.row for key in keys], np.int64)
        taken = self.taken(keys[0].epoch, place)
        sources = np.unique(taken[:, 0]).tolist()
        parts, members = [], []
        for number in sources:
            member = np.flatnonzero(taken[:, 0] == number)
            parts.append(self._part(number, [SampleKey(again, row) for row, again in taken[member, 1:].tolist()]))
            members.append(member)
        check_alike([self.sets[number].name for number in sources], parts)
        batch = join(parts, np.concatenate(members), self.common)
        batch.index = torch.from_numpy(place)
        batch.extra |= {"source": torch.from_numpy(taken[:, 0].copy()), "row": torch.from_numpy(taken[:, 1].copy())}
        return batch

    def _part(self, number: int, keys: list[SampleKey]) -> Batch:
        """A batch of one set, with labels and faults that count through all."""
        one = self.sets[number]
        batch = one.collate(read_samples(one.dataset, keys))
        batch.label = _joint_label(batch, one)
        batch.reading.faults = [(row + int(self.first_row[number]), reason) for row, reason in batch.reading.faults]
        return batch

    def sha256(self, lists: str) -> str:
        """Hash of everything that determines the order of rows, besides the seed.

        Args:
            lists: hash of the sets' own lists.
        """
        digest = hashlib.sha256(lists.encode())
        for one in self.sets:
            digest.update(f"{one.share} {len(one)}".encode())
            digest.update(b"" if one.weights is None else one.weights.tobytes())
        return digest.hexdigest()

    def own_part(self, batch: Batch, number: int) -> Batch:
        """The part of a batch about the samples of one set and their faults, with indices of that set; without streams."""
        mine = batch.extra["source"] == number
        first, last = self.first_row[number], self.first_row[number + 1]
        reading = Reading(
            faults=[(int(row - first), reason) for row, reason in batch.reading.faults if first <= row < last],
            unreplaced=[bad for bad, own in zip(batch.reading.unreplaced, mine.tolist(), strict=True) if own],
        )
        return Batch(batch.extra["row"][mine], batch.label[mine], {}, batch.substituted[mine], reading=reading)


class JoinedGuard(WorkerGuard):
    """The guards of several data sets that the same workers read.

    Args:
        guards: guards of the sets.
    """

    def __init__(self, guards: list[WorkerGuard]) -> None:
        super().__init__(0)
        self.guards = guards

    def blame(self, deaths: dict[int, int]) -> bool:
        """See `WorkerGuard.blame`."""
        found = [guard.blame(deaths) for guard in self.guards]
        return any(found)


def _joint_label(batch: Batch, one: MixedSet) -> Tensor:
    """The labels of a set's samples in the list of all classes, int64 [n]; -1 stays."""
    if one.first_label is None:
        return torch.full_like(batch.index, -1)
    if batch.label.ndim != 1:
        raise SettingError(
            f"{one.name} of data.sets has several labels per sample, which cannot be joined with those of others; set "
            "data.labels to none."
        )
    return torch.where(batch.label < 0, batch.label, batch.label + one.first_label)


def find_common(names: list[str], parts: list[Batch]) -> Common:
    """The fields that all sets have, from one batch of each. Raises SettingError if their samples are incompatible."""
    check_alike(names, parts)
    fields, first = {}, parts[0]
    for name, stream in first.streams.items():
        if isinstance(stream, Stream):
            known = [{one for one in OPTIONAL if getattr(part.stream(name), one) is not None} for part in parts]
            # If one set has a validity mask, the samples of others are valid everywhere.
            fields[name] = frozenset(set.intersection(*known) | (set.union(*known) & {"valid"}))
    extra = {
        name
        for name, value in first.extra.items()
        if all(name in part.extra and part.extra[name].shape[1:] == value.shape[1:] for part in parts)
    }
    return Common(fields, frozenset(extra))


def check_alike(names: list[str], parts: list[Batch]) -> None:
    """Raises SettingError if batches of several sets are incompatible."""
    for name, part in zip(names, parts, strict=True):
        if part.regions is not None:
            raise SettingError(f"{name} of data.sets has boxes of key frames, which are not mixed; leave it out.")
        if (ours := _shapes(part)) != (theirs := _shapes(parts[0])):
            raise SettingError(
                f"{name} of data.sets has samples of {ours}, but {names[0]} has {theirs}; use the same streams and "
                "clip settings for all sets."
            )


def join(parts: list[Batch], members: np.ndarray, common: Common) -> Batch:
    """Batches of several sets as one.

    Args:
        parts: one of each set.
        members: int64 [B], positions of their samples in the batch, for the concatenated parts.
        common: fields that all sets have.
    """
    order, first = torch.from_numpy(np.argsort(members)), parts[0]

    def ordered(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)[order]

    streams: dict[str, Stream | Text] = {}
    for name, stream in first.streams.items():
        if isinstance(stream, Text):
            sentences = [own for part in parts for own in part.text(name).sentences]
            streams[name] = Text([sentences[place] for place in order.tolist()])
        else:
            samples = _samples_of([part.stream(name) for part in parts], common.fields[name])
            streams[name] = join_streams([samples[place] for place in order.tolist()])
    unreplaced = [bad for part in parts for bad in part.reading.unreplaced or [False] * len(part.index)]
    timed = {name for part in parts for name in part.reading.stream_ms}
    reading = Reading(
        [ms for part in parts for ms in part.reading.decode_ms],
        [fault for part in parts for fault in part.reading.faults],
        [unreplaced[place] for place in order.tolist()],
        {name: [ms for part in parts for ms in part.reading.stream_ms.get(name, ())] for name in sorted(timed)},
    )
    label, substituted = (ordered([getattr(part, name) for part in parts]) for name in ("label", "substituted"))
    extra = {name: ordered([part.extra[name] for part in parts]) for name in sorted(common.extra)}
    return Batch(first.index, label, streams, substituted, extra=extra, reading=reading)


def _shapes(batch: Batch) -> str:
    """Text: streams by name with the shape of a sample, `?` for an axis that may differ between samples."""
    told = []
    for name, stream in batch.streams.items():
        if isinstance(stream, Text):
            told.append(name)
            continue
        shape = [str(length) for length in stream.data.shape[1:]]
        if (axis := _free_axis(stream)) is not None:
            shape[axis] = "?"
        kind = "" if name == stream.kind else f" ({stream.kind})"
        told.append(f"{name}{kind} {str(stream.data.dtype).removeprefix('torch.')} [{', '.join(shape)}]")
    return "; ".join(sorted(told))


def _free_axis(stream: Stream) -> int | None:
    """The axis whose length may differ between samples; None if clips have a fixed number of frames."""
    is_series = stream.kind in ("audio", "signal") or (stream.kind == "feature" and stream.data.ndim == 4)
    return SEQUENCE_AXIS[stream.kind] if is_series else None


def _steps(stream: Stream) -> int:
    """Length of the axis of time; 1 for pictures, and for features of whole clips."""
    is_single = stream.kind == "picture" or (stream.kind == "feature" and stream.data.ndim == 3)
    return 1 if is_single else stream.data.shape[SEQUENCE_AXIS[stream.kind] + 1]


def _samples_of(parts: list[Stream], fields: frozenset[str]) -> list[Stream]:
    """The samples of batches of one stream, all with the same fields: `fields`, and `length` if any part has it."""
    with_length = any(part.length is not None for part in parts)
    samples = []
    for part in parts:
        known = {name: getattr(part, name) for name in fields}
        if "valid" in fields and part.valid is None:
            known["valid"] = torch.ones(*part.data.shape[:2], _steps(part), dtype=torch.bool)
        if with_length:
            known["length"] = part.length if part.length is not None else torch.full((len(part.data),), _steps(part))
        for row, data in enumerate(part.data):
            samples.append(Stream(part.kind, data, **{name: value[row] for name, value in known.items()}))
    return samples

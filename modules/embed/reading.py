"""Reads items in worker processes, which end with the command and survive broken files.

Axis letters: `v` clips of an item.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from datamodules.loading.loader import EpochSampler, ResumableLoader, SampleKey, read_samples
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.prepare.parallel import start_worker
from modules.core.batch import Batch
from modules.embed.source import FromData, label_name

AHEAD, AHEAD_IN_ALL = 4, 16
"""Number of items that each worker prefetches, and the minimum for all workers together."""


class Read(NamedTuple):
    """An item, as read by a worker."""

    row: int
    """of the recordings"""
    clips: Tensor | None
    """[v, ...], clips: uint8 [v, T, H, W, 3] for videos; None if the file could not be read"""
    time: Tensor
    """float32 [v, 2], start and end of each clip in seconds; NaN if unknown"""
    reason: str
    """why it could not be read; empty if it could"""
    label: str = ""
    """label of the sample, if the list does not contain it"""
    caption: str = ""
    """caption of the sample, if the list does not contain it"""


class Reader(Protocol):
    """Reads items by index."""

    guard: WorkerGuard
    """tracks what workers read"""

    def __len__(self) -> int:
        """Number of items."""

    def read(self, place: int) -> Any:
        """Read one item."""


class Samples:
    """Reads the samples of a data set; each sample is an item.

    Args:
        data: the split of the data set.
    """

    def __init__(self, data: FromData) -> None:
        self.data, self.guard = data, data.guard

    def __len__(self) -> int:
        return len(self.data.dataset)

    def read(self, place: int) -> Read:
        """Read one sample; it does not depend on other samples."""
        batch = self.data.collate(read_samples(self.data.dataset, [SampleKey(0, place)]))
        stream = batch.stream(self.data.stream)
        is_empty = stream.valid is not None and not stream.valid.any()
        if int(batch.substituted[0]) >= 0 or any(batch.reading.unreplaced) or is_empty:
            return Read(place, None, torch.zeros(0, 2), dict(batch.reading.faults).get(place, "cannot be read"))
        time = torch.full((len(stream.data[0]), 2), math.nan) if stream.time is None else stream.time[0].float()
        return Read(place, stream.data[0], time, "", *self._about(batch))

    def _about(self, batch: Batch) -> tuple[str, str]:
        """Label and caption of a batch of one."""
        names, label = self.data.class_names, batch.label[0]
        caption = batch.text().first[0] if "text" in batch.streams else ""
        if caption and not names:  # labels are indices of sentences
            return "", caption
        numbers = [int(label)] if label.ndim == 0 else label.nonzero().flatten().tolist()
        return ";".join(filter(None, (label_name(number, names) for number in numbers))), caption


class _Chosen(Dataset[Any]):
    """Some items of a reader."""

    def __init__(self, reader: Reader, places: list[int]) -> None:
        self.reader, self.places = reader, places
        self.is_watched = False

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: SampleKey) -> Any:
        if get_worker_info() is not None and not self.is_watched:
            # torch's workers never end if the process that started them is killed before they begin.
            start_worker()
            self.is_watched = True
        return self.reader.read(self.places[key.row])


def _only(samples: list[Any]) -> Any:
    return samples[0]


def read_all(reader: Reader, places: list[int], num_workers: int) -> Iterator[Any]:
    """Items in order, prefetched by worker processes. On a machine with a GPU, their tensors are in pinned memory.

    Args:
        reader: reader of the items.
        places: indices of the items to read.
        num_workers: number of processes; 0 reads each item in this process when it is needed.

    Raises:
        SettingError: if workers die repeatedly.
    """
    sampler = EpochSampler(len(places), 0, False)
    ahead = max(AHEAD, AHEAD_IN_ALL // max(1, num_workers))
    return iter(ResumableLoader(_Chosen(reader, places), sampler, 1, num_workers, _only, None, reader.guard, ahead))

"""Data sets larger than one disk: videos read from shards written by `python main.py prepare shards`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from datamodules.base import VideoDataModule
from datamodules.lists.manifest import Manifest, check_root
from datamodules.lists.packed import PackedLists, PackedStrings
from datamodules.loading.loader import SampleKey
from datamodules.loading.shards import Shards, engine, is_store, place_of, read_lists
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.decode import VideoBytes
from datamodules.video.sampling import ViewSettings
from modules.core.batch import Kind


@dataclass(kw_only=True)
class ShardedManifest(Manifest):
    """Videos in shards.

    Args:
        shards: shards of the split.
        items: int64 [N], index of each video in the shards.
    """

    shards: Shards
    items: np.ndarray

    def subset(self, rows: np.ndarray) -> "ShardedManifest":
        """See `Manifest.subset`."""
        chosen: ShardedManifest = super().subset(rows)  # type: ignore[assignment]
        return replace(chosen, items=self.items[rows])


class StreamedClipDataset(VideoClipDataset):
    """The same samples as from `VideoClipDataset`, read from shards instead of files."""

    manifest: ShardedManifest
    _here: tuple[int, bytes] | None = None
    """Row and content of the prefetched file."""

    def __getitems__(self, keys: list[SampleKey]) -> list[dict[str, Any]]:
        """Samples of a batch. A file is fetched while another is decoded; waiting for a file does not count as hanging."""
        return list(self._samples(keys))

    def _samples(self, keys: list[SampleKey]) -> Iterator[dict[str, Any]]:
        contents = self.manifest.shards.read_ahead([int(self.manifest.items[key.row]) for key in keys])
        for key, content in zip(keys, contents, strict=True):
            self._here = (key.row, content)
            yield self[key]
        self._here = None

    def _file(self, row: int) -> VideoBytes:
        content = self._here[1] if self._here is not None and self._here[0] == row else None
        if content is None:
            content = self.manifest.shards.read(int(self.manifest.items[row]))
        return VideoBytes(self.manifest.paths[row], content)


class StreamedVideos(VideoDataModule):
    """Videos of any data set from shards written by `python main.py prepare shards`, in a folder or an object store.

    `root` is the folder, or the URL of a copy of it (s3://, gs:// or r2://, with the credentials of the
    store's own tools). Order, clips, labels, probes, substitutes of broken videos and resuming are identical to those
    of the original data set. The bytes of a video need two requests to the store; nothing is cached on disk. Needs
    `pip install -e ".[streaming]"`.
    """

    lists_taken = ()
    offers: ClassVar[dict[str, Kind]] = {"video": "video"}

    @property
    def place(self) -> str:
        """Where the shards are."""
        return place_of(self.root)

    @cached_property
    def prepared(self) -> dict[str, Any]:
        """Properties of the data set, as written by `prepare shards`."""
        return read_lists(self.place)

    @property
    def flips_change_labels(self) -> bool:  # type: ignore[override]
        """Whether classes or captions of the original data set depend on left and right."""
        return bool(self.prepared["flips_change_labels"])

    def check_root(self) -> None:
        """See `VideoDataModule.check_root`: also detects missing shards in a folder."""
        engine()
        if not is_store(self.place):
            check_root(self.root)
        for split in self.prepared["splits"]:
            Shards(f"{self.place}/{split}").check()

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        listed = self.prepared["splits"].get(split)
        if listed is None:
            return None
        intervals = listed["intervals"]
        return ShardedManifest(
            root=self.root,
            paths=PackedStrings(listed["paths"]),
            labels=np.array(listed["labels"], np.int64),
            class_names=listed["class_names"],
            intervals=None if intervals is None else [[(*one[:2], int(one[2])) for one in video] for video in intervals],
            texts=None if listed["texts"] is None else PackedLists(listed["texts"]),
            shards=Shards(f"{self.place}/{split}"),
            items=np.arange(len(listed["paths"])),
        )

    def _dataset(self, manifest: Manifest, train: bool, views: ViewSettings | None, guard: WorkerGuard) -> StreamedClipDataset:
        decoder, timeout = self.reading.decoder, self.reading.decode_timeout
        return StreamedClipDataset(manifest, self.clip, self.seed, train, decoder, timeout, guard, views)

"""From a row of a list to a sample of several streams: all are cut out by one plan, each file is read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.lists.manifest import Manifest
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.streams.reader import StreamReader
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.decode import DecodeError, Decoder, read_clips
from datamodules.video.sampling import ClipSettings, Plan, Steps, ViewSettings, make_plan
from datamodules.video.transforms import cut_views
from modules.core.batch import Kind, Stream

PLANNED_BY: tuple[Kind, ...] = ("video", "depth", "flow", "mask", "skeleton", "signal", "track", "audio", "feature", "picture")
"""Of the streams of a sample, the first of these decides which moments and boxes all of them show."""


@dataclass(frozen=True)
class Wanted:
    """The streams of a data set that are read.

    Args:
        kinds: of each stream, by name.
        readers: of each but the video, by name.
        main: stream whose files are the `paths` of manifests; a stream of which they name no files is looked for in those.
        on_missing: see `StreamSettings`.
    """

    kinds: Mapping[str, Kind]
    readers: Mapping[str, StreamReader]
    main: str = "video"
    on_missing: Literal["replace", "mark"] = "replace"

    @property
    def leader(self) -> str:
        """Stream that plans are made for."""
        return min(self.kinds, key=lambda name: (name in self.readers, PLANNED_BY.index(self.kinds[name])))


class StreamDataset(VideoClipDataset):
    """Several streams of the recordings of a manifest, or one that is no video.

    Args:
        manifest: files and labels.
        clip: frames and crop.
        seed: of the run.
        train: random frames and crops; False takes the centre.
        wanted: streams.
        decoder: library that decodes videos.
        decode_timeout: seconds after which a file counts as broken.
        guard: see `VideoClipDataset`.
        views: test views.
    """

    def __init__(
        self,
        manifest: Manifest,
        clip: ClipSettings,
        seed: int,
        train: bool,
        wanted: Wanted,
        decoder: Decoder = "pyav",
        decode_timeout: float | None = None,
        guard: WorkerGuard | None = None,
        views: ViewSettings | None = None,
    ) -> None:
        super().__init__(manifest, clip, seed, train, decoder, decode_timeout, guard, views)
        self.wanted = wanted

    def _read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """What the files of a row give: see `VideoClipDataset`, and `streams`. Raises DecodeError."""
        leader, video = self.wanted.leader, None
        source = self._source(leader, row)
        if source is None:
            raise DecodeError("no such stream", stream=leader)
        # Further videos, of another camera, have a reader.
        if leader not in self.wanted.readers:
            choose, file = self._choose(row), self._as_video(source)
            decoded = read_clips(file, choose, rng, decode_timeout=self.decode_timeout, decoder=self.decoder)
            plan = make_plan(decoded, self.clip, rng, self.views, self._end(row))
            video = cut_views(decoded, plan.boxes, self.clip.size)
        else:
            info = self.wanted.readers[leader].info(source)
            numbers = self._choose(row)(info, rng)
            steps = Steps(info, numbers, (numbers / info.fps).astype(np.float32))
            plan = make_plan(steps, self.clip, rng, self.views, self._end(row))
        marked: list[tuple[int, str]] = []
        streams = {name: self._stream(name, row, plan, marked) for name in self.wanted.readers}
        return self._content(row, video, plan) | {"streams": streams, "marked": marked}

    def _nothing(self, row: int) -> dict[str, Any]:
        """See `VideoClipDataset._nothing`."""
        plan = Plan.empty((self.views or self.clip).views, self.clip.frames)
        streams = {name: reader.nothing(plan, self.clip.size) for name, reader in self.wanted.readers.items()}
        content = super()._nothing(row)
        if "video" not in self.wanted.kinds:
            for name in ("video", "time", "box"):
                del content[name]
        return content | {"streams": streams}

    def _source(self, name: str, row: int) -> Path | None:
        """File of a row's stream; None where it has none."""
        if name == self.wanted.main or name not in self.manifest.further:
            return self.manifest.file(row)
        return self.manifest.further_file(name, row)

    def _stream(self, name: str, row: int, plan: Plan, marked: list[tuple[int, str]]) -> Stream:
        """One further stream of a row; what is missing is noted in `marked`, or raises DecodeError."""
        reader = self.wanted.readers[name]
        try:
            source = self._source(name, row)
            if source is None:
                raise DecodeError("no such stream")
            return reader.read(source, plan, self.clip.size)
        except DecodeError as error:
            named = DecodeError(error.reason, error.detail, name)
            if self.wanted.on_missing == "replace":
                raise named from error
            marked.append((row, named.counted))
            return reader.nothing(plan, self.clip.size)

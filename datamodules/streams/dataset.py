"""From a row of a list to a sample of several streams: all are cut out by one plan, each file is read once."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.audio.decode import OpenSound
from datamodules.audio.reader import AudioReader
from datamodules.lists.manifest import Manifest
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.streams.reader import PartlyReadError, StreamReader
from datamodules.streams.settings import NO_PICTURES
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.decode import ChooseFrames, DecodeError, Decoder, VideoInfo, reading_clips
from datamodules.video.samplers import Dense
from datamodules.video.sampling import Chosen, ClipSettings, Plan, Steps, ViewSettings, make_plan, part_of
from datamodules.video.transforms import cut_views
from modules.core.batch import Kind, Stream
from modules.core.errors import SettingError

TRIED = 20
"""Files of a stream of which one must be readable."""
PLANNED_BY: tuple[Kind, ...] = ("video", "depth", "flow", "mask", "skeleton", "signal", "track", "audio", "feature", "picture")
"""Of the streams of a sample, the first of these decides which moments and boxes all of them show."""


@dataclass(frozen=True)
class Wanted:
    """The streams of a data set that are read.

    Args:
        kinds: of each stream, by name.
        readers: of each but the video, by name.
        main: stream whose files are the `paths` of manifests; streams without their own files are read from these.
        on_missing: see `StreamSettings`.
    """

    kinds: Mapping[str, Kind]
    readers: Mapping[str, StreamReader]
    main: str = "video"
    on_missing: Literal["replace", "mark"] = "replace"

    def __post_init__(self) -> None:
        if self.kinds[self.leader] == "track":
            raise SettingError(NO_PICTURES)

    @property
    def leader(self) -> str:
        """Stream that plans are made for."""
        return min(self.kinds, key=lambda name: (name in self.readers, PLANNED_BY.index(self.kinds[name])))

    @property
    def described(self) -> str:
        """In words, which streams a sample has and how they are read."""
        readers = {name: f"{type(reader).__name__} {vars(reader)}" for name, reader in sorted(self.readers.items())}
        return f"{sorted(self.kinds.items())} {readers} {self.main} {self.on_missing}"


class StreamDataset(VideoClipDataset):
    """Several streams of the recordings of a manifest, or one other than video.

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

    Raises:
        SettingError: if sound comes first, and no setting says how much of it.
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
        leader = wanted.leader
        if wanted.kinds[leader] == "audio" and wanted.readers[leader].window is None:
            raise SettingError(
                f"The samples only have audio ({leader}), and the length of a clip is not defined; set "
                "data.streams.sound.seconds, or data.streams.sound.whole to true."
            )

    def _read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """What the files of a row give: see `VideoClipDataset`, and `streams`, `marked` and `stream_ms`. Raises DecodeError."""
        leader = self.wanted.leader
        source = self._source(leader, row)
        if source is None:
            raise DecodeError("no such stream", stream=leader)
        # Further videos, of another camera, have a reader.
        if leader not in self.wanted.readers:
            return self._read_with_video(row, source, rng)
        reader = self.wanted.readers[leader]
        try:
            info = reader.info(source)
        except DecodeError as error:
            # The report names the file of the main stream.
            raise DecodeError(error.reason, error.detail, "" if leader == self.wanted.main else leader) from error
        numbers = self._choose_steps(row, reader.window)(info, rng)
        plan = self._plan(row, source, Steps(info, numbers, (numbers / info.fps).astype(np.float32)), rng)
        return self._content(row, None, plan) | self._streams(row, plan)

    def _read_with_video(self, row: int, source: Path, rng: np.random.Generator | None) -> dict[str, Any]:
        """As `_read`; sound of the same file is read with the video."""
        readers = [(name, reader) for name, reader in self.wanted.readers.items() if self._source(name, row) == source]
        beside, reader = next(((name, one) for name, one in readers if isinstance(one, AudioReader)), ("", None))
        wish = None if reader is None else reader.wish
        choose, file = self._choose(row), self._as_video(source)
        with reading_clips(file, choose, rng, 1, self.decode_timeout, self.decoder, wish) as decoded:
            plan = self._plan(row, source, decoded, rng)
            streams = self._streams(row, plan, {beside: decoded.sound} if decoded.sound is not None else {})
        return self._content(row, cut_views(decoded, plan.boxes, self.clip.size), plan) | streams

    def _plan(self, row: int, source: Path, chosen: Chosen, rng: np.random.Generator | None) -> Plan:
        """What all streams of a row show, by what was chosen of its first one."""
        span = self._span(row)
        plan = make_plan(chosen, self.clip, rng, self.views, self._end(row))
        return replace(plan, file=source, span=None if span is None else (float(span[0]), float(span[1])))

    def _choose_steps(self, row: int, window: float | None) -> ChooseFrames:
        """Which steps of the first stream of a row are wanted: those of a clip, or the first and last of windows.

        Args:
            row: of the manifest.
            window: see `StreamReader.window`.
        """
        if window is None:
            return self._choose(row)

        def choose(info: VideoInfo, generator: np.random.Generator | None) -> np.ndarray:
            first, part = part_of(info, self._span(row))
            length = min(part.num_frames, round(min(window * info.fps, 2.0**40)))
            starts = replace(part, num_frames=part.num_frames - length + 1)
            if self.views is not None:
                drawn = Dense(1).views(starts, self.views.segments, 1)
            else:
                drawn = Dense(1).draw(starts, self.clip.clips, 1, generator)
            return first + drawn + np.array([0, length])

        return choose

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
        return source_of(self.manifest, name, self.wanted.main, row)

    def _streams(self, row: int, plan: Plan, open_files: Mapping[str, OpenSound] | None = None) -> dict[str, Any]:
        """All further streams of a row by name, and what is wrong with those of them that are kept all the same.

        Args:
            row: of the manifest.
            plan: of the sample.
            open_files: sound that is read from a file that is open already, by the stream's name.

        Raises:
            DecodeError: if a stream is missing or broken, and samples are to be replaced then.
        """
        marked: list[tuple[int, str]] = []
        streams: dict[str, Stream] = {}
        spent: dict[str, float] = {}
        for name, reader in self.wanted.readers.items():
            start = time.perf_counter()
            try:
                streams[name] = self._stream(name, reader, row, plan, (open_files or {}).get(name))
            except DecodeError as error:
                named = DecodeError(error.reason, error.detail, name)
                if self.wanted.on_missing == "replace" and not isinstance(error, PartlyReadError):
                    raise named from error
                marked.append((row, named.counted))
                streams[name] = error.kept if isinstance(error, PartlyReadError) else reader.nothing(plan, self.clip.size)
            spent[name] = 1e3 * (time.perf_counter() - start)
        return {"streams": streams, "marked": marked, "stream_ms": spent}

    def _stream(self, name: str, reader: StreamReader, row: int, plan: Plan, sound: OpenSound | None) -> Stream:
        """One further stream of a row. Raises DecodeError."""
        if sound is not None and isinstance(reader, AudioReader):
            return reader.read_open(sound, plan)
        source = self._source(name, row)
        if source is None:
            raise DecodeError("no such stream")
        return reader.read(source, plan, self.clip.size)


def source_of(manifest: Manifest, name: str, main: str, row: int) -> Path | None:
    """File of a row's stream; None where it has none."""
    if name == main or name not in manifest.further:
        return manifest.file(row)
    return manifest.further_file(name, row)


def learn_stream(reader: StreamReader, manifest: Manifest, name: str, main: str) -> None:
    """Show a reader the first file of a stream that it can read.

    Args:
        reader: of the stream.
        manifest: of the training samples.
        name: of the stream.
        main: stream whose files are the `paths` of the manifest.

    Raises:
        SettingError: if it can read none of the first ones.
    """
    failed: list[str] = []
    for row in range(len(manifest)):
        source = source_of(manifest, name, main, row)
        if source is None:
            continue
        try:
            return reader.learn(source)
        except DecodeError as error:
            failed.append(f"{source}: {error}")
            if len(failed) == TRIED:
                break
    if failed:
        raise SettingError(
            f"None of the first {len(failed)} files of the stream {name} can be read ({failed[0]}); correct them, or "
            f"data.streams, or leave {name} out of data.streams.names."
        )

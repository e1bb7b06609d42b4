"""From a row of a list to a sample of several streams: one plan selects the part of all streams, and each file is read once."""

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
"""Number of files of a stream that are tried until one is readable."""
PLANNED_BY: tuple[Kind, ...] = ("video", "depth", "flow", "mask", "skeleton", "signal", "track", "audio", "feature", "picture")
"""The first of these streams in a sample determines the timestamps and boxes of all its streams."""


@dataclass(frozen=True)
class Wanted:
    """The streams that are read from a data set.

    Args:
        kinds: kind of each stream, by name.
        readers: reader of each stream except the video, by name.
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
        """Text about the streams of a sample and how they are read."""
        readers = {name: f"{type(reader).__name__} {vars(reader)}" for name, reader in sorted(self.readers.items())}
        return f"{sorted(self.kinds.items())} {readers} {self.main} {self.on_missing}"


class StreamDataset(VideoClipDataset):
    """Several streams of the recordings of a manifest, or one other than video.

    Args:
        manifest: files and labels.
        clip: frames and crop.
        seed: random seed of the run.
        train: random frames and crops; False uses the centre.
        wanted: the streams to read.
        decoder: library that decodes videos.
        decode_timeout: seconds after which a file counts as broken.
        guard: see `VideoClipDataset`.
        views: test views.

    Raises:
        SettingError: if audio comes first, and no setting defines its length.
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
        """Read the files of a row: see `VideoClipDataset`; also `streams`, `marked` and `stream_ms`. Raises DecodeError."""
        leader = self.wanted.leader
        source = self._source(leader, row)
        if source is None:
            raise DecodeError("no such stream", stream=leader)
        # Further videos of other cameras have a reader.
        if leader not in self.wanted.readers:
            return self._read_with_video(row, source, rng)
        reader = self.wanted.readers[leader]
        try:
            info = reader.info(source)
        except DecodeError as error:
            # The report contains the file of the main stream.
            raise DecodeError(error.reason, error.detail, "" if leader == self.wanted.main else leader) from error
        numbers = self._choose_steps(row, reader.window)(info, rng)
        plan = self._plan(row, source, Steps(info, numbers, (numbers / info.fps).astype(np.float32)), rng)
        return self._content(row, None, plan) | self._streams(row, plan)

    def _read_with_video(self, row: int, source: Path, rng: np.random.Generator | None) -> dict[str, Any]:
        """Like `_read`; audio of the same file is read together with the video."""
        readers = [(name, reader) for name, reader in self.wanted.readers.items() if self._source(name, row) == source]
        beside, reader = next(((name, one) for name, one in readers if isinstance(one, AudioReader)), ("", None))
        wish = None if reader is None else reader.wish
        choose, file = self._choose(row), self._as_video(source)
        with reading_clips(file, choose, rng, 1, self.decode_timeout, self.decoder, wish) as decoded:
            plan = self._plan(row, source, decoded, rng)
            streams = self._streams(row, plan, {beside: decoded.sound} if decoded.sound is not None else {})
        return self._content(row, cut_views(decoded, plan.boxes, self.clip.size), plan) | streams

    def _plan(self, row: int, source: Path, chosen: Chosen, rng: np.random.Generator | None) -> Plan:
        """The plan for all streams of a row, from the chosen steps of its first one."""
        span = self._span(row)
        plan = make_plan(chosen, self.clip, rng, self.views, self._end(row))
        return replace(plan, file=source, span=None if span is None else (float(span[0]), float(span[1])))

    def _choose_steps(self, row: int, window: float | None) -> ChooseFrames:
        """The function that chooses the steps of the first stream of a row: those of clips, or the first and last of windows.

        Args:
            row: row of the manifest.
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
        """File of a row's stream; None if it has none."""
        return source_of(self.manifest, name, self.wanted.main, row)

    def _streams(self, row: int, plan: Plan, open_files: Mapping[str, OpenSound] | None = None) -> dict[str, Any]:
        """All further streams of a row by name, and the errors of broken streams that are kept.

        Args:
            row: row of the manifest.
            plan: plan of the sample.
            open_files: audio that is read from an open file, by name of the stream.

        Raises:
            DecodeError: if a stream is missing or broken, and such samples must be replaced.
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
    """File of a row's stream; None if it has none."""
    if name == main or name not in manifest.further:
        return manifest.file(row)
    return manifest.further_file(name, row)


def learn_stream(reader: StreamReader, manifest: Manifest, name: str, main: str) -> None:
    """Let a reader learn from the first readable file of a stream.

    Args:
        reader: reader of the stream.
        manifest: manifest of the training samples.
        name: name of the stream.
        main: stream whose files are the `paths` of the manifest.

    Raises:
        SettingError: if none of the first files can be read.
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

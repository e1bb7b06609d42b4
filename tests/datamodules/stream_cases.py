"""One small data set for each kind of stream, for the tests that all streams share (`test_every_stream.py`).

A new reader needs a function that writes its files next to those of `write_films`, and a line in `CASES`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from datamodules import ListedStreams, LongRecordings, MixedData, SyntheticMotion, SyntheticSkeleton, VideoFolder, VideoText
from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedStrings
from datamodules.settings import LoadSettings, ReadSettings
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.streams.reader import StreamReader, seconds_of
from datamodules.streams.settings import SignalSettings, SoundSettings, StreamSettings
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, Plan
from modules.core.batch import Kind, Stream
from modules.scenes.captioned import CaptionSettings
from modules.scenes.senses import GeneratedSensor, GeneratedSound
from modules.scenes.streams import WorldStreams
from modules.scenes.world import WorldSettings
from tests.datamodules.sets.trees import put
from tests.datamodules.streams.files import write_csv, write_table, write_tone
from tests.datamodules.video_files import write_still

TRAIN, VAL, BATCH = 7, 3, 2
FPS, SECONDS = 1, 24
BESIDE = ("audio", "depth", "flow", "mask", "skeleton", "signal", "feature", "track", "picture")
CLIP = ClipSettings(frames=4, size=16, clips=2, sampler=Dense(1))
RATE = 10.0


@dataclass(frozen=True)
class Settings:
    """What the tests choose."""

    root: Path
    seed: int = 1
    workers: int = 0
    on_missing: Any = "replace"
    names: list[str] | None = None


@dataclass(frozen=True)
class Case:
    """A data set.

    Args:
        build: makes its data module, which is not set up yet.
        streams: kinds of its streams by name.
        write: writes its files, if it has any.
        lost: for the first training sample: the file that may be missing, and its text in the report.
        may_be_marked: whether that file is of a further stream.
        unequal: stream whose samples differ in length.
    """

    build: Callable[[Settings], Any]
    streams: dict[str, Kind]
    write: Callable[[Path], None] = lambda root: None
    lost: tuple[str, str] | None = None
    may_be_marked: bool = False
    unequal: str | None = None


# --- Files ---


def write_films(root: Path) -> None:
    """Films of two classes, of one picture per second, whose shade encodes the second."""
    film = root / "film.mp4"
    write_still(film, SECONDS * FPS)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for number in range(count):
            put(film, root / split / f"class {number % 2}" / f"{number}.mp4")
    film.unlink()


def write_sentences(root: Path) -> None:
    """The films, and a sentence for each."""
    write_films(root)
    for split in ("train", "val"):
        films = sorted((root / split).rglob("*.mp4"))
        entries = [{"video": str(film.relative_to(root)), "caption": f"film {film.stem}"} for film in films]
        (root / f"{split}.json").write_text(json.dumps(entries))


def write_tables(root: Path) -> None:
    """The films, each with a table of two columns: the time, and the index of the film."""
    write_films(root)
    for number, film in enumerate(sorted(root.rglob("*.mp4"))):
        times = np.arange(SECONDS * RATE) / RATE
        np.save(film.with_suffix(".npy"), np.stack([times, np.full_like(times, number)]).astype(np.float32))


def write_beside(root: Path) -> None:
    """The films, each with a file of every kind of stream; feature sequences have different lengths."""
    write_films(root)
    frames, side = SECONDS * FPS, 16
    shade = np.arange(frames, dtype=np.uint16)[:, None, None]
    for split in ("train", "val"):
        rows = []
        for number, film in enumerate(sorted((root / split).rglob("*.mp4"))):
            base = film.with_suffix("")
            write_tone(Path(f"{base}.wav"), SECONDS, 8000)
            np.save(f"{base}.depth.npy", np.broadcast_to(1000 + 10 * shade + number, (frames, side, side)))
            np.save(f"{base}.flow.npy", np.full((frames - 1, side, side, 2), number, np.float32))
            np.save(f"{base}.mask.npy", np.broadcast_to(shade % 2, (frames, side, side)).astype(np.uint8))
            np.save(f"{base}.skeleton.npy", np.broadcast_to(shade, (frames, 20, 3)).astype(np.float32) + number)
            np.save(f"{base}.feature.npy", np.full((5 + number % 3, 4), number, np.float32))
            write_table(Path(f"{base}.signal.csv"), SECONDS, RATE)
            boxes = [f"{film.name},{frame},{number % 3},2,{12 + number % 3},14" for frame in range(frames)]
            write_csv(Path(f"{base}.track.csv"), "video,frame,x1,y1,x2,y2", *boxes)
            name = base.relative_to(root).as_posix()
            ends = (".wav", ".depth.npy", ".flow.npy", ".mask.npy", ".skeleton.npy", ".signal.csv", ".feature.npy")
            rows.append(f"{name}.mp4,{number % 2},{','.join(name + end for end in ends)},{name}.track.csv,{name}.track.csv")
        write_csv(root / f"{split}.csv", f"path,label,{','.join(BESIDE)}", *rows)


# --- A minimal reader ---


class Tables(StreamReader):
    """Tables of numbers, ten columns of numbers per second, float32 [C, L] in .npy: those within a clip."""

    kind: ClassVar[Kind] = "signal"

    def _load(self, source: Path) -> np.ndarray:
        if not source.is_file():
            raise DecodeError("file not found")
        try:
            return np.load(source, allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            raise DecodeError("cannot open", str(error)) from error

    def info(self, source: Path) -> VideoInfo:
        return VideoInfo(self._load(source).shape[1], RATE, 0, 0)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        table = torch.from_numpy(self._load(source))
        first = np.round(plan.moments.min(1) * RATE).astype(int)
        # Lengths differ from film to film.
        steps = 20 + int(table[1, 0]) % 3
        data = torch.zeros(plan.views, len(table), steps)
        valid = torch.zeros(plan.views, steps, dtype=torch.bool)
        for view, start in enumerate(first):
            own = table[:, start : start + steps]
            data[view, :, : own.shape[1]], valid[view, : own.shape[1]] = own, True
        return Stream(self.kind, data, valid, seconds_of(plan))

    def nothing(self, plan: Plan, size: int) -> Stream:
        return Stream(
            self.kind, torch.zeros(plan.views, 2, 20), torch.zeros(plan.views, 20, dtype=torch.bool), seconds_of(plan)
        )


class Tabled(VideoFolder):
    """Films with tables next to them."""

    offers: ClassVar[dict[str, Kind]] = {"video": "video", "signal": "signal"}
    gives = ("video", "signal")

    def read_official(self, split: str) -> Manifest | None:
        found = super().read_official(split)
        if found is not None:
            found.further["signal"] = PackedStrings(f"{path[:-4]}.npy" for path in found.paths)
        return found

    def reader_of(self, name: str) -> StreamReader:
        return Tables()


# --- Data modules ---

POOLS: dict[tuple[int, bool | str], Any] = {}
"""Generated clips by seed, and whether they have sentences, or are of the world."""


def videos(kind: type[VideoFolder], settings: Settings, **more: Any) -> Any:
    """A data module of files with these settings."""
    streams = StreamSettings(settings.names, settings.on_missing)
    given: dict[str, Any] = {
        "clip": CLIP,
        "batch_size": BATCH,
        "reading": ReadSettings(settings.workers),
        "seed": settings.seed,
    }
    return kind(str(settings.root), streams=streams, **given | more)


def motion(settings: Settings, captions: bool = False) -> Any:
    """Generated clips, with or without sentences; those of one seed are made once."""
    reading = LoadSettings(settings.workers)
    clip = ClipSettings(frames=4, size=16, clips=1 if captions else 2)
    told = CaptionSettings(verbs="plain", wordings=2, test_pairs=1) if captions else None
    data = SyntheticMotion(clip, BATCH, reading, TRAIN, VAL, captions=told, probe_samples=VAL, seed=settings.seed)
    if (settings.seed, captions) not in POOLS:
        data.setup()
        POOLS[settings.seed, captions] = data._pools
    data._pools = POOLS[settings.seed, captions]
    return data


def beside(settings: Settings) -> Any:
    """Films with all further files, in one list."""
    streams = StreamSettings(settings.names, settings.on_missing, SoundSettings(1000), SignalSettings(RATE))
    reading = ReadSettings(settings.workers)
    return ListedStreams(str(settings.root), clip=CLIP, batch_size=BATCH, reading=reading, seed=settings.seed, streams=streams)


def world(settings: Settings) -> Any:
    """Generated clips with all their streams; those of one seed are made once."""
    streams = WorldStreams(*[True] * 6, skeleton=True, text=True, sound=GeneratedSound(stereo=True), sensor=GeneratedSensor())
    happens = WorldSettings(objects=2, smooth=True, contacts=True, identities=3)
    clip = ClipSettings(frames=4, size=16, clips=2)
    given: dict[str, Any] = {"world": happens, "streams": streams, "probe_samples": VAL, "seed": settings.seed}
    data = SyntheticMotion(clip, BATCH, LoadSettings(settings.workers), TRAIN, VAL, **given)
    if (settings.seed, "world") not in POOLS:
        data.setup()
        POOLS[settings.seed, "world"] = data._pools
    data._pools = POOLS[settings.seed, "world"]
    return data


def mix(settings: Settings) -> Any:
    """Films of two folders and generated clips, by weights."""
    sets = [videos(VideoFolder, settings), motion(settings)]
    return MixedData(sets, [4, 3], TRAIN, reading=LoadSettings(settings.workers), seed=settings.seed)


VIDEO: dict[str, Kind] = {"video": "video"}
WORLD: dict[str, Kind] = {
    **{"video": "video", "flow": "flow", "occlusion": "mask", "depth": "depth", "mask": "mask", "whole_mask": "mask"},
    **{"track": "track", "skeleton": "skeleton", "audio": "audio", "signal": "signal", "text": "text"},
}
TABLED: dict[str, Kind] = {"video": "video", "signal": "signal"}
FILM = ("train/class 0/0.mp4", "class 0/0.mp4\ttrain\tempty file")
TABLE = ("train/class 0/0.npy", "class 0/0.mp4\ttrain\tsignal: file not found")

CASES: dict[str, Case] = {
    "video": Case(lambda s: videos(VideoFolder, s), VIDEO, write_films, FILM),
    "recordings": Case(
        lambda s: videos(LongRecordings, s, stretch=20.0, durations=str(s.root / "durations")), VIDEO, write_films, FILM
    ),
    "text": Case(
        lambda s: VideoText(str(s.root), clip=CLIP, batch_size=BATCH, reading=ReadSettings(s.workers), seed=s.seed),
        {"video": "video", "text": "text"},
        write_sentences,
        ("train/class 0/0.mp4", "train/class 0/0.mp4\ttrain\tempty file"),
    ),
    "signal beside video": Case(lambda s: videos(Tabled, s), TABLED, write_tables, TABLE, may_be_marked=True, unequal="signal"),
    "signal alone": Case(
        lambda s: videos(Tabled, Settings(s.root, s.seed, s.workers, s.on_missing, ["signal"])),
        {"signal": "signal"},
        write_tables,
        TABLE,
        unequal="signal",
    ),
    "all beside video": Case(
        beside,
        {"video": "video", **{name: name for name in BESIDE}},  # type: ignore[arg-type, dict-item]
        write_beside,
        ("train/class 0/0.depth.npy", "train/class 0/0.mp4\ttrain\tdepth: file not found"),
        may_be_marked=True,
        unequal="feature",
    ),
    "mixed": Case(mix, VIDEO, write_films, FILM),
    "generated world": Case(world, WORLD),
    "generated video": Case(motion, VIDEO),
    "generated text": Case(lambda s: motion(s, captions=True), {"video": "video", "text": "text"}),
    "generated skeleton": Case(
        lambda s: SyntheticSkeleton(
            SkeletonClipSettings(8, 2), BATCH, LoadSettings(s.workers), train_clips=TRAIN, val_clips=VAL, seed=s.seed
        ),
        {"skeleton": "skeleton"},
    ),
}
"""By name; a reader's data set is a line here."""

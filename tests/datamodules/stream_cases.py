"""One small data set for each kind of stream, for the tests that all streams share (`test_every_stream.py`).

A new reader needs a function that writes its files beside those of `write_films`, and a line in `CASES`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from datamodules import LongRecordings, MixedData, SyntheticMotion, SyntheticSkeleton, VideoFolder, VideoText
from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedStrings
from datamodules.settings import LoadSettings, ReadSettings
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.streams.reader import StreamReader, seconds_of
from datamodules.streams.settings import StreamSettings
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, Plan
from modules.core.batch import Kind, Stream
from modules.scenes.captioned import CaptionSettings
from tests.datamodules.sets.trees import put
from tests.datamodules.video_files import write_still

TRAIN, VAL, BATCH = 7, 3, 2
FPS, SECONDS = 1, 24
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
        lost: of the first training sample: the file that may be missing, and what the report says of it.
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
    """Films of two classes, of one picture per second, whose shade tells the second."""
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
    """The films, and a table of two columns beside each, of which the first tells the time and the second the film."""
    write_films(root)
    for number, film in enumerate(sorted(root.rglob("*.mp4"))):
        times = np.arange(SECONDS * RATE) / RATE
        np.save(film.with_suffix(".npy"), np.stack([times, np.full_like(times, number)]).astype(np.float32))


# --- A reader as small as can be ---


class Tables(StreamReader):
    """Tables of numbers, ten columns of numbers per second, float32 [C, L] in .npy: as many as lie within a clip."""

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
    """Films with the tables beside them."""

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

POOLS: dict[tuple[int, bool], Any] = {}
"""Generated clips by seed, and whether they have sentences."""


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


def mix(settings: Settings) -> Any:
    """Films of two folders and generated clips, by weights."""
    sets = [videos(VideoFolder, settings), motion(settings)]
    return MixedData(sets, [4, 3], TRAIN, reading=LoadSettings(settings.workers), seed=settings.seed)


VIDEO: dict[str, Kind] = {"video": "video"}
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
    "mixed": Case(mix, VIDEO, write_films, FILM),
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

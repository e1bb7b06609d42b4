"""Order, speed and angle of clips, and contrast of clips: VCOP, Shuffle & Learn, OPN, Odd-One-Out, PRP, RotNet, RSPNet and
CVRL on generated motion and on the depth of UTD-MHAD.

Three questions: does each pretext beat chance on unseen videos; what does its encoder know of motion, compared with the same
network untrained, supervised, and trained by MoCo; and what did the order pretexts use, if the frames within each clip are
shuffled or replaced by one of them, or if all clips of a tuple have the same crop.

The readout, written before any run: the last map on every second frame of a video, averaged per time slice and concatenated,
then a linear probe on standardised features and kNN. All rows are one small R3D, with the same steps, batch and optimiser.

Generated videos have 32 frames and show one of 13 motions over black; test videos have other colours, patterns and proportions.
VCOP, Shuffle & Learn and OPN train on the same bodies, which get faster all the time.
Of UTD-MHAD, 32 frames are spread over each recording (41 to 125 frames), so a tuple covers as much of it as of a generated
video; subjects 1, 3, 5, 7 train and 2, 4, 6, 8 test. Settings were chosen with `calibrate`: another seed, and training videos
(subjects 1, 3, 5 against 7) in place of test videos.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.studies import order_tasks
from benchmarks.studies.compare_utd import clips_of, grey
from benchmarks.studies.harness import Row, random_rows, table, train
from benchmarks.studies.jobs import CALIBRATION_SEED, finish, run_all, save
from benchmarks.studies.order_tasks import EACH_WAY, EVERY, PRETEXTS, SIDE, Size, ask, batch_of, encoder
from datamodules.sets.utd_mhad import ACTIONS
from modules.backbones.cnn.base import VideoCNN
from modules.core.errors import SettingError, check_positive, check_range
from modules.core.files import read_json, sha256
from modules.downstream.metrics.probes import frame_difference, knn_accuracy, linear_accuracy
from modules.scenes.classes import MOTION_CLASSES, Split
from modules.scenes.objects import make_clips

BASELINES = {"difference": "raw frame differences", "untrained": "untrained network", "supervised": "supervised network"}
TITLES = BASELINES | {key: pretext.title for key, pretext in PRETEXTS.items()}
RAW_SIDE = 16
"""Side of raw frame differences, in pixels."""
CLASSES = {"generated": len(MOTION_CLASSES), "utd": len(ACTIONS)}
PACE, FINER = 1.7, 2
"""Generated bodies of VCOP, Shuffle & Learn and OPN have covered p ** PACE of their way after the share p of the time (taken
from videos with FINER times as many frames). So a clip alone tells when it was."""
World = Literal["generated", "utd"]


class Data(NamedTuple):
    """Videos of one run, uint8 [N, L, S, S, 3], and their classes, int64 [N]."""

    pool: Tensor
    """for the pretext"""
    questions: Tensor
    """unseen ones for its own measure"""
    train: Tensor
    """for the supervised network and the probes"""
    label: Tensor
    test: Tensor
    truth: Tensor


class Job(NamedTuple):
    """A row on one kind of data with one seed."""

    world: World
    key: str
    seed: int
    size: Size
    utd: Path | None
    """decoded clips of UTD-MHAD"""
    calibrate: bool
    out: Path

    @property
    def path(self) -> Path:
        """See `jobs.Job`."""
        return self.out / self.world / self.key / f"seed{self.seed}.json"

    @property
    def name(self) -> str:
        """See `jobs.Job`."""
        return f"{self.world}, {TITLES[self.key]}, seed {self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """See `jobs.Job`."""
        return asdict(self.size) | {"calibrate": self.calibrate, "tasks": sha256(Path(order_tasks.__file__))}


# --- Data ---


@lru_cache(maxsize=2)
def generated(pool: int, labelled: int, tests: int, frames: int, side: int, seed: int, calibrate: bool, faster: bool) -> Data:
    """Generated videos of a seed. In calibration, all are training videos.

    Args:
        pool: videos for the pretext, the first of them also with labels.
        labelled: videos with labels.
        tests: unseen ones.
        frames: frames of each.
        side: of the frames in pixels.
        seed: of the videos.
        calibrate: see `order_and_contrast`.
        faster: in the videos for the pretext, the bodies get faster all the time, see `PACE`.
    """
    new: Split = "train" if calibrate else "val"
    other = seed + CALIBRATION_SEED * calibrate
    known, unseen = make_clips(labelled, frames, side, "train", seed), make_clips(tests, frames, side, new, other)
    times = frames * FINER if faster else frames
    shown = ((torch.arange(frames) / (frames - 1)) ** (PACE if faster else 1) * (times - 1)).round().long()
    own, questions = make_clips(pool, times, side, "train", seed), make_clips(tests, times, side, new, other)
    return Data(own.video[:, shown], questions.video[:, shown], known.video, known.motion, unseen.video, unseen.motion)


@lru_cache(maxsize=1)
def recorded(path: Path) -> Data:
    """Depth of UTD-MHAD as grey videos."""
    clips = torch.load(path, weights_only=True)
    known, new = (grey(clips[name]) for name in ("train", "test"))
    return Data(known, new, known, clips["train_label"], new, clips["test_label"])


def data_of(job: Job) -> Data:
    """The videos of a job."""
    size = job.size
    if job.utd is not None:
        return recorded(job.utd)
    faster = job.key in PRETEXTS and PRETEXTS[job.key].tuples
    counts = (size.pool, size.probe_clips, size.test_clips)
    return generated(*counts, size.frames, SIDE + size.margin, job.seed, job.calibrate, faster)


# --- Readout ---


def shown(videos: Tensor, size: Size) -> Tensor:
    """What the readout sees: every second frame, the centre."""
    corner = size.margin // 2
    return videos[:, ::EVERY, corner : corner + SIDE, corner : corner + SIDE]


def slices(maps: Tensor) -> Tensor:
    """The fixed readout: a map [B, D, t, h, w] averaged over space, with concatenated time slices, [B, D * t]."""
    return maps.mean((3, 4)).flatten(1)


@torch.no_grad()
def features(backbone: VideoCNN, videos: Tensor, size: Size) -> Tensor:
    """The fixed readout of a frozen network: uint8 [N, L, S, S, 3] -> [N, D * t]."""
    backbone.eval()
    parts = (shown(part, size) for part in videos.split(64))
    return torch.cat([slices(backbone.forward_features(backbone.preprocess(part))) for part in parts])


def probe(known: Tensor, new: Tensor, data: Data) -> dict[str, float]:
    """Linear probe and kNN, in percent."""
    return {
        "linear": 100 * linear_accuracy(known, data.label, new, data.truth),
        "kNN": 100 * knn_accuracy(known, data.label, new, data.truth),
    }


# --- Rows ---


def supervise(backbone: VideoCNN, data: Data, size: Size, seed: int) -> list[float]:
    """Train the network on the labels; returns the losses."""
    classes = int(data.label.max()) + 1
    head = nn.Linear(features(backbone, data.train[:1], size).shape[1], classes)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(data.train), size.batch, generator)
        maps = backbone.forward_features(backbone.preprocess(shown(data.train[rows], size)))
        return F.cross_entropy(head(slices(maps)), data.label[rows])

    return train(nn.ModuleList([backbone, head]), loss_of, size.steps, size.lr, seed)


def pretrain(key: str, backbone: VideoCNN, data: Data, size: Size, seed: int) -> dict[str, Any]:
    """Train a method, and ask it what it was trained on, about unseen videos."""
    pretext = PRETEXTS[key]
    method = pretext.build(backbone, size)
    for part in method.modules():
        if isinstance(part, nn.Dropout):
            # So short a run underfits; half of a small head would be lost in each step.
            part.p = 0.0

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        return method.step(batch_of(pretext, data.pool, size, generator), generator)["loss"]

    losses = train(method, loss_of, size.steps, pretext.rate * size.lr, seed)
    return {"losses": losses, "pretext": {how: ask(pretext, method, data.questions, size, seed, how) for how in pretext.ways}}


def run(job: Job) -> None:
    """Measure a row, unless that is done."""
    size, seed = job.size, job.seed
    if job.world == "utd":
        size = replace(size, steps=size.recorded_steps)
    start, data = time.perf_counter(), data_of(job)
    content: dict[str, Any] = {}
    if job.key == "difference":
        known, new = (frame_difference(shown(videos, size), side=RAW_SIDE) for videos in (data.train, data.test))
    else:
        backbone = encoder(size, seed, job.key in PRETEXTS and PRETEXTS[job.key].tuples)
        if job.key == "supervised":
            content["losses"] = supervise(backbone, data, size, seed)
        elif job.key in PRETEXTS:
            content |= pretrain(job.key, backbone, data, size, seed)
        known, new = (features(backbone, videos, size) for videos in (data.train, data.test))
    content |= {"probe": probe(known, new, data), "videos": [len(data.pool), len(data.train), len(data.test)]}
    save(job, content, start)


def all_jobs(
    size: Size, worlds: dict[World, Path | None], rows: Iterable[str], seeds: Iterable[int], calibrate: bool, out: Path
) -> list[Job]:
    """What is to be measured, the first seed of all rows first. Raw values of recordings do not depend on the seed."""
    first = min(seeds := list(seeds))
    return [
        Job(world, key, seed, size, utd, calibrate, out)
        for seed in seeds
        for world, utd in worlds.items()
        for key in rows
        if not (world == "utd" and key == "difference" and seed != first)
    ]


# --- Tables ---


def tables_of(jobs: list[Job]) -> str:
    """All tables in Markdown, from the results alone."""
    results = {(job.world, job.key, job.seed): read_json(job.path) for job in jobs}
    worlds, keys = (list(dict.fromkeys(getattr(job, name) for job in jobs)) for name in ("world", "key"))
    probes, pretexts = [], []
    guess = Row("chance")
    guess.add({f"{world} {what}": 100 / CLASSES[world] for world in worlds for what in ("linear", "kNN")})
    for key in keys:
        row = Row(TITLES[key])
        for (world, own, _), result in results.items():
            if own == key and result:
                row.add({f"{world} {what}": value for what, value in result["probe"].items()})
        probes.append(row)
        for column, chance in PRETEXTS[key].measures.values() if key in PRETEXTS else ():
            for world in worlds:
                asked = Row(f"{TITLES[key]}: {column}, {world}")
                asked.add({"chance": chance})
                for (where, own, _), result in results.items():
                    if (where, own) == (world, key) and result:
                        asked.add({how: found[column] for how, found in result["pretext"].items()})
                pretexts.append(asked)
    text = f"{table([*probes, guess])}\n"
    if pretexts:
        # A table has the columns of its last row.
        last = pretexts[-1]
        last.scores = {column: last.scores.get(column, []) for column in ("chance", *EACH_WAY)}
        text += f"\n{table(pretexts)}\n"
    return text


# --- Command ---


def order_and_contrast(
    out: Path = Path("runs/order_and_contrast"),
    utd: Path | None = None,
    size: Size = Size(),  # noqa: B008  (never mutated; shows the defaults in --help)
    seeds: int = 3,
    rows: list[str] | None = None,
    processes: int = 2,
    calibrate: bool = False,
) -> None:
    """Eight methods of order and contrast: their pretexts on unseen videos, a fixed readout, and their shortcuts.

    Args:
        out: folder of the results, one file for each row, kind of data and seed; those that exist are not repeated.
        utd: folder of UTD-MHAD; null leaves it out.
        size: network, clips and budget.
        seeds: number of repetitions; data, weights and batches change with the seed.
        rows: some of the rows, by their keys; null takes all.
        processes: rows at once, with one thread each; 0 runs them in this process.
        calibrate: choose settings: other seeds and other videos than those of the measurement, and no test subjects.

    Raises:
        SettingError: if a setting is impossible, results have other settings, or rows failed.
    """
    check_positive("order_and_contrast", seeds=seeds)
    check_range("order_and_contrast", 0, processes=processes)
    if unknown := sorted(set(rows or []) - TITLES.keys()):
        raise SettingError(f"--rows names {', '.join(unknown)}; choose from {', '.join(TITLES)}.")
    worlds: dict[World, Path | None] = {"generated": None}
    if utd is not None:
        benchmark = "xsub_settings" if calibrate else "xsub"
        worlds["utd"] = decoded = out / f"{benchmark}.pt"
        clips_of(utd, decoded, size.frames, SIDE + size.margin, benchmark)
    numbers = range(CALIBRATION_SEED, CALIBRATION_SEED + seeds) if calibrate else range(seeds)
    jobs = all_jobs(size, worlds, [key for key in TITLES if rows is None or key in rows], numbers, calibrate, out)
    failed = run_all(jobs, run, processes)
    finish(tables_of(jobs), out, jobs, seeds, failed)

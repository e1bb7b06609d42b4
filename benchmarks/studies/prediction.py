"""Prediction of features against pixels: V-JEPA, CrossVideoMAE, token relations and LV-MAE, beside VideoMAE and SIGMA.

Questions: does V-JEPA keep its rank, and what does its encoder know of motion, compared with the same network untrained,
supervised, and trained by VideoMAE, SMILE and SIGMA; do a sampled frame (CrossVideoMAE) or a teacher's token relations add to
VideoMAE; which targets, masks, rates and lengths help on the depth of UTD-MHAD; and does LV-MAE know in which order the phases
of a long video came, which the mean of its input features does not tell?

The readout, written before any run: frozen tokens averaged per time slice and concatenated, then a linear probe on standardised
features and kNN. All rows are one small video transformer, with the same steps, batch and optimiser. Clips of the generated
world train on moving textures, and are probed on objects over black and on textures, as in the study `sigma`. Of UTD-MHAD, 32
frames of 34 px are spread over each recording; each training clip has one of every two frames and a random crop of 32 px.
Subjects 1, 3, 5, 7 train and 2, 4, 6, 8 test.

The search trains and tests on training subjects only (1, 3, 5 against 7), with other seeds. Its best settings by the linear
probe are then measured on the test subjects. All other settings were chosen with `calibrate`, on the same subjects and other
seeds.

Long videos have three phases, each with one class of motion, in one of six orders; see `prediction_long`.

Cost: the blocks of the encoder have 0.44 M parameters, so a token costs 0.9 MFLOP, and 0.1 (64 tokens per clip, generated) or
0.2 (128, recordings) in attention; a step costs three times the forward pass. So a step of 32 clips takes 3.4 or 7.2 GFLOP with
half of the tokens hidden and a decoder of one block, and 6 or 13 with all tokens and labels. One core of two does 40 to 75
GFLOP/s with such small matrices.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.studies import prediction_long
from benchmarks.studies.compare_utd import clips_of, grey
from benchmarks.studies.harness import Row, random_rows, table, train
from benchmarks.studies.jobs import CALIBRATION_SEED, finish, kept, run_all, save
from benchmarks.studies.masked import READOUT, encoder, features
from benchmarks.studies.prediction_rows import ASKED, RECIPES, TRIALS, Recipe, Size, average_loss, jepa_encoder
from benchmarks.studies.sigma import Size as SigmaSize
from benchmarks.studies.sigma import make_data
from callbacks.collapse import rankme
from datamodules.sets.utd_mhad import ACTIONS
from modules.augment.frames import crop_pieces
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import unlabelled
from modules.core.errors import SettingError, check_positive, check_range
from modules.core.files import read_json
from modules.core.randomness import device_generator
from modules.core.tokens import pool_tokens
from modules.downstream.metrics.probes import frame_difference, knn_accuracy, linear_accuracy
from modules.methods.sigma import SIGMA
from modules.methods.vjepa import VJEPA
from modules.scenes.classes import MOTION_CLASSES
from modules.training.method import Method

World = Literal["generated", "utd", "search", "chosen", "long"]
BASELINES = {
    "difference": "raw frame differences",
    "untrained": "untrained network",
    "untrained_vjepa": "untrained network of V-JEPA",
    "supervised": "supervised network",
}
MAIN = BASELINES | {key: recipe.title for key, recipe in RECIPES.items()}
TRIED = {key: trial.title for key, trial in TRIALS.items()}
TITLES: dict[World, dict[str, str]] = {
    "generated": MAIN,
    "utd": MAIN,
    "search": BASELINES | TRIED,
    "chosen": TRIED,
    "long": prediction_long.TITLES,
}
"""Rows of each kind of data; those of `chosen` are the best of the search."""
CLASSES = {"objects": len(MOTION_CLASSES), "grounds": len(MOTION_CLASSES), "utd": len(ACTIONS)}
READ: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], float]] = {"linear": linear_accuracy, "kNN": knn_accuracy}
RAW_SIDE = 16
"""Side of raw frame differences, in pixels."""
EVERY = 2
"""Decoded frames of a recording for each frame of a clip."""
RANKED = 256
"""Clips whose features' rank is measured."""
PARTS = 10
"""Ranks are measured after each of so many parts of a run."""
MEASURE_STREAM = 7


class Probe(NamedTuple):
    """Labelled clips, uint8 [N, T, S, S, 3], and their classes, int64 [N]."""

    train: Tensor
    label: Tensor
    test: Tensor
    truth: Tensor


class Data(NamedTuple):
    """Clips of one run."""

    pool: Tensor
    """uint8 [N, L, S, S, 3], for pretraining"""
    probes: dict[str, Probe]
    """by the name of their columns; the supervised network is trained on the first"""


class Job(NamedTuple):
    """A row on one kind of data with one seed."""

    world: World
    key: str
    seed: int
    size: Size
    clips: Path | None
    """decoded clips of UTD-MHAD; None for generated data"""
    calibrate: bool
    out: Path

    @property
    def path(self) -> Path:
        """See `jobs.Job`."""
        return self.out / self.world / self.key / f"seed{self.seed}.json"

    @property
    def name(self) -> str:
        """See `jobs.Job`."""
        return f"{self.world}, {TITLES[self.world][self.key]}, seed {self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """See `jobs.Job`."""
        recipe = self.recipe
        own = {} if recipe is None else {"title": recipe.title, "rate": recipe.rate, "length": recipe.length}
        return asdict(self.size) | {"calibrate": self.calibrate} | own

    @property
    def recipe(self) -> Recipe | None:
        """How it is pretrained; None for baselines."""
        own: dict[World, dict[str, Recipe]] = {"generated": RECIPES, "utd": RECIPES, "search": TRIALS, "chosen": TRIALS}
        return own.get(self.world, {}).get(self.key)


# --- Data ---


@lru_cache(maxsize=1)
def generated(pool: int, labelled: int, tests: int, frames: int, side: int, seed: int) -> Data:
    """Clips of the study `sigma`: grounds for pretraining, objects over black and other grounds for the probes."""
    size = SigmaSize(frames=frames, pool=pool, probe_clips=labelled, test_clips=tests, side=side)
    made = make_data(size, seed, torch.device("cpu"))
    pairs = {"objects": (made.probe, made.tests[""]), "grounds": (made.ground_probe, made.ground_tests[", grounds"])}
    return Data(made.pool, {name: Probe(a.video, a.motion, b.video, b.motion) for name, (a, b) in pairs.items()})


@lru_cache(maxsize=2)
def recorded(path: Path, frames: int, side: int) -> Data:
    """Depth of UTD-MHAD as grey videos; the probes see the centre of every second frame."""
    clips = torch.load(path, weights_only=True)
    known, new = (grey(clips[name]) for name in ("train", "test"))
    probe = Probe(shown(known, frames, side), clips["train_label"], shown(new, frames, side), clips["test_label"])
    return Data(known, {"utd": probe})


def shown(videos: Tensor, frames: int, side: int) -> Tensor:
    """What the readout sees of recordings: evenly spaced frames, the centre."""
    corner = (videos.shape[2] - side) // 2
    return videos[:, :: videos.shape[1] // frames, corner : corner + side, corner : corner + side].contiguous()


def batch_of(pool: Tensor, rows: Tensor, size: Size, generator: torch.Generator) -> Tensor:
    """Clips uint8 [B, T, S, S, 3] of videos; of longer and larger ones random frames in order, and a random crop."""
    every, margin = pool.shape[1] // size.frames, pool.shape[2] - size.side
    if every == 1 and margin == 0:
        return pool[rows]
    frame = every * torch.arange(size.frames) + torch.randint(every, (len(rows), size.frames), generator=generator)
    corner = torch.randint(margin + 1, (len(rows), 1, 2), generator=generator)
    return crop_pieces(pool[rows[:, None], frame][:, None], corner, size.side)[:, 0]


def size_of(job: Job) -> Size:
    """Network and budget on this kind of data."""
    if job.clips is None:
        return job.size
    return replace(job.size, frames=job.size.recorded_frames, steps=job.size.recorded_steps)


def data_of(job: Job) -> Data:
    """The clips of a job."""
    size = size_of(job)
    if job.clips is not None:
        return recorded(job.clips, size.frames, size.side)
    return generated(size.pool, size.probe_clips, size.test_clips, size.frames, size.side, job.seed)


# --- Rows ---


def supervised(job: Job) -> tuple[VideoViT, list[float]]:
    """The network that is trained on labels, and its losses. It is trained once for each kind of data and seed, since it is
    also the teacher of other rows."""
    size, own = size_of(job), job._replace(key="supervised")
    backbone = encoder(size, job.seed)

    def make() -> dict[str, Any]:
        losses = supervise(backbone, own, size)
        return {"weights": backbone.state_dict(), "losses": losses}

    found = kept(own.path.with_suffix(".pt"), own.settings, make)
    backbone.load_state_dict(found["weights"])
    return backbone, found["losses"]


def supervise(backbone: VideoViT, job: Job, size: Size) -> list[float]:
    """Train a network on the labels of the first probe; returns the losses."""
    data = data_of(job)
    probe = next(iter(data.probes.values()))
    videos = data.pool if job.clips is not None else probe.train
    head = nn.Linear(backbone.grid.t * size.embed_dim, int(probe.label.max()) + 1)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(probe.label), size.batch, generator)
        tokens = backbone.forward_features(backbone.preprocess(batch_of(videos, rows, size, generator)))
        return F.cross_entropy(head(pool_tokens(tokens, backbone.grid[:3], READOUT)), probe.label[rows])

    return train(nn.ModuleList([backbone, head]), loss_of, size.steps, size.lr, job.seed)


def trained(method: Method) -> VideoViT:
    """The encoder that a method keeps."""
    network: Any = next(iter(method.encoders().values()))
    return network


def rank(backbone: VideoViT, data: Data) -> float:
    """RankMe of the features of the first test clips."""
    return float(rankme(features(backbone, next(iter(data.probes.values())).test[:RANKED])))


def pretrain(job: Job, recipe: Recipe, data: Data) -> tuple[VideoViT, dict[str, Any]]:
    """Train a method, measure the rank of its features all the time, and ask it about unseen clips."""
    size = size_of(job)
    steps = max(1, round(recipe.length * size.steps))
    method = recipe.build(size, job.seed, lambda: supervised(job)[0])
    ranks: list[float] = []

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        if step * PARTS // steps == len(ranks):
            ranks.append(rank(trained(method), data))
            method.train()
        rows = random_rows(len(data.pool), size.batch, generator)
        return method.step(unlabelled(batch_of(data.pool, rows, size, generator)[:, None]), generator)["loss"]

    losses = train(method, loss_of, steps, recipe.rate * size.lr, job.seed)
    ranks.append(rank(trained(method), data))
    return trained(method), {"losses": losses, "ranks": ranks, "pretext": ask(method, data, job.seed)}


@torch.no_grad()
def ask(method: Method, data: Data, seed: int) -> dict[str, float]:
    """Loss and logs of a method on unseen clips, those of the last probe, which are like those of pretraining. An incomplete
    last batch is not used."""
    method.eval()
    found: dict[str, list[float]] = {}
    for number, part in enumerate(list(data.probes.values())[-1].test.split(ASKED)):
        if len(part) < ASKED and found:
            continue
        output = method.step(unlabelled(part[:, None]), device_generator("cpu", seed, MEASURE_STREAM, number))
        told: dict[str, Any] = {"loss": output["loss"], **output.get("log", {})}
        if isinstance(method, VJEPA):
            told["average_loss"] = average_loss(method, part)
        if isinstance(method, SIGMA):
            told["random_agreement"] = 1 / len(method.prototypes)
        for name, value in told.items():
            found.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items()}


def sequences(job: Job) -> dict[str, Any]:
    """Features of long videos by the supervised network of the generated world."""
    network, _ = supervised(job._replace(world="generated"))
    counts = (job.size.long_videos, job.size.long_tests)
    return prediction_long.encode(network, counts, job.seed)


def run(job: Job) -> None:
    """Measure a row."""
    start = time.perf_counter()
    if job.world == "long":
        made = kept(job.out / "long" / f"sequences{job.seed}.pt", job.settings, partial(sequences, job))
        save(job, prediction_long.measure(job.key, made, job.size, job.seed), start)
        return
    data, content = data_of(job), dict[str, Any]()
    if job.key == "difference":
        read: Any = partial(frame_difference, side=RAW_SIDE)
    else:
        if job.recipe is not None:
            backbone, content = pretrain(job, job.recipe, data)
        elif job.key == "supervised":
            backbone, content["losses"] = supervised(job)
        else:
            build = jepa_encoder if job.key == "untrained_vjepa" else encoder
            backbone = build(size_of(job), job.seed)
        content["rank"] = rank(backbone, data)
        read = partial(features, backbone)
    for name, probe in data.probes.items():
        known, new = read(probe.train), read(probe.test)
        scores = {what: 100 * of(known, probe.label, new, probe.truth) for what, of in READ.items()}
        content.setdefault("probe", {}).update({f"{name} {what}": score for what, score in scores.items()})
    save(job, content, start)


# --- Jobs ---


def best(jobs: Iterable[Job], count: int) -> list[str]:
    """Keys of the trials with the highest linear probe on the training subjects, mean over seeds, the best first; of equal
    ones, the one listed first."""
    rows = rows_of(job for job in jobs if job.recipe is not None)
    means = {key: sum(found) / len(found) for key, row in rows.items() if (found := row.scores.get("utd linear"))}
    return sorted(means, key=lambda key: -means[key])[:count]


# --- Tables ---


def rows_of(jobs: Iterable[Job]) -> dict[str, Row]:
    """Probes and ranks of rows by key, from the results alone."""
    rows: dict[str, Row] = {}
    for job in jobs:
        if result := read_json(job.path):
            row = rows.setdefault(job.key, Row(TITLES[job.world][job.key]))
            row.add(result["probe"])
            where = "generated" if job.clips is None else "utd"
            row.add({f"{where} rank": result["rank"]} if "rank" in result else {})
    return rows


def chance(row: Row, classes: Mapping[str, int]) -> Row:
    """Scores of guessing, for the probes of a row."""
    guess = Row("chance")
    guess.add({column: 100 / classes[column.split()[0]] for column in row.scores if "rank" not in column})
    return guess


def training_tables(jobs: Iterable[Job]) -> dict[str, list[Row]]:
    """Rank of the features over training, and what each pretext is asked; LV-MAE is compared with copying the nearest visible
    segment."""
    ranks: dict[str, Row] = {}
    asked: dict[str, Row] = {}
    for job in jobs:
        recipe, result = job.recipe, read_json(job.path)
        if job.world == "long" and "pretext" in result:
            name, found = f"{TITLES['long'][job.key]}: cosine of hidden features", result["pretext"]
            asked.setdefault(name, Row(name)).add({"by chance": found["copied_cosine"], "unseen clips": found["cosine"]})
        if recipe is None or job.world not in ("generated", "utd") or not result:
            continue
        name = f"{recipe.title}, {job.world}"
        ranks.setdefault(name, Row(name)).add({f"{100 * part // PARTS} %": value for part, value in enumerate(result["ranks"])})
        for log, (what, guess) in recipe.measures.items():
            found = result["pretext"]
            name = f"{recipe.title}: {what}, {job.world}"
            expected = found[guess] if isinstance(guess, str) else guess
            asked.setdefault(name, Row(name)).add({"by chance": expected, "unseen clips": found[log]})
    return {"Rank of features over training": list(ranks.values()), "Pretexts on unseen clips": list(asked.values())}


def tables_of(jobs: list[Job]) -> str:
    """All tables in Markdown, from the results alone."""
    classes = CLASSES | {"order": len(prediction_long.ORDERS)}

    def rows(*worlds: World) -> list[Row]:
        return list(rows_of(job for job in jobs if job.world in worlds).values())

    chosen = [job for job in jobs if job.world == "chosen"]
    beside = [job for job in jobs if chosen and job.world == "utd" and job.key in BASELINES]
    parts = {"Frozen features": rows("generated", "utd")} | training_tables(jobs)
    parts["Search on training subjects"] = rows("search")
    parts["Its best settings on test subjects"] = list(rows_of(beside + chosen).values())
    parts["Order of phases of long videos"] = rows("long")
    text = []
    for name, found in parts.items():
        if not found:
            continue
        widest = max(found, key=lambda row: len(row.scores))
        guess = [chance(widest, classes)] if {column.split()[0] for column in widest.scores} & classes.keys() else []
        # A table has the columns of its last row.
        last = Row(found[-1].name, {column: found[-1].scores.get(column, []) for column in widest.scores})
        text.append(f"{name}:\n\n{table([*guess, *found[:-1], last], 2 if 'Pretexts' in name else 1)}\n")
    return "\n".join(text)


# --- Command ---


def prediction(
    out: Path = Path("runs/prediction"),
    utd: Path | None = None,
    size: Size = Size(),  # noqa: B008  (never mutated; shows the defaults in --help)
    seeds: int = 3,
    rows: list[str] | None = None,
    worlds: list[World] | None = None,
    search_seeds: int = 1,
    keep: int = 3,
    processes: int = 2,
    calibrate: bool = False,
) -> None:
    """V-JEPA, CrossVideoMAE, token relations and LV-MAE beside VideoMAE and SIGMA, and what helps on recordings.

    Args:
        out: folder of the results, one file for each row, kind of data and seed; those that exist are not repeated.
        utd: folder of UTD-MHAD; null leaves it out.
        size: networks, clips and budget.
        seeds: number of repetitions; data, weights and batches change with the seed.
        rows: some of the rows, by their keys; null takes all.
        worlds: some kinds of data: generated, utd, search, chosen, long; null takes all.
        search_seeds: number of repetitions of the search.
        keep: settings of the search that are measured on the test subjects.
        processes: rows at once, with one thread each; 0 runs them in this process.
        calibrate: choose settings: other seeds, and subjects 1, 3, 5 against 7 in place of the test subjects.

    Raises:
        SettingError: if a setting is impossible, results have other settings, or rows failed.
    """
    check_positive("prediction", seeds=seeds, search_seeds=search_seeds)
    check_range("prediction", 0, processes=processes, keep=keep)
    known = {key for titles in TITLES.values() for key in titles}
    if unknown := sorted(set(rows or []) - known):
        raise SettingError(f"--rows names {', '.join(unknown)}; choose from {', '.join(sorted(known))}.")
    asked = [world for world in TITLES if (worlds is None or world in worlds) and (utd or world in ("generated", "long"))]
    clips: dict[str, Path] = {} if utd is None else {name: decoded(utd, out, size, name) for name in ("xsub", "xsub_settings")}
    checked = clips.get("xsub_settings")
    measured = checked if calibrate else clips.get("xsub")
    first = CALIBRATION_SEED if calibrate else 0

    def jobs_of(world: World, keys: Iterable[str], clips: Path | None, seeds: range) -> list[Job]:
        chosen = [key for key in keys if rows is None or key in rows]
        # Raw values of recordings do not depend on the seed.
        return [
            Job(world, key, seed, size, clips, calibrate, out)
            for seed in seeds
            for key in chosen
            if not (clips is not None and key == "difference" and seed != seeds[0])
        ]

    own, searching = range(first, first + seeds), range(CALIBRATION_SEED, CALIBRATION_SEED + search_seeds)
    places: dict[World, tuple[Path | None, range]] = {
        "generated": (None, own),
        "utd": (measured, own),
        "search": (checked, searching),
        "long": (None, own),
    }
    of_world = {world: jobs_of(world, TITLES[world], *place) for world, place in places.items()}
    jobs = [job for world in asked for job in of_world.get(world, [])]
    failed = run_all(jobs, run, processes)
    if "chosen" in asked:
        more = jobs_of("chosen", best(of_world["search"], keep), measured, own)
        failed += run_all(more, run, processes)
        jobs += more
    finish(tables_of(jobs), out, jobs, seeds, failed)


def decoded(root: Path, out: Path, size: Size, benchmark: str) -> Path:
    """The file of all clips of UTD-MHAD, decoded unless it exists."""
    frames, side = EVERY * size.recorded_frames, size.side + size.margin
    path = out / f"{benchmark}_{frames}_{side}.pt"
    clips_of(root, path, frames, side, benchmark)
    return path

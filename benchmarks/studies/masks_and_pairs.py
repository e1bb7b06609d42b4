"""CropMAE and SiamMAE carry masks through videos; STMAE imagines the middle of clips.

Questions: does a network that was trained on pairs of crops (CropMAE) or of frames (SiamMAE) carry the mask of the first frame
better than the same network untrained, than raw pixels, and than a mask that does not move; do crops teach as much as frames;
what do both take from the first image of a pair (the error with the first image of another pair); how far is STMAE from
repeating and from blending the ends of a clip; and does it help to classify recordings with 1 or 5 labels per class?

Readout, written before any run: the last map of the image encoder on frames of 160 pixels (shorter side), tokens of 8 pixels;
videowalk's form with 7 context frames, 7 of the most similar tokens, a radius of 7 tokens, temperature 0.7; J and F over ten
sequences of DAVIS-2016 that are not trained on. STMAE: mean squared error of the hidden middle half of unseen clips; a linear
classifier on frozen features (the mean of each time slice), and fine-tuning, both on few labels of the training subjects.

The published numbers of visible patches are 2 (CropMAE) and 9 (SiamMAE) of 196. The images here have 64 patches; the published
fractions leave 1 and 3. Data: see `pairs_data`. Each source gives the same share of every batch. Settings were chosen with
`calibrate`: another seed, five of the training sequences in place of the test sequences, and no test subjects.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.studies.compare_utd import few
from benchmarks.studies.harness import Row, random_rows, table, train
from benchmarks.studies.jobs import CALIBRATION_SEED, finish, run_all, save
from benchmarks.studies.pairs_data import FRAMES, Sequence, Sources, decoded, sequences_of, smaller
from callbacks.films.interpolations import interpolated
from datamodules.sets.utd_mhad import ACTIONS
from modules.augment.crops import enlarge, random_boxes
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.cross_decoder import CrossDecoderSettings
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.spacetime_vit import SpacetimeViT
from modules.core.batch import unlabelled
from modules.core.errors import SettingError, check_positive, check_range
from modules.core.files import read_json
from modules.core.randomness import device_generator
from modules.downstream.metrics.probes import linear_accuracy
from modules.downstream.metrics.segmentation import davis_metrics, object_scores
from modules.downstream.propagation.maps import MapSettings, frame_maps
from modules.downstream.propagation.masks import Layout, SoftMask, to_labels, to_mask
from modules.downstream.propagation.propagate import PropagationSettings, Propagator
from modules.layers.siamese_mae import SiameseMAE
from modules.layers.targets import InputPixelTarget
from modules.masks.base import MaskGenerator
from modules.masks.clip import CenterMask, UniformMask
from modules.methods.cropmae import CropMAE
from modules.methods.siammae import SiamMAE
from modules.methods.stmae import STMAE

RULE = PropagationSettings(context=7, topk=7, radius=7.0, temperature=0.7)
MAPS = MapSettings(layer=-1, batch=16)
RATIO = (3 / 4, 4 / 3)
MIDDLE = CenterMask(0.5)
LABELS = (1, 5)
"""Labels per class of the few-shot measurement."""
QUESTIONS = 128
"""Pairs of the pretext's own measurement."""
Key = Literal["copy", "pixels", "untrained", "cropmae", "siammae", "empty", "uniform", "center"]
PAIRS: dict[Key, str] = {
    "copy": "the first mask, copied",
    "pixels": "raw pixels",
    "untrained": "untrained network",
    "cropmae": "CropMAE",
    "siammae": "SiamMAE",
}
CLIPS: dict[Key, str] = {
    "empty": "untrained STMAE",
    "uniform": "STMAE, random mask",
    "center": "STMAE, middle hidden",
}
TITLES = PAIRS | CLIPS
SEEDLESS: tuple[Key, ...] = ("copy", "pixels")
"""Rows that have no random weights."""


@dataclass
class Size:
    """Networks and budget.

    Args:
        side: side of the images of a pair in pixels.
        patch: side of a token in pixels.
        width: width of all encoders and decoders.
        depth: blocks of an encoder; decoders have 2.
        heads: attention heads.
        steps: optimiser steps on pairs.
        batch: pairs per step.
        lr: peak learning rate on pairs.
        scale: smallest and largest area of a crop, as a fraction of a square of 128 pixels.
        clip_side: side of STMAE's clips in pixels.
        clip_steps: optimiser steps of STMAE.
        clip_batch: clips per step.
        clip_lr: peak learning rate of STMAE.
        clip_ratio: fraction of tokens that its random mask hides.
        tuning_steps: optimiser steps of fine-tuning.
    """

    side: int = 64
    patch: int = 8
    width: int = 96
    depth: int = 4
    heads: int = 3
    steps: int = 700
    batch: int = 48
    lr: float = 1e-3
    scale: tuple[float, float] = (0.15, 0.6)
    clip_side: int = 32
    clip_steps: int = 800
    clip_batch: int = 64
    clip_lr: float = 1e-3
    clip_ratio: float = 0.75
    tuning_steps: int = 150


class Job(NamedTuple):
    """A row with one seed."""

    key: Key
    seed: int
    size: Size
    davis: Path
    clips: Path
    calibrate: bool
    out: Path

    @property
    def path(self) -> Path:
        """See `jobs.Job`."""
        return self.out / self.key / f"seed{self.seed}.json"

    @property
    def name(self) -> str:
        """See `jobs.Job`."""
        return f"{TITLES[self.key]}, seed {self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """See `jobs.Job`."""
        return asdict(self.size) | {"calibrate": self.calibrate}


# --- Data ---


@lru_cache(maxsize=1)
def sequences(root: Path, part: str) -> list[Sequence]:
    """The sequences that are propagated."""
    return sequences_of(root, part)


@lru_cache(maxsize=1)
def content(path: Path) -> dict[str, Tensor]:
    """All clips and labels, by source and part. Pages of the file are read when needed and shared by all processes."""
    found: dict[str, Tensor] = torch.load(path, weights_only=True, mmap=True)
    return found


def sources(path: Path, part: str) -> list[Tensor]:
    """The clips of each source."""
    return [value for name, value in content(path).items() if name.endswith(f"/{part}")]


@lru_cache(maxsize=4)
def small_sources(path: Path, part: str, side: int) -> dict[str, Tensor]:
    """The same at STMAE's size, by source."""
    end = f"/{part}"
    return {name.removesuffix(end): smaller(value, side) for name, value in content(path).items() if name.endswith(end)}


def mixed(pools: list[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """Random clips, equally many of each source."""
    each = [count // len(pools) + (number < count % len(pools)) for number in range(len(pools))]
    return [pool[random_rows(len(pool), number, generator)] for pool, number in zip(pools, each, strict=True)]


def pairs(pools: list[Tensor], size: Size, count: int, generator: torch.Generator) -> Tensor:
    """Two frames of each clip in order, with the same random crop: uint8 [B, 2, 1, S, S, 3]."""
    clips = torch.cat(mixed(pools, count, generator))
    order = torch.rand(count, FRAMES, generator=generator).argsort(1)[:, :2].sort(1).values
    frames = clips.gather(1, order[:, :, None, None, None].expand(-1, -1, *clips.shape[2:]))
    cut = enlarge(frames, random_boxes(count, (clips.shape[2], clips.shape[3]), size.scale, RATIO, generator))
    return smaller(cut, size.side)[:, :, None]


# --- Pairs of images ---


def build(key: Key, size: Size, seed: int) -> SiameseMAE:
    """A method on pairs with the seed's initial weights; the untrained row has those of CropMAE's encoder."""
    torch.manual_seed(seed)
    tower = FrameTower(
        "vit_base_patch16_224.mae", 1, size.side, 1, "mean", size.patch, size.width, size.depth, size.heads, checkpoint=None
    )
    decoder = CrossDecoderSettings(depth=2, dim=size.width, heads=size.heads, hidden=4 * size.width, dropout=0.0)
    tokens = (size.side // size.patch) ** 2
    if key == "siammae":
        return SiamMAE(tower, 1 - max(1, round(tokens * 9 / 196)) / tokens, decoder=decoder, flip=0.5)
    return CropMAE(tower, mask_ratio=1 - max(1, round(tokens * 2 / 196)) / tokens, decoder=decoder, flip=0.5)


def loss_of_pairs(method: SiameseMAE, pair: Tensor, generator: torch.Generator, other: bool = False) -> Tensor:
    """Loss of pairs, divided by that of the best constant prediction in evaluation; with `other`, each has the first image
    of another pair."""
    if isinstance(method, SiamMAE):
        first, second = method.mirrored(pair, generator).unbind(1)
    else:
        assert isinstance(method, CropMAE)
        first, second = method.make_views(pair[:, 1:], generator)
    output = method.rebuild(first.roll(1, 0) if other else first, second, generator)
    return output["loss"] if method.training else output["loss"] / output["log"]["constant_loss"]


def pretrain_pairs(key: Key, job: Job) -> tuple[SiameseMAE, dict[str, Any]]:
    """Train a method on pairs, and measure it on unseen ones."""
    size, method = job.size, build(key, job.size, job.seed)
    pools = sources(job.clips, "train")

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        return loss_of_pairs(method, pairs(pools, size, size.batch, generator), generator)

    losses = train(method, loss_of, size.steps, size.lr, job.seed)
    generator = device_generator("cpu", job.seed, 0)
    unseen = pairs(sources(job.clips, "test"), size, QUESTIONS, generator)
    with torch.no_grad():
        method.eval()
        told = {
            name: float(loss_of_pairs(method, unseen, device_generator("cpu", job.seed, 1), other))
            for name, other in (("own", False), ("other", True))
        }
    return method, {"losses": losses, "pretext": told}


def pixel_maps(frames: Tensor, patch: int) -> Iterator[Tensor]:
    """Raw pixels of patches, less grey, as maps float [3 * patch * patch, h, w]."""
    for frame in frames:
        planes = frame.permute(2, 0, 1)[None].float() / 255 - 0.5
        height, width = (side // patch for side in frame.shape[:2])
        planes = planes[..., : height * patch, : width * patch]
        yield F.unfold(planes, patch, stride=patch)[0].unflatten(1, (height, width))


@torch.no_grad()
def carried(sequence: Sequence, maps: Iterable[Tensor], patch: int) -> Tensor:
    """Masks of all frames, uint8 [T, H0, W0], from maps [C, h, w] of the frames."""
    first, frame = sequence.masks[0], (sequence.frames.shape[1], sequence.frames.shape[2])
    found, propagator, layout, ids = [first], None, None, torch.empty(0)
    for features in maps:
        if propagator is None or layout is None:
            grid = (features.shape[1], features.shape[2])
            layout = Layout((first.shape[0], first.shape[1]), frame, grid, (float(patch), float(patch)))
            ids, labels = to_labels(first, layout, RULE.variant)
            propagator = Propagator(features, labels, RULE)
        else:
            found.append(to_mask(SoftMask(ids, propagator.step(features)), layout, RULE.variant))
    return torch.stack(found)


def segment(job: Job) -> dict[str, Any]:
    """J and F of a row on pairs, and of each sequence."""
    size = job.size
    extra: dict[str, Any] = {}
    maps_of: Callable[[Tensor], Iterator[Tensor]] = partial(pixel_maps, patch=size.patch)
    if job.key in ("untrained", "cropmae", "siammae"):
        if job.key == "untrained":
            method = build(job.key, size, job.seed)
        else:
            method, extra = pretrain_pairs(job.key, job)
        encoder = method.backbone.eval()

        def maps_of(frames: Tensor) -> Iterator[Tensor]:
            with torch.no_grad():
                for part in frame_maps(encoder, frames, MAPS):
                    yield from part.features

    scores, each = [], {}
    for sequence in sequences(job.davis, "check" if job.calibrate else "test"):
        copied = sequence.masks[:1].expand_as(sequence.masks)
        predicted = copied if job.key == "copy" else carried(sequence, maps_of(sequence.frames), size.patch)
        found = object_scores(predicted, sequence.masks)
        scores += list(zip(*found, strict=True))
        each[sequence.name] = 100 * float(found.j.mean())
    total = davis_metrics(scores)
    return extra | {"scores": {"J": total["j_mean"], "F": total["f_mean"], "J&F": total["j_and_f"]}, "sequences": each}


# --- Clips ---


def build_clips(key: Key, size: Size, seed: int) -> STMAE:
    """STMAE with the seed's initial weights."""
    torch.manual_seed(seed)
    backbone = SpacetimeViT(
        "micro",
        size.clip_side,
        FRAMES,
        patch_size=size.patch,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        pooling="time",
    )
    mask: MaskGenerator = MIDDLE if key == "center" else UniformMask(size.clip_ratio)
    decoder = DecoderSettings(depth=2, dim=size.width, heads=size.heads)
    return STMAE(backbone, InputPixelTarget(), mask, decoder, flip=0.0)


@torch.no_grad()
def middle_errors(method: STMAE, clips: Tensor) -> dict[str, float]:
    """Root mean square errors of the hidden middle of clips uint8 [N, T, S, S, 3], in percent of the range of pixels, of the
    network and of repeating and blending the ends."""
    method.eval()
    total: dict[str, Tensor] = {}
    for part in clips.split(64):
        _, errors = interpolated(method, part, MIDDLE)
        total = {name: total.get(name, torch.zeros(())) + len(part) * error for name, error in errors.items()}
    return {name: 100 * float(error / len(clips)) ** 0.5 for name, error in total.items()}


@torch.no_grad()
def slices(backbone: SpacetimeViT, clips: Tensor) -> Tensor:
    """The fixed readout of frozen tokens: uint8 [N, T, S, S, 3] -> [N, t * D]."""
    backbone.eval()
    return torch.cat([backbone(backbone.preprocess(part)) for part in clips.split(128)])


def tuned(backbone: SpacetimeViT, clips: Tensor, label: Tensor, test: Tensor, truth: Tensor, job: Job) -> float:
    """Accuracy in percent after training everything on few clips."""
    size = job.size
    head = nn.Linear(backbone.feature_dim, len(ACTIONS))

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(clips), size.clip_batch // 2, generator)
        return F.cross_entropy(head(backbone(backbone.preprocess(clips[rows]))), label[rows])

    train(nn.ModuleList([backbone, head]), loss_of, size.tuning_steps, size.clip_lr, job.seed)
    with torch.no_grad():
        return 100 * float((head(slices(backbone, test)).argmax(1) == truth).float().mean())


def imagine(job: Job) -> dict[str, Any]:
    """Errors of the middle of unseen clips of each source, and few-shot accuracy on depth."""
    size, method = job.size, build_clips(job.key, job.size, job.seed)
    known, unseen = (small_sources(job.clips, part, size.clip_side) for part in ("train", "test"))
    found: dict[str, Any] = {}
    if job.key != "empty":

        def loss_of(step: int, generator: torch.Generator) -> Tensor:
            clips = torch.cat(mixed(list(known.values()), size.clip_batch, generator))
            return method.step(unlabelled(clips[:, None]), generator)["loss"]

        found["losses"] = train(method, loss_of, size.clip_steps, size.clip_lr, job.seed)
    found["middle"] = {name: middle_errors(method, clips) for name, clips in unseen.items()}
    if "depth" in known:
        clips, test = known["depth"], unseen["depth"]
        label, truth = content(job.clips)["depth/train_label"], content(job.clips)["depth/test_label"]
        features, new = slices(method.backbone, clips), slices(method.backbone, test)
        found["few"] = {"all": 100 * linear_accuracy(features, label, new, truth)}
        for count in LABELS:
            rows = few(label, count * len(ACTIONS) / len(label), job.seed)
            found["few"][f"{count} a class"] = 100 * linear_accuracy(features[rows], label[rows], new, truth)
        rows = few(label, LABELS[-1] * len(ACTIONS) / len(label), job.seed)
        found["few"][f"{LABELS[-1]} a class, fine-tuned"] = tuned(method.backbone, clips[rows], label[rows], test, truth, job)
    return found


# --- Rows and tables ---


def run(job: Job) -> None:
    """Measure a row."""
    start = time.perf_counter()
    save(job, segment(job) if job.key in PAIRS else imagine(job), start)


def tables_of(jobs: list[Job]) -> str:
    """All tables in Markdown, from the results alone."""
    results = [(job.key, read_json(job.path)) for job in jobs]
    masks, pretexts, few_labels = [], [], []
    middle = {"repeated": Row("the nearest end, repeated"), "blended": Row("both ends, blended")}
    for key in dict.fromkeys(job.key for job in jobs):
        row, told, seen, accuracy = (Row(TITLES[key]) for _ in range(4))
        for own, result in results:
            if own != key or not result:
                continue
            row.add(result.get("scores", {}))
            told.add(result.get("pretext", {}))
            accuracy.add(result.get("few", {}))
            errors = result.get("middle", {})
            seen.add({name: error["network"] for name, error in errors.items()})
            for guess in middle if not middle["blended"].scores else ():
                middle[guess].add({name: error[guess] for name, error in errors.items()})
        masks += [row] if row.scores else []
        pretexts += [told] if told.scores else []
        few_labels += [accuracy] if accuracy.scores else []
        if seen.scores:
            middle[key] = seen
    parts = {
        "Masks carried through unseen sequences": masks,
        "Error of hidden patches of unseen pairs / that of a constant, with the own first image and with another": pretexts,
        "Error of the hidden middle, percent of the range of pixels": [row for row in middle.values() if row.scores],
        "Accuracy on depth with few labels, percent": few_labels,
    }
    return "\n".join(f"{name}:\n\n{table(rows, 2 if rows is pretexts else 1)}\n" for name, rows in parts.items() if rows)


def masks_and_pairs(
    davis: Path,
    drones: Path | None = None,
    utd: Path | None = None,
    out: Path = Path("runs/masks_and_pairs"),
    size: Size = Size(),  # noqa: B008  (never mutated; shows the defaults in --help)
    seeds: int = 3,
    rows: list[str] | None = None,
    processes: int = 2,
    calibrate: bool = False,
) -> None:
    """CropMAE, SiamMAE and STMAE: masks carried through videos, imagined frames, few labels.

    Args:
        davis: folder of DAVIS-2016, of which the sequences of the validation list are used.
        drones: folder of the drone clips (`DroneAir`); null leaves them out.
        utd: folder of UTD-MHAD; null leaves it out.
        out: folder of the results, one file for each row and seed; those that exist are not repeated.
        size: networks and budget.
        seeds: number of repetitions; weights and batches change with the seed.
        rows: some of the rows, by their keys; null takes all.
        processes: rows at once, with one thread each; 0 runs them in this process.
        calibrate: choose settings: other seeds, training sequences and training subjects in place of those of the test.

    Raises:
        SettingError: if a setting is impossible, results have other settings, or rows failed.
    """
    check_positive("masks_and_pairs", seeds=seeds)
    check_range("masks_and_pairs", 0, processes=processes)
    if unknown := sorted(set(rows or []) - TITLES.keys()):
        raise SettingError(f"--rows names {', '.join(unknown)}; choose from {', '.join(TITLES)}.")
    clips = decoded(Sources(davis, drones, utd), out, calibrate)
    first = CALIBRATION_SEED if calibrate else 0
    jobs = [
        Job(key, seed, size, davis, clips, calibrate, out)
        for seed in range(first, first + seeds)
        for key in TITLES
        if (rows is None or key in rows) and not (key in SEEDLESS and seed != first)
    ]
    failed = run_all(jobs, run, processes)
    finish(tables_of(jobs), out, jobs, seeds, failed)

"""Does a method learn motion? Small networks, generated clips, one fixed readout, several seeds.

    python benchmarks/learning.py smile                            # under an hour on two CPU cores, minutes on a GPU
    python benchmarks/learning.py smile --size.steps 40 --seeds 1  # only to see it run

`smile` compares, at equal budget, masked pixels of objects that stand still with masked pixels of the same objects in
motion, on plain backgrounds (SMILE's 'no natural video' claim). All rows are read out alike (`READOUT` below, written
before any run): frozen tokens averaged per time slice and concatenated, then a linear probe (standardised with the
training clips' statistics) and a kNN probe. The probes see labelled clips of moving objects over the same family of
backgrounds as pretraining; `shifted` columns test on another family with the probe trained on the first. Colours, fills,
proportions and background seeds of test clips are not those of training clips. Beside the trained rows stand chance, one
frame, raw frame differences, the untrained network, and a supervised network of the same size, data and budget. Numbers
are means over seeds, with the spread (largest minus smallest).

A second table says what the features' variance is made of, which is what nearest neighbours go by: the share that a linear
function of each quantity explains, the number of directions that hold it (exponential of the entropy of the principal
variances), and kNN after whitening, where all directions count alike.
"""

import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from modules.backbones.video_vit import VideoViT
from modules.core.base import Method
from modules.core.optim import AdamWSettings, warmup_cosine
from modules.core.randomness import device_generator
from modules.layers.masking import TubeMask
from modules.layers.normalise import normalise
from modules.layers.probes import Pooling, frame_difference, knn_accuracy, linear_accuracy, pool_tokens, single_frame
from modules.layers.targets import PixelTarget
from modules.motion.appearance import SHAPES, ObjectBank
from modules.motion.backgrounds import Background
from modules.motion.classes import MOTION_CLASSES, Split
from modules.motion.scenes import SyntheticClips, make_clips
from modules.motion.trajectory import Motion
from modules.smile import SMILE

# The readout, fixed before the runs and the same for every row. Time slices are kept apart because a mean over time
# cannot tell a motion from its reverse, whatever the network knows.
READOUT: Pooling = "time"


@dataclass
class Size:
    """What is trained, and for how long.

    Args:
        frames: frames per clip.
        side: side of the frames in pixels.
        patch: side of a token in pixels.
        embed_dim: width of the encoder.
        depth: blocks of the encoder.
        steps: optimiser steps of every trained row.
        batch: clips per step.
        lr: peak learning rate.
        mask_ratio: share of hidden tokens.
        scales: sizes of pasted objects, in pixels of a 224-pixel picture.
        pool: training clips.
        probe_clips: labelled clips for the probes.
        test_clips: clips to test on.
        family: backgrounds of pretraining and probes.
        shifted: backgrounds of the shifted test.
    """

    frames: int = 8
    side: int = 32
    patch: int = 8
    embed_dim: int = 96
    depth: int = 4
    steps: int = 1000
    batch: int = 64
    lr: float = 1e-3
    mask_ratio: float = 0.5
    scales: tuple[float, ...] = (64, 96, 128)
    pool: int = 8192
    probe_clips: int = 4096
    test_clips: int = 2048
    family: Background = "black"
    shifted: Background = "gradient"


@dataclass
class Data:
    """Clips of one run."""

    still: Tensor
    """uint8 [pool, T, H, W, 3], backgrounds on which nothing moves"""
    probe: SyntheticClips
    test: SyntheticClips
    shifted: SyntheticClips


@dataclass
class Row:
    """A row of the table: scores by column, one entry per seed."""

    name: str
    scores: dict[str, list[float]] = field(default_factory=dict)

    def add(self, scores: dict[str, float]) -> None:
        """Append one seed's scores."""
        for column, value in scores.items():
            self.scores.setdefault(column, []).append(value)


def make_data(size: Size, seed: int, device: torch.device) -> Data:
    """Generate all clips of a seed on the device."""

    def clips(count: int, split: Split, family: Background, objects: bool = True) -> SyntheticClips:
        return make_clips(
            count,
            size.frames,
            size.side,
            split,
            seed,
            (family,),
            objects=objects,
            device=device,
        )

    return Data(
        clips(size.pool, "train", size.family, objects=False).video,
        clips(size.probe_clips, "train", size.family),
        clips(size.test_clips, "val", size.family),
        clips(size.test_clips, "val", size.shifted),
    )


def encoder(size: Size) -> VideoViT:
    """The network of every row."""
    return VideoViT("micro", size.side, size.frames, size.patch, embed_dim=size.embed_dim, depth=size.depth)


@torch.inference_mode()
def features(backbone: VideoViT, video: Tensor) -> Tensor:
    """The fixed readout of frozen tokens: uint8 [N, T, H, W, 3] -> [N, t * D]."""
    backbone.eval()
    parts = [
        pool_tokens(backbone.forward_features(normalise(chunk)).float(), backbone.grid[:3], READOUT)
        for chunk in video.split(256)
    ]
    return torch.cat(parts)


def probe(readout: Callable[[Tensor], Tensor], data: Data) -> dict[str, float]:
    """All columns of a row, in percent."""
    train, test, shifted = (readout(clips.video).clone() for clips in (data.probe, data.test, data.shifted))
    scores = {}
    for task in ("motion", "object"):
        labels, truth, other = (getattr(clips, task) for clips in (data.probe, data.test, data.shifted))
        scores[f"{task} linear"] = 100 * linear_accuracy(train, labels, test, truth)
        scores[f"{task} kNN"] = 100 * knn_accuracy(train, labels, test, truth)
        scores[f"{task} linear, shifted"] = 100 * linear_accuracy(train, labels, shifted, other)
    return scores


def share_explained(rows: Tensor, quantity: Tensor) -> float:
    """Share of the variance of rows [N, D] that an affine function of a quantity [N, k] explains."""
    centred = (rows - rows.mean(0)).double()
    regressors = torch.cat([quantity.double(), torch.ones(len(rows), 1, device=rows.device)], dim=1)
    rest = centred - regressors @ torch.linalg.lstsq(regressors, centred).solution
    return float(1 - rest.square().sum() / centred.square().sum())


def anatomy(backbone: VideoViT, data: Data) -> dict[str, float]:
    """What the variance of the features is made of, in percent where it is a share or an accuracy."""
    train, test = (features(backbone, clips.video).clone() for clips in (data.probe, data.test))
    clips = data.probe
    pixels = clips.video.float()
    covered = (clips.video.amax(-1) > 0).sum((1, 2, 3)).clamp_min(1)
    middle = (clips.boxes[:, 0, :, :2] + clips.boxes[:, 0, :, 2:]) * (math.pi / clips.video.shape[2])
    quantities = {
        "colour": pixels.sum((1, 2, 3)) / covered[:, None],
        "size": clips.size.log(),
        "places": torch.cat([middle.sin(), middle.cos()], dim=-1).flatten(1),
        "shape": F.one_hot(clips.object, len(SHAPES)),
        "motion class": F.one_hot(clips.motion, len(MOTION_CLASSES)),
    }
    found = {f"variance by {name}": 100 * share_explained(train, value) for name, value in quantities.items()}
    mean = train.mean(0)
    _, scale, axes = torch.linalg.svd((train - mean).double(), full_matrices=False)
    weight = scale.square() / scale.square().sum()
    found["directions"] = float(torch.special.entr(weight).sum().exp())
    whiten = (axes.T / scale).float() * len(train) ** 0.5
    white_train, white_test = ((rows - mean) @ whiten for rows in (train, test))
    found["motion kNN"] = 100 * knn_accuracy(train, data.probe.motion, test, data.test.motion)
    found["motion kNN, whitened"] = 100 * knn_accuracy(white_train, data.probe.motion, white_test, data.test.motion)
    return found


def train(parameters: nn.Module, loss_of: Callable[[int, torch.Generator], Tensor], size: Size, seed: int) -> float:
    """The budget of every trained row: AdamW, warm-up over 5 % of the steps, half a cosine. Returns the last loss."""
    device = next(parameters.parameters()).device
    optimiser = AdamWSettings().build(parameters.train(), size.lr, set())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warmup_cosine(0.05 * size.steps, size.steps, 0.01))
    recent = torch.zeros((), device=device)
    for step in range(size.steps):
        loss = loss_of(step, device_generator(device, seed, step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        recent += loss.detach() * (step >= size.steps - 100) / min(100, size.steps)
    return recent.item()


def batch_of(clips: Tensor, size: Size, generator: torch.Generator) -> Tensor:
    """Row numbers of a random batch."""
    return torch.randint(len(clips), (size.batch,), generator=generator, device=clips.device)


def train_masked(data: Data, size: Size, seed: int, motion: Motion) -> VideoViT:
    """SMILE on still backgrounds with pixels as target and one object in each clip."""
    torch.manual_seed(seed)
    method: Method = SMILE(
        encoder(size),
        PixelTarget(normalise=False),
        TubeMask(size.mask_ratio),
        paste_objects=True,
        objects=ObjectBank(side=size.side),
        objects_per_clip=1,
        motion=motion,
        masks_per_clip=1,
        decoder_depth=1,
    ).to(data.still.device)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = batch_of(data.still, size, generator)
        return method.step({"video": data.still[rows][:, None]}, generator)["loss"]

    final = train(method, loss_of, size, seed)
    print(f"  seed {seed}: masked pixels, {motion.path} objects: loss {final:.5f}", flush=True)
    return method.backbone  # type: ignore[return-value]


def train_supervised(data: Data, size: Size, seed: int) -> VideoViT:
    """The same encoder trained on the probe's labelled clips to name the motion."""
    torch.manual_seed(seed)
    backbone = encoder(size)
    head = nn.Linear(backbone.grid.t * size.embed_dim, len(MOTION_CLASSES))
    network = nn.ModuleList([backbone, head]).to(data.still.device)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = batch_of(data.probe.video, size, generator)
        tokens = backbone.forward_features(normalise(data.probe.video[rows]))
        return F.cross_entropy(head(pool_tokens(tokens, backbone.grid[:3], READOUT)), data.probe.motion[rows])

    final = train(network, loss_of, size, seed)
    print(f"  seed {seed}: supervised: loss {final:.5f}", flush=True)
    return backbone


def table(rows: list[Row]) -> str:
    """Markdown table of means and spreads."""
    columns = list(rows[-1].scores)
    lines = ["| row | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = []
        for column in columns:
            values = row.scores.get(column, [])
            spread = f" ({max(values) - min(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{sum(values) / len(values):.1f}{spread}" if values else "")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def smile(size: Size = Size(), seeds: int = 3, out: Path | None = None) -> None:  # noqa: B008  (never mutated)
    """SMILE's 'no natural video' claim: masked pixels without and with moving objects.

    Args:
        size: networks, clips and budget.
        seeds: number of repetitions; data, weights and batches change with the seed.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = time.perf_counter()
    names = {
        "frame": "one frame (raw pixels)",
        "difference": "raw frame difference",
        "untrained": "untrained network",
        "still": "masked pixels, objects that stand still",
        "moving": "masked pixels, moving objects (SMILE)",
        "supervised": "supervised, same size and budget",
    }
    rows = {key: Row(name) for key, name in names.items()}
    moving = Motion(scales=size.scales, whole_pixels=False)
    # The same objects at the same places, which stay as they are in the first frame.
    standing = replace(moving, path="static", size_velocity=0, rotation_velocity=0)
    insides = {key: Row(names[key]) for key in ("untrained", "still", "moving", "supervised")}
    for seed in range(seeds):
        data = make_data(size, seed, device)
        torch.manual_seed(seed)
        networks = {
            "untrained": encoder(size).to(device),
            "still": train_masked(data, size, seed, standing),
            "moving": train_masked(data, size, seed, moving),
            "supervised": train_supervised(data, size, seed),
        }
        rows["frame"].add(probe(lambda video: single_frame(video, size.frames // 2), data))
        rows["difference"].add(probe(frame_difference, data))
        for key, backbone in networks.items():
            rows[key].add(probe(lambda video, backbone=backbone: features(backbone, video), data))  # type: ignore[misc]
            insides[key].add(anatomy(backbone, data))
        print(f"seed {seed} done after {(time.perf_counter() - start) / 60:.1f} min", flush=True)
    chance = Row("chance")
    for column in rows["untrained"].scores:
        classes = MOTION_CLASSES if column.startswith("motion") else SHAPES
        chance.add({column: 100 / len(classes)})
    everything = [chance, *rows.values()]
    print(table(everything))
    print("\nWhat the features' variance is made of:\n")
    print(table(list(insides.values())))
    minutes = (time.perf_counter() - start) / 60
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, CPU"
    print(f"{seeds} seeds, {minutes:.0f} min, {where}; spread (largest minus smallest) in brackets")
    if out is not None:
        result = {"size": asdict(size), "seeds": seeds, "minutes": minutes, "machine": where}
        tables = {"rows": [asdict(row) for row in everything], "anatomy": [asdict(row) for row in insides.values()]}
        out.write_text(json.dumps(result | tables, indent=1))


if __name__ == "__main__":
    auto_cli({"smile": smile}, as_positional=False)

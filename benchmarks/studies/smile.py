"""Masked pixels without and with moving objects: SMILE's claim that it learns without natural video (table 7).

All rows are evaluated alike (`READOUT`, written before any run): frozen tokens averaged per time slice and concatenated, then
a linear probe (standardised with the training clips' statistics) and a kNN probe. The probes use labelled clips of moving
objects over the same family of backgrounds as pretraining; `shifted` columns test on another family with the probe trained
on the first. Next to the trained rows are chance, one frame, raw frame differences, the untrained network, and a supervised
network of the same size, data and budget.

A second table shows what the variance of the features consists of, which determines nearest neighbours: the fraction that a
linear function of each quantity explains, the number of directions that contain it (exponential of the entropy of the principal
variances), and kNN after whitening, where all directions have equal weight.
"""

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.studies.harness import Row, Study, chance, probe_rows, random_rows, train
from benchmarks.studies.masked import ViTSize, encoder, features, train_supervised
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import unlabelled
from modules.downstream.metrics.probes import knn_accuracy
from modules.layers.targets import PixelTarget
from modules.masks.tokens import TubeMask
from modules.methods.smile import SMILE, PasteSettings
from modules.motion.appearance import SHAPES, ObjectBank
from modules.motion.trajectory import Motion
from modules.scenes.backgrounds import Background
from modules.scenes.classes import MOTION_CLASSES, Split
from modules.scenes.objects import SyntheticClips, make_clips
from modules.training.method import Method


@dataclass
class Size(ViTSize):
    """Networks, clips and length of training.

    Args:
        scales: sizes of pasted objects, in pixels of a 224-pixel picture.
    """

    scales: tuple[float, ...] = (64, 96, 128)


@dataclass
class Data:
    """Clips of one run."""

    still: Tensor
    """uint8 [pool, T, H, W, 3], backgrounds on which nothing moves"""
    probe: SyntheticClips
    test: SyntheticClips
    shifted: SyntheticClips


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


def share_explained(rows: Tensor, quantity: Tensor) -> float:
    """Fraction of the variance of rows [N, D] that is explained by an affine function of a quantity [N, k]."""
    centred = (rows - rows.mean(0)).double()
    regressors = torch.cat([quantity.double(), torch.ones(len(rows), 1, device=rows.device)], dim=1)
    rest = centred - regressors @ torch.linalg.lstsq(regressors, centred).solution
    return float(1 - rest.square().sum() / centred.square().sum())


def anatomy(backbone: VideoViT, data: Data) -> dict[str, float]:
    """Composition of the variance of the features; fractions and accuracies are in percent."""
    train, test = (features(backbone, clips.video) for clips in (data.probe, data.test))
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


def train_masked(data: Data, size: Size, seed: int, motion: Motion) -> VideoViT:
    """SMILE on still backgrounds with pixels as target and one object in each clip."""
    method: Method = SMILE(
        encoder(size, seed),
        PixelTarget(normalise=False),
        TubeMask(size.mask_ratio),
        PasteSettings(ObjectBank(side=size.side), 1, motion),
        masks_per_clip=1,
        decoder=DecoderSettings(1),
    ).to(data.still.device)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(data.still), size.batch, generator)
        return method.step(unlabelled(data.still[rows][:, None]), generator)["loss"]

    final = train(method, loss_of, size.steps, size.lr, seed)[-1]
    print(f"  seed {seed}: masked pixels, {motion.path} objects: loss {final:.5f}", flush=True)
    return method.backbone  # type: ignore[return-value]


def smile(size: Size = Size(), seeds: int = 3, out: Path | None = None) -> None:  # noqa: B008  (never mutated)
    """SMILE's 'no natural video' claim: masked pixels without and with moving objects. Under an hour on two CPU cores.

    Args:
        size: networks, clips and budget.
        seeds: number of repetitions; data, weights and batches change with the seed.
        out: JSON file to write.
    """
    study = Study(seeds)
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
    # The same objects at the same positions, but frozen in the first frame.
    standing = replace(moving, path="static", size_velocity=0, rotation_velocity=0)
    insides = {key: Row(names[key]) for key in ("untrained", "still", "moving", "supervised")}
    for seed in range(seeds):
        data = make_data(size, seed, study.device)
        tests = {"": data.test, ", shifted": data.shifted}
        networks = {
            "untrained": encoder(size, seed).to(study.device),
            "still": train_masked(data, size, seed, standing),
            "moving": train_masked(data, size, seed, moving),
            "supervised": train_supervised(data.probe, size, seed),
        }
        probe_rows(rows, {key: partial(features, backbone) for key, backbone in networks.items()}, data.probe, tests)
        for key, backbone in networks.items():
            insides[key].add(anatomy(backbone, data))
        print(f"seed {seed} done after {study.minutes:.1f} min", flush=True)
    everything = [chance(rows["untrained"]), *rows.values()]
    tables = {"rows": everything, "What the features' variance is made of": list(insides.values())}
    study.finish(tables, asdict(size), out)

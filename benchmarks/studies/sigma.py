"""Masked pixels against SIGMA's learned features, and tube masks against green noise.

The papers' claims: features of a small MLP, kept from collapse by balanced assignments, teach more than pixels (SIGMA), and
clusters of hidden tokens that drift over time teach more than tubes (structured-noise masking). All rows use the same
unlabelled clips, in which a texture fills the frame and moves: with a still background, most hidden tokens would be alike, and
assignments that must use all prototypes equally have no meaningful differences to use. The readout, written before any run,
is frozen tokens averaged per time slice and concatenated, then a linear and a kNN probe: on objects over black, which do not
occur in pretraining; `shifted`, over another family of backgrounds with the probe trained over black; and on `grounds` like
those of pretraining.

A second table shows the pretext task: the loss over its first and last tenth of the steps, and for SIGMA how many of the
prototypes are in use at the end: perplexity of the assignments over K, for targets and predictions, and how often both agree.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.studies.harness import Row, Study, chance, probe_rows, random_rows, train
from benchmarks.studies.masked import ViTSize, encoder, features, train_supervised
from modules.backbones.vit.decoder import DecoderSettings
from modules.core.batch import unlabelled
from modules.core.output import StepOutput
from modules.layers.targets import PixelTarget
from modules.losses.sinkhorn import SinkhornSettings
from modules.masks.base import MaskGenerator
from modules.masks.noise import Green3D
from modules.masks.tokens import TubeMask
from modules.methods.sigma import SIGMA, MLPSettings
from modules.methods.videomae import VideoMAE
from modules.scenes.backgrounds import Background
from modules.scenes.classes import Split
from modules.scenes.objects import SyntheticClips, make_clips
from modules.scenes.textures import make_grounds


@dataclass
class Size(ViTSize):
    """Networks, clips and length of training.

    Args:
        lr: peak learning rate of pixels and of the supervised network.
        lr_features: peak learning rate of SIGMA. With much higher rates, the assignments of some runs never agree.
        normalise: pixels normalised by each cube, for targets of both methods.
        prototypes: number of SIGMA's prototypes.
        projection: widths of the layers of SIGMA's MLP.
    """

    lr: float = 2e-3
    lr_features: float = 5e-4
    normalise: bool = True
    prototypes: int = 64
    projection: tuple[int, ...] = (128, 128, 64)


@dataclass
class Data:
    """Clips of one run."""

    pool: Tensor
    """uint8 [pool, T, H, W, 3], grounds without labels"""
    probe: SyntheticClips
    tests: dict[str, SyntheticClips]
    ground_probe: SyntheticClips
    ground_tests: dict[str, SyntheticClips]


def make_data(size: Size, seed: int, device: torch.device) -> Data:
    """Generate all clips of a seed on the device. Probes use other clips than pretraining."""

    def objects(count: int, split: Split, family: Background) -> SyntheticClips:
        return make_clips(count, size.frames, size.side, split, seed, (family,), device=device)

    def grounds(count: int, split: Split, view: int = 0) -> SyntheticClips:
        return make_grounds(count, size.frames, size.side, split, seed, view=view, device=device)

    return Data(
        grounds(size.pool, "train", view=1).video,
        objects(size.probe_clips, "train", size.family),
        {"": objects(size.test_clips, "val", size.family), ", shifted": objects(size.test_clips, "val", size.shifted)},
        grounds(size.probe_clips, "train"),
        {", grounds": grounds(size.test_clips, "val")},
    )


def videomae(size: Size, seed: int, mask: MaskGenerator) -> VideoMAE:
    """VideoMAE with pixel targets."""
    return VideoMAE(encoder(size, seed), PixelTarget(size.normalise), mask, decoder=DecoderSettings(1))


def sigma_mlp(size: Size, seed: int, mask: MaskGenerator) -> SIGMA:
    """SIGMA with an MLP that is trained jointly."""
    return SIGMA(
        encoder(size, seed),
        PixelTarget(size.normalise),
        mask,
        mlp=MLPSettings(list(size.projection)),
        num_prototypes=size.prototypes,
        sinkhorn=SinkhornSettings(epsilon=0.05),
        decoder=DecoderSettings(1),
    )


def train_masked(name: str, method: VideoMAE | SIGMA, data: Data, size: Size, seed: int) -> dict[str, float]:
    """Train on unlabelled clips; returns the values of the second table."""
    last: StepOutput = {}

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(data.pool), size.batch, generator)
        output = method.step(unlabelled(data.pool[rows][:, None]), generator)
        last.update(output)
        return output["loss"]

    lr = size.lr_features if isinstance(method, SIGMA) else size.lr
    losses = train(method.to(data.pool.device), loss_of, size.steps, lr, seed)
    facts = {"loss, first tenth": losses[0], "loss, last tenth": losses[-1]}
    if isinstance(method, SIGMA):
        for column in ("perplexity_target", "perplexity_prediction", "agreement"):
            facts[column.replace("_", ", ") + ", %"] = 100 * last["log"][column].item()
    print(f"  seed {seed}: {name}: " + ", ".join(f"{what} {value:.3f}" for what, value in facts.items()), flush=True)
    return facts


def sigma(size: Size = Size(), seeds: int = 3, out: Path | None = None) -> None:  # noqa: B008  (never mutated)
    """SIGMA against VideoMAE, and green-noise against tube masks, for both. Under an hour on two CPU cores.

    Args:
        size: networks, clips and budget.
        seeds: number of repetitions; data, weights and batches change with the seed.
        out: JSON file to write.
    """
    study = Study(seeds)
    names = {
        "pixels, tubes": "VideoMAE, tube masks",
        "pixels, green": "VideoMAE, Green3D masks",
        "features, tubes": "SIGMA-MLP, tube masks",
        "features, green": "SIGMA-MLP, Green3D masks",
    }
    rows = {
        "frame": Row("one frame (raw pixels)"),
        "difference": Row("raw frame difference"),
        "untrained": Row("untrained network"),
        **{key: Row(name) for key, name in names.items()},
        "supervised": Row("supervised, same size and budget"),
    }
    pretext = {key: Row(name) for key, name in names.items()}
    for seed in range(seeds):
        data = make_data(size, seed, study.device)
        networks = {"untrained": encoder(size, seed).to(study.device)}
        for key, name in names.items():
            mask = Green3D(size.mask_ratio) if "green" in key else TubeMask(size.mask_ratio)
            method = (videomae if "pixels" in key else sigma_mlp)(size, seed, mask)
            pretext[key].add(train_masked(name, method, data, size, seed))
            networks[key] = method.backbone
        networks["supervised"] = train_supervised(data.probe, size, seed)
        readouts = {key: partial(features, backbone) for key, backbone in networks.items()}
        probe_rows(rows, readouts, data.probe, data.tests)
        probe_rows(rows, readouts, data.ground_probe, data.ground_tests)
        print(f"seed {seed} done after {study.minutes:.1f} min", flush=True)
    everything = [chance(rows["untrained"]), *rows.values()]
    study.finish({"rows": everything, "The pretexts": list(pretext.values())}, asdict(size), out)

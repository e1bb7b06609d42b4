"""Temporal contrast against tubelet contrast, with all and with a quarter of the training videos.

The paper's claims: contrast of tubelets learns more of motion than contrast of two clips of one video, and loses little with
25 % of the videos. All rows are an R3D-18 with few channels; the readout, written before any run, is its last map averaged per
time slice and concatenated, then a linear and a kNN probe. `shifted` columns test on another family of backgrounds with the
probe trained on the first. The second clip of a video shows the same object, background and class of motion with another
start, speed and heading.

Training videos show objects that move over black or over noise, and all tubelets are squares of one size, so that they
mainly differ in their motion: if colours and sizes identify a pair, such a short run learns nothing else. The key
branch has the paper's momentum, 0.999: with 0.99, such a short run learns to distinguish new keys from old ones
(docs/learning.md).

A second table shows the pretext tasks, from the step on at which the queue has been filled once: the loss, and how often
a query is nearer to its own key than to the other keys of its batch, which are of the same age.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.studies.harness import Row, Study, StudySize, chance, probe_rows, random_rows, train
from modules.backbones.cnn.resnet import VideoResNet
from modules.core.batch import unlabelled
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.methods.moco import MoCo
from modules.methods.tubelet_contrast import TubeletContrast
from modules.motion.tubelets import TubeletSettings
from modules.scenes.backgrounds import Background
from modules.scenes.classes import MOTION_CLASSES, Split
from modules.scenes.objects import SyntheticClips, make_clips


@dataclass
class Size(StudySize):
    """Networks, clips and length of training.

    Args:
        width: channels of the first stage of R3D-18; 64 is the published network.
        queue_size: number of keys that are kept as negatives; 0 uses those of the batch.
        momentum: momentum of the key branch.
        temperature: temperature of the loss, as in MoCo.
        scale: side of all tubelets, in pixels of a 224-pixel picture.
        pretraining: backgrounds of the training videos.
    """

    steps: int = 400
    pool: int = 2048
    width: int = 16
    queue_size: int = 512
    momentum: float = 0.999
    temperature: float = 0.07
    scale: float = 96
    pretraining: tuple[Background, ...] = ("black", "noise")


@dataclass
class Data:
    """Clips of one run."""

    videos: Tensor
    """uint8 [pool, 2, T, H, W, 3], two clips of each video without labels"""
    probe: SyntheticClips
    test: SyntheticClips
    shifted: SyntheticClips


def make_data(size: Size, seed: int, device: torch.device) -> Data:
    """Generate all clips of a seed on the device."""

    def clips(count: int, split: Split, families: tuple[Background, ...], view: int = 0) -> SyntheticClips:
        return make_clips(count, size.frames, size.side, split, seed, families, view=view, device=device)

    return Data(
        torch.stack([clips(size.pool, "train", size.pretraining, view).video for view in range(2)], dim=1),
        clips(size.probe_clips, "train", (size.family,)),
        clips(size.test_clips, "val", (size.family,)),
        clips(size.test_clips, "val", (size.shifted,)),
    )


def encoder(size: Size) -> VideoResNet:
    """The network of every row."""
    return VideoResNet("r3d_18", size.width, channels_last=False)


def fresh(size: Size, seed: int) -> VideoResNet:
    """A network with the seed's initial weights."""
    torch.manual_seed(seed)
    return encoder(size)


def pool_map(features: Tensor) -> Tensor:
    """The fixed readout: a map [B, D, t, h, w] averaged over space, with concatenated time slices, [B, D * t]."""
    return features.mean((3, 4)).flatten(1)


@torch.no_grad()
def features(backbone: VideoResNet, video: Tensor) -> Tensor:
    """The fixed readout of a frozen network: uint8 [N, T, H, W, 3] -> [N, D * t]."""
    backbone.eval()
    return torch.cat([pool_map(backbone.forward_features(backbone.preprocess(chunk)).float()) for chunk in video.split(256)])


def train_contrast(name: str, method: MoCo | TubeletContrast, videos: Tensor, size: Size, seed: int) -> dict[str, float]:
    """Train on unlabelled videos; returns the values of the second table."""
    losses, nearest = [], []

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(videos), size.batch, generator)
        output = method.step(unlabelled(videos[rows]), generator)
        losses.append(output["loss"].detach())
        nearest.append(output["log"]["batch_top1"])
        return output["loss"]

    train(method.to(videos.device), loss_of, size.steps, size.lr, seed)
    tenth = max(1, size.steps // 10)
    filled = min(-(-size.queue_size // size.batch), size.steps - tenth)
    facts = {}
    for what, values, factor in (("loss", losses, 1), ("own key nearest in the batch, %", nearest, 100)):
        for when, part in (("first", values[filled : filled + tenth]), ("last", values[-tenth:])):
            facts[f"{what}, {when} tenth"] = factor * torch.stack(part).mean().item()
    print(f"  seed {seed}: {name}: " + ", ".join(f"{what} {value:.2f}" for what, value in facts.items()), flush=True)
    return facts


def train_supervised(data: Data, size: Size, seed: int) -> VideoResNet:
    """The same encoder trained on the probe's labelled clips to classify the motion."""
    backbone = fresh(size, seed)
    with torch.no_grad():
        width = features(backbone, data.probe.video[:1].cpu()).shape[1]
    head = nn.Linear(width, len(MOTION_CLASSES))
    network = nn.ModuleList([backbone, head]).to(data.videos.device)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = random_rows(len(data.probe.video), size.batch, generator)
        maps = backbone.forward_features(backbone.preprocess(data.probe.video[rows]))
        return F.cross_entropy(head(pool_map(maps)), data.probe.motion[rows])

    losses = train(network, loss_of, size.steps, size.lr, seed)
    print(f"  seed {seed}: supervised: loss {losses[0]:.2f} to {losses[-1]:.2f}", flush=True)
    return backbone


def tubelet_contrast(size: Size = Size(), seeds: int = 3, out: Path | None = None) -> None:  # noqa: B008  (never mutated)
    """TubeletContrast's claims: better than temporal contrast, and nearly as good with a quarter of the videos.

    Args:
        size: networks, clips and budget.
        seeds: number of repetitions; data, weights and batches change with the seed.
        out: JSON file to write.
    """
    study = Study(seeds)
    rows = {
        "frame": Row("one frame (raw pixels)"),
        "difference": Row("raw frame difference"),
        "untrained": Row("untrained network"),
        "temporal": Row("MoCo, two clips of a video"),
        "tubelets": Row("TubeletContrast"),
        "quarter": Row("TubeletContrast, 25 % of the videos"),
        "supervised": Row("supervised, same size and budget"),
    }
    pretext = {key: Row(rows[key].name) for key in ("temporal", "tubelets", "quarter")}
    contrast = ContrastSettings(out_dim=64, queue_size=size.queue_size, momentum=size.momentum, temperature=size.temperature)
    alike = TubeletSettings(scales=(size.scale,), ratios=(1.0,), jitter=0.0, shapes=(1.0, 0.0, 0.0), whole_pixels=False)
    for seed in range(seeds):
        data = make_data(size, seed, study.device)
        networks = {key: fresh(size, seed) for key in ("untrained", *pretext)}
        methods: dict[str, MoCo | TubeletContrast] = {
            "temporal": MoCo(networks["temporal"], contrast),
            "tubelets": TubeletContrast(networks["tubelets"], alike, contrast),
            "quarter": TubeletContrast(networks["quarter"], alike, contrast),
        }
        for key, method in methods.items():
            videos = data.videos[: size.pool // 4] if key == "quarter" else data.videos
            pretext[key].add(train_contrast(pretext[key].name, method, videos, size, seed))
        networks["supervised"] = train_supervised(data, size, seed)
        tests = {"": data.test, ", shifted": data.shifted}
        readouts = {key: partial(features, backbone.to(study.device)) for key, backbone in networks.items()}
        probe_rows(rows, readouts, data.probe, tests)
        print(f"seed {seed} done after {study.minutes:.1f} min", flush=True)
    everything = [chance(rows["untrained"]), *rows.values()]
    study.finish({"rows": everything, "The pretexts": list(pretext.values())}, asdict(size), out)

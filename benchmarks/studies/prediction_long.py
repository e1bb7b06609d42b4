"""LV-MAE on generated long videos: the order of their phases.

A video of 36 to 72 s consists of segments of 2 to 4 s; its first, second and last third each show one of three classes of
motion, and its label is their order, one of six. A frozen network, supervised on short clips, turns each window of 8 frames
into the mean of its tokens; windows start every 2 s. The mean of these features over a video hardly depends on the order; their
mean over each third tells it, and is the bound for what a sequence of them can be asked.

The readout: the mean of the tokens of a complete sequence, then a linear probe and kNN on the order.
"""

from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.studies.harness import random_rows, train
from benchmarks.studies.prediction_rows import Size
from modules.backbones.sequence.transformer import SequenceTransformer
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch, Stream
from modules.core.randomness import device_generator
from modules.downstream.metrics.probes import knn_accuracy, linear_accuracy
from modules.masks.sequences import ImportantSteps, RandomSteps
from modules.methods.lvmae import LVMAE
from modules.scenes.classes import Split
from modules.scenes.long import LongSettings, LongVideos

TITLES = {
    "mean": "mean of the input features",
    "thirds": "mean of each third of the input features",
    "empty": "untrained LV-MAE",
    "random": "LV-MAE, random segments",
    "important": "LV-MAE, important segments",
}
VIDEOS = LongSettings(duration=(36.0, 72.0), segment=(2.0, 4.0), fps=4.0)
STEP = 2.0
"""Seconds from window to window."""
PHASES = torch.tensor([0, 4, 6])
"""Classes of motion of the phases: right, clockwise, grow."""
ORDERS = torch.tensor(list(permutations(range(len(PHASES)))))
LONGEST = int(VIDEOS.duration[1] / STEP)
MEASURE_STREAM = 8


class Sequences(NamedTuple):
    """Features of the windows of some videos."""

    feature: Tensor
    """float32 [N, S, D], 0 behind the end"""
    length: Tensor
    """int64 [N]"""
    label: Tensor
    """int64 [N], index of the order"""


def videos_of(index: Tensor, split: Split, seed: int) -> tuple[LongVideos, Tensor]:
    """Long videos with three phases, and the order of each, int64 [N]."""
    videos = LongVideos(index, split, seed, VIDEOS)
    label = videos.index % len(ORDERS)
    middle = (videos.start + videos.end) / 2 / videos.duration[:, None]
    phase = (len(PHASES) * middle).long().clamp_max(len(PHASES) - 1)
    videos.motion = PHASES[ORDERS[label].gather(1, phase)].masked_fill(~videos.there, -1)
    return videos, label


@torch.no_grad()
def encode(network: VideoViT, counts: tuple[int, int], seed: int) -> dict[str, Any]:
    """Features of the windows of training and test videos.

    Args:
        network: frozen network of clips.
        counts: numbers of videos.
        seed: of the videos.

    Returns:
        `train` and `test`, the fields of `Sequences` by name.
    """
    network.eval()
    found = {}
    splits: tuple[Split, Split] = ("train", "val")
    for name, split, count in zip(("train", "test"), splits, counts, strict=True):
        videos, label = videos_of(torch.arange(count), split, seed)
        length = (videos.duration / STEP).long()
        feature = torch.zeros(count, LONGEST, network.embed_dim)
        window = torch.arange(network.num_frames) / VIDEOS.fps
        for number, steps in enumerate(length.tolist()):
            one, _ = videos_of(torch.tensor([number]), split, seed)
            moments = STEP * torch.arange(steps, dtype=torch.float64)[:, None] + window
            clips = one.render(moments[None], network.image_size)[0]
            feature[number, :steps] = network.forward_features(network.preprocess(clips)).mean(1)
        found[name] = {"feature": feature, "length": length, "label": label}
    return found


def thirds(sequences: Sequences) -> Tensor:
    """Mean of each third of the features, one after the other: [N, 3 * D]."""
    parts = [
        torch.cat([third.mean(0) for third in own[:length].tensor_split(len(PHASES))])
        for own, length in zip(sequences.feature, sequences.length.tolist(), strict=True)
    ]
    return torch.stack(parts)


def build(key: str, width: int, seed: int) -> LVMAE:
    """LV-MAE with the seed's initial weights."""
    torch.manual_seed(seed)
    backbone = SequenceTransformer(width, depth=4, num_heads=3, max_steps=LONGEST)
    mask = ImportantSteps(0.5) if key == "important" else RandomSteps(0.5)
    return LVMAE(backbone, mask, DecoderSettings(depth=2, dim=width // 2, heads=1))


def batch_of(sequences: Sequences, rows: Tensor) -> Batch:
    """Some sequences as a batch."""
    stream = Stream("feature", sequences.feature[rows][:, None], length=sequences.length[rows])
    return Batch(rows, torch.full_like(rows, -1), {"feature": stream})


def measure(key: str, sequences: dict[str, Any], size: Size, seed: int) -> dict[str, Any]:
    """Measure a row.

    Args:
        key: one of `TITLES`.
        sequences: see `encode`.
        size: budget.
        seed: of weights and batches.
    """
    train_set, test_set = (Sequences(**sequences[name]) for name in ("train", "test"))
    content: dict[str, Any] = {}
    if key in ("mean", "thirds"):
        known, new = (
            thirds(part) if key == "thirds" else part.feature.sum(1) / part.length[:, None] for part in (train_set, test_set)
        )
    else:
        method = build(key, train_set.feature.shape[2], seed)
        if key != "empty":

            def loss_of(step: int, generator: torch.Generator) -> Tensor:
                rows = random_rows(len(train_set.label), size.long_batch, generator)
                return method.step(batch_of(train_set, rows), generator)["loss"]

            content["losses"] = train(method, loss_of, size.long_steps, size.long_lr, seed)
        method.eval()
        with torch.no_grad():
            everything = torch.arange(len(test_set.label))
            output = method.step(batch_of(test_set, everything), device_generator("cpu", seed, MEASURE_STREAM))
            content["pretext"] = {name: float(value) for name, value in output["log"].items()}
            known, new = (method.backbone(method.normalise(part.feature)) for part in (train_set, test_set))
    content["probe"] = {
        name: 100 * of(known, train_set.label, new, test_set.label)
        for name, of in (("order linear", linear_accuracy), ("order kNN", knn_accuracy))
    }
    return content

"""The pretexts of the study `order_and_contrast`: how each method gets its clips, its measure, and what its encoder may see.

All methods have the same small encoder of clips, so Shuffle & Learn, OPN and Odd-One-Out see short clips in place of frames.
All but PRP and RSPNet see every second frame of a video, as the readout does; these two play single frames at their rates.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.studies.harness import Budget
from modules.augment.clip_jitter import ClipJitter
from modules.augment.frames import FrameAugmentation, crop_pieces
from modules.augment.pieces import cut_pieces, runs
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.core.batch import Batch, unlabelled
from modules.core.randomness import device_generator
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.methods.cvrl import CVRL
from modules.methods.moco import MoCo
from modules.methods.odd_one_out import OddOneOut, SequenceSettings
from modules.methods.opn import OPN, ORDERS
from modules.methods.prp import PRP, AttentionSettings
from modules.methods.rotnet import ANGLES, RotNet
from modules.methods.rspnet import RSPNet
from modules.methods.shuffle_and_learn import ShuffleAndLearn, TripleSettings
from modules.methods.vcop import VCOP
from modules.training.method import Method

EVERY = 2
"""Frames of a video for each one that is shown."""
SIDE = 32
"""Side of what the encoder sees, in pixels."""
PLACES = 3
"""Clips of VCOP's tuple."""
RATES = (1, 2, 4, 8)
FAST = 4
"""Speed that RSPNet compares with 1; the paper's is 2, which differs no more than the speeds of two bodies."""
NEGATIVES = 0.5
"""Share of Shuffle & Learn's tuples that are out of order; the paper has 0.75, with which always saying no is right in 75 %."""
EVEN, SEQUENCE = 5, 6
"""Sub-sequences of Odd-One-Out that are in order, and their frames; of fewer frames, fewer orders look wrong."""
QUESTIONS = 64
"""Tuples or pairs of a batch of the measurement; a contrast compares each query with all keys of its batch."""
NO_COLOUR = ClipJitter(0, 0, 0, 0, 0)
"""RSPNet's windows keep their colours here; changing them takes as long as a quarter of the step, and speed has none."""
OUT_DIM = 64
"""Length of the compared vectors."""
MEASURE_STREAM = 7


@dataclass
class Size(Budget):
    """Network, clips and budget of all rows.

    Args:
        frames: frames of each video, from which the tuples are cut; 8 clips, as PRP's largest rate needs.
        clip: frames of what the encoder sees in training, 4 or a multiple of 8.
        gap: shown frames between the clips of VCOP's tuple.
        margin: pixels by which videos are larger than the crops that the encoder sees.
        width: channels of the encoder's first stage; 64 is the published network.
        hidden: width of all heads.
        momentum: momentum of the key branch of MoCo and RSPNet.
        recorded_steps: optimiser steps on recordings, of which there are fewer.
    """

    frames: int = 32
    steps: int = 340
    batch: int = 32
    lr: float = 2e-3
    pool: int = 2048
    probe_clips: int = 1040
    test_clips: int = 520
    clip: int = 4
    gap: int = 2
    margin: int = 2
    width: int = 8
    hidden: int = 128
    momentum: float = 0.9
    recorded_steps: int = 170


class PlacesResNet(ClipOrderResNet):
    """The small R3D whose feature keeps the places of its map, as that of `CaffeNet` with an `image_size` does. The mean over
    the map would hide where an object is, and with it when it was there.

    Args:
        width: channels of the first stage.
    """

    def __init__(self, width: int) -> None:
        super().__init__("r3d", width, channels_last=False)

    @property
    def feature_dim(self) -> int:
        """Length of a feature."""
        return self.embed_dim * (SIDE // 16) ** 2

    def forward(self, video: Tensor) -> Tensor:
        """The last map averaged over time: [B, 3, T, SIDE, SIDE] -> [B, feature_dim]."""
        return self.forward_features(video).mean(2).flatten(1)


def encoder(size: Size, seed: int, places: bool = False) -> ClipOrderResNet:
    """The network of every row, with the seed's initial weights.

    Args:
        size: its width.
        seed: of the weights.
        places: its feature keeps the places of the map; the layers and weights are the same.
    """
    torch.manual_seed(seed)
    return PlacesResNet(size.width) if places else ClipOrderResNet("r3d", size.width, channels_last=False)


class Pretext(NamedTuple):
    """A method of the study."""

    title: str
    build: Callable[[VideoCNN, Size], Method]
    take: Callable[[Tensor, Size, torch.Generator, bool], Tensor]
    """videos uint8 [B, L, S, S, 3], size, generator, whether all clips of a sample have one crop -> clips [B, V, T, ...]"""
    measures: dict[str, tuple[str, float]]
    """what a step logs: the name of its column, and chance in percent"""
    ways: tuple[str, ...]
    """how it is asked, of `CHANGES`"""
    rate: float = 1.0
    """factor of the learning rate"""
    every: int = EVERY
    """frames of a video for each one that it gets"""
    tuples: bool = False
    """whether it compares when parts of a video were: then features keep places (`PlacesResNet`), and generated bodies get
    faster; Odd-One-Out compares how parts move"""


EACH_WAY = ("normal", "frames shuffled", "static", "one crop")
SINGLE = EACH_WAY[:3]
"""Of methods that see one clip of a video."""


# --- Clips ---


def cut(videos: Tensor, start: Tensor, frames: int, size: Size, generator: torch.Generator, shared: bool) -> Tensor:
    """Clips of videos, each with its own crop.

    Args:
        videos: uint8 [B, L, S, S, 3]
        start: int64 [B, V], first frame of each clip.
        frames: frames of a clip, T.
        size: margin of the crops.
        generator: source of randomness.
        shared: all clips of a video have the same crop.

    Returns:
        uint8 [B, V, T, SIDE, SIDE, 3]
    """
    count, views = start.shape
    corner = torch.randint(0, size.margin + 1, (count, 1 if shared else views, 2), generator=generator)
    return crop_pieces(cut_pieces(videos, runs(start, frames)), corner.expand(-1, views, -1), SIDE)


def starts(videos: Tensor, span: int, views: int, generator: torch.Generator) -> Tensor:
    """Independent first frames of clips of `span` frames: int64 [B, views]."""
    return torch.randint(0, videos.shape[1] - span + 1, (len(videos), views), generator=generator)


def in_order(videos: Tensor, size: Size, generator: torch.Generator, shared: bool) -> Tensor:
    """VCOP's tuple: clips with equal gaps."""
    step = size.clip + size.gap
    first = starts(videos, PLACES * size.clip + (PLACES - 1) * size.gap, 1, generator)
    return cut(videos, first + step * torch.arange(PLACES), size.clip, size, generator, shared)


def complete(videos: Tensor, size: Size, generator: torch.Generator, shared: bool) -> Tensor:
    """Complete videos, uncropped: the method cuts out its tuple, and crops each piece."""
    return videos[:, None]


def one_crop(videos: Tensor, size: Size, generator: torch.Generator, shared: bool) -> Tensor:
    """Complete videos with one crop: PRP plays them at its rates."""
    return cut(videos, torch.zeros(len(videos), 1, dtype=torch.int64), videos.shape[1], size, generator, shared)


def one_clip(videos: Tensor, size: Size, generator: torch.Generator, shared: bool) -> Tensor:
    """A clip from anywhere."""
    return cut(videos, starts(videos, size.clip, 1, generator), size.clip, size, generator, shared)


def two_clips(videos: Tensor, size: Size, generator: torch.Generator, shared: bool) -> Tensor:
    """Two clips from anywhere."""
    return cut(videos, starts(videos, size.clip, 2, generator), size.clip, size, generator, shared)


def two_windows(videos: Tensor, size: Size, generator: torch.Generator, shared: bool) -> Tensor:
    """Two windows from anywhere that are long enough for RSPNet's higher speed."""
    return cut(videos, starts(videos, FAST * size.clip, 2, generator), FAST * size.clip, size, generator, shared)


# --- Methods ---


def triples(size: Size) -> TripleSettings:
    """Shuffle & Learn's tuples."""
    return TripleSettings(size.clip, 4 * size.clip, NEGATIVES, frames=size.clip)


def crops(size: Size) -> FrameAugmentation:
    """Crops of the pieces of a tuple, each moved on its own. Channels are not split: most of a small object would be lost."""
    return FrameAugmentation(size.margin, min(1, size.margin))


def contrast(size: Size) -> ContrastSettings:
    """Key branch of MoCo and RSPNet. Negatives are the other keys of the batch: with a queue, so short a run only learns to
    separate new keys from old ones (docs/learning.md)."""
    return ContrastSettings(hidden=0, out_dim=OUT_DIM, queue_size=0, momentum=size.momentum, temperature=0.2)


PRETEXTS = {
    "moco": Pretext(
        "MoCo",
        lambda backbone, size: MoCo(backbone, contrast(size), flip=0.0),
        two_clips,
        {"batch_top1": (f"own clip of {QUESTIONS}", 100 / QUESTIONS)},
        ("normal",),
    ),
    "vcop": Pretext(
        "VCOP",
        lambda backbone, size: VCOP(backbone, PLACES, size.hidden, dropout=0.0),
        in_order,
        {"top1": (f"order of {PLACES} clips", 100 / math.factorial(PLACES))},
        EACH_WAY,
        tuples=True,
    ),
    "shuffle_and_learn": Pretext(
        "Shuffle & Learn",
        lambda backbone, size: ShuffleAndLearn(backbone, triples(size), crops(size), size.hidden, flip=0.0),
        complete,
        {"top1": ("in order or not", 100 * max(NEGATIVES, 1 - NEGATIVES))},
        EACH_WAY,
        tuples=True,
    ),
    "opn": Pretext(
        "OPN",
        lambda backbone, size: OPN(backbone, crops(size), size.clip, hidden=size.hidden, flip=0.0),
        complete,
        {"top1": ("order of 4 clips", 100 / len(ORDERS))},
        EACH_WAY,
        tuples=True,
    ),
    "odd_one_out": Pretext(
        "Odd-One-Out",
        lambda backbone, size: OddOneOut(
            backbone, SequenceSettings(EVEN, SEQUENCE), augmentation=crops(size), hidden=size.hidden, flip=0.0
        ),
        complete,
        {"top1": (f"odd one of {EVEN + 1}", 100 / (EVEN + 1))},
        EACH_WAY,
    ),
    "prp": Pretext(
        "PRP",
        lambda backbone, size: PRP(backbone, size.clip, RATES, AttentionSettings(patch=8, stride=2), rate_weight=1.0),
        one_crop,
        {"rate_accuracy": (f"rate of {len(RATES)}", 100 / len(RATES))},
        SINGLE,
        every=1,
    ),
    "rotnet": Pretext(
        "RotNet",
        lambda backbone, size: RotNet(backbone, flip=0.0),
        one_clip,
        {"accuracy": (f"angle of {len(ANGLES)}", 100 / len(ANGLES))},
        SINGLE,
    ),
    "rspnet": Pretext(
        "RSPNet",
        lambda backbone, size: RSPNet(backbone, contrast(size), (FAST,), "sample", colour=NO_COLOUR, flip=0.0),
        two_windows,
        {"speed_accuracy": ("nearer in speed", 50), "batch_top1": (f"own clip of {QUESTIONS}", 100 / QUESTIONS)},
        EACH_WAY,
        rate=2.0,
        every=1,
    ),
    "cvrl": Pretext(
        "CVRL",
        lambda backbone, size: CVRL(backbone, size.hidden, OUT_DIM, flip=0.0),
        two_clips,
        {"top1": (f"own clip of {QUESTIONS}", 100 / QUESTIONS)},
        ("normal",),
    ),
}


# --- Measurement ---

Change = Callable[[Tensor, torch.Generator], Tensor]
"""float [B, 3, T, H, W] -> the same shape"""


def shuffled(clips: Tensor, generator: torch.Generator) -> Tensor:
    """The frames of each clip in a random order, another one for each clip."""
    order = torch.rand(len(clips), clips.shape[2], generator=generator).argsort(1)
    return clips.gather(2, order[:, None, :, None, None].expand_as(clips))


def still(clips: Tensor, generator: torch.Generator) -> Tensor:
    """One frame of each clip, repeated."""
    middle = clips.shape[2] // 2
    return clips[:, :, middle : middle + 1].expand_as(clips)


CHANGES: dict[str, Change | None] = {"normal": None, "frames shuffled": shuffled, "static": still, "one crop": None}
"""What the encoder sees of each clip, by the column of the shortcuts; `one crop` changes the crops instead."""


def _changed(original: Callable[[Tensor], Tensor], change: Change, generator: torch.Generator, clips: Tensor) -> Tensor:
    return original(change(clips, generator))


@contextmanager
def seeing(method: Method, change: Change | None, generator: torch.Generator) -> Iterator[None]:
    """Context in which all encoders of a method see changed clips."""
    encoders: list[Any] = []
    if change is not None:
        encoders = [part for part in method.modules() if isinstance(part, VideoCNN)]
        for one in encoders:
            one.forward_features = partial(_changed, one.forward_features, change, generator)
    try:
        yield
    finally:
        for one in encoders:
            del one.forward_features


@torch.no_grad()
def ask(pretext: Pretext, method: Method, videos: Tensor, size: Size, seed: int, how: str) -> dict[str, float]:
    """The pretext's own measures in percent, one question for each unseen video; the same ones for each way to ask.

    Args:
        pretext: its clips and measures.
        method: trained method.
        videos: uint8 [N, L, S, S, 3]; an incomplete last batch is not used.
        size: see `Size`.
        seed: seed of the questions.
        how: one of `CHANGES`.
    """
    asked: Any = method.eval()
    own, shared = getattr(asked, "augmentation", None), how == "one crop"
    found: list[list[float]] = []
    if shared and isinstance(own, FrameAugmentation):
        asked.augmentation = FrameAugmentation(size.margin)
    for number, part in enumerate(videos.split(QUESTIONS)):
        if len(part) < QUESTIONS and found:
            continue
        generator = device_generator("cpu", seed, MEASURE_STREAM, number)
        clips = pretext.take(part[:, :: pretext.every], size, generator, shared)
        with seeing(method, CHANGES[how], device_generator("cpu", seed, MEASURE_STREAM + 1, number)):
            log = asked.step(unlabelled(clips), generator)["log"]
        found.append([float(log[name]) for name in pretext.measures])
    if isinstance(own, FrameAugmentation):
        asked.augmentation = own
    means = torch.tensor(found).mean(0).tolist()
    return {column: 100 * mean for (column, _), mean in zip(pretext.measures.values(), means, strict=True)}


def batch_of(pretext: Pretext, pool: Tensor, size: Size, generator: torch.Generator) -> Batch:
    """A random training batch."""
    rows = torch.randint(len(pool), (size.batch,), generator=generator)
    return unlabelled(pretext.take(pool[rows, :: pretext.every], size, generator, False))

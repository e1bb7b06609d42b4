"""How a network is pretrained in the benchmark `real_motion`: the settings that trials vary, and what they build."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.real.data import SIDE, Data, Draw, colour, cut
from benchmarks.real.networks import Network, vit
from benchmarks.studies.harness import random_rows, train
from benchmarks.studies.prediction_rows import DEVIATIONS, DIFFERENCES, NORMALISED, PLAIN, SCALES
from modules.backbones.vit.decoder import DecoderSettings
from modules.core.batch import Batch, unlabelled
from modules.layers.targets import Target
from modules.losses.sinkhorn import SinkhornSettings
from modules.masks.base import MaskGenerator
from modules.masks.tokens import RandomMask, TubeMask
from modules.methods.sigma import SIGMA, MLPSettings
from modules.methods.smile import SMILE, PasteSettings
from modules.methods.videomae import VideoMAE
from modules.motion.appearance import ObjectBank
from modules.motion.trajectory import Motion
from modules.training.method import Method

BATCH = 32
TARGETS: dict[str, Target] = {
    "normalised": NORMALISED,
    "plain": PLAIN,
    "differences": DIFFERENCES,
    "deviations": DEVIATIONS,
}


class Trained(NamedTuple):
    """A network and the mean loss of each tenth of its steps."""

    network: Network
    losses: list[float]


@dataclass(frozen=True)
class Recipe(ABC):
    """Settings of a row. A subclass says how its network comes to be, whatever its input is.

    Args:
        steps: optimiser steps of 32 clips.
        rate: peak learning rate.
        span: see `Draw`.
        scale: see `Draw`.
    """

    kind: ClassVar[Literal["vit", "cnn", "raw"]] = "vit"
    steps: int = 500
    rate: float = 1e-3
    span: int = 32
    scale: float = 1.0

    @property
    def draw(self) -> Draw:
        """How clips are cut."""
        return Draw(self.span, self.scale)

    @abstractmethod
    def train(self, data: Data, seed: int) -> Trained:
        """The trained network with the seed's weights and batches. Labels are those of `data.train` only."""


@dataclass(frozen=True)
class Pretrained(Recipe):
    """A self-supervised method.

    Args:
        generated: share of each batch from the generated world.
        drones: share of each batch from the drone clips.
    """

    generated: float = 0.0
    drones: float = 0.0
    views: ClassVar[int] = 1

    @abstractmethod
    def build(self, seed: int) -> Method:
        """The method with the seed's initial weights."""

    def batch(self, data: Data, generator: torch.Generator) -> Batch:
        """Clips [B, V, T, H, W, 3] of random videos of all sources."""
        more = [(data.generated, round(self.generated * BATCH)), (data.drones, round(self.drones * BATCH))]
        sources = [(data.train.video, BATCH - sum(count for _, count in more)), *more]
        chosen = [videos[random_rows(len(videos), count, generator)] for videos, count in sources if count]
        videos = torch.cat(chosen)
        return unlabelled(colour(torch.stack([cut(videos, self.draw, generator) for _ in range(self.views)], 1)))

    def train(self, data: Data, seed: int) -> Trained:
        """See `Recipe.train`."""
        method = self.build(seed)

        def loss_of(step: int, generator: torch.Generator) -> Tensor:
            return method.step(self.batch(data, generator), generator)["loss"]

        losses = train(method, loss_of, self.steps, self.rate, seed)
        network: Network = next(iter(method.encoders().values()))  # type: ignore[assignment]
        return Trained(network, losses)


@dataclass(frozen=True)
class Masked(Pretrained):
    """VideoMAE, and what other masked methods share with it.

    Args:
        target: what hidden cubes are predicted as: pixels `normalised` in each cube, `plain` pixels, `differences` of frames,
            or `deviations` from the mean of the clip.
        mask: `tube` hides the same places in all frames.
        ratio: share of hidden tokens.
        patch: side of a token in pixels; smaller ones cost more.
    """

    target: Literal["normalised", "plain", "differences", "deviations"] = "normalised"
    mask: Literal["tube", "random"] = "tube"
    ratio: float = 0.75
    patch: int = 8

    @property
    def hidden(self) -> MaskGenerator:
        """The mask."""
        return TubeMask(self.ratio) if self.mask == "tube" else RandomMask(self.ratio)

    def build(self, seed: int) -> Method:
        """See `Pretrained.build`."""
        return VideoMAE(vit(seed, self.patch), TARGETS[self.target], self.hidden, decoder=DecoderSettings(1))


@dataclass(frozen=True)
class Smile(Masked):
    """SMILE with pixels as target.

    Args:
        objects: pasted into each clip.
    """

    objects: int = 1

    def build(self, seed: int) -> Method:
        """See `Pretrained.build`."""
        paste = PasteSettings(ObjectBank(side=SIDE), self.objects, Motion(scales=SCALES, whole_pixels=False))
        decoder = DecoderSettings(1)
        return SMILE(vit(seed, self.patch), TARGETS[self.target], self.hidden, paste, masks_per_clip=1, decoder=decoder)


@dataclass(frozen=True)
class Sigma(Masked):
    """SIGMA with an MLP that is trained jointly.

    Args:
        prototypes: number of them.
        epsilon: of Sinkhorn's assignments.
    """

    prototypes: int = 64
    epsilon: float = 0.05

    def build(self, seed: int) -> Method:
        """See `Pretrained.build`."""
        return SIGMA(
            vit(seed, self.patch),
            TARGETS[self.target],
            self.hidden,
            mlp=MLPSettings([128, 128, 64]),
            num_prototypes=self.prototypes,
            sinkhorn=SinkhornSettings(epsilon=self.epsilon),
            decoder=DecoderSettings(1),
        )

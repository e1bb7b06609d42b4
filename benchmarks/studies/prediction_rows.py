"""Networks, methods and trials of the study `prediction`: targets, masks, rates, and what each pretext is asked."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks.studies.masked import ViTSize, encoder
from benchmarks.studies.sigma import Size as SigmaSize
from benchmarks.studies.sigma import sigma_mlp
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.predictor import PredictorSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.backbones.vit.vjepa_vit import VJEPAViT
from modules.core.preprocessing import IMAGENET, Normalisation
from modules.core.tokens import Grid, patchify
from modules.layers.relations import RelationSettings
from modules.layers.targets import EncoderTarget, PixelTarget, Target
from modules.masks.base import MaskGenerator
from modules.masks.clip import TemporalMask
from modules.masks.tokens import RandomMask, TubeMask
from modules.methods.crossvideomae import AgreementSettings, CrossVideoMAE, ImageBranch
from modules.methods.smile import SMILE, PasteSettings
from modules.methods.videomae import VideoMAE
from modules.methods.vjepa import LONG, SHORT, VJEPA
from modules.motion.appearance import ObjectBank
from modules.motion.trajectory import Motion
from modules.training.method import Method
from modules.training.schedules import Schedule

ASKED = 64
"""Clips of a batch of the pretexts' own measurement; a contrast compares each clip with all of its batch."""
SCALES = (64.0, 96.0, 128.0)
"""Sizes of SMILE's objects, as in the study `smile`, in pixels of a 224-pixel picture."""


@dataclass
class Size(SigmaSize):
    """Networks, clips and budget.

    Args:
        recorded_frames: frames of a clip of a recording.
        recorded_steps: optimiser steps on recordings.
        margin: pixels by which decoded recordings are larger than the clips, which are random crops of them.
        momentum: momentum of V-JEPA's target encoder, where its published schedule starts.
        long_videos: long videos that train LV-MAE and its probe.
        long_tests: unseen long videos.
        long_steps: optimiser steps of LV-MAE.
        long_batch: long videos per step.
        long_lr: peak learning rate of LV-MAE.
    """

    steps: int = 600
    batch: int = 32
    pool: int = 4096
    probe_clips: int = 2048
    test_clips: int = 1024
    recorded_frames: int = 16
    recorded_steps: int = 250
    margin: int = 2
    momentum: float = 0.998
    long_videos: int = 768
    long_tests: int = 384
    long_steps: int = 400
    long_batch: int = 64
    long_lr: float = 1e-3


class ChangeTarget(Target):
    """How pixels differ from a reference, in units of their range, so that what does not move is 0.

    Args:
        reference: the frame `before` (the first frame has differences of 0), or the `mean` over the clip.
    """

    def __init__(self, reference: Literal["before", "mean"]) -> None:
        self.reference = reference

    def dim(self, grid: Grid) -> int:
        """Three values per pixel of a cube."""
        return 3 * grid.token_pixels

    @torch.no_grad()
    def __call__(self, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
        """See `Target.__call__`."""
        pixels = normalisation.restore(video.float())
        before = torch.cat([pixels[:, :, :1], pixels[:, :, :-1]], 2)
        reference = before if self.reference == "before" else pixels.mean(2, keepdim=True)
        return patchify(pixels - reference, grid).transpose(2, 3).flatten(2)


Teacher = Callable[[], VideoViT]
"""Returns the supervised network of the same kind of data and seed."""
Build = Callable[[Size, int, Teacher], Method]
"""Builds a method with the seed's initial weights."""


@dataclass(frozen=True)
class Recipe:
    """A trained row."""

    title: str
    build: Build
    rate: float = 1.0
    """factor of the learning rate"""
    length: float = 1.0
    """factor of the steps"""
    measures: dict[str, tuple[str, float | str]] = field(default_factory=dict)
    """what a step logs: the name of its row in the table, and its value by chance, or the name of the log that has it"""


ERROR: dict[str, tuple[str, float | str]] = {"loss": ("error of hidden cubes", "constant_loss")}
PREDICTION: dict[str, tuple[str, float | str]] = {"prediction_loss": ("error of hidden cubes", "constant_loss")}

AGREEMENT: dict[str, tuple[str, float | str]] = {
    "video_loss": ("error of hidden cubes", "constant_loss"),
    "cross_clip_top1": (f"own frame of {ASKED}", 1 / ASKED),
    "intra_clip_top1": (f"own augmented clip of {ASKED}", 1 / ASKED),
}


def pixels(target: Target, mask: MaskGenerator, size: Size, seed: int, teacher: Teacher) -> Method:
    """VideoMAE with any target and mask."""
    return VideoMAE(encoder(size, seed), target, mask, decoder=DecoderSettings(1))


def sigma(mask: MaskGenerator, size: Size, seed: int, teacher: Teacher) -> Method:
    """SIGMA with an MLP that is trained jointly."""
    return sigma_mlp(size, seed, mask)


def jepa_encoder(size: ViTSize, seed: int) -> VJEPAViT:
    """The network of V-JEPA's row, with the seed's initial weights: it has other positions and other initial weights."""
    torch.manual_seed(seed)
    return VJEPAViT("micro", size.side, size.frames, size.patch, embed_dim=size.embed_dim, depth=size.depth)


def vjepa(size: Size, seed: int, teacher: Teacher) -> Method:
    """V-JEPA with a predictor of two blocks."""
    predictor = PredictorSettings(depth=2, dim=size.embed_dim // 2)
    return VJEPA(jepa_encoder(size, seed), [SHORT, LONG], predictor, Schedule(size.momentum, kind="constant"), flip=0.0)


@torch.no_grad()
def average_loss(method: VJEPA, clips: Tensor) -> Tensor:
    """Loss of predicting for each place in the clip the mean of its targets over clips uint8 [B, T, S, S, 3]."""
    targets = method.targets(patchify(method.normalise(clips), method.backbone.grid).flatten(2))
    return (targets - targets.mean(0)).abs().mean()


def crossvideomae(size: Size, seed: int, teacher: Teacher) -> Method:
    """CrossVideoMAE with VideoMAE's target and mask; the encoder of frames has the same size."""
    backbone = encoder(size, seed)
    shape = (size.patch, size.embed_dim, size.depth, backbone.num_heads)
    frames = FrameTower("vit_base_patch16_224.mae", 1, size.side, 1, "mean", *shape, checkpoint=None)
    image = ImageBranch(0.5, decoder_depth=1, decoder_dim=size.embed_dim // 2, decoder_heads=1)
    agreement = AgreementSettings(dim=64)
    return CrossVideoMAE(backbone, frames, NORMALISED, HALF, DecoderSettings(1), image, agreement, flip=0.0)


def related(random: bool, size: Size, seed: int, teacher: Teacher) -> Method:
    """VideoMAE with the token relations of the supervised network, or of one with other random weights."""
    network = encoder(size, seed + OTHER) if random else teacher()
    relations = RelationSettings(EncoderTarget(network, normalise=False))
    return VideoMAE(encoder(size, seed), NORMALISED, HALF, decoder=DecoderSettings(1), relations=relations)


def smile(ratio: float, size: Size, seed: int, teacher: Teacher) -> Method:
    """SMILE with plain pixels and one object pasted into each clip."""
    paste = PasteSettings(ObjectBank(side=size.side), 1, Motion(scales=SCALES, whole_pixels=False))
    plain, mask = PixelTarget(normalise=False), TubeMask(ratio)
    return SMILE(encoder(size, seed), plain, mask, paste, masks_per_clip=1, decoder=DecoderSettings(1))


OTHER = 10_000
"""Added to the seed of random weights that are not those of the row."""
NORMALISED, PLAIN = PixelTarget(normalise=True), PixelTarget(normalise=False)
DIFFERENCES, DEVIATIONS = ChangeTarget("before"), ChangeTarget("mean")
HALF = TubeMask(0.5)
SLOW = 0.25
"""Factor of the rate of methods with learned targets: at the rate of pixels, SIGMA's branches may never agree."""

RECIPES = {
    "videomae": Recipe("VideoMAE", partial(pixels, NORMALISED, HALF), measures=ERROR),
    "smile": Recipe("SMILE, pixels", partial(smile, 0.5), measures=ERROR),
    "sigma": Recipe("SIGMA-MLP", partial(sigma, HALF), SLOW, measures={"agreement": ("same prototype", "random_agreement")}),
    "vjepa": Recipe("V-JEPA", vjepa, SLOW, measures={"loss": ("difference of hidden features", "average_loss")}),
    "crossvideomae": Recipe("CrossVideoMAE", crossvideomae, measures=AGREEMENT),
    "relations": Recipe("VideoMAE, relations of the supervised network", partial(related, False), measures=PREDICTION),
    "relations_random": Recipe("VideoMAE, relations of random weights", partial(related, True), measures=PREDICTION),
}
"""Trained rows of the main table, except the supervised network."""

TRIALS = {
    "normalised": replace(RECIPES["videomae"], title="normalised pixels, tubes 0.5"),
    "normalised_90": Recipe("normalised pixels, tubes 0.9", partial(pixels, NORMALISED, TubeMask(0.9))),
    "plain": Recipe("plain pixels, tubes 0.5", partial(pixels, PLAIN, HALF)),
    "differences": Recipe("differences of frames, tubes 0.5", partial(pixels, DIFFERENCES, HALF)),
    "deviations": Recipe("deviations from the clip's mean, tubes 0.5", partial(pixels, DEVIATIONS, HALF)),
    "differences_75": Recipe("differences of frames, tubes 0.75", partial(pixels, DIFFERENCES, TubeMask(0.75))),
    "differences_random": Recipe("differences of frames, random 0.5", partial(pixels, DIFFERENCES, RandomMask(0.5))),
    "differences_late": Recipe("differences of frames, second half hidden", partial(pixels, DIFFERENCES, TemporalMask(0.5))),
    "differences_slow": Recipe("differences of frames, tubes 0.5, rate / 4", partial(pixels, DIFFERENCES, HALF), SLOW),
    "differences_long": Recipe("differences of frames, tubes 0.5, 3 x steps", partial(pixels, DIFFERENCES, HALF), 1.0, 3.0),
    "sigma": replace(RECIPES["sigma"], title="SIGMA-MLP, tubes 0.5"),
    "sigma_fast": Recipe("SIGMA-MLP, tubes 0.5, rate x 4", partial(sigma, HALF)),
    "vjepa": replace(RECIPES["vjepa"], title="V-JEPA, short and long blocks"),
    "vjepa_fast": Recipe("V-JEPA, short and long blocks, rate x 4", vjepa),
    "vjepa_long": Recipe("V-JEPA, short and long blocks, 2 x steps", vjepa, SLOW, 2.0),
}
"""The search on the training subjects of UTD-MHAD."""

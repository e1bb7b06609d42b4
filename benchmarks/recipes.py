"""Every method at the size of its recipe in `configs/`, with random weights, and a batch for it: what `cost.py` measures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch

from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.image_towers import PatchTokens
from modules.backbones.skeleton.base import JOINTS, PERSONS
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.text.bert import TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch, Stream
from modules.language.tokenizers import TokenizerSettings
from modules.layers.momentum_contrast import ContrastSettings
from modules.layers.targets import PixelTarget, TowerTarget
from modules.masks.tokens import RunningCellMask, TubeMask
from modules.masks.trajectory import TrajectoryMask
from modules.methods.locomotion import LocoMotion
from modules.methods.moco import MoCo
from modules.methods.sigma import SIGMA, MLPSettings
from modules.methods.skeleton_contrast import SkeletonContrast
from modules.methods.smile import SMILE, PasteSettings
from modules.methods.tubelet_contrast import TubeletContrast
from modules.methods.videomae import VideoMAE
from modules.motion.appearance import ObjectBank
from modules.motion.tubelets import TubeletSettings
from modules.training.method import Method


@dataclass
class Recipe:
    """A method at full size."""

    name: str
    build: Callable[[], Method]
    batch_size: int
    """samples per device"""
    frames: int = 16
    size: int = 224
    clips: int = 1
    skeletons: bool = False

    def batch(self, samples: int | None = None) -> Batch:
        """Random samples, as many as the recipe has if None."""
        count = self.batch_size if samples is None else samples
        number = torch.arange(count)
        if self.skeletons:
            data = torch.randn(count, self.clips, 3, self.frames, JOINTS, PERSONS)
            return Batch(number, number % 2, {"skeleton": Stream("skeleton", data)})
        shape = (count, self.clips, self.frames, self.size, self.size, 3)
        return Batch(number, number % 2, {"video": Stream("video", torch.randint(0, 256, shape, dtype=torch.uint8))})


def tower(normalise: bool) -> TowerTarget:
    """A ViT-B/16 without its published weights, as target; in bf16, as it is kept on a GPU."""
    network: Any = timm.create_model("vit_base_patch16_224.dino", pretrained=False, num_classes=0)
    vit = PatchTokens(network.bfloat16())
    return TowerTarget(vit, vit.embed_dim, vit.image_size, vit.patch_size, normalise)


def cnn() -> VideoResNet:
    """R(2+1)D-18, as TubeletContrast has it."""
    return VideoResNet("r2plus1d_18", bn_eps=1e-3)


RECIPES = [
    Recipe("VideoMAE", lambda: VideoMAE(VideoViT("base"), PixelTarget(), TubeMask(0.9)), 64),
    Recipe("VideoMAE V2", lambda: VideoMAE(VideoViT("base"), PixelTarget(), TubeMask(0.9), decoder_mask=RunningCellMask()), 64),
    Recipe(
        "SMILE",
        lambda: SMILE(VideoViT("base"), tower(True), TrajectoryMask(0.8, visible_share=0.1), PasteSettings(ObjectBank())),
        16,
    ),
    Recipe("SIGMA (DINO)", lambda: SIGMA(VideoViT("base"), tower(False), TubeMask(0.9)), 40),
    Recipe(
        "SIGMA (MLP)",
        lambda: SIGMA(VideoViT("base"), PixelTarget(), TubeMask(0.9), MLPSettings([1024, 1024, 512, 256])),
        40,
    ),
    Recipe("MoCo", lambda: MoCo(cnn(), ContrastSettings(), flip=0.5), 8, size=112, clips=2),
    Recipe(
        "TubeletContrast",
        lambda: TubeletContrast(cnn(), TubeletSettings(), ContrastSettings(), flip=0.5),
        8,
        size=112,
        clips=2,
    ),
    Recipe(
        "LocoMotion",
        lambda: LocoMotion(
            BEiTVideo("base", 224, 8, drop_path=0.1, recompute_blocks=True),
            TextSettings(depth=12, fusion_depth=3),
            TokenizerSettings(max_tokens=32),
        ),
        32,
        frames=8,
    ),
    Recipe(
        "Skeleton contrast",
        lambda: SkeletonContrast(BiGRU(), AGCN(64), contrast=ContrastSettings(temperature=0.07, shuffle=False)),
        64,
        frames=64,
        clips=2,
        skeletons=True,
    ),
]
"""The sizes are those of the YAML files; image towers and CNNs have no published weights here."""

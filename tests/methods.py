"""Every method at tiny size. One line here puts a method under all common tests."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from modules.backbones.video_cnn import VideoResNet
from modules.backbones.video_vit import VideoViT
from modules.core.base import Method
from modules.core.contracts import VideoBatch
from modules.core.optim import AdamWSettings, SGDSettings
from modules.layers.masking import TrajectoryMask, TubeMask
from modules.layers.momentum_contrast import ContrastSettings
from modules.layers.targets import PixelTarget
from modules.moco import MoCo
from modules.motion.appearance import ObjectBank
from modules.motion.trajectory import Motion
from modules.motion.tubelets import TubeletSettings
from modules.smile import SMILE
from modules.tubelet_contrast import TubeletContrast
from modules.videomae import VideoMAE

FRAMES, SIDE = 4, 32
OPTIM = AdamWSettings(base_lr=1e-3, warmup_epochs=0, scale_lr=False)
SGD = SGDSettings(base_lr=0.05)
CONTRAST = ContrastSettings(out_dim=16, queue_size=32)


@dataclass
class Case:
    """A method under test."""

    name: str
    build: Callable[[], Method]
    yaml: str
    clips: int = 1
    """Clips that it takes of each video."""


def tiny_vit() -> VideoViT:
    """Two blocks of width 32 on 4 frames of 32 px: 2 x 4 x 4 tokens."""
    return VideoViT("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path=0.1)


def tiny_cnn() -> VideoResNet:
    """R3D-18 with 4 to 32 channels."""
    return VideoResNet("r3d_18", width=4)


METHODS = [
    Case("VideoMAE", lambda: VideoMAE(tiny_vit(), PixelTarget(), TubeMask(0.5), 1, optim=OPTIM), "videomae.yaml"),
    Case(
        "SMILE",
        lambda: SMILE(tiny_vit(), PixelTarget(), TrajectoryMask(0.5), True, ObjectBank(), 2, Motion(), optim=OPTIM),
        "smile.yaml",
    ),
    Case("MoCo", lambda: MoCo(tiny_cnn(), CONTRAST, optim=SGD), "moco.yaml", clips=2),
    Case(
        "TubeletContrast",
        lambda: TubeletContrast(tiny_cnn(), TubeletSettings(), CONTRAST, optim=SGD),
        "tubelet_contrast.yaml",
        clips=2,
    ),
]


def video_batch(videos: int = 4, clips: int = 1, seed: int = 0) -> VideoBatch:
    """Random clips [B, V, T, H, W, 3] with two labels."""
    g = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (videos, clips, FRAMES, SIDE, SIDE, 3), generator=g, dtype=torch.uint8)
    return {"video": video, "index": torch.arange(videos), "label": torch.arange(videos) % 2}

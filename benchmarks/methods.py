"""Every method of the project at a chosen size, with a random batch and the optimiser of its recipe; nothing is downloaded.

Clips, heads, queues, prototypes and text are those of the recipes in `configs/`. Frozen image towers have random weights,
which cost the same as published ones.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.models.vision_transformer import VisionTransformer

from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.caffenet import CaffeNet, Encoding, Norm
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.cnn.resnet3d import ResNet3D
from modules.backbones.cnn.slow_only import SlowOnly
from modules.backbones.frame_tower import FrameTower
from modules.backbones.image_towers import PatchTokens
from modules.backbones.sequence.transformer import SequenceTransformer
from modules.backbones.skeleton.base import JOINTS, PERSONS
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.text.bert import TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.predictor import PredictorSettings
from modules.backbones.vit.spacetime_vit import SpacetimeViT
from modules.backbones.vit.video_vit import VideoViT
from modules.backbones.vit.vjepa_vit import VJEPAViT
from modules.core.batch import Batch, unlabelled
from modules.core.randomness import device_generator
from modules.language.tokenizers import TokenizerSettings
from modules.layers.targets import InputPixelTarget, PixelTarget, TowerTarget
from modules.masks.clip import UniformMask
from modules.masks.sequences import ImportantSteps
from modules.masks.tokens import TubeMask
from modules.masks.trajectory import TrajectoryMask
from modules.methods.cropmae import CropMAE
from modules.methods.crossvideomae import CrossVideoMAE
from modules.methods.cvrl import CVRL
from modules.methods.locomotion import LocoMotion
from modules.methods.lvmae import LVMAE
from modules.methods.moco import MoCo
from modules.methods.odd_one_out import OddOneOut
from modules.methods.opn import OPN
from modules.methods.prp import PRP
from modules.methods.rotnet import RotNet
from modules.methods.rspnet import RSPNet
from modules.methods.shuffle_and_learn import ShuffleAndLearn, TripleSettings
from modules.methods.siammae import SiamMAE
from modules.methods.sigma import SIGMA, MLPSettings
from modules.methods.skeleton_contrast import SkeletonContrast
from modules.methods.smile import SMILE, PasteSettings
from modules.methods.stmae import STMAE
from modules.methods.tubelet_contrast import TubeletContrast
from modules.methods.vcop import VCOP
from modules.methods.videomae import VideoMAE
from modules.methods.vjepa import VJEPA
from modules.motion.appearance import ObjectBank
from modules.motion.tubelets import TubeletSettings
from modules.training.method import Method
from modules.training.optim import AdamWSettings
from modules.weights.sizes import PRESETS

Size = Literal["micro", "tiny", "small", "base", "large"]
Precision = Literal["32", "bf16"]

SHARE = {"micro": 1 / 16, "tiny": 1 / 4, "small": 1 / 2, "base": 1.0, "large": 1.0}
"""Width of networks without presets, relative to the recipes."""
ADAMW = AdamWSettings(betas=(0.9, 0.95))
FEATURES = 1024
"""Width of LVMAE's features."""


def tower(size: Size, normalise: bool) -> TowerTarget:
    """Features of a ViT-B/16 as a target, or for encoders below ViT-B, of a tower of the encoder's size."""
    preset = PRESETS["base" if size == "large" else size]
    vit = VisionTransformer(224, 16, num_classes=0, embed_dim=preset.embed_dim, depth=preset.depth, num_heads=preset.num_heads)
    return TowerTarget(PatchTokens(vit), preset.embed_dim, 224, 16, normalise)


def images(size: Size) -> FrameTower:
    """MAE's encoder of images."""
    preset = PRESETS[size]
    return FrameTower(
        "vit_base_patch16_224.mae",
        num_frames=1,
        embed_dim=preset.embed_dim,
        depth=preset.depth,
        num_heads=preset.num_heads,
        checkpoint=None,
    )


def smile(size: Size, masks_per_clip: int = 2) -> SMILE:
    """Stage 1, on procedural objects."""
    paste = PasteSettings(ObjectBank())
    mask = TrajectoryMask(0.8)
    return SMILE(VideoViT(size), tower(size, True), mask, paste, masks_per_clip=masks_per_clip, optim=ADAMW)


def stmae(size: Size) -> STMAE:
    """With the decoder of the recipe."""
    decoder = DecoderSettings(4, 512, 16)
    return STMAE(SpacetimeViT(size), InputPixelTarget(), UniformMask(0.9), decoder, optim=ADAMW)


def vjepa(size: Size) -> VJEPA:
    """As in the recipe, with a predictor of 12 heads."""
    return VJEPA(VJEPAViT(size), predictor=PredictorSettings(heads=12))


def cnn(size: Size) -> VideoResNet:
    """R(2+1)D-18; 64 channels at full size."""
    return VideoResNet("r2plus1d_18", width=int(64 * SHARE[size]))


def caffenet(size: Size, norm: Norm, image_size: int, encoding: Encoding = "frames") -> CaffeNet:
    """CaffeNet; 96 channels at full size."""
    return CaffeNet(int(96 * SHARE[size]), norm, encoding=encoding, image_size=image_size)


def locomotion(size: Size) -> LocoMotion:
    """With a text encoder of the encoder's width, including fusion."""
    preset = PRESETS[size]
    text = TextSettings(preset.embed_dim, min(12, preset.depth), min(3, preset.depth - 1), preset.num_heads)
    return LocoMotion(BEiTVideo(size), text, TokenizerSettings(max_tokens=32))


def lvmae(size: Size) -> LVMAE:
    """On features of width 1024, projected to the encoder's width, with the depth of its preset (32 in the recipe)."""
    preset = PRESETS[size]
    backbone = SequenceTransformer(preset.embed_dim, preset.depth, preset.num_heads, input_dim=FEATURES)
    return LVMAE(backbone, ImportantSteps(), DecoderSettings(8, 512, 16), optim=ADAMW)


def skeletons(size: Size) -> SkeletonContrast:
    """Between sequences and graphs."""
    return SkeletonContrast(BiGRU(int(1024 * SHARE[size])), AGCN(int(64 * SHARE[size])))


BUILD: dict[str, Callable[[Size], Method]] = {
    "VideoMAE": lambda size: VideoMAE(VideoViT(size), PixelTarget(), TubeMask(0.9), optim=ADAMW),
    "STMAE": stmae,
    "V-JEPA": vjepa,
    "SMILE": smile,
    "SIGMA-MLP": lambda size: SIGMA(VideoViT(size), PixelTarget(), TubeMask(0.9), MLPSettings(), optim=ADAMW),
    "SIGMA-DINO": lambda size: SIGMA(VideoViT(size), tower(size, False), TubeMask(0.9), optim=ADAMW),
    "CrossVideoMAE": lambda size: CrossVideoMAE(VideoViT(size), images(size), PixelTarget(), TubeMask(0.95), optim=ADAMW),
    "MoCo": lambda size: MoCo(cnn(size)),
    "RSPNet": lambda size: RSPNet(ResNet3D(int(64 * SHARE[size]))),
    "CVRL": lambda size: CVRL(SlowOnly(int(64 * SHARE[size]))),
    "TubeletContrast": lambda size: TubeletContrast(cnn(size), TubeletSettings()),
    "VCOP": lambda size: VCOP(C3D(int(64 * SHARE[size]))),
    "Shuffle & Learn": lambda size: ShuffleAndLearn(caffenet(size, "plain", 227), TripleSettings(5, 20)),
    "OPN": lambda size: OPN(caffenet(size, "scaled", 80)),
    "Odd-One-Out": lambda size: OddOneOut(caffenet(size, "none", 227, "stack_of_differences")),
    "PRP": lambda size: PRP(C3D(int(64 * SHARE[size]))),
    "RotNet": lambda size: RotNet(cnn(size)),
    "SiamMAE": lambda size: SiamMAE(images(size)),
    "CropMAE": lambda size: CropMAE(images(size)),
    "LVMAE": lvmae,
    "LocoMotion": locomotion,
    "SkeletonContrast": skeletons,
}
"""Methods by their names in tables."""
COMPARING = ("CrossVideoMAE", "MoCo", "RSPNet", "CVRL", "TubeletContrast", "LocoMotion", "SkeletonContrast")
"""Methods that compare samples with each other."""
CLIPS = {
    "MoCo": (2, 16, 112),
    "RSPNet": (2, 32, 112),
    "CVRL": (2, 16, 224),
    "TubeletContrast": (2, 16, 112),
    "VCOP": (3, 16, 112),
    "Shuffle & Learn": (1, 31, 227),
    "OPN": (1, 16, 100),
    "Odd-One-Out": (1, 32, 227),
    "PRP": (1, 128, 112),
    "RotNet": (1, 16, 112),
    "LocoMotion": (1, 8, 224),
    "SiamMAE": (2, 1, 224),
    "CropMAE": (1, 1, 224),
}
"""Clips of a video, their frames and their size in pixels; all others have one clip of 16 frames of 224 px."""


def random_batch(name: str, count: int, device: torch.device) -> Batch:
    """`count` random samples for a method; at least two if it compares samples."""
    if name in COMPARING:
        count = max(2, count)
    if name == "SkeletonContrast":
        return unlabelled(torch.randn(count, 2, 3, 64, JOINTS, PERSONS, device=device), "skeleton")
    if name == "LVMAE":
        return unlabelled(torch.randn(count, 1, 256, FEATURES, device=device), "feature")
    clips, frames, side = CLIPS.get(name, (1, 16, 224))
    video = torch.randint(0, 256, (count, clips, frames, side, side, 3), dtype=torch.uint8, device=device)
    return unlabelled(video)


@dataclass
class Job:
    """A method that is trained repeatedly on one batch.

    Args:
        method: method on its device, in training mode.
        batch: batch for `step`.
        optimiser: optimiser of the method's recipe.
        precision: float32, or bf16 under autocast.
    """

    method: Method
    batch: Batch
    optimiser: torch.optim.Optimizer
    precision: Precision
    steps: int = 0

    @property
    def clips(self) -> int:
        """Clips, or recordings, of one step."""
        data = self.batch.stream(self.method.stream, *self.method.kinds).data
        return int(data.shape[0] * data.shape[1])

    def loss(self) -> torch.Tensor:
        """Loss of the batch, with new random numbers in every step."""
        device = self.batch.index.device
        self.steps += 1
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.method.step(self.batch, device_generator(device, self.steps))["loss"]

    def step(self) -> None:
        """A training step: forward, backward, optimiser."""
        self.loss().backward()
        self.update()

    def update(self) -> None:
        """The update after the backward passes."""
        self.optimiser.step()
        self.optimiser.zero_grad()


def job(
    name: str,
    size: Size,
    count: int,
    device: torch.device,
    precision: Precision = "32",
    recompute: bool = False,
    build: Callable[[Size], Method] | None = None,
) -> Job:
    """A method, ready to train.

    Args:
        name: one of `BUILD`.
        size: encoder preset.
        count: samples per step.
        device: device to train on.
        precision: float32, or bf16 under autocast.
        recompute: recompute activations in the backward pass wherever the method supports it.
        build: builds the method instead of `BUILD`.
    """
    method = (build or BUILD[name])(size).to(device).train()
    for part in method.modules():
        if recompute and hasattr(part, "recompute_blocks"):
            part.recompute_blocks = True  # type: ignore[assignment]
    optimiser = method.optim_settings.build(method, 1e-4, method.no_weight_decay())
    return Job(method, random_batch(name, count, device), optimiser, precision)


def machine(device: torch.device) -> dict[str, Any]:
    """Description of the machine."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return {"machine": name, "threads": torch.get_num_threads(), "torch": torch.__version__}

"""Draws inputs and predictions of each method for docs/methods/, with small networks after a short training on generated clips.

python benchmarks/method_pictures.py --out docs/methods
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jsonargparse import auto_cli
from lightning import LightningDataModule
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.generated.long import SyntheticLongVideos
from datamodules.generated.motion import SceneSettings, SyntheticMotion
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.settings import LoadSettings
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.video.samplers import OrderedClips
from datamodules.video.sampling import ClipSettings
from modules.augment.colour import ColourJitter
from modules.augment.frames import FrameAugmentation
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.caffenet import CaffeNet
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.cnn.slow_only import SlowOnly
from modules.backbones.frame_tower import FrameTower
from modules.backbones.sequence.transformer import SequenceTransformer
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.text.bert import TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.cross_decoder import CrossDecoderSettings
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.predictor import PredictorSettings
from modules.backbones.vit.spacetime_vit import SpacetimeViT
from modules.backbones.vit.video_vit import VideoViT
from modules.backbones.vit.vjepa_vit import VJEPAViT
from modules.language.tokenizers import TokenizerSettings
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.layers.masked_autoencoder import MaskedAutoencoder
from modules.layers.targets import InputPixelTarget, PixelTarget
from modules.masks.base import MaskGenerator
from modules.masks.clip import CenterMask, UniformMask
from modules.masks.sequences import ImportantSteps
from modules.masks.tokens import TubeMask
from modules.masks.trajectory import TrajectoryMask
from modules.methods.cropmae import CropMAE
from modules.methods.crossvideomae import AgreementSettings, CrossVideoMAE, ImageBranch
from modules.methods.cvrl import CVRL
from modules.methods.locomotion import LocoMotion
from modules.methods.lvmae import LVMAE
from modules.methods.moco import MoCo
from modules.methods.odd_one_out import OddOneOut, SequenceSettings
from modules.methods.opn import OPN
from modules.methods.prp import PRP, AttentionSettings
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
from modules.motion.trajectory import Motion
from modules.motion.tubelets import TubeletSettings
from modules.scenes.backgrounds import Background
from modules.scenes.long import FeatureSettings, LongSettings
from modules.training.method import Method
from modules.training.optim import PhasedSettings
from modules.training.schedules import Schedule

FRAMES, SIDE, BATCH = 8, 64, 4
LABEL, GAP = 92, 3
SMALL_DECODER = CrossDecoderSettings(2, 96, 3, 192, dropout=0)
SMALL_QUEUE = ContrastSettings(out_dim=16, queue_size=32)
TITLES = {
    "clip": "clip",
    "visible": "what the\nencoder sees",
    "reconstruction": "what the\ndecoder\nfills in",
    "similarity": "cosine of\nprediction\nand target",
    "context_0": "context of\nsmall blocks",
    "similarity_0": "cosine of\nprediction\nand target",
    "context_1": "context of\nlarge blocks",
    "similarity_1": "the same",
    "prototypes_target": "prototypes\nof the target",
    "prototypes_prediction": "prototypes of\nthe prediction",
    "augmented_visible": "visible of\nthe changed\ncopy",
    "image_visible": "visible of\nthe frame",
    "image_reconstruction": "what its\ndecoder\nfills in",
    "first": "first clip",
    "second": "second clip",
    "query": "query",
    "same_speed": "key of the\nsame speed",
    "other_speed": "key of the\nother speed",
    "key": "its key",
    "plain": "recording",
    "place_1": "first clip",
    "place_2": "second clip",
    "place_3": "third clip",
    "captioned": "",
    "between": "true frames\nin between",
    "attention": "motion\nattention",
    "view_1": "first view",
    "masked_view_2": "visible of the\nsecond view",
    "prediction": "prediction of\nthe rest",
    "view_2": "second view",
    "segments": "cosine of\nevery two\nsegments",
    "predicted_segments": "rows: hidden\nsegments as\npredicted",
    "cosines": "bars: cosine of\nprediction;\nline: nearest\nvisible one",
}
"""Titles of rows; other names are shown unchanged."""


@dataclass
class Sheet:
    """Settings of the picture of a method."""

    build: Callable[[], Method]
    data: Callable[[], LightningDataModule]
    rows: tuple[str, ...]
    """names of the method's pictures, from top to bottom"""
    samples: tuple[int, ...] = (0,)
    """indices of the drawn validation samples"""
    steps: int = 0
    """training steps before drawing"""
    every: int = 1
    """every n-th frame is drawn"""
    drawn_mask: MaskGenerator | None = None
    """mask of a masked method in the picture, if it is not that of training"""


def vit() -> VideoViT:
    """Tokens of 2 frames and 8 x 8 pixels."""
    return VideoViT("micro", SIDE, FRAMES, patch_size=8, embed_dim=96, depth=4)


def spacetime_vit() -> SpacetimeViT:
    """The same with learned positions and a class token."""
    return SpacetimeViT("micro", SIDE, FRAMES, patch_size=8, embed_dim=96, depth=4)


def moving(clips: int = 1, ground: bool = False, background: Background = "texture") -> SyntheticMotion:
    """Generated videos: an object over a still background, or a moving texture."""
    clip, scene = ClipSettings(frames=FRAMES, size=SIDE, clips=clips), SceneSettings(backgrounds=[background], ground=ground)
    return SyntheticMotion(clip, 8, train_videos=512, val_videos=16, scene=scene)


def tower(frames: int = 4) -> FrameTower:
    """Patches of 16 x 16 pixels in each frame."""
    name = "vit_base_patch16_224.mae"
    return FrameTower(name, frames, SIDE, patch_size=16, embed_dim=96, depth=2, num_heads=3, checkpoint=None)


def images(clips: int) -> SyntheticMotion:
    """Four frames, or with two clips, four frames and those eight frames later."""
    clip = ClipSettings(frames=4, size=SIDE, clips=clips, sampler=OrderedClips(gap=4))
    return SyntheticMotion(clip, 8, train_videos=512, val_videos=16, scene=SceneSettings(backgrounds=["gradient"]))


def in_order() -> SyntheticMotion:
    """Three clips of each motion."""
    clip = ClipSettings(frames=FRAMES, size=SIDE, clips=3, sampler=OrderedClips(gap=2))
    return SyntheticMotion(clip, 8, train_videos=64, val_videos=16)


def two_windows() -> ClipSettings:
    """Parts of one motion, so that they have its speed."""
    return ClipSettings(frames=2 * FRAMES, size=SIDE, clips=2, sampler=OrderedClips(gap=0))


def playing() -> SyntheticMotion:
    """Windows that are long enough for four times the usual rate."""
    clip, scene = ClipSettings(frames=4 * FRAMES, size=SIDE), SceneSettings(backgrounds=["gradient"])
    return SyntheticMotion(clip, 8, train_videos=16, val_videos=16, scene=scene)


def long_videos() -> SyntheticLongVideos:
    """Sequences of a feature per second, of videos of 10 to 60 seconds."""
    long, features = LongSettings(duration=(10.0, 60.0)), FeatureSettings(step=1.0, width=64)
    return SyntheticLongVideos(
        batch_size=16, reading=LoadSettings(0), train_videos=1024, val_videos=16, long=long, features=features
    )


def small_caffenet() -> CaffeNet:
    """Of single frames."""
    return CaffeNet(12, stem="small")


def locomotion() -> LocoMotion:
    """Like the recipe, but small."""
    backbone = BEiTVideo("micro", SIDE, FRAMES, patch_size=16, embed_dim=32, depth=1, num_heads=2)
    return LocoMotion(backbone, TextSettings(32, 2, 1, 2, positions=40), TokenizerSettings(max_tokens=40))


def crossvideomae() -> CrossVideoMAE:
    """Like the recipe, but small, and with plain pixels."""
    target, image = PixelTarget(normalise=False), ImageBranch(0.75, False, 2, 96, 3)
    settings = DecoderSettings(1), image, AgreementSettings(64)
    return CrossVideoMAE(vit(), tower(1), target, TubeMask(0.75), *settings, flip=0.0)


def smile() -> SMILE:
    """As in the quickstart: pixel targets, and objects over black."""
    paste = PasteSettings(ObjectBank(side=64), 2, Motion(scales=(64, 96)))
    return SMILE(vit(), PixelTarget(normalise=False), TrajectoryMask(0.5), paste, "black", 1, DecoderSettings(1))


def vjepa() -> VJEPA:
    """Small and large blocks."""
    backbone = VJEPAViT("micro", SIDE, FRAMES, patch_size=8, embed_dim=96, depth=4)
    optim = PhasedSettings(1e-3, warmup_epochs=0)
    return VJEPA(backbone, predictor=PredictorSettings(2, 48, 3), momentum=Schedule(0.99, 1.0, "linear"), flip=0.5, optim=optim)


SHEETS = {
    "videomae": Sheet(
        lambda: VideoMAE(vit(), PixelTarget(normalise=False), TubeMask(0.75), DecoderSettings(1)),
        lambda: moving(background="gradient"),
        ("clip", "visible", "reconstruction"),
        steps=640,
    ),
    "stmae": Sheet(
        lambda: STMAE(spacetime_vit(), InputPixelTarget(), UniformMask(0.75), DecoderSettings(2)),
        lambda: moving(background="gradient"),
        ("clip", "visible", "reconstruction"),
        samples=(0, 1),
        steps=192,
        drawn_mask=CenterMask(0.5),
    ),
    "vjepa": Sheet(
        vjepa,
        lambda: moving(ground=True),
        ("clip", "context_0", "similarity_0", "context_1", "similarity_1"),
        steps=128,
    ),
    "smile": Sheet(smile, moving, ("clip", "visible", "reconstruction"), steps=640),
    "sigma": Sheet(
        lambda: SIGMA(vit(), PixelTarget(), TubeMask(0.5), MLPSettings([256, 64]), 32, decoder=DecoderSettings(1)),
        lambda: moving(ground=True),
        ("clip", "visible", "prototypes_target", "prototypes_prediction"),
        steps=640,
    ),
    "crossvideomae": Sheet(
        crossvideomae,
        lambda: moving(background="gradient"),
        ("clip", "visible", "reconstruction", "augmented_visible", "image_visible", "image_reconstruction"),
        steps=128,
    ),
    "siammae": Sheet(
        lambda: SiamMAE(tower(), 0.75, normalise=False, decoder=SMALL_DECODER, flip=0.5),
        lambda: images(2),
        ("view_1", "masked_view_2", "prediction", "view_2"),
        samples=(0, 1),
        steps=64,
    ),
    "cropmae": Sheet(
        lambda: CropMAE(tower(), mask_ratio=0.75, normalise=False, decoder=SMALL_DECODER, flip=0.5),
        lambda: images(1),
        ("view_1", "masked_view_2", "prediction", "view_2"),
        samples=(0, 1),
        steps=64,
    ),
    "moco": Sheet(
        lambda: MoCo(VideoResNet("r3d_18", width=4), SMALL_QUEUE, flip=0.5),
        lambda: moving(2),
        ("query", "key"),
        samples=(0, 1),
    ),
    "rspnet": Sheet(
        lambda: RSPNet(VideoResNet("r3d_18", width=4), replace(SMALL_QUEUE, hidden=0), split="sample", flip=0.5),
        lambda: SyntheticMotion(two_windows(), BATCH, train_videos=64, val_videos=16),
        ("query", "same_speed", "other_speed"),
        samples=(0, 1),
    ),
    "cvrl": Sheet(
        lambda: CVRL(SlowOnly(2, (1, 1, 1, 1)), 16, 16, flip=0.5),
        lambda: moving(2),
        ("first", "second"),
        samples=(0, 1),
    ),
    "tubelet_contrast": Sheet(
        lambda: TubeletContrast(VideoResNet("r3d_18", width=4), TubeletSettings(), SMALL_QUEUE, ColourJitter(), flip=0.5),
        lambda: moving(2),
        ("query", "key"),
        samples=(0, 2),
    ),
    "vcop": Sheet(
        lambda: VCOP(ClipOrderResNet("r3d", width=8, channels_last=False), hidden=64, dropout=0.1),
        in_order,
        ("place_1", "place_2", "place_3"),
        samples=(0, 1),
    ),
    "locomotion": Sheet(locomotion, moving, ("captioned",), samples=(0, 1, 2), every=2),
    "shuffle_and_learn": Sheet(
        lambda: ShuffleAndLearn(small_caffenet(), TripleSettings(3, 6), hidden=64),
        lambda: moving(background="black"),
        ("captioned",),
        samples=(0, 1, 2),
        steps=192,
    ),
    "opn": Sheet(
        lambda: OPN(small_caffenet(), FrameAugmentation(8, 2, True), hidden=64),
        lambda: moving(background="black"),
        ("captioned",),
        samples=(0, 1, 2),
        steps=192,
    ),
    "odd_one_out": Sheet(
        lambda: OddOneOut(CaffeNet(12, stem="small", encoding="stack_of_differences", window=4), SequenceSettings(3, 4)),
        lambda: moving(background="black"),
        ("captioned",),
        samples=(0, 1),
        steps=192,
    ),
    "lvmae": Sheet(
        lambda: LVMAE(SequenceTransformer(64, 2, 4, max_steps=64), ImportantSteps(), DecoderSettings(1, 64, 4), "cosine"),
        long_videos,
        ("segments", "predicted_segments", "cosines"),
        samples=(1,),
        steps=640,
    ),
    "skeleton_contrast": Sheet(
        lambda: SkeletonContrast(BiGRU(8, 1), AGCN(4), contrast=SMALL_QUEUE),
        lambda: SyntheticSkeleton(SkeletonClipSettings(32, 2), 32, train_clips=64, val_clips=16),
        ("plain", "query", "key"),
        every=2,
    ),
    "prp": Sheet(
        lambda: PRP(C3D(8), FRAMES, (1, 2, 4), AttentionSettings(patch=16, stride=4), rate_weight=1.0),
        playing,
        ("clip", "between", "reconstruction", "attention"),
        samples=(0,),
    ),
    # All four copies of the first video.
    "rotnet": Sheet(
        lambda: RotNet(VideoResNet("r3d_18", width=4), every_angle=True, flip=0.0), moving, ("clip",), samples=(0, 1, 2, 3)
    ),
}


def trained(sheet: Sheet, data: LightningDataModule) -> Method:
    """The method after training with AdamW."""
    method = sheet.build()
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=0.05)
    step = 0
    while step < sheet.steps:
        for batch in data.train_dataloader():
            loss = method.step(batch, torch.Generator().manual_seed(step))["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
        print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return method


def drawn(sheet: Sheet) -> Image.Image:
    """A row of frames for each picture of each sample, with its title on the left."""
    data = sheet.data()
    data.setup("fit")
    method = trained(sheet, data)
    if sheet.drawn_mask is not None:
        assert isinstance(method, MaskedAutoencoder)
        method.mask = sheet.drawn_mask
    batch = data.val_dataloader().read(0, list(range(BATCH)))
    with torch.no_grad():
        pictures = method.pictures(method.step(batch, torch.Generator().manual_seed(1)))
    rows = [(name, pictures[name][sample, :: sheet.every]) for sample in sheet.samples for name in sheet.rows]
    return page([(TITLES.get(name, name), row) for name, row in rows], len(sheet.rows))


def page(rows: list[tuple[str, Tensor]], group: int) -> Image.Image:
    """Rows of frames, uint8 [T, H, W, 3] each, below each other; with more space after every `group` rows."""
    frames, height, width = rows[0][1].shape[:3]
    left = LABEL if any(title for title, _ in rows) else 0
    tall = sum(row.shape[1] + GAP for _, row in rows) + (len(rows) // group - 1) * 3 * GAP
    sheet = Image.new("RGB", (left + frames * (width + GAP) - GAP, tall - GAP), "white")
    pen, font, y = ImageDraw.Draw(sheet), ImageFont.load_default(11), 0
    for number, (title, row) in enumerate(rows):
        if number and number % group == 0:
            y += 3 * GAP
        pen.multiline_text((2, y + height // 2), title, "black", font, anchor="lm", spacing=2)
        for column, frame in enumerate(row):
            sheet.paste(Image.fromarray(frame.numpy()), (left + column * (width + GAP), y))
        y += row.shape[1] + GAP
    return sheet


def main(out: Path = Path("docs/methods"), only: str | None = None) -> None:
    """Draw <method>.png of every method.

    Args:
        out: folder to write to.
        only: name of one method.
    """
    for name, sheet in SHEETS.items():
        if only in (None, name):
            path = out / f"{name}.png"
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                picture = drawn(sheet)
            # 255 colours, because textures would make files three times as large.
            picture.quantize(255).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    auto_cli(main, as_positional=False)

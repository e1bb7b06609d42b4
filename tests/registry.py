"""Every method at tiny size. One line here adds a method to all common tests."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch
from lightning import LightningDataModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from datamodules.generated.long import SyntheticLongVideos
from datamodules.generated.motion import SyntheticMotion
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.settings import LoadSettings
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.video.crops import Crop, MultiScale, Shared
from datamodules.video.samplers import Dense, OrderedClips, Sampler
from datamodules.video.sampling import ClipSettings
from modules.augment.clips import ClipAugmentation, Mixing
from modules.augment.frames import FrameAugmentation
from modules.backbones.cnn.caffenet import CaffeNet, Encoding
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
from modules.core.batch import Batch, Stream, Text
from modules.downstream.classification import Classification, HeadSettings
from modules.downstream.labels import LabelSettings
from modules.language.tokenizers import TokenizerSettings
from modules.layers.attentive import AttentiveSettings
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.layers.relations import RelationSettings
from modules.layers.targets import EncoderTarget, InputPixelTarget, PixelTarget
from modules.losses.video_text import TextContrastSettings
from modules.masks.blocks import MultiBlockMask
from modules.masks.clip import UniformMask
from modules.masks.sequences import RandomSteps
from modules.masks.tokens import RunningCellMask, TubeMask
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
from modules.motion.tubelets import TubeletSettings
from modules.scenes.long import FeatureSettings, LongSettings
from modules.training.method import Method
from modules.training.optim import AdamSettings, AdamWSettings, PhasedSettings, SGDSettings, StepSGDSettings
from modules.weights.names.vjepa import Codes

FRAMES, SIDE = 4, 32
WIDTH, STEPS = 32, 12
"""Width of features, and steps of their longest sequence."""
OPTIM = AdamWSettings(base_lr=1e-3, warmup_epochs=0, scale_lr=False)
SGD = SGDSettings(base_lr=0.05)
STEP_SGD = StepSGDSettings(base_lr=0.05, warmup_epochs=0)
CONTRAST = ContrastSettings(out_dim=16, queue_size=32)
CROSS = CrossDecoderSettings(depth=2, dim=16, heads=1, hidden=64, dropout=0)
CROPS = FrameAugmentation(margin=4, jitter=1, split=True)


@dataclass
class Case:
    """A method under test."""

    name: str
    build: Callable[[], Method]
    yaml: str
    clips: int = 1
    """Clips per video or recording."""
    ordered: bool = False
    """Whether these clips must be in order."""
    same_crop: bool = False
    """Whether they must have the same crop."""
    skeletons: bool = False
    """Whether it uses skeleton recordings instead of videos."""
    sequences: bool = False
    """Whether it uses sequences of features instead of videos."""
    frames: int = FRAMES
    """Frames per clip of the data; more than `FRAMES` if the method selects `FRAMES` of them."""
    variant: bool = False
    """Whether it shares its file with another case."""

    @property
    def shown(self) -> str:
        """What `show` calls the method's input."""
        return "skeleton" if self.skeletons else "feature" if self.sequences else "clip"

    @property
    def sampler(self) -> Sampler:
        """Which frames of a video the clips have."""
        return OrderedClips(gap=1) if self.ordered else Dense(1)

    @property
    def crop(self) -> Crop:
        """What of the frames the clips have."""
        return Shared() if self.same_crop else MultiScale()

    def batch(self, samples: int = 4, seed: int = 0, clips: int | None = None) -> Batch:
        """A random batch for the method."""
        number = self.clips if clips is None else clips
        if self.sequences:
            return sequence_batch(samples, number, seed)
        return skeleton_batch(samples, number, seed) if self.skeletons else video_batch(samples, number, seed, self.frames)

    def data(self, batch_size: int, train: int, val: int) -> LightningDataModule:
        """Generated samples for whole runs; the processes of a run share them."""
        if self.skeletons:
            clip = SkeletonClipSettings(self.frames, self.clips)
            return SyntheticSkeleton(clip, batch_size, train_clips=train, val_clips=val)
        if self.sequences:
            return long_videos(batch_size, 2, train, val)
        videos = ClipSettings(frames=self.frames, size=SIDE, clips=self.clips, sampler=self.sampler)
        return SyntheticMotion(videos, batch_size, train_videos=train, val_videos=val)


def tiny_vit() -> VideoViT:
    """Two blocks of width 32 on 4 frames of 32 px: 2 x 4 x 4 tokens."""
    return VideoViT("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path=0.1)


def tiny_tower(frames: int = FRAMES) -> FrameTower:
    """MAE's image encoder with two blocks of width 32 on each of 4 frames of 32 px: 4 x 4 tokens each."""
    sizes: dict[str, int] = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return FrameTower("vit_base_patch16_224.mae", frames, SIDE, checkpoint=None, **sizes)


def tiny_relations() -> RelationSettings:
    """Relations of a random teacher, which has a grid of another length."""
    teacher = EncoderTarget(tiny_tower(), normalise=False)
    teacher.encoder.has_weights = True
    return RelationSettings(teacher)


def tiny_spacetime() -> SpacetimeViT:
    """The same with learned positions and a class token."""
    return SpacetimeViT("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path=0.1)


def tiny_vjepa(codes: Codes = "sincos", token_of: Literal["mask", "length"] = "mask") -> VJEPA:
    """Two blocks of width 32 on 4 frames of 32 px, and a predictor of one block of width 16. Clips are padded: cut ones would
    depend on the others of their process."""
    backbone = VJEPAViT("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=2, num_heads=2, codes=codes)
    masks = [MultiBlockMask(2, (0.2, 0.2)), MultiBlockMask(1, (0.5, 0.5))]
    optim = PhasedSettings(1e-3, warmup_epochs=0, final_weight_decay=0.4)
    return VJEPA(backbone, masks, PredictorSettings(1, 16, token_of=token_of), unequal="pad", flip=0.5, optim=optim)


def tiny_cnn() -> VideoResNet:
    """R3D-18 with 4 to 32 channels."""
    return VideoResNet("r3d_18", width=4)


def tiny_slow() -> SlowOnly:
    """SlowOnly with one block per stage and 2 to 64 channels."""
    return SlowOnly(2, (1, 1, 1, 1), channels_last=False)


def tiny_caffenet(encoding: Encoding = "frames", window: int = 2) -> CaffeNet:
    """A 2-D network with 6 to 24 channels for crops of 28 px."""
    return CaffeNet(6, stem="small", encoding=encoding, window=window)


def tiny_sequence() -> SequenceTransformer:
    """Two blocks of width 32 on sequences of up to 12 features."""
    return SequenceTransformer(WIDTH, 2, 2, max_steps=STEPS)


def tiny_locomotion() -> LocoMotion:
    """Two blocks of width 32 on 4 frames of 32 px, and three layers of text, one of them fusion."""
    backbone = BEiTVideo("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path=0.1)
    for temporal in backbone.temporal:
        # At its initial value 0, the attention that it scales has no gradient.
        torch.nn.init.constant_(temporal.scale, 0.5)
    text = TextSettings(32, 3, 1, 2, mlp_ratio=2, positions=40, dropout=0)
    return LocoMotion(backbone, text, TokenizerSettings(max_tokens=40), contrast=TextContrastSettings(16), optim=OPTIM)


METHODS = [
    Case(
        "VideoMAE", lambda: VideoMAE(tiny_vit(), PixelTarget(), TubeMask(0.5), DecoderSettings(1), optim=OPTIM), "videomae.yaml"
    ),
    Case(
        "VideoMAE V2",
        lambda: VideoMAE(
            tiny_vit(), PixelTarget(), TubeMask(0.5), DecoderSettings(1), decoder_mask=RunningCellMask(), optim=OPTIM
        ),
        "videomae_v2.yaml",
        variant=True,
    ),
    Case(
        "VideoMAE with relations",
        lambda: VideoMAE(tiny_vit(), PixelTarget(), TubeMask(0.5), DecoderSettings(1), optim=OPTIM, relations=tiny_relations()),
        "videomae.yaml",
        variant=True,
    ),
    Case(
        "STMAE",
        lambda: STMAE(tiny_spacetime(), InputPixelTarget(), UniformMask(0.5), DecoderSettings(1), flip=0.5, optim=OPTIM),
        "stmae.yaml",
    ),
    Case(
        "SMILE",
        lambda: SMILE(tiny_vit(), PixelTarget(), TrajectoryMask(0.5), PasteSettings(ObjectBank()), optim=OPTIM),
        "smile.yaml",
    ),
    Case(
        "SIGMA",
        lambda: SIGMA(tiny_vit(), PixelTarget(), TubeMask(0.5), MLPSettings([16, 8]), 12, optim=OPTIM),
        "sigma_mlp.yaml",
    ),
    Case(
        "CrossVideoMAE",
        lambda: CrossVideoMAE(
            tiny_vit(),
            tiny_tower(1),
            PixelTarget(),
            TubeMask(0.5),
            DecoderSettings(1),
            ImageBranch(0.75, True, 1, 16, 1),
            AgreementSettings(16),
            optim=OPTIM,
            flip=0.5,
        ),
        "crossvideomae.yaml",
    ),
    Case("CropMAE", lambda: CropMAE(tiny_tower(), mask_ratio=0.75, decoder=CROSS, optim=OPTIM, flip=0.5), "cropmae.yaml"),
    Case(
        "SiamMAE",
        lambda: SiamMAE(tiny_tower(), 0.75, decoder=CROSS, optim=OPTIM, flip=0.5),
        "siammae.yaml",
        clips=2,
        ordered=True,
        same_crop=True,
    ),
    # The classes of the generated motion have sides, so clips are only mirrored if this is set.
    Case("MoCo", lambda: MoCo(tiny_cnn(), CONTRAST, optim=SGD, flip=0.5), "moco.yaml", clips=2),
    Case(
        "TubeletContrast",
        lambda: TubeletContrast(tiny_cnn(), TubeletSettings(), CONTRAST, optim=SGD, flip=0.5),
        "tubelet_contrast.yaml",
        clips=2,
    ),
    # At the higher speed, half of the frames remain. By batch, each process would give half of its own samples speed 1.
    Case(
        "RSPNet",
        lambda: RSPNet(tiny_cnn(), replace(CONTRAST, hidden=0, temperature=0.07), split="sample", optim=SGD, flip=0.5),
        "rspnet.yaml",
        clips=2,
        frames=2 * FRAMES,
    ),
    Case("CVRL", lambda: CVRL(tiny_slow(), 16, 8, optim=STEP_SGD, flip=0.5), "cvrl.yaml", clips=2),
    Case("LocoMotion", tiny_locomotion, "locomotion.yaml"),
    Case("VCOP", lambda: VCOP(tiny_cnn(), hidden=16, optim=SGD), "vcop.yaml", clips=3, ordered=True),
    Case(
        "Shuffle & Learn",
        lambda: ShuffleAndLearn(tiny_caffenet(), TripleSettings(1, 2), CROPS, 16, SGD, flip=0.5),
        "shuffle_and_learn.yaml",
    ),
    Case("OPN", lambda: OPN(tiny_caffenet(), CROPS, hidden=16, optim=SGD, flip=0.5), "opn.yaml"),
    Case(
        "Odd-One-Out",
        lambda: OddOneOut(
            tiny_caffenet("stack_of_differences", 3),
            SequenceSettings(3, 3, window=1.2),
            augmentation=CROPS,
            hidden=16,
            optim=SGD,
            flip=0.5,
        ),
        "odd_one_out.yaml",
    ),
    Case(
        "SkeletonContrast",
        lambda: SkeletonContrast(BiGRU(8, 2), AGCN(4), contrast=CONTRAST, optim=SGD),
        "skeleton_contrast.yaml",
        clips=2,
        skeletons=True,
    ),
    Case(
        "PRP",
        lambda: PRP(tiny_cnn(), FRAMES, (1, 2), AttentionSettings(patch=8, stride=4), optim=SGD),
        "prp.yaml",
        frames=2 * FRAMES,
    ),
    Case("V-JEPA", tiny_vjepa, "vjepa.yaml"),
    Case("V-JEPA 2", lambda: tiny_vjepa("tiled_rotary", "length"), "vjepa2.yaml", variant=True),
    Case("RotNet", lambda: RotNet(tiny_cnn(), optim=SGD, flip=0.5), "rotnet.yaml"),
    Case(
        "LVMAE",
        lambda: LVMAE(tiny_sequence(), RandomSteps(0.5), DecoderSettings(1), shortest=2, optim=OPTIM),
        "lvmae.yaml",
        sequences=True,
    ),
]


FINETUNE = AdamWSettings(base_lr=1e-3, warmup_epochs=0, scale_lr=False, layer_decay=0.75)
COLOURS = ClipAugmentation(None, jitter=0.4, hue=0.2, erase=0)
CLASSES = 13
DOWNSTREAM = [
    Case(
        "fine-tuning",
        lambda: Classification(
            tiny_vit(),
            CLASSES,
            "finetune",
            ClipAugmentation(),
            Mixing(),
            labels=LabelSettings(smoothing=0.1),
            head=HeadSettings(dropout=0.1),
            optim=FINETUNE,
        ),
        "finetune/kinetics400.yaml",
        variant=True,
    ),
    Case(
        "linear",
        lambda: Classification(tiny_cnn(), CLASSES, "linear", COLOURS, optim=AdamSettings(1e-2)),
        "linear/ucf101_cnn.yaml",
        variant=True,
    ),
    Case(
        "attentive",
        lambda: Classification(tiny_vit(), CLASSES, "attentive", COLOURS, optim=OPTIM),
        "attentive/kinetics400.yaml",
        variant=True,
    ),
    Case(
        "probe of joined clips",
        lambda: Classification(
            tiny_vit(), CLASSES, "attentive", COLOURS, attention=AttentiveSettings("vjepa2", 2, clips=2), optim=OPTIM
        ),
        "attentive/vjepa2_ssv2.yaml",
        clips=2,
        variant=True,
    ),
    Case(
        "linear on skeletons",
        lambda: Classification(BiGRU(8, 2), CLASSES, "linear", head=HeadSettings(std=0.01), optim=SGD),
        "skeleton_downstream/linear.yaml",
        skeletons=True,
        variant=True,
    ),
]


REPRESENTATIVE = ("VideoMAE", "TubeletContrast", "SkeletonContrast")
"""One masked method, one with a queue and two clips, one on skeletons: these are killed and run in several processes by
default, all others with `-m slow`."""


def by_name(*cases: Case) -> list[Any]:
    """Parameters of a test that starts processes: names of methods, of which only the representative ones are not slow."""
    return [pytest.param(case.name, marks=[] if case.name in REPRESENTATIVE else [pytest.mark.slow]) for case in cases]


def rows_of(batch: Batch, rows: Any) -> Batch:
    """Some samples of a batch, by slice or int64 indices."""
    chosen: Batch = apply_to_collection(batch, Tensor, lambda value: value[rows])
    return chosen


def joined(batches: list[Batch]) -> Batch:
    """Batches one after the other; of their streams, the data and the lengths."""
    streams: dict[str, Stream | Text] = {
        name: Stream(kind, torch.cat([one.stream(name).data for one in batches]), length=_lengths(batches, name))
        for name, kind in batches[0].kinds.items()
    }
    return Batch(*(torch.cat([getattr(one, name) for one in batches]) for name in ("index", "label")), streams)


def _lengths(batches: list[Batch], name: str) -> Tensor | None:
    lengths = [one.stream(name).length for one in batches]
    return torch.cat([one for one in lengths if one is not None]) if lengths[0] is not None else None


def with_sentences(batch: Batch, sentences: list[str]) -> Batch:
    """The batch with a sentence for each sample."""
    return replace(batch, streams=batch.streams | {"text": Text([[one] for one in sentences])})


def video_batch(videos: int = 4, clips: int = 1, seed: int = 0, frames: int = FRAMES) -> Batch:
    """Random clips [B, V, T, H, W, 3] with two labels."""
    g = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (videos, clips, frames, SIDE, SIDE, 3), generator=g, dtype=torch.uint8)
    return Batch(torch.arange(videos), torch.arange(videos) % 2, {"video": Stream("video", video)})


def skeleton_batch(recordings: int = 4, clips: int = 1, seed: int = 0, frames: int = FRAMES) -> Batch:
    """Random clips [B, V, 3, T, J, M] with two labels."""
    skeleton = torch.randn(recordings, clips, 3, frames, 25, 2, generator=torch.Generator().manual_seed(seed))
    number = torch.arange(recordings)
    return Batch(number, number % 2, {"skeleton": Stream("skeleton", skeleton)})


def sequence_batch(recordings: int = 4, views: int = 1, seed: int = 0) -> Batch:
    """Random sequences [B, V, S, D] of 3 to 12 steps with two labels, padded with 0."""
    g = torch.Generator().manual_seed(seed)
    number = torch.arange(recordings)
    length = torch.randint(3, STEPS + 1, (recordings,), generator=g)
    data = torch.randn(recordings, views, STEPS, WIDTH, generator=g)
    data = data * (torch.arange(STEPS) < length[:, None])[:, None, :, None]
    return Batch(number, number % 2, {"feature": Stream("feature", data, length=length)})


def long_videos(batch_size: int, workers: int, train: int, val: int) -> SyntheticLongVideos:
    """Generated sequences of 4 to 12 features."""
    clip, features = ClipSettings(frames=2, size=8), FeatureSettings(step=2.5, width=WIDTH)
    long = LongSettings(duration=(10.0, 30.0))
    return SyntheticLongVideos(clip, batch_size, LoadSettings(workers), train, val, long, features)

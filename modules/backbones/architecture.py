"""Sizes of a video or image transformer, read from its weights, and an empty network of these sizes to check them with."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from modules.backbones.i3d import I3D
from modules.backbones.video_cnn import ResNetName, VideoCNN, VideoResNet
from modules.backbones.video_vit import PRESETS, MaskedDecoder, VideoViT
from modules.core.errors import SettingError
from modules.layers.heads import VideoClassifier
from modules.layers.momentum_contrast import ContrastSettings, MomentumContrast

Kind = Literal["pretraining", "classifier", "encoder"]
Facts = dict[str, int]
"""What weights do not tell, by name: num_heads, decoder_heads, image_size, num_frames, patch_size, tubelet_size, stride; and
pretrained_frames and pretrained_size, of the clips whose position codes they know."""

HEAD_CHANNELS = 64
# ViT-H and ViT-g of the VideoMAE family have wider heads (official code of VideoMAE and VideoMAE V2).
KNOWN_HEADS = {preset.embed_dim: preset.num_heads for preset in PRESETS.values()} | {1408: 16}


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network of the VideoMAE family; those of parts that it has not are None."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    tubelet_size: int
    mlp_ratio: float
    image_size: int
    num_frames: int
    decoder_dim: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    decoder_out: int | None = None
    num_classes: int | None = None
    num_prototypes: int | None = None
    """of SIGMA"""
    projection_inputs: tuple[int, ...] | None = None
    """of each linear layer of SIGMA's MLP"""
    pretrained_frames: int | None = None
    """of the clips whose position codes it interpolates, where they are others"""
    pretrained_size: int | None = None

    @property
    def interpolates(self) -> bool:
        """Whether its position codes are interpolated from those of other clips."""
        frames, size = self.pretrained_frames or self.num_frames, self.pretrained_size or self.image_size
        return (frames, size) != (self.num_frames, self.image_size)

    @property
    def kind(self) -> Kind:
        """Which network it is: encoder and decoder, encoder and classification head, or the encoder alone."""
        if self.decoder_dim is not None:
            return "pretraining"
        return "encoder" if self.num_classes is None else "classifier"

    def empty_network(self) -> nn.Module:
        """The network without storage, under our names.

        These are `backbone.*`, `decoder.*`, `projection.*`, `prototypes`, `fc_norm.*`, `head.*`.
        """
        with torch.device("meta"):
            backbone = VideoViT(
                image_size=self.image_size,
                num_frames=self.num_frames,
                patch_size=self.patch_size,
                tubelet_size=self.tubelet_size,
                embed_dim=self.embed_dim,
                depth=self.depth,
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
            )
            if self.num_classes is not None:
                return VideoClassifier(backbone, self.num_classes)
            network = nn.ModuleDict({"backbone": backbone})
            if self.decoder_out is not None and self.decoder_depth is not None:
                network["decoder"] = MaskedDecoder(
                    backbone, self.decoder_out, self.decoder_depth, self.decoder_dim, self.decoder_heads
                )
                if self.num_prototypes is not None:
                    network.register_parameter("prototypes", nn.Parameter(torch.empty(self.num_prototypes, self.decoder_out)))
                if self.projection_inputs is not None:
                    sizes = itertools.pairwise((*self.projection_inputs, self.decoder_out))
                    layers = {str(2 * layer): nn.Linear(*pair) for layer, pair in enumerate(sizes)}
                    network["projection"] = nn.ModuleDict(layers)
        return network


def infer_architecture(weights: dict[str, Tensor], facts: Facts, source: str) -> Architecture:
    """Read the sizes of a network of the VideoMAE family from its tensors.

    Args:
        weights: under our names.
        facts: what tensors do not tell. Missing ones are those of the official networks: 224 pixels, 16 frames, tubelets
            of 2 frames, heads by the table of published widths or else of 64 channels, half as many in the decoder.
        source: file, for error messages.

    Raises:
        SettingError: if tensors for a size are missing, or a size cannot be known and must be passed.
    """
    width, inputs = _shape(weights, "backbone.patch_embed.weight", 2, source)
    tubelet = facts.get("tubelet_size", 2)
    patch = facts.get("patch_size", math.isqrt(inputs // (3 * tubelet)))
    image_size, num_frames = facts.get("image_size", 224), facts.get("num_frames", 16)
    if 3 * tubelet * patch * patch != inputs:
        raise SettingError(
            f"{source}: a token has {inputs} inputs, which are no square patch of {tubelet} frames in three colours; pass "
            "the number of frames per token with --tubelet_size."
        )
    for option, value, part in (("image_size", image_size, patch), ("num_frames", num_frames, tubelet)):
        if value % part:
            raise SettingError(f"{source}: tokens of {part} do not divide {option} {value}; pass the right --{option}.")
    heads = count_heads(width, facts.get("num_heads"), source)
    others: dict[str, Any] = {}
    if "decoder.embed.weight" in weights:
        others = _decoder_sizes(weights, facts.get("decoder_heads", max(1, heads // 2)), source)
    elif "head.weight" in weights:
        others = {"num_classes": _shape(weights, "head.weight", 2, source)[0]}
    return Architecture(
        embed_dim=width,
        depth=count_blocks(weights, "backbone.blocks."),
        num_heads=heads,
        patch_size=patch,
        tubelet_size=tubelet,
        mlp_ratio=mlp_ratio(_shape(weights, "backbone.blocks.0.mlp.fc1.weight", 2, source)[0], width),
        image_size=image_size,
        num_frames=num_frames,
        pretrained_frames=facts.get("pretrained_frames"),
        pretrained_size=facts.get("pretrained_size"),
        **others,
    )


def _decoder_sizes(weights: dict[str, Tensor], heads: int, source: str) -> dict[str, Any]:
    """Sizes of the decoder, and of what SIGMA adds to it."""
    width = _shape(weights, "decoder.embed.weight", 2, source)[0]
    if width % heads:
        raise SettingError(f"{source}: {heads} heads do not divide the decoder's width {width}; pass --decoder_heads.")
    names = (f"projection.{2 * layer}.weight" for layer in itertools.count())
    inputs = tuple(_shape(weights, name, 2, source)[1] for name in itertools.takewhile(weights.__contains__, names))
    has_prototypes = inputs or "prototypes" in weights
    return {
        "decoder_dim": width,
        "decoder_depth": count_blocks(weights, "decoder.blocks."),
        "decoder_heads": heads,
        "decoder_out": _shape(weights, "decoder.head.weight", 2, source)[0],
        "num_prototypes": _shape(weights, "prototypes", 2, source)[0] if has_prototypes else None,
        "projection_inputs": inputs or None,
    }


def empty_tower(weights: dict[str, Tensor], heads: int, source: str) -> VisionTransformer:
    """timm's vision transformer of the sizes of an image tower, without storage and without a head.

    Args:
        weights: under timm's names.
        heads: attention heads.
        source: file, for error messages.

    Raises:
        SettingError: if tensors for a size are missing.
    """
    width, _, patch, _ = _shape(weights, "patch_embed.proj.weight", 4, source)
    _, positions, _ = _shape(weights, "pos_embed", 3, source)
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    prefix = int("cls_token" in weights) + registers
    # Towers with registers give positions to the patches alone.
    bare = math.isqrt(positions) ** 2 == positions
    side = math.isqrt(positions if bare else max(0, positions - prefix))
    with torch.device("meta"):
        return VisionTransformer(
            img_size=side * patch,
            patch_size=patch,
            num_classes=0,
            global_pool="token" if "cls_token" in weights else "avg",
            embed_dim=width,
            depth=count_blocks(weights, "blocks."),
            num_heads=heads,
            mlp_ratio=mlp_ratio(_shape(weights, "blocks.0.mlp.fc1.weight", 2, source)[0], width),
            qkv_bias="blocks.0.attn.qkv.bias" in weights,
            init_values=1.0 if "blocks.0.ls1.gamma" in weights else None,
            class_token="cls_token" in weights,
            no_embed_class=bare,
            reg_tokens=registers,
            pre_norm="norm_pre.weight" in weights,
            fc_norm="fc_norm.weight" in weights,
        )


def empty_contrast(weights: dict[str, Tensor], source: str) -> tuple[nn.Module, dict[str, int | str | float]]:
    """A video CNN, with what momentum contrast adds to it if the file has that, of the sizes of the weights.

    Args:
        weights: under our names, `backbone.*` and perhaps `contrast.*`.
        source: file, for error messages.

    Returns:
        The network, and its sizes by the names of settings.

    Raises:
        SettingError: if tensors for a size are missing.
    """
    sizes: dict[str, int | str | float]
    backbone: VideoCNN
    if "backbone.conv3d_1a_7x7.conv3d.weight" in weights:
        factor = _shape(weights, "backbone.conv3d_1a_7x7.conv3d.weight", 5, source)[0] / 64
        backbone, sizes = I3D(factor), {"backbone": "I3D", "width_factor": factor}
    else:
        name: ResNetName = "r2plus1d_18" if "backbone.stem.3.weight" in weights else "r3d_18"
        if name == "r2plus1d_18" and "backbone.layer4.0.conv1.0.weight" in weights:
            name = "r2plus1d_18_tclr"
        width = _shape(weights, "backbone.layer1.0.conv1.1.weight", 1, source)[0]
        backbone, sizes = VideoResNet(name, width), {"backbone": "VideoResNet", "name": name, "width": width}
    network = nn.ModuleDict({"backbone": backbone})
    if "contrast.head.0.weight" in weights:
        hidden = _shape(weights, "contrast.head.0.weight", 2, source)[0]
        out_dim = _shape(weights, "contrast.head.2.weight", 2, source)[0]
        queue_size = _shape(weights, "contrast.queue.keys", 2, source)[0]
        network["contrast"] = MomentumContrast(backbone, ContrastSettings(hidden, out_dim, queue_size))
        sizes |= {"hidden": hidden, "out_dim": out_dim, "queue_size": queue_size}
    return network, sizes


def count_heads(width: int, asked: int | None, source: str) -> int:
    """Attention heads of a width: as asked, else of the published network of this width, else one per 64 channels.

    Raises:
        SettingError: if neither is possible.
    """
    heads = asked or KNOWN_HEADS.get(width) or (width // HEAD_CHANNELS if width % HEAD_CHANNELS == 0 else None)
    if heads is None or width % heads:
        wrong = "" if heads is None else f" and {heads} heads do not divide it"
        raise SettingError(f"{source}: no published network is {width} wide{wrong}; pass --heads.")
    return heads


def count_blocks(weights: dict[str, Tensor], prefix: str) -> int:
    """Blocks under a prefix: the highest number and one, so that a gap shows as missing."""
    names = (key.removeprefix(prefix).split(".")[0] for key in weights if key.startswith(prefix))
    return 1 + max((int(name) for name in names if name.isdecimal()), default=-1)


def mlp_ratio(hidden: int, width: int) -> float:
    """Ratio of which timm's `int(width * ratio)` makes `hidden` again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _shape(weights: dict[str, Tensor], key: str, ndim: int, source: str) -> tuple[int, ...]:
    if key not in weights or weights[key].ndim != ndim:
        found = f"has the shape {list(weights[key].shape)}" if key in weights else "is missing"
        raise SettingError(f"{source} holds no whole network that we know: {key} {found}; pass another file.")
    return tuple(weights[key].shape)


def first_std(width: int) -> float:
    """Deviation of the first weights of BERT and BEiT: 0.02 as published, and more for a width below the smallest published one
    of 768, at which a network with 0.02 hardly begins to learn."""
    return 0.02 * max(1.0, 768 / width) ** 0.5

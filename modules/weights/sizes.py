"""Sizes of transformers: published presets, and sizes read from weights."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from modules.core.errors import SettingError, check_positive, given
from modules.weights.names.vjepa import CODE_NUMBER, KINDS, Codes


class Preset(NamedTuple):
    """Encoder preset: width, depth, heads, side of a token in pixels, and hidden width of the MLP over the token width."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int = 16
    mlp_ratio: float = 4.0


# VideoMAE and VideoMAE V2 (giant), official code; tiny and micro are this project's, for laptops and tests.
PRESETS = {
    "micro": Preset(96, 4, 3),
    "tiny": Preset(192, 12, 3),
    "small": Preset(384, 12, 6),
    "base": Preset(768, 12, 12),
    "large": Preset(1024, 24, 16),
    "huge": Preset(1280, 32, 16),
    "giant": Preset(1408, 40, 16, 14, 48 / 11),
}
Size = Literal["micro", "tiny", "small", "base", "large", "huge", "giant"]
Kind = Literal["pretraining", "classifier", "encoder"]
Facts = dict[str, int]
"""Facts that cannot be read from weights, by name: num_heads, decoder_heads, image_size, num_frames, patch_size, tubelet_size,
stride; and pretrained_frames and pretrained_size of the clips that the position codes were trained for."""
HEAD_CHANNELS = 64
# ViT-H and ViT-g of the VideoMAE family have wider heads (official code of VideoMAE and VideoMAE V2).
KNOWN_HEADS = {preset.embed_dim: preset.num_heads for preset in PRESETS.values()}


def choose_sizes(size: Size, image_size: int, **instead: float | None) -> Preset:
    """Sizes of an encoder on square clips.

    Args:
        size: name of the preset.
        image_size: side of the clips in pixels.
        instead: values that replace the preset's fields; None keeps the preset's.

    Raises:
        SettingError: if a value is not positive, the clips are not a multiple of the tokens, or the width of the heads.
    """
    check_positive("model.backbone", image_size=image_size, **given(**instead))
    chosen = PRESETS[size]._replace(**given(**instead))
    if image_size % chosen.patch_size:
        raise SettingError(
            f"model.backbone.image_size {image_size} is not a multiple of model.backbone.patch_size {chosen.patch_size}; "
            "change one of them (and data.clip.size with it)."
        )
    if chosen.embed_dim % chosen.num_heads:
        raise SettingError(
            f"model.backbone.embed_dim {chosen.embed_dim} is not a multiple of model.backbone.num_heads {chosen.num_heads}; "
            "change one of them."
        )
    return chosen


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network of the VideoMAE family; None for parts that it does not have."""

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
    """number of prototypes of SIGMA"""
    projection_inputs: tuple[int, ...] | None = None
    """input width of each linear layer of SIGMA's MLP"""
    pretrained_frames: int | None = None
    """frames of the clips that its position codes are interpolated from, if they differ"""
    pretrained_size: int | None = None
    cosine_attention: bool = False
    learned: Literal["separable", "joint"] | None = None
    """kind of learned positions (MAE-ST); None for fixed ones"""
    class_token: bool = False
    pools_class: bool = False
    """whether its classifier, which may be left out, takes the class token, and not the mean of the others"""

    codes: Codes | None = None
    """kind of positions of V-JEPA, whose predictor then has the sizes of the decoder; None for other networks"""
    mask_tokens: int | None = None
    """mask tokens of V-JEPA's predictor"""

    @property
    def interpolates(self) -> bool:
        """Whether its position codes are interpolated from those of another clip size."""
        frames, size = self.pretrained_frames or self.num_frames, self.pretrained_size or self.image_size
        return (frames, size) != (self.num_frames, self.image_size)

    @property
    def kind(self) -> Kind:
        """Kind of network: encoder and decoder, encoder and classification head, or only the encoder."""
        if self.decoder_dim is not None:
            return "pretraining"
        return "encoder" if self.num_classes is None else "classifier"


def infer_architecture(weights: dict[str, Tensor], facts: Facts, source: str) -> Architecture:
    """Read the sizes of a network of the VideoMAE family from its tensors.

    Args:
        weights: weights under this project's names.
        facts: facts that tensors do not contain. Defaults are those of the official networks: 224 pixels, 16 frames, tubelets
            of 2 frames, heads by the table of published widths or one per 64 channels, half as many in the decoder.
        source: file, for error messages.

    Raises:
        SettingError: if tensors for a size are missing, or a size is unknown and must be passed.
    """
    width, inputs = shape_of(weights, "backbone.patch_embed.weight", 2, source)
    tubelet = facts.get("tubelet_size", 2)
    patch = facts.get("patch_size", math.isqrt(inputs // (3 * tubelet)))
    learned = _learned_sizes(weights, tubelet, patch)
    for name, value in learned.clip.items():
        if facts.get(name, value) != value:
            raise SettingError(
                f"{source}: its positions are learned for {name} {value}, not {facts[name]}; leave out --{name}."
            )
    facts = facts | learned.clip
    image_size, num_frames = facts.get("image_size", 224), facts.get("num_frames", 16)
    if 3 * tubelet * patch * patch != inputs:
        raise SettingError(
            f"{source}: a token has {inputs} inputs, which is not a square patch of {tubelet} frames in three colours; pass "
            "the number of frames per token with --tubelet_size."
        )
    for option, value, part in (("image_size", image_size, patch), ("num_frames", num_frames, tubelet)):
        if value % part:
            raise SettingError(f"{source}: tokens of {part} do not divide {option} {value}; pass the right --{option}.")
    heads = count_heads(width, facts.get("num_heads"), source)
    others: dict[str, Any] = {}
    if f"backbone.{CODE_NUMBER}" in weights:
        others["codes"] = KINDS[int(weights[f"backbone.{CODE_NUMBER}"])]
    if "predictor.predictor_embed.weight" in weights:
        others |= _predictor_sizes(weights, facts.get("decoder_heads"), heads, source)
    elif "decoder.embed.weight" in weights:
        others |= _decoder_sizes(weights, facts.get("decoder_heads", max(1, heads // 2)), source)
    elif "head.weight" in weights:
        others |= {"num_classes": shape_of(weights, "head.weight", 2, source)[0]}
    return Architecture(
        embed_dim=width,
        depth=count_blocks(weights, "backbone.blocks."),
        num_heads=heads,
        patch_size=patch,
        tubelet_size=tubelet,
        mlp_ratio=mlp_ratio(shape_of(weights, "backbone.blocks.0.mlp.fc1.weight", 2, source)[0], width),
        image_size=image_size,
        num_frames=num_frames,
        pretrained_frames=facts.get("pretrained_frames"),
        pretrained_size=facts.get("pretrained_size"),
        cosine_attention="backbone.blocks.0.attn.scale" in weights,
        learned=learned.kind,
        class_token=learned.class_token,
        **others,
    )


class _LearnedSizes(NamedTuple):
    """What the tables of learned positions tell."""

    kind: Literal["separable", "joint"] | None
    class_token: bool
    clip: Facts
    """image_size and num_frames, if they follow"""


def _learned_sizes(weights: dict[str, Tensor], tubelet: int, patch: int) -> _LearnedSizes:
    class_token = "backbone.pos_embed.class_token" in weights
    spatial, temporal = (weights.get(f"backbone.pos_embed.{name}") for name in ("spatial", "temporal"))
    if spatial is not None and temporal is not None:
        clip = {"image_size": math.isqrt(spatial.shape[1]) * patch, "num_frames": temporal.shape[1] * tubelet}
        return _LearnedSizes("separable", class_token, clip)
    return _LearnedSizes("joint" if "backbone.pos_embed.joint" in weights else None, class_token, {})


def _decoder_sizes(weights: dict[str, Tensor], heads: int, source: str) -> dict[str, Any]:
    """Sizes of the decoder, and of SIGMA's additional parts."""
    width = shape_of(weights, "decoder.embed.weight", 2, source)[0]
    if width % heads:
        raise SettingError(f"{source}: {heads} heads do not divide the decoder's width {width}; pass --decoder_heads.")
    names = (f"projection.{2 * layer}.weight" for layer in itertools.count())
    inputs = tuple(shape_of(weights, name, 2, source)[1] for name in itertools.takewhile(weights.__contains__, names))
    has_prototypes = inputs or "prototypes" in weights
    return {
        "decoder_dim": width,
        "decoder_depth": count_blocks(weights, "decoder.blocks."),
        "decoder_heads": heads,
        "decoder_out": shape_of(weights, "decoder.head.weight", 2, source)[0],
        "num_prototypes": shape_of(weights, "prototypes", 2, source)[0] if has_prototypes else None,
        "projection_inputs": inputs or None,
    }


PREDICTOR_HEADS = 12
"""Heads of V-JEPA 2's predictor (official settings). V-JEPA's has as many as the encoder."""


def _predictor_sizes(weights: dict[str, Tensor], asked: int | None, heads: int, source: str) -> dict[str, Any]:
    """Sizes of V-JEPA's predictor."""
    width = shape_of(weights, "predictor.predictor_embed.weight", 2, source)[0]
    rotary = KINDS[int(weights[f"backbone.{CODE_NUMBER}"])] in ("rotary", "tiled_rotary")
    own = asked or (PREDICTOR_HEADS if rotary else heads)
    if width % own:
        raise SettingError(f"{source}: {own} heads do not divide the predictor's width {width}; pass --decoder_heads.")
    return {
        "decoder_dim": width,
        "decoder_depth": count_blocks(weights, "predictor.predictor_blocks."),
        "decoder_heads": own,
        "mask_tokens": count_blocks(weights, "predictor.mask_tokens."),
    }


def count_heads(width: int, asked: int | None, source: str) -> int:
    """Number of attention heads: as given, else that of the published network of this width, else one per 64 channels.

    Raises:
        SettingError: if none of these is possible.
    """
    heads = asked or KNOWN_HEADS.get(width) or (width // HEAD_CHANNELS if width % HEAD_CHANNELS == 0 else None)
    if heads is None or width % heads:
        wrong = "" if heads is None else f" and {heads} heads do not divide it"
        raise SettingError(
            f"{source}: no published network is {width} wide{wrong}; pass --heads to convert, whose passport then states them."
        )
    return heads


def count_blocks(weights: dict[str, Tensor], prefix: str) -> int:
    """Number of blocks under a prefix: the highest index plus one, so that a gap is reported as missing."""
    names = (key.removeprefix(prefix).split(".")[0] for key in weights if key.startswith(prefix))
    return 1 + max((int(name) for name in names if name.isdecimal()), default=-1)


def mlp_ratio(hidden: int, width: int) -> float:
    """Ratio for which timm's `int(width * ratio)` returns `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def shape_of(weights: dict[str, Tensor], key: str, ndim: int, source: str) -> tuple[int, ...]:
    """Shape of a tensor. Raises a SettingError if it is missing or has another number of axes."""
    if key not in weights or weights[key].ndim != ndim:
        found = f"has the shape {list(weights[key].shape)}" if key in weights else "is missing"
        raise SettingError(f"{source} contains no complete network of a known type: {key} {found}; pass another file.")
    return tuple(weights[key].shape)

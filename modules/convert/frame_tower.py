"""Vision transformers of images as encoders of clips: ours (`FrameTower`), and published towers of CLIP, DINO and DINOv2; also
with the decoder of CropMAE and SiamMAE."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from modules.backbones.frame_tower import FIRST, VIT, FrameTower, tower_weights
from modules.backbones.image_towers import position_side, vit_weights
from modules.backbones.vit.cross_decoder import CrossDecoder, CrossDecoderSettings
from modules.convert.networks import Converted, Format
from modules.convert.skeleton import Part
from modules.convert.source import Source, setting_of
from modules.core.errors import SettingError
from modules.core.loading import compare
from modules.weights.names.clip import OPENAI
from modules.weights.names.siamese_mae import has_mae_decoder, is_ours, our_names
from modules.weights.passport import PASSPORT_FORMAT
from modules.weights.sizes import Facts, count_blocks, count_heads, shape_of

CLIP = "vit_base_patch16_clip_quickgelu_224.openai"
DINO = "vit_base_patch16_224.dino"
MAE = "vit_base_patch16_224.mae"
DINOV2 = "vit_base_patch14_dinov2.lvd142m"
DINOV2_REGISTERS = "vit_base_patch14_reg4_dinov2.lvd142m"
"""Networks whose form a file is taken to have that does not name its own; the sizes are those of its tensors."""


def is_frame_tower(weights: dict[str, Tensor]) -> bool:
    """Whether these are a `FrameTower`, alone or in a method, or an official MAE or CropMAE with its decoder."""
    return has_mae_decoder(weights) or any(f"{prefix}{VIT}{FIRST}" in weights for prefix in ("", "backbone."))


def convert_frame_tower(source: Source, facts: Facts, part: Part, to: Format) -> Converted:
    """An encoder of clips under our names, with a classifier or decoder if the file has one; also of an image tower.

    Raises:
        SettingError: if it does not fit, or the format is not for it.
    """
    weights = our_names(source.weights)
    if to != "safetensors" and not (to == "official" and is_ours(weights)):
        raise SettingError(f"--to {to} is for networks of the VideoMAE family; {source.path} holds a tower: pass safetensors.")
    path = str(source.path)
    tower = tower_weights(weights, path)
    rest = {}
    if has_mae_decoder(weights):
        rank_zero_info(f"The decoder in {path}, that of MAE, is left out.")
    elif part == "all" and is_frame_tower(weights):
        rest = {key: value for key, value in weights.items() if not key.startswith((VIT, f"backbone.{VIT}"))}
    sizes = sizes_of(source, tower, facts)
    with torch.device("meta"):
        backbone = FrameTower(**sizes, checkpoint=None)
        network = nn.ModuleDict({"backbone": backbone})
        if "head.weight" in rest:
            network["head"] = nn.Linear(rest["head.weight"].shape[1], len(rest["head.weight"]))
        decoder = decoder_of(rest, facts) if is_ours(rest) else None
        if decoder is not None:
            network["decoder"] = CrossDecoder(backbone, shape_of(rest, "decoder.head.weight", 2, path)[0], decoder)
    named = {f"backbone.{VIT}{key}": value for key, value in vit_weights(backbone.vit, tower, path).items()}
    hint = " (--part backbone reads the encoder alone)" if part == "all" else ""
    # Of published towers, the head of their pretraining.
    report = compare(
        dict(network.state_dict()), named | rest, source.path, f"FrameTower {sizes['name']}{hint}",
        may_leave=(f"backbone.{VIT}head.",),
    )  # fmt: skip
    classes = {"num_classes": len(rest["head.weight"])} if "head.weight" in rest else {}
    if decoder is not None:
        classes = {"decoder_depth": decoder.depth, "decoder_dim": decoder.dim, "decoder_heads": decoder.heads}
    shown = ", ".join(f"{name} {value}" for name, value in (sizes | classes).items())
    rank_zero_info(f"Read {source.path}: {shown}: {report}.")
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": "classifier" if "num_classes" in classes else "pretraining" if decoder is not None else "encoder",
        **source.passport,
        "architecture": {"backbone": "FrameTower", **sizes, **classes},
        "normalisation": (source.origin.normalisation or backbone.normalisation).as_record(),
        "frames": sizes["num_frames"],
        "stride": facts.get("stride"),
    }
    return Converted({key: value for key, value in (named | rest).items() if key in report.matched}, passport, None)


def decoder_of(weights: dict[str, Tensor], facts: Facts) -> CrossDecoderSettings:
    """Size of the decoder of CropMAE or SiamMAE, from its weights below `decoder.`; heads are the published 8 if unknown."""
    return CrossDecoderSettings(
        depth=count_blocks(weights, "decoder.blocks."),
        dim=len(weights["decoder.embed.weight"]),
        heads=facts.get("decoder_heads", CrossDecoderSettings.heads),
        hidden=len(weights["decoder.blocks.0.linear1.weight"]),
    )


def sizes_of(source: Source, tower: dict[str, Tensor], facts: Facts) -> dict[str, Any]:
    """Arguments of `FrameTower` for weights.

    Args:
        source: file.
        tower: its vision transformer, of `tower_weights`.
        facts: what tensors do not tell.

    Raises:
        SettingError: if tensors for a size are missing, or another size is asked for.
    """
    path = str(source.path)
    width, _, _, patch = shape_of(tower, FIRST, 4, path)
    shape_of(tower, "pos_embed", 3, path)
    size = patch * position_side(tower)
    if facts.get("image_size", size) != size:
        raise SettingError(
            f"{path} has position codes for frames of {size} px, not {facts['image_size']}; leave out --image_size."
        )
    heads = facts.get("num_heads") or setting_of(source, "num_heads")
    return {
        "name": setting_of(source, "name") or guessed_name(source, tower),
        "num_frames": facts.get("num_frames", 16),
        "image_size": size,
        "every": setting_of(source, "every") or 1,
        "patch_size": patch,
        "embed_dim": width,
        "depth": count_blocks(tower, "blocks."),
        "num_heads": count_heads(width, heads, path),
    }


def guessed_name(source: Source, tower: dict[str, Tensor]) -> str:
    """A network of the form of weights that do not name theirs; it is printed, with what it means that tensors do not tell."""
    if "norm_pre.weight" in tower:
        # OpenAI's own files say numbers that those of open_clip, whose names are the same, do not.
        if OPENAI not in source.weights:
            rank_zero_info(
                f"{source.path} is taken for a CLIP of OpenAI, with QuickGELU and its normalisation; for others, train or test "
                "with --model.backbone FrameTower and its name."
            )
        return CLIP
    if is_ours(our_names(source.weights)) or has_mae_decoder(source.weights):
        return MAE
    if "reg_token" in tower or "register_tokens" in tower:
        name = DINOV2_REGISTERS
    else:
        name = DINOV2 if "blocks.0.ls1.gamma" in tower else DINO
    rank_zero_info(
        f"{source.path} does not name its network: it is taken for one of the form of {name}, with its normalisation; for "
        "others, train or test with --model.backbone FrameTower and its name."
    )
    return name

"""Conversion of video, skeleton and text networks and of image towers to this project's names, with sizes and a passport."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor

from modules.backbones.vit.spacetime_vit import GREY
from modules.backbones.vit.vjepa_vit import read_table
from modules.convert.empty_networks import (
    empty_beit,
    empty_contrast,
    empty_network,
    empty_text,
    empty_tower,
    empty_video_text,
)
from modules.convert.skeleton import Part, read_skeleton
from modules.convert.source import Source, setting_of
from modules.core.errors import SettingError
from modules.core.loading import LoadReport, compare
from modules.core.preprocessing import HALF, IMAGENET
from modules.weights.names.bert import from_official as text_from_official
from modules.weights.names.clip import clip_names
from modules.weights.names.cnn.moco import from_official as contrast_from_official
from modules.weights.names.cnn.video_cnn import from_official as cnn_from_official
from modules.weights.names.cnn.video_cnn import from_published
from modules.weights.names.videomae import our_names
from modules.weights.names.vindlu import from_vindlu, is_vindlu
from modules.weights.names.vjepa import CODE_NUMBER, KINDS, from_vjepa, is_vjepa, table_of
from modules.weights.origin import published_origin
from modules.weights.passport import PASSPORT_FORMAT
from modules.weights.run_config import inside, parse_config
from modules.weights.sizes import Architecture, Facts, count_heads, infer_architecture, mlp_ratio

Format = Literal["safetensors", "huggingface", "official", "onnx", "export"]
FRAME_POSITIONS = "frame_positions"
"""A tensor that only BEiT with temporal attention has."""


IMAGE_BRANCH = ("image_backbone.", "image_decoder.", "image_projection.", "video_projection.")
"""Parts of CrossVideoMAE that a VideoMAE does not have; they have no other names, and are kept unchanged."""


class Converted(NamedTuple):
    """Weights under this project's names, and their description."""

    weights: dict[str, Tensor]
    passport: dict[str, Any]
    architecture: Architecture | None
    """sizes of a network of the VideoMAE family; None for others"""


def convert_video(source: Source, facts: Facts, part: Part) -> Converted:
    """A network of the VideoMAE family under this project's names.

    Raises:
        SettingError: if it does not fit.
    """
    weights = vit_weights(source)
    branch = {key: value for key, value in weights.items() if key.startswith(IMAGE_BRANCH)}
    weights = {key: value for key, value in weights.items() if key not in branch}
    may_leave: tuple[str, ...] = ()
    kept = weights
    if part == "backbone":
        kept = {key: value for key, value in weights.items() if key.startswith("backbone.")}
        may_leave = tuple(key for key in weights if key not in kept)
    architecture = infer_architecture(kept, facts, str(source.path))
    if architecture.class_token:
        pooled = "head.weight" in weights and "fc_norm.weight" not in weights
        known = inside(source.passport, "architecture").get("pools_class") is True
        architecture = replace(architecture, pools_class=pooled or known)
    # A fine-tuned network pools before it normalises, so its encoder has no final norm.
    may_miss = () if architecture.kind == "pretraining" else ("backbone.norm.",)
    own = dict(empty_network(architecture).state_dict())
    hint = " (--part backbone reads only the encoder)" if part == "all" and architecture.kind != "encoder" else ""
    report = compare(own, weights, source.path, f"{architecture.kind} network{hint}", may_miss, may_leave)
    say(source.path, architecture, facts, report)
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": architecture.kind,
        **source.passport,
        "architecture": asdict(architecture),
        "normalisation": (source.origin.normalisation or (GREY if architecture.learned else IMAGENET)).as_record(),
        "frames": architecture.num_frames,
        "stride": facts.get("stride"),
    }
    matched = {key: weights[key] for key in report.matched}
    return Converted(matched | branch if part == "all" else matched, passport, architecture)


def vit_weights(source: Source) -> dict[str, Tensor]:
    """Weights of any network of the VideoMAE family under the names of `Architecture.empty_network`.

    Raises:
        SettingError: if it is not such a network.
    """
    weights = vjepa_weights(source.weights) if is_vjepa(source.weights) else our_names(source.weights)
    if "patch_embed.weight" in weights:
        return {f"backbone.{key}": value for key, value in weights.items()}
    if "backbone.patch_embed.weight" in weights:
        return weights
    names = ", ".join(list(source.weights)[:3])
    raise SettingError(f"{source.path} contains no known vision transformer (its tensors: {names}, ...); pass another file.")


def vjepa_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official weights of V-JEPA under this project's names, with the kind of their positions. If there is one encoder, it is
    the one that is kept."""
    table = table_of(state)
    kind = ("tiled_rotary" if table is None else read_table(table)[0]) or "sincos"
    weights = from_vjepa(state)
    if not any(key.startswith("backbone.") for key in weights):
        weights = {key.replace("online.", "backbone.", 1): value for key, value in weights.items()}
    parts = {key.partition(".")[0] for key in weights} - {"predictor"}
    return weights | {f"{part}.{CODE_NUMBER}": torch.tensor(KINDS.index(kind)) for part in sorted(parts)}


def say(path: Path, sizes: Architecture, facts: Facts, report: LoadReport) -> None:
    """Print the sizes that were read and those that were assumed."""
    decoder = ""
    if sizes.decoder_dim is not None:
        decoder = f", decoder {sizes.decoder_dim} wide with {sizes.decoder_depth} blocks of {sizes.decoder_heads} heads"
    if sizes.num_prototypes is not None:
        decoder += f", {sizes.num_prototypes} prototypes of {sizes.decoder_out} values"
    rank_zero_info(
        f"Read {path} ({sizes.kind} network): {sizes.embed_dim} wide, {sizes.depth} blocks of {sizes.num_heads} heads, "
        f"tokens of {sizes.tubelet_size} x {sizes.patch_size} x {sizes.patch_size}{decoder}: {report}."
    )
    taken = {"image_size": sizes.image_size, "num_frames": sizes.num_frames, "tubelet_size": sizes.tubelet_size}
    assumed = [f"{name} {value}" for name, value in taken.items() if name not in facts]
    if assumed:
        rank_zero_info(
            f"No file with the weights states these sizes, so {', '.join(assumed)} are assumed, as in official files; options "
            "change them."
        )


def is_tower(weights: dict[str, Tensor]) -> bool:
    """Whether these are weights of an image tower: CLIP's under OpenAI's names, or a vision transformer under timm's."""
    flat = weights.get("patch_embed.proj.weight")
    return _is_clip(weights) or (flat is not None and flat.ndim == 4)


def _is_clip(weights: dict[str, Tensor]) -> bool:
    return any(key in weights for key in ("visual.class_embedding", "class_embedding"))


def convert_tower(source: Source, facts: Facts, to: Format) -> Converted:
    """An image tower under timm's names, without head, projection and text tower.

    Raises:
        SettingError: if it does not fit, or the format does not support towers.
    """
    if to != "safetensors":
        raise SettingError(f"--to {to} is for video networks; {source.path} contains an image tower: pass --to safetensors.")
    clip = _is_clip(source.weights) or source.kind == "clip_tower"
    weights = clip_names(source.weights) if clip else source.weights
    if "patch_embed.proj.weight" not in weights:
        raise SettingError(f"{source.path} contains no patch embedding of an image tower; pass another file.")
    width = weights["patch_embed.proj.weight"].shape[0]
    heads = count_heads(width, facts.get("num_heads"), str(source.path))
    tower = empty_tower(weights, heads, str(source.path))
    report = compare(dict(tower.state_dict()), weights, source.path, "image tower", may_leave=("head.",))
    rank_zero_info(f"Read {source.path} (image tower): {width} wide, {len(tower.blocks)} blocks of {heads} heads: {report}.")
    architecture = {
        "embed_dim": width,
        "depth": len(tower.blocks),
        "num_heads": heads,
        "patch_size": int(tower.patch_embed.patch_size[0]),
        "image_size": int(tower.patch_embed.img_size[0]),
        "mlp_ratio": mlp_ratio(weights["blocks.0.mlp.fc1.weight"].shape[0], width),
        "prefix_tokens": tower.num_prefix_tokens,
        "activation": "quick_gelu" if clip else "gelu",
    }
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": "clip_tower" if clip else "timm_tower",
        **source.passport,
        "architecture": architecture,
        # DINO uses ImageNet's, but other towers may not, and their files do not record it.
        "normalisation": {"mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD} if clip else None,
        "frames": 1,
        "stride": None,
    }
    return Converted({key: weights[key] for key in report.matched}, passport, None)


def is_cnn(weights: dict[str, Tensor]) -> bool:
    """Whether these are weights of a video CNN, alone or in a method, of this project or in a published format."""
    weights = from_published(weights)
    firsts = (
        *("stem.0.weight", "stem.conv.weight", "stem.conv_s.weight", "conv5.weight"),
        *("conv3d_1a_7x7.conv3d.weight", "features.0.0.0.weight"),
        *("layer1.0.conv1.weight", "feature.sepConv1.excitation.bias"),
        *("block1.conv1.weight", "stem.conv1.temporal_spatial_conv.weight", "stem.conv1.spatial_conv.weight"),
    )
    return any(prefix + first in weights for prefix in ("", "backbone.") for first in firsts)


def convert_cnn(source: Source, facts: Facts, part: Part, to: Format) -> Converted:
    """A video CNN under this project's names, with classifier, head, key branch and queue if the file has them.

    Raises:
        SettingError: if it does not fit, or the format does not support CNNs.
    """
    if to not in ("safetensors", "official"):
        raise SettingError(f"--to {to} is for video transformers; {source.path} contains a CNN: pass --to safetensors.")
    weights = cnn_from_official(from_published(source.weights))
    if not any(key.startswith("backbone.") for key in weights):
        # "fc." and "classifier." are the heads of torchvision's networks.
        heads = {"fc.weight": "head.weight", "fc.bias": "head.bias"}
        named = {key: key if key.startswith(("head.", "classifier.")) else f"backbone.{key}" for key in weights}
        weights = {(named | heads)[key]: value for key, value in weights.items()}
    weights = contrast_from_official(weights)
    kept = {key: value for key, value in weights.items() if part == "all" or key.startswith("backbone.")}
    network, sizes = empty_contrast(kept, str(source.path))
    sizes |= _encoding(source) if sizes["backbone"] == "CaffeNet" else {}
    counters = tuple(key for key in network.state_dict() if key.endswith("num_batches_tracked"))
    may_leave = tuple(key for key in weights if key not in kept)
    hint = " (--part backbone reads only the encoder)" if part == "all" else ""
    report = compare(
        dict(network.state_dict()), weights, source.path, f"{sizes['backbone']} network{hint}", counters, may_leave
    )
    rank_zero_info(f"Read {source.path}: {', '.join(f'{name} {value}' for name, value in sizes.items())}: {report}.")
    origin = published_origin(source.weights, source.origin)
    if origin.bn_eps is not None:
        sizes["bn_eps"] = origin.bn_eps
    if origin.padding is not None:
        sizes["padding"] = origin.padding
    if to == "official":
        check_tensorflow(sizes, source.path)
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": _kind(sizes),
        **source.passport,
        "architecture": sizes,
        "normalisation": (origin.normalisation or IMAGENET).as_record(),
        "frames": facts.get("num_frames", 16),
        "stride": facts.get("stride"),
    }
    return Converted({key: weights[key] for key in report.matched}, passport, None)


def _kind(sizes: dict[str, Any]) -> str:
    """What a CNN's file has besides the encoder."""
    heads = {"out_dim": "contrast", "orders": "order", "rates": "playback", "angles": "rotation", "num_classes": "classifier"}
    return next((kind for size, kind in heads.items() if size in sizes), "encoder")


def check_tensorflow(sizes: dict[str, Any], path: Path) -> None:
    """Check that a video CNN can be written as arrays for CVRL's official code, the only such code with an `official` format.

    Raises:
        SettingError: if it is another network, or has a classifier or another padding.
    """
    if sizes["backbone"] != "SlowOnly":
        raise SettingError(f"--to official is not for {sizes['backbone']}, which {path} contains: pass --to safetensors.")
    if "num_classes" in sizes or "queue_size" in sizes:
        raise SettingError(f"--to official writes CVRL's pretraining network; {path} has another head: pass --part backbone.")
    if sizes.get("padding") == "symmetric":
        raise SettingError(
            f"{path} was trained with padding symmetric, but CVRL's official code pads asymmetrically: pass --to safetensors."
        )


def _encoding(source: Source) -> dict[str, str | int]:
    """The encoding of the frames of a `CaffeNet`, which its weights do not show completely; empty if nothing says it."""
    encoding, window = setting_of(source, "encoding"), setting_of(source, "window")
    if encoding is None:
        return {}
    return {"encoding": encoding} if encoding == "frames" or window is None else {"encoding": encoding, "window": window}


def convert_skeleton(source: Source, part: Part, to: Format) -> Converted:
    """A skeleton network under this project's names.

    Raises:
        SettingError: if it does not fit, or the format does not support skeletons.
    """
    if to == "huggingface":
        raise SettingError(f"--to huggingface is for video transformers; {source.path} contains a skeleton network.")
    config = source.passport["config"]
    run = parse_config(config) if config is not None else {}
    direction = inside(run, "model", "init_args", "backbone", "init_args").get("direction", "forward_twice")
    weights, sizes, report = read_skeleton(source.weights, part, direction, str(source.path))
    rank_zero_info(f"Read {source.path}: {', '.join(f'{name} {value}' for name, value in sizes.items())}: {report}.")
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": "contrast" if "out_dim" in sizes else "classifier" if "num_classes" in sizes else "encoder",
        **source.passport,
        "architecture": sizes,
        "normalisation": None,
        "frames": inside(run, "data", "init_args", "clip").get("frames") or sizes["backbone"].get("window"),
        "stride": None,
    }
    return Converted(weights, passport, None)


def convert_video_text(source: Source, facts: Facts, part: Part, to: Format) -> Converted:
    """A video encoder with its text encoder under this project's names, from a file of this project or VindLU.

    Raises:
        SettingError: if it does not fit, or the format does not support such networks.
    """
    if to != "safetensors":
        raise SettingError(f"--to {to} is for video transformers; {source.path} has a text encoder: pass --to safetensors.")
    weights = from_vindlu(source.weights) if is_vindlu(source.weights) else source.weights
    network, sizes = empty_video_text(weights, facts.get("image_size"))
    report = compare(dict(network.state_dict()), weights, source.path, "video-text network")
    rank_zero_info(f"Read {source.path}: {', '.join(f'{name} {value}' for name, value in sizes.items())}: {report}.")
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": "video_text" if part == "all" else "encoder",
        **source.passport,
        "architecture": sizes,
        "normalisation": (source.origin.normalisation or HALF).as_record(),
        "frames": sizes["num_frames"],
        "stride": facts.get("stride"),
    }
    kept = {key: weights[key] for key in report.matched if part == "all" or key.startswith("backbone.")}
    return Converted(kept, passport, None)


def is_beit(weights: dict[str, Tensor]) -> bool:
    """Whether these are weights of BEiT with temporal attention, alone or in a method."""
    return any(prefix + FRAME_POSITIONS in weights for prefix in ("", "backbone."))


def convert_beit(source: Source, facts: Facts, part: Part, to: Format) -> Converted:
    """BEiT with temporal attention under this project's names, with a classifier if the file has one.

    Raises:
        SettingError: if it does not fit, or the format does not support it.
    """
    if to != "safetensors":
        raise SettingError(
            f"--to {to} is for networks of the VideoMAE family; {source.path} contains a BEiT: pass --to safetensors."
        )
    weights = source.weights
    if FRAME_POSITIONS in weights:
        weights = {f"backbone.{key}": value for key, value in weights.items()}
    kept = {key: value for key, value in weights.items() if part == "all" or key.startswith("backbone.")}
    network, sizes = empty_beit(kept, facts.get("image_size"))
    hint = " (--part backbone reads only the encoder)" if part == "all" else ""
    report = compare(dict(network.state_dict()), kept, source.path, f"BEiT{hint}")
    rank_zero_info(f"Read {source.path}: {', '.join(f'{name} {value}' for name, value in sizes.items())}: {report}.")
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": "classifier" if "num_classes" in sizes else "encoder",
        **source.passport,
        "architecture": sizes,
        "normalisation": (source.origin.normalisation or HALF).as_record(),
        "frames": sizes["num_frames"],
        "stride": facts.get("stride"),
    }
    return Converted(kept, passport, None)


def convert_text(source: Source, to: Format) -> Converted:
    """A text encoder under this project's names, from a file of this project or a BERT, without BERT's pooler and its head for
    next-sentence prediction.

    Raises:
        SettingError: if it does not fit, or the format does not support text encoders.
    """
    if to != "safetensors":
        raise SettingError(f"--to {to} is for video networks; {source.path} is a text encoder: pass --to safetensors.")
    weights = text_from_official(source.weights)
    for name in ("positions", "layers.0.up.bias"):
        if name not in weights:
            raise SettingError(f"{source.path} is not a complete text encoder, {name} is missing; pass another file.")
    network, sizes = empty_text(weights)
    fresh = tuple(f"layers.{layer}.cross." for layer in range(sizes["depth"]))
    report = compare(dict(network.state_dict()), weights, source.path, "text encoder", may_miss=(*fresh, "head."))
    rank_zero_info(f"Read {source.path}: {', '.join(f'{name} {value}' for name, value in sizes.items())}: {report}.")
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": "text",
        **source.passport,
        "architecture": sizes,
        "normalisation": None,
        "frames": None,
        "stride": None,
    }
    return Converted({key: weights[key] for key in report.matched}, passport, None)

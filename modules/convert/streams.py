"""Conversion of encoders of depth, of signals, and of sequences of features, under this project's names.

Those of depth and signals exist in no other code base.
"""

import re
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from modules.backbones.sequence.decoder import SequenceDecoder
from modules.backbones.sequence.transformer import SequenceTransformer, step_positions
from modules.backbones.signal.cnn import SignalCNN
from modules.backbones.vit.decoder import DecoderSettings
from modules.convert.frame_tower import convert_frame_tower, is_frame_tower
from modules.convert.networks import Converted, Format, convert_beit, convert_cnn, convert_video, is_beit, is_cnn
from modules.convert.skeleton import Part
from modules.convert.source import Source, setting_of
from modules.core.errors import SettingError
from modules.core.loading import compare
from modules.layers.heads import ClassTokenAttention
from modules.weights.names.lvmae import our_names, to_official, trained_steps
from modules.weights.passport import PASSPORT_FORMAT
from modules.weights.run_config import facts_of_run, inside, parse_config
from modules.weights.sizes import Facts, count_blocks, count_heads, mlp_ratio, shape_of

NETWORK = "network."
"""Prefix of the network in the weights of `Depth`."""
NEAR, FAR = 0.0, 4500.0
"""Default range of `Depth`, in millimetres."""


def refuse_several(source: Source) -> None:
    """Check that a file does not contain encoders of several streams.

    Raises:
        SettingError: if it does.
    """
    streams = sorted({key.split(".")[1] for key in source.weights if key.startswith("branches.")})
    if streams:
        raise SettingError(
            f"{source.path} contains several encoders ({', '.join(streams)}); load one in Python with "
            "Method.load_from_checkpoint(path).encoder(name), or pass the unconverted file as model.backbone.checkpoint."
        )


def _only_ours(source: Source, to: Format, kind: str) -> None:
    if to != "safetensors":
        raise SettingError(f"--to {to} does not support encoders of {kind}, as in {source.path}; pass --to safetensors.")


# --- Depth ---


def is_depth(weights: dict[str, Tensor]) -> bool:
    """Whether these are weights of a depth encoder, alone or in a method."""
    return any(key.startswith((NETWORK, f"backbone.{NETWORK}")) for key in weights)


def inner_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with `Depth` replaced by the video network that it contains, also in momentum copies."""
    if any(key.startswith(NETWORK) for key in weights):
        weights = {f"backbone.{key}": value for key, value in weights.items()}
    return {key.replace(f"backbone.{NETWORK}", "backbone.", 1): value for key, value in weights.items()}


def inner_network(source: Source) -> Source:
    """The same source, as a file of the video network that its `Depth` contains."""
    config = source.passport["config"]
    settings = parse_config(config) if config is not None else {}
    network = inside(settings, "model", "init_args", "backbone", "init_args", "network")
    facts = facts_of_run({"model": {"init_args": {"backbone": network}}}) | source.facts
    return source._replace(weights=inner_names(source.weights), facts=facts)


def convert_depth(source: Source, facts: Facts, part: Part, to: Format) -> Converted:
    """An encoder of depth under this project's names, with the other parts of a method.

    Raises:
        SettingError: if it does not fit, or the format does not support it.
    """
    _only_ours(source, to, "depth")
    inner = inner_network(source)
    facts = inner.facts | facts
    if is_beit(inner.weights):
        found = convert_beit(inner, facts, part, to)
    elif is_frame_tower(inner.weights):
        found = convert_frame_tower(inner, facts, part, to)
    elif is_cnn(inner.weights):
        found = convert_cnn(inner, facts, part, to)
    else:
        found = convert_video(inner, facts, part)
    near, far = setting_of(source, "near"), setting_of(source, "far")
    if near is None or far is None:
        near, far = NEAR, FAR
        rank_zero_info(f"No file with {source.path} states its range of depth: {near:g} to {far:g} mm assumed.")
    # Rename the encoder and its momentum copy.
    names = {key: re.sub(r"(^|(?<=\.))(key_)?backbone\.", rf"\g<0>{NETWORK}", key, count=1) for key in found.weights}
    passport = found.passport
    passport["architecture"] = passport["architecture"] | {"stream": "depth", "near": near, "far": far}
    return Converted({names[key]: value for key, value in found.weights.items()}, passport, None)


# --- Signals ---


def is_signal(weights: dict[str, Tensor]) -> bool:
    """Whether these are weights of a signal encoder, alone or in a method."""
    return any(f"{prefix}scale.running_mean" in weights for prefix in ("", "backbone."))


def convert_signal(source: Source, part: Part, to: Format) -> Converted:
    """An encoder of signals under this project's names, with a classifier if the file has one.

    Raises:
        SettingError: if it does not fit, or the format does not support it.
    """
    _only_ours(source, to, "signals")
    weights = source.weights
    if not any(key.startswith("backbone.") for key in weights):
        weights = {f"backbone.{key}": value for key, value in weights.items()}
    kept = {key: value for key, value in weights.items() if part == "all" or key.startswith("backbone.")}
    stem = kept.get("backbone.stem.0.weight")
    if stem is None or stem.ndim != 3:
        raise SettingError(f"{source.path} contains no complete signal encoder; pass another file.")
    width, channels, kernel = stem.shape
    blocks = count_blocks(kept, "backbone.stages.0.")
    sizes = {"channels": channels, "width": width, "blocks": blocks, "kernel": kernel}
    standardise = setting_of(source, "standardise")
    if standardise is None:
        rank_zero_info(f"No file with {source.path} states whether its signals are standardised: assumed that they are not.")
    with torch.device("meta"):
        network = nn.ModuleDict({"backbone": SignalCNN(channels, width, blocks, kernel)})
        if "head.weight" in kept:
            sizes["num_classes"] = len(kept["head.weight"])
            network["head"] = nn.Linear(4 * width, sizes["num_classes"])
    hint = " (--part backbone reads only the encoder)" if part == "all" else ""
    report = compare(dict(network.state_dict()), kept, source.path, f"SignalCNN{hint}")
    rank_zero_info(f"Read {source.path}: {', '.join(f'{name} {value}' for name, value in sizes.items())}: {report}.")
    config = source.passport["config"]
    data = inside(parse_config(config) if config is not None else {}, "data", "init_args", "streams", "signal")
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": "classifier" if "num_classes" in sizes else "encoder",
        **source.passport,
        "architecture": {"stream": "signal", **sizes, "standardise": bool(standardise)},
        "normalisation": None,
        "frames": data.get("steps") or source.passport.get("frames"),
        "stride": None,
    }
    return Converted(kept, passport, None)


# --- Sequences of features ---

USUAL_STEPS = 256
"""Longest sequence of LV-MAE."""
PUBLISHED_DECODER, PUBLISHED_DECODER_HEADS = 512, 16
"""Width and attention heads of its decoder."""


def convert_sequence(source: Source, facts: Facts, part: Part, to: Format) -> Converted:
    """An encoder of sequences of features under this project's names, with the decoder or classifier if the file has one.

    Raises:
        SettingError: if it does not fit, or the format does not support it.
    """
    if to not in ("safetensors", "official"):
        raise SettingError(f"--to {to} does not support encoders of features, as in {source.path}; pass --to safetensors.")
    path, weights = str(source.path), our_names(source.weights)
    if not any(key.startswith("backbone.") for key in weights):
        weights = {f"backbone.{key}": value for key, value in weights.items()}
    kept = {key: value for key, value in weights.items() if part == "all" or key.startswith("backbone.")}
    hidden, width = shape_of(kept, "backbone.blocks.0.mlp.fc1.weight", 2, path)
    steps = facts.get("max_steps") or trained_steps(source.weights) or setting_of(source, "max_steps")
    if steps is None:
        steps = USUAL_STEPS
        rank_zero_info(f"No file with {source.path} states the longest sequence of its training: {steps} steps assumed.")
    project = kept.get("backbone.project.weight")
    encoder: dict[str, Any] = {
        "embed_dim": width,
        "depth": count_blocks(kept, "backbone.blocks."),
        "num_heads": count_heads(width, facts.get("num_heads"), path),
        "mlp_ratio": mlp_ratio(hidden, width),
        "max_steps": steps,
        "input_dim": width if project is None else project.shape[1],
        "pooling": setting_of(source, "pooling") or "mean",
    }
    others: dict[str, int] = {}
    with torch.device("meta"):
        network = nn.ModuleDict({"backbone": SequenceTransformer(**encoder)})
        if "decoder.embed.weight" in kept:
            dim = len(kept["decoder.embed.weight"])
            heads: int = facts.get("decoder_heads") or (
                PUBLISHED_DECODER_HEADS if dim == PUBLISHED_DECODER else max(1, encoder["num_heads"] // 2)
            )
            others = {"decoder_dim": dim, "decoder_depth": count_blocks(kept, "decoder.blocks."), "decoder_heads": heads}
            settings = DecoderSettings(others["decoder_depth"], dim, heads)
            network["decoder"] = SequenceDecoder(network["backbone"], settings)  # type: ignore[arg-type]
        if "head.weight" in kept:
            others = {"num_classes": len(kept["head.weight"])}
            network["head"] = nn.Linear(width, others["num_classes"])
        if any(key.startswith("attention.") for key in kept):
            network["attention"] = ClassTokenAttention(width)
    hint = " (--part backbone reads only the encoder)" if part == "all" else ""
    report = compare(dict(network.state_dict()), kept, source.path, f"SequenceTransformer{hint}")
    rank_zero_info(
        f"Read {source.path}: {', '.join(f'{name} {value}' for name, value in (encoder | others).items())}: {report}."
    )
    passport = {
        "format": PASSPORT_FORMAT,
        "kind": "classifier" if "head" in network else "pretraining" if others else "encoder",
        **source.passport,
        "architecture": {"stream": "feature", **encoder, **others},
        "normalisation": None,
        "frames": steps,
        "stride": None,
    }
    return Converted(kept, passport, None)


def official_sequence(weights: dict[str, Tensor], architecture: dict[str, Any]) -> dict[str, Tensor]:
    """Official names of LV-MAE, with the tables of positions.

    Raises:
        SettingError: for a projection or a classifier, which the official network does not have.
    """
    other = [key for key in weights if not key.startswith(("backbone.", "decoder.")) or key.startswith("backbone.project.")]
    if other:
        raise SettingError(f"--to official is for LV-MAE, which has no {other[0]}; pass --to safetensors.")
    steps = architecture["max_steps"]
    positions = {"pos_embed": step_positions(steps, architecture["embed_dim"])}
    if "decoder_dim" in architecture:
        positions["decoder_pos_embed"] = step_positions(steps, architecture["decoder_dim"])
    return to_official(weights, positions)

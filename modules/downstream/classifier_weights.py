"""What a file with a classifier says: its weights under this project's names, its origin, its attention, and its classes."""

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from modules.backbones.frame_tower import FIRST, VIT
from modules.core.errors import SettingError
from modules.core.preprocessing import Origin
from modules.layers.attentive import AttentiveSettings
from modules.weights.files import Checkpoint
from modules.weights.names.videomae import our_names
from modules.weights.origin import origin_of_encoder, published_origin
from modules.weights.run_config import inside, parse_config

# V-JEPA's probes, official name -> ours; their further blocks have the same official name in both versions.
PROBE = {"pooler.query_tokens": "attention.query", "pooler.cross_attention_block.": "attention.cross.", "linear.": "head."}
PROBE_BLOCKS = "pooler.blocks."
AFTER, BEFORE = "attention.query_blocks.", "attention.token_blocks."


def own_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a complete classifier under the names of `Classification`, from any file accepted by `init_from`."""
    if {"stem.0.weight", "fc.weight"} <= weights.keys():
        # torchvision's R3D and R(2+1)D, whose classifier is called `fc`.
        names = {key: key.replace("fc.", "head.") if key.startswith("fc.") else f"backbone.{key}" for key in weights}
        return {names[key]: value for key, value in weights.items()}
    if any(key.endswith(f"{VIT}{FIRST}") for key in weights):
        return weights
    return from_probe(weights) if is_probe(weights) else our_names(weights)


def is_probe(weights: dict[str, Tensor]) -> bool:
    """Whether the weights are an official probe of V-JEPA or V-JEPA 2, without the encoder."""
    return "pooler.query_tokens" in weights


def from_probe(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an official probe of V-JEPA or V-JEPA 2 to the names of `Classification`.

    V-JEPA's cross-attention has a layer `proj` that its code does not use; it is left out. V-JEPA 2's has none, which shows
    where the further blocks belong: after the cross-attention in V-JEPA, before it in V-JEPA 2.
    """
    unused = [key for key in weights if _is_unused(key)]
    names = PROBE | {PROBE_BLOCKS: AFTER if unused else BEFORE}
    return {_renamed(key, names): value for key, value in weights.items() if key not in unused}


def to_probe(weights: dict[str, Tensor], version: Literal[1, 2]) -> dict[str, Tensor]:
    """Inverse of `from_probe`, without the encoder. V-JEPA's code needs its unused layer, which is written with zeros.

    Args:
        weights: weights of a `Classification` with `model.attention.form` vjepa, vjepa2 or bare.
        version: which code will read it, that of V-JEPA (1) or of V-JEPA 2. With a single block, both can.

    Raises:
        SettingError: if its further blocks are those of the other version.
    """
    if any(key.startswith(AFTER if version == 2 else BEFORE) for key in weights):
        raise SettingError(f"The further blocks of this probe are not those of V-JEPA {version}; choose the other version.")
    names = {AFTER: PROBE_BLOCKS, BEFORE: PROBE_BLOCKS} | {ours: official for official, ours in PROBE.items()}
    named = {_renamed(key, names): value for key, value in weights.items() if not key.startswith("backbone.")}
    if version == 1:
        for key, value in list(named.items()):
            if ".cross_attention_block." in key and key.rpartition(".")[0].endswith(".q"):
                named[key.replace(".q.", ".proj.")] = torch.zeros_like(value)
    return named


def _is_unused(key: str) -> bool:
    return key.startswith("pooler.cross_attention_block.") and ".proj." in key


def _renamed(key: str, names: dict[str, str]) -> str:
    """The name with another beginning, by the first one that fits."""
    start = next((one for one in names if key.startswith(one)), "")
    return names.get(start, "") + key.removeprefix(start)


def attention_of_run(config: Any) -> AttentiveSettings | None:
    """Attention in the config of the run that trained a classifier; None if there is no config.

    Args:
        config: YAML text from a checkpoint or passport, or None.
    """
    if not isinstance(config, str) or not config:
        return None
    return AttentiveSettings(**inside(parse_config(config), "model", "init_args", "attention"))


def whole_origin(path: str, content: Checkpoint) -> Origin:
    """Origin of a complete classifier, for any file accepted by `init_from`."""
    return published_origin(content.weights, origin_of_encoder(path, content))


def check_encoder(backbone: nn.Module, source: str) -> None:
    """Refuse a probe without its encoder on an encoder that has no weights from a file: all biases of its norms are 0.

    Raises:
        SettingError: if there are none.
    """
    norms = [part for part in backbone.modules() if isinstance(part, nn.LayerNorm | nn.BatchNorm3d)]
    if not any(part.bias.any() for part in norms if part.bias is not None):
        raise SettingError(
            f"{source}, which contains a probe without its encoder; set model.backbone.checkpoint to the encoder that it was "
            "trained with."
        )


def compare_heads(own: int, theirs: int, source: str) -> None:
    """Compare the heads of an attention, which cannot be read from its tensors, with those of the run that trained it.

    Raises:
        SettingError: if they differ.
    """
    if own != theirs:
        raise SettingError(
            f"{source}, whose attention has {theirs} heads, but there are {own} here; set model.attention.heads to {theirs}."
        )


def compare_class_names(names: list[str], known: list[str], source: str) -> None:
    """Compare the order of classes in the data and in the weights; an empty list is not compared.

    Args:
        names: class names of the data, by label.
        known: class names stored with the weights.
        source: where the weights come from, for the message.

    Raises:
        SettingError: if a name has different indices in the two, so that the labels have different meanings.
    """
    first = next((place for place, pair in enumerate(zip(names, known, strict=False)) if pair[0] != pair[1]), None)
    if first is None:
        return
    differs = f"{source} calls class {first} {known[first]!r}, but the data calls it {names[first]!r}"
    place = {name: number for number, name in enumerate(known)}
    if any(place.get(name, number) != number for number, name in enumerate(names)):
        raise SettingError(
            f"{differs}, and a class has another index in each; use the same classes in the same order, or start from the "
            "encoder alone with model.backbone.checkpoint."
        )
    rank_zero_warn(f"{differs}: indices are assumed to mean the same classes.")

"""Parameter names of MAE-ST (official code), also used for the models of a child's perspective (arXiv 2402.00300)."""

import torch
from torch import Tensor

from modules.core.tokens import Grid

DECODER_HEADS = 16
"""Attention heads of the official decoder, in all sizes."""
PROJECTIONS = ("q", "k", "v")
# Official name -> ours. What is not listed, such as a classifier's head, keeps its name.
TABLES = {
    "cls_token": "class_token",
    "pos_embed_spatial": "spatial",
    "pos_embed_temporal": "temporal",
    "pos_embed_class": "class_position",
    "pos_embed": "joint",
}
DECODER = {"decoder_embed": "embed", "decoder_blocks": "blocks", "decoder_norm": "norm", "decoder_pred": "head"}
FIRST_QUERY = "blocks.0.attn.q.weight"


def is_spacetime(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of MAE-ST."""
    return FIRST_QUERY in state and "patch_embed.proj.weight" in state


def from_spacetime(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an official pretraining or fine-tuning network to this project's names.

    Query, key and value matrices are joined; the first row of a joint table of positions becomes that of the class token; the
    patch embedding is flattened.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        before, attention, rest = key.rpartition(".attn.")
        each, _, kind = rest.partition(".")
        three = [f"{before}.attn.{one}.{kind}" for one in PROJECTIONS]
        # If one of the three is missing, the others keep their names, so that strict loading reports them.
        if attention and each in PROJECTIONS and set(three) <= state.keys():
            if each != PROJECTIONS[0]:
                continue
            value, name = torch.cat([state[one] for one in three]), f"{before}.attn.qkv.{kind}"
        part = "decoder" if name.startswith("decoder_") else "backbone"
        table = name.removeprefix("decoder_")
        first = name.partition(".")[0]
        if table in TABLES:
            if table == "pos_embed" and name.replace("pos_embed", "cls_token") in state:
                renamed[f"{part}.pos_embed.class_position"], value = value[:, :1], value[:, 1:]
            name = f"{part}.pos_embed.{TABLES[table]}"
        elif first in DECODER:
            name = f"decoder.{DECODER[first]}{name.removeprefix(first)}"
        elif name == "mask_token":
            name = "decoder.mask_token"
        elif first in ("blocks", "norm"):
            name = f"backbone.{name}"
        elif name.startswith("patch_embed.proj."):
            name = name.replace("patch_embed.proj.", "backbone.patch_embed.")
            value = value.flatten(1) if name.endswith("weight") else value
        renamed[name] = value
    return renamed


def to_spacetime(state: dict[str, Tensor], grid: Grid) -> dict[str, Tensor]:
    """Inverse of `from_spacetime` for encoder, decoder and a classifier's head."""
    tables = {ours: official for official, ours in TABLES.items()}
    parts = {ours: official for official, ours in DECODER.items()}
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        prefix = "decoder_" if part == "decoder" else ""
        if part not in ("backbone", "decoder"):
            named[key] = value
        elif name.startswith("pos_embed."):
            table = name.removeprefix("pos_embed.")
            joint = f"{part}.pos_embed.joint" in state
            if table == "joint" and f"{part}.pos_embed.class_position" in state:
                value = torch.cat([state[f"{part}.pos_embed.class_position"], value], dim=1)
            if table != "class_position" or not joint:
                named[prefix + tables[table]] = value
        elif name.startswith("patch_embed."):
            weight = name.endswith("weight")
            shape = (len(value), 3, grid.tubelet, grid.patch, grid.patch) if weight else value.shape
            named[name.replace("patch_embed.", "patch_embed.proj.")] = value.reshape(shape)
        else:
            first = name.partition(".")[0]
            official = name.replace(first, parts[first], 1) if prefix and first in parts else name
            before, joined, kind = official.rpartition(".attn.qkv.")
            if joined:
                for projection, matrix in zip(PROJECTIONS, value.chunk(3), strict=True):
                    named[f"{before}.attn.{projection}.{kind}"] = matrix.clone()
            else:
                named[official] = value
    return named

"""Parameter names of BEiT and of VindLU's video encoder."""

import re

import torch
from torch import Tensor

from modules.weights.sizes import count_blocks

OFFICIAL_PARTS = {
    "attention.attention.query.bias": "attn.q_bias",
    "attention.attention.value.bias": "attn.v_bias",
    "attention.attention.relative_position_bias.relative_position_bias_table": "attn.relative_position_bias_table",
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
    "intermediate.dense.weight": "mlp.fc1.weight",
    "intermediate.dense.bias": "mlp.fc1.bias",
    "output.dense.weight": "mlp.fc2.weight",
    "output.dense.bias": "mlp.fc2.bias",
    "layernorm_before.weight": "norm1.weight",
    "layernorm_before.bias": "norm1.bias",
    "layernorm_after.weight": "norm2.weight",
    "layernorm_after.bias": "norm2.bias",
    "lambda_1": "gamma_1",
    "lambda_2": "gamma_2",
}


OFFICIAL_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.temporal_position_embeddings": "frame_positions",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.bias",
    "patch_embed.proj.weight": "patch_embed.weight",
    "patch_embed.proj.bias": "patch_embed.bias",
    "fc_norm.weight": "pool_norm.weight",
    "fc_norm.bias": "pool_norm.bias",
    "pooler.layernorm.weight": "pool_norm.weight",
    "pooler.layernorm.bias": "pool_norm.bias",
    "vision_layernorm.weight": "norm.weight",
    "vision_layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
}


LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")


SHARED, TABLE = "rel_pos_bias.relative_position_bias_table", "attn.relative_position_bias_table"


QUERY, KEY, VALUE = (f"attention.attention.{name}.weight" for name in ("query", "key", "value"))


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of VindLU's video encoder, or of a BEiT (official code, transformers or timm), to those of `BEiTVideo`.

    Args:
        state: weights. The text encoder and the heads of VindLU are dropped; names of this project are kept. If all blocks
            share one table, as in BEiT's pretraining, each block gets it. If the weights are a complete method of this project,
            only `backbone.*` is used.
    """
    if any(key.startswith("backbone.") for key in state):
        return {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    whole = any(key.startswith("vision_encoder.") for key in state)
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if (whole and not key.startswith("vision_")) or key.startswith("vision_proj.") or key.endswith("_position_index"):
            continue
        name = key.removeprefix("vision_encoder.").removeprefix("beit.")
        layer = LAYER.fullmatch(name)
        if name == SHARED:
            renamed |= {f"blocks.{block}.{TABLE}": value for block in range(count_blocks(state, "blocks."))}
        elif layer is None:
            own = OFFICIAL_NAMES.get(name, name)
            renamed[own] = value.flatten(1) if own == "patch_embed.weight" else value
        elif layer[2].startswith("temp_model."):
            part = layer[2].removeprefix("temp_model.").replace("temporal_attn.", "attn.")
            if not part.startswith("linear."):
                renamed[f"temporal.{layer[1]}.{part}"] = value
        elif layer[2] == QUERY:
            parts = [value, *(state[other] for part in (KEY, VALUE) if (other := key.removesuffix(QUERY) + part) in state)]
            renamed[f"blocks.{layer[1]}.attn.qkv.weight"] = torch.cat(parts)
        elif layer[2] not in (KEY, VALUE):
            renamed[f"blocks.{layer[1]}.{OFFICIAL_PARTS.get(layer[2], layer[2])}"] = value
    return renamed

"""Parameter names of VideoMAE in the library `transformers`."""

import re

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.weights.sizes import Architecture


def is_transformers(weights: dict[str, Tensor]) -> bool:
    """Whether the names are those of a vision transformer of the library `transformers`."""
    return any(key.endswith("embeddings.patch_embeddings.projection.weight") for key in weights)


# Ours -> theirs, within a block. If a bias has two names, the older one is used.
BLOCK_PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


# Ours -> theirs, outside the blocks.
PREFIXES = {
    "backbone.patch_embed.": "videomae.embeddings.patch_embeddings.projection.",
    "backbone.norm.": "videomae.layernorm.",
    "backbone.blocks.": "videomae.encoder.layer.",
    "decoder.embed.": "encoder_to_decoder.",
    "decoder.mask_token": "mask_token",
    "decoder.blocks.": "decoder.decoder_layers.",
    "head.": "classifier.",
}


BLOCK = re.compile(r"(.*(?:blocks|layer|decoder_layers)\.\d+\.)(.+)\.(weight|bias)")


ATTENTION = "attention.attention."


def to_huggingface(weights: dict[str, Tensor], architecture: "Architecture") -> dict[str, Tensor]:
    """Rename weights to those of the matching class of `transformers` (see `CLASSES`).

    Args:
        weights: weights under this project's names.
        architecture: their sizes.

    Raises:
        SettingError: if the decoder predicts something other than pixels.
    """
    sizes = architecture
    pixels = 3 * sizes.tubelet_size * sizes.patch_size**2
    if sizes.decoder_out not in (None, pixels):
        raise SettingError(
            f"--to huggingface: the decoder predicts {sizes.decoder_out} values per token, but transformers' VideoMAE only the "
            f"{pixels} of a token's pixels; pass --part backbone to write only the encoder."
        )
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.startswith("backbone.norm.") and sizes.kind == "classifier":
            continue
        if key == "backbone.patch_embed.weight":
            value = value.reshape(-1, 3, sizes.tubelet_size, sizes.patch_size, sizes.patch_size)
        name = _swap_prefix(key, PREFIXES)
        if sizes.kind == "encoder":
            name = name.removeprefix("videomae.")
        block = BLOCK.fullmatch(name)
        if block is None:
            renamed[name] = value
        elif block[2] != "attn.qkv":
            renamed[f"{block[1]}{BLOCK_PARTS.get(block[2], block[2])}.{block[3]}"] = value
        else:
            query, middle, last = (part.clone() for part in value.chunk(3))
            start = block[1] + ATTENTION
            if block[3] == "weight":
                renamed |= {f"{start}query.weight": query, f"{start}key.weight": middle, f"{start}value.weight": last}
            else:
                renamed |= {f"{start}q_bias": query, f"{start}v_bias": last}
    return renamed


def from_huggingface(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `to_huggingface`, with a zero key bias. Unknown names, and parts of an incomplete qkv, are unchanged."""
    theirs = {their: our for our, their in PREFIXES.items()}
    parts = {their: our for our, their in BLOCK_PARTS.items()}
    named = {_full_name(key): value for key, value in weights.items()}
    renamed: dict[str, Tensor] = {}
    for key, value in named.items():
        name = _swap_prefix(key, theirs)
        if name == "backbone.patch_embed.weight":
            value = value.flatten(1)
        block = BLOCK.fullmatch(name)
        if block is None:
            renamed[name] = value
        elif not block[2].startswith(ATTENTION):
            renamed[f"{block[1]}{parts.get(block[2], block[2])}.{block[3]}"] = value
        else:
            fused = _fuse(named, key.rsplit(".", 2)[0], block[3])
            if fused is None:
                renamed[key] = value
            else:
                renamed[f"{block[1]}attn.qkv.{block[3]}"] = fused
    return renamed


def _full_name(key: str) -> str:
    """The newest name, with the prefix that is missing in files of a bare encoder."""
    key = key.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias")
    return f"videomae.{key}" if key.startswith(("embeddings.", "encoder.layer.", "layernorm.")) else key


def _fuse(named: dict[str, Tensor], start: str, what: str) -> Tensor | None:
    """Query, key and value in one tensor; None if one is missing."""
    query, value = named.get(f"{start}.query.{what}"), named.get(f"{start}.value.{what}")
    key = named.get(f"{start}.key.{what}")
    if key is None and query is not None and what == "bias":
        key = query.new_zeros(query.shape)
    return None if query is None or key is None or value is None else torch.cat([query, key, value])


def _swap_prefix(key: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key

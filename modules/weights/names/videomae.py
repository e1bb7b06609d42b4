"""Parameter names of the official VideoMAE family: VideoMAE, SMILE and SIGMA."""

import torch
from torch import Tensor

from modules.core.tokens import Grid
from modules.weights.names.huggingface import from_huggingface, is_transformers
from modules.weights.names.spacetime import from_spacetime, is_spacetime


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an official pretraining or fine-tuning network to this project's names.

    `encoder.*` becomes `backbone.*`; `encoder_to_decoder` and `mask_token` move into `decoder.*`; q_bias and v_bias are
    fused with a zero key bias; the patch embedding is flattened; SIGMA's MLP `head.0.*`, `head.2.*`, ... becomes
    `projection.*`. Other keys (head, fc_norm, prototypes) keep their names.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        start = key.removesuffix("q_bias").removesuffix("v_bias")
        # A single bias of the two keeps its name, so that strict loading reports it.
        if start.endswith("attn.") and {f"{start}q_bias", f"{start}v_bias"} <= state.keys() and key != start:
            if key.endswith("v_bias"):
                continue
            value = torch.cat([value, torch.zeros_like(value), state[f"{start}v_bias"]])
            name = f"{start}qkv.bias"
        if name.endswith("patch_embed.proj.weight"):
            value = value.flatten(1)
        name = name.replace("patch_embed.proj.", "patch_embed.")
        if name.startswith("encoder."):
            name = "backbone." + name.removeprefix("encoder.")
        elif name.startswith(("patch_embed.", "blocks.", "norm.")):
            name = "backbone." + name
        elif name == "encoder_to_decoder.weight":
            name = "decoder.embed.weight"
        elif name == "mask_token":
            name = "decoder.mask_token"
        elif name.startswith("head.") and name.split(".")[1].isdecimal():
            name = "projection." + name.removeprefix("head.")
        renamed[name] = value
    return renamed


def to_official(state: dict[str, Tensor], grid: Grid) -> dict[str, Tensor]:
    """Inverse of `from_official` for a pretraining network (`backbone.*`, `decoder.*`; SIGMA: `projection.*`, `prototypes`).

    The key bias is dropped, because no output depends on it.
    """
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        name = "encoder." + key.removeprefix("backbone.") if key.startswith("backbone.") else key
        name = name.replace("decoder.embed.weight", "encoder_to_decoder.weight")
        name = name.replace("decoder.mask_token", "mask_token").replace("patch_embed.", "patch_embed.proj.")
        name = name.replace("projection.", "head.")
        if name.endswith("patch_embed.proj.weight"):
            value = value.reshape(value.shape[0], 3, grid.tubelet, grid.patch, grid.patch)
        if name.endswith("attn.qkv.bias"):
            query, _, values = value.chunk(3)
            named[name.replace("qkv.bias", "q_bias")] = query.clone()
            named[name.replace("qkv.bias", "v_bias")] = values.clone()
        else:
            named[name] = value
    return named


def is_official(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of the official VideoMAE family, and not those of a method of ours with an image encoder."""
    return "backbone.patch_embed.weight" not in state and any(key.endswith("patch_embed.proj.weight") for key in state)


def our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of official files, of MAE-ST and of `transformers` to this project's names; others are unchanged."""
    if is_transformers(state):
        return from_huggingface(state)
    if is_spacetime(state):
        return from_spacetime(state)
    return from_official(state) if is_official(state) else state


def encoder_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights from any supported file, under the names of `VideoViT`.

    Accepts complete methods of this project (`backbone.*`), bare encoders, and pretraining or fine-tuning networks of the
    official code or of `transformers`.
    """
    state = our_names(state)
    inner = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    return inner or state

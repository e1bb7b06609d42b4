"""Names of the official code of CropMAE (https://arxiv.org/abs/2403.17823), which are also those of its SiamMAE."""

from torch import Tensor

PREFIX = "backbone.vit."
"""Where methods of this project have the encoder; its names are MAE's, and those of timm."""
DECODER = {
    "mask_token": "mask_token",
    "decoder_pos_embed": "positions",
    "decoder_embed.": "embed.",
    "decoder_blocks.": "blocks.",
    "decoder_norm.": "norm.",
    "decoder_pred.": "head.",
}
"""Beginnings of the decoder's names in the official code, and in this project below `decoder.`"""
CROSS = "blocks.0.multihead_attn.in_proj_weight"
"""A parameter that no other decoder has, below `decoder.` or `decoder_`."""


def is_official(weights: dict[str, Tensor]) -> bool:
    """Whether these are the weights of the complete official network."""
    return f"decoder_{CROSS}" in weights


def is_ours(weights: dict[str, Tensor]) -> bool:
    """Whether these are the weights of CropMAE or SiamMAE under this project's names."""
    return f"decoder.{CROSS}" in weights


def has_mae_decoder(weights: dict[str, Tensor]) -> bool:
    """Whether an official file contains an image encoder with a decoder, also that of MAE (https://arxiv.org/abs/2111.06377).

    The queries of MAE-ST, which has the same names otherwise, have a matrix for themselves.
    """
    return {"mask_token", "decoder_embed.weight", "blocks.0.attn.qkv.weight"} <= weights.keys()


def without_decoder(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder in a file that `has_mae_decoder`, under the same names."""
    return {name: value for name, value in weights.items() if not name.startswith(tuple(DECODER))}


def our_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official weights of encoder and decoder under this project's names; weights of this project are unchanged."""
    return {_ours(name): value for name, value in weights.items()} if is_official(weights) else weights


def _ours(name: str) -> str:
    for official, own in DECODER.items():
        if name.startswith(official):
            return f"decoder.{own}{name.removeprefix(official)}"
    return PREFIX + name


def to_official(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `our_names`, also for the encoder alone."""
    return {_official(name): value for name, value in weights.items()}


def _official(name: str) -> str:
    for official, own in DECODER.items():
        if name.startswith(f"decoder.{own}"):
            return official + name.removeprefix(f"decoder.{own}")
    return name.removeprefix(PREFIX)

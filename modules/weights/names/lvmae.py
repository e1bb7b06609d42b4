"""Parameter names of LV-MAE (https://arxiv.org/abs/2504.03501, official code), which are those of MAE without patches."""

from torch import Tensor

BACKBONE, DECODER = "backbone.", "decoder."
POSITIONS = "pos_embed"
"""The official tables of fixed positions, which this project computes."""
OFFICIAL = {
    "mask_token": "mask_token",
    "decoder_embed.": "embed.",
    "decoder_blocks.": "blocks.",
    "decoder_norm.": "norm.",
    "decoder_pred.": "head.",
}
"""Beginnings of the decoder's names in the official code, and in this project below `decoder.`"""


def is_sequence(weights: dict[str, Tensor]) -> bool:
    """Whether these are weights of a transformer on sequences of features: official, ours alone, or in a method of ours."""
    for prefix in ("", BACKBONE):
        if f"{prefix}cls_token" in weights and f"{prefix}blocks.0.attn.qkv.weight" in weights:
            return not any("patch_embed" in name for name in weights)
    return False


def is_official(weights: dict[str, Tensor]) -> bool:
    """Whether the names of such weights are the official ones."""
    return POSITIONS in weights and is_sequence(weights)


def trained_steps(weights: dict[str, Tensor]) -> int | None:
    """Longest sequence of an official file; None for files of this project, which have no tables of positions."""
    return weights[POSITIONS].shape[1] - 1 if is_official(weights) else None


def our_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official weights under this project's names, without the tables of positions; weights of ours are unchanged."""
    if not is_official(weights):
        return weights
    return {_ours(name): value for name, value in weights.items() if name not in (POSITIONS, f"decoder_{POSITIONS}")}


def _ours(name: str) -> str:
    for official, own in OFFICIAL.items():
        if name.startswith(official):
            return f"{DECODER}{own}{name.removeprefix(official)}"
    return BACKBONE + name


def encoder_weights(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], int | None]:
    """The encoder in any such file, under its own names, and the longest sequence that it was trained on, if the file tells."""
    named = our_names(weights)
    inner = {name.removeprefix(BACKBONE): value for name, value in named.items() if name.startswith(BACKBONE)}
    return inner or named, trained_steps(weights)


def to_official(weights: dict[str, Tensor], positions: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `our_names`.

    Args:
        weights: encoder, with or without decoder, under the names of a method.
        positions: tables [1, 1 + S, D] of the encoder and of the decoder, by their official names.
    """
    return {_official(name): value for name, value in weights.items()} | positions


def _official(name: str) -> str:
    for official, own in OFFICIAL.items():
        if name.startswith(f"{DECODER}{own}"):
            return official + name.removeprefix(f"{DECODER}{own}")
    return name.removeprefix(BACKBONE)

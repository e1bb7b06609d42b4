"""Parameter names of V-JEPA and V-JEPA 2 (official code)."""

from torch import Tensor

from modules.core.tokens import Grid

PARTS = {"encoder": "backbone", "target_encoder": "target_encoder", "predictor": "predictor"}
"""Official entry of a checkpoint -> our part."""
WRAPPERS = ("module.", "backbone.")
"""Prefixes in the official entries, of DDP and of the module that takes several masks."""
TABLES = ("pos_embed", "predictor_pos_embed")
"""Fixed position codes, which are no weights here."""


def from_vjepa(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename official weights, `encoder.*`, `predictor.*` and `target_encoder.*`, or those of a bare encoder, to this project's
    names. Prefixes of wrappers are removed, position codes are left out, and the patch embedding is flattened."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        ours = PARTS.get(part)
        if ours is None:
            ours, name = "backbone", key
        for prefix in WRAPPERS:
            name = name.removeprefix(prefix)
        if name in TABLES:
            continue
        if name == "patch_embed.proj.weight":
            value = value.flatten(1)
        renamed[f"{ours}.{name.replace('patch_embed.proj.', 'patch_embed.')}"] = value
    return renamed


def to_vjepa(state: dict[str, Tensor], grid: Grid) -> dict[str, Tensor]:
    """Inverse of `from_vjepa`, without prefixes of wrappers and without position codes.

    Args:
        state: weights of a method, `backbone.*`, `predictor.*` and `target_encoder.*`.
        grid: the encoder's grid.
    """
    parts = {ours: official for official, ours in PARTS.items()}
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        name = name.replace("patch_embed.", "patch_embed.proj.")
        if name == "patch_embed.proj.weight":
            value = value.reshape(len(value), 3, grid.tubelet, grid.patch, grid.patch)
        named[f"{parts.get(part, part)}.{name}"] = value
    return named


def is_vjepa(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of an official checkpoint, or of an encoder of one."""
    return any(key.endswith("patch_embed.proj.weight") for key in state) and any(
        key.startswith(("target_encoder.", "predictor.")) or key.endswith("pos_embed") for key in state
    )


def encoder_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights, under the names of `VJEPAViT`, from an official file, a bare encoder, or a method of this project.
    The target encoder is used where there is one, as in the official evaluation."""
    if any(key.endswith("patch_embed.proj.weight") for key in state):
        state = from_vjepa(state)
    for part in ("target_encoder.", "backbone."):
        inner = {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
        if inner:
            return inner
    return state

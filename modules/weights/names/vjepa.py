"""Parameter names of V-JEPA and V-JEPA 2 (official code).

An official checkpoint has an entry for each network; `modules.weights.files.read_checkpoint` puts its name before those of the
weights. The target encoder, which the papers evaluate, is our `backbone`.
"""

from typing import Literal, get_args

from torch import Tensor

from modules.core.tokens import Grid

Codes = Literal["sincos", "sincos_half", "rotary", "tiled_rotary"]
"""Kinds of positions, see `modules.backbones.vit.vjepa_vit.VJEPAViT`."""
KINDS: tuple[Codes, ...] = get_args(Codes)
CODE_NUMBER = "code_number"
"""Name of the index of an encoder's kind of positions in `KINDS`, which our weights contain."""
PARTS = {"encoder": "online", "target_encoder": "backbone", "predictor": "predictor"}
"""Official entry of a checkpoint -> our part."""
WRAPPERS = ("module.", "backbone.")
"""Prefixes in the official entries, of DDP and of the module that takes several masks."""
TABLES = {"backbone": "pos_embed", "online": "pos_embed", "predictor": "predictor_pos_embed"}
"""Names of fixed position codes, which are not weights here, by part."""
PATCHES = "patch_embed.proj."


def bare(key: str) -> tuple[str, str]:
    """Our part and the official name without prefixes of an official name. The names of an encoder alone have no part."""
    part, _, name = key.partition(".")
    if part not in PARTS:
        part, name = "target_encoder", key
    for prefix in WRAPPERS:
        name = name.removeprefix(prefix)
    return PARTS[part], name


def is_vjepa(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of an official checkpoint, or of an encoder of one. Other encoders with these names have a
    class token, biases of queries or values only, or separate queries."""
    named = {bare(key): value for key, value in state.items()}
    inside = {name: value for (part, name), value in named.items() if part != "predictor"}
    return (
        {f"{PATCHES}weight", "blocks.0.attn.qkv.bias", "norm.weight"} <= inside.keys()
        and inside[f"{PATCHES}weight"].ndim == 5
        and "cls_token" not in inside
        and not any(name.startswith(("head.", "decoder")) for name in inside)
    )


def table_of(state: dict[str, Tensor]) -> Tensor | None:
    """The encoder's table of positions [1, N, D] in official weights; None if there is none, as in V-JEPA 2."""
    return next((value for key, value in state.items() if bare(key)[1] == "pos_embed"), None)


def from_vjepa(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename official weights to this project's names: `encoder.*` becomes `online.*`, `target_encoder.*` and a bare encoder
    become `backbone.*`, and `predictor.*` stays. Prefixes of wrappers are removed, position codes are left out, and the patch
    embedding is flattened."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        part, name = bare(key)
        if name != TABLES[part]:
            flat = name == f"{PATCHES}weight"
            renamed[f"{part}.{name.replace(PATCHES, 'patch_embed.')}"] = value.flatten(1) if flat else value
    return renamed


def to_vjepa(state: dict[str, Tensor], grid: Grid, tables: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Inverse of `from_vjepa`, as the entries of an official checkpoint, with the prefixes of its wrappers.

    Args:
        state: weights of a method or of an encoder.
        grid: the encoder's grid.
        tables: position codes of each part; empty for rotary positions.
    """
    parts = {ours: official for official, ours in PARTS.items()}
    named: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        if name == CODE_NUMBER:
            continue
        name = name.replace("patch_embed.", PATCHES)
        if name == f"{PATCHES}weight":
            value = value.reshape(len(value), 3, grid.tubelet, grid.patch, grid.patch)
        named.setdefault(parts[part], {})["module.backbone." + name] = value
    for part, table in tables.items():
        named[parts[part]][f"module.backbone.{TABLES[part]}"] = table
    return named


def our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename official weights; others are unchanged."""
    return from_vjepa(state) if is_vjepa(state) else state


def encoder_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights, under the names of `VJEPAViT`, from an official file, a bare encoder, or a method of this project.
    Of the two encoders of V-JEPA, it is the target encoder, as in the official evaluation; a file without one gives its
    only encoder."""
    state = our_names(state)
    for part in ("backbone.", "online."):
        inner = {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
        if inner:
            return inner
    return state

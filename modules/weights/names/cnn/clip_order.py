"""Parameter names of VCOP's official code: C3D, R3D and R(2+1)D below `base_network.`, and the head `fc7`, `fc8`."""

import re

from torch import Tensor

PREFIX = "base_network."
HEADS = ("fc7.", "fc8.")
STEMS = {"conv5b.weight": "block1.", "conv1.temporal_spatial_conv.weight": "stem.", "conv1.spatial_conv.weight": "stem."}
"""By a layer that only this network has under its official name, where the first layers are in this project."""
OWN_LAYERS = ("block5.conv5b.weight", "stem.conv1.temporal_spatial_conv.weight", "stem.conv1.spatial_conv.weight")
"""The same layers in this project."""


def is_clip_order(state: dict[str, Tensor]) -> bool:
    """Whether these are weights of VCOP's official code, of the method or of one of its networks alone."""
    return any(prefix + layer in state for prefix in ("", PREFIX) for layer in STEMS)


def is_own_clip_order(state: dict[str, Tensor]) -> bool:
    """Whether a network of VCOP is among these weights, under this project's names."""
    return any(key.endswith(OWN_LAYERS) for key in state)


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename VCOP's weights to a method's names: `backbone.*`, `head.fc7.*` and `head.fc8.*`. Other files are unchanged.

    Args:
        state: `base_network.*`, with or without `fc7.*`, `fc8.*` and other keys; or a network alone, without prefix.
    """
    found = next(((prefix, layer) for prefix in (PREFIX, "") for layer in STEMS if prefix + layer in state), None)
    if found is None:
        return state
    prefix, stem = found[0], STEMS[found[1]]
    renamed = {}
    for key, value in state.items():
        inner = key.removeprefix(prefix)
        if key.startswith(HEADS):
            renamed[f"head.{key}"] = value
        elif key.startswith(prefix) and inner.startswith(("conv", "bn")):
            renamed[f"backbone.{_container(inner, stem)}{inner}"] = value
        else:
            renamed[key] = value
    return renamed


def to_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `from_official` for the weights of a method."""
    renamed = {}
    for key, value in state.items():
        inner = key.removeprefix("backbone.")
        plain = re.sub(r"^(stem|block\d)\.", "", inner)
        renamed[key.removeprefix("head.") if inner == key else PREFIX + plain] = value
    return renamed


def _container(name: str, stem: str) -> str:
    """Where a layer is in this project's networks: blocks of C3D, the stem of the ResNets; their stages have official names."""
    if name.startswith(("conv1.", "bn1.")):
        return stem
    flat = re.match(r"(?:conv|bn)(\d)[ab]?\.\w+$", name)
    return f"block{flat[1]}." if flat else ""

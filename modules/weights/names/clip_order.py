"""Parameter names of VCOP's official code: C3D, R3D and R(2+1)D below `base_network.`, and the head `fc7`, `fc8`."""

import re

from torch import Tensor

PREFIX = "base_network."
HEADS = ("fc7.", "fc8.")
LAST_LAYERS = ("conv5b.weight", "conv5.block1.bn2.weight")
"""a layer of C3D and one of the ResNets, by which a file is recognised"""


def is_clip_order(state: dict[str, Tensor]) -> bool:
    """Whether these are weights of VCOP's official code, of the method or of one of its networks alone."""
    return any(prefix + last in state for prefix in ("", PREFIX) for last in LAST_LAYERS)


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename VCOP's weights to a method's names: `backbone.*`, `head.fc7.*` and `head.fc8.*`. Other files are unchanged.

    Args:
        state: `base_network.*`, with or without `fc7.*`, `fc8.*` and other keys; or a network alone, without prefix.
    """
    if not is_clip_order(state):
        return state
    prefix = next(prefix for prefix in (PREFIX, "") for last in LAST_LAYERS if prefix + last in state)
    stem = "block1." if prefix + LAST_LAYERS[0] in state else "stem."
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

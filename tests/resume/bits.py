"""Comparing checkpoints bit for bit."""

from typing import Any

import torch
from torch import Tensor


def differences(one: Any, other: Any, where: str = "checkpoint") -> list[str]:
    """Paths at which two checkpoints differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        places = [f"{where}: keys {one.keys() ^ other.keys()}"] if one.keys() != other.keys() else []
        return places + [
            place for key in one.keys() & other.keys() for place in differences(one[key], other[key], f"{where}.{key}")
        ]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [place for number, (a, b) in pairs for place in differences(a, b, f"{where}[{number}]")]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    return [] if one == other and type(one) is type(other) else [f"{where}: {one!r} != {other!r}"]

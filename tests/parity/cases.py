"""Reads cases made by the official code at tiny size, if they exist on this machine."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.core.preprocessing import IMAGENET

PARITY_DIR = Path(os.environ.get("PARITY_DIR", Path(__file__).parents[3] / "shared" / "parity"))
RELATIVE_BOUND = 1e-5


def load_case(method: str, case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (`state.*`, `input.*`, `output.*`) and description of one case; skips the test if it is missing."""
    path = PARITY_DIR / method / f"{case}.safetensors"
    if not path.is_file():
        pytest.skip(f"no official tensors at {path}; set PARITY_DIR to the folder that holds them")
    return load_file(path), json.loads(path.with_suffix(".json").read_text())


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def as_clips(video: Tensor) -> Tensor:
    """Normalised videos [B, 3, T, H, W] as the pixels that they come from: float64 [B, 1, T, H, W, 3], from 0 to 255."""
    return 255 * IMAGENET.restore(video.double()).permute(0, 2, 3, 4, 1)[:, None]


def assert_close(actual: Tensor, expected: Tensor, name: str, bound: float = RELATIVE_BOUND) -> None:
    """Largest difference within `bound` of the expected tensor's largest value."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    scale = expected.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    error = (actual.double() - expected.double()).abs().max() / scale
    assert error <= bound, f"{name}: differs by {error:.2e} of its largest value"

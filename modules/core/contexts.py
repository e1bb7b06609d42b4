"""States that are held for a while: all digits of float32, and looking at a network without touching it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

# PyTorch 2.9 has a setting for each backend, and refuses to read the common one of old where they differ.
PARTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul) if hasattr(torch.backends.mkldnn, "matmul") else ()
ALL_DIGITS = ("ieee", "ieee") if PARTS else ("highest",)


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 have all their digits inside, whatever autocast and `torch.set_float32_matmul_precision` say,
    which the command line sets to 'high'; afterwards these are what they were.

    With TF32's ten bits, features that share a large mean have other nearest neighbours.

    Args:
        device: of the products.
    """
    before = _precision()
    _set_precision(ALL_DIGITS)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _set_precision(before)


def _precision() -> list[str]:
    return [part.fp32_precision for part in PARTS] or [torch.get_float32_matmul_precision()]


def _set_precision(values: Sequence[str]) -> None:
    if not PARTS:
        torch.set_float32_matmul_precision(values[0])
    for part, value in zip(PARTS, values, strict=False):
        part.fp32_precision = value


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient; afterwards each part has its own mode again, and the random state its value."""
    training = [part for part in module.modules() if part.training]
    state = torch.get_rng_state()
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
        torch.set_rng_state(state)

"""Helpers for devices: cached constants, asynchronous copies of small tensors, full float32 precision."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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


# --- Constants ---

_KEPT: dict[tuple[Any, ...], Tensor] = {}


def _as_they_are(values: Any) -> Any:
    return values


def table(make: Callable[..., Any], *arguments: Hashable, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What a function returns, as a tensor that is kept: made once for the same arguments, type and device.

    Args:
        make: function of a module (no lambda, which would be another one each time) that returns numbers or an array.
        arguments: of `make`.
        dtype: of the tensor.
        device: of the tensor.

    Returns:
        a tensor that all callers share, and none must change.
    """
    key = (make, arguments, dtype, device)
    if key not in _KEPT:
        # Of use in training too, where it is first asked for in validation.
        with torch.inference_mode(False):
            _KEPT[key] = torch.as_tensor(make(*arguments), dtype=dtype).to(device)
    return _KEPT[key]


def constant(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers, as a tensor that is kept.

    Args:
        values: a number or tuples of numbers.
        dtype: of the tensor.
        device: of the tensor.

    Returns:
        a tensor that all callers share, and none must change.
    """
    return table(_as_they_are, values, dtype=dtype, device=device)


@contextmanager
def own_constants() -> Iterator[None]:
    """Forget what was made inside, at the end: for tensors without data, which must not be met again."""
    before = dict(_KEPT)
    _KEPT.clear()
    try:
        yield
    finally:
        _KEPT.clear()
        _KEPT.update(before)


# --- On the way to the device ---


def to_device(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the CPU on a device, all of them in one copy, which neither host nor device waits for.

    Args:
        tensors: of any types and shapes; as they are if they are there already.
        device: where they are needed.
    """
    if tensors[0].device.type == device.type:
        return tensors
    # Wide types first: so all of them begin at a multiple of their width.
    order = sorted(range(len(tensors)), key=lambda number: -tensors[number].element_size())
    packed = torch.cat([tensors[number].contiguous().view(-1).view(torch.uint8) for number in order])
    rest = packed.pin_memory().to(device, non_blocking=True)
    moved = dict[int, Tensor]()
    for number in order:
        size = tensors[number].numel() * tensors[number].element_size()
        moved[number] = rest[:size].view(tensors[number].dtype).view(tensors[number].shape)
        rest = rest[size:]
    return [moved[number] for number in range(len(tensors))]

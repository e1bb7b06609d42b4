"""Helpers for devices: cached constants, asynchronous copies of small tensors, full float32 precision."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# PyTorch 2.9 has one setting per backend. Reading the older common setting fails if they differ.
PARTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul) if hasattr(torch.backends.mkldnn, "matmul") else ()
ALL_DIGITS = ("ieee", "ieee") if PARTS else ("highest",)


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Context in which float32 matrix products have full precision, regardless of autocast and of
    `torch.set_float32_matmul_precision`, which the command line sets to 'high'. Both are restored at the end.

    With the ten-bit mantissa of TF32, features with a large common mean get other nearest neighbours.

    Args:
        device: device of the products.
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
    """Context of evaluation mode without gradients. All submodules' modes and the random state are restored at the end."""
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
    """The result of a function as a cached tensor, made once per arguments, type and device.

    Args:
        make: module-level function (a lambda would be a new object at every call) that returns numbers or an array.
        arguments: arguments of `make`.
        dtype: type of the tensor.
        device: device of the tensor.

    Returns:
        a tensor that all callers share. It must not be changed in place.
    """
    key = (make, arguments, dtype, device)
    if key not in _KEPT:
        # Training must be able to use a tensor that validation requested first.
        with torch.inference_mode(False):
            _KEPT[key] = torch.as_tensor(make(*arguments), dtype=dtype).to(device)
    return _KEPT[key]


def constant(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a cached tensor.

    Args:
        values: a number or tuples of numbers.
        dtype: type of the tensor.
        device: device of the tensor.

    Returns:
        a tensor that all callers share. It must not be changed in place.
    """
    return table(_as_they_are, values, dtype=dtype, device=device)


@contextmanager
def own_constants() -> Iterator[None]:
    """Context with a separate cache, for tensors without data (meta or fake tensors), which must not be reused later."""
    before = dict(_KEPT)
    _KEPT.clear()
    try:
        yield
    finally:
        _KEPT.clear()
        _KEPT.update(before)


# --- Copies to the device ---


def to_device(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Copy CPU tensors to a device, all of them in one asynchronous copy.

    Args:
        tensors: tensors of any types and shapes; returned unchanged if they are on the device already.
        device: target device.
    """
    if tensors[0].device.type == device.type:
        return tensors
    # Wide types first, so that every tensor starts at a multiple of its element size.
    order = sorted(range(len(tensors)), key=lambda number: -tensors[number].element_size())
    packed = torch.cat([tensors[number].contiguous().view(-1).view(torch.uint8) for number in order])
    rest = packed.pin_memory().to(device, non_blocking=True)
    moved = dict[int, Tensor]()
    for number in order:
        size = tensors[number].numel() * tensors[number].element_size()
        moved[number] = rest[:size].view(tensors[number].dtype).view(tensors[number].shape)
        rest = rest[size:]
    return [moved[number] for number in range(len(tensors))]

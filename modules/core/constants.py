"""Constants on the device, made once: a copy from the host in each step would wait for all that the device has still to do."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

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

"""Asynchronous copies of batches to a GPU while it works on the previous batch.

Tests check the order of operations on a CPU, with a stand-in for the stream. The gain has not been measured on a GPU.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


class Copies(Protocol):
    """A way to copy batches asynchronously."""

    def begin(self, batch: Any) -> Any:
        """Start copying a batch; pass the result to `end`."""

    def end(self, begun: Any) -> Any:
        """The copy, ready for the computation that follows."""


class SideStream:
    """Copies to a CUDA device on a separate stream, in parallel with computation.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def begin(self, batch: Any) -> tuple[Any, torch.cuda.Event]:
        """Start copying; without a host sync if memory is pinned."""
        with torch.cuda.stream(self._stream):
            return move_data_to_device(batch, self.device), self._stream.record_event()

    def end(self, begun: tuple[Any, torch.cuda.Event]) -> Any:
        """Make the device wait for this copy, but not for later ones; the host does not wait."""
        copy, done = begun
        current = torch.cuda.current_stream(self.device)
        current.wait_event(done)

        def used(tensor: Tensor) -> Tensor:
            # Its memory belongs to the side stream, which must not reuse it before the step has read it.
            tensor.record_stream(current)
            return tensor

        return apply_to_collection(copy, Tensor, used)


def one_ahead(batches: Iterator[Any], copies: Copies) -> Iterator[tuple[Any, Any]]:
    """Yields copies of batches; each copy starts before the previous batch is returned.

    An error is raised after the batches before it, as without copies.
    """
    before: tuple[Any, Any] | None = None
    error: Exception | None = None
    while True:
        batch = None
        try:
            batch = next(batches, None)
        except Exception as raised:
            error = raised
        now = None if batch is None else (batch, copies.begin(batch))
        if before is not None:
            yield before[0], copies.end(before[1])
        if error is not None:
            raise error
        if now is None:
            return
        before = now

"""Batches that are on their way to a GPU while it works on the batch before.

Tests run the order of things on a CPU, with something in the place of the stream. How much it gains was never timed on a GPU.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


class Copies(Protocol):
    """A way to copy batches that does not wait for the copy."""

    def begin(self, batch: Any) -> Any:
        """Begin to copy a batch; what comes back is for `end`."""

    def end(self, begun: Any) -> Any:
        """The copy, which what is computed next may read."""


class SideStream:
    """Copies to a CUDA device on a stream of its own, beside what the device computes.

    Args:
        device: of CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def begin(self, batch: Any) -> tuple[Any, torch.cuda.Event]:
        """Begin to copy; from pinned memory the host does not wait."""
        with torch.cuda.stream(self._stream):
            return move_data_to_device(batch, self.device), self._stream.record_event()

    def end(self, begun: tuple[Any, torch.cuda.Event]) -> Any:
        """Let the device wait for this copy, and not for later ones; the host does not."""
        copy, done = begun
        current = torch.cuda.current_stream(self.device)
        current.wait_event(done)

        def used(tensor: Tensor) -> Tensor:
            # Its memory belongs to the side stream, which must not give it away before the step has read it.
            tensor.record_stream(current)
            return tensor

        return apply_to_collection(copy, Tensor, used)


def one_ahead(batches: Iterator[Any], copies: Copies) -> Iterator[tuple[Any, Any]]:
    """Each batch and its copy, which begins before the batch in front of it is handed out.

    An error comes behind the batches in front of it, as it would without copies.
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

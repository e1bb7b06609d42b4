"""Looking at a network without touching it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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

"""Momentum encoders: the key branch of MoCo, the teacher of BYOL and DINO.

The copy is an ordinary module without trained parameters. A method stores it as an attribute, so it is in the checkpoint.
Since it has no gradient, it is neither in the optimiser nor in DDP's gradients. In each training step, the method calls

    follow(self.key_encoder, self.backbone, momentum)   # first
    with torch.no_grad():                               # not inference mode: the loss of the queries saves the keys
        keys = self.key_encoder(clips)                  # then

once per optimiser step, and never in validation.
"""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(online: Network) -> Network:
    """A copy with separate storage and without trained parameters. It stays in float32 (`modules.training.precision`)."""
    slow = copy.deepcopy(online).requires_grad_(False)
    slow.is_momentum_copy = True  # type: ignore[assignment]
    return slow


@torch.no_grad()
def follow(slow: nn.Module, online: nn.Module, momentum: float) -> None:
    """Update a momentum copy: slow <- momentum * slow + (1 - momentum) * online (MoCo, official code).

    Only parameters are updated; running statistics of batch norm come from the copy's own forward passes. The update has the
    precision of the copy's parameters, float32, even if the network's are bfloat16, in which updates of a thousandth would be
    lost.

    Args:
        slow: the copy, made by `frozen_copy` of `online`.
        online: the trained network.
        momentum: 1 leaves the copy unchanged, 0 makes it equal to the original.
    """
    copies = list(slow.parameters())
    current = [value.to(copy) for value, copy in zip(online.parameters(), copies, strict=True)]
    get_ema_multi_avg_fn(momentum)(copies, current, 0)

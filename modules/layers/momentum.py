"""Momentum encoders: the key branch of MoCo, the teacher of BYOL and DINO.

The copy is an ordinary module without trained parameters. A method keeps it as an attribute, so it is in the checkpoint,
and, having no gradient, neither in the optimiser nor in DDP's gradients. In each training step the method calls

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
    """A copy with separate storage, none of whose parameters is trained."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, online: nn.Module, momentum: float) -> None:
    """Update a momentum copy: slow <- momentum * slow + (1 - momentum) * online (MoCo, official code).

    Parameters only: running statistics of batch norm come from the copy's own passes. In the precision of the copy's
    parameters, float32, also where the network's are bfloat16, which could not hold a step of one in a thousand.

    Args:
        slow: made by `frozen_copy` of `online`.
        online: the trained network.
        momentum: 1 leaves the copy as it is, 0 makes it equal to the original.
    """
    copies = list(slow.parameters())
    current = [value.to(copy) for value, copy in zip(online.parameters(), copies, strict=True)]
    get_ema_multi_avg_fn(momentum)(copies, current, 0)

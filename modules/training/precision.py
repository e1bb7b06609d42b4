"""Weights in bfloat16, without the loss of precision in other tensors that Lightning's `bf16-true` causes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn


class BFloat16Weights(Precision):
    """Linear layers, nearly all of a transformer's weights, are stored in bfloat16, and so are their gradients and optimiser
    states: half the memory of bf16-mixed. Everything else, including the computation, is as in bf16-mixed.

    Lightning's own plugin makes bfloat16 the default of all new tensors and casts the batch, so that masks, motion,
    boxes, times and skeletons would have eight bits of precision. Here, they remain in float32; so do norms, heads, prototypes,
    losses, momentum copies of a network (whose updates would be lost in bfloat16) and convolutions: CNNs are small, and on
    a CPU, their gradients in bfloat16 are not always correct. On the command line, `trainer.precision bf16-true` selects this
    plugin; in Python, pass it to the trainer's `plugins`.
    """

    precision = "bf16-true"

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Convert the layers of a method's networks, which are its children with a method `no_weight_decay`."""
        networks = [
            part
            for part in module.children()
            if hasattr(part, "no_weight_decay") and not getattr(part, "is_momentum_copy", False)
        ]
        layers = [part for network in networks for part in network.modules() if isinstance(part, nn.Linear)]
        for layer in layers:
            layer.to(torch.bfloat16)
        count, total = (sum(one.numel() for part in parts for one in part.parameters()) for parts in (layers, [module]))
        rank_zero_warn(
            f"trainer.precision is bf16-true: {count / total:.0%} of the weights are in bfloat16, where updates below about "
            "1/256 of a weight are lost; if memory allows, bf16-mixed learns better at small rates."
        )
        self._module = module
        return module

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Compute as in bf16-mixed."""
        device = next(self._module.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            yield

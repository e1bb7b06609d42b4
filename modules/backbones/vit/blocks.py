"""Shared parts of video and text transformers: LayerNorm, stochastic depth, and weight initialisation."""

from functools import partial
from typing import Any

from torch import nn


def first_std(width: int) -> float:
    """Standard deviation of the initial weights of BERT and BEiT: 0.02 as published, and more for widths below 768, the
    smallest published one. Narrower networks initialised with 0.02 hardly learn."""
    result: float = 0.02 * max(1.0, 768 / width) ** 0.5
    return result


def init_blocks(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every Linear, 1 and 0 for LayerNorm (VideoMAE, official code).

    The joint qkv matrix counts as one matrix of shape [3D, D].
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


# timm's annotation requires a class, but any callable that builds a layer works.
layer_norm: Any = partial(nn.LayerNorm, eps=1e-6)


def drop_path_rates(highest: float, depth: int) -> list[float]:
    """Linear from 0 in the first block to `highest` in the last."""
    return [highest * block / max(1, depth - 1) for block in range(depth)]

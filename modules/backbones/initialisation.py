"""How the first weights of transformers are drawn."""

from torch import nn


def first_std(width: int) -> float:
    """Deviation of the first weights of BERT and BEiT: 0.02 as published, and more for a width below the smallest published one
    of 768, at which a network with 0.02 hardly begins to learn."""
    return 0.02 * max(1.0, 768 / width) ** 0.5


def init_blocks(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every Linear, 1 and 0 for LayerNorm (VideoMAE, official code).

    The joint qkv matrix counts as one matrix of shape [3D, D].
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

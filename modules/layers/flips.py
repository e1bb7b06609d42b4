"""Mirroring whole clips."""

import torch
from torch import Tensor


def flip_some(clip: Tensor, generator: torch.Generator, probability: float = 0.5) -> Tensor:
    """Mirror some clips left to right, all frames of a clip alike.

    Args:
        clip: [B, T, H, W, C]
        generator: source of randomness.
        probability: of a clip to be mirrored.
    """
    chosen = torch.rand(len(clip), generator=generator, device=clip.device) < probability
    return torch.where(chosen[:, None, None, None, None], clip.flip(3), clip)

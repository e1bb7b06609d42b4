"""What fills the hidden part of a clip: a masked method's prediction, and two simple guesses that it should beat."""

from typing import NamedTuple

import torch
from torch import Tensor

from modules.core.tokens import Grid, gather_tokens, patchify
from modules.layers.drawing.clips import replace_tokens
from modules.masks.base import Mask


class Guesses(NamedTuple):
    """Clips whose hidden tokens are guessed from the nearest visible frames at the same place, float [B, N, 3, P] in [0, 1]."""

    repeated: Tensor
    """the nearest of the two frames"""
    blended: Tensor
    """linear in time between the two"""


def guesses(clip: Tensor, mask: Mask, grid: Grid) -> Guesses:
    """Guess the hidden tokens of clips. Where nothing is visible before or after, the other side is repeated.

    Args:
        clip: uint8 [B, T, H, W, 3]
        mask: the same for all clips. At every place of a slice, some token must be visible.
        grid: token grid.
    """
    device, frames = clip.device, grid.t * grid.tubelet
    seen = torch.zeros(grid.tokens, dtype=torch.bool, device=device).scatter(0, mask.visible[0], True)
    seen = seen.view(grid.t, -1).repeat_interleave(grid.tubelet, 0)
    time = torch.arange(frames, device=device)[:, None]
    before = torch.where(seen, time, -1).cummax(0).values
    after = torch.where(seen, time, frames).flip(0).cummin(0).values.flip(0)
    before, after = torch.where(before < 0, after, before), torch.where(after == frames, before, after)
    weight = ((time - before) / (after - before).clamp_min(1))[None, :, :, None, None]
    # [B, T, places, 3, pixels of a patch]
    apart = cubes_of(clip, grid).unflatten(1, (grid.t, -1)).unflatten(4, (grid.tubelet, -1))
    pixels = apart.permute(0, 1, 4, 2, 3, 5).flatten(1, 2)
    first, second = (pixels.gather(1, index[None, :, :, None, None].expand_as(pixels)) for index in (before, after))

    def as_cubes(video: Tensor) -> Tensor:
        slices = video.unflatten(1, (grid.t, grid.tubelet)).permute(0, 1, 3, 4, 2, 5)
        cubes: Tensor = slices.flatten(4).flatten(1, 2)
        return cubes

    return Guesses(as_cubes(torch.where(weight > 0.5, second, first)), as_cubes(first + weight * (second - first)))


def cubes_of(clip: Tensor, grid: Grid) -> Tensor:
    """uint8 [B, T, H, W, 3] -> float [B, N, 3, P] in [0, 1]."""
    return patchify(clip.permute(0, 4, 1, 2, 3).float() / 255, grid)


def filled(clip: Tensor, mask: Mask, cubes: Tensor, grid: Grid) -> Tensor:
    """The clip with other pixels in its hidden tokens: uint8 [B, T, H, W, 3].

    Args:
        clip: uint8 [B, T, H, W, 3]
        mask: the hidden tokens are its targets.
        cubes: float [B, N, 3, P] in [0, 1], pixels of all tokens.
        grid: token grid.
    """
    return replace_tokens(clip, mask.targets, gather_tokens(cubes, mask.targets), grid)


def hidden_error(clip: Tensor, mask: Mask, cubes: Tensor, grid: Grid) -> Tensor:
    """Mean squared error of hidden pixels from 0 to 1; arguments as in `filled`."""
    true, guess = (gather_tokens(one, mask.targets) for one in (cubes_of(clip, grid), cubes))
    return (true - guess).square().mean()

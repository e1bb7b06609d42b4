"""Colour jitter of complete clips in float on the device, with strong changes in random order (RSPNet, official code).

The changes are those of torchvision's `ColorJitter` of float pictures. All are the same for all frames of a clip; contrast
blends with one mean grey value of the clip. Clips of a batch are changed together: every clip has one change of hue, so there
are three rounds of blending before and three after it, in which a clip has either its own change or none.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.augment.pixels import turn_hue
from modules.core.device import constant
from modules.core.errors import check_range

GREY = (0.2989, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class JitterDraws(NamedTuple):
    """Random numbers for a batch of clips."""

    grey: Tensor
    """bool [B], whether the clip loses its colours first"""
    order: Tensor
    """int64 [B, 4], the changes in order: 0 brightness, 1 contrast, 2 saturation, 3 hue"""
    factors: Tensor
    """float [B, 4], factors of the first three, and shift of the hue as a fraction of the circle"""


@dataclass
class ClipJitter:
    """Grey and colour jitter, drawn for each clip. The defaults are RSPNet's (official code).

    Args:
        grey: probability of a clip without colours; drawn first, so that the jitter still changes its brightness and contrast.
        brightness: the factor is at most so far from 1.
        contrast: as above; blends with the mean grey value of the clip.
        saturation: as above.
        hue: largest shift of the hue, as a fraction of the circle.
    """

    grey: float = 0.2
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4

    def __post_init__(self) -> None:
        factors = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        check_range("model.colour", 0, 1, grey=self.grey, **factors)
        check_range("model.colour", 0, 0.5, hue=self.hue)

    def draw(self, count: int, generator: torch.Generator) -> JitterDraws:
        """Random numbers for some clips, on the device of the generator."""
        draws = torch.rand(count, 9, generator=generator, device=generator.device)
        width = (self.brightness, self.contrast, self.saturation, self.hue)
        factors = constant((1.0, 1.0, 1.0, 0.0), draws.dtype, draws.device) + constant(width, draws.dtype, draws.device) * (
            2 * draws[:, 5:] - 1
        )
        return JitterDraws(draws[:, 0] < self.grey, draws[:, 1:5].argsort(dim=1), factors)

    def __call__(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """Change the colours of a batch.

        Args:
            clip: float [B, T, H, W, 3], 0..255.
            generator: source of randomness, on the device of the clips.
        """
        return jitter(clip, self.draw(len(clip), generator))


def jitter(clip: Tensor, draws: JitterDraws) -> Tensor:
    """Apply given changes: float [B, T, H, W, 3], 0..255, -> the same shape."""
    place = draws.order.argsort(dim=1)
    """[B, 4], when each change is made"""
    clip = torch.where(_per_clip(draws.grey), grey_of(clip), clip)
    for step in range(3):
        clip = _blend(clip, draws, step, place[:, HUE] > step)
    clip = turn_hue(clip, draws.factors[:, HUE].view(-1, 1, 1, 1), 4)
    for step in range(1, 4):
        clip = _blend(clip, draws, step, place[:, HUE] < step)
    return clip


def grey_of(clip: Tensor) -> Tensor:
    """Brightness of each pixel: float [B, T, H, W, 3] -> [B, T, H, W, 1]."""
    return (clip * constant(GREY, clip.dtype, clip.device)).sum(-1, keepdim=True)


def _blend(clip: Tensor, draws: JitterDraws, step: int, active: Tensor) -> Tensor:
    """Change brightness, contrast or saturation of the clips that are active, whichever is their change of this step."""
    change = draws.order[:, step]
    share = draws.factors.gather(1, change[:, None])[:, 0]
    share = _per_clip(torch.where(active & (change != HUE), share, 1.0))
    grey = grey_of(clip)
    mean = grey.mean((1, 2, 3), keepdim=True)
    other = torch.where(_per_clip(change == CONTRAST), mean, torch.where(_per_clip(change == SATURATION), grey, 0.0))
    return (share * clip + (1 - share) * other).clamp(0, 255)


def _per_clip(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1, 1]"""
    return values.view(-1, 1, 1, 1, 1)

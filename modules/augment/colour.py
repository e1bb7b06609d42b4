"""Colour changes of complete clips on the device: brightness, contrast, hue and saturation (TubeletContrast, official code).

Values are 0..255. Brightness and contrast give fractional values; the change of hue and saturation works on integers, with hue
from 0 to 179 as in OpenCV. As in the official code, hue does not wrap around.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.core.device import constant

HUES = 180


def rgb_to_hsv(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """OpenCV's HSV of integer RGB values: hue 0..179, saturation and value 0..255, rounded.

    Args:
        rgb: float [..., 3]
    """
    value, low = rgb.amax(-1), rgb.amin(-1)
    spread = value - low
    saturation = (255 * spread / value.clamp_min(1)).round()
    red, green, blue = rgb.unbind(-1)
    safe = spread.clamp_min(1)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (sixth * (HUES / 6)).remainder(HUES).round().remainder(HUES)
    return torch.where(spread > 0, hue, 0.0), saturation, value


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Inverse of `rgb_to_hsv`, rounded: float [...] -> [..., 3]."""
    sixth = hue * (6 / HUES)
    # Channel n of RGB peaks at sixths 0, 2 and 4; it is value * (1 - saturation * distance), cut to 0..1.
    peaks = constant((5.0, 3.0, 1.0), hue.dtype, hue.device)
    turned = (peaks + sixth.unsqueeze(-1)).remainder(6)
    distance = torch.minimum(turned, 4 - turned).clamp(0, 1)
    return (value.unsqueeze(-1) * (1 - distance * (saturation / 255).unsqueeze(-1))).round().clamp(0, 255)


def shift_brightness(clip: Tensor, delta: Tensor) -> Tensor:
    """Add delta [B] to float [B, T, H, W, 3]."""
    return (clip + delta.view(-1, 1, 1, 1, 1)).clamp(0, 255)


def scale_contrast(clip: Tensor, factor: Tensor) -> Tensor:
    """Multiply float [B, T, H, W, 3] by factor [B]."""
    return (clip * factor.view(-1, 1, 1, 1, 1)).clamp(0, 255)


def change_hue(clip: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """Add to the hue (of 180) and multiply the saturation.

    Args:
        clip: float [B, T, H, W, 3], rounded first.
        hue: float [B], added.
        saturation: float [B], factor.
    """
    h, s, v = rgb_to_hsv(clip.round())
    h = (h + hue.view(-1, 1, 1, 1)).round().clamp(0, HUES - 1)
    s = (s * saturation.view(-1, 1, 1, 1)).round().clamp(0, 255)
    return hsv_to_rgb(h, s, v)


@dataclass
class ColourJitter:
    """Colour augmentation; each change is drawn separately, and is the same for all frames of a sample.

    Args:
        probability: probability of each change.
        brightness: largest value added, of 255.
        contrast: the factor is exp(U(-contrast, contrast)).
        hue: largest value added, of 180.
        saturation: the factor is exp(U(-saturation, saturation)).
    """

    probability: float = 0.2
    brightness: float = 32.0
    contrast: float = 0.2
    hue: float = 12.0
    saturation: float = 0.1

    def __call__(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """Change the colours of a batch.

        Args:
            clip: float [B, T, H, W, 3], 0..255.
            generator: source of randomness.
        """
        draws = torch.rand(len(clip), 7, generator=generator, device=clip.device)
        chosen = (draws[:, :3] < self.probability).view(-1, 3, 1, 1, 1, 1)
        signed = 2 * draws[:, 3:] - 1
        clip = torch.where(chosen[:, 0], shift_brightness(clip, self.brightness * signed[:, 0]), clip)
        clip = torch.where(chosen[:, 1], scale_contrast(clip, (self.contrast * signed[:, 1]).exp()), clip)
        changed = change_hue(clip, self.hue * signed[:, 2], (self.saturation * signed[:, 3]).exp())
        return torch.where(chosen[:, 2], changed, clip)

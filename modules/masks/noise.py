"""Masks from filtered noise: neighbours in space and time are masked together, depending on the filter's widths.

Papers: structured-noise masking for video, https://arxiv.org/abs/2503.16311, and ColorMAE for images,
https://arxiv.org/abs/2407.13036. A random mask is thresholded white noise; filtered noise gives masks with structure that do
not depend on the data. There is one noise value per token, and the largest of each slice are visible.

No code of the video paper has been published, and its values of sigma were not available: the defaults are this project's, and
unverified. Filters are applied to the spectrum, as defined below; Gaussian kernels sampled in space differ for widths below
one token.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.tokens import Grid
from modules.masks.base import Mask, MaskGenerator

Colour = Literal["red", "blue", "green", "purple"]
Sigma = float | tuple[float, float]


def low_pass(shape: tuple[int, int, int], sigma: Tensor, time_sigma: Tensor) -> Tensor:
    """Spectrum of a periodic Gaussian of unit sum: exp(-2 pi^2 (time_sigma^2 ft^2 + sigma^2 (fy^2 + fx^2))).

    Args:
        shape: slices, rows and columns of the noise.
        sigma: float [B], standard deviation in tokens over rows and columns.
        time_sigma: float [B], standard deviation over slices; 0 disables this filter.

    Returns:
        [B, T, H, W // 2 + 1], in the layout of `torch.fft.rfftn` over the last three axes.
    """
    # The product of three one-dimensional exponentials, instead of one over the volume.
    slices, rows, columns = (
        torch.exp(-2 * (math.pi * width[:, None] * frequencies(size, dtype=width.dtype, device=width.device)).square())
        for width, frequencies, size in zip(
            (time_sigma, sigma, sigma), (torch.fft.fftfreq, torch.fft.fftfreq, torch.fft.rfftfreq), shape, strict=True
        )
    )
    return slices[:, :, None, None] * rows[:, None, :, None] * columns[:, None, None, :]


def filter_noise(white: Tensor, colour: Colour, narrow: Tensor, wide: Tensor) -> Tensor:
    """Colour white noise (ColorMAE, paper; over three axes: structured-noise masking, paper).

    With G * W for W filtered by the narrow or the wide Gaussian: red is G_narrow * W, blue W - red, green
    G_narrow * W - G_wide * W, purple W - green.

    Args:
        white: float [B, S, T, H, W], S periodic volumes for each clip.
        colour: colour of the noise.
        narrow: [B or 1, T, H, W // 2 + 1], spectrum of the narrow Gaussian.
        wide: [B or 1, T, H, W // 2 + 1], spectrum of the wide Gaussian, for green and purple.
    """
    response = narrow if colour in ("red", "blue") else narrow - wide
    if colour in ("blue", "purple"):
        response = 1 - response
    axes = (-3, -2, -1)
    result: Tensor = torch.fft.irfftn(torch.fft.rfftn(white, dim=axes) * response[:, None], s=white.shape[-3:], dim=axes)
    return result


def _range(sigma: Sigma) -> tuple[float, float]:
    return (sigma, sigma) if isinstance(sigma, int | float) else (sigma[0], sigma[1])


def _draw(sigma: Sigma, count: int, generator: torch.Generator) -> Tensor:
    """A sigma for each clip, [B], or one for all, [1], if there is nothing to draw."""
    low, high = _range(sigma)
    if low == high:
        return torch.full((1,), float(low), device=generator.device)
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


class NoiseMask(MaskGenerator):
    """Masks from noise of one colour.

    Red masks have large blobs, green ones medium-sized clusters, blue ones neither clusters nor holes, purple ones large
    blobs with fine grain. Each sigma is the standard deviation of a Gaussian in tokens; with a pair of numbers, every clip
    draws its own sigma from this range. Noise and filters are float32 also under autocast, and computed for each batch. The FFT
    covers twice the grid, of which one corner is used, so that opposite borders of the grid are independent.

    Args:
        colour: red, blue, green or purple.
        ratio: fraction of masked tokens.
        sigma: the Gaussian of red and blue, or the narrow one of green and purple.
        wide_sigma: the wide Gaussian of green and purple; red and blue have none.
        time_sigma: `sigma` over time slices; 0 makes slices independent. Null uses the clip's `sigma`.
        time_wide_sigma: `wide_sigma` over time slices, as above.
        slices: `filtered` also over time (3D); `independent`, separate noise for every time slice (2D); `repeated`, the same
            mask in all slices of a clip (2D, a tube).
        per_slice: mask floor(ratio * tokens per slice) in each slice; false masks floor(ratio * tokens) of the clip, so that
            slices may have different numbers. The paper does not specify this.
    """

    def __init__(
        self,
        colour: Colour,
        ratio: float = 0.9,
        sigma: Sigma = 1.0,
        wide_sigma: Sigma = 2.0,
        time_sigma: Sigma | None = None,
        time_wide_sigma: Sigma | None = None,
        slices: Literal["filtered", "independent", "repeated"] = "filtered",
        per_slice: bool = True,
    ) -> None:
        self.colour, self.ratio, self.slices, self.per_slice = colour, ratio, slices, per_slice
        self.sigma, self.wide_sigma = sigma, wide_sigma
        self.time_sigma, self.time_wide_sigma = time_sigma, time_wide_sigma

    def check(self, grid: Grid, setting: str = "model.mask") -> None:
        """See `MaskGenerator.check`; every sigma must be positive, and the narrow ones below the wide ones."""
        super().check(grid, setting)
        time_sigma = self.sigma if self.time_sigma is None else self.time_sigma
        time_wide_sigma = self.wide_sigma if self.time_wide_sigma is None else self.time_wide_sigma
        pairs = (("", self.sigma, self.wide_sigma), ("time_", time_sigma, time_wide_sigma))
        for over, narrow, wide in pairs:
            for name, sigma in ((f"{over}sigma", narrow), (f"{over}wide_sigma", wide)):
                low, high = _range(sigma)
                # Over time, 0 makes slices independent; in space, it would give white noise or none.
                if not (0 <= low <= high and (over or low > 0)):
                    raise SettingError(f"{setting}.{name} is {sigma}; pass a number above 0, or a range from low to high.")
            gap = _range(wide)[0] - _range(narrow)[1]
            if self.colour in ("green", "purple") and (gap < 0 or not (gap or over)):
                raise SettingError(
                    f"{setting}.{over}sigma {narrow} must be below {setting}.{over}wide_sigma {wide} for {self.colour} "
                    "noise; change one of them."
                )
        if self.slices == "repeated" and not self.per_slice:
            raise SettingError(f"{setting}.slices is repeated, which gives every slice the same count; set per_slice to true.")

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`; `boxes` are ignored."""
        return self.keep_largest(self.noise(count, grid, generator), grid)

    def noise(self, count: int, grid: Grid, generator: torch.Generator) -> Tensor:
        """The coloured noise, [B, t, h * w], or [B, 1, h * w] for one mask in all slices."""
        volumes, depth = {"filtered": (1, 2 * grid.t), "independent": (grid.t, 1), "repeated": (1, 1)}[self.slices]
        shape = (depth, 2 * grid.h, 2 * grid.w)
        device = generator.device
        with torch.autocast(device.type, enabled=False):
            narrow, wide = (_draw(sigma, count, generator) for sigma in (self.sigma, self.wide_sigma))
            time_narrow = narrow if self.time_sigma is None else _draw(self.time_sigma, count, generator)
            time_wide = wide if self.time_wide_sigma is None else _draw(self.time_wide_sigma, count, generator)
            spectra = low_pass(shape, narrow, time_narrow), low_pass(shape, wide, time_wide)
            white = torch.randn(count, volumes, *shape, generator=generator, device=device)
            noise = filter_noise(white, self.colour, *spectra)
        return noise[:, :, : grid.t, : grid.h, : grid.w].flatten(3).flatten(1, 2)


class Green3D(NoiseMask):
    """Green noise over time and space, the mask of the video paper: medium-sized clusters that drift over the slices.

    The ranges of sigma are this project's: small to medium-sized clusters in time and space.

    Args:
        ratio: fraction of masked tokens.
        sigma: the narrow Gaussian, in tokens; with a range, every clip draws its own.
        wide_sigma: the wide Gaussian, as above.
        time_sigma: `sigma` over time slices; null uses the clip's `sigma`.
        time_wide_sigma: `wide_sigma` over time slices; null uses the clip's `wide_sigma`.
        per_slice: mask the same number of tokens in every slice; false only fixes the number per clip.
    """

    def __init__(
        self,
        ratio: float = 0.9,
        sigma: Sigma = (0.5, 1.0),
        wide_sigma: Sigma = (1.5, 3.0),
        time_sigma: Sigma | None = None,
        time_wide_sigma: Sigma | None = None,
        per_slice: bool = True,
    ) -> None:
        super().__init__("green", ratio, sigma, wide_sigma, time_sigma, time_wide_sigma, per_slice=per_slice)

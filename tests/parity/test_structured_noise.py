"""Noise filters and mask selection against ColorMAE's official code and against the formulas of the papers."""

import pytest
import torch
from torch import Tensor

from modules.masks.base import hide_smallest
from modules.masks.noise import Colour, filter_noise, low_pass
from tests.parity.cases import assert_close, load_case


def as_volume(white: Tensor) -> Tensor:
    """A picture is a volume of one slice: [H, W] or [T, H, W] -> [1, 1, T, H, W]."""
    return white[None, None] if white.ndim == 3 else white[None, None, None]


def sampled_low_pass(white: Tensor, sigma: float) -> Tensor:
    """Spectrum of the Gaussian that the case blurs with: sampled at whole tokens, cut off at four sigmas."""
    reach = int(4 * sigma + 0.5)
    offset = torch.arange(-reach, reach + 1, dtype=white.dtype)
    kernel = torch.exp(-offset.square() / (2 * sigma**2))
    volume = as_volume(white)
    spectrum = torch.ones(1, dtype=white.dtype)
    for axis, frequencies in ((2, torch.fft.fftfreq), (3, torch.fft.fftfreq), (4, torch.fft.rfftfreq)):
        frequency = frequencies(volume.shape[axis], dtype=white.dtype)
        response = torch.cos(2 * torch.pi * frequency[:, None] * offset) @ kernel / kernel.sum()
        spectrum = spectrum[..., None] * response
    return spectrum


def test_windows_of_noise_become_the_official_masks() -> None:
    tensors, info = load_case("structured_noise", "colormae_window_mask")
    windows = tensors["output.windows"].flatten(1)
    visible = info["visible_tokens"]
    hidden = hide_smallest(windows, windows.shape[1] - visible)
    assert torch.equal(hidden, tensors["output.mask"].bool())
    order = windows.topk(windows.shape[1]).indices
    assert torch.equal(order[:, :visible], tensors["output.ids_keep"])
    assert torch.equal(order.argsort(dim=1), tensors["output.ids_restore"])
    assert torch.equal(hidden, tensors["output.ids_restore"] >= visible)


def test_official_windows_keep_the_ranks_of_the_noise() -> None:
    """Crops and flips of a precomputed tensor, each divided by its maximum, select what the crops themselves would."""
    tensors, info = load_case("structured_noise", "colormae_window_mask")
    noise, side = tensors["input.noise"], info["settings"]["W"]
    crops = []
    for drawn in info["crops_and_flips_that_were_drawn"]:
        top, left = drawn["top"], drawn["left"]
        crop = noise[slice(*drawn["slices"]), top : top + side, left : left + side]
        axes = [axis for axis, flipped in ((1, drawn["vflip"]), (2, drawn["hflip"])) if flipped]
        crops.append(crop.flip(axes))
    ours = torch.cat(crops).flatten(1)
    hidden = hide_smallest(ours, ours.shape[1] - info["visible_tokens"])
    assert torch.equal(hidden, tensors["output.mask"].bool())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_green_noise_in_three_axes(dtype: torch.dtype, bound: float) -> None:
    tensors, info = load_case("structured_noise", "noise_filters")
    volume = as_volume(tensors["input.white3d"].to(dtype))
    shape = (volume.shape[2], volume.shape[3], volume.shape[4])
    sigmas = volume.new_tensor([[info["settings"]["sigma1_3d"]], [info["settings"]["sigma2_3d"]]])
    green = filter_noise(volume, "green", *(low_pass(shape, sigma, sigma) for sigma in sigmas))[0, 0]
    assert green.dtype == dtype
    assert_close(green, tensors["output.green3d_spectral"], "green noise", bound)


def test_green_noise_becomes_masks() -> None:
    tensors, _ = load_case("structured_noise", "noise_filters")
    slices = tensors["output.green3d_spectral"].flatten(1)
    for name, ratio in (("mask90", 0.9), ("mask75", 0.75)):
        hidden = hide_smallest(slices, int(ratio * slices.shape[1]))
        assert torch.equal(hidden, tensors[f"output.{name}_per_slice"]), name


COLOURS: dict[str, tuple[Colour, str, str]] = {
    "red2d": ("red", "sigma", "sigma2"),
    "blue2d": ("blue", "sigma", "sigma2"),
    "green2d": ("green", "sigma1", "sigma2"),
    "purple2d": ("purple", "sigma1", "sigma2"),
    "green3d": ("green", "sigma1_3d", "sigma2_3d"),
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours(name: str) -> None:
    """The case filters in space. With the spectra of its sampled kernels, our colours are the same to the last digits."""
    tensors, info = load_case("structured_noise", "noise_filters")
    colour, *sigmas = COLOURS[name]
    white = tensors[f"input.white{name[-2:]}"]
    narrow, wide = (sampled_low_pass(white, info["settings"][sigma]) for sigma in sigmas)
    noise = filter_noise(as_volume(white), colour, narrow, wide).reshape(white.shape)
    assert_close(noise, tensors[f"output.{name}"], name, 1e-10)

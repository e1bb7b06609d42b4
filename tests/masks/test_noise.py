"""Masks from filtered noise: spectra, and correlation of visible tokens with their neighbours."""

import math

import pytest
import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.tokens import Grid
from modules.masks.base import MaskGenerator
from modules.masks.noise import Colour, Green3D, NoiseMask, filter_noise, low_pass
from modules.masks.tokens import RandomMask

FULL = Grid(8, 14, 14, 2, 16)
SHAPE = (8, 12, 10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(kind: MaskGenerator, count: int, grid: Grid = FULL, seed: int = 0) -> Tensor:
    """1 where visible, [count, t, h, w]."""
    visible = kind.draw(count, grid, generator(seed)).visible
    return torch.zeros(count, grid.tokens).scatter_(1, visible, 1).view(count, *grid[:3])


def kept(kind: MaskGenerator, count: int = 400) -> tuple[float, float]:
    """Fractions of visible tokens whose next token in time, and whose right neighbour, are visible."""
    shown = seen(kind, count)
    in_time = (shown[:, 1:] * shown[:, :-1]).sum() / shown[:, :-1].sum()
    in_space = (shown[..., 1:] * shown[..., :-1]).sum() / shown[..., :-1].sum()
    return float(in_time), float(in_space)


def spectrum(shape: tuple[int, int, int], sigma: float, time_sigma: float | None = None) -> Tensor:
    widths = torch.tensor([[sigma], [sigma if time_sigma is None else time_sigma]], dtype=torch.float64)
    return low_pass(shape, *widths)


def coloured(white: Tensor, colour: Colour, narrow: float = 1.0, wide: float = 2.0) -> Tensor:
    shape = (white.shape[-3], white.shape[-2], white.shape[-1])
    return filter_noise(white, colour, spectrum(shape, narrow), spectrum(shape, wide))


@pytest.fixture
def white() -> Tensor:
    return torch.randn(3, 1, *SHAPE, generator=generator(), dtype=torch.float64)


def test_low_pass_is_a_gaussian_of_the_frequency() -> None:
    t, h, w = torch.meshgrid(torch.fft.fftfreq(8), torch.fft.fftfreq(12), torch.fft.rfftfreq(10), indexing="ij")
    expected = torch.exp(-2 * math.pi**2 * (0.5**2 * t**2 + 1.5**2 * (h**2 + w**2)))
    assert torch.allclose(spectrum(SHAPE, 1.5, 0.5)[0].float(), expected, atol=1e-6)


def test_low_pass_blurs_as_a_sampled_gaussian_does() -> None:
    """From a sigma of about one on, the two forms of the kernel agree."""
    point = torch.zeros(1, 1, 1, 32, 32, dtype=torch.float64)
    point[..., 16, 16] = 1
    blurred = coloured(point, "red", 2.0)[0, 0, 0]
    distance = (torch.arange(32, dtype=torch.float64) - 16).square()
    kernel = torch.exp(-(distance[:, None] + distance) / (2 * 2.0**2))
    assert torch.allclose(blurred, kernel / kernel.sum(), atol=1e-9)


def test_colours_add_up(white: Tensor) -> None:
    assert torch.allclose(coloured(white, "red") + coloured(white, "blue"), white, atol=1e-12)
    assert torch.allclose(coloured(white, "green") + coloured(white, "purple"), white, atol=1e-12)
    for colour in ("blue", "green"):
        assert coloured(white, colour).mean((-3, -2, -1)).abs().max() < 1e-12
    green = coloured(white, "red", 1.0) - coloured(white, "red", 2.0)
    assert torch.allclose(coloured(white, "green"), green, atol=1e-12)


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_no_direction_is_preferred(axis: int, white: Tensor) -> None:
    """Filters commute with flips of time, rows and columns, and white noise has no direction."""
    assert torch.allclose(coloured(white.flip(axis), "green"), coloured(white, "green").flip(axis), atol=1e-12)


def test_every_clip_has_its_own_filter() -> None:
    white = torch.randn(1, 1, *SHAPE, generator=generator()).expand(3, -1, -1, -1, -1)
    sigmas = torch.tensor([0.5, 1.0, 2.0])
    together = filter_noise(white, "red", low_pass(SHAPE, sigmas, sigmas), low_pass(SHAPE, sigmas, sigmas))
    for row, sigma in enumerate(sigmas):
        alone = low_pass(SHAPE, sigma[None], sigma[None])
        assert torch.allclose(together[row], filter_noise(white[:1], "red", alone, alone)[0], atol=1e-6)


def test_spectrum_of_green_noise_peaks_where_it_must() -> None:
    narrow, wide, side = 1.0, 2.0, 64
    noise = coloured(torch.randn(200, 1, 1, side, side, generator=generator(), dtype=torch.float64), "green", narrow, wide)
    power = torch.fft.fft2(noise).abs().square().mean((0, 1, 2))
    frequency = torch.fft.fftfreq(side)
    ring = (torch.hypot(frequency[:, None], frequency) * side).round().long().flatten()
    radial = torch.zeros(side, dtype=torch.float64).index_add_(0, ring, power.flatten()) / ring.bincount(minlength=side)
    expected = math.sqrt(math.log(wide**2 / narrow**2) / (2 * math.pi**2 * (wide**2 - narrow**2)))
    assert float(radial[: side // 2].argmax()) / side == pytest.approx(expected, rel=0.15)


# What the published description of the filters was computed to do at a ratio of 0.9 on 8 x 14 x 14.
@pytest.mark.parametrize(
    ("narrow", "wide", "in_time", "in_space"),
    [(0.5, 1, 0.19, 0.18), (0.5, 2, 0.25, 0.24), (0.7, 1.6, 0.34, 0.32), (1, 2, 0.48, 0.45), (2, 4, 0.72, 0.67)],
)
def test_neighbours_share_their_fate(narrow: float, wide: float, in_time: float, in_space: float) -> None:
    measured = kept(NoiseMask("green", sigma=narrow, wide_sigma=wide))
    assert measured == pytest.approx((in_time, in_space), abs=0.03)


def test_random_masks_share_nothing() -> None:
    assert kept(RandomMask()) == pytest.approx((20 / 196, 0.1), abs=0.01)


def test_order_of_the_colours() -> None:
    red, green, blue, purple = (
        kept(NoiseMask(colour, sigma=sigma, slices="independent"))[1]
        for colour, sigma in (("red", 1.0), ("green", 0.7), ("blue", 1.0), ("purple", 0.7))
    )
    assert (red, green, blue, purple) == pytest.approx((0.51, 0.31, 0.05, 0.05), abs=0.03)


def test_what_time_does() -> None:
    chance = pytest.approx(20 / 196, abs=0.02)
    assert kept(NoiseMask("green", slices="independent"))[0] == chance
    assert kept(NoiseMask("green", time_sigma=0, time_wide_sigma=0))[0] == chance
    assert kept(NoiseMask("green", slices="repeated"))[0] == 1
    slow = kept(NoiseMask("green", time_sigma=2.0, time_wide_sigma=4.0))
    assert slow[0] > kept(NoiseMask("green"))[0] + 0.1
    # The wide width tells too: without it over time nothing of what is slowest is taken away.
    assert slow[0] < kept(NoiseMask("green", time_sigma=2.0))[0] - 0.02


def test_first_and_last_slices_are_no_neighbours() -> None:
    shown = seen(NoiseMask("red", sigma=2.0), 400)
    around = (shown[:, 0] * shown[:, -1]).sum() / shown[:, 0].sum()
    assert float(around) < 0.5 * kept(NoiseMask("red", sigma=2.0))[0]


def test_range_of_sigma_gives_every_clip_its_own() -> None:
    """Drawn masks lie between those of the range's ends, and vary more from clip to clip than with one sigma."""
    shares = [
        (shown[..., 1:] * shown[..., :-1]).sum((1, 2, 3)) / shown[..., :-1].sum((1, 2, 3))
        for shown in (
            seen(kind, 300) for kind in (Green3D(sigma=0.5, wide_sigma=1.5), Green3D(), Green3D(sigma=1.0, wide_sigma=3.0))
        )
    ]
    fine, drawn, coarse = (float(share.mean()) for share in shares)
    assert fine + 0.05 < drawn < coarse - 0.05
    assert shares[1].std() > 1.2 * max(shares[0].std(), shares[2].std())


@pytest.mark.parametrize("kind", [Green3D(), NoiseMask("blue", slices="independent")])
def test_every_place_is_seen_equally_often(kind: MaskGenerator) -> None:
    rounds = 10
    share = torch.stack([seen(kind, 500, seed=seed).mean(0) for seed in range(rounds)]).mean(0)
    expected = 1 - kind.masked_count(FULL) / 1568
    assert (share - expected).abs().max() < 4 * math.sqrt(expected * (1 - expected) / (500 * rounds))


WRONG: dict[str, tuple[NoiseMask, str]] = {
    "order": (Green3D(sigma=2.0), r"model\.mask\.sigma 2\.0 must be below model\.mask\.wide_sigma \(1\.5, 3\.0\)"),
    "overlap": (NoiseMask("purple", sigma=(0.5, 2.0)), r"must be below model\.mask\.wide_sigma 2\.0 for purple"),
    "backwards": (Green3D(sigma=(1.0, 0.5)), r"model\.mask\.sigma is \(1\.0, 0\.5\); pass a number above 0"),
    "zero": (NoiseMask("blue", sigma=0.0), r"model\.mask\.sigma is 0\.0; pass a number above 0"),
    "negative": (Green3D(time_sigma=-1.0), r"model\.mask\.time_sigma is -1\.0"),
    "time": (Green3D(time_sigma=4.0), r"model\.mask\.time_sigma 4\.0 must be below model\.mask\.time_wide_sigma"),
    "ratio": (Green3D(1.0), r"model\.mask\.ratio 1\.0 masks 1568 of 1568"),
    "count": (NoiseMask("red", slices="repeated", per_slice=False), r"model\.mask\.slices is repeated"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_refused(case: str) -> None:
    kind, expected = WRONG[case]
    with pytest.raises(SettingError, match=expected):
        kind.check(FULL)


@pytest.mark.parametrize("kind", [Green3D(), NoiseMask("blue", sigma=3.0), NoiseMask("green", time_sigma=0, time_wide_sigma=0)])
def test_right_settings_are_not(kind: NoiseMask) -> None:
    kind.check(FULL)

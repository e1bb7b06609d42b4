"""Colour changes against OpenCV's definition and the official code's tensors."""

import colorsys

import pytest
import torch

from modules.augment.colour import ColourJitter, change_hue, hsv_to_rgb, rgb_to_hsv, scale_contrast, shift_brightness


def clips(count: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (count, 2, 5, 5, 3), generator=torch.Generator().manual_seed(0)).float()


def test_hsv_is_that_of_the_standard_library() -> None:
    rgb = clips().view(-1, 3)
    hue, saturation, value = rgb_to_hsv(rgb)
    expected = torch.tensor([colorsys.rgb_to_hsv(*(pixel / 255).tolist()) for pixel in rgb.double()], dtype=torch.float64)
    wrapped = (hue / 180 - expected[:, 0] + 0.5).remainder(1) - 0.5
    assert wrapped.abs().max() <= 0.5 / 180 + 1e-4
    assert (saturation - 255 * expected[:, 1]).abs().max() <= 0.5 + 1e-4
    assert torch.equal(value, rgb.amax(-1))
    # Rounding of hue and saturation costs a few levels.
    assert (hsv_to_rgb(hue, saturation, value) - rgb).abs().max() <= 4


def test_grey_has_no_hue_and_stays_grey() -> None:
    grey = torch.tensor([0.0, 1.0, 128.0, 255.0])[:, None].expand(4, 3)
    hue, saturation, value = rgb_to_hsv(grey)
    assert not hue.any()
    assert not saturation.any()
    assert torch.equal(hsv_to_rgb(hue, saturation, value), grey)


def test_one_draw_for_all_frames_of_a_sample() -> None:
    clip = clips(8)[:, :1].expand(-1, 4, -1, -1, -1)
    changed = ColourJitter(probability=1.0)(clip, torch.Generator().manual_seed(0))
    assert all(torch.equal(changed[:, 0], changed[:, frame]) for frame in range(4))
    assert (changed != clip).flatten(1).any(1).all()


def test_share_of_samples_that_change() -> None:
    clip = torch.full((4000, 1, 1, 1, 3), 100.0) + torch.tensor([0.0, 20.0, 40.0])
    only_brightness = ColourJitter(contrast=0, hue=0, saturation=0)(clip, torch.Generator().manual_seed(0))
    moved = (only_brightness - clip).abs().flatten(1).amax(1) > 1
    assert moved.float().mean() == pytest.approx(0.2 * 31 / 32, abs=0.02)


def test_values_stay_in_range() -> None:
    for changed in (
        shift_brightness(clips(2), torch.tensor([-300.0, 300.0])),
        scale_contrast(clips(2), torch.tensor([0.0, 9.0])),
        change_hue(clips(2), torch.tensor([-200.0, 200.0]), torch.tensor([0.0, 9.0])),
    ):
        assert changed.min() >= 0
        assert changed.max() <= 255

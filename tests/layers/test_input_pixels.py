"""Pixels as the encoder gets them, as a target; and the two simple guesses of hidden pixels."""

import pytest
import torch

from modules.backbones.vit.spacetime_vit import GREY
from modules.core.errors import SettingError
from modules.core.tokens import Grid, gather_tokens, patchify
from modules.layers.interpolation import cubes_of, filled, guesses, hidden_error
from modules.layers.targets import InputPixelTarget
from modules.masks.base import Mask
from modules.masks.clip import CenterMask, TemporalMask
from tests.registry import tiny_spacetime

GRID = Grid(4, 2, 3, 2, 4)


def clips(count: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *GRID.clip_shape, 3), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize("frames", [None, 8, 4])
@pytest.mark.parametrize("normalise", [False, True])
def test_some_tokens_are_those_of_all(normalise: bool, frames: int | None) -> None:
    target, clip = InputPixelTarget(normalise, frames), clips()
    places = torch.tensor([[0, 5, 23], [2, 3, 4]])
    every = target(GREY.apply(clip), GRID, GREY)
    assert every.shape == (2, 24, target.dim(GRID))
    assert torch.allclose(target.of_tokens(clip, places, GRID, GREY), gather_tokens(every, places), atol=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
def test_true_values_give_the_true_pixels(normalise: bool) -> None:
    """With all frames exactly; with half of them, each is shown in place of the next one."""
    clip = clips()
    video = GREY.apply(clip)
    target = InputPixelTarget(normalise)
    pixels = target.to_pixels(target(video, GRID, GREY), video, GRID, GREY)
    assert torch.allclose(pixels, cubes_of(clip, GRID), atol=1e-4)
    half = InputPixelTarget(normalise, 4)
    shown = half.to_pixels(half(video, GRID, GREY), video, GRID, GREY)
    kept = clip[:, [0, 2, 4, 7]].repeat_interleave(2, 1)
    assert torch.allclose(shown, cubes_of(kept, GRID), atol=1e-4)


def test_each_token_is_standardised_over_all_channels() -> None:
    values = InputPixelTarget(normalise=True)(GREY.apply(clips()), GRID, GREY).double()
    assert torch.allclose(values.mean(2), torch.zeros(2, 24, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(values.var(2), torch.ones(2, 24, dtype=torch.float64), atol=1e-4)


def test_target_frames_must_fit_the_slices() -> None:
    InputPixelTarget(frames=2).check(tiny_spacetime())
    for frames in (3, 8):
        with pytest.raises(
            SettingError, match=rf"model\.target\.frames is {frames}, but the 4 frames .* multiple of 2 up to 4"
        ):
            InputPixelTarget(frames=frames).check(tiny_spacetime())


def slow_guess(clip: torch.Tensor, mask: Mask, frame: int, place: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeated and blended pixels [B, 3, 16] of one frame at one place, by searching the nearest visible frames."""
    cubes = patchify(clip.permute(0, 4, 1, 2, 3).float() / 255, GRID).unflatten(3, (2, -1))
    visible = set(mask.visible[0].tolist())
    seen = [t for t in range(8) if (t // 2) * 6 + place in visible]
    before, after = max((t for t in seen if t <= frame), default=None), min((t for t in seen if t >= frame), default=None)
    before, after = (before if before is not None else after), (after if after is not None else before)
    first, second = (cubes[:, (t // 2) * 6 + place, :, t % 2] for t in (before, after))
    weight = (frame - before) / max(1, after - before)
    return second if weight > 0.5 else first, first + weight * (second - first)


@pytest.mark.parametrize("mask_kind", [CenterMask(0.5), CenterMask(0.7), TemporalMask(0.5)])
def test_guesses_are_those_of_a_search(mask_kind: CenterMask | TemporalMask) -> None:
    clip = clips()
    mask = mask_kind.draw(2, GRID, torch.Generator())
    found = guesses(clip, mask, GRID)
    for frame in range(8):
        for place in range(6):
            token = (frame // 2) * 6 + place
            repeated, blended = slow_guess(clip, mask, frame, place)
            for ours, expected in ((found.repeated, repeated), (found.blended, blended)):
                assert torch.allclose(ours[:, token].unflatten(2, (2, -1))[:, :, frame % 2], expected, atol=1e-6)


def test_errors_and_pictures_are_of_hidden_tokens() -> None:
    clip = clips()
    mask = CenterMask(0.5).draw(2, GRID, torch.Generator())
    true = cubes_of(clip, GRID)
    wrong = true.clone()
    wrong[:, mask.visible[0]] = 0.5
    assert hidden_error(clip, mask, wrong, GRID) == 0
    assert torch.equal(filled(clip, mask, wrong, GRID), clip)
    wrong[:, mask.targets[0]] = true[:, mask.targets[0]] + 0.1
    assert hidden_error(clip, mask, wrong, GRID).item() == pytest.approx(0.01, rel=1e-4)
    still = clip[:, :1].expand(-1, 8, -1, -1, -1).contiguous()
    assert hidden_error(still, mask, guesses(still, mask, GRID).blended, GRID) == pytest.approx(0, abs=1e-10)

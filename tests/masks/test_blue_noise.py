"""Optim Blue: exact numbers, and visible tokens that are further apart than in thresholded blue noise."""

import pytest
import torch
from torch import Tensor

from modules.core.tokens import Grid
from modules.masks.base import hide_smallest
from modules.masks.blue_noise import OptimBlueMask, spread, star_weights

SPECTROGRAM = Grid(1, 8, 64, 1, 16)
VISIBLE = 103


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def touching(shown: Tensor) -> float:
    """Mean number of pairs of visible cells side by side, one above the other or corner to corner, of [M, h, w]."""
    down, right, diagonal, other = (
        (shown[:, 1:] & shown[:, :-1]).sum(),
        (shown[..., 1:] & shown[..., :-1]).sum(),
        (shown[:, 1:, 1:] & shown[:, :-1, :-1]).sum(),
        (shown[:, 1:, :-1] & shown[:, :-1, 1:]).sum(),
    )
    return float(down + right + diagonal + other) / len(shown)


def unevenness(counts: Tensor) -> float:
    return float(counts.float().var(1, correction=0).mean())


@pytest.fixture(scope="module")
def masks() -> dict[str, Tensor]:
    """30 grids of each kind, True where visible."""
    random = ~hide_smallest(torch.rand(30, 512, generator=generator()), 512 - VISIBLE)
    blue = OptimBlueMask(swaps=0).search(30, SPECTROGRAM, generator())
    optimised = OptimBlueMask(swaps=120).search(30, SPECTROGRAM, generator())
    return {name: shown.view(30, 8, 64) for name, shown in {"random": random, "blue": blue, "optimised": optimised}.items()}


def test_exactly_as_many_visible_as_the_ratio_says(masks: dict[str, Tensor]) -> None:
    assert int(0.8 * 512) == 512 - VISIBLE
    assert (masks["optimised"].sum((1, 2)) == VISIBLE).all()
    assert OptimBlueMask(swaps=20, bank=8).draw(5, SPECTROGRAM, generator()).visible.shape == (5, VISIBLE)


def test_fewer_touch_than_in_blue_noise_and_there_fewer_than_at_random(masks: dict[str, Tensor]) -> None:
    random, blue, optimised = (touching(masks[name]) for name in ("random", "blue", "optimised"))
    assert optimised < 10 < 45 < blue < 0.85 * random


def test_counts_over_time_and_frequency_are_more_even(masks: dict[str, Tensor]) -> None:
    over_time, over_frequency = (
        [unevenness(masks[name].unflatten(2, (8, 8)).sum(axes)) for name in ("random", "blue", "optimised")]
        for axes in ((1, 3), (2, 3))
    )
    assert over_time[2] < 0.3 * over_time[1] < 0.3 * over_time[0]
    assert over_frequency[2] < 0.5 * over_frequency[1]


def test_the_sum_of_scores_never_rises() -> None:
    weights = star_weights(6, 9, 2)
    shown = ~hide_smallest(torch.rand(16, 54, generator=generator()), 40)
    before = torch.full((16,), torch.inf)
    for swaps in range(12):
        now = spread(shown, weights, swaps, generator(3)).float()
        total = ((now @ weights) * now).sum(1)
        assert (total <= before + 1e-4).all()
        before = total


def test_weights_of_the_star() -> None:
    weights = star_weights(7, 9, 2)
    assert torch.equal(weights, weights.T)
    around = weights[3 * 9 + 4].view(7, 9)
    assert around[3, 5] == around[2, 4] == around[4, 5] == around[2, 5] == 1
    assert around[3, 6] == around[5, 6] == around[1, 2] == 0.5
    assert around[3, 4] == around[4, 6] == around[3, 7] == 0
    assert around.sum() == 8 * 1.5
    # On a torus every cell has as many neighbours.
    assert (weights.sum(1) == 12).all()


def test_masks_are_shifted_and_flipped_over_the_whole_grid() -> None:
    kind = OptimBlueMask(swaps=20, bank=2)
    drawn = kind.draw(2000, SPECTROGRAM, generator()).visible
    share = torch.zeros(2000, 512).scatter_(1, drawn, 1).mean(0)
    expected = VISIBLE / 512
    assert (share - expected).abs().max() < 4 * (expected * (1 - expected) / 2000) ** 0.5
    assert drawn.unique(dim=0).shape[0] > 1000


def test_slices_of_a_clip_differ() -> None:
    grid = Grid(4, 6, 6, 2, 16)
    visible = OptimBlueMask(0.75, swaps=20, bank=16).draw(1, grid, generator()).visible
    slices = torch.zeros(144).index_fill_(0, visible[0], 1).view(4, 36)
    assert (slices.sum(1) == 9).all()
    assert slices.unique(dim=0).shape[0] == 4


def test_the_search_depends_on_nothing_that_ran_before() -> None:
    torch.rand(5)
    first, second = (OptimBlueMask(swaps=20, bank=4) for _ in range(2))
    second.draw(3, Grid(1, 4, 4, 1, 16), generator())
    with torch.inference_mode():
        first.draw(3, SPECTROGRAM, generator(9))
    drawn = [kind.draw(3, SPECTROGRAM, generator(1)).targets for kind in (first, second)]
    assert torch.equal(*drawn)
    assert not drawn[0].is_inference()


@pytest.mark.parametrize("sides", [(1, 5), (2, 2), (3, 40)])
def test_small_grids(sides: tuple[int, int]) -> None:
    grid = Grid(2, *sides, 2, 16)
    mask = OptimBlueMask(0.6, swaps=20, bank=3).draw(4, grid, generator())
    assert mask.targets.shape == (4, 2 * int(0.6 * sides[0] * sides[1]))

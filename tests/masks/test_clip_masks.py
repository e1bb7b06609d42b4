"""Masks over all tokens of a clip: exact numbers, and which tokens they leave."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from modules.core.errors import SettingError
from modules.core.tokens import Grid
from modules.masks.clip import CenterMask, ClipMask, TemporalMask, UniformMask
from tests.masks.test_masks import check_complete, generator

HUGE = Grid(8, 16, 16, 2, 14)
SMALL = Grid(3, 2, 3, 2, 8)
every_kind = pytest.mark.parametrize("kind", [UniformMask, TemporalMask, CenterMask])


@every_kind
def test_exact_ascending_and_complete(kind: type[ClipMask]) -> None:
    for grid in (HUGE, SMALL):
        for percent in range(10, 95, 5):
            mask = kind(percent / 100)
            mask.check(grid)
            kept = int(grid.tokens * (1 - percent / 100))
            check_complete(mask.draw(3, grid, generator()), grid.tokens - kept, grid.tokens)
    assert HUGE.tokens - kind(0.9).masked_count(HUGE) == 204


def test_uniform_masks_differ_between_clips_and_slices() -> None:
    mask = UniformMask(0.9).draw(64, HUGE, generator())
    seen = torch.zeros(64, HUGE.tokens).scatter_(1, mask.visible, 1)
    assert len({tuple(row) for row in mask.visible.tolist()}) == 64
    assert seen.view(64, 8, 256).sum(2).unique().numel() > 1
    # Every token is visible equally often: 64 x 204 / 2048 = 6.4 times.
    assert seen.sum(0).mean() == pytest.approx(204 * 64 / 2048)
    assert 0.0 < seen.sum(0).var() < 12
    again = UniformMask(0.9).draw(64, HUGE, generator())
    assert torch.equal(again.targets, mask.targets)
    assert not torch.equal(UniformMask(0.9).draw(64, HUGE, generator(1)).targets, mask.targets)


def test_center_mask_keeps_whole_slices_of_both_ends() -> None:
    mask = CenterMask(0.5).draw(2, HUGE, generator())
    assert (mask.visible[0] // 256).unique().tolist() == [0, 1, 6, 7]
    assert mask.visible.shape == (2, 4 * 256)
    assert torch.equal(mask.visible[0], mask.visible[1])
    # An odd number has one more at the beginning.
    kept = CenterMask(0.7).draw(1, SMALL, generator()).visible[0].tolist()
    assert kept == [0, 1, 2, 16, 17]


def test_temporal_mask_keeps_the_beginning() -> None:
    assert TemporalMask(0.75).draw(1, HUGE, generator()).visible[0].tolist() == list(range(512))


@every_kind
def test_making_masks_never_waits_for_the_device(kind: type[ClipMask]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert kind(0.9).draw(2, HUGE, generator()).targets.shape == (2, 1844)


@every_kind
def test_ratios_that_leave_nothing_are_refused(kind: type[ClipMask]) -> None:
    with pytest.raises(SettingError, match=r"model\.mask\.ratio 0\.99 masks 18 of 18 tokens"):
        kind(0.99).check(SMALL)

"""Mask generators: exact numbers, the shape of the masks, and SMILE's trajectory rules."""

import pytest
import torch
from torch import Tensor

from modules.backbones.video_vit import Grid
from modules.core.errors import SettingError
from modules.layers.masking import Mask, MaskGenerator, TrajectoryMask, TubeMask, footprint
from tests.parity.cases import load_case

FULL = Grid(8, 14, 14, 2, 16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_bool(mask: Mask, tokens: int) -> Tensor:
    hidden = torch.zeros(len(mask.masked), tokens, dtype=torch.bool)
    return hidden.scatter_(1, mask.masked, True)


def random_boxes(count: int, seed: int = 0, side: int = 224, frames: int = 16) -> Tensor:
    g = generator(seed)
    centre = torch.rand(count, 2, frames, 2, generator=g) * side
    half = 10 + 40 * torch.rand(count, 2, frames, 2, generator=g)
    return torch.cat([centre - half, centre + half], dim=-1)


@pytest.mark.parametrize("kind", [TubeMask, TrajectoryMask])
@pytest.mark.parametrize("ratio", [0.5, 0.6, 0.75, 0.8, 0.9, 0.95])
def test_exact_ascending_and_complete(kind: type[MaskGenerator], ratio: float) -> None:
    mask = kind(ratio).draw(6, FULL, generator(), random_boxes(6))
    hidden = 8 * int(ratio * 196)
    assert mask.masked.shape == (6, hidden)
    assert mask.visible.shape == (6, 1568 - hidden)
    for index in mask:
        assert (index.diff(dim=1) > 0).all()
    together = torch.cat([mask.visible, mask.masked], dim=1).sort(dim=1).values
    assert torch.equal(together, torch.arange(1568).expand(6, -1))


def test_tube_mask_is_the_same_in_all_slices_and_differs_between_clips() -> None:
    slices = as_bool(TubeMask(0.9).draw(5, FULL, generator()), 1568).view(5, 8, 196)
    assert (slices == slices[:, :1]).all()
    assert (slices.sum(-1) == int(0.9 * 196)).all()
    assert len({tuple(row.tolist()) for row in slices[:, 0]}) == 5


def test_tube_mask_is_uniform_over_positions() -> None:
    grid = Grid(1, 4, 4, 2, 8)
    share = as_bool(TubeMask(0.5).draw(4000, grid, generator()), 16).float().mean(0)
    assert (share - 0.5).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_masks_come_from_the_generator_alone() -> None:
    draw = [TubeMask(0.75).draw(2, FULL, generator(7)).masked for _ in range(2)]
    assert torch.equal(*draw)
    assert not torch.equal(draw[0], TubeMask(0.75).draw(2, FULL, generator(8)).masked)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.004])
def test_useless_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(SettingError, match=r"model\.mask\.ratio"):
        TubeMask(ratio).check(FULL)


def test_footprint_equals_the_official_one() -> None:
    tensors, info = load_case("smile", "trajectory_mask")
    t, h, w = info["window"]
    grid = Grid(t, h, w, tensors["input.traj_rois"].shape[2] // t, info["patch_size"])
    ours = footprint(tensors["input.traj_rois"].float(), grid)
    assert torch.equal(ours, tensors["output.footprint"].bool())


def test_official_example_masks_obey_what_ours_obey() -> None:
    """The invariants below hold for masks that the official code drew, so they are the right ones to ask of ours."""
    tensors, info = load_case("smile", "trajectory_mask")
    t, h, w = info["window"]
    grid = Grid(t, h, w, tensors["input.traj_rois"].shape[2] // t, info["patch_size"])
    tube, touched = tensors["input.tube_mask"].bool(), tensors["output.footprint"].bool()
    masked_count = int(tensors["output.example_mask"][0].sum())
    check_invariants(tensors["output.example_mask"].bool(), tube, touched, masked_count)
    ours = TrajectoryMask(0.8).balance(touched, tube, masked_count, generator())
    check_invariants(as_bool(ours, grid.tokens), tube, touched, masked_count)


def check_invariants(final: Tensor, tube: Tensor, touched: Tensor, masked_count: int, share: float = 0.1) -> None:
    """For clips of the first balancing case (the tube mask with the masked footprint hides too much)."""
    assert (final.sum(1) == masked_count).all()
    allowed = (share * touched.sum(1)).floor()
    too_many = (tube & ~touched).sum(1) + touched.sum(1) - allowed > masked_count
    assert too_many.any()
    assert ((touched & ~final).sum(1) == allowed)[too_many].all()
    kept = (~tube & ~touched) <= ~final
    assert kept[too_many].all()


def test_trajectory_mask_over_many_draws() -> None:
    boxes = random_boxes(64, seed=3)
    touched = footprint(boxes, FULL)
    g = generator(1)
    tube = as_bool(TubeMask(0.8).draw(64, FULL, g), 1568)
    final = as_bool(TrajectoryMask(0.8).balance(touched, tube, 1248, g), 1568)
    check_invariants(final, tube, touched, 1248)


def test_footprint_larger_than_the_mask_shows_footprint_tokens() -> None:
    """An object that covers everything: the count still holds, so hidden footprint tokens must be shown."""
    boxes = torch.tensor([0.0, 0, 224, 224]).expand(2, 1, 16, 4)
    mask = TrajectoryMask(0.8).draw(2, FULL, generator(), boxes)
    assert mask.masked.shape == (2, 1248)


def test_small_footprint_and_low_ratio_hide_visible_tokens() -> None:
    """The other balancing case: too few are masked when the footprint's visible share is large."""
    boxes = torch.tensor([0.0, 0, 224, 224]).expand(1, 1, 16, 4)
    mask = TrajectoryMask(0.8, visible_share=0.9).draw(1, FULL, generator(), boxes)
    assert mask.masked.shape == (1, 1248)


def test_box_inside_one_patch_covers_one_more() -> None:
    boxes = torch.tensor([17.0, 17, 30, 30]).expand(1, 1, 16, 4)
    cells = footprint(boxes, FULL).view(8, 14, 14)
    expected = torch.zeros(14, 14, dtype=torch.bool)
    expected[1:3, 1:3] = True
    assert (cells == expected).all()


def test_footprint_is_the_union_over_a_slice() -> None:
    boxes = torch.zeros(1, 1, 4, 4)
    boxes[0, 0, 0] = torch.tensor([0.0, 0, 8, 8])
    boxes[0, 0, 1] = torch.tensor([16.0, 0, 23, 8])
    cells = footprint(boxes, Grid(2, 4, 4, 2, 8)).view(2, 4, 4)
    assert cells[0, 0].tolist() == [True, True, True, True]


def test_trajectory_mask_without_objects_is_a_tube_mask() -> None:
    follows, tube = (kind(0.8).draw(3, FULL, generator()) for kind in (TrajectoryMask, TubeMask))
    assert torch.equal(follows.masked, tube.masked)
    assert torch.equal(follows.visible, tube.visible)

"""Mask generators: exact numbers, the shape of the masks, and SMILE's trajectory rules."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from modules.core.errors import SettingError
from modules.core.randomness import device_generator
from modules.core.tokens import Grid
from modules.masks.base import Mask, MaskGenerator, hide_smallest, is_among, mask_from_bool, mask_from_sets
from modules.masks.blue_noise import OptimBlueMask
from modules.masks.noise import Green3D, NoiseMask
from modules.masks.tokens import RandomMask, RunningCellMask, TubeMask
from modules.masks.trajectory import TrajectoryMask, footprint
from tests.parity.cases import load_case

FULL = Grid(8, 14, 14, 2, 16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_bool(mask: Mask, tokens: int) -> Tensor:
    hidden = torch.zeros(len(mask.targets), tokens, dtype=torch.bool)
    return hidden.scatter_(1, mask.targets, True)


def random_boxes(count: int, seed: int = 0, side: int = 224, frames: int = 16) -> Tensor:
    g = generator(seed)
    centre = torch.rand(count, 2, frames, 2, generator=g) * side
    half = 10 + 40 * torch.rand(count, 2, frames, 2, generator=g)
    return torch.cat([centre - half, centre + half], dim=-1)


KINDS: dict[str, Callable[[float], MaskGenerator]] = {
    "tube": TubeMask,
    "random": RandomMask,
    "trajectory": TrajectoryMask,
    "Green3D": Green3D,
    "green 2D": lambda ratio: NoiseMask("green", ratio, slices="independent"),
    "green tube": lambda ratio: NoiseMask("green", ratio, slices="repeated"),
    "red": lambda ratio: NoiseMask("red", ratio),
    "blue": lambda ratio: NoiseMask("blue", ratio),
    "purple": lambda ratio: NoiseMask("purple", ratio),
    "Optim Blue": lambda ratio: OptimBlueMask(ratio, swaps=20, bank=4),
}
every_kind = pytest.mark.parametrize("name", KINDS)


def check_complete(mask: Mask, hidden: int, tokens: int) -> None:
    rows = len(mask.targets)
    assert mask.targets.shape == (rows, hidden)
    assert mask.visible.shape == (rows, tokens - hidden)
    assert mask.targets.dtype == mask.visible.dtype == torch.int64
    for index in (mask.visible, mask.targets):
        assert (index.diff(dim=1) > 0).all()
    together = torch.cat([mask.visible, mask.targets], dim=1).sort(dim=1).values
    assert torch.equal(together, torch.arange(tokens).expand(rows, -1))


@every_kind
@pytest.mark.parametrize("grid", [FULL, Grid(3, 6, 10, 2, 16)], ids=["8x14x14", "3x6x10"])
def test_exact_ascending_and_complete(name: str, grid: Grid) -> None:
    boxes = random_boxes(3, frames=2 * grid.t)
    for ratio in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        kind = KINDS[name](ratio)
        kind.check(grid)
        mask = kind.draw(3, grid, generator(), boxes)
        in_slice = int(ratio * (grid.h * grid.w))
        check_complete(mask, grid.t * in_slice, grid.tokens)
        assert kind.masked_count(grid) == grid.t * in_slice
        slices = as_bool(mask, grid.tokens).view(3, grid.t, -1)
        # SMILE balances over the clip.
        assert name == "trajectory" or (slices.sum(2) == in_slice).all()


@pytest.mark.parametrize("name", ["random", "Green3D", "blue"])
def test_counts_over_the_clip(name: str) -> None:
    kind = KINDS[name](0.9)
    kind.per_slice = False
    assert kind.masked_count(FULL) == 1411
    mask = kind.draw(3, FULL, generator())
    check_complete(mask, 1411, 1568)
    assert as_bool(mask, 1568).view(3, 8, 196).sum(2).unique().numel() > 1


@every_kind
def test_masks_are_a_function_of_seed_step_and_rank(name: str) -> None:
    def draw(*key: int) -> Tensor:
        return KINDS[name](0.9).draw(8, FULL, device_generator("cpu", *key)).targets

    first = draw(0, 5, 1)
    torch.rand(3)
    assert torch.equal(first, draw(0, 5, 1))
    for other in ((1, 5, 1), (0, 6, 1), (0, 5, 0)):
        assert not torch.equal(first, draw(*other))
    assert len({tuple(row.tolist()) for row in first}) == 8


@every_kind
def test_making_masks_never_waits_for_the_device(name: str) -> None:
    """Fake tensors have no values, so whatever needs one on the host (a loop, boolean indexing, `.item()`) raises."""
    kind, boxes = KINDS[name](0.9), random_boxes(2)
    kind.draw(2, FULL, generator(), boxes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        mask = kind.draw(2, FULL, generator(), boxes)
    assert mask.targets.shape == (2, 1408)


@every_kind
def test_autocast_does_not_change_masks(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        mask = KINDS[name](0.9).draw(4, FULL, generator(), random_boxes(4))
    assert torch.equal(mask.targets, KINDS[name](0.9).draw(4, FULL, generator(), random_boxes(4)).targets)


def test_ties_do_not_change_the_count() -> None:
    hidden = hide_smallest(torch.zeros(5, 3, 20), 13)
    assert (hidden.sum(-1) == 13).all()
    assert hide_smallest(torch.tensor([1.0, 3.0, 2.0, 4.0]), 2).tolist() == [True, False, True, False]


def test_index_form_of_a_bool_mask() -> None:
    hidden = torch.tensor([[True, False, True, False], [False, False, True, True]])
    mask = mask_from_bool(hidden)
    assert mask.visible.tolist() == [[1, 3], [0, 1]]
    assert mask.targets.tolist() == [[0, 2], [2, 3]]
    assert torch.equal(mask_from_bool(hidden, 2).targets, mask.targets)
    assert is_among(torch.tensor([[0, 1], [1, 3]]), mask.targets, 4).tolist() == [[True, False], [False, True]]


def test_index_form_of_blocks_of_unequal_numbers() -> None:
    visible = torch.tensor([[True, False, False, False, True], [False, True, False, False, False]])
    first = torch.tensor([[False, True, True, False, False], [False, False, False, True, False]])
    # Blocks may overlap, see visible tokens again, and leave tokens out.
    second = torch.tensor([[False, False, True, False, True], [True, False, False, False, False]])
    mask = mask_from_sets(visible, torch.stack([first, second], dim=1), 2, 2)
    assert mask.valid is not None
    assert mask.valid_visible is not None
    assert (mask.visible.shape, mask.targets.shape, mask.valid.shape) == ((2, 2), (2, 2, 2), (2, 2, 2))
    kept = [
        [[token for token, real in zip(*pair, strict=True) if real] for pair in zip(rows, there, strict=True)]
        for rows, there in zip(mask.targets.tolist(), mask.valid.tolist(), strict=True)
    ]
    assert kept == [[[1, 2], [2, 4]], [[3], [0]]]
    assert mask.valid_visible.tolist() == [[True, True], [True, False]]
    assert mask.visible[0].tolist() == [0, 4]
    assert mask.visible[1, 0] == 1


def test_running_cells() -> None:
    slices = as_bool(RunningCellMask().draw(64, FULL, generator()), 1568).view(64, 8, 14, 14)
    assert (slices.sum((2, 3)) == 98).all()
    cells = slices.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    # All cells of a slice are alike; the next slice has the same cell, one place on; after four slices it comes back.
    cell = cells[:, :, 0, 0]
    assert (cells == cell[:, :, None, None]).all()
    assert torch.equal(cell[:, 1:].roll(1, -1), cell[:, :-1])
    assert torch.equal(cell[:, 4:], cell[:, :4])
    assert (cell[:, :4].sum(1) == 2).all()
    # It begins anywhere.
    assert len({tuple(row.tolist()) for row in cell[:, 0]}) == 4


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_running_cells_have_exact_numbers(ratio: float) -> None:
    kind = RunningCellMask(ratio)
    kind.check(FULL)
    check_complete(kind.draw(5, FULL, generator()), int(ratio * 1568), 1568)


@pytest.mark.parametrize(("ratio", "grid"), [(0.9, FULL), (0.5, Grid(8, 14, 7, 2, 16)), (0.5, Grid(8, 7, 14, 2, 16))])
def test_running_cells_that_do_not_fit_are_refused(ratio: float, grid: Grid) -> None:
    with pytest.raises(SettingError, match=r"model\.decoder_mask.*cells of 2 x 2"):
        RunningCellMask(ratio).check(grid, "model.decoder_mask")


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
    draw = [TubeMask(0.75).draw(2, FULL, generator(7)).targets for _ in range(2)]
    assert torch.equal(*draw)
    assert not torch.equal(draw[0], TubeMask(0.75).draw(2, FULL, generator(8)).targets)


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
    assert mask.targets.shape == (2, 1248)


def test_small_footprint_and_low_ratio_hide_visible_tokens() -> None:
    """The other balancing case: too few are masked when the footprint's visible share is large."""
    boxes = torch.tensor([0.0, 0, 224, 224]).expand(1, 1, 16, 4)
    mask = TrajectoryMask(0.8, visible_share=0.9).draw(1, FULL, generator(), boxes)
    assert mask.targets.shape == (1, 1248)


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
    assert torch.equal(follows.targets, tube.targets)
    assert torch.equal(follows.visible, tube.visible)

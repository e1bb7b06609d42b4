"""Crops and channels of the pieces of a tuple, against loops over them."""

import pytest
import torch
from torch import Tensor

from modules.augment.frames import FrameAugmentation, crop_pieces, jittered_boxes, split_channels
from modules.core.errors import SettingError


def pieces(count: int = 3, places: int = 4, frames: int = 2, side: int = 12) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, places, frames, side, side, 3), generator=g, dtype=torch.uint8)


def test_every_piece_is_cut_at_its_own_box_and_shows_one_channel() -> None:
    """Statement 5: the three channels of a piece are equal."""
    given = pieces()
    made, boxes = FrameAugmentation(4, 2, True)(given, torch.Generator().manual_seed(1))
    assert made.shape == (3, 4, 2, 8, 8, 3)
    chosen = set()
    for sample in range(3):
        for place in range(4):
            x1, y1, x2, y2 = boxes[sample, place].tolist()
            window = given[sample, place, :, y1:y2, x1:x2]
            channel = next(one for one in range(3) if torch.equal(made[sample, place, ..., 0], window[..., one]))
            chosen.add(channel)
            for copy in range(3):
                assert torch.equal(made[sample, place, ..., copy], window[..., channel])
    assert len(chosen) == 3
    assert len({tuple(box) for box in boxes[0].tolist()}) > 1


def test_shifts_are_dropped_by_axis_unless_strictly_inside() -> None:
    start = torch.tensor([[0, 20], [10, 19], [1, 5]])
    shift = torch.tensor([[[1, 1], [-1, -1]], [[5, 1], [-5, 0]], [[-1, -5], [-2, 5]]])
    found = jittered_boxes(start, shift, 80, 100)
    for row in range(3):
        for place in range(2):
            for axis in range(2):
                a, s = int(start[row, axis]), int(shift[row, place, axis])
                expected = a + s if a + s > 0 and a + s + 80 < 100 else a
                assert (found[row, place, axis], found[row, place, axis + 2]) == (expected, expected + 80)


def test_nothing_is_done_by_default() -> None:
    given = pieces()
    made, boxes = FrameAugmentation()(given, torch.Generator())
    assert torch.equal(made, given)
    assert boxes.tolist() == [[[0, 0, 12, 12]] * 4] * 3
    still = crop_pieces(given, torch.zeros(3, 4, 2, dtype=torch.int64), 12)
    assert torch.equal(still, given)
    assert torch.equal(split_channels(given, torch.ones(3, 4, dtype=torch.int64))[..., 2], given[..., 1])


def test_common_crops_are_the_same_for_a_tuple() -> None:
    boxes = FrameAugmentation(6)(pieces(60), torch.Generator().manual_seed(0))[1]
    assert (boxes == boxes[:, :1]).all()
    assert {int(x) for x in boxes[..., 0].unique()} == set(range(7))


def test_impossible_crops_are_refused() -> None:
    with pytest.raises(SettingError, match=r"jitter is 2, but with model\.augmentation\.margin 0 crops have no room"):
        FrameAugmentation(0, 2)
    with pytest.raises(SettingError, match=r"margin is 12, which leaves nothing of clips of 12 x 12 pixels"):
        FrameAugmentation(12)(pieces(), torch.Generator())
    with pytest.raises(SettingError, match=r"model\.augmentation\.margin"):
        FrameAugmentation(-1)

"""Random crops on the device: the rule of torchvision, and pixels as of its resizing."""

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from modules.augment.crops import enlarge, fitting_boxes, random_boxes

RATIO = (3 / 4, 4 / 3)


def test_the_first_box_that_fits() -> None:
    area = torch.tensor([[0.9, 0.5, 0.3], [0.2, 0.9, 0.9]], dtype=torch.float64)
    aspect = torch.tensor([[4.0, 1.0, 1.0], [1.0, 4.0, 4.0]], dtype=torch.float64)
    place = torch.tensor([[0.0, 0.999], [0.5, 0.0]], dtype=torch.float64)
    boxes = fitting_boxes(area, aspect, place, (40, 60), RATIO)
    # Of the first row, the second: a square of half the area, at the top and to the right.
    side = round(math.sqrt(0.5 * 40 * 60))
    assert boxes[0].tolist() == [60 - side, 0, side, side]
    side = round(math.sqrt(0.2 * 40 * 60))
    assert boxes[1].tolist() == [0, (40 - side + 1) // 2, side, side]


@pytest.mark.parametrize("size", [(40, 400), (400, 40), (40, 44)])
def test_the_centre_if_none_fits(size: tuple[int, int]) -> None:
    """As in torchvision, whose ten draws are made to fail."""
    never = torch.full((1, 10), 50.0)
    (box,) = fitting_boxes(never, torch.ones(1, 10), torch.full((1, 2), 0.9), size, RATIO).tolist()
    top, left, height, width = RandomResizedCrop.get_params(torch.zeros(3, *size), [50, 50], list(RATIO))
    assert box == [left, top, width, height]


def test_drawn_boxes_are_inside_and_of_all_sizes_and_places() -> None:
    boxes = random_boxes(4000, (48, 64), (0.3, 0.6), RATIO, torch.Generator().manual_seed(0))
    left, top, width, height = boxes.unbind(1)
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= 64).all()
    assert (top + height <= 48).all()
    share = (width * height) / (48 * 64)
    assert 0.28 < share.min() < 0.32
    assert 0.58 < share.max() < 0.62
    assert abs(share.mean() - 0.45) < 0.02
    ratio = (width / height).log()
    assert abs(ratio.mean()) < 0.03
    assert ratio.abs().max() < math.log(4 / 3) + 0.05
    # Touching each border, and not more often than chance.
    room = 64 - width
    assert 0.4 < (left / room.clamp_min(1))[room > 8].mean() < 0.6
    assert ((left == 0) & (room > 8)).any()
    assert ((left == room) & (room > 8)).any()


def test_pixels_are_those_of_torchvision() -> None:
    g = torch.Generator().manual_seed(1)
    clip = torch.randint(0, 256, (3, 2, 32, 24, 3), generator=g, dtype=torch.uint8)
    boxes = torch.tensor([[3, 5, 10, 12], [0, 0, 24, 32], [23, 31, 1, 1]])
    found = enlarge(clip, boxes)
    assert found.dtype == torch.uint8
    for row, (left, top, width, height) in enumerate(boxes.tolist()):
        planes = clip[row].permute(0, 3, 1, 2).float()
        expected = resized_crop(planes, top, left, height, width, [32, 24], InterpolationMode.BILINEAR, antialias=False)
        assert (found[row].permute(0, 3, 1, 2).float() - expected).abs().max() <= 0.51
    assert torch.equal(found[1], clip[1])

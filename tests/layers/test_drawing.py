"""Outlines lie where the objects were pasted."""

import pytest
import torch
from torch import Tensor

from modules.layers.drawing.clips import OUTLINE_COLOURS, box_corners, outline

SIDE = 64


def drawn(corners: list[list[float]]) -> Tensor:
    """Pixels of one outline on black: bool [H, W]."""
    picture = outline(torch.zeros(1, 1, SIDE, SIDE, 3, dtype=torch.uint8), torch.tensor(corners)[None, None, None])
    colours = picture[0, 0].flatten(0, 1).unique(dim=0).tolist()
    assert set(map(tuple, colours)) <= {(0, 0, 0), OUTLINE_COLOURS[0]}
    return (picture[0, 0] > 0).any(-1)


def turned(angle: float, centre: tuple[float, float], size: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Corners of a box turned clockwise, and the rotation matrix."""
    cos, sin = (function(torch.deg2rad(torch.tensor(angle))) for function in (torch.cos, torch.sin))
    matrix = torch.tensor([[cos, -sin], [sin, cos]])
    half = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * torch.tensor(size) / 2
    return torch.tensor(centre) + half @ matrix.T, matrix


def test_upright_outlines_are_the_outermost_pixels_of_a_box() -> None:
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[10:30, 5:50] = True
    expected[11:29, 6:49] = False
    corners = box_corners(torch.tensor([5.0, 10.0, 50.0, 30.0]))
    assert corners.tolist() == [[5, 10], [50, 10], [50, 30], [5, 30]]
    assert torch.equal(drawn(corners.tolist()), expected)
    # What leaves the picture is cut.
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[:20, 40], expected[19, 40:] = True, True
    assert torch.equal(drawn(box_corners(torch.tensor([40.0, -9.0, 90.0, 20.0])).tolist()), expected)


@pytest.mark.parametrize("angle", [20.0, 45.0, 90.0, -70.0])
def test_outlines_of_a_turned_box_lie_on_its_turned_edges(angle: float) -> None:
    centre, size = (32.0, 31.0), (38.0, 22.0)
    corners, matrix = turned(angle, centre, size)
    mask = drawn(corners.tolist())
    pixel = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="xy"), -1)[mask] + 0.5
    # Turned back, each pixel's middle is within the box and at most a pixel from its border.
    gap = torch.tensor(size) / 2 - ((pixel - torch.tensor(centre)) @ matrix).abs()
    assert gap.min() >= -1e-4
    assert gap.amin(-1).max() <= 1 + 1e-4
    # And no edge has a hole: every point half a pixel within it is near to a drawn pixel.
    rim, _ = turned(angle, centre, (size[0] - 1, size[1] - 1))
    share = torch.linspace(0, 1, 200)[:, None]
    for start, end in zip(rim, rim.roll(-1, 0), strict=True):
        assert torch.cdist(start + (end - start) * share, pixel).min(1).values.max() <= 0.8


def test_each_object_of_each_frame_has_its_outline() -> None:
    boxes = torch.tensor([[2.0, 2.0, 12.0, 12.0], [20.0, 20.0, 30.0, 30.0]])
    boxes = torch.stack([boxes, boxes + 10], dim=1)[None]
    clip = torch.randint(100, 256, (1, 2, SIDE, SIDE, 3), dtype=torch.uint8)
    before = clip.clone()
    made = outline(clip, box_corners(boxes))
    assert torch.equal(clip, before)
    for frame in range(2):
        for k in range(2):
            x, y = boxes[0, k, frame, :2].long()
            assert made[0, frame, y, x].tolist() == list(OUTLINE_COLOURS[k])
    changed = (made != clip).any(-1).sum((0, 2, 3))
    assert changed.tolist() == [72, 72]


def test_shapes_without_area_are_not_drawn() -> None:
    assert not drawn([[20.0, 20.0]] * 4).any()
    assert not drawn([[20.0, 20.0], [40.0, 20.0], [40.0, 20.0], [20.0, 20.0]]).any()

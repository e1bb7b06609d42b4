"""Clips with boxes: what is in the pixels is what is said about them."""

import pytest
import torch

from modules.scenes.classes import MOTION_CLASSES
from modules.scenes.tasks.boxes import ACTIONS, OBJECTS, BoxClips, make_box_clips

COUNT, FRAMES, SIZE = 48, 16, 32
KEY = FRAMES // 2


@pytest.fixture(scope="module")
def clips() -> BoxClips:
    return make_box_clips(COUNT, FRAMES, SIZE, "val", seed=3)


def inside(boxes: torch.Tensor) -> torch.Tensor:
    """Pixels whose middle is in a box: [..., 4] -> bool [..., H, W]."""
    middle = torch.arange(SIZE) + 0.5
    x1, y1, x2, y2 = (boxes * SIZE)[..., None].unbind(-2)
    across, down = (x1 <= middle) & (middle <= x2), (y1 <= middle) & (middle <= y2)
    return down[..., :, None] & across[..., None, :]


def test_one_object_moves_and_all_actions_occur_equally_often(clips: BoxClips) -> None:
    assert clips.video.shape == (COUNT, FRAMES, SIZE, SIZE, 3)
    assert ((clips.action >= 0).sum(1) == 1).all()
    assert torch.equal(clips.action.amax(1), torch.arange(COUNT) % len(ACTIONS))
    assert (clips.action >= 0).any(0).all()
    assert ACTIONS == ("right", "left", "up", "down", "rotate_clockwise", "rotate_anticlockwise", "grow", "shrink")
    assert all(one.heading is not None and one.first == one.second for one in MOTION_CLASSES[: len(ACTIONS)])


def test_boxes_contain_all_that_is_bright_in_the_key_frame(clips: BoxClips) -> None:
    bright = clips.video[:, KEY].amax(-1) > 100
    boxes = inside(clips.boxes)
    assert (bright & ~boxes.any(1)).sum() <= 2  # an edge that the renderer softens
    assert ((bright[:, None] & boxes).flatten(2).sum(2) > 8).all()


def test_what_stands_still_has_equal_pixels_in_all_frames(clips: BoxClips) -> None:
    # Turning and growing objects stay where they are; away from their box and its neighbourhood nothing changes.
    for clip in ((clips.action >= 4).any(1)).nonzero()[:, 0].tolist():
        mover = int(clips.action[clip].argmax())
        grown = clips.boxes[clip, mover] + torch.tensor([-1, -1, 1, 1]) * 0.2
        changes = (clips.video[clip] != clips.video[clip, KEY]).any(-1).any(0)
        assert not (changes & ~inside(grown)).any()
        assert (changes & inside(clips.boxes[clip, mover])).any()


def test_the_moving_object_moves_as_its_action_says(clips: BoxClips) -> None:
    light = clips.video.float().sum(-1)
    along = {0: (1.0, 2), 1: (-1.0, 2), 2: (-1.0, 1), 3: (1.0, 1)}
    for clip, action in enumerate(clips.action.amax(1).tolist()):
        before, after = light[clip, KEY - 1], light[clip, KEY + 1]
        if action in along:
            # The objects that stand still add the same to both.
            sign, axis = along[action]
            place = torch.arange(SIZE).float()
            moved = ((after - before).sum(2 - axis) * place).sum()
            assert sign * moved > 0, (clip, action)
        elif action >= 6:
            assert ((after > 0).sum() > (before > 0).sum()) == (action == 6)


def test_clips_are_functions_of_their_number_and_splits_differ(clips: BoxClips) -> None:
    fewer = make_box_clips(5, FRAMES, SIZE, "val", seed=3)
    for name in ("video", "action", "boxes"):
        assert torch.equal(getattr(fewer, name), getattr(clips, name)[:5])
    for split, seed in (("train", 3), ("val", 4)):
        assert not torch.equal(make_box_clips(5, FRAMES, SIZE, split, seed).boxes, fewer.boxes)  # type: ignore[arg-type]


def test_the_key_frame_does_not_tell_which_object_moves() -> None:
    many = make_box_clips(240, 4, 8, "train", seed=0)
    moving = many.action >= 0
    sides = many.boxes[..., 2:] - many.boxes[..., :2]
    middle = (many.boxes[..., 2:] + many.boxes[..., :2]) / 2
    for facts in (sides, middle):
        gap = (facts[moving].mean(0) - facts[~moving].mean(0)).abs()
        spread = facts.flatten(0, 1).std(0) * (1 / moving.sum() + 1 / (~moving).sum()).sqrt()
        assert (gap < 4 * spread).all()
    assert moving.float().mean(0).sub(1 / OBJECTS).abs().max() < 0.15

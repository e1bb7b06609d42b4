"""Labelled clips: functions of their index only, with correct labels; splits only share classes."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from modules.core.errors import SettingError
from modules.motion.appearance import SHAPES
from modules.scenes import objects as scenes
from modules.scenes.backgrounds import BRIGHTEST, load_images
from modules.scenes.classes import GROWTH, MOTION_CLASSES, ROTATION, TRAVEL, Draws, move
from modules.scenes.classes import Path as Moves
from modules.scenes.objects import SyntheticClips, make_clips

NAMES = [c.name for c in MOTION_CLASSES]
OBJECT_SIZE = (0.22, 0.55)


def assert_same(first: SyntheticClips, second: SyntheticClips) -> None:
    for field in fields(SyntheticClips):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


def test_a_clip_is_a_function_of_seed_split_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("texture", "noise", "gradient")
    many = make_clips(20, 4, 16, "train", 3, kinds)
    few = make_clips(7, 4, 16, "train", 3, kinds)
    assert torch.equal(many.video[:7], few.video)
    monkeypatch.setattr(scenes, "CHUNK_PIXELS", 3 * 4 * 16 * 16)
    assert_same(make_clips(20, 4, 16, "train", 3, kinds), many)
    assert not torch.equal(make_clips(20, 4, 16, "train", 4, kinds).video, many.video)
    assert not torch.equal(make_clips(20, 4, 16, "val", 3, kinds).boxes, many.boxes)
    assert len({clip.numpy().tobytes() for clip in many.video}) == 20


def test_numbers_of_a_clip_do_not_depend_on_its_company() -> None:
    order = torch.tensor([5, 2, 9])
    alone, among = Draws(1, "train", order), Draws(1, "train", torch.arange(10))
    assert torch.equal(alone.many("x", 6), among.many("x", 6)[order])
    assert torch.equal(among.at(order).uniform("x"), alone.uniform("x"))
    for other in (Draws(2, "train", order), Draws(1, "val", order), Draws(1, "train", order, version=1)):
        assert not torch.equal(other.uniform("x"), alone.uniform("x"))
    assert not torch.equal(alone.uniform("x"), alone.uniform("y"))


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = Draws(0, "train", torch.arange(20000))
    x, y = draws.uniform("x"), draws.uniform("y")
    count = torch.histc(x, 20, 0, 1)
    assert ((count - 1000) ** 2 / 1000).sum() < 50  # chi-squared with 19 degrees of freedom exceeds it once in 7000
    for a, b in ((x, y), (x[:-1], x[1:]), (x, Draws(1, "train", torch.arange(20000)).uniform("x"))):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4 / 20000**0.5


def test_the_splits_share_no_band() -> None:
    train, val = (Draws(0, split, torch.arange(5000)).banded("hue") for split in ("train", "val"))
    for values in (train, val):
        assert torch.histc(values, 6, 0, 1).min() > 600
    nearest = (train.sort().values[:, None] - val).abs().min()
    assert nearest > 0.01


def hue_of(picture: Tensor) -> Tensor:
    """Hues in [0, 1) of the vivid pixels [..., 3]."""
    r, g, b = picture.double().unbind(-1)
    high, span = picture.amax(-1).double(), (picture.amax(-1) - picture.amin(-1)).double()
    vivid = (high > 150) & (span > 75)
    r, g, b, high, span = (v[vivid] for v in (r, g, b, high, span))
    sector = torch.where(high == r, (g - b) / span, torch.where(high == g, 2 + (b - r) / span, 4 + (r - g) / span))
    return (sector / 6) % 1


def test_plain_objects_of_training_have_no_hue_of_validation() -> None:
    """Seen in the pictures: half of the training objects are plain, so their pixels show the hue that was drawn."""
    made = make_clips(400, 4, 24, "train", 0, object_size=(0.4, 0.55))
    plain = Draws(0, "train", torch.arange(400)).uniform("pattern") >= 0.5
    hue = hue_of(made.video[plain])
    assert len(hue) > 5000
    # Soft edges over black scale a colour; its hue changes by rounding alone.
    place = (hue * 6) % 1
    assert ((place > 0.03) & (place < 0.47)).double().mean() > 0.99


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", ["noise", "gradient", "texture"])
def test_backgrounds_are_still_dark_and_different(split: str, kind: str) -> None:
    bare = make_clips(6, 4, 24, split, 0, (kind,), objects=False).video
    assert (bare == bare[:, :1]).all()
    assert bare.max() <= 255 * BRIGHTEST + 1
    assert bare[0].float().std() > 1
    assert len({clip.numpy().tobytes() for clip in bare[:, 0]}) == 6


def test_objects_change_only_their_boxes_and_stand_out() -> None:
    kinds = ("noise", "texture")
    size, made, bare = (32, *(make_clips(60, 6, 32, "train", 0, kinds, objects=flag) for flag in (True, False)))
    changed = (made.video != bare.video).any(-1)
    assert (changed.sum((2, 3)) > 10).all()
    x1, y1, x2, y2 = (made.boxes[:, 0, :, i, None, None] for i in range(4))
    inside = torch.zeros_like(changed)
    # Boxes beyond an edge continue at the opposite one.
    x, y = torch.arange(size) + 0.5, (torch.arange(size) + 0.5)[:, None]
    for dx in (-size, 0, size):
        for dy in (-size, 0, size):
            inside |= (x + dx > x1 - 1) & (x + dx < x2 + 1) & (y + dy > y1 - 1) & (y + dy < y2 + 1)
    assert inside[changed].all()
    # The boxes are not much larger than the objects either.
    assert changed.sum() > 0.25 * inside.sum()
    assert made.video.amax((2, 3, 4)).min() > 0.7 * 255


def test_nothing_moves_when_told() -> None:
    made = make_clips(20, 5, 24, "train", 0, ("texture",), moving=False)
    assert (made.video == made.video[:, :1]).all()
    assert (made.motion == -1).all()
    assert (made.object >= 0).all()
    moving = make_clips(20, 5, 24, "train", 0, ("texture",))
    assert (moving.video[:, 1:] != moving.video[:, :-1]).flatten(2).any(-1).any(1).all()
    # The same objects and starts, so that the two kinds of clips only differ in motion.
    assert torch.equal(made.video[:, 0], moving.video[:, 0])


def test_without_objects_there_are_no_labels() -> None:
    bare = make_clips(5, 4, 16, "train", 0, ("noise", "gradient"), objects=False)
    assert (bare.motion == -1).all()
    assert (bare.object == -1).all()
    assert bare.boxes.shape == (5, 0, 4, 4)


def test_labels_are_balanced_and_independent() -> None:
    made = make_clips(1300, 4, 8, "train", 0, ("noise", "texture", "black"))
    assert made.motion.bincount().tolist() == [100] * 13
    for label, count in ((made.object, len(SHAPES)), (made.background, 3)):
        table = torch.zeros(13, count).index_put_((made.motion, label), torch.tensor(1.0), accumulate=True)
        expected = 1300 / 13 / count
        freedom = 13 * (count - 1)
        assert ((table - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


def moves(name: str, frames: int = 9, count: int = 40, distractors: bool = False) -> Moves:
    motion = torch.full((count,), NAMES.index(name))
    return move(Draws(0, "train", torch.arange(count)), motion, frames, OBJECT_SIZE, distractors)


def steps(path: Moves) -> tuple[Tensor, Tensor, Tensor]:
    """Changes of centre (modulo 1, at most half a picture), log size and angle between frames."""
    centre = (path.centre.diff(dim=1) + 0.5).remainder(1) - 0.5
    return centre, path.size.log().diff(dim=1), (path.angle.diff(dim=1) + 180).remainder(360) - 180


@pytest.mark.parametrize(("name", "way"), [("right", (1, 0)), ("left", (-1, 0)), ("up", (0, -1)), ("down", (0, 1))])
def test_straight_classes_go_their_way(name: str, way: tuple[int, int]) -> None:
    centre, growth, turn = steps(moves(name))
    along = centre @ torch.tensor(way).float()
    assert (along > 0).all()
    assert torch.allclose(centre, along[..., None] * torch.tensor(way), atol=1e-5)
    assert torch.allclose(along, along[:, :1].expand_as(along), atol=1e-5)
    total = along.sum(1)
    assert TRAVEL[0] - 1e-4 < total.min()
    assert total.max() < TRAVEL[1] + 1e-4
    assert max(growth.abs().max(), turn.abs().max()) < 1e-4


@pytest.mark.parametrize(("name", "sign"), [("rotate_clockwise", 1), ("rotate_anticlockwise", -1)])
def test_rotating_classes_turn(name: str, sign: int) -> None:
    centre, growth, turn = steps(moves(name))
    total = sign * turn.sum(1)
    assert (sign * turn > 0).all()
    assert ROTATION[0] - 0.01 < total.min() < total.max() < ROTATION[1] + 0.01
    assert max(centre.abs().max(), growth.abs().max()) < 1e-5


@pytest.mark.parametrize(("name", "sign"), [("grow", 1), ("shrink", -1)])
def test_growing_classes_change_size(name: str, sign: int) -> None:
    path = moves(name)
    centre, growth, turn = steps(path)
    octave = np.log(OBJECT_SIZE[1] / OBJECT_SIZE[0])
    smooth = (sign * growth).remainder(octave)
    assert (smooth > 0).all()
    total = smooth.sum(1).exp()
    assert GROWTH[0] - 1e-3 < total.min() < total.max() < GROWTH[1] + 1e-3
    # Sizes stay in their range: growing beyond it continues from the smallest.
    assert path.size.min() >= OBJECT_SIZE[0] - 1e-5
    assert path.size.max() <= OBJECT_SIZE[1] + 1e-5
    assert (sign * growth < 0).any()
    assert max(centre.abs().max(), turn.abs().max()) < 1e-4


def headings(step: Tensor) -> Tensor:
    """How many of the steps [N, 2] point into each quarter."""
    return torch.histc(torch.atan2(step[:, 1], step[:, 0]), 4, -np.pi, np.pi)


@pytest.mark.parametrize("name", ["go_then_stop", "stop_then_go", "there_and_back", "turn_left", "turn_right"])
def test_two_phases(name: str) -> None:
    centre = steps(moves(name))[0]
    first, second = centre[:, :4], centre[:, 4:]
    for phase in (first, second):
        assert (phase - phase[:, :1]).abs().max() < 1e-5
    a, b = first[:, 0], second[:, 0]
    if name in ("go_then_stop", "stop_then_go"):
        gone, rest = (a, b) if name == "go_then_stop" else (b, a)
        assert rest.abs().max() < 1e-6
        assert gone.norm(dim=-1).min() > TRAVEL[0] / 8 - 1e-4
        assert headings(gone).min() >= 3
        return
    assert torch.allclose(a.norm(dim=-1), b.norm(dim=-1), atol=1e-5)
    # y points down: a quarter turn to the right takes (1, 0) to (0, 1).
    expected = {
        "there_and_back": -a,
        "turn_right": torch.stack([-a[:, 1], a[:, 0]], dim=-1),
        "turn_left": torch.stack([a[:, 1], -a[:, 0]], dim=-1),
    }[name]
    assert torch.allclose(b, expected, atol=1e-5)
    assert headings(a).min() >= 3


def test_what_the_picture_shows_moves_as_named() -> None:
    """The centre of mass of bright pixels, as an angle on the torus, of objects over black."""
    made = make_clips(52, 8, 32, "train", 0)
    weight = made.video.float().sum(-1)
    turn = torch.polar(torch.ones(32), 2 * np.pi * torch.arange(32) / 32)
    for axis, (more, less) in enumerate((("right", "left"), ("down", "up"))):
        phase = (weight.sum(2 + axis) * turn).sum(-1).angle() / (2 * np.pi)
        change = ((phase.diff(dim=1) + 0.5).remainder(1) - 0.5).sum(1)
        assert (change[made.motion == NAMES.index(more)] > 0.25).all()
        assert (change[made.motion == NAMES.index(less)] < -0.25).all()
        assert change[made.motion == NAMES.index("rotate_clockwise")].abs().max() < 0.15


def test_distractors_stay_small_and_leave_the_class() -> None:
    plain, nuisance = steps(moves("right")), steps(moves("right", distractors=True))
    assert torch.allclose(plain[0], nuisance[0], atol=1e-5)
    assert nuisance[1].abs().sum() > 0
    assert 0 < nuisance[2].sum(1).abs().max() < ROTATION[0] / 3
    drift = steps(moves("rotate_clockwise", distractors=True))[0].sum(1).norm(dim=-1)
    assert 0 < drift.max() < TRAVEL[0] / 3


def test_views_show_the_same_object_and_class_elsewhere() -> None:
    first, second = (make_clips(26, 4, 16, "train", 0, ("noise", "texture"), view=view) for view in (0, 1))
    for name in ("motion", "object", "background"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.isclose(first.boxes, second.boxes).all(-1).any()
    assert (first.angle[:, 0] != second.angle[:, 0]).all()


def test_pictures_of_a_folder_are_shared_out(tmp_path: Path) -> None:
    for number in range(10):
        Image.fromarray(np.full((30 + number, 40, 3), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
    train, val = (set(load_images(tmp_path, split, 24)[:, 0, 0, 0].tolist()) for split in ("train", "val"))
    assert val == {20, 120}
    assert train == {20 * n for n in range(10)} - val
    made = make_clips(30, 4, 16, "val", 0, ("images",), load_images(tmp_path, "val", 20), objects=False)
    assert set(made.video.flatten().tolist()) == {20, 120}
    with pytest.raises(SettingError, match=r"data\.scene\.background_folder"):
        load_images(tmp_path / "nowhere", "train", 24)

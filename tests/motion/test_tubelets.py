"""Tubelets: the same patches with the same motion in both clips of a pair, and the statistics of the paper's recipe."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.layers.drawing.clips import box_corners, outline
from modules.motion.render import inverse_affine
from modules.motion.trajectory import Motion, draw_key_frames
from modules.motion.tubelets import (
    ELLIPSE,
    HARD,
    RECTANGLE,
    RHOMBUS,
    TubeletRecord,
    TubeletSettings,
    cut_patches,
    draw_tubelets,
    mask_alpha,
    paste_tubelets,
)

FRAMES, SIDE = 16, 112
KINDS = ("none", "rotation", "shear")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(pairs: int, seed: int = 0, side: int = SIDE, **settings: object) -> TubeletRecord:
    return draw_tubelets(TubeletSettings(**settings), pairs, FRAMES, (side, side), generator(seed))


def clips(pairs: int, side: int = SIDE, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two batches of noise."""
    query, key = torch.randint(0, 256, (2, pairs, FRAMES, side, side, 3), generator=generator(seed), dtype=torch.uint8)
    return query, key


def footprint(record: TubeletRecord) -> Tensor:
    """Pixels within reach of a tubelet, whatever its mask: bool [B, T, H, W]."""
    axis = torch.arange(SIDE) + 0.5
    offset = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1) - record.centre[:, :, :, None, None]
    cos, sin = (function(torch.deg2rad(record.angle))[..., None, None] for function in (torch.cos, torch.sin))
    x, y = offset.unbind(-1)
    x, y = cos * x + sin * y, cos * y - sin * x
    y = y - record.shear[..., 1, None, None] * x
    x = x - record.shear[..., 0, None, None] * y
    width, height = (side[..., None, None] / 2 + 0.5 for side in record.size.unbind(-1))
    return ((x.abs() < width) & (y.abs() < height)).any(1)


@pytest.mark.parametrize("transformation", KINDS)
def test_both_clips_get_the_same_tubelets_and_keep_the_rest(transformation: str) -> None:
    query, key = clips(2)
    record = draw(2, transformation=transformation, size_velocity=0.02)
    made_query, made_key = paste_tubelets(query, key, record)
    touched = footprint(record)
    for made, clip in ((made_query, query), (made_key, key)):
        assert made.shape == clip.shape
        assert torch.equal(made[~touched], clip[~touched])
        assert (made != clip).any(-1)[touched].float().mean() > 0.5
    # What is seen through the tubelets differs by what shows through: nothing, where both clips are one and the same.
    same = paste_tubelets(query, query, record)
    assert torch.equal(*same)
    assert torch.equal(same[0], made_query)


@pytest.mark.parametrize("transformation", KINDS)
def test_corners_are_those_of_the_pasted_patches(transformation: str) -> None:
    record = draw(8, transformation=transformation)
    corners = record.corners()
    assert corners.shape == (8, 2, FRAMES, 4, 2)
    matrix = inverse_affine(record.angle, record.shear, record.size)
    texture = torch.einsum("...ij,...pj->...pi", matrix, corners - record.centre[..., None, :])
    expected = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    assert torch.allclose(texture, expected.expand_as(texture), atol=1e-3)
    if transformation == "none":
        assert torch.equal(corners, box_corners(record.boxes()))


@pytest.mark.parametrize("transformation", KINDS)
def test_outlines_are_the_rims_of_what_is_pasted(transformation: str) -> None:
    """Hard rectangles reach to their outline on every side. (Nothing is pasted outside the footprint, see above.)"""
    query, key = clips(4)
    record = draw(4, transformation=transformation, count=1, shapes=(1, 0, 0), soft_edges=0, opacity=(1, 1), visible=0.5)
    _, made = paste_tubelets(query, key, record)
    rim = (outline(torch.zeros_like(made), record.corners()) > 0).any(-1)
    assert (made != key).any(-1)[rim].float().mean() > 0.99
    assert footprint(record)[rim].all()
    inner = replace(record, size=record.size - 5)
    assert not footprint(inner)[rim].any()
    hidden = record.opacity[:, 0] == 0
    assert hidden.any()
    assert not rim[hidden].any()


@pytest.mark.parametrize("transformation", KINDS)
def test_on_black_both_clips_are_identical(transformation: str) -> None:
    query, _ = clips(3)
    record = draw(3, transformation=transformation)
    lit = torch.zeros_like(query)
    for number, frames in enumerate(record.source):
        lit[number, frames] = query[number, frames]
    # All but the source frames are black, and so is every frame of the other clip.
    first, second = paste_tubelets(lit, torch.zeros_like(query), record)
    others = torch.ones(3, FRAMES, dtype=torch.bool).scatter_(1, record.source, False)
    assert torch.equal(first[others], second[others])
    assert second[others].any()


@pytest.mark.parametrize("side", [112, 64, 33])
def test_an_upright_tubelet_hides_itself_in_its_source_frame(side: int) -> None:
    query, key = clips(8, side)
    record = draw(8, side=side, transformation="none", count=1)
    first, second = paste_tubelets(query, key, record)
    rows = torch.arange(8)
    frames = record.source[:, 0]
    error = first[rows, frames].int() - query[rows, frames].int()
    assert error.abs().max() <= 1
    assert (first != query).any()
    assert (second[rows, frames].int() - key[rows, frames].int()).abs().max() > 50


def test_patches_are_cut_from_the_own_box_in_the_source_frame() -> None:
    query, key = clips(4)
    record = draw(4, transformation="none", count=1, size_velocity=0, opacity=(1, 1), shapes=(1, 0, 0), soft_edges=0)
    _, made = paste_tubelets(query, key, record)
    boxes = record.boxes()[:, 0].long().tolist()
    whole = 0
    for number in range(4):
        source = int(record.source[number, 0])
        x1, y1, x2, y2 = boxes[number][source]
        for frame, (left, top, right, bottom) in enumerate(boxes[number]):
            if (right - left, bottom - top) == (x2 - x1, y2 - y1):
                whole += 1
                error = made[number, frame, top:bottom, left:right].int() - query[number, source, y1:y2, x1:x2].int()
                assert error.abs().max() <= 1
    assert whole > 20


def test_boxes_lie_inside_and_large_tubelets_below() -> None:
    for path in ("smooth", "linear", "static"):
        record = draw(500, path=path, count=3)
        boxes = record.boxes()
        assert torch.equal(boxes, boxes.round())
        assert boxes.min() >= 0
        assert boxes.max() <= SIDE
        assert record.size.min() >= 1
        assert (record.size.mean(2).prod(-1).diff(dim=1) <= 0).all()
        assert record.source.shape == record.shape.shape == record.edge.shape == (500, 3)


def test_statistics_of_the_recipe() -> None:
    """Measured on the official code over as many pairs at 112 pixels."""
    settings = TubeletSettings()
    motion = settings.draw(2000, 2, FRAMES, (SIDE, SIDE), generator())
    # Without the borders: sizes all but stand still.
    assert motion.size[:, :, 0].mean().item() == pytest.approx(36.5, abs=1)
    centre = motion.centre
    assert torch.equal(centre, centre.round())
    assert centre.min() >= 0
    assert centre.max() <= SIDE - 1
    span = centre.amax(2) - centre.amin(2)
    assert span.max() <= 89
    assert centre.diff(dim=2).norm(dim=-1).mean().item() == pytest.approx(8.4, abs=0.3)
    record = draw(2000)
    assert (record.size.prod(-1) / SIDE**2).mean().item() == pytest.approx(0.106, abs=0.01)
    assert record.angle.abs().max() <= 90
    assert torch.equal(record.angle, record.angle.trunc())
    assert record.angle.abs().amax(2).mean().item() == pytest.approx(39.5, abs=2)
    keys = draw_key_frames(2000, FRAMES, generator())
    count = (keys.diff(dim=1) > 0).sum(1) + 1
    for number, share in ((2, 0.5), (3, 0.3), (4, 0.2)):
        assert (count == number).float().mean().item() == pytest.approx(share, abs=0.03)
    assert keys[:, 0].unique().tolist() == [0]
    assert keys[:, -1].unique().tolist() == [FRAMES - 1]
    assert keys[count == 3, 1].unique().tolist() == [6, 7, 8, 9]


def test_paths_do_not_depend_on_sizes() -> None:
    small, large = (TubeletSettings(scales=(scale,), whole_pixels=False) for scale in (32, 96))
    first, second = (each.draw(50, 2, FRAMES, (SIDE, SIDE), generator(3)) for each in (small, large))
    assert torch.allclose(first.centre, second.centre, atol=1e-4)
    assert (first.size < second.size).all()


def test_shares_of_looks() -> None:
    record = draw(4000)
    for shape, share in ((RECTANGLE, 0.5), (ELLIPSE, 0.35), (RHOMBUS, 0.15)):
        assert (record.shape == shape).float().mean().item() == pytest.approx(share, abs=0.03)
    soft = record.edge < HARD
    assert soft.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert 0.3 <= record.edge.min() < 0.31
    assert 0.44 < record.edge[soft].max() <= 0.45
    assert 0.8 <= record.opacity.min() < 0.81
    assert record.source.unique().tolist() == list(range(FRAMES))
    hidden = draw(500, visible=0.25).opacity == 0
    assert hidden.float().mean().item() == pytest.approx(0.75 * 14 / 16, abs=0.03)


def test_first_and_source_frame_always_show_a_tubelet() -> None:
    record = draw(50, visible=0.0)
    shown = torch.zeros_like(record.opacity, dtype=torch.bool)
    shown[..., 0] = True
    assert torch.equal(record.opacity > 0, shown.scatter_(2, record.source[..., None], True))


@pytest.mark.parametrize(("shape", "share"), [(RECTANGLE, 1.0), (ELLIPSE, 3.14159 / 4), (RHOMBUS, 0.5)])
def test_masks_cover_their_shape(shape: int, share: float) -> None:
    axis = ((torch.arange(400) + 0.5) / 400 - 0.5).abs()
    hard = mask_alpha(axis, axis[:, None], torch.tensor(shape), torch.tensor(HARD))
    soft = mask_alpha(axis, axis[:, None], torch.tensor(shape), torch.tensor(0.4))
    assert hard.unique().tolist() == ([1] if shape == RECTANGLE else [0, 1])
    assert hard.mean().item() == pytest.approx(share, abs=0.005)
    assert (soft <= hard).all()
    # Full within four fifths of the shape, half in the middle between there and the outline.
    assert (soft == 1).float().mean().item() == pytest.approx(0.64 * share, abs=0.01)
    assert soft[200, 20] == pytest.approx(0.5, abs=0.03)
    assert soft[200, 0] == pytest.approx(0, abs=0.03)


def test_cut_patches_are_source_frames_under_masks() -> None:
    query, _ = clips(3)
    record = draw(3, soft_edges=0.5)
    patches = cut_patches(query, record)
    assert patches.shape == (3, 2, SIDE, SIDE, 4)
    alpha = patches[..., 3:] / 255
    frames = torch.stack([query[number, source] for number, source in enumerate(record.source)])
    assert torch.allclose(patches[..., :3], frames * alpha)
    assert len(alpha.unique()) > 2


def test_same_generator_same_tubelets() -> None:
    first, again, other = (draw(4, seed) for seed in (5, 5, 6))
    for field in fields(TubeletRecord):
        assert torch.equal(getattr(first, field.name), getattr(again, field.name)), field.name
    assert not torch.equal(first.centre, other.centre)
    some = first.select(torch.tensor([2, 0]))
    assert isinstance(some, TubeletRecord)
    assert torch.equal(some.source, first.source[[2, 0]])


def test_settings_that_cannot_be_drawn_from() -> None:
    TubeletSettings().check()
    broken = {"count": 0, "shapes": (0.0, 0.0, 0.0), "opacity": (0.9, 0.8), "soft_edges": 1.5, "visible": -0.1}
    for name, value in broken.items():
        with pytest.raises(SettingError, match=rf"model\.tubelets\.{name}"):
            replace(TubeletSettings(), **{name: value}).check()


def test_only_the_named_defaults_differ_from_smile() -> None:
    tubelets, smile = TubeletSettings(), Motion()
    differing = {entry.name for entry in fields(Motion) if getattr(tubelets, entry.name) != getattr(smile, entry.name)}
    assert differing == {"velocity", "size_velocity", "opacity"}

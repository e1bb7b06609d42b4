"""Motion of objects: the ranges and rules of the papers, for all draws."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from modules.motion.trajectory import (
    ACCELERATE,
    DECELERATE,
    UNIFORM,
    Motion,
    MotionRecord,
    draw_key_frames,
    draw_segments,
    fill,
    smooth_path,
)

MOTIONS = [Motion(), Motion("linear")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_key_frames_of_sixteen() -> None:
    """No inner one half of the time; else 8 + {-2..1}, or {4, 5} and {9, 10}."""
    keys = draw_key_frames(20000, 16, generator())
    assert (keys[:, 0] == 0).all()
    assert (keys[:, -1] == 15).all()
    assert (keys.diff(dim=1) >= 0).all()
    inner = (keys[:, 1:-1] < 15).sum(1)
    for count, share in enumerate((0.5, 0.3, 0.2)):
        assert abs((inner == count).float().mean() - share) < 5 * (share * (1 - share) / 20000) ** 0.5
    places, number = keys[inner == 1, 1].unique(return_counts=True)
    assert places.tolist() == [6, 7, 8, 9]
    assert (number / number.sum() - 0.25).abs().max() < 0.03
    assert [keys[inner == 2, place].unique().tolist() for place in (1, 2)] == [[4, 5], [9, 10]]


@pytest.mark.parametrize("frames", [2, 4, 5, 8, 32])
def test_key_frames_of_any_length_lie_in_the_clip(frames: int) -> None:
    keys = draw_key_frames(500, frames, generator())
    assert keys.min() == 0
    assert keys.max() == frames - 1
    values = fill(keys[:, None], keys, draw_segments(500, frames, generator())[1] * 0, frames)
    # A quantity that equals the time at the key frames equals it everywhere when filled evenly.
    assert torch.allclose(values, torch.arange(frames, dtype=torch.float64).expand(500, 1, -1))


@pytest.mark.parametrize(
    ("kind", "first"), [(UNIFORM, [0, 0.5, 1, 1.5]), (ACCELERATE, [0, 0.05, 0.2, 0.45]), (DECELERATE, [0, 0.95, 1.8, 2.55])]
)
def test_from_zero_to_five_in_ten_steps(kind: int, first: list[float]) -> None:
    keys = torch.tensor([[0, 10, 10, 10]])
    values = torch.tensor([[[0, 5, 5, 5]]], dtype=torch.float64)
    filled = fill(values, keys, torch.full((1, 3), kind), 11)[0, 0].tolist()
    assert filled[:4] == pytest.approx(first)
    assert filled[-1] == 5


def slow_fill(values: Tensor, keys: Tensor, kinds: Tensor, frames: int) -> Tensor:
    out = torch.zeros(frames, dtype=values.dtype)
    for s in range(3):
        p, q, a, b = int(keys[s]), int(keys[s + 1]), values[s], values[s + 1]
        for i in range(q - p + 1 if q > p else 0):
            u = i / (q - p)
            out[p + i] = (a + (b - a) * u, a + (b - a) * u**2, b - (b - a) * (1 - u) ** 2)[int(kinds[s])]
    return out


def test_filling_equals_a_loop() -> None:
    keys, kinds = draw_segments(64, 16, generator())
    values = torch.rand(64, 2, 4, generator=generator(1), dtype=torch.float64)
    # Places that are not used repeat the last frame; so must their values.
    values = torch.where((keys < 15)[:, None], values, values[..., -1:])
    filled = fill(values, keys, kinds, 16)
    expected = torch.stack(
        [torch.stack([slow_fill(v, k, m, 16) for v in row]) for row, k, m in zip(values, keys, kinds, strict=True)]
    )
    assert torch.allclose(filled, expected, atol=1e-12)
    shares = kinds.new_tensor([(draw_segments(5000, 16, generator(2))[1] == kind).sum() for kind in range(3)]) / 15000
    assert (shares - torch.tensor([0.7, 0.15, 0.15])).abs().max() < 0.02


def test_smooth_path_equals_scipy() -> None:
    points = torch.rand(5, 48, generator=generator(), dtype=torch.float64)
    # The third path leaves the picture and is clipped to its border.
    extent, offset = torch.tensor([40.0, 90, 130, 179, 60]).double(), torch.tensor([0.0, 40, 150, 44, 150]).double()
    smooth = gaussian_filter1d(points.numpy(), 8.0, axis=1)
    low, span = smooth.min(1, keepdims=True), np.ptp(smooth, axis=1)[:, None]
    path = np.clip((smooth - low) / span * extent[:, None].numpy() + offset[:, None].numpy(), 0, 223)
    expected = path[:, np.linspace(0, 47, 16).round().astype(int)]
    assert expected[2].max() == 223
    assert np.array_equal(smooth_path(points, extent, offset, 224, 16).numpy(), np.trunc(expected))
    assert np.allclose(smooth_path(points, extent, offset, 224, 16, whole=False).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("side", [112, 224])
def test_smooth_motion_stays_in_the_picture_and_spans_its_extent(side: int) -> None:
    motion = Motion(whole_pixels=False)
    sizes = torch.full((4000, 1, 2), 30.0, dtype=torch.float64)
    # All 48 points, so that the extremes are among the frames.
    centre, keys, kinds = motion.centres(sizes, 48, (side, side), generator())
    assert centre.min() >= 0
    assert centre.max() <= side - 1
    span = centre.amax(2) - centre.amin(2)
    low, high = (40, 179) if side == 224 else (20, 89)
    # The path starts at a whole number that lets it end inside, so nothing is clipped and the span is the extent.
    assert torch.allclose(span, span.round(), atol=1e-9)
    assert span.min().round() == low
    assert span.max().round() == high
    assert torch.allclose(span[..., 0], span[..., 1])
    assert (keys == keys.new_tensor([0, 47, 47, 47])).all()
    assert (kinds == 0).all()


def test_smooth_motion_in_a_wide_picture_uses_both_sides() -> None:
    centre = Motion().draw(500, 1, 16, (112, 224), generator()).centre
    assert centre[..., 0].max() > 180
    assert centre[..., 1].max() <= 112


@pytest.mark.parametrize("side", [112, 224])
def test_sizes_at_the_start(side: int) -> None:
    size = Motion("linear", size_velocity=0, whole_pixels=False).draw(4000, 1, 4, (side, side), generator()).size[:, 0, 0]
    # The smallest and largest anchors are 22.6 and 181 pixels of 224, each side up to exp(0.18) off.
    assert size.min() >= 32 * 0.5**0.5 / 1.1973 * side / 224
    assert size.min() < 22.6 * side / 224
    assert size.max() > 181 * side / 224
    assert size.max() <= min(side - 1, 128 * 2**0.5 * 1.1973 * side / 224)
    area = size.prod(-1).sqrt().mean() / side * 224
    expected = np.mean([32, 48, 56, 64, 96, 128])
    assert abs(area - expected) < 0.03 * expected


def test_size_grows_slowly_and_angle_starts_at_zero() -> None:
    record = Motion("linear", whole_pixels=False).draw(2000, 2, 16, (224, 224), generator())
    factor = (record.size / record.size[:, :, :1]).log()
    assert 0.25 < factor.abs().max() <= 0.025 * 15 + 1e-5
    # Width and height change by different factors.
    assert not torch.allclose(factor[..., 0], factor[..., 1], atol=1e-2)
    assert (record.angle[..., 0] == 0).all()
    assert 60 < record.angle.abs().max() <= 6 * 15 + 1e-4
    assert abs(record.angle[..., -1].mean()) < 5


def test_without_velocities_boxes_keep_size_and_stand_upright() -> None:
    still = Motion("linear", size_velocity=0, rotation_velocity=0, velocity=0)
    record = still.draw(50, 2, 8, (64, 64), generator())
    for values in (record.centre, record.size, record.angle):
        assert (values == values[:, :, :1]).all()
    assert (record.angle == 0).all()


@pytest.mark.parametrize("motion", MOTIONS)
def test_whole_pixels(motion: Motion) -> None:
    record = motion.draw(100, 2, 16, (224, 224), generator())
    assert torch.equal(record.boxes(), record.boxes().round())
    assert torch.equal(record.angle, record.angle.trunc())
    assert (record.size >= 1).all()


def test_linear_motion_stays_inside_and_keeps_its_velocity() -> None:
    motion = Motion("linear", size_velocity=0, whole_pixels=False)
    record = motion.draw(1000, 2, 16, (224, 224), generator())
    boxes = record.boxes()
    assert boxes[..., :2].min() > -1e-3
    assert boxes[..., 2:].max() < 224 + 1e-3
    # Accelerating segments are at most twice as fast as even ones.
    even = (record.interpolation == 0).all(1)
    step = record.centre.diff(dim=2).abs()
    assert step[even].max() <= 12 + 1e-3
    assert 12 < step.max() <= 24 + 1e-3
    # Between key frames even motion is straight: no bend where there is no key frame.
    bend = record.centre.diff(n=2, dim=2).abs().amax((1, 3))
    assert bend[even][~record.keys[even][:, 1:-1]].max() < 1e-3
    assert bend[record.keys[:, 1:-1]].max() > 1


def test_static_paths_stay_where_smooth_ones_begin() -> None:
    smooth, static = (Motion(path, whole_pixels=False).draw(50, 2, 8, (64, 64), generator(3)) for path in ("smooth", "static"))
    assert torch.equal(static.centre, smooth.centre[:, :, :1].expand_as(smooth.centre))
    assert (smooth.centre.diff(dim=2) != 0).any()
    for name in ("size", "angle"):
        assert torch.equal(getattr(static, name), getattr(smooth, name))


def test_one_transformation_at_a_time() -> None:
    none, rotation, shear = (
        Motion(transformation=kind).draw(300, 2, 16, (112, 112), generator()) for kind in ("none", "rotation", "shear")
    )
    for record in (rotation, shear):
        assert torch.equal(record.boxes(), none.boxes())
    assert not none.angle.any()
    assert not none.shear.any()
    assert rotation.angle.any()
    assert not rotation.shear.any()
    assert not shear.angle.any()


def test_shear_starts_at_zero_along_x_y_or_both_alike_for_all_objects_of_a_clip() -> None:
    shear = Motion(transformation="shear").draw(3000, 2, 16, (112, 112), generator()).shear
    assert not shear[:, :, 0].any()
    assert 0.8 < shear.abs().max() <= 0.066 * 15 + 1e-6
    assert abs(shear[:, :, -1].mean()) < 0.02
    along = shear[:, :, -1] != 0
    assert torch.equal(along[:, 0], along[:, 1])
    kinds, number = (along[:, 0] * torch.tensor([1, 2])).sum(-1).unique(return_counts=True)
    assert kinds.tolist() == [1, 2, 3]
    assert (number / 3000 - 1 / 3).abs().max() < 0.05
    both = along.all(-1).all(-1)
    assert abs(torch.corrcoef(shear[both][:, 0, -1].T)[0, 1]) < 0.15


def test_opacity_fades_evenly_between_key_frames_of_its_own() -> None:
    opacity = Motion(opacity=(0.8, 1.0)).draw(2000, 2, 16, (112, 112), generator()).opacity
    assert 0.8 <= opacity.min() < 0.801
    assert 0.999 < opacity.max() <= 1
    assert abs(opacity[..., 0].mean() - 0.9) < 0.005
    bends = opacity.diff(n=2, dim=2).abs() > 1e-6
    # Half of the objects have no inner key frame, 3 in 10 have one.
    count = bends.sum(-1)
    assert abs((count == 0).float().mean() - 0.5) < 0.04
    assert abs((count == 1).float().mean() - 0.3) < 0.04
    assert (bends[:, 0] != bends[:, 1]).any()
    assert (Motion().draw(5, 2, 16, (112, 112), generator()).opacity == 1).all()


def test_lengths_scale_with_the_picture() -> None:
    """Half the picture gives half of everything (before whole pixels)."""
    motion = Motion("linear", whole_pixels=False)
    large, small = (motion.draw(200, 2, 16, (side, side), generator(3)) for side in (224, 112))
    fits = (large.size[:, :, 0] < 222).all(-1)
    assert torch.allclose(large.size[fits] / 2, small.size[fits], rtol=1e-4)
    assert torch.allclose(large.centre[fits] / 2, small.centre[fits], atol=1e-2)
    assert torch.equal(large.angle, small.angle)


@pytest.mark.parametrize("motion", MOTIONS)
def test_same_generator_same_motion(motion: Motion) -> None:
    first, again, other = (motion.draw(8, 2, 16, (112, 112), generator(seed)) for seed in (5, 5, 6))
    for field in fields(MotionRecord):
        assert torch.equal(getattr(first, field.name), getattr(again, field.name)), field.name
    assert not torch.equal(first.centre, other.centre)


@pytest.mark.parametrize("motion", MOTIONS)
def test_clips_and_objects_are_independent(motion: Motion) -> None:
    record = motion.draw(4000, 2, 16, (224, 224), generator())
    for values in (record.centre[:, :, -1, 0], record.size[:, :, -1, 0], record.angle[:, :, -1]):
        assert len(values[:, 0].unique()) > 20
        by_clip = torch.corrcoef(torch.stack([values[:-1, 0], values[1:, 0]]))[0, 1]
        by_object = torch.corrcoef(values.T)[0, 1]
        assert max(abs(by_clip), abs(by_object)) < 5 / 4000**0.5


def test_sorted_by_area_puts_small_objects_last() -> None:
    record = Motion().draw(50, 4, 16, (224, 224), generator())
    made, order = record.sorted_by_area()
    area = made.size.mean(2).prod(-1)
    assert (area.diff(dim=1) <= 0).all()
    assert (order != torch.arange(4)).any()
    for clip in range(50):
        for place, k in enumerate(order[clip]):
            for name in ("centre", "size", "angle", "shear", "opacity"):
                assert torch.equal(getattr(made, name)[clip, place], getattr(record, name)[clip, k]), name
    assert torch.equal(made.keys, record.keys)


def test_boxes_and_selection() -> None:
    record = Motion().draw(5, 2, 4, (64, 64), generator())
    boxes = record.boxes()
    assert torch.equal((boxes[..., :2] + boxes[..., 2:]) / 2, record.centre)
    assert torch.equal(boxes[..., 2:] - boxes[..., :2], record.size)
    assert torch.equal(record.select(torch.tensor([3, 1])).boxes(), boxes[[3, 1]])
    assert record.select(slice(1, 3)).keys.shape == (2, 4)

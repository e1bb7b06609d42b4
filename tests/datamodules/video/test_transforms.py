"""Crops follow their rules, resizing agrees with PIL, and any frame size works."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from datamodules.video.crops import (
    Box,
    Centre,
    Crop,
    MultiScale,
    Nested,
    RandomResized,
    Shared,
    Square,
    Stretched,
    box_within,
    centre_box,
    multi_scale_box,
    random_resized_box,
)
from datamodules.video.decode import DecodedClips
from datamodules.video.readers import VideoInfo
from datamodules.video.sampling import ClipSettings, Plan, ViewSettings, make_plan
from datamodules.video.transforms import crop_and_resize, cut_views

CROPS = [MultiScale(), RandomResized(), Stretched(), Square(), Centre(), Shared(), Nested()]
SIZES = [(340, 256), (256, 340), (320, 240), (80, 640), (640, 80), (223, 301), (225, 225), (31, 17), (3, 2), (1, 1)]


def decoded(frames: list[np.ndarray], position: list[list[int]]) -> DecodedClips:
    height, width = frames[0].shape[:2]
    info = VideoInfo(num_frames=len(frames), fps=25.0, width=width, height=height)
    numbers = np.array(position)
    return DecodedClips(frames, numbers, info, numbers, (numbers / info.fps).astype(np.float32))


def make_clips(video: DecodedClips, clip: ClipSettings, rng: np.random.Generator | None) -> torch.Tensor:
    return cut_views(video, make_plan(video, clip, rng).boxes, clip.size)


def natural(width: int, height: int, count: int = 2) -> list[np.ndarray]:
    """Frames with smooth parts, edges and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 20
    smooth = np.stack([np.sin(x), np.cos(x + y), np.sin(y * 2)], axis=2) * 90 + 128
    smooth[(x + y).astype(int) % 3 == 0] = 20
    noise = rng.normal(0, 25, (count, height, width, 3))
    return list(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def official_multi_scale_boxes(width: int, height: int, size: int) -> Counter[tuple[int, int, int, int]]:
    """Every outcome of the official rule, written out slowly, with its number among the 10 x 13 draws."""
    base = min(width, height)
    sides = [int(base * scale) for scale in (1, 0.875, 0.75, 0.66)]
    across = [size if abs(side - size) < 3 else side for side in sides]
    boxes: Counter[tuple[int, int, int, int]] = Counter()
    for i, j in product(range(4), range(4)):
        if abs(i - j) > 1:
            continue
        w, h = across[j], across[i]
        dx, dy = (width - w) // 4, (height - h) // 4
        corners = [(0, 0), (4 * dx, 0), (0, 4 * dy), (4 * dx, 4 * dy)]
        sides_ = [(0, 2 * dy), (4 * dx, 2 * dy), (2 * dx, 4 * dy), (2 * dx, 0)]
        quarters = [(dx, dy), (3 * dx, dy), (dx, 3 * dy), (3 * dx, 3 * dy)]
        for x, y in [*corners, (2 * dx, 2 * dy), *sides_, *quarters]:
            boxes[(x, y, w, h)] += 1
    return boxes


@pytest.mark.parametrize(("width", "height"), [(340, 256), (256, 340), (320, 240), (426, 240), (1920, 1080)])
def test_multi_scale_follows_the_official_rule(width: int, height: int) -> None:
    expected = official_multi_scale_boxes(width, height, 224)
    assert sum(expected.values()) == 130
    rng = np.random.default_rng(0)
    draws = 13000
    drawn = Counter(tuple(multi_scale_box(width, height, 224, rng)) for _ in range(draws))
    assert set(drawn) == set(expected)
    for box, weight in expected.items():
        mean = draws * weight / 130
        assert abs(drawn[box] - mean) < 6 * np.sqrt(mean), box


def test_multi_scale_takes_the_wanted_size_where_it_nearly_fits() -> None:
    # 0.875 * 256 is 224; 0.875 * 258 is 225, which becomes 224; 0.875 * 260 is 227, which stays.
    rng = np.random.default_rng(0)
    for side, expected in ((256, 224), (258, 224), (260, 227)):
        widths = {multi_scale_box(side, side, 224, rng).width for _ in range(200)}
        assert expected in widths
        assert len(widths) == 4


@pytest.mark.parametrize("crop", CROPS, ids=str)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_boxes_lie_inside_the_frame(crop: Crop, width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    for box in (box for _ in range(100) for box in crop.boxes(width, height, 224, 2, 1, rng)):
        assert box.width >= 1
        assert box.height >= 1
        assert 0 <= box.x <= width - box.width
        assert 0 <= box.y <= height - box.height


def test_random_resized_has_the_distribution_of_torchvision() -> None:
    """Means and spreads of area, ratio and place over many draws of both."""
    width, height, scale, ratio = 340, 256, (0.2, 1.0), (0.6, 1.5)
    draws = 4000
    rng = np.random.default_rng(0)
    ours = np.array([random_resized_box(width, height, scale, ratio, rng) for _ in range(draws)], dtype=float)
    picture = torch.empty(3, height, width)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(picture, list(scale), list(ratio)) for _ in range(draws)])
    theirs = theirs[:, [1, 0, 3, 2]].astype(float)

    def features(boxes: np.ndarray) -> np.ndarray:
        x, y, w, h = boxes.T
        return np.stack([w * h, np.log(w / h), x, y, w, h, x * x, np.log(w / h) ** 2, (w * h) ** 2])

    a, b = features(ours), features(theirs)
    error = np.sqrt((a.var(axis=1) + b.var(axis=1)) / draws)
    assert (abs(a.mean(axis=1) - b.mean(axis=1)) < 4.5 * error).all()


@pytest.mark.parametrize(("width", "height"), [(80, 640), (640, 80), (100, 150), (200, 100)])
def test_random_resized_falls_back_as_torchvision_does(width: int, height: int) -> None:
    # A scale above 1 never fits, so both take the centred box.
    scale, ratio = (20.0, 20.0), (3 / 4, 4 / 3)
    y, x, h, w = RandomResizedCrop.get_params(torch.empty(3, height, width), list(scale), list(ratio))
    assert random_resized_box(width, height, scale, ratio, np.random.default_rng(0)) == Box(x, y, w, h)


def test_random_resized_uses_the_settings() -> None:
    boxes = RandomResized((0.5, 0.5), (1.0, 1.0)).boxes(200, 100, 224, 20, 1, np.random.default_rng(0))
    assert {(box.width, box.height) for box in boxes} == {(100, 100)}
    assert len({box.x for box in boxes}) > 5


def test_stretched_boxes_are_squares_of_the_stretched_picture() -> None:
    rng = np.random.default_rng(0)
    boxes = Stretched().boxes(298, 224, 112, 600, 1, rng)
    # Twice the smallest of the three sizes: squares cover all of its height, or 7/8 or 7/9 of it.
    heights = Counter(box.height for box in boxes)
    assert set(heights) <= {224, 195, 196, 197, 173, 174, 175}
    assert heights[224] / 600 == pytest.approx(1 / 3, abs=0.06)
    assert {box.width for box in boxes if box.height == 224} <= {223, 224, 225}
    assert min(box.x for box in boxes) == 0
    assert max(box.x + box.width for box in boxes) == 298
    # A tall picture is stretched to 3:4, any other shape too.
    tall = Stretched().draw(100, 400, 112, rng)
    assert tall.width / tall.height == pytest.approx(100 / 400 * 4 / 3, rel=0.1)


def test_squares_have_a_share_of_the_shorter_side() -> None:
    """SlowFast cuts 112 pixels of a picture whose shorter side has 256 to 340, its inverse uniform."""
    boxes = Square((112 / 340, 112 / 256)).boxes(640, 480, 112, 400, 1, np.random.default_rng(0))
    assert all(box.width == box.height for box in boxes)
    sides = [box.width for box in boxes]
    assert (min(sides), max(sides)) == (pytest.approx(480 * 112 / 340, abs=2), pytest.approx(480 * 112 / 256, abs=2))
    assert np.mean(sides) == pytest.approx(480 * 112 * (1 / 340 + 1 / 256) / 2, rel=0.02)
    assert max(box.x + box.width for box in boxes) > 620
    assert max(box.y + box.height for box in boxes) > 465


def test_centre_agrees_with_resizing_first() -> None:
    """Crop then resize against 'resize the shorter side, then crop the centre', done by PIL."""
    for width, height in ((340, 256), (256, 340), (427, 240)):
        y, x = np.mgrid[:height, :width]
        frame = np.stack([x * 255 // width, y * 255 // height, 0 * x], axis=2).astype(np.uint8)
        ratio = 112 / min(width, height)
        size = (round(width * ratio), round(height * ratio))
        resized = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)
        left, top = (resized.width - 112) // 2, (resized.height - 112) // 2
        expected = np.asarray(resized)[top : top + 112, left : left + 112].astype(int)
        ours = crop_and_resize([frame], centre_box(width, height), 112)[0].numpy()
        # One pixel of the result is 1.3 to 1.8 grey levels of this ramp; rounding may add one.
        assert abs(ours - expected).max() <= 2


@pytest.mark.parametrize(
    ("width", "height", "box", "size"),
    [
        (340, 256, Box(10, 20, 256, 224), 224),
        (340, 256, Box(0, 0, 168, 192), 224),
        (340, 256, Box(84, 0, 256, 256), 112),
        (64, 512, Box(0, 100, 64, 400), 32),
        (17, 9, Box(1, 2, 5, 7), 224),
        (3, 2, Box(0, 0, 3, 2), 16),
    ],
)
def test_resize_agrees_with_pil(width: int, height: int, box: Box, size: int) -> None:
    frames = natural(width, height)
    corners = (box.x, box.y, box.x + box.width, box.y + box.height)
    expected = [
        np.asarray(Image.fromarray(frame).crop(corners).resize((size, size), Image.Resampling.BILINEAR)) for frame in frames
    ]
    ours = crop_and_resize(frames, box, size)
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous()
    assert abs(ours.numpy().astype(int) - np.stack(expected)).max() <= 1


def test_box_of_the_wanted_size_is_not_resampled() -> None:
    frames = natural(60, 50)
    assert np.array_equal(crop_and_resize(frames, Box(3, 5, 32, 32), 32)[1], frames[1][5:37, 3:35])


@pytest.mark.parametrize("crop", CROPS, ids=str)
@pytest.mark.parametrize(("width", "height"), [(96, 72), (20, 160), (160, 20), (5, 3), (1, 1)])
def test_clips_have_one_shape_for_any_frame_size(crop: Crop, width: int, height: int) -> None:
    settings = ClipSettings(frames=3, size=32, clips=2, repeat=2, crop=crop)
    clips = make_clips(decoded(natural(width, height, 4), [[0, 1, 2], [3, 3, 3]]), settings, np.random.default_rng(0))
    assert clips.shape == (4, 3, 32, 32, 3)
    assert clips.dtype == torch.uint8
    assert torch.equal(clips[2, 0], clips[2, 2])


def test_one_box_per_clip_shared_by_its_frames() -> None:
    frame = natural(96, 72, 1)[0]
    settings = ClipSettings(frames=4, size=32, clips=2, repeat=3, crop=RandomResized())
    clips = make_clips(decoded([frame] * 8, [[0, 1, 2, 3], [4, 5, 6, 7]]), settings, np.random.default_rng(0))
    assert all(torch.equal(clip[0], other) for clip in clips for other in clip[1:])
    # Of equal frames, differing pictures show that each of the six views drew its own box.
    assert len({clip[0].numpy().tobytes() for clip in clips}) == 6


def test_order_of_views_and_frames() -> None:
    """Views of one clip are neighbours, and frames keep their order, repeated ones included."""
    frames = [np.full((20, 30, 3), value, dtype=np.uint8) for value in range(6)]
    settings = ClipSettings(frames=4, size=8, clips=2, repeat=2)
    clips = make_clips(decoded(frames, [[0, 2, 4, 5], [1, 3, 3, 3]]), settings, np.random.default_rng(0))
    assert clips[:, :, 0, 0, 0].tolist() == [[0, 2, 4, 5], [0, 2, 4, 5], [1, 3, 3, 3], [1, 3, 3, 3]]


def test_crops_follow_the_generator_and_evaluation_is_fixed() -> None:
    video = decoded(natural(96, 72), [[0, 1]])
    settings = ClipSettings(frames=2, size=32)
    first, again, other = (make_clips(video, settings, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    expected = crop_and_resize(video.frames, centre_box(96, 72), 32)
    assert torch.equal(make_clips(video, settings, None)[0], expected)


def test_shared_boxes_differ_between_copies_alone() -> None:
    rng = np.random.default_rng(0)
    differ = 0
    for _ in range(50):
        boxes = Shared(RandomResized((0.5, 1.0))).boxes(340, 256, 224, 3, 2, rng)
        assert boxes[:2] == boxes[2:4] == boxes[4:]
        differ += boxes[0] != boxes[1]
    assert differ > 45
    # The clips show the same part of the picture: of two equal frames, two equal views.
    frame = natural(96, 72, 1)[0]
    settings = ClipSettings(frames=1, size=32, clips=2, crop=Shared())
    first, second = make_clips(decoded([frame, frame], [[0], [1]]), settings, rng)
    assert torch.equal(first, second)


def test_nested_boxes_lie_in_the_first_one() -> None:
    rng = np.random.default_rng(0)
    shares, ratios = [], []
    for _ in range(400):
        outer, *others = Nested().boxes(340, 256, 224, 1, 3, rng)
        assert len(set(others)) > 1
        for box in others:
            assert outer.x <= box.x
            assert box.x + box.width <= outer.x + outer.width
            assert outer.y <= box.y
            assert box.y + box.height <= outer.y + outer.height
            shares.append(box.width * box.height / (outer.width * outer.height))
            # Their aspect ratio refers to the resized square of the first view.
            ratios.append(box.width * outer.height / (box.height * outer.width))
    assert 0.29 < min(shares) < 0.32
    assert 0.58 < max(shares) < 0.61
    assert 0.73 < min(ratios) < 0.77
    assert 1.3 < max(ratios) < 1.37


def test_a_nested_view_is_what_resizing_twice_gives() -> None:
    """A part of the resized picture against the same part of the file's picture, resized once."""
    y, x = np.mgrid[:192, :256]
    frame = np.stack([x, y, (x + y) // 2], axis=2).astype(np.uint8)
    outer, part = Box(20, 10, 200, 150), Box(16, 24, 64, 48)
    twice = crop_and_resize([crop_and_resize([frame], outer, 128)[0].numpy()], part, 32)[0]
    once = crop_and_resize([frame], box_within(outer, part, 128, 128), 32)[0]
    # Whole pixels shift it by up to half a pixel, and rounding of the intermediate picture adds one grey level.
    assert (twice.int() - once.int()).abs().max() <= 3


def test_evaluation_takes_centres_for_joined_boxes_too() -> None:
    video = decoded(natural(96, 72, 2), [[0], [1]])
    for crop in (Shared(RandomResized(centre=0.5)), Nested(RandomResized(centre=0.5))):
        clip = ClipSettings(frames=1, size=16, clips=2, crop=crop)
        assert make_plan(video, clip, None).boxes == [centre_box(96, 72, 0.5)] * 2
        assert make_plan(video, clip, None, ViewSettings(2, 3)).boxes[1] == Box(30, 18, 36, 36)


def test_plans_say_when_and_where() -> None:
    video = decoded(natural(96, 72, 6), [[0, 2, 4], [1, 3, 5]])
    clip = ClipSettings(frames=3, size=32, clips=2, repeat=2, crop=RandomResized())
    plan = make_plan(video, clip, np.random.default_rng(0))
    assert plan.frames.tolist() == [[0, 2, 4], [0, 2, 4], [1, 3, 5], [1, 3, 5]]
    np.testing.assert_allclose(plan.moments, plan.frames / 25.0, rtol=1e-6)
    np.testing.assert_allclose(plan.time[:, 0], [0, 0, 1 / 25, 1 / 25], rtol=1e-6)
    np.testing.assert_allclose(plan.time[:, 1], [4 / 25, 4 / 25, 5 / 25, 5 / 25], rtol=1e-6)
    for box, corners in zip(plan.boxes, plan.corners.tolist(), strict=True):
        assert corners == [box.x, box.y, box.x + box.width, box.y + box.height]
    # A stream with the same rate, one with another rate, and one that ends earlier.
    assert (plan.frames_at(25.0, 6) == plan.frames).all()
    assert plan.frames_at(50.0, 12).tolist() == (2 * plan.frames).tolist()
    assert plan.frames_at(12.5, 2).max() == 1
    assert Plan.empty(4, 3).corners.tolist() == [[0] * 4] * 4


def test_a_clip_that_begins_anew_has_seen_the_whole_video() -> None:
    video = decoded(natural(20, 20, 5), [[3, 4, 0, 1], [0, 1, 2, 3]])
    plan = make_plan(video, ClipSettings(frames=4, size=8, clips=2), None)
    np.testing.assert_allclose(plan.time, [[0, 5 / 25], [0, 3 / 25]], rtol=1e-6)
    clips = cut_views(video, plan.boxes, 8)
    assert torch.equal(clips[0], crop_and_resize([video.frames[place] for place in (3, 4, 0, 1)], centre_box(20, 20), 8))

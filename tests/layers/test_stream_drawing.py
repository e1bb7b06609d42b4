"""Every kind of stream is drawn at its position and in its form."""

import math

import pytest
import torch
from torch import Tensor

from modules.layers.drawing.streams import (
    CURVE_COLOURS,
    NOT_MEASURED,
    OBJECT_COLOURS,
    OCTAVES,
    SHADES,
    depth_limits,
    draw_curves,
    draw_depth,
    draw_features,
    draw_flow,
    draw_masks,
    draw_spectrogram,
    draw_tracks,
    fit,
    flow_limit,
    flow_wheel,
    shades,
    wrap,
    write,
)


def is_colour(picture: Tensor, colour: tuple[int, ...]) -> Tensor:
    """bool [...]"""
    return (picture == torch.tensor(colour, dtype=torch.uint8)).all(-1)


@pytest.mark.parametrize(
    ("flow", "colour"),
    [
        ((2.0, 0.0), (255, 0, 0)),
        ((0.0, 2.0), (128, 255, 0)),
        ((-2.0, 0.0), (0, 255, 255)),
        ((0.0, -2.0), (128, 0, 255)),
        ((1.0, 0.0), (255, 128, 128)),
        ((0.0, 0.0), (255, 255, 255)),
        # Faster than the limit is no more than full.
        ((9.0, 0.0), (255, 0, 0)),
    ],
)
def test_direction_of_flow_is_hue_and_speed_is_saturation(flow: tuple[float, float], colour: tuple[int, ...]) -> None:
    drawn = draw_flow(torch.tensor(flow, dtype=torch.float16).expand(1, 3, 5, 2), limit=2.0)
    assert drawn.shape == (1, 3, 5, 3)
    assert (drawn.int() - torch.tensor(colour)).abs().max() <= 1


def test_limit_and_wheel_of_flow() -> None:
    flow = torch.zeros(2, 3, 4, 2, dtype=torch.float16)
    assert flow_limit(flow) == 0
    assert (draw_flow(flow, 0.0) == 255).all()
    flow[1, 2, 3] = torch.tensor([3.0, -4.0])
    flow[0, 0, 0] = math.inf
    assert flow_limit(flow) == 5
    assert flow_limit(flow[:0]) == 0
    wheel = flow_wheel(49)
    assert wheel[24, 48].tolist() == [255, 0, 0]
    assert is_colour(wheel[[0, 0, 48, 48, 24], [0, 48, 0, 48, 24]], (255, 255, 255)).all()


def test_near_is_bright_and_what_was_not_measured_is_grey() -> None:
    depth = torch.tensor([[1000, 5000], [0, 3000]]).to(torch.uint16)[None, :, :, None]
    assert depth_limits(depth) == (1000, 5000)
    (drawn,) = draw_depth(depth, (1000, 5000)).tolist()
    assert drawn == [[list(SHADES[-1]), list(SHADES[0])], [list(NOT_MEASURED), list(SHADES[len(SHADES) // 2])]]
    assert depth_limits(torch.zeros(1, 2, 2, 1).to(torch.uint16)) == (0, 0)
    # All at one distance, beyond 2^15.
    flat = torch.full((1, 2, 2, 1), 60000).to(torch.uint16)
    assert is_colour(draw_depth(flat, depth_limits(flat)), SHADES[0]).all()


def test_colours_of_numbers_are_cut_and_never_grey() -> None:
    assert shades(torch.tensor([-1.0, 0.0, 1.0, 2.0])).tolist() == [list(SHADES[number]) for number in (0, 0, -1, -1)]
    many = shades(torch.linspace(0, 1, 999)).int()
    assert (many.amax(-1) - many.amin(-1)).min() > 30


def test_masks_have_opaque_edges_and_half_transparent_insides() -> None:
    canvas = torch.full((1, 7, 9, 3), 100, dtype=torch.uint8)
    masks = torch.zeros(1, 7, 9, 2, dtype=torch.bool)
    masks[:, 1:5, 2:7, 0] = True
    masks[:, 5:, 6:, 1] = True
    drawn = draw_masks(canvas, masks)
    expected = canvas.clone()
    expected[:, 1:5, 2:7] = torch.tensor(OBJECT_COLOURS[0], dtype=torch.uint8)
    expected[:, 2:4, 3:6] = ((torch.tensor(OBJECT_COLOURS[0]) + 100) / 2).round().byte()
    # The whole of the second touches its edge, or the edge of the picture.
    expected[:, 5:, 6:] = torch.tensor(OBJECT_COLOURS[1], dtype=torch.uint8)
    assert torch.equal(drawn, expected)
    assert torch.equal(draw_masks(canvas, masks[..., :0]), canvas)


def test_boxes_are_drawn_at_their_pixels_with_numbers() -> None:
    canvas = torch.zeros(2, 60, 80, 3, dtype=torch.uint8)
    boxes = torch.tensor([[20.0, 10, 50, 40], [55, 5, 75, 25]]).repeat(2, 1, 1)
    boxes[1] += 2
    boxes = torch.cat([boxes, torch.full((2, 1, 4), 30.0), torch.full((2, 1, 4), math.nan)], dim=1)
    drawn = draw_tracks(canvas, boxes, torch.tensor([[True, True, True, True], [True, False, True, True]]))
    for frame in range(2):
        x1, y1, x2, y2 = boxes[frame, 0].int().tolist()
        line = is_colour(drawn[frame], OBJECT_COLOURS[0])
        assert line[y1, x1:x2].all()
        assert line[y2 - 1, x1:x2].all()
        assert line[y1:y2, x2 - 1].all()
        assert line.nonzero().amin(0).tolist() == [y1, x1]
        assert line.nonzero().amax(0).tolist() == [y2 - 1, x2 - 1]
        # The number is black on the object's colour, in the upper left corner.
        assert line[y1 + 2 : y1 + 12, x1 + 2 : x1 + 9].float().mean() > 0.3
        assert not drawn[frame, y1 + 15 : y2 - 1, x1 + 10 : x2 - 1].any()
    other = is_colour(drawn, OBJECT_COLOURS[1])
    assert other[0].any()
    assert not other[1].any()
    assert not (is_colour(drawn, OBJECT_COLOURS[2]) | is_colour(drawn, OBJECT_COLOURS[3])).any()


def test_many_boxes_leave_none_out() -> None:
    boxes = torch.tensor([[x, 0.0, x + 20, 30] for x in range(0, 180, 20)])[None]
    drawn = draw_tracks(torch.zeros(1, 30, 180, 3, dtype=torch.uint8), boxes)
    assert [tuple(colour) for colour in drawn[0, 29, 10::20].tolist()] == [*OBJECT_COLOURS, OBJECT_COLOURS[0]]
    assert torch.equal(draw_tracks(drawn, boxes[:, :0]), drawn)


@pytest.mark.parametrize("octaves", [0.5, 1.0, 3.0, 5.5])
def test_a_tone_is_brightest_in_its_row(octaves: float) -> None:
    rate, height = 16000, 61
    tone = torch.sin(2 * math.pi * (rate / 2) / 2**octaves * torch.arange(rate) / rate)
    drawn = draw_spectrogram(torch.stack([tone, tone]), height, 40).int().sum(-1)
    rows = drawn.argmax(0)
    # From the top down, OCTAVES over all rows; a spectrum has 31 Hz between its lines.
    expected = octaves / OCTAVES * (height - 1)
    coarse = math.log2(1 + 31.25 / (rate / 2 / 2**octaves)) / OCTAVES * (height - 1)
    assert (rows - expected).abs().max() <= 1 + coarse


def test_a_sound_begins_in_its_column() -> None:
    sound = torch.zeros(1, 32000)
    sound[:, 20000:] = torch.randn(1, 12000, generator=torch.Generator().manual_seed(0))
    loud = draw_spectrogram(sound, 32, 101).int().sum((0, 2))
    found = int((loud > loud.float().mean()).nonzero()[0])
    # Its window reaches 256 samples, which are 0.8 columns, ahead.
    assert abs(found - 20000 / 32000 * 100) <= 1
    for short in (torch.zeros(1, 1), torch.zeros(2, 300)):
        assert is_colour(draw_spectrogram(short, 8, 5), SHADES[0]).all()


def test_curves_pass_through_their_values() -> None:
    ramp = torch.stack([torch.linspace(-1, 1, 11), torch.linspace(1, -1, 11)])
    drawn = draw_curves(ramp, height=21, width=51)
    for number, curve in enumerate((torch.arange(20, -1, -1), torch.arange(21))):
        on = is_colour(drawn, CURVE_COLOURS[number])
        columns = torch.linspace(0, 50, 21).round().long()
        meets = columns[(curve - 10).abs() > 1]
        rows = curve[(curve - 10).abs() > 1]
        assert on[rows, meets].all(), number
        assert on.any(0).sum() >= 49
    assert is_colour(drawn[10], (200, 200, 200)).any()


def test_no_peak_between_columns_is_lost() -> None:
    values = torch.zeros(1, 10000)
    values[0, 4321] = 1
    on = is_colour(draw_curves(values, 20, 50, (-1.0, 1.0)), CURVE_COLOURS[0])
    assert on[0].any()
    assert abs(int(on[0].nonzero()[0, 0]) - 4321 / 10000 * 50) <= 1
    assert not on[11:].any()
    # A constant, and one step, are drawn too.
    assert is_colour(draw_curves(torch.full((1, 1), 3.0), 9, 5), CURVE_COLOURS[0]).any(0).all()


def test_features_have_steps_as_columns_and_numbers_as_rows() -> None:
    feature = torch.zeros(3, 4)
    feature[2, 1] = 5
    drawn = draw_features(feature, 8, 9)
    # The nearest step of three is the last from the sixth of nine columns on; two rows for each number.
    expected = torch.zeros(8, 9, dtype=torch.bool)
    expected[2:4, 6:] = True
    assert torch.equal(is_colour(drawn, SHADES[-1]), expected)
    # More steps and numbers than pixels share them.
    assert draw_features(torch.randn(1000, 768), 64, 100).shape == (64, 100, 3)


def test_small_frames_are_enlarged_pixel_for_pixel_and_large_ones_made_smaller() -> None:
    small = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    larger = fit(small, 15)
    assert larger.shape == (2, 10, 14, 3)
    assert torch.equal(larger[:, ::2, 1::2], small)
    assert fit(torch.full((1, 31, 90, 3), 7, dtype=torch.uint8), 30).shape == (1, 10, 30, 3)
    assert fit(torch.zeros(1, 2, 900, 1, dtype=torch.uint8), 30).shape == (1, 1, 30, 1)


def test_sentences_are_wrapped() -> None:
    text = "one two three four five six seven eight nine ten"
    lines = wrap(text, 60)
    assert len(lines) > 2
    assert " ".join(lines) == text
    written = write(lines, 62)
    assert written.shape == (13 * len(lines), 62, 3)
    # Nothing is cut, and every line is written.
    assert (written[:, -1] == 255).all()
    assert (written.view(len(lines), 13, 62, 3) < 128).flatten(1).any(1).all()
    assert wrap("incomprehensibilities", 20) == ["incomprehensibilities"]

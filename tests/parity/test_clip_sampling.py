"""Frames and boxes of several clips of a video against the official code: VCOP, CVRL, SiamMAE and CropMAE."""

from typing import Any

import numpy as np
import pytest

from datamodules.video.crops import Box, Nested, RandomResized, Shared, box_within
from datamodules.video.readers import DecodeError, VideoInfo
from datamodules.video.samplers import DecreasingGap, FramePair, OrderedClips, Wrapped, decreasing_gap
from tests.parity.cases import load_case


class Recorded:
    """Returns recorded numbers instead of a generator's."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def integers(self, *bounds: int, size: int | None = None, endpoint: bool = False) -> Any:
        low, high = (0, *bounds)[-2:]
        drawn = [self.numbers.pop(0) for _ in range(size or 1)]
        assert all(low <= one < high + endpoint for one in drawn)
        return np.array(drawn) if size is not None else drawn[0]

    def random(self) -> float:
        return self.numbers.pop(0)

    def uniform(self, low: float, high: float) -> float:
        assert low - 1e-6 <= self.numbers[0] <= high + 1e-6
        return self.numbers.pop(0)


def info(length: int) -> VideoInfo:
    return VideoInfo(length, 25.0, 340, 256)


def test_tuples_of_vcop() -> None:
    tensors, about = load_case("vcop", "tuple_sampling")
    settings = about["settings"]
    sampler, count, frames = OrderedClips(settings["interval"]), settings["tuple_len"], settings["clip_len"]
    lengths = tensors["input.lengths"].tolist()
    for split in ("train", "test"):
        starts, orders = tensors[f"input.{split}.start"].tolist(), tensors[f"input.{split}.order"].numpy()
        expected = tensors[f"output.{split}.frames"].numpy()
        for row, (length, start, order) in enumerate(zip(lengths, starts, orders, strict=True)):
            rng: Any = Recorded(start)
            # The method shuffles them; here they keep the video's order.
            np.testing.assert_array_equal(sampler.draw(info(length), count, frames, rng)[order], expected[row])
    with pytest.raises(DecodeError):
        sampler.draw(info(settings["tuple_frames"] - 1), count, frames, None)


def test_evenly_spread_clips_of_vcop() -> None:
    tensors, about = load_case("vcop", "uniform_clips")
    settings = about["settings"]
    for row, length in enumerate(tensors["input.lengths"].tolist()):
        found = OrderedClips().views(info(length), settings["sample_num"], settings["clip_len"])
        np.testing.assert_array_equal(found, tensors["output.classify_test.frames"][row].numpy())


def test_pairs_of_cvrl() -> None:
    tensors, about = load_case("cvrl", "temporal_sampling")
    sampler, frames = DecreasingGap(about["settings"]["stride"]), about["settings"]["num_steps"]
    for row, (length, swapped, short) in enumerate(tensors["input.length_swap_short"].tolist()):
        u, drawn = tensors["input.u"][row].item(), tensors["input.drawn_starts"][row].tolist()
        if not short:
            gap = decreasing_gap(int(tensors["output.max_offset"][row]), u)
            assert gap == tensors["output.gap"][row]
        swap = 0.0 if swapped else 0.9
        rng: Any = Recorded(*(drawn if short else [u, drawn[0]]), swap)
        found = sampler.draw(info(length), 2, frames, rng)
        np.testing.assert_array_equal(found.ravel(), tensors["output.frames"][row].numpy())


@pytest.mark.parametrize("kind", [DecreasingGap, Wrapped])
def test_test_clips_of_cvrl(kind: type[DecreasingGap] | type[Wrapped]) -> None:
    tensors, about = load_case("cvrl", "test_clips")
    settings = about["settings"]
    sampler, frames = kind(settings["stride"]), settings["num_steps"]
    for row, length in enumerate(tensors["input.lengths"].tolist()):
        found = sampler.views(info(length), settings["num_windows"], frames)
        np.testing.assert_array_equal(found.ravel(), tensors["output.linspace_frames"][row].numpy())
        centre = sampler.views(info(length), 1, frames)
        np.testing.assert_array_equal(centre[0], tensors["output.center_frames"][row].numpy())


def test_frame_pairs_of_siammae() -> None:
    """What was recorded are the pairs, not the draws: each must be one that could be drawn, and the extremes must be."""
    tensors, about = load_case("siammae", "pair_views")
    pairs = tensors["output.frame_pairs"].tolist()
    for length, first, second in pairs:
        rng: Any = Recorded(second - first, first)
        assert FramePair().draw(info(length), 2, 1, rng).tolist() == [[first], [second]]
    for length, seen in about["frame_pair_statistics"].items():
        generator = np.random.default_rng(0)
        drawn = [FramePair().draw(info(int(length)), 2, 1, generator) for _ in range(2000)]
        gaps = {int(pair[1, 0] - pair[0, 0]) for pair in drawn}
        assert gaps == set(range(seen["allowed_gap_low"], seen["allowed_gap_high_exclusive"]))


def test_nested_boxes_of_cropmae() -> None:
    tensors, about = load_case("cropmae", "crop_views")
    settings = about["settings"]
    (height, width), size, ratio = settings["picture_hw"], settings["size"], tuple(settings["aspect"])
    outer, inner = (RandomResized(tuple(settings[f"scale_{name}"]), ratio) for name in ("global", "local"))
    attempts = []
    for row in about["rows"]:
        draws = [draw[-1] for draw in row["draws"] if draw[0] != "f"]
        rng: Any = Recorded(*draws)
        first, second = Nested(outer, inner).boxes(width, height, size, 1, 2, rng)
        assert not rng.numbers
        y, x, h, w = row["global_box"]
        assert first == Box(x, y, w, h)
        y, x, h, w = row["local_box"]
        assert second == box_within(first, Box(x, y, w, h), size, size)
        attempts.append(len(draws))
    # Some boxes did not fit and were drawn again.
    assert len(set(attempts)) > 1
    assert len(attempts) == len(tensors["output.global_box"])


def test_two_frames_of_siammae_have_one_box() -> None:
    _, about = load_case("siammae", "pair_views")
    scale, ratio = (tuple(about["settings"][name]) for name in ("scale", "aspect"))
    boxes = Shared(RandomResized(scale, ratio)).boxes(72, 48, 32, 2, 1, np.random.default_rng(0))
    assert boxes[0] == boxes[1]

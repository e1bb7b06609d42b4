"""Which frames make a clip: against slow re-statements of the official rules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datamodules.video.crops import Centre, Crop, MultiScale, Nested, RandomResized, Shared, Square
from datamodules.video.readers import DecodeError, VideoInfo
from datamodules.video.samplers import (
    DecreasingGap,
    Dense,
    FramePair,
    Jittered,
    OrderedClips,
    Partitioned,
    Sampler,
    Segments,
    Short,
    Spanning,
    Strided,
    Wrapped,
    decreasing_gap,
    dense_indices,
    draw_jittered,
    segment_indices,
)
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError


def info(num_frames: int) -> VideoInfo:
    return VideoInfo(num_frames=num_frames, fps=30.0, width=340, height=256)


def slow_dense(num_frames: int, frames: int, stride: int, start: int) -> list[int]:
    """VideoMAE pretraining, step by step: advance while inside the video, then repeat the last index."""
    if num_frames < frames * stride:
        start = 0
    indices = [start]
    while len(indices) < frames:
        indices.append(indices[-1] + stride if indices[-1] + stride < num_frames else indices[-1])
    return indices


@pytest.mark.parametrize("num_frames", [1, 2, 5, 15, 16, 31, 32, 57, 61, 63, 64, 65, 300])
@pytest.mark.parametrize(("frames", "stride"), [(16, 4), (16, 2), (8, 1), (1, 1), (3, 7)])
def test_dense_indices_follow_the_official_rule(num_frames: int, frames: int, stride: int) -> None:
    room = num_frames - frames * stride
    for seed in range(5):
        indices = dense_indices(num_frames, frames, stride, np.random.default_rng(seed))
        assert 0 <= indices[0] <= max(room, 0)
        assert indices.tolist() == slow_dense(num_frames, frames, stride, int(indices[0]))
    centre = dense_indices(num_frames, frames, stride, None)
    assert centre.tolist() == slow_dense(num_frames, frames, stride, max(room, 0) // 2)


def test_dense_start_is_uniform_over_all_places() -> None:
    rng = np.random.default_rng(0)
    starts = [int(dense_indices(70, 16, 4, rng)[0]) for _ in range(3500)]
    # 70 - 64 leaves the 7 starts 0 .. 6.
    counts = np.bincount(starts, minlength=7)
    assert len(counts) == 7
    assert abs(counts - 500).max() < 5 * np.sqrt(500)


def test_short_video_repeats_the_last_frame_reached() -> None:
    assert dense_indices(10, 16, 4, np.random.default_rng(0)).tolist() == [0, 4] + [8] * 14


@pytest.mark.parametrize("num_frames", [16, 17, 31, 32, 50, 300])
def test_segment_indices_draw_one_frame_of_each_segment(num_frames: int) -> None:
    length = num_frames // 16
    rng = np.random.default_rng(0)
    drawn = np.stack([segment_indices(num_frames, 16, rng) for _ in range(400)])
    for segment in range(16):
        expected = set(range(segment * length, segment * length + length))
        assert set(drawn[:, segment].tolist()) == expected


def test_segment_indices_are_drawn_independently() -> None:
    rng = np.random.default_rng(0)
    offsets = np.stack([segment_indices(320, 16, rng) for _ in range(2000)]) - np.arange(16) * 20
    correlation = np.corrcoef(offsets.T) - np.eye(16)
    assert abs(correlation).max() < 0.1


def test_segment_centres() -> None:
    # Of 16 segments of 2 frames, the centre is the second frame; 300 frames give int(18.75 / 2 + 18.75 k).
    assert segment_indices(32, 16, None).tolist() == list(range(1, 32, 2))
    assert segment_indices(32, 16, None, position=0.0).tolist() == list(range(0, 32, 2))
    assert segment_indices(300, 16, None).tolist() == [int(18.75 / 2 + 18.75 * k) for k in range(16)]


@pytest.mark.parametrize("num_frames", [1, 3, 7, 15])
@pytest.mark.parametrize("training", [True, False])
def test_segments_of_a_short_video(num_frames: int, training: bool) -> None:
    def chosen(short: Short) -> list[int]:
        return Segments(short).draw(info(num_frames), 1, 16, np.random.default_rng(0) if training else None)[0].tolist()

    assert chosen("first_frame") == [0] * 16
    assert segment_indices(num_frames, 16, None).tolist() == [0] * 16
    spread = chosen("spread")
    assert sorted(set(spread)) == list(range(num_frames))
    assert spread == sorted(spread)
    # Segments of one frame are not a short video.
    assert segment_indices(16, 16, np.random.default_rng(0)).tolist() == list(range(16))


@pytest.mark.parametrize("sampler", [Dense(3), Jittered(3), Partitioned(3), Segments(), Spanning(3), Strided(8, 24)], ids=str)
@pytest.mark.parametrize("num_frames", [1, 9, 40, 200])
@pytest.mark.parametrize("training", [True, False])
def test_chosen_frames_are_ascending_and_inside(sampler: Sampler, num_frames: int, training: bool) -> None:
    chosen = sampler.draw(info(num_frames), 3, 8, np.random.default_rng(1) if training else None)
    assert chosen.shape == (3, 8)
    assert chosen.dtype == np.int64
    assert chosen.min() >= 0
    assert chosen.max() < num_frames
    assert (np.diff(chosen, axis=1) >= 0).all()


def test_training_clips_differ_and_follow_the_generator() -> None:
    settings = ClipSettings(clips=4)
    first = settings.choose(info(300), np.random.default_rng(5))
    assert len({int(row[0]) for row in first}) == 4
    assert np.array_equal(first, settings.choose(info(300), np.random.default_rng(5)))
    assert not np.array_equal(first, settings.choose(info(300), np.random.default_rng(6)))


def test_evaluation_clips_are_spread_over_the_video() -> None:
    assert ClipSettings().choose(info(300), None)[0, 0] == 118
    starts = ClipSettings(clips=5).choose(info(300), None)[:, 0]
    assert starts.tolist() == [0, 59, 118, 177, 236]
    halves = Segments().draw(info(16), 2, 4, None)
    assert halves.tolist() == [[1, 5, 9, 13], [3, 7, 11, 15]]


@pytest.mark.parametrize("kind", [Dense, Jittered, Spanning, Partitioned, OrderedClips, DecreasingGap, Wrapped])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_impossible_strides_are_named(kind: Any, value: float) -> None:
    with pytest.raises(SettingError, match=rf"data\.clip\.sampler\.stride is {value}"):
        kind(stride=value)


@pytest.mark.parametrize("name", ["frames", "size", "clips", "repeat"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_impossible_settings_are_named(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=rf"data\.clip\.{name} is {value}"):
        ClipSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RandomResized(scale=(0.5, 1.5)), "scale"),
        (lambda: RandomResized(scale=(0.0, 1.0)), "scale"),
        (lambda: RandomResized(ratio=(2.0, 1.0)), "ratio"),
        (lambda: Square(scale=(0.5, 1.5)), "scale"),
        (lambda: Centre(0.0), "centre"),
        (lambda: MultiScale(1.5), "centre"),
    ],
)
def test_impossible_ranges_are_named(make: Callable[[], Crop], name: str) -> None:
    with pytest.raises(SettingError, match=rf"data\.clip\.crop\.{name} is "):
        make()


def test_views_count_clips_and_repeats() -> None:
    assert ClipSettings(clips=3, repeat=2).views == 6


def test_jittered_clips_follow_the_official_rule() -> None:
    """TubeletContrast: strides 1 to 4, jitter below the stride, starts from all that leave room before jitter."""
    rng, spans = np.random.default_rng(0), []
    for _ in range(2000):
        numbers = draw_jittered(300, 16, 4, rng)
        assert numbers.max() <= numbers.min() + 63
        assert numbers.max() < 300
        spans.append(int(numbers[-1] - numbers[0]))
    assert min(spans) == 15
    assert max(spans) > 60
    short = draw_jittered(9, 16, 4, rng)
    assert short.max() == 8
    assert (np.diff(short) >= 0).all()


def test_ordered_clips_keep_their_gap_and_start_anywhere() -> None:
    """VCOP: three clips of 16 frames with 8 frames between them, 64 in all; the last start is the last that leaves room."""
    rng, starts = np.random.default_rng(0), []
    for _ in range(700):
        clips = OrderedClips().draw(info(70), 3, 16, rng)
        assert (clips == clips[0, 0] + np.arange(3)[:, None] * 24 + np.arange(16)).all()
        starts.append(int(clips[0, 0]))
    counts = np.bincount(starts, minlength=7)
    assert len(counts) == 7
    assert abs(counts - 100).max() < 5 * np.sqrt(100)
    assert OrderedClips().draw(info(70), 3, 16, None)[:, 0].tolist() == [3, 27, 51]
    assert OrderedClips(gap=3, stride=2).draw(info(100), 2, 4, None).tolist() == [[41, 43, 45, 47], [51, 53, 55, 57]]
    assert OrderedClips(gap=3, stride=2).draw(info(17), 2, 4, rng).tolist() == [[0, 2, 4, 6], [10, 12, 14, 16]]


@pytest.mark.parametrize("training", [True, False])
def test_a_video_too_short_for_ordered_clips_is_replaced(training: bool) -> None:
    rng = np.random.default_rng(0) if training else None
    assert OrderedClips().draw(info(64), 3, 16, rng)[-1, -1] == 63
    with pytest.raises(DecodeError, match=r"too short \(63 frames, 64 needed\)"):
        OrderedClips().draw(info(63), 3, 16, rng)


def test_gaps_have_linearly_decreasing_density() -> None:
    """CVRL: the distribution of gaps is 2 d / T - (d / T)^2, and the first start is uniform over the remaining ones."""
    rng, places = np.random.default_rng(0), []
    for _ in range(6000):
        clips = DecreasingGap().draw(info(130), 2, 16, rng)
        assert (np.diff(clips) == 2).all()
        assert clips.max() <= 129
        places.append(clips[:, 0])
    starts = np.stack(places)
    gap, room = abs(starts[:, 0] - starts[:, 1]), 100
    for part in (0.1, 0.25, 0.5, 0.75):
        assert (gap < part * room).mean() == pytest.approx(2 * part - part**2, abs=0.02)
    assert (starts[:, 0] < starts[:, 1]).mean() == pytest.approx(0.5, abs=0.03)
    near = gap < 10
    assert starts.min(1)[near].mean() == pytest.approx((room - gap[near].mean()) / 2, abs=2)
    assert starts.max() < room
    assert decreasing_gap(100, 0.0) == 0
    assert decreasing_gap(100, np.nextafter(1.0, 0.0)) == 99


def test_three_quarters_of_the_gaps_are_shorter_than_half_of_the_longest() -> None:
    """CVRL; and both clips start early enough for all their frames."""
    rng, room = np.random.default_rng(1), 2000
    gaps = np.array([decreasing_gap(room, u) for u in rng.random(100_000)])
    assert (gaps < room / 2).mean() == pytest.approx(0.75, abs=0.01)
    assert gaps.max() < room
    for length in (31, 32, 40, 130):
        starts = np.stack([DecreasingGap().draw(info(length), 2, 16, rng)[:, 0] for _ in range(300)])
        # The larger start is at most the number of possible ones less one.
        assert starts.max() <= length - 30 - 1


def test_looped_clips() -> None:
    rng = np.random.default_rng(0)
    starts = np.concatenate([Wrapped().draw(info(40), 2, 16, rng)[:, 0] for _ in range(300)])
    assert set(starts.tolist()) == set(range(10))
    short = Wrapped().draw(info(20), 1, 16, rng)[0]
    assert (np.diff(short) % 20 == 2).all()
    assert Wrapped().draw(info(132), 1, 16, None)[0, 0] == 50


def test_gaps_in_short_videos() -> None:
    """Both clips start anywhere and continue with the beginning of the video."""
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(300):
        clips = DecreasingGap().draw(info(20), 2, 16, rng)
        assert (clips == (clips[:, :1] + 2 * np.arange(16)) % 20).all()
        starts.add(tuple(clips[:, 0].tolist()))
    assert {one for pair in starts for one in pair} == set(range(20))
    assert len(starts) > 150
    assert DecreasingGap().draw(info(1), 2, 16, rng).tolist() == [[0] * 16] * 2
    assert DecreasingGap().draw(info(31), 2, 16, rng).tolist() == [list(range(0, 31, 2))] * 2


def test_fixed_clips_of_evaluation_for_decreasing_gaps() -> None:
    clips = DecreasingGap().draw(info(132), 2, 16, None)
    assert clips[:, 0].tolist() == [0, 100]
    assert (np.diff(clips) == 2).all()


def test_frame_pairs_are_apart_as_far_as_they_may() -> None:
    """SiamMAE: distances from 4 to 47, all equally likely, as is the place of the first frame."""
    rng = np.random.default_rng(0)
    pairs = np.stack([FramePair().draw(info(300), 2, 1, rng) for _ in range(8800)])
    assert pairs.shape == (8800, 2, 1)
    gap = pairs[:, 1, 0] - pairs[:, 0, 0]
    counts = np.bincount(gap, minlength=48)
    assert counts[:4].sum() == 0
    assert len(counts) == 48
    assert abs(counts[4:] - 200).max() < 5 * np.sqrt(200)
    assert pairs.min() == 0
    assert pairs.max() == 299
    assert (pairs[:, 0, 0] / (299 - gap)).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("length", "low", "high"), [(1, 0, 0), (2, 1, 1), (3, 2, 2), (5, 4, 4), (40, 4, 39)])
def test_frame_pairs_of_short_videos(length: int, low: int, high: int) -> None:
    rng = np.random.default_rng(0)
    pairs = np.stack([FramePair().draw(info(length), 2, 1, rng)[:, 0] for _ in range(1000)])
    gap = pairs[:, 1] - pairs[:, 0]
    assert (gap.min(), gap.max(), pairs.min(), pairs.max()) == (low, high, 0, length - 1)
    fixed = FramePair().draw(info(length), 2, 1, None)[:, 0]
    assert fixed[1] - fixed[0] == (low + high) // 2
    assert fixed.max() < length


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": DecreasingGap()}, r"data\.clip\.clips is 1, but DecreasingGap needs two clips of each video; set it to 2"),
        ({"sampler": FramePair(), "frames": 1, "clips": 3}, r"data\.clip\.clips is 3, but FramePair"),
        ({"sampler": FramePair(), "clips": 2}, r"data\.clip\.frames is 16, but FramePair uses clips of a single frame"),
        ({"crop": Shared()}, r"data\.clip\.clips is 1, but Shared joins the boxes of several clips"),
        ({"crop": Nested()}, r"data\.clip\.clips and data\.clip\.repeat are 1, but Nested needs two views"),
    ],
)
def test_rules_and_numbers_of_clips_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ClipSettings(**settings)


def test_impossible_gaps_are_named() -> None:
    with pytest.raises(SettingError, match=r"data\.clip\.sampler\.gap is \[5, 4\]"):
        FramePair((5, 4))
    with pytest.raises(SettingError, match=r"data\.clip\.sampler\.gap is -1"):
        OrderedClips(gap=-1)


@pytest.mark.parametrize(("fps", "length"), [(24.0, 700), (30.0, 875), (12.0, 350)])
def test_a_stride_that_counts_at_another_rate(fps: float, length: int) -> None:
    video, sampler = VideoInfo(length, fps, 64, 48), Strided(8, 24)
    clip = sampler.draw(video, 1, 32, np.random.default_rng(0))[0]
    assert set(np.diff(clip)) <= {round(8 * fps / 24)}
    starts = [sampler.draw(video, 1, 32, np.random.default_rng(seed))[0, 0] for seed in range(400)]
    assert 0 <= min(starts) < 10
    assert (length - 249 * fps / 24) - 10 < max(starts) <= length - 248 * fps / 24
    # One that is longer than the video begins before it, or ends behind it.
    short = sampler.draw(VideoInfo(100, 24.0, 64, 48), 50, 32, np.random.default_rng(0))
    assert {(row[0], row[-1]) for row in short.tolist()} >= {(0, 99)}
    assert 0 < (short[:, 1] > 0).sum() < 50


def official_partitions(length: int, clips: int, frames: int, stride: int, ends: list[int]) -> list[list[int]]:
    """Frames of V-JEPA's evaluation (official code), with given ends of the spans in the parts."""
    part, span, found = length // clips, frames * stride, []
    for number in range(clips):
        if part > span:
            end = ends[number]
            places = np.linspace(end - span, end, num=frames)
            found.append(np.clip(places, end - span, end - 1).astype(np.int64) + number * part)
        else:
            shown = min(span, length) - 1
            places = np.linspace(0, shown, num=shown // stride)
            places = np.concatenate([places, np.ones(frames - shown // stride) * shown])
            moved = (length - span) // (clips - 1) if length > span else 0
            found.append(np.clip(places, 0, shown - 1).astype(np.int64) + number * moved)
    return [row.tolist() for row in found]


@pytest.mark.parametrize("length", [5, 40, 63, 64, 65, 128, 129, 300, 520])
@pytest.mark.parametrize("clips", [2, 3, 8])
def test_clips_of_equal_parts_are_those_of_the_official_code(length: int, clips: int) -> None:
    part = length // clips
    middle = [64 + (part - 1 - 64) // 2] * clips
    assert Partitioned(4).draw(info(length), clips, 16, None).tolist() == official_partitions(length, clips, 16, 4, middle)
    assert Partitioned(4).views(info(length), clips, 16).tolist() == official_partitions(length, clips, 16, 4, middle)
    drawn = Partitioned(4).draw(info(length), clips, 16, np.random.default_rng(0)).tolist()
    rng = np.random.default_rng(0)
    ends = [int(rng.integers(64, part)) for _ in range(clips)] if part > 64 else []
    assert drawn == official_partitions(length, clips, 16, 4, ends)

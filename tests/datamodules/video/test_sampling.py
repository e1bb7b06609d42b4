"""Which frames make a clip: against slow re-statements of the official rules."""

import numpy as np
import pytest

from datamodules.video.decode import VideoInfo
from datamodules.video.sampling import ClipSettings, choose_frames, dense_indices, draw_jittered, segment_indices
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
    def chosen(short: str) -> list[int]:
        settings = ClipSettings(sampling="segment", short=short)
        return choose_frames(settings, info(num_frames), np.random.default_rng(0) if training else None)[0].tolist()

    assert chosen("first_frame") == [0] * 16
    assert segment_indices(num_frames, 16, None).tolist() == [0] * 16
    spread = chosen("spread")
    assert sorted(set(spread)) == list(range(num_frames))
    assert spread == sorted(spread)
    # Whole segments of one frame are no short video.
    assert segment_indices(16, 16, np.random.default_rng(0)).tolist() == list(range(16))


@pytest.mark.parametrize("sampling", ["dense", "jittered", "segment"])
@pytest.mark.parametrize("num_frames", [1, 9, 40, 200])
@pytest.mark.parametrize("training", [True, False])
def test_chosen_frames_are_ascending_and_inside(sampling: str, num_frames: int, training: bool) -> None:
    settings = ClipSettings(frames=8, stride=3, clips=3, sampling=sampling)
    chosen = choose_frames(settings, info(num_frames), np.random.default_rng(1) if training else None)
    assert chosen.shape == (3, 8)
    assert chosen.dtype == np.int64
    assert chosen.min() >= 0
    assert chosen.max() < num_frames
    assert (np.diff(chosen, axis=1) >= 0).all()


def test_training_clips_differ_and_follow_the_generator() -> None:
    settings = ClipSettings(clips=4)
    first = choose_frames(settings, info(300), np.random.default_rng(5))
    assert len({int(row[0]) for row in first}) == 4
    assert np.array_equal(first, choose_frames(settings, info(300), np.random.default_rng(5)))
    assert not np.array_equal(first, choose_frames(settings, info(300), np.random.default_rng(6)))


def test_evaluation_clips_are_spread_over_the_video() -> None:
    assert choose_frames(ClipSettings(), info(300), None)[0, 0] == 118
    starts = choose_frames(ClipSettings(clips=5), info(300), None)[:, 0]
    assert starts.tolist() == [0, 59, 118, 177, 236]
    halves = choose_frames(ClipSettings(clips=2, frames=4, sampling="segment"), info(16), None)
    assert halves.tolist() == [[1, 5, 9, 13], [3, 7, 11, 15]]


@pytest.mark.parametrize("name", ["frames", "stride", "size", "clips", "repeat"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_impossible_settings_are_named(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=rf"data\.clip\.{name} is {value}"):
        ClipSettings(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("scale", (0.5, 1.5)), ("scale", (0.0, 1.0)), ("ratio", (2.0, 1.0))])
def test_impossible_ranges_are_named(name: str, value: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match=rf"data\.clip\.{name}"):
        ClipSettings(**{name: value})


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

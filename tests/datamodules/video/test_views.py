"""Clips of fine-tuning and tests: official rules step by step, and each test video decoded once for all its views."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.loading.loader import SampleKey
from datamodules.settings import ListSettings
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.video.crops import Box, MultiScale, Shared, centre_box, view_boxes
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.decode import VideoInfo, read_clips
from datamodules.video.samplers import Dense, Jittered, OrderedClips, Sampler, Segments, Spanning, Timed, spanning_indices
from datamodules.video.sampling import ClipSettings, Plan, ViewSettings
from modules.core.errors import SettingError
from tests.datamodules.sets.trees import CLIP, folder

LENGTHS = [1, 3, 4, 9, 16, 31, 32, 63, 64, 65, 66, 120, 300]


def info(num_frames: int, fps: float = 25.0) -> VideoInfo:
    return VideoInfo(num_frames, fps, 340, 256)


def slow_spanning(length: int, end: int) -> list[int]:
    """Fine-tuning of VideoMAE on Kinetics: 16 frames at rate 4, step by step."""
    if length <= 64:
        index = list(np.linspace(0, length, num=length // 4))
        index += [length] * (16 - length // 4)
        return [int(min(max(value, 0), length - 1)) for value in index]
    start = end - 64
    return [int(min(max(value, start), end - 1)) for value in np.linspace(start, end, num=16)]


@pytest.mark.parametrize("length", LENGTHS)
def test_spanning_indices_follow_the_official_rule(length: int) -> None:
    ends = set()
    for seed in range(60):
        indices = spanning_indices(length, 16, 4, np.random.default_rng(seed))
        end = int(indices[-1]) + 1
        assert indices.tolist() == slow_spanning(length, end)
        ends.add(end)
    # From 64 to the last frame, both included.
    if length in (65, 66):
        assert ends == set(range(64, length))
    centre = spanning_indices(length, 16, 4, None)
    assert centre.tolist() == slow_spanning(length, 64 + (length - 65) // 2)


def test_spanning_clip_of_a_long_video_covers_64_frames() -> None:
    clip = ClipSettings(sampler=Spanning()).choose(info(300), np.random.default_rng(0))[0]
    assert clip[-1] - clip[0] == 63
    assert ClipSettings(sampler=Spanning()).choose(info(10), np.random.default_rng(0))[0, -1] == 9


def slow_dense_views(length: int, segments: int) -> list[list[int]]:
    """Test of VideoMAE on Kinetics: every 4th frame, 16 of them from each start."""
    kept = list(range(0, length, 4))
    kept += [kept[-1]] * (16 - len(kept))
    step = max(1.0 * (len(kept) - 16) / (segments - 1), 0)
    return [kept[int(view * step) : int(view * step) + 16] for view in range(segments)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sampler", [Dense(), Spanning(), Jittered(), OrderedClips(stride=4)], ids=str)
def test_dense_views_follow_the_official_rule(length: int, sampler: Sampler) -> None:
    for segments in (2, 5, 7):
        found = sampler.views(info(length), segments, 16)
        assert found.tolist() == slow_dense_views(length, segments)
    alone = sampler.views(info(length), 1, 16)
    assert alone.shape == (1, 16)


@pytest.mark.parametrize("length", LENGTHS)
def test_segment_views_follow_the_official_rule(length: int) -> None:
    tick = length / 16
    both = sorted([int(tick * k) for k in range(16)] + [int(tick / 2 + tick * k) for k in range(16)])
    found = Segments().views(info(length), 2, 16)
    assert found.tolist() == [both[0::2], both[1::2]]


def test_segment_views_of_32_frames_are_the_even_and_the_odd_ones() -> None:
    found = Segments().views(info(32), 2, 16)
    assert found.tolist() == [list(range(0, 32, 2)), list(range(1, 32, 2))]


def test_timed_clips_last_as_long_at_any_rate() -> None:
    settings = ClipSettings(frames=32, sampler=Timed(16))
    for fps in (12.0, 25.0, 29.97, 50.0):
        for seed in range(20):
            (clip,) = settings.choose(info(400, fps), np.random.default_rng(seed))
            assert clip.shape == (32,)
            assert abs((clip[-1] - clip[0]) / fps - 31 / 16) <= 1.01 / fps
    starts = {int(settings.choose(info(60, 25.0), np.random.default_rng(seed))[0, 0]) for seed in range(300)}
    # 2.4 s leave room for starts from 0 to 0.4 s.
    assert starts == set(range(10))


def test_short_video_is_repeated_from_its_beginning() -> None:
    settings = ClipSettings(frames=32, sampler=Timed(16))
    (clip,) = settings.choose(info(20, 16.0), np.random.default_rng(0))
    assert clip.tolist() == [*range(20), *range(12)]
    assert settings.sampler.views(info(20, 16.0), 3, 32).tolist() == [clip.tolist()] * 3
    (picture,) = settings.choose(info(1, 25.0), None)
    assert picture.tolist() == [0] * 32


def test_boxes_move_along_the_longer_side() -> None:
    assert view_boxes(340, 256, 3) == [Box(0, 0, 256, 256), Box(42, 0, 256, 256), Box(84, 0, 256, 256)]
    assert view_boxes(240, 320, 3) == [Box(0, 0, 240, 240), Box(0, 40, 240, 240), Box(0, 80, 240, 240)]
    assert view_boxes(340, 256, 1, 0.875) == [centre_box(340, 256, 0.875)] == [Box(58, 16, 224, 224)]


def test_each_test_video_is_decoded_once_for_all_views(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted(path: Path, *args: Any, **settings: Any) -> Any:
        reads.append(path.name)
        return read_clips(path, *args, **settings)

    monkeypatch.setattr("datamodules.video.dataset.read_clips", counted)
    data = folder(tree, views=ViewSettings(2, 3), batch_size=6)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert len(reads) == len(set(reads)) == len(data.test_manifest)
    # As many clips in a batch as in training.
    assert {len(batch.stream("video").data) for batch in batches} == {1}
    video, time = batches[0].stream("video").data[0], batches[0].stream("video").time[0]
    assert video.shape == (6, CLIP.frames, CLIP.size, CLIP.size, 3)
    assert torch.equal(time[0], time[2])
    assert not torch.equal(time[0], time[3])
    assert not torch.equal(video[0], video[1])
    one = folder(tree, views=ViewSettings(1, 1), clip=ClipSettings(frames=4, sampler=Dense(2), size=32, crop=MultiScale(0.5)))
    one.setup("test")
    assert next(iter(one.test_dataloader())).stream("video").data.shape[1] == 1


class WithSignal(VideoClipDataset):
    """Videos with a second stream, a signal of 50 values per second that counts them."""

    def _content(self, row: int, video: Tensor, plan: Plan) -> dict[str, Any]:
        signal = torch.arange(1000)
        return super()._content(row, video, plan) | {"signal": signal[torch.from_numpy(plan.frames_at(50.0, len(signal)))]}


def test_a_second_stream_follows_the_plan_of_the_first(tree: Path) -> None:
    data = folder(tree)
    data.setup("fit")
    assert data.train_manifest is not None
    clip = ClipSettings(frames=4, size=16, clips=2, repeat=2, sampler=Dense(2), crop=Shared())
    sample = WithSignal(data.train_manifest, clip, seed=0, train=True)[SampleKey(0, 1)]
    assert sample["signal"].shape == (4, 4)
    # Copies of a clip show the same times, and clips share their boxes.
    assert torch.equal(sample["signal"][0], sample["signal"][1])
    assert not torch.equal(sample["signal"][0], sample["signal"][2])
    assert torch.equal(sample["box"][0], sample["box"][2])
    assert sample["box"].dtype == torch.float32
    assert ((sample["time"] * 50).round().long() == sample["signal"][:, [0, -1]]).all()
    x1, y1, x2, y2 = sample["box"].unbind(1)
    assert (x1 >= 0).all()
    assert (x1 < x2).all()
    assert (y1 >= 0).all()
    assert (y1 < y2).all()
    data.train_manifest.file(1).write_bytes(b"")
    broken = WithSignal(data.train_manifest.subset(np.array([1])), clip, seed=0, train=True)[SampleKey(0, 0)]
    assert broken["unreplaced"]
    assert broken["box"].tolist() == [[0] * 4] * 4
    assert broken["signal"].shape == (4, 4)


def test_test_split_is_the_given_list_or_a_folder_or_validation(tree: Path, tmp_path: Path) -> None:
    data = folder(tree)
    data.setup("test")
    assert data.test_manifest is data.val_manifest
    names = [path for path in data.train_manifest.paths if path.endswith(("1.mp4", "2.mp4"))]
    # The indices are those of the folders' names, as confirmed by their paths.
    (tmp_path / "test.csv").write_text("".join(f"train/{name} {label}\n" for label, name in enumerate(names, 1)))
    listed = folder(tree, lists=ListSettings(test=str(tmp_path / "test.csv")))
    listed.setup("test")
    assert listed.test_manifest.labels.tolist() == [1, 2]


def test_skeletons_are_tested_on_the_middle_of_the_validation_recordings() -> None:
    data = SyntheticSkeleton(SkeletonClipSettings(4), 4, train_clips=4, val_clips=6)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(6))
    assert torch.equal(batches[0].stream("skeleton").data, next(iter(data.val_dataloader())).stream("skeleton").data)


def test_wrong_settings() -> None:
    with pytest.raises(SettingError, match=r"data\.views\.crops is 0"):
        ViewSettings(crops=0)
    with pytest.raises(SettingError, match=r"data\.clip\.sampler\.fps is 0"):
        Timed(0)

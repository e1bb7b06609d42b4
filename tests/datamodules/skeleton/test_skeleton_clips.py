"""Crops in time, resizing, and batches of recordings."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from datamodules.loading.loader import EpochSampler, ResumableLoader, SampleKey
from datamodules.skeleton.clips import (
    SkeletonClipSettings,
    SkeletonDataset,
    centre_start,
    choose_part,
    crop_length,
    resize_time,
)
from datamodules.skeleton.store import Recordings, join_parts, open_store, write_part
from modules.core.errors import SettingError
from modules.core.randomness import worker_rng

LENGTHS = (30, 70, 100, 150, 300)


def clock(lengths: tuple[int, ...] = LENGTHS, persons: int = 1) -> Recordings:
    """Recordings in which every coordinate is the frame index."""
    flat = [np.repeat(np.arange(length, dtype=np.float32), 75 * persons) for length in lengths]
    count = len(lengths)
    return Recordings(
        np.concatenate(flat), np.array(lengths), np.full(count, persons), np.arange(count), np.array([f"r{i}" for i in lengths])
    )


def dataset(clip: SkeletonClipSettings, train: bool = True, recordings: Recordings | None = None) -> SkeletonDataset:
    recordings = recordings or clock()
    return SkeletonDataset(recordings, np.arange(len(recordings)), clip, 0, train)


def test_resizing_in_numbers() -> None:
    np.testing.assert_allclose(resize_time(np.arange(4.0), 8), [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    np.testing.assert_allclose(resize_time(np.arange(8.0), 4), [0.5, 2.5, 4.5, 6.5])
    np.testing.assert_array_equal(resize_time(np.arange(64.0), 64), np.arange(64.0))
    np.testing.assert_allclose(resize_time(np.array([7.0]), 3), [7, 7, 7], rtol=1e-6)


@pytest.mark.parametrize("length", [2, 45, 64, 87, 300])
def test_resizing_is_that_of_torch(length: int) -> None:
    part = np.random.default_rng(length).normal(size=(length, 3, 25)).astype(np.float32)
    theirs = interpolate(torch.from_numpy(part).reshape(1, 1, length, 75), (64, 75), mode="bilinear")[0, 0]
    np.testing.assert_allclose(resize_time(part, 64).reshape(64, 75), theirs.numpy(), atol=5e-6)


def test_the_middle_in_numbers() -> None:
    assert [centre_start(length, 0.95) for length in (39, 40, 64, 100, 300)] == [0, 1, 1, 2, 7]
    assert choose_part(SkeletonClipSettings(), 100, None) == (2, 98)


def test_lengths_of_training_crops() -> None:
    # At least 64 frames, and at most all of them.
    assert [crop_length(300, share, 64) for share in (0.1, 0.2133, 0.2167, 0.5, 1.0)] == [64, 64, 65, 150, 300]
    assert {crop_length(45, share, 64) for share in (0.1, 0.5, 1.0)} == {45}


def test_starts_and_lengths_cover_what_they_may() -> None:
    settings, rng = SkeletonClipSettings(share=(0.5, 1.0)), np.random.default_rng(0)
    assert {choose_part(settings, 45, rng) for _ in range(50)} == {(0, 45)}
    parts = np.array([choose_part(settings, 200, rng) for _ in range(4000)])
    lengths = parts[:, 1] - parts[:, 0]
    assert parts.min() == 0
    assert parts.max() == 200
    assert lengths.min() == 100
    assert lengths.max() >= 198
    assert abs(lengths.mean() - 149.5) < 2
    # Given its length, all positions of a crop are equally likely.
    middle = parts[:, 0] / (200 - lengths).clip(1)
    assert abs(middle[lengths < 190].mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("setting", "value"),
    [("frames", 0), ("clips", 0), ("share", (0.0, 1.0)), ("share", (0.6, 0.5)), ("share", (0.5, 1.1)), ("centre_share", 0.0)],
)
def test_impossible_settings(setting: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"data.clip.{setting}"):
        SkeletonClipSettings(**{setting: value})


def test_a_batch() -> None:
    batch = dataset(SkeletonClipSettings(frames=16, clips=2)).__getitems__([SampleKey(0, 3), SampleKey(0, 0)])
    assert batch.stream("skeleton").data.shape == (2, 2, 3, 16, 25, 2)
    assert batch.stream("skeleton").data.dtype == torch.float32
    assert batch.extra["length"].tolist() == [150, 30]
    assert batch.label.tolist() == [3, 0]
    assert batch.index.tolist() == [3, 0]
    assert {part.dtype for part in (batch.extra["length"], batch.label, batch.index)} == {torch.int64}
    # The person who is not stored is 0; frames of the other one rise, and views differ.
    assert not batch.stream("skeleton").data[..., 1].any()
    assert (batch.stream("skeleton").data[..., 0].diff(dim=3) > 0).all()
    assert not torch.equal(batch.stream("skeleton").data[0, 0], batch.stream("skeleton").data[0, 1])
    assert batch.stream("skeleton").data.max() <= 149


def test_joints_and_persons_keep_their_places() -> None:
    stored = np.random.default_rng(0).normal(size=(64, 3, 25, 2)).astype(np.float32)
    recordings = Recordings(stored.ravel(), np.array([64]), np.array([2]), np.array([5]), np.array(["a"]))
    found = dataset(SkeletonClipSettings(), recordings=recordings).__getitems__([SampleKey(0, 0)]).stream("skeleton").data[0, 0]
    np.testing.assert_array_equal(found.numpy(), stored.swapaxes(0, 1))


def test_evaluation_takes_the_middle_in_every_epoch() -> None:
    source = dataset(SkeletonClipSettings(frames=8, clips=2), train=False)
    first, later = (source.__getitems__([SampleKey(epoch, 2)]).stream("skeleton").data for epoch in (0, 7))
    assert torch.equal(first, later)
    assert torch.equal(first[:, 0], first[:, 1])
    expected = resize_time(np.arange(2, 98, dtype=np.float32), 8)
    np.testing.assert_allclose(first[0, 0, 0, :, 0, 0].numpy(), expected)


def test_workers_and_epochs_never_repeat_draws() -> None:
    lengths = tuple(range(1000, 1064))
    runs: dict[tuple[int, int], torch.Tensor] = {}
    for workers in (0, 2):
        source = SkeletonDataset(clock(lengths), np.arange(64), SkeletonClipSettings(frames=4, clips=2), 3, True)
        loader = ResumableLoader(source, EpochSampler(64, 3, True), 8, workers, lambda batch: batch)
        for epoch in (0, 1):
            loader.batches.sampler.set_epoch(epoch)
            batches = list(loader)
            order = torch.cat([batch.index for batch in batches]).argsort()
            clips = torch.cat([batch.stream("skeleton").data for batch in batches])[order]
            runs[workers, epoch] = clips[:, :, 0, ::3, 0, 0].double()
    for epoch in (0, 1):
        assert torch.equal(runs[0, epoch], runs[2, epoch])
    # First and last of four frames determine length and start: four draws for each recording, of two views in two epochs.
    first, last = torch.cat([runs[0, 0], runs[0, 1]], 1).unbind(-1)
    length = (last - first) * 4 / 3
    start = first + 0.5 - length / 8
    total = torch.tensor(lengths)[:, None].double()
    draws = torch.stack([length / total, start / (total - length + 1)], -1)
    assert len(draws.flatten(0, 1).mul(1000).round().unique(dim=0)) > 250
    assert (draws[..., 0].aminmax().min < 0.15, draws[..., 0].aminmax().max > 0.95) == (True, True)
    # No two recordings have the same sequence of draws.
    rows = draws.flatten(1)
    assert (torch.cdist(rows, rows) + torch.eye(64) > 0.01).all()


def test_draws_do_not_depend_on_the_batch() -> None:
    source = dataset(SkeletonClipSettings(frames=8))
    together = source.__getitems__([SampleKey(2, row) for row in (4, 1, 3)]).stream("skeleton").data
    alone = source.__getitems__([SampleKey(2, 1)]).stream("skeleton").data
    assert torch.equal(together[1], alone[0])
    rng = worker_rng(0, 2, 1)
    start, end = choose_part(source.clip, 70, rng)
    np.testing.assert_allclose(alone[0, 0, 0, :, 0, 0].numpy(), resize_time(np.arange(start, end, dtype=np.float32), 8))


def clip(frames: int, persons: int, seed: int) -> np.ndarray:
    joints = np.random.default_rng(seed).normal(size=(frames, 3, 25, 2)).astype(np.float32)
    joints[..., persons:] = 0
    return joints


def stored(root: Path) -> list[np.ndarray]:
    clips = [clip(5, 1, 0), clip(9, 2, 1), clip(4, 1, 2)]
    write_part(root / "a.npz", [("a", 3, clips[0]), ("b", 1, clips[1])], [("x", "broken")])
    write_part(root / "b.npz", [("long name", 2, clips[2])], [])
    write_part(root / "c.npz", [], [("z", "a\ttab")])
    header = {"dataset": "ntu", "source_sha256": "s"}
    count, faults = join_parts([root / f"{name}.npz" for name in "abc"], root, header)
    assert count == 3
    assert faults == [("x", "broken"), ("z", "a\ttab")]
    return clips


def test_a_store_gives_back_what_was_put_in(tmp_path: Path) -> None:
    clips = stored(tmp_path)
    recordings = open_store(tmp_path, "ntu", "prepare")
    assert recordings.name.tolist() == ["a", "b", "long name"]
    assert recordings.label.tolist() == [3, 1, 2]
    # Absent persons take no space.
    assert recordings.joints.size == 75 * (5 + 18 + 4)
    for row, joints in enumerate(clips):
        found = recordings.read(row)
        np.testing.assert_array_equal(found, joints[..., : found.shape[-1]])
        np.testing.assert_array_equal(recordings.read(row, 1, 3), joints[1:3, ..., : found.shape[-1]])
    np.testing.assert_array_equal(recordings.read(0, 3, 99), clips[0][3:, ..., :1])


def test_workers_map_the_file_instead_of_getting_a_copy(tmp_path: Path) -> None:
    stored(tmp_path)
    recordings = open_store(tmp_path, "ntu", "prepare")
    sent = pickle.dumps(recordings)
    assert len(sent) < 3000 < recordings.joints.nbytes
    again = pickle.loads(sent)
    assert isinstance(again.joints, np.memmap)
    np.testing.assert_array_equal(again.read(1), recordings.read(1))


def test_stores_that_are_not_whole_or_not_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="run prepare first"):
        open_store(tmp_path, "ntu", "prepare")
    stored(tmp_path)
    with pytest.raises(SettingError, match="contains ntu"):
        open_store(tmp_path, "pku", "prepare")
    whole = (tmp_path / "joints.npy").read_bytes()
    for damage in (whole[:-100], whole[:60], b""):
        (tmp_path / "joints.npy").write_bytes(damage)
        with pytest.raises(SettingError, match="is incomplete"):
            open_store(tmp_path, "ntu", "prepare")
    (tmp_path / "joints.npy").write_bytes(whole)
    (tmp_path / "header.json").write_text("{")
    with pytest.raises(SettingError, match=r"header\.json"):
        open_store(tmp_path, "ntu", "prepare")

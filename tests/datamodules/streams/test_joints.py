"""Skeletons from arrays."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.streams.joints import JointsReader, centre
from datamodules.streams.settings import SkeletonSettings
from datamodules.video.decode import DecodeError
from tests.datamodules.streams.files import make_plan_of


def walk(frames: int = 20, persons: int | None = None) -> np.ndarray:
    """Joints whose x counts frames."""
    shape = (frames, 4, 3) if persons is None else (frames, persons, 4, 3)
    joints = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    joints[..., 0] = np.arange(1, frames + 1).reshape(-1, *[1] * (len(shape) - 2))
    return joints


def test_the_frames_of_the_moments_of_the_plan(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", walk())
    # Skeletons at 10 frames per second with a video of 25, and nothing after their end at 2 s.
    stream = JointsReader(SkeletonSettings(fps=10)).read(tmp_path / "a.npy", make_plan_of([0, 5, 30, 52]), 32)
    assert stream.data.shape == (1, 3, 4, 4, 1)
    assert stream.data[0, 0, :, 0, 0].tolist() == [1, 3, 13, 0]
    assert stream.valid is not None
    assert stream.valid.tolist() == [[True, True, True, False]]
    assert torch.equal(stream.data[0, :, 0, 2, 0], torch.from_numpy(walk()[0, 2]))


def test_persons_and_arrays_of_many_recordings(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", one=walk(), two=walk(persons=2))
    reader = JointsReader(SkeletonSettings(persons=2, fps=25))
    reader.learn(tmp_path / "all.npz#one")
    one, two = (reader.read(tmp_path / f"all.npz#{name}", make_plan_of([0, 1]), 32) for name in ("one", "two"))
    assert one.data.shape == two.data.shape == (1, 3, 2, 4, 2)
    assert not one.data[..., 1].any()
    assert two.data[..., 1].all()
    with pytest.raises(DecodeError, match="no such stream"):
        reader.read(tmp_path / "all.npz#three", make_plan_of([0, 1]), 32)
    assert reader.nothing(make_plan_of([0, 1]), 32).data.shape == two.data.shape


def test_a_recording_is_moved_as_a_whole() -> None:
    joints = np.concatenate([np.zeros((2, 1, 4, 3), np.float32), walk(persons=1)])
    moved = centre(joints, 3)
    assert not moved[:2].any()
    assert np.array_equal(moved[2, 0, 3], np.zeros(3))
    assert np.allclose(moved[5, 0] - moved[2, 0], joints[5, 0] - joints[2, 0], atol=1e-6)

"""Windows of body-worn sensors against the official code of IMU-video (Ego4D)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.streams.settings import SignalSettings
from datamodules.streams.tables import SignalReader, filter_median, standardise, window_list
from datamodules.video.decode import DecodeError
from datamodules.video.samplers import segment_indices
from datamodules.video.sampling import Plan
from tests.parity.cases import load_case

BOUND = 1e-6
Case = tuple[dict[str, Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def case() -> Case:
    return load_case("imu_video", "imu_windows")


def test_median_and_standard_score_of_a_recording(case: Case) -> None:
    tensors, _ = case
    filtered = filter_median(tensors["input.recording"].numpy().T, 5)
    assert np.array_equal(filtered, tensors["output.median"].numpy())
    assert np.allclose(standardise(filtered), tensors["output.zscore"].numpy(), rtol=0, atol=BOUND)


def test_windows_by_time_stamps(case: Case, tmp_path: Path) -> None:
    tensors, about = case
    file = tmp_path / "recording.npz"
    np.savez(file, signal=tensors["input.recording"].numpy().T, t=tensors["input.timestamps_ms"].numpy())
    # A gap of 0.8 s is no fault there.
    settings = SignalSettings(max_gap=4, unit="ms", whole=True, median=5, standardise=True, window=True)
    reader = SignalReader(settings)
    reader.learn(file)
    for number, (span, valid) in enumerate(zip(about["settings"]["windows"], tensors["output.valid"].tolist(), strict=True)):
        plan = replace(Plan.empty(1, 10), span=tuple(map(float, span)))
        if not valid:
            with pytest.raises(DecodeError, match="too short"):
                reader.read(file, plan, 32)
            continue
        stream = reader.read(file, plan, 32)
        expected = tensors[f"output.window{number}"]
        assert stream.data.shape == (1, *expected.T.shape)
        assert torch.allclose(stream.data[0].T, expected, rtol=0, atol=BOUND)
        assert stream.valid is not None
        assert (expected[~stream.valid[0]] == 0).all()


def test_lists_of_windows(case: Case) -> None:
    tensors, about = case
    first, last = about["settings"]["windows"][0]
    for number, duration in enumerate(about["settings"]["window_list durations"]):
        expected = tensors[f"output.window_list{number}"]
        assert torch.equal(torch.from_numpy(window_list(0, duration, last - first)).float().view(-1, 2), expected)


def test_frames_of_a_window(case: Case) -> None:
    """One frame of each part of the window: the rule of `Segments`, given the same draws."""
    tensors, about = case

    class Draws:
        """Numbers of NumPy's legacy generator, one by one."""

        def __init__(self, seed: int) -> None:
            self.generator = np.random.RandomState(seed)

        def integers(self, low: int, high: int, size: int) -> np.ndarray:
            return np.array([self.generator.randint(low, high) for _ in range(size)])

    for number, length in enumerate(about["settings"]["frame_indices clip lengths"]):
        expected = tensors[f"output.frame_indices{number}"].tolist()
        assert segment_indices(length, len(expected), Draws(about["settings"]["seed"])).tolist() == expected  # type: ignore[arg-type]

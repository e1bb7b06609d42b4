"""SEVERE's counting of repetitions against official numbers: frames, targets, moves and errors."""

import pytest
import torch

from modules.downstream.counting import RepetitionCounting, counting_errors
from modules.downstream.cycles import cycle_targets, frame_numbers, move
from tests.parity.test_severe import load
from tests.registry import tiny_cnn


def state(*places: float) -> torch.Tensor:
    return torch.tensor([places], dtype=torch.float64)


def test_errors_of_counts() -> None:
    info = load("counting")
    names = {"MAE": "MAE", "MAE_std": "MAE_std", "MAEP": "MAE_over", "MAEN": "MAE_under", "OBO": "OBO"}
    for case in info["cases"]:
        raw, true = torch.tensor(case["raw_counts"], dtype=torch.float64), torch.tensor(case["gt"])
        expected = case["expected"]
        assert raw.round().tolist() == expected["pred"]
        found = counting_errors(raw, true)
        for official, ours in names.items():
            assert found[ours].item() == pytest.approx(expected[official], abs=info["meta"]["tolerance"]), official
    assert info["cases"]


def test_frames_of_a_state() -> None:
    info = load("rep_counting_targets")
    method = RepetitionCounting(tiny_cnn())
    for case in info["inputs"]:
        states, length = state(case["lp"], case["mp"], case["rp"]), torch.tensor([case["sample_len"]])
        assert frame_numbers(states)[0].tolist() == case["expected"]["frame_index"]
        # The value of a pixel is the number of its frame, and the padding behind the clip has another one.
        video = torch.full((1, case["sample_len"] + 5, 1, 1, 3), 255, dtype=torch.uint8)
        video[0, : case["sample_len"]] = torch.arange(case["sample_len"], dtype=torch.uint8)[:, None, None, None]
        clips, outside = method.cut(video, length, states[:, None])
        taken = [None if out else int(value) for value, out in zip(clips[0, :, 0, 0, 0], outside[0], strict=True)]
        assert taken == case["expected"]["taken"]
    assert info["inputs"]


def test_targets_of_anchors() -> None:
    info = load("rep_counting_targets")
    for case in info["targets"]:
        found = cycle_targets(torch.tensor([case["label"]]), torch.tensor([case["segment_len"]], dtype=torch.float64))
        assert found.positive[0].tolist() == case["expected"]["cls"]
        for value, expected, positive in zip(found.box[0].tolist(), case["expected"]["box"], found.positive[0], strict=True):
            assert (expected is None) == (positive != 1)
            assert value == pytest.approx(expected or 0.0, abs=info["meta"]["tolerance"])
    assert info["targets"]


def test_moves_of_a_state() -> None:
    info = load("rep_counting_targets")
    for case in info["steps"]:
        moved, failed = move(state(*case["state"]), state(case["ratio_left"], case["ratio_right"]), case["step"])
        assert moved[0].tolist() == case["expected"]["state"]
        assert failed.item() == case["expected"]["fail"]
        assert (moved[0, 1].item() >= case["sample_len"]) == case["expected"]["done"]
    assert info["steps"]

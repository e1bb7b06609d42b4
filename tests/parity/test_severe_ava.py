"""Frame mAP of AVA against numbers of the evaluator in SEVERE's official code."""

import json
import math

import pytest
import torch

from datamodules.video.decode import VideoInfo
from datamodules.video.key_frames import key_frame_indices
from modules.downstream.metrics.frame_average_precision import TrueBoxes, frame_average_precisions
from tests.parity.cases import PARITY_DIR
from tests.parity.test_severe import load

Rows = list[list[float]]


def numbers(rows: Rows) -> dict[tuple[float, float], int]:
    """Key frames (video, second) by number."""
    return {key: number for number, key in enumerate(sorted({(row[0], row[1]) for row in rows}))}


def found(case: dict, official_order: bool) -> torch.Tensor:
    """Every row of the file is its own box, with a score for one action and none for the others."""
    given, truth, actions = case["detections"], case["groundtruth"], case["categories"]
    known = numbers(given + truth + case["excluded"])
    frame, true_frame, excluded = (
        torch.tensor([known[row[0], row[1]] for row in rows], dtype=torch.long) for rows in (given, truth, case["excluded"])
    )
    score = torch.tensor([[row[7] if row[6] == action else math.nan for action in actions] for row in given])
    box, true_box = (torch.tensor([row[2:6] for row in rows], dtype=torch.float64) for rows in (given, truth))
    wanted = TrueBoxes(true_frame, true_box, torch.tensor([int(row[6]) for row in truth]))
    return frame_average_precisions(frame, box, score, wanted, actions, excluded, official_order)


def test_frames_around_a_key_frame() -> None:
    for case in load("temporal_sampling")["ava_clip"]:
        film = VideoInfo(case["video_frames"], 30.0, 8, 8)
        found = key_frame_indices(case["second"] - 900.0, case["num_frames"], case["stride"], film)
        assert found.tolist() == [case["expected"]]


def test_frame_map() -> None:
    path = PARITY_DIR / "severe" / "ava_map.json"
    if not path.is_file():
        pytest.skip(f"no official numbers at {path}; set PARITY_DIR to the folder that holds them")
    info = json.loads(path.read_text())
    compared = 0
    for case in info["cases"]:
        expected = case["expected"]
        for official in (False, True):
            mean = "mAP_official_input_order" if official else "mAP_detections_sorted_by_score_first"
            each = expected.get("AP", expected.get("AP_official_input_order" if official else "AP_sorted"))
            aps = found(case, official)
            assert aps.nanmean().item() == pytest.approx(expected.get("mAP", expected.get(mean)), abs=info["meta"]["tolerance"])
            for action, ap in zip(case["categories"], aps.tolist(), strict=True):
                wanted = each[str(action)]
                same = math.isnan(ap) if wanted is None else ap == pytest.approx(wanted, abs=info["meta"]["tolerance"])
                assert same, (case["name"], action)
                compared += 1
    assert compared >= 30

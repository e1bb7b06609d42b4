"""SEVERE's accuracies and frame picks, and fine-tuned networks of VideoMAE and SIGMA, against official numbers."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.video.decode import VideoInfo
from datamodules.video.samplers import Timed, resample
from modules.downstream.classification import Classification
from modules.downstream.labels import SeveralLabels, accuracies, average_precisions
from modules.training.optim import AdamWSettings
from tests.parity.cases import PARITY_DIR, assert_close, load_case, part
from tests.parity.test_masked_methods import build_backbone


def load(name: str) -> dict[str, Any]:
    path = PARITY_DIR / "severe" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no official numbers at {path}; set PARITY_DIR to the folder that holds them")
    return json.loads(path.read_text())


def test_accuracies() -> None:
    info = load("accuracy")
    names = {
        "top1": "top1",
        "top5": "top5",
        "mean_class_top1_official": "per_class_all",
        "mean_class_top1_present_only": "per_class",
    }
    compared = 0
    for case in info["cases"]:
        views = torch.tensor(case["view_logits"] if "view_logits" in case else [[row] for row in case["scores"]])
        merged = views.softmax(-1).mean(1)
        if "merged_scores" in case:
            assert_close(merged, torch.tensor(case["merged_scores"]), "merged scores", info["meta"]["tolerance"])
        found = accuracies(merged, torch.tensor(case["target"]))
        for official, ours in names.items():
            assert found[ours].item() == pytest.approx(case["expected"][official], abs=info["meta"]["tolerance"]), official
            compared += 1
        if "contrast_mean_of_logits" in case:
            wrong = accuracies(views.mean(1).softmax(-1), torch.tensor(case["target"]))
            assert wrong["top1"].item() == pytest.approx(case["contrast_mean_of_logits"]["top1"], abs=1e-4)
    assert compared >= 8


def test_mean_average_precision() -> None:
    info = load("charades_map")
    for case in info["cases"]:
        views = torch.tensor(case["view_scores"] if "view_scores" in case else [[row] for row in case["scores"]]).double()
        merged = views.amax(1) if case.get("merge") == "max" else views.mean(1)
        labels = torch.tensor(case["labels"])
        found = average_precisions(merged, labels > 0)
        expected = torch.tensor([math.nan if one is None else one for one in case["expected"]["AP"]], dtype=torch.float64)
        assert torch.allclose(found, expected, rtol=0, atol=info["meta"]["tolerance"], equal_nan=True), case["name"]
        together = SeveralLabels().scores(merged, labels)["map"].item()
        assert together == pytest.approx(100 * case["expected"]["mAP"], abs=100 * info["meta"]["tolerance"]), case["name"]
    assert len(info["cases"]) >= 4


def test_frames_at_another_rate() -> None:
    cases = load("temporal_sampling")["resample_indices"]
    for case in cases:
        length = round(case["src_duration"] * case["src_fps"])
        found = resample(length, case["src_fps"], case["out_fps"], case["start"], case["clip_duration"])
        assert found.tolist() == case["expected"]
    assert cases


def test_windows_over_a_video() -> None:
    cases = load("temporal_sampling")["dense_windows"]
    for case in cases:
        # At the wanted rate already, so that a frame's number tells its place.
        found = Timed(16).views(VideoInfo(case["nf"], 16.0, 2, 2), case["clips"], case["window"])
        assert found[:, 0].tolist() == case["expected"]["starts"]
        assert len(np.unique(found[0])) == case["expected"]["frames_per_clip"]
        assert (len(np.unique(found, axis=0)) == 1) == (case["nf"] <= case["window"])
    assert cases


def test_padding_repeats_the_beginning() -> None:
    cases = load("temporal_sampling")["repeat_pad"]
    for case in cases:
        found = Timed(16).views(VideoInfo(case["n"], 16.0, 2, 2), 1, case["num_frames"])
        assert found[0].tolist() == case["expected"]
    assert cases


@pytest.mark.parametrize(
    ("method", "case", "features"),
    [("videomae", "finetune_forward", "pooled_features"), ("sigma", "finetune_encoder", "features")],
)
def test_official_fine_tuned_network(method: str, case: str, features: str, tmp_path: Any) -> None:
    tensors, info = load_case(method, case)
    sizes, video = info["constructor"], tensors["input.video"]
    torch.save({"module": part(tensors, "state.")}, tmp_path / "official.pt")
    classes = len(tensors["state.head.weight"])
    classifier = Classification(
        build_backbone(sizes), classes, init_from=str(tmp_path / "official.pt"), optim=AdamWSettings()
    ).eval()
    found = classifier.features(video)
    assert_close(classifier.pool(found), tensors[f"output.{features}"], "features")
    assert_close(classifier.logits(found), tensors["output.logits"], "logits")
    # With the same names, and none besides.
    assert not [name for name in classifier.state_dict() if name.startswith("backbone.norm")]

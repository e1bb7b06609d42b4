"""R3D-18, R(2+1)D-18 and I3D against maps of the official code of TubeletContrast, and the renaming against its key lists."""

import functools
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import VideoResNet
from modules.core.loading import load_strictly
from modules.weights.names.cnn.video_cnn import from_official, to_official
from tests.parity.cases import assert_close, load_case

RESNETS = ("r3d_18", "r2plus1d_18")
CASES = (*RESNETS, "i3d")


@functools.cache
def rebuild(case: str) -> dict[str, Tensor]:
    """The official weights of a case, drawn again by the recipe in its description and checked against its hash."""
    _, info = load_case("tubelet_contrast", case)
    rng, digest = np.random.Generator(np.random.PCG64(info["seed"])), hashlib.sha256()
    state: dict[str, Tensor] = {}
    for key, shape in sorted(info["state_keys"]):
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        x = rng.standard_normal(shape)
        if len(shape) >= 2:
            x = x * math.sqrt(2 / math.prod(shape[1:]))
        elif key.endswith("running_var"):
            x = 0.5 + np.abs(x)
        else:
            x = 0.1 * x + key.endswith(".weight")
        values = x.astype("<f4")
        digest.update(values.tobytes())
        state[key] = torch.from_numpy(values)
    assert digest.hexdigest() == info["sha256"], f"{case}: the weights are not those of the recipe"
    return state


def build(case: str, info: dict[str, Any], **settings: Any) -> VideoCNN:
    shapes = dict(info["state_keys"])
    if case == "i3d":
        return I3D(shapes["conv3d_1a_7x7.conv3d.weight"][0] / 64, **settings)
    return VideoResNet(case, shapes["layer1.0.bn1.weight"][0], **settings)


def part_named(network: VideoCNN, stage: str) -> torch.nn.Module:
    """Our layer for an official one; pools have no weights and other names."""
    return getattr(network, stage if hasattr(network, stage) else f"pool_{stage.split('_')[1]}")


def write_file(path: Path, state: dict[str, Tensor]) -> None:
    """A file as the official trainer writes it: both branches (of the second only the start), heads, queue, optimiser."""
    backbone = {f"backbone.{key}": value for key, value in state.items()}
    key_branch = {f"key_encoder.{key}": value for key, value in list(state.items())[:6]}
    heads = {f"{head}.2.{kind}": torch.zeros(2) for head in ("fc", "key_fc") for kind in ("weight", "bias")}
    queue = {"queue": torch.zeros(2, 4), "queue_ptr": torch.zeros(1, dtype=torch.int64)}
    meta = {"mmcv_version": "1.6.1", "epoch": 100, "config": "model = dict()"}
    weights = backbone | key_branch | heads | queue
    torch.save({"meta": meta, "state_dict": weights, "optimizer": {"state": {}, "param_groups": []}}, path)


@pytest.mark.parametrize("case", CASES)
def test_official_file_gives_the_official_maps(case: str, tmp_path: Path) -> None:
    tensors, info = load_case("tubelet_contrast", case)
    state, path = rebuild(case), tmp_path / "epoch_100.pth"
    write_file(path, state)
    network = build(case, info).eval()
    report = network.load(str(path))
    assert (len(report.matched), report.missing) == (len(state), [])
    assert {key.split(".")[0] for key in report.left_over} == {"key_encoder", "fc", "key_fc", "queue", "queue_ptr"}
    assert sum(value.numel() for value in network.parameters()) == info["n_params"]
    stages = [key.split(".")[2] for key in tensors if key.startswith("output.stage.") and key.endswith("moments")]
    seen: dict[str, Tensor] = {}
    for stage in stages:
        # The next layer may work in place.
        part_named(network, stage).register_forward_hook(lambda *call, stage=stage: seen.update({stage: call[2].clone()}))
    with torch.no_grad():
        feature = network.forward_features(tensors["input.imgs"])
    bound = info["tolerance"]["suggested_rtol"]
    assert_close(feature, tensors["output.feature"], "last map", bound)
    assert stages
    for stage in stages:
        moments = torch.stack([seen[stage].mean(), seen[stage].std()])
        assert_close(seen[stage][:, :4], tensors[f"output.stage.{stage}.first4ch"], stage, bound)
        assert_close(moments, tensors[f"output.stage.{stage}.moments"], f"moments of {stage}", bound)


@pytest.mark.parametrize("case", RESNETS)
def test_torchvision_eps_gives_other_features(case: str) -> None:
    """What the official downstream code computes with the same weights: its network has torchvision's eps."""
    tensors, info = load_case("tubelet_contrast", case)
    network = build(case, info, bn_eps=1e-5).eval()
    load_strictly(network, from_official(rebuild(case)), "case")
    with torch.no_grad():
        feature = network.forward_features(tensors["input.imgs"])
    bound = info["tolerance"]["suggested_rtol"]
    assert_close(feature, tensors["output.feature_torchvision_eps1e-5"], "last map", bound)
    difference = (feature - tensors["output.feature"]).abs().max()
    assert difference == pytest.approx(info["conversion"]["max_abs_diff_to_official_eps1e-3"], rel=0.02)


@pytest.mark.parametrize("case", RESNETS)
def test_renaming_is_the_official_map(case: str) -> None:
    _, info = load_case("tubelet_contrast", case)
    for theirs, ours in info["conversion"]["key_map"].items():
        assert list(from_official({theirs: torch.empty(0)})) == [ours]


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_are_the_whole_official_list(case: str) -> None:
    _, info = load_case("tubelet_contrast", case)
    with torch.device("meta"):
        own = build(case, info).state_dict()
    official = to_official(own)
    assert sorted([key, list(value.shape)] for key, value in official.items()) == sorted(info["state_keys"])
    assert from_official(official).keys() == own.keys()

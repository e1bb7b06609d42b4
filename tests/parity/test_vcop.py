"""VCOP against tensors of its official code: networks, head, loss and gradients, labels, clips, retrieval, names."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.core.loading import load_strictly
from modules.layers.tuple_head import TupleHead
from modules.weights.names.clip_order import from_official, to_official
from tests.parity.cases import PARITY_DIR, load_case, part

NETWORKS: dict[str, Callable[[int], VideoCNN]] = {
    "c3d": lambda width: C3D(width, channels_last=False),
    "r3d": lambda width: ClipOrderResNet("r3d", width, channels_last=False),
    "r21d": lambda width: ClipOrderResNet("r2plus1d", width, channels_last=False),
}


def network_of(name: str) -> tuple[VideoCNN, dict[str, Tensor], dict[str, Any]]:
    """The network of a case with its weights, and the case."""
    tensors, info = load_case("vcop", f"net_{name}")
    network = NETWORKS[name](info["settings"]["base_width"]).eval()
    weights = part(from_official(part(tensors, "state.")), "backbone.")
    load_strictly(network, weights, f"net_{name}")
    return network, tensors, info


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_features(name: str) -> None:
    network, tensors, info = network_of(name)
    clips = (tensors["input.clips"].float() / 255).flatten(0, 1)
    with torch.no_grad():
        maps = network.forward_features(clips)
    bounds = info["tolerance"]
    places = tensors["input.clips"].shape[:2]
    close(maps.mean((2, 3, 4)).unflatten(0, places), tensors["output.features"], bounds["features_atol"])
    pooled = F.max_pool3d(maps, (1, 2, 2)).flatten(1).unflatten(0, places)
    close(pooled, tensors["output.conv_features"], bounds["conv_features_atol"])


@pytest.mark.parametrize("name", NETWORKS)
def test_published_size(name: str) -> None:
    path = PARITY_DIR / "vcop" / "architecture.json"
    if not path.is_file():
        pytest.skip(f"no official names at {path}")
    facts = json.loads(path.read_text())["networks"][name]
    with torch.device("meta"):
        network = NETWORKS[name](64)
        head = TupleHead(512, 3, 6)
    assert sum(value.numel() for value in network.parameters()) == facts["n_parameters_backbone"]
    state = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    state |= {f"head.{key}": value for key, value in head.state_dict().items()}
    official = to_official(state)
    assert set(official) == set(facts["vcopn_state_dict_keys"])
    shapes = {key: list(value.shape) for key, value in part(official, "base_network.").items()}
    assert shapes == facts["parameters"] | facts["buffers"]
    assert list(from_official(official)) == list(state)
    assert sum(value.numel() for value in head.parameters()) + facts["n_parameters_backbone"] == facts["n_parameters_vcopn"]


@pytest.mark.parametrize("case", ["head_n3", "head_n4"])
def test_head(case: str) -> None:
    tensors, info = load_case("vcop", case)
    sizes = info["settings"]
    head = TupleHead(sizes["feature_size"], sizes["tuple_len"], sizes["n_classes"], hidden=sizes["hidden"]).eval()
    load_strictly(head, part(tensors, "state."), case)
    features = tensors["input.features"].requires_grad_()
    logits = head(features)
    loss = F.cross_entropy(logits, tensors["output.label"])
    loss.backward()
    bounds = info["tolerance"]
    close(logits, tensors["output.logits"], bounds["logits_atol"])
    close(loss, tensors["output.loss"], bounds["logits_atol"])
    assert features.grad is not None
    close(features.grad, tensors["output.grad.features"], bounds["grad_atol"])
    for name, value in head.named_parameters():
        assert value.grad is not None
        close(value.grad, tensors[f"output.grad.{name}"], bounds["grad_atol"])

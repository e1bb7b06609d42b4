"""VCOP against tensors of its official code: networks, head, loss and gradients, labels, clips, retrieval, names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from datamodules.video.readers import VideoInfo
from datamodules.video.samplers import Dense, OrderedClips
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.convert.command import convert
from modules.convert.load import load_backbone
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.preprocessing import TO_ONE
from modules.downstream.metrics.probes import nearest
from modules.downstream.retrieval import neighbour_scores
from modules.layers.tuple_head import TupleHead
from modules.methods.vcop import VCOP
from modules.weights.names.cnn.clip_order import from_official, to_official
from modules.weights.passport import read_passport
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


@pytest.mark.parametrize("case", ["head_n3", "head_n4"])
def test_head_with_recorded_dropout(case: str) -> None:
    tensors, info = load_case("vcop", case)
    sizes = info["settings"]
    head = TupleHead(sizes["feature_size"], sizes["tuple_len"], sizes["n_classes"], hidden=sizes["hidden"], dropout=0)
    load_strictly(head, part(tensors, "state."), case)
    # One dropout on all pairs together.
    head.dropout.register_forward_hook(lambda _, __, pairs: 2 * pairs * tensors["input.dropout_keep"])
    logits = head(tensors["input.features"])
    loss = F.cross_entropy(logits, tensors["output.label"])
    loss.backward()
    close(logits, tensors["output.dropout.logits"], info["tolerance"]["logits_atol"])
    close(loss, tensors["output.dropout.loss"], info["tolerance"]["logits_atol"])
    for name, value in (("fc7", head.fc7.weight.grad), ("fc8", head.fc8.weight.grad)):
        assert value is not None
        close(value, tensors[f"output.dropout.grad.{name}.weight"], info["tolerance"]["grad_atol"])


class Fixed(VCOP):
    """Takes the permutations of a case instead of drawing them; its clips are shuffled already."""

    label: Tensor

    def shuffle(self, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return video, self.label


def method_of(name: str, by_place: bool) -> tuple[Fixed, Batch, dict[str, Tensor], dict[str, Any]]:
    """The method of a case without dropout, its batch, and the case."""
    network, tensors, info = network_of(name)
    network.normalisation = TO_ONE
    sizes = info["settings"]
    method = Fixed(network, sizes["tuple_len"], sizes["hidden"], 0.0, by_place)
    load_strictly(method, from_official(part(tensors, "state.")), f"net_{name}")
    method.label = tensors["output.label"]
    video = tensors["input.clips"].permute(0, 1, 3, 4, 5, 2)
    rows = torch.arange(len(video))
    return method, Batch(rows, rows, {"video": Stream("video", video)}), tensors, info


def gradients(method: VCOP) -> dict[str, Tensor]:
    """Gradients under the official names."""
    return to_official({name: value.grad for name, value in method.named_parameters() if value.grad is not None})


@pytest.mark.parametrize("by_place", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_step_in_evaluation_mode(name: str, by_place: bool) -> None:
    method, batch, tensors, info = method_of(name, by_place)
    bounds = info["tolerance"]
    method.eval()
    output = method.step(batch, torch.Generator())
    output["loss"].backward()
    close(output["loss"], tensors["output.loss"], bounds["logits_atol"])
    guess = tensors["output.logits"].argmax(1)
    assert torch.equal(output["show"]["guess"], method.orders[guess])
    assert torch.equal(output["show"]["order"], tensors["input.order"])
    found = gradients(method)
    expected = part(tensors, "output.grad.")
    assert len(expected) >= 7
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=bounds["grad_atol"], rtol=bounds["grad_rtol"])


@pytest.mark.parametrize("name", NETWORKS)
def test_official_training_step(name: str) -> None:
    """Batch norm's statistics are those of one place of the tuples; encoding all clips together differs."""
    method, batch, tensors, info = method_of(name, by_place=True)
    bound = info["tolerance"]["train_seq_atol"]
    expected = part(tensors, "output.train_seq.")
    output = method.train().step(batch, torch.Generator())
    output["loss"].backward()
    close(output["loss"], expected["loss"], bound)
    found = gradients(method)
    for key, value in part(expected, "grad.").items():
        torch.testing.assert_close(found[key], value, atol=bound, rtol=1e-3)
    after = to_official(dict(method.state_dict()))
    for key, value in part(expected, "state_after.").items():
        close(after[key], value, bound)
    counts = {int(value) for key, value in after.items() if key.endswith("num_batches_tracked")}
    assert counts == {int(expected["num_batches_tracked"])}
    together, batch, _, _ = method_of(name, by_place=False)
    assert (together.train().step(batch, torch.Generator())["loss"] - expected["loss"]).abs() > 10 * bound


def test_labels_are_lexicographic() -> None:
    tensors, info = load_case("vcop", "order_labels")
    for places in info["settings"]["tuple_lens"]:
        orders = VCOP(C3D(1), places, 1).orders
        assert torch.equal(orders, tensors[f"output.table_n{places}"])
        for order, label in zip(tensors[f"input.orders_n{places}"], tensors[f"output.labels_n{places}"], strict=True):
            assert torch.equal(orders[label], order)
    # Statement 1: the label of (2, 0, 1) is 4.
    assert VCOP(C3D(1), 3, 1).orders[4].tolist() == [2, 0, 1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_shuffled_tuples_are_the_official_ones(split: str) -> None:
    """Frame numbers in place of pictures: clip `order[k]` is at place k."""
    tensors, info = load_case("vcop", "tuple_sampling")
    places, frames = info["settings"]["tuple_len"], info["settings"]["clip_len"]
    method = VCOP(C3D(1), places, 1)
    sampler = OrderedClips(info["settings"]["interval"])
    start = tensors[f"input.{split}.start"].numpy()[:, None, None]
    ordered = start + sampler.draw(VideoInfo(sampler.span(places, frames), 25.0, 0, 0), places, frames, None)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        shuffled, label = method.shuffle(torch.from_numpy(ordered), generator)
        for row in (label == tensors[f"output.{split}.label"]).nonzero()[:, 0]:
            assert torch.equal(shuffled[row], tensors[f"output.{split}.frames"][row])


def test_clips_of_retrieval() -> None:
    """Those of the gallery; tests/parity/test_clip_sampling.py has those of the test."""
    tensors, info = load_case("vcop", "uniform_clips")
    for row, length in enumerate(tensors["input.lengths"].tolist()):
        settings = info["settings"]
        found = Dense(1).draw(VideoInfo(length, 25.0, 0, 0), settings["sample_num"], settings["clip_len"], None)
        assert torch.equal(torch.from_numpy(found), tensors["output.retrieval.frames"][row])


def test_retrieval() -> None:
    tensors, info = load_case("vcop", "retrieval")
    gallery, queries = (tensors[f"input.{part}_features"].mean(1) for part in ("gallery", "query"))
    similarity, rows = nearest(gallery, queries, 10)
    expected = 1 - tensors["output.cosine_distance"].gather(1, rows)
    close(similarity, expected.float(), info["tolerance"]["distance_atol"])
    assert torch.equal(rows, tensors["output.ranking_top10"])
    k = tensors["output.k"].tolist()
    found = neighbour_scores(gallery, tensors["input.gallery_labels"], queries, tensors["input.query_labels"], [], k, 0.07)
    counts = [round(found[f"R@{number}"] / 100 * len(queries)) for number in k]
    assert counts == tensors["output.topk_correct"].tolist()


@pytest.mark.parametrize("name", NETWORKS)
def test_official_files(name: str, tmp_path: Path) -> None:
    """`checkpoint:` and `convert` read a file as the official trainer writes it, and our names become the official ones."""
    tensors, info = load_case("vcop", f"net_{name}")
    sizes = info["settings"]
    state, path, out = part(tensors, "state."), tmp_path / "model.pt", tmp_path / "ours.safetensors"
    torch.save(state, path)
    network = NETWORKS[name](sizes["base_width"])
    report = network.load(str(path))
    assert set(report.left_over) == {f"head.{key}" for key in state if key.startswith("fc")}
    assert network.normalisation == TO_ONE
    assert network.bn_eps == 1e-5
    convert(path, out)
    ours = load_file(out)
    assert all(torch.equal(value, state[key]) for key, value in to_official(ours).items())
    assert to_official(ours).keys() == state.keys()
    method = VCOP(NETWORKS[name](sizes["base_width"]), sizes["tuple_len"], sizes["hidden"])
    load_strictly(method, ours, str(out))
    passport = read_passport(out)
    assert passport["kind"] == "order"
    assert passport["architecture"]["places"] == sizes["tuple_len"]
    again, described = NETWORKS[name](sizes["base_width"]), load_backbone(out)
    again.load(str(out))
    assert again.normalisation == described.normalisation == TO_ONE
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
        assert torch.equal(value, described.state_dict()[key]), key
    torch.save({key: value for key, value in state.items() if key != "base_network.bn1.bias"}, path)
    with pytest.raises(SettingError, match="1 missing"):
        network.load(str(path))

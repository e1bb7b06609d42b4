"""Encoders, contrast and augmentations of skeletons against tensors of the official code."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.augment.skeletons import SkeletonDraws, joint_matrices, transform_joints
from modules.backbones.skeleton.base import SkeletonEncoder, adjacency
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU, to_sequence
from modules.backbones.skeleton.hcn import HCN
from modules.core.loading import load_strictly
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.losses import contrast
from modules.methods.skeleton_contrast import SkeletonContrast
from modules.weights.names.skeleton_contrast import from_official, gru_from_official, gru_to_official, to_official
from tests.parity.cases import assert_close, load_case, part

METHOD = "skeleton_contrast"


def from_sequence(rows: Tensor) -> Tensor:
    """[B, T, 150] -> [B, 3, T, 25, 2]"""
    return rows.unflatten(2, (25, 3, 2)).permute(0, 3, 1, 2, 4)


def clips(values: Tensor) -> Tensor:
    return from_sequence(values) if values.ndim == 3 else values


def build(name: str, ctor: dict[str, Any]) -> SkeletonEncoder:
    if name == "bigru":
        return BiGRU(ctor.get("en_hidden_size", 1024), ctor.get("en_num_layers", 3))
    if name == "agcn":
        return AGCN(ctor.get("base_width", 64))
    return HCN(ctor.get("out_channel", 64), ctor.get("window_size", 64))


def loaded(name: str, ctor: dict[str, Any], state: dict[str, Tensor]) -> SkeletonEncoder:
    network = build(name, ctor)
    report = load_strictly(network, gru_from_official(state), name, may_leave=("fc.",))
    assert set(report.left_over) == {"fc.bias", "fc.weight"}
    assert gru_to_official(network.state_dict()).keys() == state.keys() - {"fc.bias", "fc.weight"}
    return network.eval()


def formula(shapes: dict[str, list[int]], std: float) -> dict[str, Tensor]:
    """Weights as the description of the full-size cases says."""
    state = {}
    for number, key in enumerate(sorted(shapes)):
        index = torch.arange(math.prod(shapes[key]), dtype=torch.int64)
        value = ((index * 1103515245 + 12345 + number * 40503 * 65537) % 2**31).double() / 2**31
        if key.endswith("num_batches_tracked"):
            value = torch.zeros(1)
        elif key.endswith("running_var"):
            value = 0.5 + value
        else:
            value = (value - 0.5) * 2 * math.sqrt(3) * std + 0.9 * (len(shapes[key]) == 1 and key.endswith("weight"))
        state[key] = value.to(torch.int64 if key.endswith("num_batches_tracked") else torch.float32).reshape(shapes[key])
    return state


@pytest.mark.parametrize("name", ["bigru", "agcn", "hcn"])
def test_encoder(name: str) -> None:
    tensors, info = load_case(METHOD, name)
    state = part(tensors, "state.")
    network = loaded(name, info["ctor"], state)
    with torch.no_grad():
        feature = network(clips(tensors["input.x"]))
    assert_close(feature, tensors["output.feature"], "feature")
    assert_close(F.linear(feature, state["fc.weight"], state["fc.bias"]), tensors["output.logits"], "logits")
    assert len(state) == info["n_state_tensors"]


@pytest.mark.parametrize("name", ["bigru", "agcn", "hcn"])
def test_full_size_encoder(name: str) -> None:
    tensors, info = load_case(METHOD, f"{name}_full")
    state = formula(info["state_dict_shapes"], info["std"])
    network = loaded(name, {}, state)
    head = state["fc.weight"].numel() + state["fc.bias"].numel()
    assert sum(value.numel() for value in network.parameters()) + head == info["param_count"]
    with torch.no_grad():
        feature = network(clips(tensors["input.x"]))
    assert_close(feature, tensors["output.feature"], "feature", 1e-4)
    assert_close(F.linear(feature, state["fc.weight"], state["fc.bias"]), tensors["output.logits"], "logits", 1e-4)


def test_adjacency() -> None:
    tensors, _ = load_case(METHOD, "agcn")
    assert torch.equal(adjacency(), tensors["input.adjacency"])


def test_a_truly_bidirectional_network_is_another_one() -> None:
    tensors, info = load_case(METHOD, "bigru")
    ctor, state = info["ctor"], part(tensors, "state.")
    skeleton = clips(tensors["input.x"])
    assert torch.equal(to_sequence(skeleton), tensors["input.x"])
    network = BiGRU(ctor["en_hidden_size"], ctor["en_num_layers"], "true_bidirectional")
    load_strictly(network, gru_from_official(state), "bigru", may_leave=("fc.",))
    with torch.no_grad():
        states = network.forward_features(skeleton)
    difference = (states[:, -1] - tensors["output.feature"]).abs().max()
    assert float(difference) == pytest.approx(info["diff_to_true_bidirectional"], rel=1e-4)


PAIRS = {
    "moco_inter_seq_graph": ("bigru", "agcn"),
    "moco_inter_graph_image": ("agcn", "hcn"),
    "moco_intra_seq": ("bigru", None),
}


def build_method(case: str, ctor: dict[str, Any]) -> SkeletonContrast:
    first, second = PAIRS[case]
    width = next(value for key, value in ctor.items() if key.startswith("agcn_base_width"))
    sizes = {"bigru": ctor["bigru"], "agcn": {"base_width": width}, "hcn": ctor["hcn"]}
    settings = ContrastSettings(
        out_dim=ctor["dim"], queue_size=ctor["K"], momentum=ctor["m"], temperature=ctor["T"], shuffle=False
    )
    partner = build(second, sizes[second]) if second is not None else None
    method = SkeletonContrast(build(first, sizes[first]), partner, contrast=settings)
    # The case has every layer in eval mode, but moves the momentum and fills the queues.
    for module in method.modules():
        module.training = isinstance(module, MomentumContrast)
    return method


@pytest.mark.parametrize("case", PAIRS)
def test_step(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, info = load_case(METHOD, case)
    state = part(tensors, "state.")
    method = build_method(case, info["ctor"])
    load_strictly(method, from_official(state), case)
    again = to_official(method.state_dict())
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())

    views = (
        [("im_q", "im_k")] if "input.im_q" in tensors else [(f"input_{form}_v1", f"input_{form}_v2") for form in ("s1", "s2")]
    )
    pairs = [(clips(tensors[f"input.{one}"]), clips(tensors[f"input.{two}"])) for one, two in views]
    query, key = pairs[0]
    # Both forms are of the same clips.
    assert all(torch.equal(query, one) and torch.equal(key, two) for one, two in pairs)

    seen: list[Tensor] = []
    logits = contrast.contrast_logits

    def spy(*values: Any) -> Tensor:
        seen.append(logits(*values))
        return seen[-1]

    monkeypatch.setattr(contrast, "contrast_logits", spy)
    found = method.compare(query, key)
    names = ("",) if len(found) == 1 else ("_s1", "_s2")
    for name, one, values in zip(names, found, seen, strict=True):
        assert_close(values.detach(), tensors[f"output.logits{name}"], f"logits{name}")
        assert_close(one.loss.detach(), tensors[f"output.loss{name}"], f"loss{name}")
    loss = torch.stack([one.loss for one in found]).sum()
    assert_close(loss.detach(), tensors["output.loss"], "loss")
    after = to_official(method.state_dict())
    for name, value in part(tensors, "output.").items():
        if name.endswith("_after"):
            assert_close(after[name.removesuffix("_after")], value, name)
    loss.backward()
    gradients = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    official = to_official(gradients)
    for name, value in part(tensors, "output.grad.").items():
        assert_close(official[name], value, f"gradient of {name}")


# --- Augmentations ---


def spatial(record: list[list[Any]]) -> SkeletonDraws:
    """What the official code drew to change one clip in space; numbers of a shear are those beside the diagonal."""
    chosen = torch.zeros(1, 25, dtype=torch.bool)
    for name, _, value in record:
        if name == "np.random.choice":
            chosen[:, value] = True
    sheared = ~chosen.any(1)
    numbers = torch.tensor([value for name, _, value in record if name == "random.uniform"])
    matrix = torch.zeros(1, 3, 3)
    if len(numbers):
        matrix[:, ~torch.eye(3, dtype=torch.bool) | ~sheared] = numbers
    return SkeletonDraws(sheared, chosen, torch.tensor([not len(numbers)]), matrix)


def change(clip: Tensor, record: list[list[Any]]) -> Tensor:
    """[3, T, J, M] -> the same, changed in space as recorded."""
    return transform_joints(clip[None], joint_matrices(spatial(record)))[0]


@pytest.mark.parametrize("name", ["pose_augmentation", "joint_corruption_zero", "joint_corruption_jitter"])
def test_augmentation(name: str) -> None:
    tensors, info = load_case(METHOD, "augment")
    result = change(tensors["input.clip64"], info["calls"][name]["draws_in_order"])
    assert_close(result, tensors[f"output.{name}"], name)
    assert (result - tensors[f"output.{name}"]).abs().max() <= 1e-6


def crop(data: Tensor, frames: int, record: list[list[Any]]) -> Tensor:
    """The official crop in time as recorded: [3, T, J, M] -> [3, 64, J, M]."""
    (_, (_, starts), start) = next(draw for draw in record if draw[0] == "np.random.randint")
    cut = data[:, start : start + frames - starts + 1]
    return F.interpolate(cut.flatten(2)[None], size=(64, 50), mode="bilinear")[0].unflatten(2, (25, 2))


def test_feeders() -> None:
    """Whole samples: crop in time as recorded, then our changes and forms."""
    tensors, info = load_case(METHOD, "feeder")
    kinds = set()
    for call, description in info["calls"].items():
        feeder, item = call.split(".item")
        if feeder.startswith("down"):
            continue
        record = description["draws_in_order"]
        second = max(number for number, draw in enumerate(record) if draw[0] == "np.random.rand")
        forms = feeder.split("_")[1:]
        for view, own in enumerate((record[:second], record[second:])):
            row = int(item)
            clip = crop(tensors["input.data"][row], int(tensors["input.num_frame"][row]), own)
            changed = change(clip, own)
            drawn = spatial(own)
            kinds.add((bool(drawn.sheared), bool(drawn.zeroed)))
            for number, form in enumerate(forms):
                expected = tensors[f"output.{call}.{view * len(forms) + number}"]
                ours = to_sequence(changed[None])[0] if form == "seq" else changed
                assert_close(ours, expected, f"{call}, view {view}, {form}", 2e-6)
    # Shear, hidden joints and moved joints have all been seen.
    assert len(kinds) == 3

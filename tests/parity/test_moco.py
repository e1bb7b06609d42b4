"""Momentum contrast against tensors of TubeletContrast's official code: projections, momentum update, loss, queue."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.layers.contrast.momentum import follow, frozen_copy
from modules.layers.contrast.queue import Queue
from modules.layers.heads import ProjectionHead
from modules.losses.contrast import contrast_logits, info_nce, unit_rows
from tests.parity.cases import assert_close, load_case, part

HEADS = ["moco_head_mlp", "moco_head_i3d"]


class StandIn(nn.Module):
    """The case's backbone: a convolution, batch norm, ReLU and the mean over time and space."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, width, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, video: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(video))).mean(dim=(2, 3, 4))


def head_names(state: dict[str, Tensor]) -> dict[str, str]:
    """The numbers of an official head's two linear layers, and ours: I3D's has pooling in front."""
    numbers = sorted({int(name.split(".")[0]) for name in state})
    assert len(numbers) == 2
    return {str(theirs): ours for theirs, ours in zip(numbers, ("0", "2"), strict=True)}


def branch(state: dict[str, Tensor], backbone: str, head: str) -> nn.Sequential:
    """Backbone and head of one branch, in eval mode as in the case."""
    convolutions, linears = part(state, f"{backbone}."), part(state, f"{head}.")
    names = head_names(linears)
    renamed = {f"{names[name.split('.')[0]]}.{name.split('.')[1]}": value for name, value in linears.items()}
    network = StandIn(len(convolutions["conv.bias"]))
    network.load_state_dict(convolutions)
    projection = ProjectionHead(renamed["0.weight"].shape[1], len(renamed["0.bias"]), len(renamed["2.bias"]))
    projection.load_state_dict(renamed)
    return nn.Sequential(network, projection).eval()


def queue_of(columns: Tensor, pointer: int) -> Queue:
    """A queue as the case's was before the step."""
    queue = Queue(columns.shape[1], columns.shape[0])
    queue.load_state_dict({"keys": columns.T, "pointer": torch.tensor(pointer)})
    return queue


@pytest.mark.parametrize("case", HEADS)
def test_step(case: str) -> None:
    tensors, info = load_case("tubelet_contrast", case)
    settings, state = info["settings"], part(tensors, "state.")
    online, slow = branch(state, "backbone", "fc"), frozen_copy(branch(state, "key_encoder", "key_fc"))
    queue = queue_of(state["queue"], int(state["queue_ptr"]))
    queue.check(settings["batch"])

    raw = online(tensors["input.imgs"])
    # The official head of I3D ends with its own normalisation.
    assert_close(unit_rows(raw).detach(), unit_rows(tensors["output.q_raw"]), "direction of the projection")
    if settings["network"] != "i3d":
        assert_close(raw.detach(), tensors["output.q_raw"], "projection")
    query = unit_rows(raw)
    assert_close(query.detach(), tensors["output.q"], "query")

    follow(slow, online, settings["momentum"])
    expected = part(tensors, "output.key_after.")
    names = head_names(part(expected, "key_fc."))
    moved = dict(slow.named_parameters())
    assert len(expected) == len(moved)
    for name, value in expected.items():
        module, rest = name.split(".", 1)
        number, kind = rest.split(".")
        ours = f"1.{names[number]}.{kind}" if module == "key_fc" else f"0.{rest}"
        assert_close(moved[ours], value, name)

    with torch.no_grad():
        key = unit_rows(slow(tensors["input.imgs_k"]))
    assert_close(key, tensors["output.k"], "key")
    logits = contrast_logits(query, key, queue.keys, settings["temperature"])
    assert_close(logits.detach(), tensors["output.logits"], "logits")
    assert not tensors["output.labels"].any()
    loss = info_nce(query, key, queue.keys, settings["temperature"]).loss
    assert_close(loss.detach(), tensors["output.loss"], "loss")
    queue.enqueue(key)
    assert_close(queue.keys.T, tensors["output.queue_after"], "queue")
    assert int(queue.pointer) == int(tensors["output.queue_ptr_after"])
    loss.backward()
    last = online[1][2].weight.grad
    assert last is not None
    assert_close(last, tensors["output.grad.fc_last_weight"], "gradient of the last weight")


def test_loss() -> None:
    tensors, info = load_case("tubelet_contrast", "moco_loss")
    query, key, temperature = tensors["input.q"], tensors["input.k"], info["settings"]["temperature"]
    queue = queue_of(tensors["input.queue"], 0)
    assert_close(contrast_logits(query, key, queue.keys, temperature), tensors["output.logits"], "logits")
    assert_close(info_nce(query, key, queue.keys, temperature).loss, tensors["output.loss"], "loss")
    queue.enqueue(key)
    assert_close(queue.keys.T, tensors["output.queue_after"], "queue")
    assert int(queue.pointer) == int(tensors["output.queue_ptr_after"])

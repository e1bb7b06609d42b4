"""OPN against tensors of its official code: classes of orders, and the crops of the frames of a tuple."""

import torch

from modules.augment.frames import jittered_boxes
from modules.methods.opn import ORDERS, labels_of
from tests.parity.cases import load_case


def test_classes() -> None:
    tensors, _ = load_case("opn", "class_table")
    assert torch.equal(torch.tensor(ORDERS), tensors["output.table"])
    assert torch.equal(labels_of(tensors["input.order"]), tensors["output.label"])


def test_crops() -> None:
    tensors, info = load_case("opn", "spatial_jitter")
    side = info["settings"]["image_size"]
    found = jittered_boxes(tensors["input.start_xy"], tensors["input.jitter_xy"], side, side + 20)
    assert torch.equal(found, tensors["output.box_x0y0x1y1"])

"""`Method.load_from_checkpoint(path)` restores every downstream method from a run's checkpoint, without further arguments."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from modules.backbones.depth import Depth
from modules.backbones.signal.cnn import SignalCNN
from modules.backbones.skeleton.hcn import HCN
from modules.core.batch import Batch, Stream
from modules.downstream.classification import Classification
from modules.downstream.fusion import FusedClassification
from modules.training.method import Method
from tests.registry import FRAMES, OPTIM, SIDE, tiny_cnn, tiny_vit

VIT = {
    "class_path": "modules.backbones.vit.video_vit.VideoViT",
    "init_args": {
        **{"size": "micro", "image_size": SIDE, "num_frames": FRAMES, "patch_size": 8},
        **{"embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path": 0.1, "checkpoint": "not/here.safetensors"},
    },
}
CNN = {"class_path": "modules.backbones.cnn.resnet.VideoResNet", "init_args": {"name": "r3d_18", "width": 4}}
BONES = {"class_path": "modules.backbones.skeleton.hcn.HCN", "init_args": {"width": 4, "window": 16}}
SENSOR = {"class_path": "modules.backbones.signal.cnn.SignalCNN", "init_args": {"channels": 6, "width": 4, "standardise": True}}
FAR = {"class_path": "modules.backbones.depth.Depth", "init_args": {"network": CNN, "near": 1000, "far": 3000}}


def hcn() -> HCN:
    return HCN(4, 16)


def sensor() -> SignalCNN:
    return SignalCNN(6, 4, standardise=True)


def depth() -> Depth:
    return Depth(tiny_cnn(), 1000, 3000)


def batch() -> Batch:
    """Two samples with every stream."""
    g = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (2, 1, FRAMES, SIDE, SIDE, 3), generator=g).to(torch.uint8)
    streams = {
        "video": Stream("video", video),
        "depth": Stream("depth", torch.randint(0, 4000, (2, 1, FRAMES, SIDE, SIDE, 1), generator=g).to(torch.uint16)),
        "skeleton": Stream("skeleton", torch.randn(2, 1, 3, 16, 25, 2, generator=g)),
        "signal": Stream("signal", torch.randn(2, 1, 6, 24, generator=g)),
    }
    return Batch(torch.arange(2), torch.arange(2), streams)  # type: ignore[arg-type]


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "fine-tuned": (lambda: Classification(tiny_vit(), 3, optim=OPTIM), {"backbone": VIT, "init_from": "not/here.pth"}),
    "attentive": (lambda: Classification(tiny_vit(), 3, "attentive", optim=OPTIM), {"backbone": VIT, "mode": "attentive"}),
    "linear": (lambda: Classification(tiny_cnn(), 3, "linear", optim=OPTIM), {"backbone": CNN, "mode": "linear"}),
    "skeleton": (lambda: Classification(hcn(), 3, optim=OPTIM), {"backbone": BONES}),
    "signal": (lambda: Classification(sensor(), 3, optim=OPTIM), {"backbone": SENSOR}),
    "depth": (lambda: Classification(depth(), 3, optim=OPTIM), {"backbone": FAR}),
    "fused": (
        lambda: FusedClassification({"depth": depth(), "skeleton": hcn(), "signal": sensor()}, 3, optim=OPTIM),
        {"encoders": {"depth": FAR, "skeleton": BONES, "signal": SENSOR}, "fuse": "probabilities"},
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_downstream_methods_come_back_from_their_checkpoint(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, settings = CASES[name]
    method = build().eval()
    kind = type(method)
    config = {"model": {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": settings}}
    kept: dict[str, Any] = {"state_dict": method.state_dict(), "pytorch-lightning_version": "2.6.0", "epoch": 3}
    method.on_save_checkpoint(kept)
    kept.setdefault("record", {}).update({"config": yaml.safe_dump(config, sort_keys=False), "class_names": ["a", "b", "c"]})
    torch.save(kept, tmp_path / "last.ckpt")
    again: Any = Method.load_from_checkpoint(tmp_path / "last.ckpt").eval()
    assert type(again) is kind
    if name == "fused":
        assert again.fuse == "probabilities"
        method.fuse = again.fuse
        expected, found = method.logits(batch()), again.logits(batch())
        assert all(torch.equal(found[stream], expected[stream]) for stream in found)
    else:
        assert (again.mode, again.classifier.out_features) == (method.mode, 3)
        assert torch.equal(again.clip_logits(batch()), method.clip_logits(batch()))
    assert torch.equal(again.embed(batch()), method.embed(batch()))

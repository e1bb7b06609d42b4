"""Recomputed blocks: the same gradients and running statistics bit for bit, and fewer bytes kept for the backward pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.cnn.s3d import S3D
from modules.backbones.vit.decoder import DecoderSettings, MaskedDecoder
from modules.training.compilation import compile_parts
from tests.registry import tiny_vit

CNNS: dict[str, Callable[..., VideoCNN]] = {
    "r3d_18": lambda **settings: VideoResNet("r3d_18", 4, **settings),
    "r2plus1d_18": lambda **settings: VideoResNet("r2plus1d_18", 4, **settings),
    "i3d": lambda **settings: I3D(1 / 16, **settings),
    "s3d": S3D,
}


def saved_bytes(network: nn.Module, *inputs: Tensor) -> tuple[int, Tensor]:
    """Bytes that autograd keeps for the backward pass besides the weights, each storage once; and the result."""
    weights = {value.untyped_storage().data_ptr() for value in network.state_dict(keep_vars=True).values()}
    kept: dict[int, Tensor] = {}

    def note(value: Tensor) -> Tensor:
        kept.setdefault(value.untyped_storage().data_ptr(), value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        result = network(*inputs)
    return sum(value.untyped_storage().nbytes() for place, value in kept.items() if place not in weights), result


def both(build: Callable[[bool], nn.Module], *inputs: Tensor, prepare: Callable[[nn.Module], Any] = lambda _: None) -> None:
    """Compare a network with and without."""
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        network = build(again).train()
        prepare(network)
        torch.manual_seed(1)
        size, result = saved_bytes(network, *inputs)
        result.square().sum().backward()
        found.append((size, network))
    (most, plain), (least, recomputed) = found
    assert least < most / 2, (least, most)
    for (name, value), other in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert other.grad is not None, name
        assert torch.equal(value.grad, other.grad), name  # type: ignore[arg-type]
    for name, value in plain.state_dict().items():
        assert torch.equal(value, recomputed.state_dict()[name]), name


@pytest.mark.parametrize("name", CNNS)
def test_cnns(name: str) -> None:
    side = 64 if name in ("i3d", "s3d") else 32
    both(lambda again: CNNS[name](recompute_blocks=again), torch.randn(2, 3, 8, side, side))


def decoder(again: bool) -> MaskedDecoder:
    return MaskedDecoder(tiny_vit(), 48, DecoderSettings(3, dim=32, recompute_blocks=again))


def test_decoder() -> None:
    visible, masked = torch.arange(4).expand(2, -1), torch.arange(4, 32).expand(2, -1)
    both(decoder, torch.randn(2, 4, 32), visible, masked)


@pytest.mark.slow
def test_compiled_parts_are_recomputed_too() -> None:
    def prepare(network: nn.Module) -> None:
        torch._dynamo.reset()
        assert compile_parts(network, "blocks", "aot_eager")

    both(lambda again: VideoResNet("r3d_18", 4, recompute_blocks=again), torch.randn(2, 3, 4, 32, 32), prepare=prepare)


def test_nothing_is_recomputed_in_evaluation_or_without_gradient() -> None:
    network = CNNS["r3d_18"](recompute_blocks=True)
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        counts = network.stem[1].num_batches_tracked.clone()
        network(clips)
    assert network.stem[1].num_batches_tracked == counts + 1
    assert not network.eval().requires_grad_(False)(clips).requires_grad

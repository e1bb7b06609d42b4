"""Floating-point operations of a step: against formulas, against a real step, and without a trace."""

import copy
import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch
from modules.core.output import StepOutput
from modules.core.randomness import device_generator
from modules.training.flops import ON_CPU, step_flops
from modules.training.method import Method
from tests.registry import DOWNSTREAM, METHODS, OPTIM, Case, skeleton_batch, tiny_vit, video_batch


class Plain(Method):
    """A loss of an encoder's features."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(OPTIM)
        self.backbone = backbone

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        (stream,) = batch.streams
        return {"loss": self.backbone(self.normalise(batch.stream(stream).data.flatten(0, 1))).square().mean()}


class Looks(Plain):
    """Looks into the values of a tensor."""

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        output = super().step(batch, generator)
        assert output["loss"].item() < 1e9
        return output


class Scaled(nn.Module):
    """Attention alone, with as many queries as keys or fewer."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.queries = queries

    def preprocess(self, clip: Tensor) -> Tensor:
        return clip.float().flatten(1)[:, :1024].reshape(-1, 2, 32, 16) * self.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(tokens[:, :, : self.queries], tokens, tokens)


def test_a_vision_transformer_agrees_with_the_formula() -> None:
    clips, tokens, width, depth = 3, 32, 32, 2
    vit = VideoViT("micro", 32, 4, patch_size=8, embed_dim=width, depth=depth, num_heads=2)
    products = {"qkv": width * 3 * width, "projection": width * width, "mlp": 2 * width * 4 * width}
    block = tokens * sum(products.values()) + 2 * tokens * tokens * width
    cubes = tokens * (2 * 8 * 8 * 3) * width
    # Backward has two products for each of forward; pixels need no gradient.
    assert step_flops(Plain(vit), video_batch(clips)) == 2 * clips * (3 * depth * block + 2 * cubes)


@pytest.mark.parametrize("queries", [32, 8])
def test_attention_alone(queries: int) -> None:
    # Scores and their mix of values, twice as much backward; 2 clips of 2 heads of 32 tokens of width 16.
    assert step_flops(Plain(Scaled(queries)), video_batch(2)) == 3 * (2 * 2 * 2 * 2 * queries * 32 * 16)


def test_a_recurrent_network_agrees_with_the_formula() -> None:
    clips, frames, hidden = 4, 4, 8
    gates = 3 * hidden
    inputs, states = clips * frames * 150 * gates, clips * frames * hidden * gates
    # Two GRUs. No gradient goes to the skeletons, nor to the states before the first frame.
    wanted = 2 * 2 * (2 * inputs + 3 * states) - 2 * 2 * clips * hidden * gates
    assert step_flops(Plain(BiGRU(hidden, 1)), skeleton_batch(clips)) == wanted


def test_what_is_recomputed_counts_once() -> None:
    counts = []
    for again in (False, True):
        vit = tiny_vit()
        vit.recompute_blocks = again
        counts.append(step_flops(Plain(vit), video_batch()))
    assert counts[0] == counts[1] is not None


def test_frozen_networks_count_forward() -> None:
    frozen = tiny_vit().requires_grad_(False)
    frozen.norm = nn.LayerNorm(32)
    assert step_flops(Plain(frozen), video_batch()) * 2 < step_flops(Plain(tiny_vit()), video_batch())


def some(*cases: Case) -> list[Any]:
    """Parameters of a test of which most forms are slow."""
    quick = ("VideoMAE", "TubeletContrast", "LocoMotion", "fine-tuning")
    return [pytest.param(case, marks=[] if case.name in quick else [pytest.mark.slow], id=case.name) for case in cases]


@pytest.mark.parametrize("case", some(*METHODS, *DOWNSTREAM))
def test_counted_without_data_as_in_a_real_step_and_without_a_trace(case: Case) -> None:
    method, batch = case.build(), case.batch()
    if (prepare := method.preparation()) is not None:
        # What is drawn decides how long sentences are.
        prepare(batch, 0)
    before, states = copy.deepcopy(method.state_dict()), [torch.get_rng_state(), batch_bytes(batch)]
    counted = step_flops(method, batch)
    assert all(torch.equal(one, other) for one, other in zip(states, [torch.get_rng_state(), batch_bytes(batch)], strict=True))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(type(value) is nn.Parameter and value.grad is None for value in method.parameters())
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as real:
        method.train().step(batch, device_generator("cpu", 0))["loss"].backward()
    assert counted == real.get_total_flops() > 0


def batch_bytes(batch: Batch) -> Tensor:
    """All data of a batch in a row."""
    return torch.cat([batch.stream(name).data.flatten().double() for name in batch.streams])


def test_twice_the_batch_is_twice_the_work() -> None:
    method = METHODS[0].build()
    assert step_flops(method, video_batch(8)) == 2 * step_flops(method, video_batch(4))


def test_a_step_that_looks_at_values_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert step_flops(Looks(tiny_vit()), video_batch()) is None
    assert "The operations of a step of Looks cannot be counted" in caplog.text


def test_half_precision_counts_the_same() -> None:
    counts: list[Any] = [step_flops(METHODS[0].build().to(dtype), video_batch()) for dtype in (torch.float32, torch.bfloat16)]
    assert counts[0] == counts[1] is not None

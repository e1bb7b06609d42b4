"""Contrast between two encoders of skeletons in two real processes equals one process with the joined batch."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.methods.skeleton_contrast import SkeletonContrast
from tests.resume.runs import as_torchrun_does, together

WORLD, BATCH, STEPS, SIZE = 2, 3, 3, 12
JOINED = WORLD * BATCH


class Comparing(nn.Module):
    """The comparison as a module, for DDP. Batch statistics depend on how rows are distributed; the running ones do not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        settings = ContrastSettings(out_dim=6, queue_size=SIZE, momentum=0.9, temperature=0.07, shuffle=False)
        self.method = SkeletonContrast(BiGRU(6, 2), AGCN(4), contrast=settings)
        for part in self.method.modules():
            part.training = isinstance(part, MomentumContrast)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return torch.stack([found.loss for found in self.method.compare(query, key)]).sum()


def run(module: nn.Module, comparing: Comparing, rows: slice) -> list[dict[str, Any]]:
    """Some steps with these rows of the joined batches; returns the state after each."""
    optimiser = torch.optim.SGD([value for value in comparing.parameters() if value.requires_grad], lr=0.1)
    generator = torch.Generator().manual_seed(5)
    told = []
    for _ in range(STEPS):
        query, key = torch.randn(2, JOINED, 3, 8, 25, 2, generator=generator)
        optimiser.zero_grad()
        loss = module(query[rows], key[rows])
        loss.backward()
        gradients = {name: value.grad.clone() for name, value in comparing.named_parameters() if value.grad is not None}
        optimiser.step()
        state = {name: value.clone() for name, value in comparing.method.state_dict().items()}
        told.append({"loss": loss.detach(), "gradients": gradients, "state": state})
    return told


def one_process(folder: Path, rank: int, port: int) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    distributed.init_process_group("gloo")
    comparing = Comparing()
    module = DistributedDataParallel(comparing, broadcast_buffers=False)
    torch.save(run(module, comparing, slice(rank * BATCH, (rank + 1) * BATCH)), folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Records of both processes."""
    folder = tmp_path_factory.mktemp("skeletons")
    assert together(one_process, [(folder,)] * WORLD) == [0] * WORLD
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_two_processes_equal_one_with_the_joined_batch(told: list[list[dict[str, Any]]]) -> None:
    comparing = Comparing()
    for number, joined in enumerate(run(comparing, comparing, slice(None))):
        steps = [process[number] for process in told]
        losses = [float(step["loss"]) for step in steps]
        assert losses[0] != losses[1]
        assert sum(losses) / WORLD == pytest.approx(float(joined["loss"]), rel=1e-5)
        # Momentum copies and queues are part of the state.
        assert {"contrast.queue.keys", "partner_contrast.key_head.0.weight"} < joined["state"].keys()
        for step in steps:
            for part in ("gradients", "state"):
                assert step[part].keys() == joined[part].keys()
                for name, value in joined[part].items():
                    assert torch.allclose(step[part][name], value, rtol=1e-4, atol=1e-5), (number, part, name)


def test_every_step_writes_the_keys_of_all_processes(told: list[list[dict[str, Any]]]) -> None:
    before = Comparing().method.state_dict()
    for number in range(STEPS):
        one, other = (process[number]["state"] for process in told)
        for name in ("contrast", "partner_contrast"):
            assert torch.equal(one[f"{name}.queue.keys"], other[f"{name}.queue.keys"])
            written = (one[f"{name}.queue.keys"] != before[f"{name}.queue.keys"]).any(1).nonzero().flatten()
            first = number * JOINED % SIZE
            assert written.tolist() == list(range(first, first + JOINED))
            assert int(one[f"{name}.queue.pointer"]) == (first + JOINED) % SIZE
        before = one

"""Momentum contrast in two real processes equals one process with the joined batch."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from modules.core.distributed import gather_rows, position, shuffled
from modules.layers.contrast.momentum import follow, frozen_copy
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.layers.contrast.queue import Queue
from modules.layers.heads import ProjectionHead
from modules.losses.contrast import info_nce, pair_contrast, unit_rows
from modules.losses.video_text import gather_rows_with_gradient
from tests.resume.runs import as_torchrun_does, together

WORLD, BATCH, STEPS, FEATURES, DIM, SIZE = 2, 3, 3, 10, 6, 12
JOINED = WORLD * BATCH


class Step(NamedTuple):
    """Views of the joined batch of one step."""

    query: Tensor
    key: Tensor


def batches() -> list[Step]:
    generator = torch.Generator().manual_seed(5)
    return [Step(*torch.randn(2, JOINED, FEATURES, generator=generator)) for _ in range(STEPS)]


def shuffle_generator(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(step)


class Contrasting(nn.Module):
    """The parts, combined like in a method."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.online = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), ProjectionHead(8, 8, DIM))
        self.slow = frozen_copy(self.online)
        self.queue = Queue(SIZE, DIM)

    def forward(self, query_view: Tensor, key_view: Tensor, generator: torch.Generator) -> Tensor:
        query = unit_rows(self.online(query_view))
        follow(self.slow, self.online, 0.9)
        key = shuffled(lambda view: unit_rows(self.slow(view)), key_view, generator)
        loss = info_nce(query, key, self.queue.keys, 0.2).loss
        self.queue.enqueue(key)
        return loss


def run(module: nn.Module, contrasting: Contrasting, rows: slice) -> list[dict[str, Any]]:
    """Some steps with these rows of the joined batches; returns the state after each."""
    # Batch statistics depend on how rows are distributed; the running ones do not.
    contrasting.eval()
    optimiser = torch.optim.SGD(contrasting.online.parameters(), lr=0.1)
    told = []
    for number, (query, key) in enumerate(batches()):
        optimiser.zero_grad()
        loss = module(query[rows], key[rows], shuffle_generator(number))
        loss.backward()
        gradients = {name: value.grad.clone() for name, value in contrasting.online.named_parameters()}
        optimiser.step()
        state = {name: value.clone() for name, value in contrasting.state_dict().items()}
        told.append({"loss": loss.detach(), "gradients": gradients, "state": state})
    return told


def without_queue(rows: slice) -> tuple[Tensor, Tensor]:
    """Loss of those rows of the first batch among the keys of all processes, and its gradient to their queries."""
    backbone = nn.Linear(FEATURES, DIM)
    backbone.embed_dim = DIM  # type: ignore[assignment]
    contrast = MomentumContrast(backbone, ContrastSettings(out_dim=DIM, queue_size=0))
    query, key = (unit_rows(view[rows]) for view in batches()[0])
    loss = contrast.compare(query.requires_grad_(), key).loss
    return loss.detach(), torch.autograd.grad(loss, query)[0]


def pairs(rows: slice) -> tuple[Tensor, Tensor]:
    """CVRL's loss of those videos with the clips of all processes, and its gradient to the weights of a small network."""
    torch.manual_seed(0)
    network = nn.Linear(FEATURES, DIM)
    module = DistributedDataParallel(network) if position()[1] > 1 else network
    both = torch.cat([view[rows] for view in batches()[0]])
    first, second = unit_rows(module(both)).chunk(2)
    everyone = gather_rows_with_gradient(torch.stack([first, second], dim=1))
    loss = pair_contrast(everyone[:, 0], everyone[:, 1], 0.1).losses.mean()
    loss.backward()
    assert network.weight.grad is not None
    return loss.detach(), network.weight.grad


def normed() -> nn.BatchNorm1d:
    """Batch norm in training mode: its output for a row depends on the other rows."""
    return nn.BatchNorm1d(FEATURES).train()


def one_process(folder: Path, rank: int, port: int) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    distributed.init_process_group("gloo")
    rows = slice(rank * BATCH, (rank + 1) * BATCH)
    told: dict[str, Any] = {"position": position()}
    for broadcast in (False, True):
        contrasting = Contrasting()
        module = DistributedDataParallel(contrasting, broadcast_buffers=broadcast)
        told["broadcast" if broadcast else "apart"] = run(module, contrasting, rows)
    told["without_queue"] = without_queue(rows)
    told["pairs"] = pairs(rows)
    mine = batches()[0].key[rows]
    told["gathered"] = gather_rows(mine.clone().requires_grad_())
    told["pixels"] = gather_rows(mine.view(torch.uint8).movedim(0, 1))
    told["shuffled"] = shuffled(normed(), mine, shuffle_generator(0))
    torch.save(told, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Records of both processes."""
    folder = tmp_path_factory.mktemp("contrast")
    assert together(one_process, [(folder,)] * WORLD) == [0] * WORLD
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("buffers", ["apart", "broadcast"])
def test_two_processes_equal_one_with_the_joined_batch(buffers: str, told: list[dict[str, Any]]) -> None:
    contrasting = Contrasting()
    joint = run(contrasting, contrasting, slice(None))
    # Three batches of six keys fill a queue of twelve one and a half times.
    assert int(joint[-1]["state"]["queue.pointer"]) == STEPS * JOINED % SIZE != 0
    for number, joined in enumerate(joint):
        losses = [float(process[buffers][number]["loss"]) for process in told]
        assert losses[0] != losses[1]
        assert sum(losses) / WORLD == pytest.approx(float(joined["loss"]), rel=1e-5)
        for process in told:
            for part in ("gradients", "state"):
                for name, value in joined[part].items():
                    same = torch.allclose(process[buffers][number][part][name], value, rtol=1e-5, atol=1e-6)
                    assert same, (number, part, name)


def test_keys_of_all_processes_are_negatives_without_a_queue(told: list[dict[str, Any]]) -> None:
    loss, gradient = without_queue(slice(None))
    losses, gradients = zip(*(process["without_queue"] for process in told), strict=True)
    assert torch.allclose(sum(losses) / WORLD, loss, rtol=1e-5)
    assert torch.allclose(torch.cat(gradients) / WORLD, gradient, atol=1e-6)


def test_pairs_of_two_processes_equal_one_with_the_joined_batch(told: list[dict[str, Any]]) -> None:
    """CVRL: negatives of all processes, with their gradient."""
    loss, gradient = pairs(slice(None))
    for process in told:
        own_loss, own_gradient = process["pairs"]
        assert torch.allclose(own_loss, loss, rtol=1e-5)
        assert torch.allclose(own_gradient, gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()))
    alone = pairs(slice(0, BATCH))[0]
    assert not torch.allclose(alone, loss, rtol=1e-2)


def test_all_processes_hold_the_same_queue(told: list[dict[str, Any]]) -> None:
    for step in range(STEPS):
        one, other = (process["apart"][step]["state"] for process in told)
        assert torch.equal(one["queue.keys"], other["queue.keys"])
        assert torch.equal(one["queue.pointer"], other["queue.pointer"])


def test_rows_are_gathered_rank_after_rank(told: list[dict[str, Any]]) -> None:
    key = batches()[0].key
    bytes_ = torch.cat([share.view(torch.uint8).movedim(0, 1) for share in key.chunk(WORLD)])
    for rank, process in enumerate(told):
        assert process["position"] == (rank, WORLD)
        assert torch.equal(process["gathered"], key)
        assert not process["gathered"].requires_grad
        assert torch.equal(process["pixels"], bytes_)


def test_shuffled_rows_come_back_to_their_place(told: list[dict[str, Any]]) -> None:
    key = batches()[0].key
    order = torch.randperm(JOINED, generator=shuffle_generator(0))
    expected = torch.empty_like(key)
    for share in order.chunk(WORLD):
        expected[share] = normed()(key[share]).detach()
    result = torch.cat([process["shuffled"] for process in told])
    assert torch.allclose(result, expected, atol=1e-6)
    unshuffled = torch.cat([normed()(share) for share in key.chunk(WORLD)])
    assert not torch.allclose(result, unshuffled, atol=1e-2)


def test_one_process_sends_copies_and_draws_nothing() -> None:
    values, generator = torch.randn(4, 5).requires_grad_(), shuffle_generator(0)
    before = generator.get_state()
    assert position() == (0, 1)
    assert gather_rows(values).data_ptr() == values.data_ptr()
    assert not gather_rows(values).requires_grad
    seen = []
    result = shuffled(lambda rows: seen.append(rows) or 2 * rows, values, generator)
    assert seen[0] is values
    assert torch.equal(result, 2 * values)
    assert not result.requires_grad
    assert torch.equal(generator.get_state(), before)

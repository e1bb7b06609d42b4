"""SIGMA's assignments and losses in two real processes equal those of one with all rows, with little communication."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from modules.losses.sinkhorn import SinkhornSettings, balance, shares
from modules.methods.sigma import swapped_loss
from tests.resume.runs import as_torchrun_does, together

WORLD, ROWS, COUNT, WIDTH, TURNS = 2, 24, 7, 5, 10
Results = dict[str, Any]


def settings(side_by_side: bool) -> SinkhornSettings:
    return SinkhornSettings(epsilon=0.1, iterations=TURNS, side_by_side=side_by_side)


def features() -> list[Tensor]:
    """Targets and predictions of all processes, and prototypes."""
    drawn = torch.Generator().manual_seed(4)
    # The two halves have different distributions, so that balancing each alone would differ.
    shift = torch.randn(WORLD, 1, WIDTH, generator=drawn)
    rows = [(torch.randn(WORLD, ROWS, WIDTH, generator=drawn) + shift).flatten(0, 1) for _ in range(2)]
    return [F.normalize(values) for values in (*rows, torch.randn(COUNT, WIDTH, generator=drawn))]


def results(own: slice, side_by_side: bool, over_processes: bool) -> Results:
    """Assignments, losses and gradients of some of the rows."""
    target, prediction, prototypes = features()
    target, prediction = target[own].requires_grad_(), prediction[own].requires_grad_()
    prototypes.requires_grad_()
    with torch.no_grad():
        branches = [target, prediction]
        weights = balance(branches, prototypes, settings(side_by_side), over_processes).log_weights
        soft = [shares(rows @ prototypes.T, log_u, 0.1) for rows, log_u in zip(branches, weights, strict=True)]
    swapped = swapped_loss(target, prediction, prototypes, 0.1, settings(side_by_side), over_processes)
    (swapped.target + swapped.prediction).backward()
    return {
        "shares": torch.stack(soft),
        "assigned": swapped.assigned,
        "losses": torch.stack([swapped.target, swapped.prediction]).detach(),
        "gradient of the prototypes": prototypes.grad,
        "gradient of the rows": torch.stack([target.grad, prediction.grad]),
    }


def one_process(folder: Path, rank: int, port: int) -> None:
    """One of two processes, with its half of the rows."""
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    distributed.init_process_group("gloo")
    sent: list[int] = []
    whole = distributed.all_reduce

    def counted(values: Tensor) -> None:
        sent.append(values.numel())
        whole(values)

    distributed.all_reduce = counted
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    told: dict[str, Any] = {}
    for name, side_by_side in (("in turn", False), ("side by side", True)):
        told[name] = results(own, side_by_side, True)
        # Once for the shares and once for the loss.
        told[name]["sent"] = sent[: len(sent) // 2]
        sent.clear()
    told["alone"] = results(own, False, False)
    told["alone"]["sent"] = list(sent)
    torch.save(told, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    """Records of both processes."""
    folder = tmp_path_factory.mktemp("sinkhorn")
    assert together(one_process, [(folder,)] * WORLD) == [0] * WORLD
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("way", ["in turn", "side by side"])
def test_two_processes_equal_one_with_all_rows(way: str, told: list[dict[str, Results]]) -> None:
    joined = results(slice(None), way == "side by side", False)
    parts = [process[way] for process in told]
    told_shares = torch.cat([part["shares"] for part in parts], dim=1)
    assert (told_shares - joined["shares"]).abs().max() < 1e-6
    assert torch.equal(torch.cat([part["assigned"] for part in parts], dim=1), joined["assigned"])
    assert torch.allclose((parts[0]["losses"] + parts[1]["losses"]) / WORLD, joined["losses"], rtol=1e-5)
    # DDP takes the mean of the processes' gradients.
    prototypes = torch.stack([part["gradient of the prototypes"] for part in parts]).mean(dim=0)
    assert torch.allclose(prototypes, joined["gradient of the prototypes"], atol=1e-6)
    rows = torch.cat([part["gradient of the rows"] for part in parts], dim=1) / WORLD
    assert torch.allclose(rows, joined["gradient of the rows"], atol=1e-7)


def test_each_process_by_itself_is_something_else(told: list[dict[str, Results]]) -> None:
    joined = results(slice(None), False, False)["shares"]
    alone = torch.cat([process["alone"]["shares"] for process in told], dim=1)
    assert (alone - joined).abs().max() > 0.1
    assert told[0]["alone"]["sent"] == []


def test_one_message_of_prototypes_per_turn(told: list[dict[str, Results]]) -> None:
    for process in told:
        assert process["side by side"]["sent"] == [2 * COUNT] * TURNS
        assert process["in turn"]["sent"] == [COUNT] * 2 * TURNS

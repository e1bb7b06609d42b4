"""Contrast of videos and sentences in two real processes equals one process with the joined batch."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from modules.core.distributed import gather_rows
from modules.layers.video_text import GatherGradient, contrast_loss, cosines, gather_rows_with_gradient
from tests.resume.runs import as_torchrun_does, together

WORLD, BATCH, FRAMES, WIDTH, DIM = 2, 3, 2, 10, 6
JOINED = WORLD * BATCH
GRADIENTS: tuple[GatherGradient, ...] = ("true", "vindlu")


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    video, text = (torch.randn(JOINED, *shape, generator=generator) for shape in ((FRAMES, WIDTH), (WIDTH,)))
    return video, text, torch.tensor([4, 1, 7, 4, 2, 3])


class Contrasting(nn.Module):
    """Two projections and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.video, self.text = nn.Linear(WIDTH, DIM), nn.Linear(WIDTH, DIM)
        self.temperature = nn.Parameter(torch.tensor(0.07))

    def forward(self, video: Tensor, text: Tensor, ids: Tensor, gradient: GatherGradient) -> Tensor:
        projected = (gather_rows_with_gradient(rows, gradient) for rows in (self.video(video), self.text(text)))
        return contrast_loss(cosines(*projected) / self.temperature, gather_rows(ids))


def run(module: nn.Module, contrasting: Contrasting, rows: slice, gradient: GatherGradient) -> dict[str, Any]:
    """Loss and gradients with those rows of the joined batch."""
    contrasting.zero_grad()
    video, text, ids = inputs()
    loss = module(video[rows], text[rows], ids[rows], gradient)
    loss.backward()
    gradients = {name: value.grad.clone() for name, value in contrasting.named_parameters()}
    return {"loss": loss.detach(), "gradients": gradients}


def one_process(folder: Path, rank: int, port: int) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    distributed.init_process_group("gloo")
    contrasting = Contrasting()
    module = DistributedDataParallel(contrasting)
    rows = slice(rank * BATCH, (rank + 1) * BATCH)
    torch.save({name: run(module, contrasting, rows, name) for name in GRADIENTS}, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both processes wrote down."""
    folder = tmp_path_factory.mktemp("video_text")
    assert together(one_process, [(folder,)] * WORLD) == [0] * WORLD
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_two_processes_equal_one_with_the_joined_batch(gradient: GatherGradient, told: list[dict[str, Any]]) -> None:
    contrasting = Contrasting()
    joined = run(contrasting, contrasting, slice(None), gradient)
    for process in told:
        assert torch.allclose(process[gradient]["loss"], joined["loss"], rtol=1e-5)
        for name, value in joined["gradients"].items():
            # The official gather leaves a share to the weights, but the whole to the temperature, which is not gathered.
            share = 1 / WORLD if gradient == "vindlu" and name != "temperature" else 1
            assert torch.allclose(process[gradient]["gradients"][name], share * value, rtol=1e-5, atol=1e-6), name

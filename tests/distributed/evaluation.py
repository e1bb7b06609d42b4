"""An evaluation with one process, and the same with two."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch

from tests.resume.runs import as_torchrun_does, together

Measure = Callable[[Path, int], dict[str, Any]]
"""Evaluate in a folder, as one of several processes; a module-level function, so that it can be pickled."""


def trainer_for(folder: Path, world: int) -> lightning.Trainer:
    """A trainer for the test of one of `world` processes."""
    return lightning.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )


def one_of_two(measure: Measure, folder: Path, rank: int, port: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, 2, port)
    torch.save(measure(folder, 2), folder / f"rank{rank}.pt")


def by_two(measure: Measure, folder: Path) -> list[dict[str, Any]]:
    """Results of both processes of a joint evaluation."""
    assert together(one_of_two, [(measure, folder)] * 2) == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]

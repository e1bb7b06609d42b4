"""Two processes report the accuracy of one, over every video once."""

import os
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from datamodules.synthetic import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from modules.downstream.classification import Classification
from tests.methods import FRAMES, OPTIM, SIDE, tiny_vit
from tests.resume.runs import as_torchrun_does, together

WORLD, VIDEOS = 2, 7


def measure(folder: Path, world: int) -> dict[str, Any]:
    torch.manual_seed(0)
    method = Classification(tiny_vit(), head_std=1.0, optim=OPTIM)
    data = SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE, clips=2), 4, train_videos=8, val_videos=VIDEOS)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )
    (found,) = trainer.test(method, datamodule=data, verbose=False)
    return {**found, **method.test_record}


def one_of_two(folder: Path, rank: int, port: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    torch.save(measure(folder, WORLD), folder / f"rank{rank}.pt")


@pytest.mark.slow
def test_each_video_counts_once_over_processes(tmp_path: Path) -> None:
    alone = measure(tmp_path, 1)
    assert alone["videos"] == VIDEOS
    assert together(one_of_two, [(tmp_path,)] * WORLD) == [0, 0]
    for rank in range(WORLD):
        told = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert told.keys() == alone.keys()
        for name, value in alone.items():
            assert told[name] == pytest.approx(value, rel=1e-6), name

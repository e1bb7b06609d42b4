"""Two processes report the frame mAP of one, over every key frame once."""

import os
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from modules.downstream.detection import ActionDetection
from tests.datamodules.ava_files import small_ava, write_ava
from tests.methods import SGD, tiny_cnn
from tests.resume.runs import as_torchrun_does, together

WORLD = 2


def measure(folder: Path, world: int) -> dict[str, Any]:
    torch.manual_seed(0)
    method = ActionDetection(tiny_cnn(), optim=SGD)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )
    (found,) = trainer.test(method, datamodule=small_ava(folder / "ava", benchmark="true_boxes"), verbose=False)
    return {**found, **method.test_record}


def one_of_two(folder: Path, rank: int, port: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    torch.save(measure(folder, WORLD), folder / f"rank{rank}.pt")


@pytest.mark.slow
def test_each_key_frame_counts_once_over_processes(tmp_path: Path) -> None:
    write_ava(tmp_path / "ava")
    # Three key frames, so that one process has two; one of them cannot be read.
    (tmp_path / "ava/val2.mkv").unlink()
    (tmp_path / "ava/val2.mkv").write_bytes(b"broken")
    alone = measure(tmp_path, 1)
    assert (alone["key_frames"], alone["missed"], alone["boxes"]) == (2, [2], 3)
    assert together(one_of_two, [(tmp_path,)] * WORLD) == [0, 0]
    for rank in range(WORLD):
        told = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, value in alone["average_precision"].items():
            assert told["average_precision"][name] == (value if value is None else pytest.approx(value, rel=1e-6)), name
        assert told["test/map"] == pytest.approx(alone["test/map"], rel=1e-6)
        assert (told["key_frames"], told["missed"], told["boxes"]) == (2, [2], 3)

"""Two processes encode each video once, answer for their own, and report what one does."""

import os
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from datamodules.synthetic import SyntheticMotion
from modules.core.contracts import VideoBatch
from modules.downstream.video_text_retrieval import VideoTextRetrieval
from tests.modules.test_video_text_retrieval import motion, tiny
from tests.resume.runs import as_torchrun_does, together

WORLD, PAIRS = 2, 3


class Odd(SyntheticMotion):
    """Five test clips, which two processes cannot share evenly."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        pool = self._pools["test"]
        pool.video = pool.video[: 2 * PAIRS - 1]


def measure(folder: Path, world: int) -> dict[str, Any]:
    method, data = tiny(best=2, pairs_at_once=3), motion(PAIRS)
    data.__class__ = Odd
    encoded: list[int] = []
    see = VideoTextRetrieval.see

    def note(batch: VideoBatch) -> Any:
        encoded.extend(batch["index"].tolist())
        return see(method, batch)

    method.see = note  # type: ignore[method-assign]
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
    assert method.retrieved is not None
    scores = {"v2t": method.retrieved.video_to_text, "t2v": method.retrieved.text_to_video}
    return {"found": found, "record": method.test_record, "texts": method.retrieved.texts, "encoded": encoded, **scores}


def one_of_two(folder: Path, rank: int, port: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    torch.save(measure(folder, WORLD), folder / f"rank{rank}.pt")


@pytest.mark.slow
def test_each_video_is_encoded_once_over_processes(tmp_path: Path) -> None:
    alone = measure(tmp_path, 1)
    assert alone["record"]["videos"] == 2 * PAIRS - 1
    assert together(one_of_two, [(tmp_path,)] * WORLD) == [0, 0]
    told = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]
    assert sorted(told[0]["encoded"] + told[1]["encoded"]) == alone["encoded"] == list(range(2 * PAIRS - 1))
    for one in told:
        assert one["record"] == alone["record"]
        assert one["texts"] == alone["texts"]
        assert one["found"] == pytest.approx(alone["found"])
        for way in ("v2t", "t2v"):
            assert torch.allclose(one[way], alone[way], atol=1e-4), way

"""Weights distributed over two processes: the same steps as with one, ordinary checkpoints, and resumed runs."""

import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.runs.last_checkpoint import LAST, LastCheckpoint
from modules.runs.nonfinite import NonFiniteGuard
from modules.runs.saving import WholeCheckpointIO
from modules.training.sharding import is_sharded
from tests.distributed.test_processes import build
from tests.registry import METHODS, by_name
from tests.resume.runs import as_torchrun_does, together

WORLD = 2
MASKED = [case for case in METHODS if case.name in ("VideoMAE", "SMILE", "SIGMA")]


class Notes(lightning.Callback):
    """The loss of each step, and whether weights are sharded; ends the run after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.losses: list[float] = []
        self.epochs = epochs

    def on_train_batch_end(self, trainer: Any, method: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")))
        self.sharded = is_sharded(method)

    def on_train_epoch_end(self, trainer: Any, method: Any) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


def run(name: str, folder: Path, kind: str, epochs: int, resume: bool, rank: int, port: int, more: Any = ()) -> None:
    """Epochs of two steps of one of two processes."""
    warnings.filterwarnings("ignore")
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    lightning.seed_everything(0, verbose=False)
    data = next(case for case in METHODS if case.name == name).data(2, 8, 4)
    strategy: Any = "ddp" if kind == "ddp" else ModelParallelStrategy(save_distributed_checkpoint=False)
    notes = Notes(epochs)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy=strategy,
        max_epochs=2,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        plugins=[WholeCheckpointIO()],
        callbacks=[*(more or [NonFiniteGuard()]), notes, LastCheckpoint()],
    )
    method = build(name)
    trainer.fit(method, datamodule=data, ckpt_path=folder / LAST if resume else None, weights_only=True)
    assert notes.sharded == (kind == "shards")
    if kind == "shards":
        assert all(isinstance(value, DTensor) for value in method.parameters())
    torch.save((notes.losses, float(trainer.callback_metrics["val/loss"])), folder / f"{epochs}_{rank}.pt")


@pytest.mark.parametrize("name", by_name(*MASKED))
def test_shares_train_as_whole_weights_do(name: str, tmp_path: Path) -> None:
    told = {}
    for kind in ("ddp", "shards"):
        (tmp_path / kind).mkdir()
        assert together(run, [(name, tmp_path / kind, kind, 2, False)] * WORLD) == [0] * WORLD
        told[kind] = torch.load(tmp_path / kind / "2_0.pt", weights_only=True)
    assert len(told["ddp"][0]) == 4
    assert told["shards"][0] == pytest.approx(told["ddp"][0], rel=1e-5)
    assert told["shards"][1] == pytest.approx(told["ddp"][1], rel=1e-5)
    whole, shares = (torch.load(tmp_path / kind / LAST, weights_only=True) for kind in told)
    assert shares["state_dict"].keys() == whole["state_dict"].keys()
    for key, value in whole["state_dict"].items():
        assert type(shares["state_dict"][key]) is torch.Tensor
        assert torch.allclose(shares["state_dict"][key], value, atol=1e-5), key


def test_a_sharded_run_goes_on_and_its_checkpoint_is_an_encoder(tmp_path: Path) -> None:
    name = METHODS[0].name
    for folder, starts in (("whole", [(2, False)]), ("parts", [(1, False), (2, True)])):
        (tmp_path / folder).mkdir()
        for epochs, resume in starts:
            assert together(run, [(name, tmp_path / folder, "shards", epochs, resume)] * WORLD) == [0] * WORLD
    ends = [torch.load(tmp_path / folder / "2_0.pt", weights_only=True) for folder in ("whole", "parts")]
    assert ends[1][0] == ends[0][0][2:]
    assert ends[1][1] == ends[0][1]
    path = str(tmp_path / "parts" / LAST)
    encoder = VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=path)
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert torch.equal(encoder.norm.weight, saved["backbone.norm.weight"])


class Spoiler(lightning.Callback):
    """Puts NaN into a gradient of one process's shard in the second step."""

    def on_after_backward(self, trainer: Any, method: Any) -> None:
        if trainer.global_step == 1 and trainer.global_rank == 1:
            next(iter(method.parameters())).grad.to_local().fill_(torch.nan)


def spoiled(folder: Path, rank: int, port: int) -> None:
    run(METHODS[0].name, folder, "shards", 1, False, rank, port, [NonFiniteGuard(max_skipped=1), Spoiler()])


def test_a_step_that_one_share_spoils_is_left_out_by_all(tmp_path: Path) -> None:
    assert together(spoiled, [(tmp_path,)] * WORLD) == [0] * WORLD
    before = torch.load(tmp_path / "nonfinite/step_00000001/weights.pt", weights_only=True)
    after = torch.load(tmp_path / LAST, weights_only=True)["state_dict"]
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert type(value) is torch.Tensor
        assert torch.equal(value, after[name]), name


def refused(folder: Path, rank: int, port: int) -> None:
    with pytest.raises(SettingError, match=r"cannot shard contrast\.key_backbone.* of MoCo.* use DDPStrategy"):
        run("MoCo", folder, "shards", 1, False, rank, port)


def test_slow_copies_are_refused(tmp_path: Path) -> None:
    assert together(refused, [(tmp_path,)] * WORLD) == [0] * WORLD

"""The settings of DDP in configs/trainer: training results do not depend on them."""

import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.strategies import DDPStrategy

from modules.core.errors import SettingError
from modules.runs.trainer_settings import check_trainer
from tests.registry import DOWNSTREAM, METHODS
from tests.resume.bits import differences
from tests.resume.runs import as_torchrun_does, together

WORLD = 2
ROOT = Path(__file__).parents[2]
# A method with a queue and running statistics; all others with `-m slow`.
CASES = [
    pytest.param(case.name, marks=[] if case.name == "TubeletContrast" else [pytest.mark.slow])
    for case in (*METHODS, *DOWNSTREAM)
]


def settings_of(layer: str) -> dict[str, Any]:
    """The strategy settings of a layer in configs/trainer."""
    trainer = yaml.safe_load((ROOT / f"configs/trainer/{layer}.yaml").read_text())["trainer"]
    assert trainer["strategy"]["class_path"] == "DDPStrategy"
    return trainer["strategy"]["init_args"]


class Statistics(lightning.Callback):
    """Records weights and statistics during validation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_validation_epoch_start(self, trainer: Any, method: Any) -> None:
        torch.save(method.state_dict(), self.path)


def train(name: str, folder: Path, layer: str | None, rank: int, port: int) -> None:
    """Two epochs of two steps, of one of two processes."""
    warnings.filterwarnings("ignore")
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, WORLD, port)
    lightning.seed_everything(0, verbose=False)
    case = next(case for case in (*METHODS, *DOWNSTREAM) if case.name == name)
    torch.manual_seed(0)
    method = case.build()
    # Set explicitly, because the default differs.
    plain = {"static_graph": False, "broadcast_buffers": True}
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy=DDPStrategy(**(plain if layer is None else settings_of(layer) | {"static_graph": True})),
        max_epochs=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[Statistics(folder / f"seen{rank}.pt")],
    )
    trainer.fit(method, datamodule=case.data(4, 16, 8))
    if rank == 0:
        torch.save((method.state_dict(), trainer.callback_metrics["val/loss"]), folder / "end.pt")


@pytest.mark.parametrize("name", CASES)
def test_a_static_graph_and_buffers_that_stay_at_home_train_the_same(name: str, tmp_path: Path) -> None:
    ends = []
    for layer in (None, "ddp_node"):
        folder = tmp_path / str(layer)
        folder.mkdir()
        assert together(train, [(name, folder, layer)] * WORLD) == [0] * WORLD
        ends.append(torch.load(folder / "end.pt", weights_only=True))
        # All processes validate the network that a checkpoint would contain.
        assert differences(*(torch.load(folder / f"seen{rank}.pt", weights_only=True) for rank in range(WORLD))) == []
    assert differences(ends[0][0], ends[1][0]) == []
    assert torch.equal(ends[0][1], ends[1][1])


def test_layers_have_the_same_settings() -> None:
    assert settings_of("ddp_node") == settings_of("slurm")


def test_accumulation_is_refused_with_a_static_graph() -> None:
    trainer = Namespace(
        accelerator="cpu", devices=2, num_nodes=1, check_val_every_n_epoch=1, log_every_n_steps=1, gradient_clip_val=None,
        val_check_interval=None, overfit_batches=0, max_epochs=1, max_steps=-1, accumulate_grad_batches=2,
    )  # fmt: skip
    for static in (False, True):
        trainer.strategy = Namespace(class_path="DDPStrategy", init_args=Namespace(static_graph=static))
        if not static:
            check_trainer(trainer, "fit")
            continue
        with pytest.raises(
            SettingError, match=r"accumulate_grad_batches is 2.* set trainer\.strategy\.init_args\.static_graph"
        ):
            check_trainer(trainer, "fit")

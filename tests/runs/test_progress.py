"""Host syncs of a run, step by step."""

from collections import Counter
from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import CollapseAlarm, LossProgressBar, NonFiniteGuard, OnlineKNN, Pictures, Throughput
from tests.registry import METHODS

STEPS, EVERY = 20, 5


class Reads(TorchDispatchMode):
    """Counts numbers that the host asks for, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.found: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "_local_scalar_dense":
            self.found[self.step] += 1
        return func(*args, **(kwargs or {}))


class AsOnGPU(NonFiniteGuard):
    """Checks as seldom as on a GPU."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._waits = False


class Count(lightning.Callback):
    """Records the current step, from the end of the previous one on."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.reads.step = trainer.global_step


@pytest.mark.parametrize("name", ["VideoMAE", "MoCo"])
def test_nothing_is_read_between_logged_steps(name: str, tmp_path: Path) -> None:
    case = next(one for one in METHODS if one.name == name)
    reads = Reads()
    watching = [LearningRateMonitor(), Throughput(EVERY), Pictures(1000), OnlineKNN(k=1), CollapseAlarm()]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=EVERY,
        logger=TensorBoardLogger(tmp_path),
        default_root_dir=tmp_path,
        callbacks=[Count(reads), *watching, AsOnGPU(every_n_steps=EVERY), LossProgressBar()],
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    with reads:
        trainer.fit(case.build(), case.data(4, 4 * STEPS, 8))
    between = {step: count for step, count in reads.found.items() if step % EVERY}
    assert between == {}
    assert reads.found[EVERY] > 0


def test_the_bar_shows_the_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = METHODS[0]
    settings: dict[str, Any] = {"accelerator": "cpu", "default_root_dir": tmp_path, "enable_model_summary": False}
    trainer = lightning.Trainer(
        **settings, max_steps=4, log_every_n_steps=2, logger=TensorBoardLogger(tmp_path), callbacks=[LossProgressBar()]
    )
    trainer.fit(case.build(), case.data(4, 16, 4))
    assert "train/loss=" in "".join(capsys.readouterr())

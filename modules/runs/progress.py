"""The progress bar with the loss of the last logged step."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from modules.core.run import run_of


class LossProgressBar(TQDMProgressBar):
    """Lightning's bar, with the last logged value of `train/loss` (trainer.log_every_n_steps).

    Values logged with `prog_bar` are read from the device in every step, which costs a host sync. The
    command line adds this bar to every run that has one.
    """

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        super().__init__(refresh_rate, process_position, leave)
        self._step = 0
        self._shown: dict[str, float] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Lightning's metrics and the loss, read only after logged steps, whose values are already on the host."""
        step = trainer.global_step
        if step != self._step and step % max(1, run_of(trainer).log_every_n_steps) == 0:
            self._step = step
            self._shown = {name: float(value) for name, value in trainer.logged_metrics.items() if name == "train/loss"}
        return {**super().get_metrics(trainer, pl_module), **self._shown}

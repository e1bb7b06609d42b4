"""When a loss or gradient is no longer a number: nothing is learned from it, and the step is kept for a closer look."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from modules.core.batch import Batch
from modules.core.errors import SettingError, check_positive
from modules.core.files import replacing
from modules.core.run import run_of
from modules.core.undocumented import copy_all, hold_weights, restore_where
from modules.runs.provenance import Provenance
from modules.training.sharding import is_sharded, total_norm

FOLDER = "nonfinite"
CONFIG, WEIGHTS = "config.yaml", "weights.pt"


def batches_file(rank: int) -> str:
    """File of a dump that says what the batches of one process were."""
    return f"batches.rank{rank}.json"


class NonFiniteGuard(Callback):
    """Keeps NaN and infinite gradients out of the weights, and writes down the step that they came from.

    Such a step changes neither weights nor buffers nor slow copies of weights, in no process (`Method.training_step` lets a
    bad loss reach all gradients, which DDP averages). The weights as they were and the batches' rows go to
    `<run>/nonfinite/step_<n>`, which `python main.py replay` repeats. The command line adds this callback to every run
    that does not list it.

    On a CPU, or with an optimiser that is not fused, every step is checked at once. On a GPU that would make it wait, so
    the fused optimiser itself is told to leave the weights alone from the bad step on, until the next look a few steps
    later; these steps are skipped too.

    Args:
        max_skipped: optimiser steps of the run that may be skipped; one more ends it. 0 ends it at the first.
        every_n_steps: optimiser steps from one look to the next on a GPU.
    """

    def __init__(self, max_skipped: int = 0, every_n_steps: int = 10) -> None:
        check_positive("NonFiniteGuard", every_n_steps=every_n_steps)
        self.max_skipped, self.every_n_steps = max_skipped, every_n_steps
        self._skipped = 0
        self._steps: list[tuple[Tensor, list[dict[str, Any]]]] = []
        self._batches: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what a step changes besides the optimiser: running statistics, queues, slow copies of the network."""
        self._buffers = [value for value in pl_module.state_dict(keep_vars=True).values() if not value.requires_grad]
        self._before = [value.clone() for value in self._buffers]
        self._held = torch.zeros((), dtype=torch.bool, device=pl_module.device)
        self._steps, self._batches = [], []
        fused = all(group.get("fused") for optimiser in trainer.optimizers for group in optimiser.param_groups)
        # The fused optimiser takes no flag beside shares of weights.
        self._waits = pl_module.device.type == "cpu" or not fused or is_sharded(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Note the batch, and the buffers before the first batch of a step."""
        if not self._batches and self._buffers:
            copy_all(self._before, self._buffers)
        key = {"step": trainer.global_step, "epoch": trainer.current_epoch, "batch_idx": batch_idx}
        self._batches.append(key | {"index": batch.index})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Hold the weights if a gradient is not finite."""
        gradients = [value.grad for value in pl_module.parameters() if value.grad is not None]
        bad = ~total_norm(gradients).isfinite()
        self._held |= bad
        self._steps.append((bad, self._batches))
        if not self._waits:
            hold_weights(optimizer, self._held)
        elif self._held:
            optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Undo what the step did to the buffers, and look if it is time."""
        self._batches[-1]["loss"] = outputs["loss"].detach()
        if not self._steps or self._steps[-1][1] is not self._batches:
            return
        self._batches = []
        if self._buffers:
            with torch.no_grad():
                if not self._waits:
                    restore_where(self._held, self._buffers, self._before)
                elif self._held:
                    copy_all(self._buffers, self._before)
        if self._waits or trainer.global_step % self.every_n_steps == 0 or trainer.is_last_batch:
            self._look(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """No checkpoint hides a step that went wrong."""
        if self._steps:
            self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps, self._steps = self._steps, []
        if not self._held:
            return
        self._held.zero_()
        first = next(number for number, (bad, _) in enumerate(steps) if bad)
        batches = steps[first][1]
        folder = Path(trainer.default_root_dir) / FOLDER / f"step_{batches[0]['step']:08d}"
        trial = bool(run_of(trainer).fast_dev_run)
        if not trial:
            self._write(folder, trainer, batches)
        self._skipped += len(steps) - first
        losses = ", ".join(f"{float(batch['loss']):g}" for batch in batches)
        what = f"Step {batches[0]['step']} has a gradient that is not finite (loss {losses})."
        if not trial:
            what += f" Its batch and the weights before it are in {folder}; `python main.py replay --dump {folder}` repeats it."
        if self._skipped > self.max_skipped:
            raise SettingError(
                f"{what} Left out so far: {self._skipped}, but NonFiniteGuard.max_skipped is {self.max_skipped}; lower "
                "model.optim.base_lr, set trainer.gradient_clip_val, or allow more."
            )
        rank_zero_warn(f"{what} Left out so far: {self._skipped} of at most {self.max_skipped}.")

    @staticmethod
    def _write(folder: Path, trainer: Trainer, batches: list[dict[str, Any]]) -> None:
        # Of shares of weights, all processes together make whole ones.
        weights = trainer.strategy.lightning_module_state_dict()
        folder.mkdir(parents=True, exist_ok=True)
        # Each process has batches of its own.
        seed = {"seed": int(os.environ.get("PL_GLOBAL_SEED", 0))}
        told = [seed | batch | {"index": batch["index"].tolist(), "loss": float(batch["loss"])} for batch in batches]
        (folder / batches_file(trainer.global_rank)).write_text(json.dumps(told, indent=1))
        if not trainer.is_global_zero:
            return
        config = next((one.config for one in run_of(trainer).callbacks if isinstance(one, Provenance)), "")
        (folder / CONFIG).write_text(config)
        with replacing(folder / WEIGHTS) as partial:
            torch.save(weights, partial)

    def state_dict(self) -> dict[str, int]:
        """Steps left out so far."""
        return {"skipped": self._skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the steps left out so far."""
        self._skipped = state_dict["skipped"]

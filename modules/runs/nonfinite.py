"""Handling of losses and gradients that are not finite: the step is skipped, and dumped for debugging."""

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
    """Name of the file in a dump that describes the batches of one process."""
    return f"batches.rank{rank}.json"


class NonFiniteGuard(Callback):
    """Keeps NaN and infinite gradients out of the weights, and dumps the step that caused them.

    Such a step does not change weights, buffers or momentum copies of weights in any process (`Method.training_step` lets a
    bad loss reach all gradients, which DDP averages). The weights before the step and the rows of the batches are written to
    `<run>/nonfinite/step_<n>`, which `python main.py replay` repeats. The command line adds this callback to every run
    that does not list it.

    On a CPU, or with an optimiser that is not fused, every step is checked at once. On a GPU that would cause a host sync,
    so the fused optimiser itself is told to skip all updates from the bad step on, until the next check a few steps later;
    these steps count as skipped, too.

    Args:
        max_skipped: maximum number of skipped optimiser steps; one more ends the run. 0 ends it at the first.
        every_n_steps: optimiser steps between two checks on a GPU.
    """

    def __init__(self, max_skipped: int = 0, every_n_steps: int = 10) -> None:
        check_positive("NonFiniteGuard", every_n_steps=every_n_steps)
        self.max_skipped, self.every_n_steps = max_skipped, every_n_steps
        self._skipped = 0
        self._steps: list[tuple[Tensor, list[dict[str, Any]]]] = []
        self._batches: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the state that a step changes besides the optimiser's: running statistics, queues, momentum copies."""
        self._buffers = [value for value in pl_module.state_dict(keep_vars=True).values() if not value.requires_grad]
        self._before = [value.clone() for value in self._buffers]
        self._held = torch.zeros((), dtype=torch.bool, device=pl_module.device)
        self._steps, self._batches = [], []
        fused = all(group.get("fused") for optimiser in trainer.optimizers for group in optimiser.param_groups)
        # The fused optimiser does not support the flag with sharded weights.
        self._waits = pl_module.device.type == "cpu" or not fused or is_sharded(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Record the batch, and the buffers before the first batch of a step."""
        if not self._batches and self._buffers:
            copy_all(self._before, self._buffers)
        key = {"step": trainer.global_step, "epoch": trainer.current_epoch, "batch_idx": batch_idx}
        self._batches.append(key | {"index": batch.index, "place": batch.reading.place})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Keep the weights unchanged if a gradient is not finite."""
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
        """Undo the step's changes to the buffers, and check if it is due."""
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
        """Check before a checkpoint is written, so that none contains a bad step."""
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
                f"{what} Steps skipped so far: {self._skipped}, but NonFiniteGuard.max_skipped is {self.max_skipped}; lower "
                "model.optim.base_lr, set trainer.gradient_clip_val, or allow more."
            )
        rank_zero_warn(f"{what} Steps skipped so far: {self._skipped} of at most {self.max_skipped}.")

    @staticmethod
    def _write(folder: Path, trainer: Trainer, batches: list[dict[str, Any]]) -> None:
        # Sharded weights are gathered from all processes.
        weights = trainer.strategy.lightning_module_state_dict()
        folder.mkdir(parents=True, exist_ok=True)
        # Each process has its own batches.
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
        """Steps skipped so far."""
        return {"skipped": self._skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the number of skipped steps."""
        self._skipped = state_dict["skipped"]

"""Ctrl-C and SIGTERM between steps: what was learned is saved before the run ends."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

LAST = Path("checkpoints") / "last.ckpt"
ASK_EVERY = 10
"""Optimiser steps after which several processes tell each other of signals."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SaveOnInterrupt(Callback):
    """On SIGINT and SIGTERM, finishes the step, saves `checkpoints/last.ckpt` and ends the run; a second one ends it at once.

    A signal may come in the middle of a step, when weights and counters do not fit together. So only a flag is set, and
    the checkpoint is written at the next end of an optimiser step, in all processes alike. The
    command line adds it to every run, behind all other callbacks, whose step is done when it saves.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals."""
        self._received = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = number
        print(f"\n{signal.Signals(number).name}: saving after this step; once more ends the run at once.", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and end the run if a signal came to any process."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        received = self._received is not None
        if trainer.world_size > 1:
            # Asking the others waits for the device, so not after every step.
            if trainer.global_step % ASK_EVERY:
                return
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        if not received:
            return
        path = Path(trainer.default_root_dir) / LAST
        saver = trainer.checkpoint_callback
        if isinstance(saver, ModelCheckpoint):
            # Else it would take the file for somebody else's, and write last-v1.ckpt from now on.
            saver.last_model_path = str(path.absolute())
        trainer.save_checkpoint(path)
        rank_zero_info(f"Saved {path} at step {trainer.global_step}; go on with --ckpt_path last.")
        self._restore()
        raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._restore()

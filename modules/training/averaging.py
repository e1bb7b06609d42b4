"""Weight averaging (EMA) that is correct for methods with additional state, such as a queue of keys."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor, nn

from modules.core.errors import SettingError
from modules.core.undocumented import averaged, averages_buffers
from modules.training.sharding import is_sharded

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
"""Layers with a running mean and variance."""
HARMLESS = ("num_batches_tracked", "pos_embed", "decoder.positions")
"""Ends of the names of buffers that may be averaged: the counters of normalisation layers are not used, and fixed position
codes do not change."""


def state_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the buffers that are not averaged: all except the running mean and variance of normalisation layers.

    Queues of keys, pointers and counters are such buffers, whose average is meaningless.
    """
    for prefix, part in module.named_modules():
        for name, buffer in part.named_buffers(prefix, recurse=False):
            if not (isinstance(part, NORMS) and buffer.is_floating_point()):
                yield name, buffer


class ModelEMA(EMAWeightAveraging):
    """Lightning's `EMAWeightAveraging`, but queues of keys, pointers and counters are always those of the trained network.

    Validation, `state_dict` in checkpoints and the end of the run use averaged weights, and averaged running statistics of
    BatchNorm. The settings are those of `EMAWeightAveraging`; the most important one is `decay`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the average. Lightning warns about any `configure_model`. That of `Method` only shards weights, and averaging
        of sharded weights is refused."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*overrides the configure_model")
            super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average, and copy the other buffers."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._copy_state(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update the average if it is updated per epoch, and copy the other buffers."""
        super().on_train_epoch_end(trainer, pl_module)
        self._copy_state(pl_module)

    @torch.no_grad()
    def _copy_state(self, pl_module: LightningModule) -> None:
        for (_, kept), (_, current) in zip(state_buffers(averaged(self)), state_buffers(pl_module), strict=True):
            kept.copy_(current)


def check_averaging(callbacks: list[Callback], module: nn.Module) -> None:
    """Check that no callback averages other state of a method along with its weights, as Lightning's own callbacks do.

    Args:
        callbacks: callbacks of the run.
        module: module that is trained.

    Raises:
        SettingError: naming the buffers, and the callback to use instead.
    """
    saved = module.state_dict().keys()
    state = [name for name, _ in state_buffers(module) if name in saved and not name.endswith(HARMLESS)]
    for callback in callbacks:
        if isinstance(callback, WeightAveraging) and is_sharded(module):
            raise SettingError(
                f"{type(callback).__name__} in trainer.callbacks cannot average weights sharded by ModelParallelStrategy; "
                "remove it, or use DDPStrategy."
            )
        mixes = isinstance(callback, WeightAveraging) and averages_buffers(callback) and not isinstance(callback, ModelEMA)
        if mixes and state:
            names = " and ".join(state)
            raise SettingError(
                f"{type(callback).__name__} in trainer.callbacks would average {names}, which are not weights; use ModelEMA."
            )

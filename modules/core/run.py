"""What a trainer holds, with types, and what its parts ask of one another."""

from collections.abc import Iterable
from typing import Any, Protocol, cast, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from modules.core.batch import Batch


class Run(Protocol):
    """What Lightning gives every trainer without declaring it, so that type checkers do not know of it."""

    datamodule: Any
    """Where the batches come from; None in a run on plain loaders."""
    callbacks: list[Callback]
    fast_dev_run: int | bool
    """In a trial run, true, or its number of batches: nothing is written to the run's folder."""
    overfit_batches: int | float
    """Batches, or a share of them, that every epoch repeats; 0 for all."""
    profiler: Profiler
    log_every_n_steps: int


def run_of(trainer: Trainer) -> Run:
    """The same trainer, with the types that Lightning leaves out."""
    return cast(Run, trainer)


def trainer_of(module: LightningModule) -> Trainer | None:
    """The trainer of a module; None outside of a run, where `module.trainer` raises an error."""
    try:
        return module.trainer
    except RuntimeError:
        return None


@runtime_checkable
class TrainingBank(Protocol):
    """A data module whose training samples can be a bank for the nearest neighbours of test samples."""

    def setup(self, stage: str) -> None:
        """Lightning's."""

    def train_once(self) -> Iterable[Batch]:
        """Every training sample once over all processes, in order, with the clips of evaluation."""

    def tested_in_training(self, stage: str = "test") -> int:
        """Number of samples that are training samples too: of the test, or of those to predict."""


@runtime_checkable
class ReadsClips(Protocol):
    """A callback that reads clips from the data module's loaders, and so cannot do with their features."""

    reads_clips: bool

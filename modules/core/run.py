"""What a trainer holds, with types."""

from typing import Any, Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler


class Run(Protocol):
    """What Lightning gives every trainer without declaring it, so that type checkers do not know of it."""

    datamodule: Any
    """Where the batches come from; None in a run on plain loaders."""
    callbacks: list[Callback]
    fast_dev_run: int | bool
    """In a trial run, true, or its number of batches: nothing is written to the run's folder."""
    profiler: Profiler


def run_of(trainer: Trainer) -> Run:
    """The same trainer, with the types that Lightning leaves out."""
    return cast(Run, trainer)


def trainer_of(module: LightningModule) -> Trainer | None:
    """The trainer of a module; None outside of a run, where `module.trainer` raises an error."""
    try:
        return module.trainer
    except RuntimeError:
        return None

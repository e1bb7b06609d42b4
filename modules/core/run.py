"""Types of a trainer's attributes, and interfaces between data modules and callbacks."""

from collections.abc import Iterable
from typing import Any, Literal, Protocol, cast, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from modules.core.batch import Batch


class Run(Protocol):
    """Attributes of a trainer that Lightning sets without declaring their types."""

    datamodule: Any
    """The data module; None in a run on plain loaders."""
    callbacks: list[Callback]
    fast_dev_run: int | bool
    """True, or the number of batches, in a trial run, which writes nothing to the run's folder."""
    overfit_batches: int | float
    """Number or fraction of batches that every epoch repeats; 0 disables it."""
    profiler: Profiler
    log_every_n_steps: int


def run_of(trainer: Trainer) -> Run:
    """The same trainer with the types that Lightning does not declare."""
    return cast(Run, trainer)


def trainer_of(module: LightningModule) -> Trainer | None:
    """The trainer of a module; None outside a run, where `module.trainer` raises an error."""
    try:
        return module.trainer
    except RuntimeError:
        return None


@runtime_checkable
class TrainingBank(Protocol):
    """A data module whose training samples can serve as the bank of a nearest-neighbour evaluation."""

    def setup(self, stage: str) -> None:
        """See Lightning's data modules."""

    def train_once(self) -> Iterable[Batch]:
        """Every training sample once across all processes, in order, with the clips of evaluation."""

    def tested_in_training(self, stage: str = "test") -> int:
        """Number of test samples (or samples to predict) that are also training samples."""


Measure = Literal["objects", "parts", "joints"]
"""What is carried through a video: the masks of its objects, classes of pixels, or the joints of a body."""


@runtime_checkable
class LabelledSequences(Protocol):
    """A data module of complete videos in which every frame has labels, for label propagation.

    A batch is one video. Its labels are in `extra`: `mask` uint8 [1, T, H0, W0], or `joints` float64 [1, T, J, 2], x and y in
    pixels of the files, and `stored` int64 [1, 2], their height and width.
    """

    @property
    def measure(self) -> Measure:
        """What the labels are."""

    @property
    def sequence_names(self) -> list[str]:
        """Names of the videos, in the order of `batch.index`."""

    @property
    def num_labels(self) -> int | None:
        """Number of classes with the background, for parts."""


@runtime_checkable
class ReadsClips(Protocol):
    """A callback that reads clips from the data module's loaders, so it cannot work with frozen features."""

    reads_clips: bool

"""What rooms that do not know each other ask of one another."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from modules.core.batch import Batch


@runtime_checkable
class TrainingBank(Protocol):
    """A data module whose training samples can be a bank for the nearest neighbours of test samples."""

    def train_once(self) -> Iterable[Batch]:
        """Every training sample once over all processes, in order, with the clips of evaluation."""

    def tested_in_training(self) -> int:
        """Number of test samples that are training samples too."""


@runtime_checkable
class ReadsClips(Protocol):
    """A callback that reads clips from the data module's loaders, and so cannot do with their features."""

    reads_clips: bool

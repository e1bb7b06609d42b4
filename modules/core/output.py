"""Return types of a method's `step` and `predict_step`."""

from dataclasses import dataclass, field
from typing import Any, TypedDict

from torch import Tensor


class StepOutput(TypedDict, total=False):
    """Output of a method's `step`. `loss` is always present."""

    loss: Tensor
    """Scalar with gradient."""
    log: dict[str, Tensor]
    """Detached scalars that are logged as `train/<name>` or `val/<name>`."""
    show: dict[str, Any]
    """Detached values for visualisation, drawn by the method's `pictures`, which defines their names. `clip`, uint8
    [B, T, H, W, 3], is the student's input after all augmentations; `skeleton`, float [B, 3, T, J, M], the same for
    skeletons."""


@dataclass
class Predicted:
    """Output of `predict_step` for a batch. Axis letters: `B` samples, `D` predicted values."""

    number: Tensor
    """int64 [B], index of each sample in its data set."""
    missed: Tensor
    """bool [B], whether the sample's file could not be read. Its values are then those of another sample, to be ignored."""
    value: Tensor
    """float [B, D], the method's prediction for each sample."""


Columns = dict[str, list[Any]]
"""A table by columns, with one entry per row. An entry that is a list puts several values into a cell."""


@dataclass
class Answers:
    """A method's predictions for all samples, in readable form."""

    columns: Columns
    """One row per readable sample, in order."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Information needed to interpret the columns."""
    tables: dict[str, Columns] = field(default_factory=dict)
    """Further tables by name, whose rows are not samples."""

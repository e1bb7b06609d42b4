"""What a step of a method returns, and what it predicts."""

from dataclasses import dataclass, field
from typing import Any, TypedDict

from torch import Tensor


class StepOutput(TypedDict, total=False):
    """What a method's `step` returns. `loss` is always there."""

    loss: Tensor
    """Scalar with gradient."""
    log: dict[str, Tensor]
    """Detached scalars that are logged as `train/<name>` or `val/<name>`."""
    show: dict[str, Any]
    """Detached things to look at, by names of the method's own, which its `pictures` draws. `clip`, uint8 [B, T, H, W, 3], is
    what the student saw, after every augmentation and paste; `skeleton`, float [B, 3, T, J, M], the same for skeletons."""


@dataclass
class Predicted:
    """What `predict_step` returns of a batch of samples. Axis letters: `B` samples, `D` numbers."""

    number: Tensor
    """int64 [B], of each sample in its data set."""
    missed: Tensor
    """bool [B], whether its file could not be read. Then the numbers are those of another one, and mean nothing."""
    value: Tensor
    """float [B, D], what the method says of each sample."""


Columns = dict[str, list[Any]]
"""A table by its columns, which have one entry per row. A list as an entry stands for several in a cell."""


@dataclass
class Answers:
    """What a method says of all samples, for people to read."""

    columns: Columns
    """One row per sample that could be read, in their order."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What one must know to understand them."""
    tables: dict[str, Columns] = field(default_factory=dict)
    """Further tables by name, whose rows are no samples."""

"""Boxes that a detector is to find."""

from typing import NamedTuple

from torch import Tensor


class TrueBoxes(NamedTuple):
    """What is to be found. Axis letter: `M` pairs of a box and an action."""

    frame: Tensor
    """int64 [M], number of the key frame."""
    box: Tensor
    """float [M, 4], corners x1 y1 x2 y2, in the same unit as those that are found."""
    action: Tensor
    """int64 [M]"""

    def only(self, keep: Tensor) -> "TrueBoxes":
        """Some of the pairs: bool [M]."""
        return TrueBoxes(*(part[keep] for part in self))

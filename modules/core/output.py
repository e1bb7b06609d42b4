"""What a step of a method returns."""

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
    what the student saw, after every augmentation and paste; `skeleton`, float [B, 3, T, J, M], as above."""

"""What a step of a method returns."""

from typing import TypedDict

from torch import Tensor


class StepOutput(TypedDict, total=False):
    """What a method's `step` returns. `loss` is always there; the rest is for callbacks and for `pictures`."""

    loss: Tensor
    """Scalar with gradient."""
    log: dict[str, Tensor]
    """Detached scalars that are logged as `train/<name>` or `val/<name>`."""
    clip: Tensor
    """uint8 [B, T, H, W, 3], the clips that the student saw, after every augmentation and paste."""
    texts: list[str]
    """The sentences that the student read, one per clip."""
    plain_clip: Tensor
    """uint8 [B, T, H, W, 3], `clip` before every augmentation."""
    key_clip: Tensor
    """uint8 [B, T, H, W, 3], the clips that `clip` was compared with, likewise."""
    skeleton: Tensor
    """float [B, 3, T, J, M], for methods on skeletons in the place of `clip`."""
    key_skeleton: Tensor
    """float [B, 3, T, J, M], likewise in the place of `key_clip`."""
    plain_skeleton: Tensor
    """float [B, 3, T, J, M], `skeleton` before every augmentation."""
    masked: Tensor
    """int64 [B, Nm], ascending indices of the tokens that the encoder did not see."""
    decoded: Tensor
    """int64 [B, Nd], ascending indices of the tokens that were predicted, where these are not exactly the masked ones."""
    prediction: Tensor
    """float [B, Nm or Nd, D], detached."""
    target: Tensor
    """float [B, Nm or Nd, D], detached."""
    assigned: Tensor
    """int64 [B, 2, Nm], the prototypes to which targets and predictions were assigned."""
    boxes: Tensor
    """float [B, K, T, 4], corners x1 y1 x2 y2 in pixels of the moving objects."""
    regions: Tensor
    """float [M, 5], boxes in `clip`: its row, and x1 y1 x2 y2 in pixels."""
    region_actions: Tensor
    """float [M, K], 1 for the true actions of each box."""
    region_scores: Tensor
    """float [M, K], probabilities of the actions of each box."""
    corners: Tensor
    """float [B, K, T, P, 2], x and y in pixels of the corners of the moving objects as drawn, clockwise."""

"""PCK, the percentage of correct joints, as videowalk's official code measures it on JHMDB."""

import torch
from torch import Tensor

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
BODY = 0.6
"""Unit of distances, in diagonals of the box around the visible joints."""


def joint_distances(predicted: Tensor, truth: Tensor, visible: Tensor) -> Tensor:
    """Distances of the joints of a video from the true ones, in units of the body's size in each frame.

    Args:
        predicted: float64 [T, J, 2], pixels.
        truth: float64 [T, J, 2], pixels.
        visible: bool [T, J], joints that were found. Only these count, and only these make the box around the body.

    Returns:
        float64 [T - 1, J], without the first frame; NaN for joints that were not found.
    """
    hidden = ~visible[..., None]
    low = truth.masked_fill(hidden, torch.inf).amin(1)
    high = truth.masked_fill(hidden, -torch.inf).amax(1)
    unit = BODY * (high - low).norm(dim=1)
    distance = (predicted - truth).norm(dim=2) / unit[:, None]
    return distance.masked_fill(~visible, torch.nan)[1:]


def pck(distances: Tensor) -> dict[str, float]:
    """Percentage of joints within each threshold: `pck_0.1` and so on, the mean over the joints of their percentages.

    Args:
        distances: float64 [n, J], of all frames of all videos; NaN does not count. Joints without any are left out.
    """
    there = ~distances.isnan()
    count = there.sum(0).double()
    near = {limit: ((distances <= limit) & there).sum(0) for limit in THRESHOLDS}
    return {f"pck_{limit}": float((100 * found / count).nanmean()) for limit, found in near.items()}

"""The two dictionaries that datamodules, methods and callbacks exchange.

Axis letters, used throughout: `B` videos in a batch, `V` clips or views per video, `T` frames, `H`, `W` rows and columns,
`C` channels, `N` tokens, `D` width of a feature, `K` objects or classes.
"""

from typing import TypedDict

from torch import Tensor


class VideoBatch(TypedDict, total=False):
    """What a video datamodule yields. `video`, `index` and `label` are always there."""

    video: Tensor
    """uint8 [B, V, T, H, W, 3], RGB exactly as decoded, cropped and resized; nothing is normalised."""
    index: Tensor
    """int64 [B], row of the manifest that each sample was meant to be (also when a broken video was substituted)."""
    label: Tensor
    """int64 [B], or float [B, K] for several labels; -1 where there is none."""
    time: Tensor
    """float32 [B, V, 2], first and last moment of each clip in seconds."""
    substituted: Tensor
    """int64 [B], row of the broken file that a sample stands in for, or -1."""
    decode_ms: list[float]
    """What reading each sample cost a worker, in milliseconds; stays on the host."""
    caption: list[str]


class StepOutput(TypedDict, total=False):
    """What a method's `step` returns. `loss` is always there; the rest is for callbacks and for `pictures`."""

    loss: Tensor
    """Scalar with gradient."""
    log: dict[str, Tensor]
    """Detached scalars that are logged as `train/<name>` or `val/<name>`."""
    clip: Tensor
    """uint8 [B, T, H, W, 3], the clips that the student saw, after every augmentation and paste."""
    key_clip: Tensor
    """uint8 [B, T, H, W, 3], the clips that `clip` was compared with, likewise."""
    masked: Tensor
    """int64 [B, Nm], ascending indices of the tokens that the encoder did not see."""
    prediction: Tensor
    """float [B, Nm, D], detached."""
    target: Tensor
    """float [B, Nm, D], detached."""
    boxes: Tensor
    """float [B, K, T, 4], corners x1 y1 x2 y2 in pixels of the moving objects."""

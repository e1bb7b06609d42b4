"""The batches that data modules yield and methods take.

Axis letters, used throughout: `B` videos in a batch, `V` clips or views per video, `T` frames, `H`, `W` rows and columns,
`C` channels, `N` tokens, `D` width of a feature, `K` objects or classes, `J` joints, `M` persons.
"""

from typing import TypeAlias, TypedDict

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
    """A sentence for each video, where the data has some."""
    captions: list[list[str]]
    """All sentences of each video, where the data has several."""
    boxes: Tensor
    """float32 [M, 5], boxes of key frames, of all clips in a row: the clip's place in the batch, and x1 y1 x2 y2 in pixels."""
    actions: Tensor
    """float32 [M, K], 1 for the actions of each box, 0 for others."""
    box_number: Tensor
    """int64 [M], number of each box in its split."""


class SkeletonBatch(TypedDict):
    """What a skeleton datamodule yields."""

    skeleton: Tensor
    """float32 [B, V, 3, T, J, M], metres: x, y, z of J joints of M persons, centred and aligned once per recording, cropped in
    time and resized to T frames. A person who is not there is 0 everywhere."""
    length: Tensor
    """int64 [B], frames of the whole recording."""
    label: Tensor
    """int64 [B], -1 where there is none."""
    index: Tensor
    """int64 [B], row of each sample in the split."""


class FeatureBatch(TypedDict):
    """Frozen features in the place of clips, for a linear classifier on them."""

    feature: Tensor
    """float [B, V, D], what `Classification.encode` gives."""
    label: Tensor
    """int64 [B], -1 where there is none."""
    index: Tensor
    """int64 [B], row of each sample in the split."""


Batch: TypeAlias = VideoBatch | SkeletonBatch | FeatureBatch

"""Pieces of a longer clip, frames or short clips, for methods that ask for their order: where they are cut, and their features.

The loader decodes one clip of each video; methods choose places in it on the device, batched over the samples.
"""

from typing import Any

import torch
from torch import Tensor, nn

from modules.core.errors import SettingError

STILL = 0.1
"""Motion of a clip without any, in grey levels, so that each of its frames can still be drawn."""


def motion_scores(clip: Tensor) -> Tensor:
    """How much a clip changes around each frame: the mean absolute difference from the frames before and after it.

    It takes the place of the magnitude of optical flow, by which the published tuples were chosen.

    Args:
        clip: uint8 [B, T, H, W, 3]

    Returns:
        float32 [B, T], grey levels; the first and the last frame have one neighbour.
    """
    if clip.shape[1] < 2:
        return torch.zeros(clip.shape[:2], device=clip.device)
    values = clip.short()
    change = (values[:, 1:] - values[:, :-1]).abs().mean((2, 3, 4), dtype=torch.float32)
    return (torch.cat([change[:, :1], change], dim=1) + torch.cat([change, change[:, -1:]], dim=1)) / 2


def window_means(scores: Tensor, length: int) -> Tensor:
    """Mean of the scores in each window: [B, T] -> [B, T - length + 1]."""
    return scores.unfold(1, length, 1).mean(2)


def draw_by_weight(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a place in each row with a probability in proportion to its weight.

    Args:
        weight: float [..., P], not negative; places of weight 0 are never drawn unless all are 0.
        generator: source of randomness.

    Returns:
        int64 [...]
    """
    noise = torch.rand(weight.shape, generator=generator, device=weight.device)
    # The largest of logarithms plus Gumbel noise.
    return (weight.log() - (-noise.clamp(1e-7, 1 - 1e-7).log()).log()).argmax(-1)


def uniform_whole(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers from `low` to `high`, both included: int64 of one shape -> the same shape."""
    share = torch.rand(low.shape, generator=generator, device=low.device)
    return torch.minimum(low + (share * (high - low + 1)).long(), high)


def cut_pieces(clip: Tensor, index: Tensor) -> Tensor:
    """Gather frames: [B, T, H, W, 3] and int64 [B, n, W] -> [B, n, W, H, W, 3]."""
    row = torch.arange(len(clip), device=clip.device)[:, None, None]
    return clip[row, index]


def runs(start: Tensor, length: int) -> Tensor:
    """Consecutive frames from each start: int64 [B, n] -> [B, n, length]."""
    return start[..., None] + torch.arange(length, device=start.device)


# --- Encoding ---


def encode_pieces(backbone: Any, pieces: Tensor) -> Tensor:
    """Features of pieces: uint8 [B, n, W, H, W, 3] -> float [B, n, D]."""
    features: Tensor = backbone(backbone.preprocess(pieces.flatten(0, 1)))
    return features.unflatten(0, pieces.shape[:2])


def mean_feature(backbone: Any, clip: Tensor, frames: int, margin: int) -> Tensor:
    """Mean feature of the consecutive pieces of a clip, of its centre as large as in training.

    Args:
        backbone: encoder.
        clip: uint8 [B, T, H, W, 3]
        frames: length of a piece. A clip that is shorter is one piece; frames after the last complete piece are not used.
        margin: see `FrameAugmentation`.

    Returns:
        float32 [B, D]
    """
    frames = min(frames, clip.shape[1])
    before, after = margin // 2, margin - margin // 2
    inner = clip[:, :, before : clip.shape[2] - after, before : clip.shape[3] - after]
    pieces = inner[:, : clip.shape[1] // frames * frames].unflatten(1, (-1, frames))
    return encode_pieces(backbone, pieces).float().mean(1)


def check_pieces(backbone: nn.Module, setting: str, frames: int) -> None:
    """Check that the encoder takes pieces of this length.

    Args:
        backbone: encoder.
        setting: name of the setting of the length on the command line.
        frames: length of a piece.

    Raises:
        SettingError: naming the settings.
    """
    name, own = type(backbone).__name__, getattr(backbone, "num_frames", None)
    fewest = getattr(backbone, "smallest_clip", (1,))[0]
    if own is not None and own != frames:
        raise SettingError(f"{setting} is {frames} but model.backbone.num_frames is {own}; make them equal.")
    if frames < fewest:
        raise SettingError(
            f"{setting} is {frames}, but {name} takes clips of {fewest} frames or more; raise it, or choose a backbone of "
            "single frames (CaffeNet)."
        )


def check_source(data: Any, backbone: nn.Module, needed: int, margin: int, reason: str) -> None:
    """Compare the clips of a data module with what a method cuts out of them, before the first step.

    Args:
        data: data module; without settings of clips, nothing is checked.
        backbone: encoder of the pieces.
        needed: fewest frames of a clip.
        margin: see `FrameAugmentation`.
        reason: settings that the frames follow from.

    Raises:
        SettingError: naming the settings.
    """
    clip = getattr(data, "clip", None)
    if clip is None:
        return
    check_length(clip.frames, needed, reason)
    wanted = getattr(backbone, "image_size", None)
    if wanted is not None and wanted != clip.size - margin:
        raise SettingError(
            f"data.clip.size {clip.size} less model.augmentation.margin {margin} is {clip.size - margin}, but "
            f"model.backbone.image_size is {wanted}; make them equal."
        )


def check_length(frames: int, needed: int, reason: str) -> None:
    """Raises a `SettingError` if clips are too short to cut a tuple out of them."""
    if frames < needed:
        raise SettingError(f"Clips of {frames} frames are too short for {reason}; set data.clip.frames to {needed} or more.")

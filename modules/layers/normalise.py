"""ImageNet normalisation of clips on the device."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1, 1)


def normalise(clip: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] with ImageNet mean and std (a view of channels-last memory)."""
    video = clip.permute(0, 4, 1, 2, 3).float()
    mean, std = _channel(IMAGENET_MEAN, video), _channel(IMAGENET_STD, video)
    return (video - 255 * mean) / (255 * std)


def denormalise(video: Tensor) -> Tensor:
    """Inverse of `normalise` up to the range: float [B, 3, T, H, W] -> the same in [0, 1]."""
    return video * _channel(IMAGENET_STD, video) + _channel(IMAGENET_MEAN, video)

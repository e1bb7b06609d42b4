"""Random crops of clips on the device, each with its own box: the rule of torchvision's `RandomResizedCrop`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ATTEMPTS = 10
"""Boxes that are drawn until one fits."""


def random_boxes(
    count: int, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Boxes of uniform area and log-uniform aspect ratio, anywhere in a picture; see `fitting_boxes`.

    Args:
        count: number of boxes, B.
        size: height and width of the picture.
        scale: smallest and largest area, as a fraction of the picture's.
        ratio: smallest and largest width / height.
        generator: source of randomness, whose device the boxes are on.

    Returns:
        int64 [B, 4], left, top, width and height in pixels.
    """
    draws = torch.rand(count, 2 * ATTEMPTS + 2, generator=generator, device=generator.device)
    area, aspect, place = draws.split([ATTEMPTS, ATTEMPTS, 2], 1)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = scale[0] + (scale[1] - scale[0]) * area
    return fitting_boxes(area, (low + (high - low) * aspect).exp(), place, size, ratio)


def fitting_boxes(area: Tensor, aspect: Tensor, place: Tensor, size: tuple[int, int], ratio: tuple[float, float]) -> Tensor:
    """Of several drawn boxes, the first that fits into a picture; if none does, the largest one in its centre whose aspect
    ratio is allowed.

    Args:
        area: float [B, n], as a fraction of the picture's.
        aspect: float [B, n], width / height.
        place: float [B, 2], vertical and horizontal position in the free space, from 0 to 1 (exclusive).
        size: height and width of the picture.
        ratio: smallest and largest allowed width / height.

    Returns:
        int64 [B, 4], left, top, width and height in pixels.
    """
    height, width = size
    pixels = height * width * area
    wide, high = (pixels * aspect).sqrt().round(), (pixels / aspect).sqrt().round()
    fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
    first, found = fits.byte().argmax(1, keepdim=True), fits.any(1)
    allowed = min(max(width / height, ratio[0]), ratio[1])
    # Numbers, not tensors: a tensor would have to be copied from the host.
    widest, highest = min(width, max(1, round(height * allowed))), min(height, max(1, round(width / allowed)))
    wide = torch.where(found, wide.gather(1, first)[:, 0], widest)
    high = torch.where(found, high.gather(1, first)[:, 0], highest)
    room = torch.stack([width - wide, height - high], 1)
    corner = torch.where(found[:, None], (place.flip(1) * (room + 1)).floor(), (room / 2).floor())
    return torch.cat([corner, torch.stack([wide, high], 1)], 1).long()


def enlarge(clip: Tensor, box: Tensor) -> Tensor:
    """Cut one box out of all frames of each clip and enlarge it to the size of the frames (bilinear, corners not aligned).

    Args:
        clip: uint8 [B, T, H, W, C]
        box: int64 [B, 4], left, top, width and height inside the frames. As none is larger than a frame, nothing is reduced,
            and no antialiasing is needed.

    Returns:
        uint8 [B, T, H, W, C]
    """
    frames, height, width = clip.shape[1:4]
    # Sampled places in pixels of the frame, from the centre of the first pixel. The border of the box is repeated.
    axes = []
    for axis, side in ((0, width), (1, height)):
        start, length = box[:, axis, None].float(), box[:, axis + 2, None].float()
        step = (torch.arange(side, device=clip.device) + 0.5) / side
        inside = (step * length - 0.5).clamp(min=0).minimum(length - 1)
        axes.append(2 * (start + inside + 0.5) / side - 1)
    x, y = axes
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 3)
    planes = clip.permute(0, 1, 4, 2, 3).flatten(1, 2).float()
    sampled = F.grid_sample(planes, grid, "bilinear", "border", align_corners=False)
    result: Tensor = sampled.round().clamp(0, 255).byte().unflatten(1, (frames, -1)).permute(0, 1, 3, 4, 2)
    return result

"""Skeletons as stick figures: uint8 videos [B, T, H, W, 3]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.skeleton.base import BONES, JOINTS

BACKGROUND = 255
# Okabe and Ito's colours: the first person's left, right and middle, and the second person's.
COLOURS = (((213, 94, 0), (0, 114, 178), (0, 0, 0)), ((230, 159, 0), (86, 180, 233), (128, 128, 128)))
LEFT = (4, 5, 6, 7, 21, 22, 12, 13, 14, 15)
RIGHT = (8, 9, 10, 11, 23, 24, 16, 17, 18, 19)
# Fraction of half the picture's side that the skeleton fills.
REACH = 0.9


def bones_of(joints: int) -> tuple[tuple[int, int], ...]:
    """Child and parent of each bone of skeletons with 25 joints; for others, each joint paired with itself."""
    return BONES if joints == JOINTS else tuple((joint, joint) for joint in range(joints))


def bone_colours(joints: int, persons: int) -> Tensor:
    """Colours by the side of each bone's child joint; sides are only known of skeletons with 25 joints. uint8 [bones, M, 3]."""
    left, right = (LEFT, RIGHT) if joints == JOINTS else ((), ())
    sides = [0 if child in left else 1 if child in right else 2 for child, _ in bones_of(joints)]
    return torch.tensor([[COLOURS[person % 2][side] for person in range(persons)] for side in sides], dtype=torch.uint8)


def draw_skeletons(skeleton: Tensor, size: int = 112) -> Tensor:
    """Draw clips as seen along the second axis, each scaled so that all of its joints fit into the picture.

    Args:
        skeleton: float [B, 3, T, J, M], z upward. A person whose joints are all 0 in a frame is not drawn in it. Skeletons of
            25 joints have bones, others are drawn as dots.
        size: height and width in pixels.

    Returns:
        uint8 [B, T, size, size, 3]
    """
    clips, _, frames, joints, persons = skeleton.shape
    flat = torch.stack([skeleton[:, 0], -skeleton[:, 2]], dim=1)
    low, high = flat.amin((2, 3, 4), keepdim=True), flat.amax((2, 3, 4), keepdim=True)
    half = ((high - low) / 2).amax(1, keepdim=True).clamp_min(1e-6)
    pixels = ((flat - (low + high) / 2) / half * REACH + 1) * (size - 1) / 2
    children, parents = zip(*bones_of(joints), strict=True)
    share = torch.linspace(0, 1, size, device=skeleton.device)
    # Each bone has as many points as the longest possible bone has pixels.
    points = torch.lerp(pixels[..., list(children), :, None], pixels[..., list(parents), :, None], share).round().long()
    there = skeleton.abs().amax((1, 3)) > 0
    place = (points[:, 1] * size + points[:, 0]).flatten(2)
    shape = (clips, frames, len(children), persons, size)
    # Points of absent persons are written to a spare pixel after the last one.
    place = torch.where(there[:, :, None, :, None].expand(shape).flatten(2), place, size * size)
    colours = bone_colours(joints, persons).to(skeleton.device)[None, None, :, :, None].expand(*shape, 3).flatten(2, 4)
    canvas = torch.full((clips, frames, size * size + 1, 3), BACKGROUND, dtype=torch.uint8, device=skeleton.device)
    canvas.scatter_(2, place[..., None].expand(-1, -1, -1, 3), colours)
    result: Tensor = canvas[:, :, :-1].unflatten(2, (size, size))
    return result if joints == JOINTS else _thickened(result)


def _thickened(figures: Tensor) -> Tensor:
    """Enlarge dots of one pixel to 3 x 3 pixels: uint8 [B, T, H, W, 3]."""
    darkest = -F.max_pool2d(-figures.flatten(0, 1).permute(0, 3, 1, 2).float(), 3, stride=1, padding=1)
    return darkest.byte().permute(0, 2, 3, 1).view_as(figures)

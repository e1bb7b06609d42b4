"""Skeletons as stick figures: uint8 videos [B, T, H, W, 3]."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.skeleton.base import BONES

BACKGROUND = 255
# Okabe and Ito's colours: the first person's left, right and middle, and the second person's.
COLOURS = (((213, 94, 0), (0, 114, 178), (0, 0, 0)), ((230, 159, 0), (86, 180, 233), (128, 128, 128)))
# Of the picture's half side.
REACH = 0.9


class Body(NamedTuple):
    """Which joints are connected, and on which side they are."""

    bones: tuple[tuple[int, int], ...]
    """child and parent"""
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()


KINECT_2 = Body(BONES, left=(4, 5, 6, 7, 21, 22, 12, 13, 14, 15), right=(8, 9, 10, 11, 23, 24, 16, 17, 18, 19))
"""25 joints (NTU RGB+D, PKU-MMD)."""
KINECT_1 = Body(
    (
        *((0, 1), (1, 2), (2, 3)),
        *((4, 1), (5, 4), (6, 5), (7, 6)),
        *((8, 1), (9, 8), (10, 9), (11, 10)),
        *((12, 3), (13, 12), (14, 13), (15, 14)),
        *((16, 3), (17, 16), (18, 17), (19, 18)),
    ),
    left=(4, 5, 6, 7, 12, 13, 14, 15),
    right=(8, 9, 10, 11, 16, 17, 18, 19),
)
"""20 joints (UTD-MHAD): head, shoulders' centre, spine and hips' centre first."""


def body_of(joints: int) -> Body:
    """The body that has so many joints; without bones where it is none of those known here."""
    known = {25: KINECT_2, 20: KINECT_1}
    return known.get(joints, Body(tuple((joint, joint) for joint in range(joints))))


def bone_colours(body: Body, persons: int) -> Tensor:
    """uint8 [bones, M, 3], after the joint at the far end of each bone."""
    sides = [0 if child in body.left else 1 if child in body.right else 2 for child, _ in body.bones]
    return torch.tensor([[COLOURS[person % 2][side] for person in range(persons)] for side in sides], dtype=torch.uint8)


def draw_skeletons(skeleton: Tensor, size: int = 112) -> Tensor:
    """Draw clips as seen along the second axis, each enlarged so that all of its joints are in the picture.

    Args:
        skeleton: float [B, 3, T, J, M], z upward. A person whose joints are all 0 in a frame is not drawn there. Bodies of 25
            and 20 joints have bones, others are drawn as dots.
        size: height and width in pixels.

    Returns:
        uint8 [B, T, size, size, 3]
    """
    clips, _, frames, joints, persons = skeleton.shape
    body = body_of(joints)
    flat = torch.stack([skeleton[:, 0], -skeleton[:, 2]], dim=1)
    low, high = flat.amin((2, 3, 4), keepdim=True), flat.amax((2, 3, 4), keepdim=True)
    half = ((high - low) / 2).amax(1, keepdim=True).clamp_min(1e-6)
    pixels = ((flat - (low + high) / 2) / half * REACH + 1) * (size - 1) / 2
    children, parents = zip(*body.bones, strict=True)
    share = torch.linspace(0, 1, size, device=skeleton.device)
    # As many points on each bone as the longest possible bone has pixels.
    points = torch.lerp(pixels[..., list(children), :, None], pixels[..., list(parents), :, None], share).round().long()
    there = skeleton.abs().amax((1, 3)) > 0
    place = (points[:, 1] * size + points[:, 0]).flatten(2)
    shape = (clips, frames, len(body.bones), persons, size)
    # What is not to be drawn goes to a spare pixel behind the last.
    place = torch.where(there[:, :, None, :, None].expand(shape).flatten(2), place, size * size)
    colours = bone_colours(body, persons).to(skeleton.device)[None, None, :, :, None].expand(*shape, 3).flatten(2, 4)
    canvas = torch.full((clips, frames, size * size + 1, 3), BACKGROUND, dtype=torch.uint8, device=skeleton.device)
    canvas.scatter_(2, place[..., None].expand(-1, -1, -1, 3), colours)
    result: Tensor = canvas[:, :, :-1].unflatten(2, (size, size))
    return result if body.left else _thickened(result)


def _thickened(figures: Tensor) -> Tensor:
    """Dots of 3 x 3 pixels in the place of those of one: uint8 [B, T, H, W, 3]."""
    darkest = -F.max_pool2d(-figures.flatten(0, 1).permute(0, 3, 1, 2).float(), 3, stride=1, padding=1)
    return darkest.byte().permute(0, 2, 3, 1).view_as(figures)

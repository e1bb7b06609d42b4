"""Clips of several objects on black of which one moves, with what it does and the boxes of all in the key frame.

The key frame is the one in the middle. There, every object is in another quarter of the picture, and its place, size and angle
are distributed alike whatever it does: no box of the key frame tells which object moves, or how. Motions have one speed, and
the key frame is halfway: two actions in opposite directions show almost the same pictures in reverse order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.motion.appearance import SHAPES
from modules.motion.render import paste
from modules.scenes.classes import MOTION_CLASSES, Draws, Split, changes
from modules.scenes.objects import in_chunks, make_textures, record_of, texels

ACTIONS = tuple(motion.name for motion in MOTION_CLASSES[:8])
"""What the moving object does, in the order of `MOTION_CLASSES`: one motion from the first frame to the last."""
OBJECTS = 3
"""Per clip."""
SIZE = (0.28, 0.36)
"""Smallest and largest side of an object in the key frame, in sides of the frame."""
ASIDE = 0.03
"""Largest distance of an object from the middle of its quarter along one axis, in sides of the frame."""


@dataclass
class BoxClips:
    """Clips and what is known about them.

    Args:
        video: uint8 [N, T, H, W, 3].
        action: int64 [N, K], index into `ACTIONS`; -1 for objects that stand still.
        boxes: float32 [N, K, 4], corners x1 y1 x2 y2 in the key frame, as shares of its sides.
    """

    video: Tensor
    action: Tensor
    boxes: Tensor


def make_box_clips(count: int, frames: int, size: int, split: Split, seed: int, device: torch.device | str = "cpu") -> BoxClips:
    """Makes clips 0 .. count - 1 of a split. Clip n is a function of (seed, split, n) alone; its action is n modulo 8.

    Args:
        count: number of clips N.
        frames: frames per clip T; the key frame is number T // 2.
        size: side of the frames in pixels.
        split: which colours, patterns and proportions to draw from.
        seed: of the data set.
        device: where the clips are made and stay.
    """
    parts = []
    key = frames // 2
    numbers = torch.arange(OBJECTS, device=device)
    for index in in_chunks(count, frames, size, device):
        clip = Draws(seed, split, index)
        each = Draws(seed, split, (index[:, None] * OBJECTS + numbers).flatten())
        mover = clip.integer("mover", OBJECTS)[:, None]
        action = torch.where(numbers == mover, index[:, None] % len(ACTIONS), -1)
        change = changes(each, action.flatten(), frames, distractors=False)
        quarter = clip.many("quarter", 4).argsort(1)[:, :OBJECTS].flatten()
        middle = 0.25 + 0.5 * torch.stack([quarter % 2, quarter // 2], 1)
        centre = (middle + each.many("aside", 2, -ASIDE, ASIDE))[:, None] + change.shift - change.shift[:, key, None]
        side = each.uniform("size", *SIZE)[:, None] * (change.growth - change.growth[:, key, None]).exp()
        angle = each.uniform("angle", 0, 360)[:, None] + change.turn - change.turn[:, key, None]
        extent = torch.stack([side * each.banded("aspect", 0.7, 1)[:, None], side], -1)
        record = record_of(
            *(part.float().unflatten(0, action.shape) for part in (centre * size, extent * size, angle.remainder(360)))
        )
        kind = each.integer("object", len(SHAPES))
        textures = make_textures(each, kind, texels(SIZE[0], size)).unflatten(0, action.shape)
        video = paste(torch.zeros(len(index), frames, size, size, 3, dtype=torch.uint8, device=device), record, textures)
        parts.append((video, action, key_boxes(centre[:, key], extent[:, key], angle[:, key]).unflatten(0, action.shape)))
    return BoxClips(*(torch.cat(column) for column in zip(*parts, strict=True)))


def key_boxes(centre: Tensor, extent: Tensor, angle: Tensor) -> Tensor:
    """Boxes around turned objects, cut at the edges of the frame.

    Args:
        centre: float [N, 2], in sides of the frame.
        extent: float [N, 2], width and height before the turn.
        angle: float [N], degrees.

    Returns:
        float32 [N, 4], corners x1 y1 x2 y2.
    """
    radians = torch.deg2rad(angle)[:, None]
    half = (radians.cos().abs() * extent + radians.sin().abs() * extent.flip(1)) / 2
    return torch.cat([centre - half, centre + half], 1).clamp(0, 1).float()

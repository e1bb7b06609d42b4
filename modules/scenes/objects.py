"""Clips of one moving object over a still background, with complete annotations.

Training and validation only share the classes of motion, shape and background. They have different fill patterns (plain and
stripes versus ramps and checks), and hues, proportions and stroke widths from bands that alternate but do not overlap.
Backgrounds have different seeds, hues and texture frequencies, and images are different files. (Only black is the same.)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.motion.appearance import SHAPES, hsv_to_rgb, premultiplied, shape_alpha, texel_axis
from modules.motion.render import paste
from modules.motion.trajectory import MotionRecord
from modules.scenes.backgrounds import Background, make_backgrounds
from modules.scenes.classes import MOTION_CLASSES, Draws, Split, move

CHUNK_PIXELS = 1 << 22


@dataclass
class SyntheticClips:
    """Clips with their annotations.

    Args:
        video: uint8 [N, T, H, W, 3].
        motion: int64 [N], index into `MOTION_CLASSES`; -1 if nothing moves.
        object: int64 [N], index into `SHAPES`; -1 without objects.
        background: int64 [N], index into the given backgrounds.
        boxes: float32 [N, K, T, 4], corners x1 y1 x2 y2 in pixels, K objects (1, or 0 without objects). Boxes of objects
            that wrap around an edge extend beyond the frame.
        size: float32 [N, T], side of the object in pixels.
        angle: float32 [N, T], degrees clockwise.
    """

    video: Tensor
    motion: Tensor
    object: Tensor
    background: Tensor
    boxes: Tensor
    size: Tensor
    angle: Tensor


def _fill(draws: Draws, x: Tensor, y: Tensor) -> Tensor:
    """Weight of the second colour in each texel, float32 [N, s, s]; the two splits have different patterns."""
    second = (draws.uniform("pattern") < 0.5)[:, None, None]
    cycles = draws.uniform("pattern cycles", 1.0, 1.8).float()[:, None, None]
    phase = draws.uniform("pattern phase", 0, 2 * math.pi).float()[:, None, None]
    if draws.split == "train":
        stripes = 0.5 + 0.5 * torch.sin(2 * math.pi * cycles * x + phase)
        return torch.where(second, stripes, 0.0).expand(-1, y.shape[1], -1)
    ramp = 0.5 + 0.5 * y
    checks = 0.5 + 0.5 * torch.sin(math.pi * cycles * x + phase) * torch.sin(math.pi * cycles * y + phase)
    return torch.where(second, checks, ramp)


def make_textures(draws: Draws, kind: Tensor, side: int) -> Tensor:
    """Objects with soft edges, brighter than any background.

    Args:
        draws: Random numbers of the N clips.
        kind: int64 [N], index into `SHAPES`.
        side: Side of the texture in texels.

    Returns:
        uint8 [N, side, side, 4], colours multiplied by alpha.
    """
    axis = texel_axis(side, kind.device)
    alpha = shape_alpha(kind, draws.banded("stroke", 0.22, 0.4).float(), side)
    colours = []
    for part in ("one", "two"):
        saturation, value = draws.uniform(f"saturation {part}", 0.2, 1), draws.uniform(f"value {part}", 0.8, 1)
        colours.append(hsv_to_rgb(draws.banded(f"hue {part}"), saturation, value).float()[:, None, None])
    weight = _fill(draws, axis[None, None, :], axis[None, :, None])[..., None]
    return premultiplied(colours[0] + weight * (colours[1] - colours[0]), alpha)


def texels(smallest: float, size: int) -> int:
    """Side of textures for objects of at least `smallest` sides of a picture of `size` pixels."""
    # The smallest object has half as many pixels as the texture has texels, so that bilinear sampling skips none.
    return max(8, round(2 * smallest * size))


def record_of(centre: Tensor, extent: Tensor, angle: Tensor) -> MotionRecord:
    """Opaque objects in pixels: centre and extent [N, K, T, 2], angle [N, K, T] in degrees."""
    clips = (len(angle), angle.shape[2])
    return MotionRecord(
        centre=centre,
        size=extent,
        angle=angle,
        shear=torch.zeros_like(centre),
        opacity=torch.ones_like(angle),
        keys=torch.ones(clips, dtype=torch.bool, device=angle.device),
        interpolation=torch.zeros(clips, dtype=torch.int8, device=angle.device),
    )


def in_chunks(count: int, frames: int, size: int, device: torch.device | str) -> Iterator[Tensor]:
    """Indices 0 .. count - 1 of clips in chunks int64 [n], whose pixels fit into `CHUNK_PIXELS`."""
    return iter(torch.arange(count, device=device).split(max(1, CHUNK_PIXELS // (frames * size * size))))


def make_clips(
    count: int,
    frames: int,
    size: int,
    split: Split,
    seed: int,
    backgrounds: Sequence[Background] = ("black",),
    images: Tensor | None = None,
    object_size: tuple[float, float] = (0.22, 0.55),
    moving: bool = True,
    objects: bool = True,
    distractors: bool = False,
    view: int = 0,
    classes: Sequence[int] = range(len(MOTION_CLASSES)),
    device: torch.device | str = "cpu",
) -> SyntheticClips:
    """Make clips 0 .. count - 1 of a split. Clip n only depends on (seed, split, n, classes).

    Args:
        count: Number of clips N.
        frames: Frames per clip T.
        size: Side of the frames in pixels.
        split: Split, which determines colours, patterns, proportions and backgrounds.
        seed: Seed of the data set.
        backgrounds: Kinds of background, equally frequent.
        images: uint8 [M, S, S, 3], images of this split, for the "images" background.
        object_size: Smallest and largest side of an object, in sides of the frame.
        moving: False keeps every object at its start.
        objects: False makes only backgrounds.
        distractors: Add small random drifts of the quantities that the class does not use.
        view: Other numbers give the same object, background and class with another start, speed and heading.
        classes: Indices into `MOTION_CLASSES`, assigned to clips in turn.
        device: Device of the clips.
    """
    parts = []
    motions = torch.tensor(list(classes), device=device)
    for index in in_chunks(count, frames, size, device):
        looks = Draws(seed, split, index)
        motion = motions[index % len(motions)] if moving and objects else torch.full_like(index, -1)
        background = looks.integer("background", len(backgrounds))
        still = make_backgrounds(looks, background, backgrounds, size, images)
        video = still[:, None].expand(-1, frames, -1, -1, -1)
        kind = looks.integer("object", len(SHAPES)) if objects else torch.full_like(index, -1)
        path = move(Draws(seed, split, index, view), motion, frames, object_size, distractors)
        centre, side = path.centre * size, path.size * size
        extent = torch.stack([side * looks.banded("aspect", 0.7, 1).float()[:, None], side], dim=-1)
        video, boxes = (
            draw_objects(looks, kind, video, centre, extent, path.angle, object_size[0])
            if objects
            else (
                video.contiguous(),
                centre.new_zeros(len(index), 0, frames, 4),
            )
        )
        parts.append((video, motion, kind, background, boxes, side, path.angle))
    return SyntheticClips(*(torch.cat(column) for column in zip(*parts, strict=True)))


def draw_objects(
    looks: Draws, kind: Tensor, video: Tensor, centre: Tensor, extent: Tensor, angle: Tensor, smallest: float
) -> tuple[Tensor, Tensor]:
    """Paste one object per clip: video uint8 [N, T, H, W, 3], centre and extent [N, T, 2], angle [N, T] -> video, boxes."""
    textures = make_textures(looks, kind, texels(smallest, video.shape[2]))
    record = record_of(centre[:, None], extent[:, None], angle[:, None])
    radians = torch.deg2rad(angle)
    cos, sin = radians.cos().abs(), radians.sin().abs()
    width, height = extent.unbind(-1)
    half = torch.stack([cos * width + sin * height, sin * width + cos * height], dim=-1) / 2
    boxes = torch.cat([centre - half, centre + half], dim=-1)[:, None]
    return paste(video, record, textures[:, None], wrap=True), boxes

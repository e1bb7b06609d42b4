"""Labelled clips of a texture that fills the frame and moves as a whole, as the ground does under a camera.

Every token of such a clip moves, and none looks like another, whereas an object over a still background leaves most of the
picture as it is. As with objects, no single frame tells the class: the texture is a sum of plane waves with any phase and any
direction, and under growth their wavelengths go round within an octave like the notes of Shepard's scale, each fading out at
the long end before it comes in again at the short one. So a frame has the same distribution in every class, and nothing ever
jumps. The texture is grey, for colour would tell a clip's tokens from those of others whatever moves; which octave its waves
come from is its own.
"""

import math

import torch

from modules.scenes.classes import MOTION_CLASSES, Draws, Split, changes
from modules.scenes.objects import SyntheticClips, in_chunks

WAVES = 16
SHORTEST = (0.3, 0.65)
"""Of a clip's wavelengths, in sides of the frame; the longest is twice as long."""
CONTRAST = 0.25
"""Standard deviation of the pixels, as a share of the range."""
MEAN_SQUARE = 0.391
"""Of a wave: half the mean square of its strength, which is 1 in the middle two thirds of the octave."""


def make_grounds(
    count: int,
    frames: int,
    size: int,
    split: Split,
    seed: int,
    distractors: bool = False,
    view: int = 0,
    device: torch.device | str = "cpu",
) -> SyntheticClips:
    """Makes clips 0 .. count - 1 of a split. Clip n is a function of (seed, split, n) alone.

    Args:
        count: Number of clips N.
        frames: Frames per clip T.
        size: Side of the frames in pixels.
        split: The two splits share the classes of motion, and no draw.
        seed: Seed of the data set.
        distractors: Adds small random drifts to what the class does not concern.
        view: Other numbers give the same texture and class with another start, speed and heading.
        device: Where the clips are made and stay.

    Returns:
        Clips, video uint8 [N, T, H, W, 3], without objects (`object` is -1, no boxes); `size` and `angle` are those of a mark
        on the ground, which starts with 1 and 0 degrees.
    """
    axis = (torch.arange(size, device=device) + 0.5) / size - 0.5
    octave = math.log(2)
    parts = []
    for index in in_chunks(count, frames, size, device):
        looks, moves = Draws(seed, split, index), Draws(seed, split, index, view)
        motion = index % len(MOTION_CLASSES)
        change = changes(moves, motion, frames, distractors)
        x = axis - change.shift[..., 0, None, None].float()
        y = axis[:, None] - change.shift[..., 1, None, None].float()
        shortest = looks.uniform("ground scale", math.log(SHORTEST[0]), math.log(SHORTEST[1])).exp()[:, None]
        pattern = torch.zeros(len(index), frames, size, size, device=device)
        for wave in range(WAVES):
            # A plane wave is its own mirror image, so half a turn covers all directions.
            direction = looks.uniform(f"ground direction {wave}", 0, math.pi)[:, None] + torch.deg2rad(change.turn)
            place = (looks.uniform(f"ground wavelength {wave}")[:, None] + change.growth / octave).remainder(1)
            phase = moves.uniform(f"ground phase {wave}", 0, 2 * math.pi)
            rate = 2 * math.pi / (shortest * (octave * place).exp())
            along_x, along_y = ((rate * part).float()[..., None, None] for part in (direction.cos(), direction.sin()))
            strength = (2 * (math.pi * place).sin()).clamp(max=1).float()[..., None, None]
            pattern += strength * torch.cos(along_x * x + along_y * y + phase.float()[:, None, None, None])
        grey = (pattern * (CONTRAST / math.sqrt(WAVES * MEAN_SQUARE)) + 0.5).clamp(0, 1)
        video = (255 * grey).round().byte()[..., None].expand(-1, -1, -1, -1, 3).contiguous()
        nothing = torch.full_like(motion, -1)
        boxes = change.shift.new_zeros(len(index), 0, frames, 4).float()
        turn = change.turn.remainder(360).float()
        parts.append((video, motion, nothing, torch.zeros_like(motion), boxes, change.growth.exp().float(), turn))
    return SyntheticClips(*(torch.cat(column) for column in zip(*parts, strict=True)))

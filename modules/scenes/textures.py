"""Labelled clips of a texture that fills the frame and moves as a whole, like the ground under a camera.

Every token of such a clip moves and looks different, whereas an object over a still background leaves most of the picture
unchanged. As with objects, a single frame does not reveal the class. The texture is a sum of plane waves with random phases and
directions. Under growth, their wavelengths cycle within an octave like the notes of Shepard's scale: each wave fades out at
the long end before it reappears at the short end. So a frame has the same distribution in every class, and there are no jumps.
The texture is grey, because colour would distinguish a clip's tokens from those of other clips without any motion. Each clip
has its own octave of wavelengths.
"""

import math

import torch

from modules.scenes.classes import MOTION_CLASSES, Draws, Split, changes
from modules.scenes.objects import SyntheticClips, in_chunks

WAVES = 16
SHORTEST = (0.3, 0.65)
"""Range of a clip's shortest wavelength, in sides of the frame; its longest is twice as long."""
CONTRAST = 0.25
"""Standard deviation of the pixels, as a fraction of the range."""
MEAN_SQUARE = 0.391
"""Mean square of a wave: half the mean square of its strength, which is 1 in the middle two thirds of the octave."""


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
    """Make clips 0 .. count - 1 of a split. Clip n only depends on (seed, split, n).

    Args:
        count: Number of clips N.
        frames: Frames per clip T.
        size: Side of the frames in pixels.
        split: The two splits share the classes of motion, but no draws.
        seed: Seed of the data set.
        distractors: Add small random drifts of the quantities that the class does not use.
        view: Other numbers give the same texture and class with another start, speed and heading.
        device: Device of the clips.

    Returns:
        Clips, video uint8 [N, T, H, W, 3], without objects (`object` is -1, no boxes); `size` and `angle` are those of a mark
        on the ground, which starts with size 1 and angle 0.
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

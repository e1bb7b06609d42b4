"""Videos of one object that repeats a motion on black, with the borders of all cycles.

An object goes to and fro along an axis, grows and shrinks, or turns to and fro. Its looks differ between training and
validation as in `modules.scenes.objects`, and where it is, how far it moves and how long its cycles are is drawn alike.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.core.errors import check_range, check_whole
from modules.motion.appearance import SHAPES
from modules.scenes.classes import Draws, Split
from modules.scenes.objects import draw_objects, in_chunks

REPEATED = ("to_and_fro", "grow_and_shrink", "turn_to_and_fro")
"""The motions, in the order of their labels."""
SMALLEST, LARGEST = 0.22, 0.55
"""Sides of the objects, in sides of the frame."""
TRAVEL = (0.25, 0.45)
"""Way to the turning point, in sides of the frame."""
ROTATION = (60.0, 150.0)
"""Degrees to the turning point."""
GROWTH = (1.5, 2.2)
"""Ratio of the sizes at the two turning points."""
UNKNOWN = -1


@dataclass
class CycleSettings:
    """The cycles of generated videos.

    Args:
        fewest: Smallest number of cycles in a video.
        most: Largest number of cycles in a video.
        shortest: Frames of the shortest mean cycle; the longest one is what `data.clip.frames` leaves for that many cycles.
        variation: Share of the mean by which a cycle may be longer or shorter.
    """

    fewest: int = 2
    most: int = 8
    shortest: int = 6
    variation: float = 0.1

    def __post_init__(self) -> None:
        # Counting starts from two cycles, and believes in none of less than four frames.
        check_whole("data.cycles", 2, fewest=self.fewest)
        check_whole("data.cycles", self.fewest, most=self.most)
        check_whole("data.cycles", 4, shortest=self.shortest)
        check_range("data.cycles", 0, 0.5, variation=self.variation)

    @property
    def frames(self) -> int:
        """Frames that the largest number of the shortest cycles may take."""
        return int(self.most * (self.shortest * (1 + self.variation) + 0.5)) + 2


class Cycles(NamedTuple):
    """When a motion starts again. Frames count from 0.

    Args:
        length: int64 [N], frames of each video; in the last one, the last cycle ends.
        number: int64 [N], cycles of each video.
        borders: int64 [N, K], frames at which cycles begin and end, from 0 to length - 1; -1 where there are no more.
        phase: float64 [N, T], cycles since the start, at each of the T frames of the longest video.
        previous: int64 [N, T], for each frame the length - 1 of the cycle that ends there, or -1 where none is complete.
            Cycles may begin at any phase: this one began when the phase of the next frame was last shown.
        next: the same for the cycle that begins there.
    """

    length: Tensor
    number: Tensor
    borders: Tensor
    phase: Tensor
    previous: Tensor
    next: Tensor


@dataclass
class RepetitionClips:
    """Videos and everything that is known about them.

    Args:
        video: uint8 [N, T, H, W, 3], black behind the end of a video.
        motion: int64 [N], index into `REPEATED`.
        object: int64 [N], index into `SHAPES`.
        cycles: of the videos.
    """

    video: Tensor
    motion: Tensor
    object: Tensor
    cycles: Cycles


def draw_cycles(draws: Draws, frames: int, settings: CycleSettings) -> Cycles:
    """Cycles of N videos that have `frames` frames at most.

    Args:
        draws: Random numbers of the N videos.
        frames: T, of the longest possible video.
        settings: of the cycles.
    """
    fewest, most, variation = settings.fewest, settings.most, settings.variation
    count = fewest + draws.integer("count", most - fewest + 1)
    # Half a frame is what rounding may add to each cycle.
    longest = ((frames - 1) / count - 0.5) / (1 + variation)
    mean = settings.shortest * (longest / settings.shortest) ** draws.uniform("cycle")
    each = (mean[:, None] * (1 + draws.many("variation", most, -variation, variation))).round().long()
    number = torch.arange(most + 1, device=count.device)
    each = torch.where(number[:-1] < count[:, None], each, 0)
    ends = torch.cat([torch.zeros_like(each[:, :1]), each.cumsum(1)], 1)
    time = torch.arange(frames, device=count.device).expand(len(count), -1).contiguous()
    phase, previous, following = _phases(ends, each, count, time)
    borders = torch.where(number <= count[:, None], ends, UNKNOWN)
    return Cycles(ends[:, -1] + 1, count, borders, phase, previous, following)


def _phases(ends: Tensor, each: Tensor, count: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Phase and lengths at frames int64 [N, T], from the ends [N, M + 1] and the lengths [N, M] of the cycles."""
    padded = torch.nn.functional.pad(each, (0, 1)).clamp_min(1)

    def place(frame: Tensor) -> tuple[Tensor, Tensor]:
        """Cycle that is on at frames, and the part of it that is over; the end of the last cycle is the start of one more."""
        cycle = torch.minimum(torch.searchsorted(ends, frame, right=True) - 1, count[:, None])
        return cycle, (frame - ends.gather(1, cycle)) / padded.gather(1, cycle)

    def time_of(cycle: Tensor, part: Tensor) -> Tensor:
        cycle = cycle.clamp(0, each.shape[1])
        return ends.gather(1, cycle) + part * padded.gather(1, cycle)

    cycle, part = place(time)
    known = (cycle + 1 < count[:, None]) | ((cycle < count[:, None]) & (part == 0))
    following = torch.where(known, (time_of(cycle + 1, part) - time).round().long() - 1, UNKNOWN)
    before, rest = place(time + 1)
    known = (before >= 1) & ((before < count[:, None]) | (rest == 0))
    previous = torch.where(known, (time + 1 - time_of(before - 1, rest)).round().long() - 1, UNKNOWN)
    return cycle + part, previous, following


def make_repetitions(
    count: int,
    frames: int,
    size: int,
    split: Split,
    seed: int,
    settings: CycleSettings = CycleSettings(),  # noqa: B008  (never mutated)
) -> RepetitionClips:
    """Makes videos 0 .. count - 1 of a split. Video n is a function of (seed, split, n), `frames` and the settings alone.

    Args:
        count: Number of videos N.
        frames: Frames of the longest possible video.
        size: Side of the frames in pixels.
        split: Which looks to draw from.
        seed: Seed of the data set.
        settings: of the cycles.
    """
    parts = []
    for index in in_chunks(count, frames, size, "cpu"):
        draws = Draws(seed, split, index)
        cycles = draw_cycles(draws, frames, settings)
        motion, kind = index % len(REPEATED), draws.integer("object", len(SHAPES))
        # From 0 at the borders to 1 at the turning point in the middle of a cycle.
        swing = 0.5 - 0.5 * (2 * math.pi * cycles.phase).cos()
        ways = [torch.where(motion[:, None] == number, swing, 0.0) for number in range(len(REPEATED))]
        axis = draws.uniform("axis", 0, 2 * math.pi)
        way = (draws.uniform("travel", *TRAVEL)[:, None] * ways[0])[..., None]
        centre = torch.stack([draws.uniform("x"), draws.uniform("y")], -1)[:, None]
        centre = (centre + way * torch.stack([axis.cos(), axis.sin()], -1)[:, None]).remainder(1)
        growth = draws.uniform("growth", math.log(GROWTH[0]), math.log(GROWTH[1]))
        free = math.log(LARGEST / SMALLEST) - torch.where(motion == 1, growth, 0.0)
        side = size * SMALLEST * ((draws.uniform("size") * free)[:, None] + growth[:, None] * ways[1]).exp()
        turn = torch.where(draws.uniform("sense") < 0.5, -1, 1) * draws.uniform("rotation", *ROTATION)
        angle = (draws.uniform("angle", 0, 360)[:, None] + turn[:, None] * ways[2]).remainder(360)
        extent = torch.stack([side * draws.banded("aspect", 0.7, 1)[:, None], side], -1)
        black = torch.zeros(len(index), frames, size, size, 3, dtype=torch.uint8)
        video, _ = draw_objects(draws, kind, black, (size * centre).float(), extent.float(), angle.float(), SMALLEST)
        there = torch.arange(frames) < cycles.length[:, None]
        parts.append((video * there[..., None, None, None], motion, kind, *cycles))
    video, motion, kind, *known = (torch.cat(column) for column in zip(*parts, strict=True))
    return RepetitionClips(video, motion, kind, Cycles(*known))

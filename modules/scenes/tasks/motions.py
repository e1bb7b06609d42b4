"""Labelled clips for questions that no class of `modules.scenes.classes` asks alone: how fast, when, where to, in which order.

As there, objects start anywhere on a torus, and motions only add a shift that depends on time, so that no single frame reveals
the label.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor

from modules.motion.appearance import SHAPES
from modules.motion.render import paste
from modules.scenes.backgrounds import make_backgrounds
from modules.scenes.classes import GROWTH, MOTION_CLASSES, ROTATION, TRAVEL, Change, Draws, Split, changes, starting
from modules.scenes.objects import in_chunks, make_textures, record_of, texels

Task = Literal["speed", "phase", "direction", "order", "several", "slowing"]
HEADINGS = 8
SPEEDS = (0.2, 0.4, 0.6, 0.8)
"""Length of a path over the clip, in sides of the frame."""
SPEED_SPREAD = 0.15
"""Speeds of a class differ by up to this share of the class's."""
QUARTERS = 4
PARTS = ("travel", "turn", "grow")
ORDERS = tuple(permutations(PARTS))
OBJECT_SIZE = (0.22, 0.55)

CLASS_NAMES: dict[Task, list[str]] = {
    "speed": [f"{speed:g}_of_the_frame" for speed in SPEEDS],
    "phase": [f"moves_in_quarter_{number + 1}" for number in range(QUARTERS)],
    "direction": [f"towards_{round(360 * number / HEADINGS)}_degrees" for number in range(HEADINGS)],
    "order": ["_".join(order) for order in ORDERS],
    "several": [one.name for one in MOTION_CLASSES],
    "slowing": ["slows_down"],
}
"""Classes of each task, in the order of their numbers."""


@dataclass
class TaskClips:
    """Clips and their labels.

    Args:
        video: uint8 [N, T, H, W, 3].
        label: int64 [N], or of `several` float32 [N, K], 1 for the motions that are shown.
        object: int64 [N], index into `SHAPES`, of the first object.
        background: int64 [N], 0: all are black.
    """

    video: Tensor
    label: Tensor
    object: Tensor
    background: Tensor


def make_task(task: Task, count: int, frames: int, size: int, split: Split, seed: int) -> TaskClips:
    """Make clips 0 .. count - 1 of a split. Clip n is a function of (task, seed, split, n) alone.

    * `speed`: an object travels in any direction; the class is how fast.
    * `phase`: it travels during one quarter of the clip; the class is which.
    * `direction`: it travels; the class is the heading, one of eight.
    * `order`: it travels, turns and grows, each during a third of the clip; the class is the order.
    * `several`: two objects show two of the motions of `MOTION_CLASSES`; the labels are which.
    * `slowing`: it travels ever more slowly until it stops; there is one class. For the arrow of time.

    Classes take turns.

    Args:
        task: what the label says.
        count: number of clips N.
        frames: per clip, T.
        size: side of the frames in pixels.
        split: which colours, patterns and proportions to draw from.
        seed: of the data set.
    """
    parts = []
    for index in in_chunks(count, frames, size, "cpu"):
        label = index % len(CLASS_NAMES[task])
        if task == "several":
            motions = torch.stack([label, _another(Draws(seed, split, index), label)], 1)
            moved = [changes(_moves(seed, split, index, k), motions[:, k], frames, False) for k in (0, 1)]
            label = torch.zeros(len(index), len(MOTION_CLASSES)).scatter_(1, motions, 1)
        else:
            moved = [CHANGES[task](_moves(seed, split, index, 0), label, torch.linspace(0, 1, frames, dtype=torch.float64))]
        kind, video = _film(moved, seed, split, index, size)
        parts.append((video, label, kind, torch.zeros_like(index)))
    return TaskClips(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _another(draws: Draws, motion: Tensor) -> Tensor:
    """A class other than that of the first object: int64 [N] -> int64 [N]."""
    classes = len(MOTION_CLASSES)
    return (motion + 1 + draws.integer("second motion", classes - 1)) % classes


def _moves(seed: int, split: Split, index: Tensor, number: int) -> Draws:
    # Versions other than 0 draw numbers that are unrelated to those of the first object.
    return Draws(seed, split, index, 1000 * number)


def _film(moved: list[Change], seed: int, split: Split, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Shapes of the first objects int64 [N], and clips uint8 [N, T, H, W, 3] of objects that move like this over black."""
    kinds, textures, records = [], [], []
    for number, change in enumerate(moved):
        looks = _moves(seed, split, index, number)
        path = starting(looks, change, OBJECT_SIZE)
        kind = looks.integer("object", len(SHAPES))
        side = path.size * size
        extent = torch.stack([side * looks.banded("aspect", 0.7, 1).float()[:, None], side], -1)
        kinds.append(kind)
        textures.append(make_textures(looks, kind, texels(OBJECT_SIZE[0], size)))
        records.append((path.centre * size, extent, path.angle))
    record = record_of(*(torch.stack(column, 1) for column in zip(*records, strict=True)))
    frames = moved[0].turn.shape[1]
    still = make_backgrounds(Draws(seed, split, index), torch.zeros_like(index), ["black"], size, None)
    video = still[:, None].expand(-1, frames, -1, -1, -1)
    return kinds[0], paste(video, record, torch.stack(textures, 1), wrap=True)


# --- What each task adds to the place where an object starts: draws of N clips, labels int64 [N], times float64 [T] ---


def _travel(draws: Draws, heading: Tensor, way: Tensor) -> Change:
    """Straight on: heading float64 [N] in degrees, clockwise from 'right', and the way gone float64 [N, T] in frames' sides."""
    radians = torch.deg2rad(heading)
    direction = torch.stack([radians.cos(), radians.sin()], -1)
    return Change(way[..., None] * direction[:, None], torch.zeros_like(way), torch.zeros_like(way))


def _any_heading(draws: Draws) -> Tensor:
    return draws.uniform("heading", 0, 360)


def _speed(draws: Draws, label: Tensor, time: Tensor) -> Change:
    speed = torch.tensor(SPEEDS, dtype=torch.float64)[label] * draws.uniform("speed", 1 - SPEED_SPREAD, 1 + SPEED_SPREAD)
    return _travel(draws, _any_heading(draws), speed[:, None] * time)


def _phase(draws: Draws, label: Tensor, time: Tensor) -> Change:
    passed = (QUARTERS * time - label[:, None]).clamp(0, 1)
    return _travel(draws, _any_heading(draws), draws.uniform("speed", *TRAVEL)[:, None] * passed)


def _direction(draws: Draws, label: Tensor, time: Tensor) -> Change:
    return _travel(draws, 360.0 / HEADINGS * label.double(), draws.uniform("speed", *TRAVEL)[:, None] * time)


def _order(draws: Draws, label: Tensor, time: Tensor) -> Change:
    place = torch.tensor([[order.index(part) for part in PARTS] for order in ORDERS])[label]
    travel, turn, grow = (len(PARTS) * time - place[..., None]).clamp(0, 1).unbind(1)
    gone = _travel(draws, _any_heading(draws), draws.uniform("speed", *TRAVEL)[:, None] * travel)
    growth = draws.uniform("growth", math.log(GROWTH[0]), math.log(GROWTH[1]))[:, None]
    return Change(gone.shift, draws.uniform("rotation", *ROTATION)[:, None] * turn, growth * grow)


def _slowing(draws: Draws, label: Tensor, time: Tensor) -> Change:
    return _travel(draws, _any_heading(draws), draws.uniform("speed", *TRAVEL)[:, None] * (1 - (1 - time) ** 3))


CHANGES: dict[Task, Callable[[Draws, Tensor, Tensor], Change]] = {
    "speed": _speed,
    "phase": _phase,
    "direction": _direction,
    "order": _order,
    "slowing": _slowing,
}

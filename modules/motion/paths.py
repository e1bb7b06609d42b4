"""Shapes of paths, and composition of phases of motion into trajectories.

A path has its own coordinate system: along its heading, and to the left of it. Axis letters: `B` clips, `K` objects, `S`
phases, `M` moments.
"""

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from modules.motion.primitives import Shape
from modules.motion.scripts import MOMENTS
from modules.motion.trajectory import ACCELERATE, DECELERATE

SHAPES: tuple[str, ...] = get_args(Shape)
ZIGZAG = 0.9
"""Sideways over forward speed of a zigzag."""
PAUSE = 0.24
"""Duration of a stop within a path, as a fraction of its time."""


@dataclass
class Phases:
    """Motion of objects in each phase; phases of an object are in sequence. All tensors are [B, K, S].

    Args:
        start: start of each phase, from 0 to 1.
        end: end of each phase; equal to `start` for an unused phase.
        shape: int64, index into `SHAPES`.
        profile: int64, uniform, accelerating or decelerating.
        heading: degrees, anticlockwise from 'right'.
        length: length of the path, in short sides.
        bend: parameter of the shape: curve: half of the change of heading, radians; loop: the complete change; zigzag and
            shuttle: number of periods; turn: change of heading, radians; vee and arch: height over width, to the left.
        spin: degrees, clockwise positive.
        rocks: bool, whether the object rotates back and forth by `spin` instead.
        growth: logarithm of the ratio of sizes.
        pulses: bool, whether the object shrinks again.
    """

    start: Tensor
    end: Tensor
    shape: Tensor
    profile: Tensor
    heading: Tensor
    length: Tensor
    bend: Tensor
    spin: Tensor
    rocks: Tensor
    growth: Tensor
    pulses: Tensor


def triangle(time: Tensor) -> Tensor:
    """A triangle wave of period 1: 0, 1 after a quarter, 0, -1 after three quarters."""
    return 1 - 4 * ((time + 0.25) % 1 - 0.5).abs()


def _path(shape: Tensor, w: Tensor, bend: Tensor) -> tuple[Tensor, Tensor]:
    """Positions along a heading and to the left of it, [..., M]: shape and bend [..., 1], w [..., M] from 0 to 1."""
    nothing = torch.zeros_like(w)
    curve = torch.where(bend.abs() < 0.1, 0.1, bend)
    stopgo = w.clamp(max=(1 - PAUSE) / 2) + (w - (1 + PAUSE) / 2).clamp_min(0)
    second = (w - 0.5).clamp_min(0)
    pairs = {
        "still": (nothing, nothing),
        "straight": (w, nothing),
        "stopgo": (stopgo, nothing),
        "curve": ((curve * (2 * w - 1)).sin() / curve, -(curve * (2 * w - 1)).cos() / curve),
        "loop": ((curve * w).sin() / curve, (1 - (curve * w).cos()) / curve),
        "zigzag": (w, ZIGZAG * triangle(bend * w) / (4 * bend)),
        "shuttle": (triangle(bend * w), nothing),
        "return": (1 - (1 - 2 * w).abs(), nothing),
        "turn": (w.clamp(max=0.5) + second * bend.cos(), second * bend.sin()),
        "vee": (w, bend * (1 - (1 - 2 * w).abs())),
        "arch": (w, bend * 4 * w * (1 - w)),
    }
    along = left = nothing
    for number, name in enumerate(SHAPES):
        along = torch.where(shape == number, pairs[name][0], along)
        left = torch.where(shape == number, pairs[name][1], left)
    return along, left


def _progress(phases: Phases) -> Tensor:
    """Progress of each phase at each moment: [B, K, S, M] from 0 to 1."""
    start, end = phases.start[..., None], phases.end[..., None]
    time = torch.linspace(0, 1, MOMENTS, device=start.device, dtype=start.dtype)
    return ((time - start) / (end - start).clamp_min(1e-6)).clamp(0, 1)


def displacement(phases: Phases) -> Tensor:
    """Positions of objects relative to their first one: [B, K, M, 2], x to the right and y down."""
    w = _progress(phases)
    profile = phases.profile[..., None]
    w = torch.where(profile == ACCELERATE, w.square(), torch.where(profile == DECELERATE, 1 - (1 - w).square(), w))
    along, left = (part - part[..., :1] for part in _path(phases.shape[..., None], w, phases.bend[..., None]))
    # The length is that of the polygon through the moments, because this is measured later.
    length = torch.hypot(along.diff(dim=-1), left.diff(dim=-1)).sum(-1).clamp_min(1e-6)
    scale, radians = phases.length / length, phases.heading * (math.pi / 180)
    cos, sin = (scale * radians.cos())[..., None], (scale * radians.sin())[..., None]
    return torch.stack([along * cos - left * sin, -(along * sin + left * cos)], dim=-1).sum(2)


def turning(phases: Phases) -> Tensor:
    """Angles in degrees, clockwise, relative to the first moment: [B, K, M]."""
    w = _progress(phases)
    return (phases.spin[..., None] * torch.where(phases.rocks[..., None], triangle(1.5 * w), w)).sum(2)


def growing(phases: Phases) -> Tensor:
    """Logarithms of sizes relative to the first moment: [B, K, M]."""
    w = _progress(phases)
    return (phases.growth[..., None] * torch.where(phases.pulses[..., None], 1 - (1 - 2 * w).abs(), w)).sum(2)

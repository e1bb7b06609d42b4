"""Generated moving skeletons with labelled actions: 25 joints of a Kinect v2, at 30 frames per second.

Every angle of a body is a sum of patterns: arms wave, rise and circle, legs kick, squat and march, the trunk bows. An action
runs its own pattern; all others are fixed at a random phase. So a single pose reveals little about the action: a lifted arm may
be fixed, rising, or part of a circle. A single frame can still reveal the two turns, because recordings are aligned to their
first frame, and the progress of raising and lowering.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from modules.scenes.classes import Draws, Split

ACTIONS = (
    *("wave_left", "wave_right", "raise_arms", "lower_arms", "circle_forward", "circle_backward"),
    *("kick", "squat", "march", "bow", "turn_left", "turn_right"),
)
"""The actions, in the order of their labels."""
FPS = 30
LENGTHS = (45, 150)
"""Shortest and longest recording, in frames."""

# Joint, its parent joint, the body part that it moves with, and its offset from the parent (metres, for a height of 1.7 m; x to
# the person's left, y up, z backwards).
BONES: tuple[tuple[int, int, str, tuple[float, float, float]], ...] = (
    (1, 0, "trunk", (0.0, 0.30, 0.0)),
    (20, 1, "trunk", (0.0, 0.22, 0.0)),
    (2, 20, "trunk", (0.0, 0.08, 0.0)),
    (3, 2, "trunk", (0.0, 0.14, -0.02)),
    (4, 20, "trunk", (0.17, -0.03, 0.0)),
    (5, 4, "upper_arm_left", (0.0, -0.27, 0.0)),
    (6, 5, "forearm_left", (0.0, -0.24, 0.0)),
    (7, 6, "forearm_left", (0.0, -0.07, 0.0)),
    (21, 7, "forearm_left", (0.0, -0.08, 0.0)),
    (22, 7, "forearm_left", (-0.03, -0.03, -0.04)),
    (8, 20, "trunk", (-0.17, -0.03, 0.0)),
    (9, 8, "upper_arm_right", (0.0, -0.27, 0.0)),
    (10, 9, "forearm_right", (0.0, -0.24, 0.0)),
    (11, 10, "forearm_right", (0.0, -0.07, 0.0)),
    (23, 11, "forearm_right", (0.0, -0.08, 0.0)),
    (24, 11, "forearm_right", (0.03, -0.03, -0.04)),
    (12, 0, "pelvis", (0.09, -0.04, 0.0)),
    (13, 12, "thigh_left", (0.0, -0.42, 0.0)),
    (14, 13, "shin_left", (0.0, -0.40, 0.0)),
    (15, 14, "shin_left", (0.0, -0.06, -0.10)),
    (16, 0, "pelvis", (-0.09, -0.04, 0.0)),
    (17, 16, "thigh_right", (0.0, -0.42, 0.0)),
    (18, 17, "shin_right", (0.0, -0.40, 0.0)),
    (19, 18, "shin_right", (0.0, -0.06, -0.10)),
)
JOINTS = 25
SIDES = ("left", "right")

# Ranges of the angles in radians without patterns, and the amplitude of a very slow drift of all angles in every recording.
CENTRES = {
    **{f"{name}_{side}": bounds for side in SIDES for name, bounds in (("raise", (0.8, 1.3)), ("swing", (0.1, 0.6)))},
    **{f"{name}_{side}": bounds for side in SIDES for name, bounds in (("bend", (0.9, 1.5)), ("lift", (0.0, 0.2)))},
    **{f"knee_{side}": (0.0, 0.3) for side in SIDES},
    "bow": (0.0, 0.2),
    "turn": (0.0, 0.0),
}
SWAY = 0.05
MAX_LIFT, MAX_KNEE = 1.9, 2.3


class Skeletons(NamedTuple):
    """Recordings of moving people."""

    joints: Tensor
    """float32 [N, M, T, J, 3], metres in the camera's coordinates. The first person performs the action; the second, if there
    is one, stands still. 0 for a missing person, and after the end of a recording."""
    length: Tensor
    """int64 [N], number of frames of each recording, at most T"""
    action: Tensor
    """int64 [N], index into `ACTIONS`"""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Context with one thread. For many small tensors, more threads gain little, and block each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _smooth(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def make_angles(draws: Draws, action: Tensor, length: Tensor, frames: int) -> dict[str, Tensor]:
    """Angles of the body over time.

    Args:
        draws: random numbers of the N recordings.
        action: int64 [N]; -1 keeps the person still.
        length: int64 [N], number of frames of an action that happens once.
        frames: T

    Returns:
        float64 [N, T] radians by name.
    """
    time = torch.arange(frames).double()

    def doing(*names: str) -> Tensor:
        return torch.stack([action == ACTIONS.index(name) for name in names]).any(0)[:, None]

    def clock(pattern: str, active: Tensor, rate: tuple[float, float]) -> Tensor:
        # The phase advances if the pattern is active, and is fixed at a random value otherwise.
        start = draws.uniform(f"{pattern} phase", 0, 2 * math.pi)[:, None]
        return start + active * 2 * math.pi * draws.uniform(f"{pattern} rate", *rate)[:, None] * time / FPS

    def ramp(pattern: str, active: Tensor) -> Tensor:
        # From -1 to 1 once in a recording.
        begin, end = draws.uniform(f"{pattern} begin", 0, 0.2)[:, None], draws.uniform(f"{pattern} end", 0.8, 1)[:, None]
        progress = torch.where(active, time / (length[:, None] - 1), draws.uniform(f"{pattern} moment")[:, None])
        return 2 * _smooth((progress - begin) / (end - begin)) - 1

    def size(pattern: str, low: float, high: float) -> Tensor:
        return draws.uniform(f"{pattern} size", low, high)[:, None]

    angles = {}
    for name, bounds in CENTRES.items():
        drift = draws.uniform(f"{name} drift", 0.1, 0.4)[:, None] * time / FPS + draws.uniform(f"{name} drift phase")[:, None]
        angles[name] = draws.uniform(name, *bounds)[:, None] + SWAY * (2 * math.pi * drift).sin()
    rising = ramp("rise", doing("raise_arms", "lower_arms")) * size("rise", 0.5, 0.7)
    rising = torch.where(doing("lower_arms"), -rising, rising)
    dip = size("squat", 0.5, 0.8) * (1 - clock("squat", doing("squat"), (0.3, 0.6)).cos()) / 2
    step = size("march", 0.5, 0.8) * clock("march", doing("march"), (0.7, 1.2)).sin()
    kick = size("kick", 0.7, 1.0) * clock("kick", doing("kick"), (0.4, 0.8)).sin().clamp(min=0) ** 3
    circle = clock("circle", doing("circle_forward", "circle_backward"), (0.5, 1.0))
    circle = torch.where(doing("circle_backward"), -circle, circle)
    for number, side in enumerate(SIDES):
        wave = clock(f"wave {side}", doing(f"wave_{side}"), (0.8, 1.5)).sin()
        angles[f"bend_{side}"] = angles[f"bend_{side}"] + size("wave", 0.5, 0.8) * wave
        circles = size("circle", 0.4, 0.6) * (draws.integer("circle side", 2) == number)[:, None]
        angles[f"raise_{side}"] = angles[f"raise_{side}"] + rising + circles * circle.cos()
        sign = 1 if side == "left" else -1
        angles[f"swing_{side}"] = angles[f"swing_{side}"] + circles * circle.sin() - 0.4 * sign * step
        kicks = kick * (draws.integer("kick side", 2) == number)[:, None]
        lift = (sign * step).clamp(min=0)
        angles[f"lift_{side}"] = (angles[f"lift_{side}"] + lift + dip + kicks).clamp(max=MAX_LIFT)
        angles[f"knee_{side}"] = (angles[f"knee_{side}"] + 1.3 * lift + 2 * dip).clamp(0, MAX_KNEE)
    angles["bow"] = angles["bow"] + size("bow", 0.5, 0.9) * (1 - clock("bow", doing("bow"), (0.2, 0.5)).cos()) / 2
    turning = ramp("turn", doing("turn_left", "turn_right")) * size("turn", 0.6, 1.3)
    angles["turn"] = angles["turn"] + torch.where(doing("turn_right"), -turning, turning)
    return angles


def rotation(axis: int, angle: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] about x, y or z (0, 1, 2), counter-clockwise by radians [...]."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = torch.zeros(*angle.shape, 3, 3, dtype=angle.dtype, device=angle.device)
    matrix[..., axis, axis] = 1
    matrix[..., first, first] = matrix[..., second, second] = angle.cos()
    matrix[..., second, first] = angle.sin()
    matrix[..., first, second] = -angle.sin()
    return matrix


def pose(angles: dict[str, Tensor], proportions: dict[str, Tensor]) -> Tensor:
    """Joints from angles: float32 [N, T, J, 3] in metres, with the pelvis at 0, facing -z before the turn.

    Args:
        angles: radians [N, T] by name.
        proportions: scale factors [N] by the first word of the body part, and `height` for all parts.
    """
    angles = {name: angle.float() for name, angle in angles.items()}
    whole = rotation(1, angles["turn"])
    trunk = whole @ rotation(0, -angles["bow"])
    parts = {"pelvis": whole, "trunk": trunk}
    for side, sign in (("left", 1), ("right", -1)):
        arm = trunk @ rotation(0, angles[f"swing_{side}"]) @ rotation(2, sign * angles[f"raise_{side}"])
        leg = whole @ rotation(0, angles[f"lift_{side}"])
        parts |= {f"upper_arm_{side}": arm, f"forearm_{side}": arm @ rotation(0, angles[f"bend_{side}"])}
        parts |= {f"thigh_{side}": leg, f"shin_{side}": leg @ rotation(0, -angles[f"knee_{side}"])}
    joints = whole.new_zeros(*angles["turn"].shape, JOINTS, 3)
    for joint, parent, part, offset in BONES:
        stretch = proportions["height"] * proportions[part.partition("_")[0]]
        bone = (stretch.float()[:, None] * joints.new_tensor(offset))[:, None, :, None]
        joints[:, :, joint] = joints[:, :, parent] + (parts[part] @ bone)[..., 0]
    return joints


def draw_proportions(draws: Draws) -> dict[str, Tensor]:
    """Height and limb lengths of each person; the values of training and validation do not overlap."""
    found = {"height": draws.banded("height", 0.85, 1.15)}
    for part in ("trunk", "pelvis", "upper", "forearm", "thigh", "shin"):
        found[part] = draws.banded(f"{part} length", 0.88, 1.12)
    return found


@_one_thread()
def make_skeletons(
    count: int, split: Split, seed: int, first: int = 0, second_person: float = 0.2, noise: float = 0.01
) -> Skeletons:
    """Make some recordings. Each only depends on (seed, split, index).

    Args:
        count: N
        split: training and validation share actions, but no bodies.
        seed: seed of the data set.
        first: index of the first recording.
        second_person: fraction of recordings with a second person, who stands next to the first.
        noise: largest error of a coordinate, in metres.
    """
    draws = Draws(seed, split, torch.arange(first, first + count))
    frames = LENGTHS[1]
    action = draws.integer("action", len(ACTIONS))
    length = LENGTHS[0] + draws.integer("length", LENGTHS[1] - LENGTHS[0] + 1)
    joints = torch.zeros(count, 2, frames, JOINTS, 3)
    joints[:, 0] = pose(make_angles(draws, action, length, frames), draw_proportions(draws))
    accompanied = draws.uniform("second person") < second_person
    others = Draws(seed, split, draws.index[accompanied], version=1)
    still = torch.full_like(others.index, -1)
    joints[accompanied, 1] = pose(make_angles(others, still, length[accompanied], frames), draw_proportions(others))
    side = torch.where(draws.uniform("beside") < 0.5, -1.0, 1.0) * draws.uniform("distance", 0.6, 1.1)
    joints[:, 1, ..., 0] += side[:, None, None]
    # The camera is at a random position in front of them.
    view = rotation(0, draws.uniform("pitch", -0.2, 0.2)) @ rotation(1, draws.uniform("yaw", -0.8, 0.8))
    joints = joints @ view.float()[:, None, None].transpose(-1, -2)
    place = torch.stack([draws.uniform("x", -0.6, 0.6), draws.uniform("y", -0.2, 0.2), draws.uniform("depth", 2.5, 4.0)], 1)
    joints += place.float()[:, None, None, None]
    joints[:, 0] += draws.many("noise", frames * JOINTS * 3, -noise, noise).reshape(count, frames, JOINTS, 3)
    joints.masked_fill_((torch.arange(frames) >= length[:, None])[:, None, :, None, None], 0)
    joints[~accompanied, 1] = 0
    return Skeletons(joints, length, action)

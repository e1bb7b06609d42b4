"""Labelled motions whose class cannot be inferred from any single frame, and their random draws.

Positions are on a torus; angles and logarithms of sizes are on a circle. In every class, clips start with a uniform
distribution on them, and a motion only adds a shift that depends on time. A uniform distribution remains uniform under a shift,
so in every frame, position, size and angle have exactly the same joint distribution in all classes: only the change between
frames distinguishes them. Speeds have the same distribution in all classes, too. As a consequence, objects that leave the
picture reappear on the other side, and an object that grows beyond the largest size continues from the smallest (a sawtooth),
in a considerable fraction of the clips.
"""

import math
import zlib
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.core.randomness import derive_seed

Split = Literal["train", "val"]

_UNIT = 1 << 53
_GOLDEN = 0x9E3779B97F4A7C15


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (which wraps around on overflow, as the algorithm requires)."""
    # torch shifts int64 arithmetically; the mask converts this to the logical shift of the algorithm.
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class Draws:
    """Random numbers that are a pure function of (seed, split, clip index, name of the quantity).

    They are hashed, not drawn in sequence (SplitMix64; Steele, Lea and Flood 2014). So a clip does not depend on the order,
    chunk, device or other clips with which it is made.

    Args:
        seed: Seed of the data set.
        split: The two splits get unrelated numbers.
        index: int64 [N], indices of the clips. All tensors are made on its device.
        version: Other versions give unrelated numbers.
    """

    def __init__(self, seed: int, split: Split, index: Tensor, version: int = 0) -> None:
        self.seed = seed
        self.split = split
        self.index = index
        self.version = version

    def at(self, rows: Tensor) -> "Draws":
        """The same numbers for some of the clips, rows int64 [M]."""
        return Draws(self.seed, self.split, self.index[rows], self.version)

    def bits(self, name: str, count: int) -> Tensor:
        """int64 [N, count], 64 random bits each."""
        key = derive_seed(self.seed, 0 if self.split == "train" else 1, self.version, zlib.crc32(name.encode()))
        clip = _mix(self.index * _signed(_GOLDEN) + _signed(key))
        position = torch.arange(1, count + 1, device=self.index.device) * _signed(_GOLDEN)
        return _mix(clip[:, None] + position)

    def many(self, name: str, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float64 [N, count], uniform in [low, high)."""
        unit = ((self.bits(name, count) >> 11) & (_UNIT - 1)).double() / _UNIT
        return low + (high - low) * unit

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float64 [N], uniform in [low, high)."""
        return self.many(name, 1, low, high)[:, 0]

    def integer(self, name: str, count: int) -> Tensor:
        """int64 [N], uniform in 0 .. count - 1."""
        return (self.uniform(name) * count).long()

    def banded(self, name: str, low: float = 0.0, high: float = 1.0, bands: int = 6) -> Tensor:
        """float64 [N] in [low, high), from bands that alternate between the two splits.

        The range is divided into `bands` equal bands; the training split draws from the first half of each, the validation
        split from the second, with a gap of a tenth of a band between them. Both splits cover the complete range, but their
        values do not overlap.
        """
        unit = self.uniform(name) * bands
        band = unit.floor()
        part = 0.05 + 0.4 * (unit - band) + (0.0 if self.split == "train" else 0.5)
        return low + (high - low) * (band + part) / bands


class MotionClass(NamedTuple):
    """One class of motion, in two phases of equal length.

    Args:
        name: Name of the class.
        heading: Direction of the first phase in degrees, clockwise from 'right'; None draws one per clip.
        first: Whether the object moves in the first phase.
        second: Whether it moves in the second phase.
        turn: Change of the heading between the phases, in degrees clockwise.
        spin: 1 rotates clockwise, -1 anticlockwise.
        growth: 1 grows, -1 shrinks.
    """

    name: str
    heading: float | None = 0.0
    first: bool = False
    second: bool = False
    turn: float = 0.0
    spin: int = 0
    growth: int = 0


MOTION_CLASSES = (
    MotionClass("right", 0.0, True, True),
    MotionClass("left", 180.0, True, True),
    MotionClass("up", 270.0, True, True),
    MotionClass("down", 90.0, True, True),
    MotionClass("rotate_clockwise", spin=1),
    MotionClass("rotate_anticlockwise", spin=-1),
    MotionClass("grow", growth=1),
    MotionClass("shrink", growth=-1),
    MotionClass("go_then_stop", None, True, False),
    MotionClass("stop_then_go", None, False, True),
    MotionClass("there_and_back", None, True, True, 180.0),
    MotionClass("turn_left", None, True, True, -90.0),
    MotionClass("turn_right", None, True, True, 90.0),
)
"""The classes, in the order of their labels."""

TRAVEL = (0.35, 0.75)
"""Length of a path over the complete clip, in sides of the frame; phases at rest shorten the path, but not the speed."""
ROTATION = (90.0, 240.0)
"""Degrees over the clip."""
MAX_ROTATION_PER_FRAME = 59.0
"""Faster rotations would look like rotations in the opposite direction."""
GROWTH = (1.6, 2.2)
"""Ratio of sizes over the clip."""
NUISANCE = 0.3
"""Fraction of the motions above by which distractors change the quantities that the class does not use."""


class Change(NamedTuple):
    """Change since the start of a motion, float64: `shift` [N, T, 2] (x, y), `turn` [N, T] and `growth` [N, T].

    Shifts are in sides of the frame, turns in degrees clockwise, growth is the logarithm of a ratio of sizes. Values are not
    wrapped around.
    """

    shift: Tensor
    turn: Tensor
    growth: Tensor


class Path(NamedTuple):
    """Positions of objects, float32: `centre` [N, T, 2] (x, y), `size` [N, T] and `angle` [N, T].

    Centres and sizes are in sides of the frame, angles in degrees clockwise; centres are in [0, 1), angles in [0, 360).
    """

    centre: Tensor
    size: Tensor
    angle: Tensor


def _table(field: str, motion: Tensor) -> Tensor:
    return torch.tensor([float(getattr(c, field) or 0) for c in MOTION_CLASSES], device=motion.device).double()[motion]


def _direction(degrees: Tensor) -> Tensor:
    radians = torch.deg2rad(degrees)
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def ease(progress: Tensor) -> Tensor:
    """Covered distance of a phase as a function of its progress, both from 0 to 1, for a body that starts and ends at rest. The
    acceleration is one period of a sine.
    """
    progress = progress.clamp(0, 1)
    return progress - (2 * math.pi * progress).sin() / (2 * math.pi)


def changes(draws: Draws, motion: Tensor, frames: int, distractors: bool) -> Change:
    """`changes_at` for T frames that are evenly spaced over the complete motion."""
    time = torch.linspace(0, 1, frames, device=motion.device, dtype=torch.float64)
    return changes_at(draws, motion, time, frames, distractors)


def changes_at(draws: Draws, motion: Tensor, time: Tensor, frames: int, distractors: bool, smooth: bool = False) -> Change:
    """Draw speeds and headings, and compute the changes of a motion at given times.

    Args:
        draws: Random numbers of the N clips.
        motion: int64 [N], class of each clip; -1 changes nothing.
        time: float64 [T] or [N, T], times, from 0 at the first frame to 1 at the last one. Outside this range, the motion
            continues, or with `smooth` rests.
        frames: Number of frames of the clip, which limits the rotation.
        distractors: Add small random drifts of the quantities (position, angle, size) that the class does not use.
        smooth: Both phases start and end at rest (see `ease`), instead of having constant speed; drifts are not affected.
    """
    still = (motion < 0)[:, None]
    motion = motion.clamp(min=0)
    first, second = time.clamp(max=0.5), (time - 0.5).clamp(min=0)
    whole = time
    if smooth:
        first, second = ease(2 * time) / 2, ease(2 * time - 1) / 2
        whole = first + second

    free = torch.tensor([c.heading is None for c in MOTION_CLASSES], device=motion.device)[motion]
    heading = torch.where(free, draws.uniform("heading", 0, 360), _table("heading", motion))
    speed = draws.uniform("speed", *TRAVEL)[:, None]
    leg1 = (speed * _table("first", motion)[:, None] * first)[..., None] * _direction(heading)[:, None]
    leg2 = (speed * _table("second", motion)[:, None] * second)[..., None]
    shift = leg1 + leg2 * _direction(heading + _table("turn", motion))[:, None]

    fastest = min(ROTATION[1], MAX_ROTATION_PER_FRAME * (frames - 1))
    rotation = draws.uniform("rotation", min(ROTATION[0], fastest), fastest)
    growth = draws.uniform("growth", math.log(GROWTH[0]), math.log(GROWTH[1]))
    turning = (_table("spin", motion) * rotation)[:, None] * whole
    growing = (_table("growth", motion) * growth)[:, None] * whole

    if distractors:
        travels = (_table("first", motion) + _table("second", motion) > 0)[:, None]
        drift = draws.uniform("drift speed", 0, NUISANCE * TRAVEL[0])[:, None, None] * time[..., None]
        drift = drift * _direction(draws.uniform("drift heading", 0, 360))[:, None]
        shift = torch.where(travels[..., None], shift, shift + drift)
        drift = draws.uniform("drift rotation", -NUISANCE * ROTATION[0], NUISANCE * ROTATION[0])[:, None] * time
        turning = torch.where(_table("spin", motion)[:, None] != 0, turning, turning + drift)
        bound = NUISANCE * math.log(GROWTH[0])
        drift = draws.uniform("drift growth", -bound, bound)[:, None] * time
        growing = torch.where(_table("growth", motion)[:, None] != 0, growing, growing + drift)

    return Change(*(x.masked_fill(m, 0) for x, m in ((shift, still[..., None]), (turning, still), (growing, still))))


def move(draws: Draws, motion: Tensor, frames: int, object_size: tuple[float, float], distractors: bool) -> Path:
    """Paths of objects with random starts that move according to their class.

    Args:
        draws: Random numbers of the N clips.
        motion: int64 [N], class of each clip; -1 keeps the object still.
        frames: Number of frames T.
        object_size: Smallest and largest side of an object, in sides of the frame.
        distractors: See `changes`.
    """
    return starting(draws, changes(draws, motion, frames, distractors), object_size)


def starting(draws: Draws, change: Change, object_size: tuple[float, float]) -> Path:
    """Paths of objects with random starts on the torus and given changes."""
    start = torch.stack([draws.uniform("x"), draws.uniform("y")], dim=-1)[:, None]
    octave = math.log(object_size[1] / object_size[0])
    size = draws.uniform("size")[:, None] * octave + change.growth
    if octave > 0:
        size = size.remainder(octave)
    angle = (draws.uniform("angle", 0, 360)[:, None] + change.turn).remainder(360)
    return Path((start + change.shift).remainder(1).float(), (object_size[0] * size.exp()).float(), angle.float())

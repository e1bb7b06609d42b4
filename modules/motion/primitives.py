"""The primitive motions of captions, how each is drawn, and their counterparts in mirrored and reversed clips.

LocoMotion (https://arxiv.org/abs/2410.12018) pastes moving objects into clips and describes their motion in words. Its code
and tables are not public: the primitives, the bands and all numbers here are this project's.

Lengths are in short sides of the frame, times in lengths of the clip, headings in degrees anticlockwise from 'right' (90 is
up in the picture); rotations are clockwise positive. There are gaps between the bands, whose values are never drawn, so that a
word is either clearly true or clearly false.
"""

from typing import Literal, NamedTuple

from modules.motion.trajectory import ACCELERATE, DECELERATE, UNIFORM

HEADINGS = ("right", "upright", "up", "upleft", "left", "downleft", "down", "downright")
"""Heading k points at 45 k degrees."""
SECTOR = 12.0
"""Largest deviation in degrees at which a heading still has its name."""

STILL = 0.03
SPEED = {"S.slow": (0.10, 0.25), "S.fast": (0.75, 1.8)}
DISTANCE = {"D.short": (0.06, 0.15), "D.long": (0.55, 0.9)}
TILT = (20.0, 60.0)
HALF_TURN = (120.0, 240.0)
FULL_TURN = (330.0, 750.0)
GROWTH = (1.5, 3.0)
MAX_ROTATION_PER_FRAME = 58.0
"""The direction of faster rotations is not visible."""

Shape = Literal["still", "straight", "stopgo", "curve", "zigzag", "loop", "shuttle", "return", "turn", "vee", "arch"]
Spin = Literal["none", "cw", "ccw", "tilt", "full", "rock", "roll", "against"]
Growth = Literal["none", "grow", "shrink", "pulse"]
Timing = Literal["any", "start", "stop", "whole"]


class Gait(NamedTuple):
    """Range of path lengths and of speeds (length over duration), both slightly within their bands."""

    shortest: float
    longest: float
    slowest: float
    fastest: float


GAITS = {
    "slow short": Gait(0.07, 0.145, 0.105, 0.245),
    "slow": Gait(0.225, 0.245, 0.105, 0.245),
    "plain short": Gait(0.07, 0.145, 0.36, 0.54),
    "plain": Gait(0.225, 0.44, 0.36, 0.54),
    "fast": Gait(0.225, 0.44, 0.77, 1.75),
    "fast long": Gait(0.56, 0.88, 0.77, 1.75),
    "border": Gait(0.45, 0.65, 0.36, 1.75),
    "out and back": Gait(0.4, 1.0, 0.36, 1.6),
    "winding": Gait(0.7, 1.2, 0.5, 1.75),
    "none": Gait(0.0, 0.0, 0.0, 1.0),
}
STRIDES = ("slow short", "slow", "plain short", "plain", "fast", "fast long")
MIDDLING = ("slow", "plain", "fast")
ANY = tuple(range(8))


class Recipe(NamedTuple):
    """How one object performs a primitive.

    Args:
        shape: shape of the path.
        headings: headings to choose from; of the straight line from start to end, of the first leg, or of the way out.
        gaits: gaits to choose from.
        steps: number of frame-to-frame steps that are needed to see it.
        profile: change of the speed.
        spin: cw, ccw: 120 to 240 degrees; tilt: 20 to 60; full: 330 to 750; rock: back and forth; roll: like a wheel; against:
            opposite to a wheel.
        growth: pulse grows and shrinks again.
        timing: start: rests at the beginning; stop: rests at the end; whole: uses all the available time.
    """

    shape: Shape = "straight"
    headings: tuple[int, ...] = ANY
    gaits: tuple[str, ...] = STRIDES
    steps: int = 2
    profile: int = UNIFORM
    spin: Spin = "none"
    growth: Growth = "none"
    timing: Timing = "any"


def _in_place(steps: int, spin: Spin = "none", growth: Growth = "none") -> Recipe:
    return Recipe("still", gaits=("none",), steps=steps, spin=spin, growth=growth)


RECIPES: dict[str, Recipe] = {
    **{f"T.{name}": Recipe(headings=(k,)) for k, name in enumerate(HEADINGS)},
    "S.slow": Recipe(gaits=("slow short", "slow")),
    "S.fast": Recipe(gaits=("fast", "fast long")),
    "S.steady": Recipe(steps=3, gaits=("slow", "plain", "fast", "fast long")),
    "S.faster": Recipe(steps=4, gaits=("plain", "fast", "fast long"), profile=ACCELERATE),
    "S.slower": Recipe(steps=4, gaits=("plain", "fast", "fast long"), profile=DECELERATE),
    "D.short": Recipe(gaits=("slow short", "plain short")),
    "D.long": Recipe(gaits=("fast long",)),
    "P.still": Recipe("still", gaits=("none",), steps=1, timing="whole"),
    "P.start": Recipe(gaits=("plain", "fast", "fast long"), timing="start"),
    "P.stop": Recipe(gaits=("plain", "fast", "fast long"), timing="stop"),
    "P.stopgo": Recipe("stopgo", gaits=("plain",), steps=7, timing="whole"),
    "C.straight": Recipe(),
    "C.curve": Recipe("curve", gaits=("fast", "fast long", "plain"), steps=3),
    "C.zigzag": Recipe("zigzag", gaits=("winding",), steps=7),
    "C.loop": Recipe("loop", gaits=("winding",), steps=6),
    "C.shuttle": Recipe("shuttle", (0, 2, 4, 6), gaits=("winding",), steps=5),
    "C.return": Recipe("return", gaits=("out and back",), steps=3),
    "C.turn": Recipe("turn", gaits=("out and back",), steps=3),
    "C.bounce": Recipe("vee", (0, 4), gaits=("winding",), steps=4),
    "C.jump": Recipe("arch", (0, 4), gaits=("winding",), steps=4),
    "R.cw": _in_place(3, "cw"),
    "R.ccw": _in_place(3, "ccw"),
    "R.tilt": _in_place(2, "tilt"),
    "R.full": _in_place(6, "full"),
    "R.rock": _in_place(6, "rock"),
    "Z.grow": _in_place(2, growth="grow"),
    "Z.shrink": _in_place(2, growth="shrink"),
    "Z.pulse": _in_place(4, growth="pulse"),
    "V.enter": Recipe(headings=(0, 2, 4, 6), gaits=("border",)),
    "V.leave": Recipe(headings=(0, 2, 4, 6), gaits=("border",)),
    "K.roll": Recipe(headings=(0, 4), gaits=MIDDLING, steps=3, spin="roll"),
    "K.spinmove": Recipe(gaits=MIDDLING, steps=3, spin="against"),
    "K.flyaway": Recipe(headings=(1, 2, 3), gaits=MIDDLING, growth="shrink"),
    "G.from": Recipe(gaits=MIDDLING),
    "G.to": Recipe(gaits=MIDDLING),
}
"""Primitives of one object. P, V and G refer to the complete clip or to the frame; all others to one phase of the motion."""

RELATIONS = (
    "L.approach",
    "L.apart",
    "L.follow",
    "L.parallel",
    "L.opposite",
    "L.cross",
    "L.pass",
    "L.hit",
    "L.order",
    "L.onemoves",
)
"""Primitives of two objects. The first is object 1, which is on top; the second is object 0."""

PRIMITIVES = (*RECIPES, *RELATIONS)
"""All primitives, in the order of their indices."""

PHASES = (*(f"T.{name}" for name in HEADINGS), "S.slow", "S.fast", "D.short", "R.cw", "R.ccw", "R.tilt", "Z.grow", "Z.shrink")
"""Primitives that may be one of several phases of a clip, or the motion of one of two objects at the same time."""

TURNS = tuple(
    (first, second)
    for first in ANY
    for second in ANY
    if min((first - second) % 8, (second - first) % 8) in (2, 3)
    and not ({first, second} & {1, 2, 3} and {first, second} & {5, 6, 7})
)
"""Headings before and after a turn by 90 or 135 degrees. Turns from up to down or vice versa are jumps and bounces instead."""


REVERSIBLE = tuple(
    name
    for name in (*RECIPES, "L.approach", "L.apart", "L.pass")
    if name.startswith(("T.", "S.", "D.", "Z.grow", "Z.shrink", "V.", "K.roll", "K.spin", "G.", "L."))
    or name
    in ("P.start", "P.stop", "C.straight", "C.curve", "C.zigzag", "C.loop", "C.turn", "R.cw", "R.ccw", "R.tilt", "R.full")
)
"""Primitives that become another one, which has its own words, if a clip runs backwards."""


def mirror_heading(heading: int) -> int:
    """The heading in a clip that is mirrored left to right."""
    return (4 - heading) % 8


def _mirrored(name: str) -> str:
    if name.startswith("T."):
        return "T." + HEADINGS[mirror_heading(HEADINGS.index(name[2:]))]
    return {"R.cw": "R.ccw", "R.ccw": "R.cw"}.get(name, name)


def _reversed(name: str) -> str:
    if name.startswith("T."):
        return "T." + HEADINGS[(HEADINGS.index(name[2:]) + 4) % 8]
    pairs = [("R.cw", "R.ccw"), ("S.faster", "S.slower"), ("P.start", "P.stop"), ("Z.grow", "Z.shrink")]
    pairs += [("V.enter", "V.leave"), ("G.from", "G.to"), ("L.approach", "L.apart")]
    table = {a: b for one, other in pairs for a, b in ((one, other), (other, one))}
    return table.get(name, name)


MIRRORED = tuple(PRIMITIVES.index(_mirrored(name)) for name in PRIMITIVES)
"""Index of the primitive that each becomes in a mirrored clip."""
REVERSED = tuple(PRIMITIVES.index(_reversed(name)) for name in PRIMITIVES)
"""Index of the primitive that each becomes if the clip runs backwards, or its own index if there is none."""

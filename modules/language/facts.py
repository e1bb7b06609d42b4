"""Facts about a script, measured on its trajectories, independent of the primitives they were drawn as.

`clip_facts` here and `relation_facts` in `modules.language.relations` return the primitives that are true, with their
parameters. Captions only use these facts, so that every clause is true of the final record after all flips and crops.
"""

from modules.language.measurements import NO_ROTATION, SAME_SIZE, Measured, measure
from modules.motion.placement import MARGIN
from modules.motion.primitives import (
    DISTANCE,
    FULL_TURN,
    GROWTH,
    HALF_TURN,
    HEADINGS,
    SECTOR,
    SPEED,
    STILL,
    TILT,
)
from modules.motion.scripts import Script

Facts = dict[str, tuple[str, ...]]
"""Primitives that are true, with their parameters: headings, sides, directions of rotation, regions."""

REGIONS = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
SEEN = 0.6
"""Minimum visible fraction of an object during a phase; below it, captions only mention that it enters or leaves."""
PAUSE = 0.15


def name_heading(degrees: float) -> str | None:
    """Name of the heading, or None if it is between two named headings."""
    sector = round(degrees / 45) % 8
    return HEADINGS[sector] if abs((degrees - 45 * sector + 180) % 360 - 180) <= SECTOR else None


def name_region(x: float, y: float) -> str | None:
    """Region of the frame, or None near the border between two regions: x and y as fractions of the frame."""
    if not (0 <= x <= 1 and 0 <= y <= 1) or min(abs(v - line) for v in (x, y) for line in (1 / 3, 2 / 3)) < MARGIN:
        return None
    return REGIONS[3 * min(2, int(3 * y)) + min(2, int(3 * x))]


def phase_facts(m: Measured, whole: bool) -> Facts:
    """Facts about one phase.

    Args:
        m: its measurements.
        whole: whether it is the object's only phase in the clip.
    """
    if m.seen_least < SEEN:
        return _border_facts(m)
    facts = _path_facts(m)
    facts.update(_rotation_facts(m))
    facts.update(_size_facts(m))
    moves = m.arc > 2 * STILL * m.duration
    if not moves and m.wobble <= NO_ROTATION and "Z.same" in facts and whole and m.halt == 0 and m.lead + m.trail >= 1:
        facts["P.still"] = ()
    heading = next((name[2:] for name in facts if name.startswith("T.")), None)
    if heading is not None:
        _combine(m, facts, heading)
        if whole:
            facts.update(_pause_facts(m))
        for name, place in (("G.from", (m.first_x, m.first_y)), ("G.to", (m.last_x, m.last_y))):
            region = name_region(*place)
            if region is not None:
                facts[name] = (region,)
    facts.pop("Z.same", None)
    return facts


def _border_facts(m: Measured) -> Facts:
    """Coming and going, with the side of the frame."""
    for name, hidden, shown, x, y in (
        ("V.enter", m.seen_first, m.seen_last, m.first_x, m.first_y),
        ("V.leave", m.seen_last, m.seen_first, m.last_x, m.last_y),
    ):
        beyond = {"left": x < 0, "right": x > 1, "top": y < 0, "bottom": y > 1}
        if hidden <= 0.02 and shown >= SEEN and sum(beyond.values()) == 1:
            return {name: (next(side for side, true in beyond.items() if true),)}
    return {}


def _path_facts(m: Measured) -> Facts:
    """Direction, speed, distance and shape of the path."""
    facts: Facts = {}
    if m.arc <= max(2 * STILL * m.duration, 0.03):
        return facts
    facts["M.move"] = ()
    speed, straight = m.arc / m.duration, m.chord / m.arc
    facts.update({name: () for name, (low, high) in SPEED.items() if low <= speed <= high})
    shape = _shape(m, straight)
    if shape is not None:
        facts.update(shape)
    heading = name_heading(m.heading)
    if heading is not None and straight >= 0.35 and not {"C.turn", "C.bounce", "C.jump"} & facts.keys():
        facts[f"T.{heading}"] = ()
    if straight >= 0.98:
        facts.update({name: () for name, (low, high) in DISTANCE.items() if low <= m.chord <= high})
        ratio = m.last_third / max(m.first_third, 1e-6)
        profile = "S.steady" if 0.8 <= ratio <= 1.25 else "S.faster" if ratio >= 2 else "S.slower" if ratio <= 0.5 else None
        # A motion with a pause has no speed profile.
        if profile is not None and m.halt < 0.03:
            facts[profile] = ()
    return facts


def _shape(m: Measured, straight: float) -> Facts | None:
    on_one_line = m.width <= 0.05 * m.reach
    if straight >= 0.98:
        return {"C.straight": ()}
    if on_one_line and m.reversals >= 2:
        axis = {"right": "sideways", "left": "sideways", "up": "upright", "down": "upright"}
        name = axis.get(name_heading(m.reach_heading) or "")
        return None if name is None else {"C.shuttle": (name,)}
    if on_one_line and m.reversals == 1 and m.chord <= 0.15 * m.arc:
        name = name_heading(m.reach_heading)
        return None if name is None else {"C.return": (name,)}
    if straight <= 0.15 and abs(m.turned) >= 300:
        return {"C.loop": ("anticlockwise" if m.turned > 0 else "clockwise",)}
    if m.weaves >= 3 and straight >= 0.35:
        return {"C.zigzag": ()}
    level = abs(m.across) >= max(0.9 * m.chord, 0.25 * m.arc)
    side = "right" if m.across > 0 else "left"
    if level and m.dip >= 0.5 * m.chord and m.sharpest >= 45:
        return {"C.bounce": (side,)}
    if level and m.rise >= 0.5 * m.chord:
        return {"C.jump": (side,)}
    return _turn(m, straight)


def _turn(m: Measured, straight: float) -> Facts | None:
    if m.sharpest >= 45 and m.legs_straight >= 0.97:
        first, second = name_heading(m.first_leg), name_heading(m.second_leg)
        return {"C.turn": (first, second)} if first and second else None
    if 0.6 <= straight <= 0.9 and m.sharpest < 20 and m.weaves <= 1:
        return {"C.curve": ()}
    return None


def _rotation_facts(m: Measured) -> Facts:
    sense = "clockwise" if m.rotation > 0 else "anticlockwise"
    if m.rocks >= 2:
        return {"R.rock": ()} if m.wobble >= 15 else {}
    amount = abs(m.rotation)
    if TILT[0] <= amount <= TILT[1]:
        return {"R.tilt": ("right" if m.rotation > 0 else "left",)}
    if HALF_TURN[0] <= amount <= HALF_TURN[1]:
        return {"R.cw" if m.rotation > 0 else "R.ccw": ()}
    return {"R.full": (sense,)} if FULL_TURN[0] <= amount <= FULL_TURN[1] else {}


def _size_facts(m: Measured) -> Facts:
    if m.swell >= GROWTH[0] and abs(m.size_ratio - 1) <= SAME_SIZE:
        return {"Z.pulse": ()}
    if GROWTH[0] <= m.size_ratio <= GROWTH[1] * 1.001:
        return {"Z.grow": ()}
    if GROWTH[0] <= 1 / m.size_ratio <= GROWTH[1] * 1.001:
        return {"Z.shrink": ()}
    return {"Z.same": ()} if max(abs(m.size_ratio - 1), abs(m.swell - 1)) <= SAME_SIZE else {}


def _combine(m: Measured, facts: Facts, heading: str) -> None:
    """Primitives made of a direction and a rotation, or of a direction and a change of size."""
    if "Z.shrink" in facts and heading in ("up", "upleft", "upright"):
        facts["K.flyaway"] = ()
    if {"R.cw", "R.ccw", "R.full"} & facts.keys():
        sense = "clockwise" if m.rotation > 0 else "anticlockwise"
        rolls = {"right": "clockwise", "left": "anticlockwise"}.get(heading) == sense
        if rolls:
            facts["K.roll"] = (heading,)
        else:
            facts["K.spinmove"] = (heading, sense)


def _pause_facts(m: Measured) -> Facts:
    if m.halt >= PAUSE and m.lead < 0.03 and m.trail < 0.03:
        return {"P.stopgo": ()}
    if m.halt < 0.03 and m.lead >= PAUSE and m.trail < 0.03:
        return {"P.start": ()}
    return {"P.stop": ()} if m.halt < 0.03 and m.trail >= PAUSE and m.lead < 0.03 else {}


def clip_facts(script: Script) -> list[list[list[Facts]]]:
    """Facts about every phase, by clip, object and phase, without unused phases."""
    everything = []
    for clip, objects in zip(measure(script), script.objects.tolist(), strict=True):
        told = []
        for phases in clip[:objects]:
            there = [m for m in phases if m.duration > 0]
            told.append([phase_facts(m, len(there) == 1) for m in there])
        everything.append(told)
    return everything

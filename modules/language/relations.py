"""The relation of two objects, measured on their trajectories, independent of the relation they were drawn in."""

import math
from itertools import pairwise

from modules.language.facts import SEEN, Facts, name_heading
from modules.language.measurements import visible_share
from modules.motion.primitives import STILL
from modules.motion.scripts import MOMENTS, Script

SAME_WAY, OPPOSITE_WAY = 15.0, 165.0
STRAIGHT = 0.98
LAG = (0.1, 0.3)

Point = tuple[float, float]


class _Track:
    """The path of one object: list of (x, y), y down."""

    def __init__(self, points: list[Point], side: float) -> None:
        self.points = points
        self.side = side
        steps = [math.dist(a, b) for a, b in pairwise(points)]
        active = [i for i, step in enumerate(steps) if step > STILL / (MOMENTS - 1)]
        self.arc = sum(steps)
        self.moves = self.arc >= 0.06
        self.begins = active[0] if active else MOMENTS
        self.ends = active[-1] + 1 if active else 0
        self.chord = (points[-1][0] - points[0][0], points[-1][1] - points[0][1])
        self.straight = math.hypot(*self.chord) >= STRAIGHT * self.arc
        self.heading = math.degrees(math.atan2(-self.chord[1], self.chord[0]))

    def along(self, point: Point) -> Point:
        """Components of a difference of positions along this path and perpendicular to it."""
        length = math.hypot(*self.chord) or 1.0
        x, y = self.chord[0] / length, self.chord[1] / length
        return point[0] * x + point[1] * y, point[0] * y - point[1] * x


def relation_facts(script: Script) -> list[Facts]:
    """The relation in each clip, if there is one, with its headings.

    Object 1 is a, object 0 is b. Clips with one object, or with an object that is mostly outside the frame, have none.
    """
    both = ((visible_share(script).amin((1, 2)) >= SEEN) & (script.objects == 2)).nonzero()[:, 0]
    facts: list[Facts] = [{} for _ in range(len(script.objects))]
    paths, sides = script.centre[both].tolist(), script.size[both].mean((2, 3)).tolist()
    for clip, points, size in zip(both.tolist(), paths, sides, strict=True):
        below, above = (_Track([(x, y) for x, y in path], side) for path, side in zip(points, size, strict=True))
        facts[clip] = _relation(above, below)
    return facts


def _relation(a: _Track, b: _Track) -> Facts:
    if not a.moves or any(track.moves and not track.straight for track in (a, b)):
        return {}
    here = name_heading(a.heading)
    distances = [math.dist(p, q) for p, q in zip(a.points, b.points, strict=True)]
    if not b.moves:
        if b.arc > STILL:
            return {}
        if _crosses(a, b, distances):
            return {"L.cross": ()}
        return {"L.onemoves": (here,)} if here else {}
    there = name_heading(b.heading)
    if a.ends <= b.begins + 1:
        return _in_turn(a, b, distances, here, there)
    if min(a.ends, b.ends) - max(a.begins, b.begins) < 0.7 * max(a.ends - a.begins, b.ends - b.begins):
        return {}
    turn = abs((a.heading - b.heading + 180) % 360 - 180)
    gaps = [a.along((p[0] - q[0], p[1] - q[1])) for p, q in zip(a.points, b.points, strict=True)]
    if turn <= SAME_WAY:
        return _same_way(a, b, gaps, here)
    if turn >= OPPOSITE_WAY:
        if abs(gaps[0][1]) >= 0.15 and gaps[0][0] < 0 < gaps[-1][0]:
            return {"L.opposite": (here, there)} if here and there else {}
        if distances[-1] <= 0.5 * distances[0] and abs(gaps[0][1]) < 0.1:
            return {"L.approach": ()}
        return {"L.apart": ()} if distances[-1] >= 2 * distances[0] and abs(gaps[0][1]) < 0.1 else {}
    return {}


def _crosses(a: _Track, b: _Track, distances: list[float]) -> bool:
    touch = 0.8 * (a.side + b.side) / 2
    return min(distances) <= 0.3 * touch and min(distances[0], distances[-1]) >= touch


def _in_turn(a: _Track, b: _Track, distances: list[float], here: str | None, there: str | None) -> Facts:
    """a moves first, b afterwards."""
    if not here or not there:
        return {}
    ahead = a.along((b.points[0][0] - a.points[-1][0], b.points[0][1] - a.points[-1][1]))
    if ahead[0] > 0 and distances[a.ends] <= 1.5 * (a.side + b.side) / 2 and here == there:
        return {"L.hit": (there,)}
    return {"L.order": (here, there)}


def _same_way(a: _Track, b: _Track, gaps: list[Point], here: str | None) -> Facts:
    """Relations of objects with the same heading; gaps are a's position minus b's, along the heading and across it."""
    if not here:
        return {}
    (along, across), (end, _) = gaps[0], gaps[-1]
    steady = all(math.dist(gap, gaps[0]) <= 0.1 * math.hypot(*gaps[0]) for gap in gaps)
    if steady and abs(across) <= 0.25 * along:
        speed = b.arc / ((b.ends - b.begins) / (MOMENTS - 1))
        return {"L.follow": (here,)} if LAG[0] <= along / speed <= LAG[1] + 0.01 else {}
    if steady and abs(along) <= 0.25 * abs(across):
        return {"L.parallel": (here,)}
    return {"L.pass": (here,)} if along < 0 < end else {}

"""Two objects in a relation: their start and motion, along and across a common heading.

Object 1 is on top and is the first object in captions (a); object 0 is the second (b). All numbers are this project's.
"""

import torch
from torch import Tensor

from modules.motion.paths import SHAPES, Phases
from modules.motion.primitives import RELATIONS

A, B = 1, 0
CONTACT = 0.95
"""Distance at which objects touch, in sides of one."""


class _Layout:
    """Start (along, across), signed path length and time range of both objects, each [B, 2]; unset entries are 0."""

    def __init__(self, like: Tensor) -> None:
        self.along, self.across, self.length = (like.new_zeros(len(like), 2) for _ in range(3))
        self.start, self.end = like.new_zeros(len(like), 2), like.new_ones(len(like), 2)

    def put(self, who: int, along: Tensor | float, across: Tensor | float, length: Tensor | float) -> None:
        self.along[:, who], self.across[:, who], self.length[:, who] = along, across, length

    def take_turns(self) -> None:
        """a in the first half of the clip, b in the second."""
        self.end[:, A], self.start[:, B] = 0.5, 0.5


def _layouts(u: Tensor, size: Tensor) -> list[_Layout]:
    """One layout per relation, in the order of `RELATIONS`; u uniform [B, 8], size [B]."""
    made = {name: _Layout(u) for name in RELATIONS}
    far, near = 0.6 + 0.12 * u[:, 0], 0.22 + 0.05 * u[:, 1]
    lane = (0.28 + 0.1 * u[:, 2]) * torch.where(u[:, 3] < 0.5, -1.0, 1.0)
    way = 0.35 + 0.23 * u[:, 4]
    for who, sign in ((A, 1), (B, -1)):
        made["L.approach"].put(who, -sign * far / 2, 0, sign * (far - near) / 2)
        made["L.apart"].put(who, -sign * near / 2, 0, -sign * (far - near) / 2)
        made["L.opposite"].put(who, -sign * way / 2, sign * lane / 2, sign * way)
        made["L.parallel"].put(who, 0, sign * lane / 2, way)
    # b is at the position of a 0.26 to 0.3 of the clip earlier.
    run = 0.5 + 0.1 * u[:, 0]
    made["L.follow"].put(A, (0.26 + 0.04 * u[:, 1]) * run, 0, run)
    made["L.follow"].put(B, 0, 0, run)
    made["L.cross"].put(A, -0.25 - way / 4, 0, 0.5 + way / 2)
    made["L.pass"].put(A, -0.2, lane, 0.55 + 0.1 * u[:, 0])
    made["L.pass"].put(B, 0, 0, 0.12 + 0.06 * u[:, 1])
    push = 0.24 + 0.1 * u[:, 4]
    made["L.hit"].put(A, -push - CONTACT * size, 0, push)
    made["L.hit"].put(B, 0, 0, 0.26 + 0.1 * u[:, 0])
    made["L.hit"].take_turns()
    made["L.order"].put(A, 0, 0, 0.24 + 0.16 * u[:, 0])
    made["L.order"].put(B, 0, lane, (0.24 + 0.16 * u[:, 1]) * torch.where(u[:, 5] < 0.5, -1.0, 1.0))
    made["L.order"].take_turns()
    made["L.onemoves"].put(A, -way / 2, lane, way)
    return [made[name] for name in RELATIONS]


def arrange(numbers: Tensor, relation: Tensor, phases: Phases) -> tuple[Tensor, Tensor]:
    """Arrange the objects of some clips in a relation, by changing the first phases of these clips in place.

    Args:
        numbers: float [B, 16], uniform in [0, 1).
        relation: int64 [B], index into `RELATIONS`, -1 for clips that are not changed.
        phases: phases of all clips.

    Returns:
        Start positions of the objects relative to each other, float [B, K, 2], x and y down; and the objects' size, float [B].
    """
    clip = relation >= 0
    size = 0.12 + 0.06 * numbers[:, 0]
    size = torch.where(relation == RELATIONS.index("L.follow"), size.clamp(max=0.12), size)
    layouts = _layouts(numbers[:, 8:], size)
    rows = torch.arange(len(relation), device=relation.device)

    def pick(name: str) -> Tensor:
        return torch.stack([getattr(layout, name) for layout in layouts])[relation.clamp_min(0), rows]

    along, across, length = pick("along"), pick("across"), pick("length")
    heading = 45.0 * (numbers[:, 1] * 8).floor() + 20 * numbers[:, 2] - 10
    radians = torch.deg2rad(heading)[:, None]
    cos, sin = radians.cos(), radians.sin()
    offset = torch.stack([along * cos - across * sin, -(along * sin + across * cos)], dim=-1) * clip[:, None, None]

    still = SHAPES.index("still")
    straight = torch.full_like(phases.shape[:, :, 0], SHAPES.index("straight"))
    where = clip[:, None]
    for name, value in {
        "shape": torch.where(length == 0, still, straight),
        "heading": heading[:, None] + torch.where(length < 0, 180.0, 0.0),
        "length": length.abs(),
        "start": pick("start"),
        "end": pick("end"),
        "spin": torch.zeros_like(length),
        "growth": torch.zeros_like(length),
        "profile": torch.zeros_like(phases.profile[:, :, 0]),
    }.items():
        values = getattr(phases, name)
        values[:, :, 0] = torch.where(where, value, values[:, :, 0])
    return offset, size

"""Sizes of moving objects and positions of their paths in the frame, so that they stay visible.

Axis letters: `B` clips, `K` = 2 objects, `M` moments.
"""

import torch
from torch import Tensor

from modules.motion.paths import Phases, turning
from modules.motion.primitives import PRIMITIVES
from modules.motion.scripts import MOMENTS, Script

REACH = 0.35
"""Fraction of an object's side that stays inside the frame on both sides of its centre; 0.5 would be the complete object."""
HIDDEN = 0.55
"""Distance of a hidden object's centre from the border, outside the frame, in sides of the object."""
SMALLEST = 0.1
MARGIN = 0.04
"""Minimum distance of a named position from the borders between the frame's nine regions, as a fraction of the frame."""
TOGETHER = (0.14, 0.22)
"""Smallest and largest side of two objects that share a frame without a relation."""


def sizes(u: Tensor, bounds: tuple[float, float], close: Tensor, together: Tensor, growth: Tensor) -> Tensor:
    """Width and height over time.

    Args:
        u: float [B, 4], uniform in [0, 1).
        bounds: smallest and largest side for clips with one object.
        close: float [B], side for clips with two objects in a relation, 0 for others.
        together: bool [B], clips with two objects without a relation.
        growth: float [B, K, M], logarithm of sizes.

    Returns:
        float [B, K, M, 2], in short sides.
    """
    grows = (growth.amax(2) - growth.amin(2)) > 0.1
    low = growth.new_tensor([bounds[0], TOGETHER[0]])[together.long()][:, None]
    high = growth.new_tensor([bounds[1], TOGETHER[1]])[together.long()][:, None]
    low = torch.where(grows, low.maximum(0.66 * high), low)
    largest = torch.where(close[:, None] > 0, close[:, None], low + (high - low) * u[:, :2])
    side = largest[..., None] * (growth - growth.amax(2, keepdim=True)).exp()
    aspect = 0.75 + 0.5 * u[:, 2:]
    narrow = torch.stack([aspect.clamp(max=1), (1 / aspect).clamp(max=1)], dim=-1)
    return side[..., None] * narrow[:, :, None]


def _named(places: Tensor) -> Tensor:
    """Positions, as fractions of the frame, moved away from borders of regions if they are too near."""
    for line in (1 / 3, 2 / 3):
        near = (places - line).abs() < MARGIN + 0.01
        places = torch.where(near, line + (MARGIN + 0.01) * torch.where(places < line, -1.0, 1.0), places)
    return places


def place(
    u: Tensor, path: Tensor, size: Tensor, extent: Tensor, topics: Tensor, relation: Tensor, together: Tensor
) -> tuple[Tensor, Tensor]:
    """Place paths in the frame, and shrink objects if there is not enough room.

    Args:
        u: float [B, 6], uniform in [0, 1).
        path: float [B, K, M, 2], relative to an arbitrary origin, which both objects of a relation share.
        size: float [B, K, M, 2].
        extent: float [2], width and height of the frame.
        topics: int64 [B, K, S], indices into `PRIMITIVES`.
        relation: int64 [B], -1 for none.
        together: bool [B], whether two objects without a relation share the frame, each in one half of it.

    Returns:
        Centres and sizes, in short sides.
    """
    low, high = path.amin(2), path.amax(2)
    joint = (relation >= 0)[:, None, None]
    low = torch.where(joint, low.amin(1, keepdim=True), low)
    high = torch.where(joint, high.amax(1, keepdim=True), high)
    first, last = _regions(u, extent, together)
    room = last - first - (high - low)
    largest = size.amax((2, 3))
    fit = (room.amin(-1) / (2 * REACH)).clamp_min(SMALLEST) / largest
    size = size * fit.clamp(max=1)[..., None, None]
    reach = REACH * size.amax(2)
    start, end = first - low + reach, last - high - reach
    share = torch.where(joint, u[:, None, :2], u[:, :4].unflatten(1, (2, 2)))
    start = torch.where(end > start, start + (end - start) * share, (start + end) / 2)
    start = torch.where(joint, start[:, 1:], start)
    start = _at_regions(start, path, extent, topics)
    start = _at_borders(start, path, size, extent, topics)
    return path + start[:, :, None], size


def _regions(u: Tensor, extent: Tensor, together: Tensor) -> tuple[Tensor, Tensor]:
    """Upper left and lower right corner of the part of the frame for each object: [B, K, 2] twice."""
    first = torch.zeros(len(u), 2, 2, dtype=u.dtype, device=u.device)
    last = first + extent
    axis = torch.arange(2, device=u.device) == (u[:, 4:5] * 2).long()
    swap = u[:, 5:] < 0.5
    half = extent / 2
    upper = torch.stack([swap, ~swap], dim=1) & axis[:, None] & together[:, None, None]
    lower = torch.stack([~swap, swap], dim=1) & axis[:, None] & together[:, None, None]
    return torch.where(upper, half, first), torch.where(lower, half, last)


def _at_regions(start: Tensor, path: Tensor, extent: Tensor, topics: Tensor) -> Tensor:
    """Move paths whose start or end the caption will name, so that this position is within a region: [B, K, 2]."""
    for name, moment in (("G.from", 0), ("G.to", -1)):
        wanted = (topics[:, :, :1] == PRIMITIVES.index(name)).expand(-1, -1, 2)
        at = (start + path[:, :, moment]) / extent
        start = torch.where(wanted, _named(at) * extent - path[:, :, moment], start)
    return start


def _at_borders(start: Tensor, path: Tensor, size: Tensor, extent: Tensor, topics: Tensor) -> Tensor:
    """Move paths so that objects that enter start outside the frame, and objects that leave end outside: [B, K, 2]."""
    way = path[:, :, -1] - path[:, :, 0]
    main = way.abs() >= way.abs().amax(-1, keepdim=True)
    for name, moment, leaves in (("V.enter", 0, False), ("V.leave", -1, True)):
        wanted = (topics[:, :, :1] == PRIMITIVES.index(name)) & main
        hidden = HIDDEN * size[:, :, moment]
        beyond = torch.where((way > 0) == leaves, extent + hidden, -hidden)
        start = torch.where(wanted, beyond - path[:, :, moment], start)
    return start


def to_script(
    phases: Phases,
    centre: Tensor,
    size: Tensor,
    extent: Tensor,
    objects: Tensor,
    topics: Tensor,
    relation: Tensor,
    seed: Tensor,
) -> Script:
    """Combine all parts in a `Script`."""
    B, K = centre.shape[:2]
    there = torch.arange(K, device=objects.device) < objects[:, None]
    span = torch.stack([phases.start, phases.end], dim=-1)
    moments = torch.arange(MOMENTS, device=objects.device)
    keys = (moments == (span * (MOMENTS - 1)).round()[..., None]).flatten(1, -2).any(1)
    inside = (moments >= (phases.start[:, 0] * (MOMENTS - 1))[..., None]) & (topics[:, 0] >= 0)[..., None]
    phase = (inside.sum(1) - 1).clamp_min(0)
    return Script(
        centre=centre.float(),
        size=size.float(),
        angle=turning(phases).float(),
        shear=torch.zeros_like(centre, dtype=torch.float32),
        opacity=there[..., None].expand(B, K, MOMENTS).float(),
        keys=keys,
        interpolation=phases.profile[:, 0].gather(1, phase).to(torch.int8),
        extent=extent.float().expand(B, 2),
        objects=objects,
        span=span.float(),
        topic=topics,
        relation=relation,
        seed=seed,
    )

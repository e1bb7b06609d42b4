"""Random drawing of captioned motion: first the primitive, then its parameters within their bands, for a batch of clips.

All draws use a table of uniform numbers with one row per clip, so that a clip does not depend on the others, and the same
numbers always give the same motion. Axis letters: `B` clips, `K` = 2 objects, `S` = 3 phases.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.motion.paths import SHAPES, Phases, displacement, growing
from modules.motion.placement import place, sizes, to_script
from modules.motion.primitives import (
    FULL_TURN,
    GAITS,
    GROWTH,
    HALF_TURN,
    MAX_ROTATION_PER_FRAME,
    PHASES,
    PRIMITIVES,
    RECIPES,
    RELATIONS,
    REVERSED,
    TILT,
    TURNS,
)
from modules.motion.scripts import MOMENTS, Script
from modules.motion.two_objects import arrange

NUMBERS = 160
"""Uniform numbers per clip."""
OBJECTS, MAX_PHASES = 2, 3
JITTER = 10.0
"""Largest deviation of a heading from the centre of its sector, in degrees."""
FREE = -2
"""A primitive that is still to be drawn."""
HALF_FRAME = 0.38
"""Longest path within half of the frame, in short sides."""
ROOM = 0.7
"""Extent of a path, in short sides, above which later phases are reversed."""
GRID = MOMENTS - 1


class Dice:
    """Returns the columns of a table of uniform numbers [B, N] one after another, each once."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers
        self.used = 0

    def roll(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), [B, *shape]."""
        count = math.prod(shape)
        part = self.numbers[:, self.used : self.used + count]
        self.used += count
        return part.reshape(-1, *shape)

    def uniform(self, low: Tensor | float, high: Tensor | float, *shape: int) -> Tensor:
        """Uniform between bounds, [B, *shape]."""
        return low + (high - low) * self.roll(*shape)

    def choose(self, allowed: Tensor) -> Tensor:
        """Index of a random true entry, uniformly: bool [B, ..., n] -> int64 [B, ...]."""
        rank = (self.roll(*allowed.shape[1:-1]) * allowed.sum(-1)).long()
        return (allowed.cumsum(-1) > rank[..., None]).int().argmax(-1)


@dataclass
class ScriptSettings:
    """Settings of captioned motion. All defaults are this project's; LocoMotion's numbers are not public.

    Args:
        primitives: primitives to draw, by name ("T.up") or group ("T"); empty uses all.
        phases: relative frequencies of clips in which one object performs one, two and three primitives in sequence.
        relations: fraction of clips with two objects in a relation.
        together: fraction of clips with two objects that perform two primitives at the same time.
        object_size: smallest and largest side of an object, in short sides of the frame.
    """

    primitives: tuple[str, ...] = ()
    phases: tuple[float, float, float] = (0.5, 0.3, 0.2)
    relations: float = 0.15
    together: float = 0.15
    object_size: tuple[float, float] = (0.15, 0.45)

    def chosen(self) -> list[str]:
        """Names of the primitives.

        Raises:
            SettingError: if a name is unknown, or fractions or sizes are invalid.
        """
        for name in self.primitives:
            if name not in PRIMITIVES and not any(p.startswith(name + ".") for p in PRIMITIVES):
                groups = ", ".join(dict.fromkeys(p.split(".")[0] for p in PRIMITIVES))
                raise SettingError(f"primitives: there is no {name!r}; pass groups ({groups}) or members such as T.up.")
        if min(*self.phases, self.relations, self.together) < 0 or sum(self.phases) <= 0 or self.relations + self.together > 1:
            raise SettingError("phases, relations and together must not be negative, and the sum of the last two at most 1.")
        if not 0.05 <= self.object_size[0] <= self.object_size[1] <= 0.5:
            raise SettingError(f"object_size is {list(self.object_size)}; pass two ascending numbers between 0.05 and 0.5.")
        return [p for p in PRIMITIVES if not self.primitives or p in self.primitives or p.split(".")[0] in self.primitives]


def uniform_numbers(count: int, generator: torch.Generator) -> Tensor:
    """Random numbers for `draw_scripts`, on the generator's device: [count, NUMBERS]."""
    dtype = torch.float32 if generator.device.type == "mps" else torch.float64
    return torch.rand(count, NUMBERS, generator=generator, device=generator.device, dtype=dtype)


def drawable(frames: int) -> list[str]:
    """Primitives that are visible in this number of frames; for example, four frames cannot show a zigzag."""
    return [name for name in PRIMITIVES if name in RELATIONS or RECIPES[name].steps <= frames - 1]


def draw_scripts(
    numbers: Tensor,
    frames: int,
    picture: tuple[int, int],
    settings: ScriptSettings,
    topic: Tensor | None = None,
) -> Script:
    """Draw the motion of a batch.

    Args:
        numbers: float [B, NUMBERS], uniform in [0, 1).
        frames: smallest number of frames in which the motion will be shown; it limits rotation and phases.
        picture: height and width of the frame, in any unit.
        settings: settings of the motion.
        topic: int64 [B], index into `PRIMITIVES` of the only primitive of each clip, which must be `drawable`; None draws
            primitives and the number of phases.
    """
    dice = Dice(numbers)
    seed = (dice.roll(1)[:, 0] * (1 << 24)).long() << 24 | (dice.roll(1)[:, 0] * (1 << 24)).long()
    count, topics, relation, first = _plan(dice, frames, settings, topic)
    together = topics[:, 1, 0] == FREE
    objects = 1 + ((relation >= 0) | together).long()
    bounds = _bounds(dice, count)
    allowed = _topic_mask(bounds, frames, settings)
    # If a phase is too short for all chosen primitives, the clip shows only one primitive.
    stuck = ((topics == FREE) & ~allowed.any(-1)).any(-1).any(-1)
    bounds[:, 1:] = torch.where(stuck[:, None], GRID, bounds[:, 1:])
    topics = torch.where(stuck[:, None, None], first, torch.where(topics == FREE, dice.choose(allowed), topics))
    phases = _phases(dice, topics, bounds, frames, together[:, None, None])
    topics = _turn_back(phases, topics)
    offset, close = arrange(dice.roll(16), relation, phases)
    extent = numbers.new_tensor([picture[1], picture[0]]) / min(picture)
    size = sizes(dice.roll(4), settings.object_size, torch.where(relation < 0, 0, close), together, growing(phases))
    path = displacement(phases) + offset[:, :, None]
    centre, size = place(dice.roll(6), path, size, extent, topics, relation, together)
    return to_script(phases, centre, size, extent, objects, topics, relation, seed)


def _plan(dice: Dice, frames: int, settings: ScriptSettings, topic: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw the structure of each clip.

    Returns:
        Number of phases per clip [B], topics [B, K, S] (-1 for none, FREE if still to be drawn), relations [B] (-1 for none),
        and topics [B, K, S] for a single phase.
    """
    names = [name for name in settings.chosen() if name in drawable(frames)]
    device = dice.numbers.device
    single = torch.tensor([name in names for name in RECIPES], device=device)
    related = torch.tensor([name in names for name in RELATIONS], device=device)
    phased = any(name in PHASES for name in names)
    if not names:
        raise SettingError(f"primitives {list(settings.primitives)} cannot be seen in {frames} frames; use more frames.")
    kind, share = dice.roll(1)[:, 0], torch.tensor(settings.phases, device=device, dtype=dice.numbers.dtype)
    has_relation = (kind < settings.relations) & related.any() | ~single.any()
    together = (kind >= 1 - settings.together) & ~has_relation & phased
    limit = min(MAX_PHASES, max(1, (frames - 1) // 2)) if phased else 1
    count = 1 + (dice.roll(1) * share.sum() >= share.cumsum(0)[:-1]).sum(1).clamp(max=limit - 1)
    relation = torch.where(has_relation, dice.choose(related.expand(len(kind), -1)), -1)
    first = dice.choose(single.expand(len(kind), -1))
    if topic is not None:
        relation = torch.where(topic >= len(RECIPES), topic - len(RECIPES), -1)
        first, together = topic.clamp(max=len(RECIPES) - 1), torch.zeros_like(together)
        count = torch.ones_like(count)
    count = torch.where((relation >= 0) | together, 1, count)
    order = torch.arange(MAX_PHASES, device=device)
    topics = torch.where((order < count[:, None]) & (count[:, None] > 1), FREE, -1)
    topics = torch.stack([topics, torch.full_like(topics, -1)], dim=1)
    one = torch.full_like(topics, -1)
    one[:, 0, 0] = first
    topics = torch.where(((count == 1) & (relation < 0) & ~together)[:, None, None], one, topics)
    topics[:, :, 0] = torch.where(together[:, None], FREE, topics[:, :, 0])
    return count, topics, relation, one


def _bounds(dice: Dice, count: Tensor) -> Tensor:
    """Start and end of each phase, as indices of moments: float [B, S + 1]."""
    shift = ((dice.roll(2) * 2 - 1) * (GRID / 24)).round()
    halves = torch.stack([GRID / 2 + 2 * shift[:, 0], torch.full_like(shift[:, 0], GRID)], dim=1)
    thirds = torch.stack([GRID / 3 + shift[:, 0], GRID * 2 / 3 + shift[:, 1]], dim=1)
    whole = torch.full_like(thirds, GRID)
    inner = torch.where(count[:, None] == 1, whole, torch.where(count[:, None] == 2, halves, thirds))
    return torch.cat([torch.zeros_like(inner[:, :1]), inner, torch.full_like(inner[:, :1], GRID)], dim=1)


def _tables(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Gaits [G, 4], which primitive may have which gait [P, G], and steps per primitive [P]."""
    gaits = torch.tensor(list(GAITS.values()), device=device, dtype=dtype)
    takes = torch.tensor([[name in recipe.gaits for name in GAITS] for recipe in RECIPES.values()], device=device)
    return gaits, takes, torch.tensor([r.steps for r in RECIPES.values()], device=device, dtype=dtype)


def _feasible(slot: Tensor, frames: int) -> Tensor:
    """Which primitive can have which gait in the available time, in moments: [...] -> bool [..., P, G]."""
    gaits, takes, steps = _tables(slot.device, slot.dtype)
    shortest, longest = _durations(gaits, steps[:, None], frames)
    room = slot[..., None, None]
    rest = torch.tensor([recipe.timing in ("start", "stop") for recipe in RECIPES.values()], device=slot.device)
    room = torch.where(rest[:, None], room * 0.78, room)
    # Durations are integer numbers of moments.
    return takes & (shortest.ceil() <= room.minimum(longest).floor())


def _durations(gaits: Tensor, steps: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Shortest and longest duration in moments of gaits [..., 4] that need `steps` frames."""
    shortest = torch.maximum(gaits[..., 0] / gaits[..., 3], steps / (frames - 1)) * GRID
    return shortest, torch.where(gaits[..., 1] == 0, GRID, gaits[..., 1] / gaits[..., 2].clamp_min(1e-6) * GRID)


def _topic_mask(bounds: Tensor, frames: int, settings: ScriptSettings) -> Tensor:
    """Primitives that may be one of several phases, given the available time: bool [B, K, S, P]."""
    chosen = settings.chosen()
    allowed = torch.tensor([name in PHASES and name in chosen for name in RECIPES], device=bounds.device)
    possible = _feasible(bounds.diff(dim=1), frames).any(-1) & allowed
    return possible[:, None].expand(-1, OBJECTS, -1, -1)


def _is(topics: Tensor, name: str, *wanted: str) -> Tensor:
    """Whether the recipes of these topics have one of the values."""
    table = torch.tensor([getattr(recipe, name) in wanted for recipe in RECIPES.values()], device=topics.device)
    return table[topics.clamp_min(0)] & (topics >= 0)


def _phases(dice: Dice, topics: Tensor, bounds: Tensor, frames: int, together: Tensor) -> Phases:
    """Parameters of all phases, within their bands; if two objects share the frame, paths are short."""
    shape = topics.shape[1:]
    known, there = topics.clamp_min(0), topics >= 0
    slot = bounds.diff(dim=1)[:, None].expand(-1, OBJECTS, -1)
    gaits, _, steps = _tables(topics.device, bounds.dtype)
    able = _feasible(slot, frames).gather(3, known[..., None, None].expand(*known.shape, 1, len(gaits)))[..., 0, :]
    able = able & ~(together[..., None] & (gaits[:, 0] > HALF_FRAME))
    gait = gaits[dice.choose(able)]
    gait[..., 1] = torch.where(together, gait[..., 1].clamp(max=HALF_FRAME), gait[..., 1])
    low, high = _durations(gait, steps[known], frames)
    rests = _is(topics, "timing", "start", "stop")
    high = high.minimum(torch.where(rests, slot * 0.78, slot)).floor()
    low = torch.where(gait[..., 1] == 0, torch.maximum(low, slot * 0.7), low).ceil()
    low = torch.where(_is(topics, "timing", "whole"), slot, low).minimum(high)
    duration = dice.uniform(low, high, *shape).round()
    # Sharp corners are in the middle, which must be a moment.
    duration = duration - (duration % 2) * _is(topics, "shape", "turn", "vee")
    begin = (dice.roll(*shape) * (slot - duration)).round()
    # Motions of two objects that are described with 'while' must overlap in time.
    begin = torch.where(together, ((slot - duration) / 2).round(), begin)
    begin = torch.where(_is(topics, "timing", "start"), slot - duration, begin)
    begin = torch.where(_is(topics, "timing", "stop"), 0, begin) + bounds[:, None, :-1]
    # Unused phases have no duration, but their parameters must be finite.
    time = duration.clamp_min(1) / GRID
    slowest = torch.maximum(gait[..., 2], gait[..., 0] / time)
    speed = dice.uniform(slowest, torch.minimum(gait[..., 3], gait[..., 1] / time).maximum(slowest), *shape)
    heading, bend = _headings(dice, topics, known, time * (frames - 1))
    spin, rocks = _spin(dice, topics, heading, time * (frames - 1))
    several = (bounds[:, 1] < GRID)[:, None, None]
    growth, pulses = _growth(dice, topics, several)
    here = there.to(bounds.dtype)
    return Phases(
        begin / GRID * here,
        (begin + duration) / GRID * here,
        torch.tensor([SHAPES.index(r.shape) for r in RECIPES.values()], device=known.device)[known] * there,
        torch.tensor([r.profile for r in RECIPES.values()], device=known.device)[known],
        heading,
        torch.where(gait[..., 1] == 0, 0, speed * time) * here,
        bend,
        spin * here,
        rocks,
        growth * here,
        pulses,
    )


def _turn_back(phases: Phases, topics: Tensor) -> Tensor:
    """Reverse phases that would leave the frame, in place, and return their new topics, [B, K, S]."""
    radians = torch.deg2rad(phases.heading)
    steps = phases.length[..., None] * torch.stack([radians.cos(), radians.sin()], dim=-1)
    reverse = torch.tensor(REVERSED, device=topics.device)
    place = steps[:, :, 0]
    low, high = place.clamp(max=0), place.clamp_min(0)
    kept = [topics[:, :, 0]]
    for s in range(1, MAX_PHASES):
        spans = []
        for sign in (1, -1):
            end = place + sign * steps[:, :, s]
            spans.append((high.maximum(end) - low.minimum(end)).amax(-1))
        back = (spans[0] > ROOM) & (spans[1] < spans[0])
        phases.heading[:, :, s] += torch.where(back, 180.0, 0.0)
        place = place + torch.where(back, -1.0, 1.0)[..., None] * steps[:, :, s]
        low, high = low.minimum(place), high.maximum(place)
        kept.append(torch.where(back, reverse[topics[:, :, s].clamp_min(0)], topics[:, :, s]))
    return torch.stack(kept, dim=-1)


def _headings(dice: Dice, topics: Tensor, known: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Headings in degrees, and how paths bend (see `Phases.bend`)."""
    shape = topics.shape[1:]
    table = torch.tensor([[k in recipe.headings for k in range(8)] for recipe in RECIPES.values()], device=topics.device)
    sector = dice.choose(table[known])
    turns = torch.tensor(TURNS, device=topics.device)[(dice.roll(*shape) * len(TURNS)).long()]
    is_turn = _is(topics, "shape", "turn")
    sector = torch.where(is_turn, turns[..., 0], sector)
    jitter = dice.uniform(-JITTER, JITTER, *shape)
    side = torch.where(dice.roll(*shape) < 0.5, -1.0, 1.0)
    bend = side * dice.uniform(0.92, 1.22, *shape)
    share = dice.roll(*shape)
    bend = torch.where(_is(topics, "shape", "loop"), side * torch.deg2rad(345 + 30 * share), bend)
    bend = torch.where(_is(topics, "shape", "zigzag"), torch.where((steps > 11) & (share < 0.5), 3.0, 2.0), bend)
    bend = torch.where(_is(topics, "shape", "shuttle"), torch.where((steps > 7) & (share < 0.5), 1.5, 1.0), bend)
    turn = (turns[..., 1] - turns[..., 0] + 4) % 8 - 4
    # The second leg has its own jitter.
    bend = torch.where(is_turn, torch.deg2rad(45 * turn + (2 * share - 1) * JITTER - jitter), bend)
    upwards = torch.where(sector == 0, 1.0, -1.0)
    bend = torch.where(_is(topics, "shape", "arch"), upwards * (0.6 + 0.4 * share), bend)
    bend = torch.where(_is(topics, "shape", "vee"), -upwards * (0.6 + 0.4 * share), bend)
    return 45.0 * sector + jitter, bend


def _spin(dice: Dice, topics: Tensor, heading: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation in degrees, clockwise, and whether it is back and forth; it is limited by the number of frames, `steps`."""
    shape, share = topics.shape[1:], dice.roll(*topics.shape[1:])

    def between(band: tuple[float, float]) -> Tensor:
        low, high = band[0] + 4, (steps * MAX_ROTATION_PER_FRAME).clamp(max=band[1] - 4)
        return low + share * (high - low).clamp_min(0)

    rocks = _is(topics, "spin", "rock")
    amount = between(HALF_TURN)
    amount = torch.where(_is(topics, "spin", "tilt"), between(TILT), amount)
    amount = torch.where(_is(topics, "spin", "full"), between(FULL_TURN), amount)
    amount = torch.where(rocks, 18 + 17 * share, amount)
    sign = torch.where(dice.roll(*shape) < 0.5, -1.0, 1.0)
    sign = torch.where(_is(topics, "spin", "cw"), 1.0, torch.where(_is(topics, "spin", "ccw"), -1.0, sign))
    across = torch.deg2rad(heading).cos()
    rolling = across.sign()
    sign = torch.where(_is(topics, "spin", "roll"), rolling, sign)
    # Sideways, a spin is against the direction of rolling; in other directions, it is random.
    sign = torch.where(_is(topics, "spin", "against") & (across.abs() > 0.9), -rolling, sign)
    return torch.where(_is(topics, "spin", "none"), 0, amount * sign), rocks


def _growth(dice: Dice, topics: Tensor, several: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the growth of objects, and whether they shrink again. In several phases, they grow less, to stay visible."""
    low, high = math.log(GROWTH[0] * 1.03), math.log(GROWTH[1] * 0.97)
    amount = dice.uniform(low, torch.where(several, math.log(1.9), high), *topics.shape[1:])
    amount = torch.where(_is(topics, "growth", "shrink"), -amount, amount)
    return torch.where(_is(topics, "growth", "none"), 0, amount), _is(topics, "growth", "pulse")

"""Measurements of trajectories that captions are based on, for every phase of every object.

Axis letters: `B` clips, `K` = 2 objects, `S` phases, `M` moments.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.motion.primitives import STILL
from modules.motion.scripts import MOMENTS, Script

NO_ROTATION, SAME_SIZE = 3.0, 0.05
"""Largest changes of angle in degrees, and of size as a fraction, without rotation or growth."""
HIDDEN = 0.02
"""Largest fraction of an object's box in the frame at which the object is out of sight: few shapes fill the box's corners."""


class Measured(NamedTuple):
    """Measurements of one phase of one object; lengths in short sides, angles in degrees (headings anticlockwise)."""

    duration: float
    arc: float
    chord: float
    heading: float
    turned: float
    sharpest: float
    first_leg: float
    second_leg: float
    legs_straight: float
    weaves: float
    reach: float
    reach_heading: float
    width: float
    reversals: float
    across: float
    rise: float
    dip: float
    first_third: float
    last_third: float
    rotation: float
    wobble: float
    rocks: float
    size_ratio: float
    swell: float
    seen_first: float
    seen_last: float
    seen_least: float
    first_x: float
    first_y: float
    last_x: float
    last_y: float
    lead: float
    trail: float
    halt: float


def _flips(values: Tensor, inside: Tensor) -> Tensor:
    """Number of sign changes along the last dimension, ignoring zeros: [..., N] -> [...]."""
    sign = torch.where(inside & (values.abs() > 1e-5), values.sign(), 0)
    place = torch.arange(values.shape[-1], device=values.device)
    latest = torch.where(sign != 0, place, 0).cummax(-1).values
    filled = sign.gather(-1, latest)
    return (filled[..., 1:] * filled[..., :-1] < 0).sum(-1)


def _degrees(vector: Tensor) -> Tensor:
    """Headings of vectors [..., 2] whose y points down."""
    return torch.rad2deg(torch.atan2(-vector[..., 1], vector[..., 0]))


def visible_share(script: Script) -> Tensor:
    """Fraction of each object's box, without rotation, that is in the frame: [B, K, M]."""
    low = (script.centre - script.size / 2).clamp_min(0)
    high = (script.centre + script.size / 2).minimum(script.extent[:, None, None])
    return ((high - low).clamp_min(0) / script.size).prod(-1)


def _activity(script: Script) -> Tensor:
    """Whether an object moves, turns or grows between consecutive moments: bool [B, K, M - 1]."""
    moves = script.centre.diff(dim=2).norm(dim=-1) > STILL / (MOMENTS - 1)
    turns = script.angle.diff(dim=2).abs() > NO_ROTATION / (MOMENTS - 1)
    return moves | turns | (script.size[..., 0].log().diff(dim=2).abs() > SAME_SIZE / (MOMENTS - 1))


def spans_in_sight(script: Script) -> list[list[tuple[float, float] | None]]:
    """Time span in which each object moves, turns or grows visibly, by clip and object; None if it hardly does."""
    seen = visible_share(script) > HIDDEN
    # A step counts if the object is visible at both of its moments and is not at rest.
    steps = _activity(script) & seen[..., 1:] & seen[..., :-1]
    there = torch.arange(steps.shape[1], device=steps.device) < script.objects[:, None]
    moved = (script.centre.diff(dim=2).norm(dim=-1) * steps).sum(-1) > STILL
    turned = (script.angle.diff(dim=2).abs() * steps).sum(-1) > NO_ROTATION
    grown = (script.size[..., 0].log().diff(dim=2).abs() * steps).sum(-1) > SAME_SIZE
    place = torch.arange(MOMENTS - 1, device=steps.device)
    first = torch.where(steps, place, MOMENTS - 1).amin(-1) / (MOMENTS - 1)
    last = torch.where(steps, place + 1, 0).amax(-1) / (MOMENTS - 1)
    columns = ((moved | turned | grown) & there, first, last)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [[(a, b) if moves else None for moves, a, b in zip(*row, strict=True)] for row in rows]


def _pauses(script: Script) -> tuple[Tensor, Tensor, Tensor]:
    """Time at rest at the beginning, at the end, and the longest pause in between, as fractions of the clip: [B, K] each."""
    active = _activity(script)
    steps = torch.arange(MOMENTS - 1, device=active.device)
    first = torch.where(active, steps, MOMENTS - 1).amin(-1)
    last = torch.where(active, steps, -1).amax(-1)
    latest = torch.where(active, steps, -1).cummax(-1).values
    run = torch.where((steps > first[..., None]) & (steps < last[..., None]), steps - latest, 0).amax(-1)
    length = MOMENTS - 1
    return first / length, (length - 1 - last).clamp(max=length) / length, run / length


def _legs(centre: Tensor, corner: Tensor, first: Tensor, last: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Headings before and after a moment, and straightness of the less straight of both legs: [B, K, S] each."""
    steps = centre.diff(dim=-2).norm(dim=-1)
    place = torch.arange(steps.shape[-1], device=steps.device)
    middle = centre.gather(-2, corner[..., None, None].expand(*corner.shape, 1, 2))[..., 0, :]
    before, after = middle - first, last - middle
    arcs = [(steps * (inside & side)).sum(-1) for side in (place < corner[..., None], place >= corner[..., None])]
    straight = [leg.norm(dim=-1) / arc.clamp_min(1e-6) for leg, arc in zip((before, after), arcs, strict=True)]
    return _degrees(before), _degrees(after), torch.minimum(*straight)


@dataclass
class _Window:
    """Moments of each phase: first and last, int64 [B, K, S]; points, bool [B, K, S, M]; steps, bool [B, K, S, M - 1]."""

    begin: Tensor
    end: Tensor
    point: Tensor
    inside: Tensor

    def at(self, values: Tensor, moment: Tensor) -> Tensor:
        """Values [B, K, 1 or S, M] at one moment per phase: [B, K, S]."""
        return values.expand(*moment.shape, MOMENTS).gather(-1, moment[..., None])[..., 0]

    def largest(self, values: Tensor) -> Tensor:
        """Largest of values [B, K, 1 or S, M] in each phase: [B, K, S]."""
        return torch.where(self.point, values, -math.inf).amax(-1)

    def smallest(self, values: Tensor) -> Tensor:
        """Smallest of values [B, K, 1 or S, M] in each phase: [B, K, S]."""
        return torch.where(self.point, values, math.inf).amin(-1)


def _path_numbers(centre: Tensor, first: Tensor, last: Tensor, window: _Window) -> dict[str, Tensor]:
    """Direction, length and shape of paths: centre [B, K, S, M, 2], first and last position [B, K, S, 2]."""
    step, chord = centre.diff(dim=-2), last - first
    length = step.norm(dim=-1) * window.inside
    moving = length > 1e-5
    change = (_degrees(step).diff(dim=-1) + 180) % 360 - 180
    change = change * (moving[..., 1:] & moving[..., :-1])
    aim = chord / chord.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    first_leg, second_leg, straight = _legs(centre, change.abs().argmax(-1) + 1, first, last, window.inside)
    third = (window.end - window.begin)[..., None] / 3
    place = torch.arange(MOMENTS - 1, device=centre.device) + 0.5
    y = centre[..., 1]
    return {
        "arc": length.sum(-1),
        "chord": chord.norm(dim=-1),
        "heading": _degrees(chord),
        "turned": change.sum(-1),
        "sharpest": change.abs().amax(-1),
        "first_leg": first_leg,
        "second_leg": second_leg,
        "legs_straight": straight,
        "weaves": _flips(step[..., 0] * aim[..., None, 1] - step[..., 1] * aim[..., None, 0], window.inside),
        "across": chord[..., 0],
        "rise": torch.minimum(first[..., 1], last[..., 1]) - window.smallest(y),
        "dip": window.largest(y) - torch.maximum(first[..., 1], last[..., 1]),
        "first_third": (length * (place < window.begin[..., None] + third)).sum(-1),
        "last_third": (length * (place > window.end[..., None] - third)).sum(-1),
    }


def _reach_numbers(centre: Tensor, first: Tensor, window: _Window) -> dict[str, Tensor]:
    """Largest distance of paths from their start, and whether they stay on one line."""
    away = torch.where(window.point[..., None], centre - first[..., None, :], 0)
    farthest = away.norm(dim=-1).argmax(-1)
    far = away.gather(-2, farthest[..., None, None].expand(*farthest.shape, 1, 2))[..., 0, :]
    axis = far / far.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return {
        "reach": far.norm(dim=-1),
        "reach_heading": _degrees(far),
        "width": (away[..., 0] * axis[..., None, 1] - away[..., 1] * axis[..., None, 0]).abs().amax(-1),
        "reversals": _flips((centre.diff(dim=-2) * axis[..., None, :]).sum(-1), window.inside),
    }


def _look_numbers(script: Script, window: _Window) -> dict[str, Tensor]:
    """Rotation, size and visibility."""
    angle, size = script.angle[:, :, None], script.size[..., 0].log()[:, :, None]
    seen = visible_share(script)[:, :, None]
    begin, end = window.at(size, window.begin), window.at(size, window.end)
    return {
        "rotation": window.at(angle, window.end) - window.at(angle, window.begin),
        "wobble": window.largest(angle) - window.smallest(angle),
        "rocks": _flips(angle.diff(dim=-1).expand_as(window.inside), window.inside),
        "size_ratio": (end - begin).exp(),
        "swell": (window.largest(size) - torch.maximum(begin, end)).exp(),
        "seen_first": window.at(seen, window.begin),
        "seen_last": window.at(seen, window.end),
        "seen_least": window.smallest(seen),
    }


def measure(script: Script) -> list[list[list[Measured]]]:
    """Measurements of every phase, by clip, object and phase."""
    begin, end = (script.span * (MOMENTS - 1)).round().long().unbind(-1)
    place = torch.arange(MOMENTS, device=begin.device)
    point = (place >= begin[..., None]) & (place <= end[..., None])
    window = _Window(begin, end, point, point[..., 1:] & point[..., :-1])
    centre = script.centre[:, :, None].expand(-1, -1, begin.shape[2], -1, -1)
    first, last = (torch.stack([window.at(part, moment) for part in centre.unbind(-1)], dim=-1) for moment in (begin, end))
    pauses = zip(("lead", "trail", "halt"), _pauses(script), strict=True)
    columns = {
        "duration": (end - begin) / (MOMENTS - 1),
        **_path_numbers(centre, first, last, window),
        **_reach_numbers(centre, first, window),
        **_look_numbers(script, window),
        **{name: pause[:, :, None].expand_as(begin) for name, pause in pauses},
    }
    for name, places in (("first", first), ("last", last)):
        columns[f"{name}_x"], columns[f"{name}_y"] = (places / script.extent[:, None, None]).unbind(-1)
    table = torch.stack([columns[name].double() for name in Measured._fields], dim=-1).tolist()
    return [[[Measured(*row) for row in phases] for phases in objects] for objects in table]

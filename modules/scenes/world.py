"""The state of generated clips over time, from which all their streams are made, exactly synchronous.

`World.at` returns the position of every object at any time. Frames, flow, depth, masks, sound, sensors and skeletons use it,
and draw no random motion themselves. The class is the motion of the first object (`modules/scenes/classes.py`); those of the
other objects are drawn independently. Axis letters: `N` clips, `K` objects, `S` times.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.core.errors import SettingError, check_positive, check_whole
from modules.motion.appearance import SHAPES
from modules.scenes.classes import MOTION_CLASSES, Draws, Split, changes_at, starting

BACKGROUND_DEPTH, NEAREST, FARTHEST = 4.0, 1.2, 3.4
"""Distances from the camera in metres: background, nearest ground of an object, and farthest ground."""
HOP = 0.25
"""Height of a hop towards the camera, in metres."""
HOPS_PER_SECOND = (1.2, 2.8)
APART = 0.26
"""Minimum distance between the grounds of two objects, in metres, so that hops do not change their order in depth."""
DIMMEST = 0.7
"""Brightness of an object on its ground; at the top of a hop, it is 1."""
METRES = 2.0
"""Side of the picture in metres, for sensors and skeletons."""


@dataclass
class WorldSettings:
    """Settings of generated clips in addition to the labelled motion.

    Args:
        objects: Objects per clip; the label is the motion of the first. Each may occlude others.
        smooth: Objects start and end each phase of their motion at rest, like physical bodies, instead of having constant
            speed.
        contacts: Objects hop towards the camera and land, at times that do not depend on the class. Nearer objects are
            brighter.
        identities: Number of different objects per split, each in many clips; null gives every clip its own object.
        fps: Frames per second, which determines the duration of a clip.
    """

    objects: int = 1
    smooth: bool = False
    contacts: bool = False
    identities: int | None = None
    fps: float = 16.0

    def __post_init__(self) -> None:
        check_whole("data.world", 1, 8, objects=self.objects)
        check_positive("data.world", fps=self.fps)
        if self.identities is not None:
            check_whole("data.world", 1, identities=self.identities)
        for name in ("smooth", "contacts"):
            if not isinstance(getattr(self, name), bool):
                raise SettingError(f"data.world.{name} is {getattr(self, name)}; it must be true or false.")


class Moment(NamedTuple):
    """State of all objects at given times. Lengths are in sides of the picture, which is a torus."""

    centre: Tensor
    """float32 [N, K, S, 2], x and y in [0, 1)"""
    way: Tensor
    """float64 [N, K, S, 2], the same without wrapping around"""
    size: Tensor
    """float32 [N, K, S]"""
    angle: Tensor
    """float32 [N, K, S], degrees clockwise in [0, 360)"""
    turned: Tensor
    """float64 [N, K, S], the same without wrapping around"""
    lift: Tensor
    """float32 [N, K, S], from 0 on the ground to 1 at the top of a hop; 0 without contacts"""


class World:
    """State of some clips over time. Clip n only depends on (seed, split, n, view) and the settings.

    Args:
        index: int64 [N], indices of the clips; all tensors are made on its device.
        frames: T
        split: split, which determines draws, colours and backgrounds.
        seed: seed of the data set.
        settings: settings of the world.
        object_size: smallest and largest side of an object, in sides of the picture.
        distractors: see `changes_at`.
        view: other numbers give the same objects and class with other starts, speeds and headings.
    """

    def __init__(
        self,
        index: Tensor,
        frames: int,
        split: Split,
        seed: int,
        settings: WorldSettings,
        object_size: tuple[float, float] = (0.22, 0.55),
        distractors: bool = False,
        view: int = 0,
    ) -> None:
        self.index, self.frames, self.split, self.seed, self.settings = index, frames, split, seed, settings
        self.object_size, self.distractors, self.view = object_size, distractors, view
        self.identity = index if settings.identities is None else index.remainder(settings.identities)
        """int64 [N], identity of the first object within its split"""
        self.motion = torch.stack([self._motion(number) for number in range(settings.objects)], 1)
        """int64 [N, K], class of each object's motion; that of the first is the label"""

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the last."""
        return (self.frames - 1) / self.settings.fps

    def looks(self, number: int) -> Draws:
        """Draws of the appearance of an object, which depend on its identity."""
        # The first object of version 0 looks as in clips without further streams.
        return Draws(self.seed, self.split, self.identity if number == 0 else self.index, 1000 * number)

    def moves(self, number: int) -> Draws:
        """Draws of the motion of an object."""
        return Draws(self.seed, self.split, self.index, self.view + 1000 * number)

    def shape(self, number: int) -> Tensor:
        """int64 [N], index into `SHAPES`."""
        return self.looks(number).integer("object", len(SHAPES))

    def _motion(self, number: int) -> Tensor:
        classes = len(MOTION_CLASSES)
        if number > 0:
            return Draws(self.seed, self.split, self.index, 1000 * number).integer("motion of another", classes)
        if self.settings.identities is None:
            return self.index.remainder(classes)
        # This does not depend on whether the numbers of classes and identities have a common factor.
        return (self.index.div(self.settings.identities, rounding_mode="floor") + self.identity).remainder(classes)

    @property
    def times(self) -> Tensor:
        """float64 [T], timestamps of the frames in seconds."""
        return torch.arange(self.frames, device=self.index.device).double() / self.settings.fps

    def at(self, seconds: Tensor) -> Moment:
        """State at times float64 [S], in seconds from the first frame; they may also be before it or after the last frame."""
        return self._moment(seconds, seconds / self.duration)

    def at_frames(self, more: int = 0) -> Moment:
        """State in the frames, and in `more` frames after the last one.

        This equals `at` for their timestamps except for rounding: progress is spaced over the frames in the same way as in
        clips without further streams.
        """
        device = self.index.device
        spread = torch.linspace(0, 1, self.frames, device=device, dtype=torch.float64)
        later = torch.arange(self.frames, self.frames + more, device=device).double()
        progress = torch.cat([spread, later / (self.frames - 1)])
        return self._moment(torch.cat([self.times, later / self.settings.fps]), progress)

    def _moment(self, seconds: Tensor, progress: Tensor) -> Moment:
        parts = [self._object_at(number, seconds, progress) for number in range(self.settings.objects)]
        return Moment(*(torch.stack(column, 1) for column in zip(*parts, strict=True)))

    def _object_at(self, number: int, seconds: Tensor, progress: Tensor) -> tuple[Tensor, ...]:
        draws, smooth = self.moves(number), self.settings.smooth
        change = changes_at(draws, self.motion[:, number], progress, self.frames, self.distractors, smooth)
        path = starting(draws, change, self.object_size)
        start = torch.stack([draws.uniform("x"), draws.uniform("y")], dim=-1)[:, None]
        turned = draws.uniform("angle", 0, 360)[:, None] + change.turn
        return path.centre, start + change.shift, path.size, path.angle, turned, self._lift(number, seconds)

    def _lift(self, number: int, seconds: Tensor) -> Tensor:
        if not self.settings.contacts:
            return torch.zeros(len(self.index), len(seconds), device=seconds.device)
        rate, phase = self._hops(number)
        part = (phase[:, None] + rate[:, None] * seconds).remainder(1)
        return (4 * part * (1 - part)).float()

    def _hops(self, number: int) -> tuple[Tensor, Tensor]:
        draws = self.moves(number)
        return draws.uniform("hops", *HOPS_PER_SECOND), draws.uniform("hop phase")

    def contacts(self, end: float | None = None) -> tuple[Tensor, Tensor]:
        """Times at which objects land, from the first frame to the last.

        Args:
            end: end of the time range in seconds; None uses the last frame.

        Returns:
            float64 [N, K, E] seconds, ascending, and bool [N, K, E], which of them are valid.
        """
        end = self.duration if end is None else end
        most = math.ceil(HOPS_PER_SECOND[1] * end) + 1 if self.settings.contacts else 0
        landings = torch.arange(1, most + 1, device=self.index.device)
        found = []
        for number in range(self.settings.objects):
            rate, phase = self._hops(number)
            found.append((landings - phase[:, None]) / rate[:, None])
        moments = torch.stack(found, 1)
        return moments, moments <= end

    def ground(self) -> Tensor:
        """float64 [N, K], distance of each object's ground from the camera in metres; later objects are nearer."""
        draws, count = Draws(self.seed, self.split, self.index, self.view), self.settings.objects
        spare = draws.many("distance", count, NEAREST, FARTHEST - (count - 1) * APART).sort(dim=1, descending=True).values
        return spare + APART * torch.arange(count - 1, -1, -1, device=spare.device)

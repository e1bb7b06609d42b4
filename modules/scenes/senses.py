"""Streams of generated clips that are no pictures."""

from dataclasses import dataclass
from typing import Protocol

from modules.core.batch import Stream, Text
from modules.scenes.world import World


@dataclass
class GeneratedSound:
    """What is heard in generated clips."""


@dataclass
class GeneratedSensor:
    """What a sensor on the first object measures."""


class Senses(Protocol):
    """Which of these streams are asked for."""

    @property
    def sound(self) -> GeneratedSound | None:
        """What is heard; None for silence."""

    @property
    def sensor(self) -> GeneratedSensor | None:
        """What a sensor measures; None without one."""

    @property
    def skeleton(self) -> bool:
        """Whether there are bodies."""

    @property
    def text(self) -> bool:
        """Whether there are sentences."""


def sense_streams(world: World, streams: Senses) -> dict[str, Stream | Text]:
    """Sound, sensor, skeleton and sentences of some clips, those that are asked for: data [N, 1, ...], one view."""
    return {}

"""Streams of generated clips that are no pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.core.batch import Stream, Text

if TYPE_CHECKING:
    from modules.scenes.streams import WorldStreams
    from modules.scenes.world import World


@dataclass
class GeneratedSound:
    """What is heard in generated clips."""


@dataclass
class GeneratedSensor:
    """What a sensor on the first object measures."""


def sense_streams(world: World, streams: WorldStreams) -> dict[str, Stream | Text]:
    """Sound, sensor, skeleton and sentences of some clips, those that are asked for: data [N, 1, ...], one view."""
    return {}

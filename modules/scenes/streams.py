"""Which streams generated clips have besides the video."""

from dataclasses import dataclass

from modules.core.batch import Kind
from modules.core.errors import SettingError
from modules.scenes.senses import GeneratedSensor, GeneratedSound

PLANES: dict[str, Kind] = {
    **{"flow": "flow", "occlusion": "mask", "depth": "depth", "mask": "mask", "whole_mask": "mask", "track": "track"}
}
"""Kinds of the streams that say something of every pixel, or of the picture."""


@dataclass
class WorldStreams:
    """Streams that generated clips have besides the video. All show the same world at the same moments.

    Args:
        flow: Pixels from each frame to the next of what is seen in the middle of a pixel; from the last frame, to the one that
            would follow. Points that leave the picture come in again on the other side, and their flow leads out of it.
        occlusion: One plane, true where something nearer hides in the next frame what is seen in this one.
        depth: Distance from the camera in millimetres.
        mask: Where each object is seen, one plane per object, farthest first; the first is the one that the label is about.
        whole_mask: Where each object is, also behind others.
        track: Boxes of the whole objects, to the pixel. Objects that reach over an edge have boxes that reach beyond it.
        skeleton: Bodies that move as the objects do.
        text: Sentences about the motion.
        sound: What is heard, as the stream `audio`; {} takes the default settings, null no sound.
        sensor: What a sensor on the first object measures, as the stream `signal`, as above.
    """

    flow: bool = False
    occlusion: bool = False
    depth: bool = False
    mask: bool = False
    whole_mask: bool = False
    track: bool = False
    skeleton: bool = False
    text: bool = False
    sound: GeneratedSound | None = None
    sensor: GeneratedSensor | None = None

    def __post_init__(self) -> None:
        for name in (*PLANES, "skeleton", "text"):
            if not isinstance(getattr(self, name), bool):
                raise SettingError(f"data.streams.{name} is {getattr(self, name)}; it must be true or false.")

    @property
    def kinds(self) -> dict[str, Kind]:
        """Streams that are switched on, and their kinds."""
        further: dict[str, Kind] = {"skeleton": "skeleton", "text": "text"}
        kinds = {name: kind for name, kind in (PLANES | further).items() if getattr(self, name)}
        if self.sound is not None:
            kinds["audio"] = "audio"
        if self.sensor is not None:
            kinds["signal"] = "signal"
        return kinds

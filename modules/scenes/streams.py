"""Selection of the streams of generated clips other than the video."""

from dataclasses import dataclass

from modules.core.batch import Kind
from modules.core.errors import SettingError
from modules.scenes.senses import GeneratedSensor, GeneratedSound

PLANES: dict[str, Kind] = {
    **{"flow": "flow", "occlusion": "mask", "depth": "depth", "mask": "mask", "whole_mask": "mask", "track": "track"}
}
"""Kinds of the streams that describe pixels or boxes of the picture."""


@dataclass
class WorldStreams:
    """Streams of generated clips other than the video. All are synchronous recordings of the same world.

    Args:
        flow: Displacement in pixels to the next frame of the point at the centre of each pixel; for the last frame, to the one
            that would follow. Points that leave the picture reappear on the other side; their flow points out of the picture.
        occlusion: One plane, true where the visible point is hidden by something nearer in the next frame.
        depth: Distance from the camera in millimetres.
        mask: Visible parts of each object, one plane per object, farthest first; the label belongs to the first.
        whole_mask: Masks of the complete objects, including hidden parts.
        track: Boxes of the complete objects, exact to the pixel. Boxes of objects across an edge extend beyond the picture.
        skeleton: Bodies that move like the objects.
        text: Sentences about the motion.
        sound: Sound, as the stream `audio`; {} uses the default settings, null disables it.
        sensor: Measurements of a sensor on the first object, as the stream `signal`; {} and null as above.
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
        """Enabled streams and their kinds."""
        further: dict[str, Kind] = {"skeleton": "skeleton", "text": "text"}
        kinds = {name: kind for name, kind in (PLANES | further).items() if getattr(self, name)}
        if self.sound is not None:
            kinds["audio"] = "audio"
        if self.sensor is not None:
            kinds["signal"] = "signal"
        return kinds

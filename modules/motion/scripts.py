"""Motion for captions: the state at 97 moments, independent of the number of frames, and the phases.

Captions are based on measurements of this record after all flips and crops, so that they match the motion. Axis letters: `B`
clips, `K` = 2 objects, `M` = 97 moments, `S` = 3 phases at most, `T` frames.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from modules.motion.primitives import MIRRORED, RELATIONS, REVERSED
from modules.motion.trajectory import MotionRecord

MOMENTS = 97
"""Number of moments. Phases start and end at moments, so halves, thirds and quarters of a clip are exact."""


def _renumber(number: Tensor, table: tuple[int, ...]) -> Tensor:
    """Look up indices in a table; -1 is unchanged."""
    return torch.where(number < 0, number, torch.tensor(table, device=number.device)[number.clamp_min(0)])


@dataclass
class Script(MotionRecord):
    """Motion of objects in a batch of clips, in short sides of the frame, at `M` evenly spaced moments.

    Args:
        centre: float [B, K, M, 2], x and y from the upper left corner of the frame.
        size: float [B, K, M, 2], width and height before rotation.
        angle: float [B, K, M], degrees, clockwise positive.
        shear: float [B, K, M, 2], see `MotionRecord`.
        opacity: float [B, K, M]; 0 for a missing object.
        keys: bool [B, M], moments at which a phase of any object starts or ends.
        interpolation: int8 [B, M], interpolation of the phase of object 0 at that moment.
        extent: float [B, 2], width and height of the frame; the smaller is 1.
        objects: int64 [B], number of objects, 1 or 2. Object 1 is on top of object 0.
        span: float [B, K, S, 2], start and end of each phase, from 0 to 1.
        topic: int64 [B, K, S], index into `PRIMITIVES` of the primitive of each phase; -1 for an unused phase.
        relation: int64 [B], index into `RELATIONS` of the relation of both objects, -1 for none.
        seed: int64 [B], seed for the choice of words.
    """

    extent: Tensor
    objects: Tensor
    span: Tensor
    topic: Tensor
    relation: Tensor
    seed: Tensor

    def at(self, frames: int, picture: tuple[int, int]) -> MotionRecord:
        """The record of T frames in pixels, for rendering.

        Args:
            frames: T; the first frame is at the first moment, the last frame at the last one.
            picture: height and width in pixels, with the aspect ratio that the script was drawn for.
        """
        height, width = picture
        side = min(picture)
        if not torch.allclose(self.extent.cpu(), torch.tensor([width / side, height / side]), atol=1 / side):
            raise ValueError(f"a script for frames of {self.extent[0].tolist()} (width, height) cannot fill {width} x {height}")
        place = torch.linspace(0, MOMENTS - 1, frames, device=self.centre.device)
        before = place.long().clamp(max=MOMENTS - 2)
        weight = place - before

        def pick(values: Tensor) -> Tensor:
            share = weight.view((-1,) + (1,) * (values.ndim - 3))
            first = values[:, :, before]
            return first + (values[:, :, before + 1] - first) * share

        nearest = place.round().long()
        return MotionRecord(
            pick(self.centre) * side,
            pick(self.size) * side,
            pick(self.angle),
            pick(self.shear),
            pick(self.opacity),
            self.keys[:, nearest],
            self.interpolation[:, nearest],
        )

    def flip(self) -> "Script":
        """The script of the clip mirrored left to right. (Its textures must be mirrored as well.)"""
        centre = self.centre * self.centre.new_tensor([-1, 1])
        centre = centre + (self.extent * self.extent.new_tensor([1, 0]))[:, None, None]
        topic = _renumber(self.topic, MIRRORED)
        return replace(self, centre=centre, angle=-self.angle, shear=-self.shear, topic=topic)

    def reverse(self) -> "Script":
        """The script of the clip that runs backwards: the same frames in the opposite order."""
        names = ("centre", "size", "angle", "shear", "opacity")
        turned: dict[str, Tensor] = {name: getattr(self, name).flip(2) for name in names}
        first = len(REVERSED) - len(RELATIONS)
        return replace(
            self,
            **turned,
            keys=self.keys.flip(1),
            interpolation=self.interpolation.flip(1),
            span=(1 - self.span).flip(2, 3),
            topic=_renumber(self.topic, REVERSED).flip(2),
            relation=_renumber(self.relation, tuple(number - first for number in REVERSED[first:])),
        )

    def crop(self, window: Tensor) -> "Script":
        """The script of a part of the frame, enlarged uniformly. Stretching would change directions, so it is not supported.

        Args:
            window: float [B, 4], corners x1 y1 x2 y2 as fractions of the frame's width and height.
        """
        corner, sides = window[:, :2] * self.extent, (window[:, 2:] - window[:, :2]) * self.extent
        unit = sides.amin(1)[:, None, None, None]
        centre = (self.centre - corner[:, None, None]) / unit
        return replace(self, centre=centre, size=self.size / unit, extent=sides / sides.amin(1, keepdim=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {entry.name: getattr(self, entry.name).tolist() for entry in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Script":
        """Inverse of `to_dict`."""
        whole = {"objects": torch.long, "topic": torch.long, "relation": torch.long, "seed": torch.long}
        kinds = {"keys": torch.bool, "interpolation": torch.int8, **whole}
        return cls(**{e.name: torch.tensor(values[e.name], dtype=kinds.get(e.name, torch.float32)) for e in fields(cls)})

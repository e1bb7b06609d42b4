"""Pictures: crops of detected objects in a video, or image files. Axis letters: `V` views, `H` height, `W` width."""

from pathlib import Path

import numpy as np
import torch

from datamodules.streams.arrays import split_source
from datamodules.streams.detections import Detections, load_detections, moments_of
from datamodules.streams.reader import StreamReader, seconds_of
from datamodules.streams.settings import PictureSettings, TrackSettings
from datamodules.video.crops import Box, view_boxes
from datamodules.video.decode import DecodeError, VideoInfo, read_clips
from datamodules.video.sampling import Plan
from datamodules.video.transforms import crop_and_resize
from modules.core.batch import Stream

FIRST = np.zeros((1, 1), np.int64)


class PictureReader(StreamReader):
    """Pictures [V, H, W, 3], uint8.

    * From a file of detections (.csv, .json; `load_detections`): one object in a frame of the video per view. The frame
      is the middle one of the clip, or otherwise the nearest frame with an object; a view without object is black and
      not valid. The sample must have a video that the plan was made for.
    * From an image: the same centred square for all views; if it is the first stream of its sample, the crops of the plan.

    Args:
        settings: which object is cropped.
        boxes: how detections are read.
    """

    kind = "picture"

    def __init__(self, settings: PictureSettings, boxes: TrackSettings) -> None:
        self.settings, self.boxes = settings, boxes

    def info(self, source: Path) -> VideoInfo:
        """See `StreamReader.info`."""
        return read_clips(source, lambda info, rng: FIRST, None).info

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`; `box` is the part of the frame or picture that is shown."""
        if split_source(source)[0].suffix in (".csv", ".json"):
            return self._crops(load_detections(source, plan, self.boxes), plan, size)
        decoded = read_clips(source, lambda info, rng: FIRST, None)
        own = view_boxes(decoded.info.width, decoded.info.height, 1, 1.0) * plan.views
        boxes = plan.boxes if plan.file == source else own
        return _stream([crop_and_resize(decoded.frames, box, size)[0] for box in boxes], boxes, plan)

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        return _stream([None] * plan.views, [Box(0, 0, 0, 0)] * plan.views, plan, size)

    def _crops(self, found: Detections, plan: Plan, size: int) -> Stream:
        chosen = [self._choose(found, moments, plan) for moments in moments_of(found, plan, self.boxes)]
        frames = [plan.frames[view, one[0]] for view, one in enumerate(chosen) if one is not None]
        pictures: list[torch.Tensor | None] = [None] * plan.views
        boxes = [one[1] if one is not None else Box(0, 0, 0, 0) for one in chosen]
        if frames:
            if plan.file is None:
                raise DecodeError("no video stream")
            decoded = read_clips(plan.file, lambda info, rng: np.array(frames)[:, None], None)
            if (decoded.info.width, decoded.info.height) != plan.picture:
                raise DecodeError("another size", f"{decoded.info.width} x {decoded.info.height}, not {plan.picture}")
            shown = iter(decoded.position[:, 0].tolist())
            for view, box in enumerate(boxes):
                if box.width:
                    pictures[view] = crop_and_resize([decoded.frames[next(shown)]], box, size)[0]
        return _stream(pictures, boxes, plan, size)

    def _choose(self, found: Detections, moments: list[float], plan: Plan) -> tuple[int, Box] | None:
        """Index of the frame for a view, and the part of it that is shown; None if there is no object."""
        middle = len(moments) // 2
        for frame in sorted(range(len(moments)), key=lambda number: abs(number - middle)):
            rows = found.at(moments[frame], self.boxes.reach)
            if self.settings.track is not None:
                rows = rows[[found.names[track] == self.settings.track for track in found.track[rows].tolist()]]
            if len(rows):
                box = found.box[rows]
                area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
                away = np.hypot(*((box[:, :2] + box[:, 2:]) / 2 - np.array(plan.picture) / 2).T)
                best = {"largest": -area, "central": away, "score": -found.score[rows]}[self.settings.pick].argmin()
                return frame, square_around(box[best], self.settings.enlarge, plan.picture)
        return None


def square_around(box: np.ndarray, enlarge: float, picture: tuple[int, int]) -> Box:
    """The square around a box, moved into the frame, with at most the shorter side of the frame.

    Args:
        box: x1 y1 x2 y2 in pixels.
        enlarge: side of the square as a multiple of the longer side of the box.
        picture: width and height of the frame.
    """
    x1, y1, x2, y2 = box.tolist()
    side = min(max(round(max(x2 - x1, y2 - y1) * enlarge), 1), *picture)
    x, y = (
        round(min(max((low + high - side) / 2, 0), room - side))
        for low, high, room in ((x1, x2, picture[0]), (y1, y2, picture[1]))
    )
    return Box(x, y, side, side)


def _stream(pictures: list[torch.Tensor | None], boxes: list[Box], plan: Plan, size: int = 1) -> Stream:
    """Pictures of all views, black and not valid for views without picture."""
    black = next((torch.zeros_like(one) for one in pictures if one is not None), torch.zeros(size, size, 3, dtype=torch.uint8))
    data = torch.stack([black if one is None else one for one in pictures])
    corners = torch.tensor([(x, y, x + width, y + height) for x, y, width, height in boxes], dtype=torch.float32)
    return Stream("picture", data, torch.tensor([one is not None for one in pictures]), seconds_of(plan), corners)

"""Streams of planes (flow, depth, masks) and videos of further cameras, cropped by the plan of the sample."""

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.lists.folders import VIDEO_SUFFIXES, suffix_of
from datamodules.streams.reader import StreamReader, seconds_of
from datamodules.streams.settings import DepthSettings, FlowSettings, MaskSettings
from datamodules.streams.stored import Pictures, Stored, VideoFile, bits_of, open_flow, open_planes
from datamodules.video.crops import Box, centre_box
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.readers import PictureFolder, check_size
from datamodules.video.sampling import Plan
from datamodules.video.transforms import crop_and_resize
from modules.core.batch import Kind, Stream
from modules.core.errors import SettingError

ASSUMED_FPS = 30.0
"""Frame rate of folders and arrays that are the first stream of their sample, if it is not set."""
MAX_DEPTH = 2**16 - 1
MAX_TINT = 8
"""Maximum mean difference of the colour channels of a grey video, caused by lossy coding."""


class PlaneReader(StreamReader):
    """Base class: selects the frames and the part of the picture.

    If a file has as many frames as the recording that the plan was made for, frames are matched by index, otherwise by
    timestamp. Boxes are scaled to the size of the file's pictures, which must have the same aspect ratio. A plan without
    boxes shows the centred square.

    Args:
        fps: frames per second of folders and arrays; None if unknown.
        same_view: whether pictures come from the camera of the plan. If not, pictures with another aspect ratio are from
            another camera, and their centred square is shown.
    """

    data_type: ClassVar[type[np.generic]]
    channels: int
    lacking: ClassVar[int] = 0
    """by how many frames a file may be shorter than the video to be matched by index"""

    def __init__(self, fps: float | None, same_view: bool = True) -> None:
        self.fps, self.same_view = fps, same_view

    @abstractmethod
    def open(self, source: Path) -> Stored:
        """Open a file or folder. Raises DecodeError."""

    @abstractmethod
    def checked(self, planes: np.ndarray) -> np.ndarray:
        """Check the format of planes [N, h, w, C]. Raises DecodeError if it is not supported."""

    @abstractmethod
    def cut(self, planes: np.ndarray, box: Box, scale: tuple[float, float], size: int) -> np.ndarray:
        """Cut a box out of frames, resize and convert it.

        Args:
            planes: [N, h, w, C] as returned by `checked`.
            box: box inside the frames.
            scale: pixels of the clip per pixel of the file, across and down.
            size: side of the result.

        Returns:
            [N, size, size, C]
        """

    def info(self, source: Path) -> VideoInfo:
        """See `StreamReader.info`."""
        info = self.open(source).info
        return replace(info, fps=info.fps or self.fps or ASSUMED_FPS)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`."""
        stored = self.open(source)
        info = stored.info
        steps = self._steps(info, plan)
        valid = steps < info.num_frames
        if not valid.any():
            raise DecodeError("too short", f"{info.num_frames} frames")
        numbers, place = np.unique(steps[valid], return_inverse=True)
        check_size(info.width, info.height, len(numbers))
        planes = self.checked(stored.read(numbers.tolist()))
        position = np.zeros_like(steps)
        position[valid] = place
        data = self._zeros(plan, size)
        for view, (box, scale) in enumerate(self._boxes(info.width, info.height, plan, size)):
            shown = valid[view]
            unique, again = np.unique(position[view][shown], return_inverse=True)
            if len(unique):
                # Views of one clip have the same frames, and short files repeat frames; each is resized once.
                some = planes if len(unique) == len(planes) else planes[unique]
                data[view, shown] = self.cut(some, box, scale, size)[again]
        return Stream(self.kind, torch.from_numpy(data), valid=torch.from_numpy(valid), time=seconds_of(plan))

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        valid = torch.zeros(plan.frames.shape, dtype=torch.bool)
        return Stream(self.kind, torch.from_numpy(self._zeros(plan, size)), valid=valid, time=seconds_of(plan))

    def _zeros(self, plan: Plan, size: int) -> np.ndarray:
        return np.zeros((*plan.frames.shape, size, size, self.channels), self.data_type)

    def _steps(self, info: VideoInfo, plan: Plan) -> np.ndarray:
        """The frames of the file for a plan, int64 [V, T]; indices after the end of the file have no frame."""
        if plan.length and 0 <= plan.length - info.num_frames <= self.lacking:
            return plan.frames
        fps = info.fps or self.fps
        if not fps:
            detail = f"{info.num_frames} frames for {plan.length} of the video; data.streams.depth.fps can set their rate"
            raise DecodeError("another rate", detail)
        return plan.frames_at(fps, np.iinfo(np.int64).max)

    def _boxes(self, width: int, height: int, plan: Plan, size: int) -> list[tuple[Box, tuple[float, float]]]:
        """The boxes of a plan in a file's pictures, each with its scale: pixels of the clip per pixel of the file."""
        across, down = plan.picture
        is_alike = bool(across) and _same_shape((width, height), plan.picture)
        if across and not is_alike and self.same_view:
            raise DecodeError("another size", f"{width} x {height} pixels, those of the video {across} x {down}")
        if not is_alike:
            box = centre_box(width, height)
            return [(box, (size / box.width, size / box.height))] * plan.views
        return [_scaled(box, plan.picture, (width, height), size) for box in plan.boxes]


class FlowReader(PlaneReader):
    """Optical flow from each frame of the file to the next one, resized bilinearly, with rescaled values.

    The last frame of a video has no flow and is not valid.

    Args:
        settings: `data.streams.flow`.
        fps: see `PlaneReader`.
        same_view: see `PlaneReader`.
    """

    kind: ClassVar[Kind] = "flow"
    data_type = np.float16
    channels = 2
    lacking = 1

    def __init__(self, settings: FlowSettings, fps: float | None, same_view: bool = True) -> None:
        super().__init__(fps, same_view)
        self.settings = settings

    def open(self, source: Path) -> Stored:
        """See `PlaneReader.open`."""
        return open_flow(source)

    def checked(self, planes: np.ndarray) -> np.ndarray:
        """See `PlaneReader.checked`."""
        if planes.shape[-1] != 2 or not (planes.dtype == np.uint8 or planes.dtype.kind == "f"):
            raise DecodeError("another format", f"{planes.shape[-1]} channels of {planes.dtype}, not 2 of uint8 or floats")
        return planes

    def cut(self, planes: np.ndarray, box: Box, scale: tuple[float, float], size: int) -> np.ndarray:
        """See `PlaneReader.cut`."""
        x, y, width, height = box
        # NumPy is slow with float16, and torch only supports the native byte order.
        stored = np.array(planes[:, y : y + height, x : x + width], planes.dtype.newbyteorder("="))
        flow = torch.from_numpy(stored).float()
        if planes.dtype == np.uint8:
            flow = self.pixels(flow)
        if (height, width) != (size, size):
            moved = flow.permute(0, 3, 1, 2)
            flow = interpolate(moved, size=(size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
        flow = (flow * torch.tensor(scale)).half()
        if not flow.isfinite().all():
            raise DecodeError("not numbers", "flow that is not finite, or unknown")
        return flow.numpy()

    def pixels(self, codes: Tensor) -> Tensor:
        """Flow from 8-bit pictures: STS (official code) uses x * 40 / 255 - 20, which is a bound of 20.

        Args:
            codes: 0 to 255.
        """
        return codes * (2 * self.settings.bound / 255) - self.settings.bound


class DepthReader(PlaneReader):
    """Depth in millimetres, resized to the nearest pixel, because averages over the edge of an object would be wrong depths.

    Args:
        settings: `data.streams.depth`.
        same_view: see `PlaneReader`.
    """

    kind: ClassVar[Kind] = "depth"
    data_type = np.uint16
    channels = 1

    def __init__(self, settings: DepthSettings, same_view: bool = True) -> None:
        super().__init__(settings.fps, same_view)
        self.settings = settings

    def open(self, source: Path) -> Stored:
        """See `PlaneReader.open`."""
        if suffix_of(source.name) not in VIDEO_SUFFIXES or source.is_dir():
            return open_planes(source)
        stored = VideoFile(source)
        if bits_of(source) > 8:
            raise DecodeError("another format", "more than 8 bits, of which decoding would leave 8; store pictures of 16 bits")
        return stored

    def checked(self, planes: np.ndarray) -> np.ndarray:
        """See `PlaneReader.checked`."""
        if planes.shape[-1] == 3 and planes.dtype == np.uint8 and np.ptp(planes[0], axis=-1).mean() <= MAX_TINT:
            planes = planes[..., :1]
        if planes.shape[-1] != 1 or planes.dtype.kind not in "uif":
            raise DecodeError("another format", f"{planes.shape[-1]} channels of {planes.dtype}, not a single one of numbers")
        if self.settings.scale is None and (planes.dtype.kind == "f" or planes.dtype.itemsize == 1):
            raise SettingError(
                f"Depth that is stored as {planes.dtype} does not say what it means; set data.streams.depth.scale to the "
                "millimetres of one unit (1000 for metres), and data.streams.depth.shift."
            )
        return planes

    def cut(self, planes: np.ndarray, box: Box, scale: tuple[float, float], size: int) -> np.ndarray:
        """See `PlaneReader.cut`."""
        stored = nearest(planes, box, size)
        measured = (stored >= self.settings.least) & (stored != 0)
        if stored.dtype.kind == "f":
            measured &= np.isfinite(stored)
        depth = stored.astype(np.float32) * np.float32(self.settings.scale or 1) + np.float32(self.settings.shift)
        depth = np.rint(np.where(measured, depth, 0))
        if depth.max() > MAX_DEPTH or depth.min() < 0:
            farthest = depth.max() if depth.max() > MAX_DEPTH else depth.min()
            raise DecodeError("not numbers", f"a depth of {farthest:g} mm; data.streams.depth.scale or shift may be wrong")
        return depth.astype(np.uint16)


class MaskReader(PlaneReader):
    """Masks, one plane per object, resized to the nearest pixel.

    Args:
        settings: `data.streams.mask`.
        fps: see `PlaneReader`.
        same_view: see `PlaneReader`.
    """

    kind: ClassVar[Kind] = "mask"
    data_type = np.bool_

    def __init__(self, settings: MaskSettings, fps: float | None, same_view: bool = True) -> None:
        super().__init__(fps, same_view)
        self.channels = settings.objects

    def open(self, source: Path) -> Stored:
        """See `PlaneReader.open`."""
        stored = open_planes(source)
        if isinstance(stored, Pictures) and stored.is_lossy:
            raise DecodeError("another format", "JPEG changes the numbers of objects; store png")
        return stored

    def checked(self, planes: np.ndarray) -> np.ndarray:
        """See `PlaneReader.checked`."""
        if planes.shape[-1] != 1 or planes.dtype.kind not in "bui":
            detail = f"{planes.shape[-1]} channels of {planes.dtype}, not a single one of object numbers"
            raise DecodeError("another format", detail)
        if self.channels > 1 and (most := int(planes.max())) > self.channels:
            raise DecodeError("another width", f"an object {most}, but data.streams.mask.objects is {self.channels}")
        return planes

    def cut(self, planes: np.ndarray, box: Box, scale: tuple[float, float], size: int) -> np.ndarray:
        """See `PlaneReader.cut`."""
        objects = nearest(planes, box, size)
        return objects != 0 if self.channels == 1 else objects == np.arange(1, self.channels + 1)


class FurtherVideo(PlaneReader):
    """A video in addition to the first one of a sample, such as that of an infrared camera, resized like the first one.

    Args:
        fps: see `PlaneReader`.
        same_view: see `PlaneReader`.
    """

    kind: ClassVar[Kind] = "video"
    data_type = np.uint8
    channels = 3

    def open(self, source: Path) -> Stored:
        """See `PlaneReader.open`."""
        if not source.is_dir():
            return VideoFile(source)
        stored = VideoFile(PictureFolder(source, ASSUMED_FPS))
        stored.info = replace(stored.info, fps=0.0)
        return stored

    def checked(self, planes: np.ndarray) -> np.ndarray:
        """See `PlaneReader.checked`."""
        return planes

    def cut(self, planes: np.ndarray, box: Box, scale: tuple[float, float], size: int) -> np.ndarray:
        """See `PlaneReader.cut`."""
        return crop_and_resize(list(planes), box, size).numpy()


def nearest(planes: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Cut out a box and resize it with nearest-neighbour sampling.

    Args:
        planes: [N, h, w, C].
        box: box inside the frames.
        size: side of the result.

    Returns:
        [N, size, size, C]
    """
    x, y, width, height = box
    middles = np.arange(size) + 0.5
    rows, columns = ((middles * side / size).astype(np.int64) + start for side, start in ((height, y), (width, x)))
    return planes[:, rows[:, None], columns]


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have the same aspect ratio, up to rounding."""
    (width, height), (across, down) = size, other
    if width == across or height == down:
        return size == other
    return abs(down * width / across - height) < 1 or abs(across * height / down - width) < 1


def _scaled(box: Box, picture: tuple[int, int], size: tuple[int, int], side: int) -> tuple[Box, tuple[float, float]]:
    """A box of a picture, scaled to another size of the picture, and the scale from that size to a clip."""
    x_scale, y_scale = size[0] / picture[0], size[1] / picture[1]
    left, right = (round(edge * x_scale) for edge in (box.x, box.x + box.width))
    top, bottom = (round(edge * y_scale) for edge in (box.y, box.y + box.height))
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    small = Box(left, top, max(1, right - left), max(1, bottom - top))
    return small, (side / (box.width * x_scale), side / (box.height * y_scale))

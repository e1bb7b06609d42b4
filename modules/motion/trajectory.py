"""Motion of objects: paths, sizes, angles and opacities over time, for batches on the device.

SMILE (official code) moves objects along smooth paths, with sizes and angles that change between key frames. TubeletContrast
(official code) does the same with other parameters, or moves them in straight lines between key frames. `Motion` draws random
numbers, and pure functions convert them to trajectories, so that recorded draws of the official code give its trajectories.

Lengths are given for a picture whose shorter side is 224 pixels and scale with it; for 112 pixels, they are TubeletContrast's
numbers. Axis letters: `B` clips, `K` objects, `T` frames, `S` = 3 segments between at most four key frames.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from modules.core.device import constant, table, to_device
from modules.core.errors import SettingError

REFERENCE_SIDE = 224
POINTS = 48
SMOOTHING = 8.0
INNER_KEYS = (0.5, 0.3, 0.2)
INTERPOLATION = (0.7, 0.15, 0.15)
UNIFORM, ACCELERATE, DECELERATE = 0, 1, 2
# For a shorter side of 224: smallest extent of a smooth path and the first integer above the largest.
EXTENT = (40, 180)

Path = Literal["smooth", "linear", "static"]
Transformation = Literal["none", "rotation", "shear"]
Record = TypeVar("Record", bound="MotionRecord")


@dataclass
class MotionRecord:
    """Complete description of the motion of objects in a batch of clips.

    Args:
        centre: float [B, K, T, 2], x and y in pixels; pixel i covers [i, i + 1).
        size: float [B, K, T, 2], width and height in pixels, before rotation.
        angle: float [B, K, T], degrees, clockwise positive.
        shear: float [B, K, T, 2], shift in x per pixel of y, then shift in y per pixel of x.
        opacity: float [B, K, T], from 0 to 1.
        keys: bool [B, T], key frames of the path (first and last frame for smooth paths).
        interpolation: int8 [B, T], interpolation of the path between the key frames around each frame: 0 uniform,
            1 accelerating, 2 decelerating.
    """

    centre: Tensor
    size: Tensor
    angle: Tensor
    shear: Tensor
    opacity: Tensor
    keys: Tensor
    interpolation: Tensor

    def select(self: Record, part: slice | Tensor) -> Record:
        """The record of some clips."""
        return replace(self, **{entry.name: getattr(self, entry.name)[part] for entry in fields(self)})

    def to(self: Record, device: torch.device) -> Record:
        """The record on a device, in one asynchronous copy."""
        names = [entry.name for entry in fields(self)]
        moved: Any = zip(names, to_device([getattr(self, name) for name in names], device), strict=True)
        return replace(self, **dict(moved))

    def boxes(self) -> Tensor:
        """Corners x1 y1 x2 y2 in pixels, without rotation (as expected by SMILE's mask): float [B, K, T, 4]."""
        return torch.cat([self.centre - self.size / 2, self.centre + self.size / 2], dim=-1)

    def sorted_by_area(self: Record) -> tuple[Record, Tensor]:
        """Objects from the largest to the smallest, so that small ones are drawn last and stay visible.

        The area is the product of mean width and mean height over time (SMILE and TubeletContrast, official code).

        Returns:
            The sorted record, and the order as int64 [B, K].
        """
        order = self.size.mean(2).prod(-1).argsort(dim=1, descending=True, stable=True)

        def pick(values: Tensor) -> Tensor:
            index = order.reshape(order.shape + (1,) * (values.ndim - 2))
            return values.gather(1, index.expand(values.shape))

        names = {entry.name for entry in fields(self)} - {"keys", "interpolation"}
        return replace(self, **{name: pick(getattr(self, name)) for name in names}), order


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    noise = torch.rand(shape, generator=generator, device=generator.device, dtype=_precision(generator.device))
    return low + (high - low) * noise


def _precision(device: torch.device) -> torch.dtype:
    """Type of trajectories. They are small, so they are computed in double if supported, so that truncation matches NumPy's."""
    return torch.float32 if device.type == "mps" else torch.float64


def _integers(generator: torch.Generator, bound: Tensor | int, *shape: int) -> Tensor:
    """Integers from 0 to bound - 1, with a bound per entry, as floating-point numbers."""
    noise = _uniform(generator, 0, 1, *shape)
    return (noise * bound).floor().minimum(torch.as_tensor(bound, device=noise.device) - 1)


def draw_key_frames(count: int, frames: int, generator: torch.Generator) -> Tensor:
    """Key frames of `count` clips: the first, the last, and zero, one or two in between with probability 0.5, 0.3, 0.2.

    With k inner key frames, these are at int(i * T / (k + 1)), each shifted by an integer from -J to J - 1, where J is a third
    of the distance (SMILE and TubeletContrast, official code).

    Returns:
        float [count, 4], ascending. Unused entries repeat the last frame, which gives segments of length zero.
    """
    last = frames - 1
    share = constant(INNER_KEYS, torch.float32, generator.device)
    inner = torch.multinomial(share.expand(count, -1), 1, generator=generator)
    ticks = torch.full((count, 3, 2), float(last), device=generator.device, dtype=_precision(generator.device))
    for k in (1, 2):
        distance = frames / (k + 1)
        jitter = int(distance / 3)
        moved = _integers(generator, max(1, 2 * jitter), count, k) - jitter
        base = torch.tensor([int(distance * i) for i in range(1, k + 1)], device=generator.device)
        ticks[:, k, :k] = (base + moved).clamp(0, last)
    chosen = ticks.gather(1, inner[:, :, None].expand(-1, 1, 2))[:, 0]
    ends = chosen.new_tensor([0.0, last]).expand(count, -1)
    return torch.cat([ends, chosen], dim=1).sort(dim=1).values


def fill(values: Tensor, keys: Tensor, kinds: Tensor, frames: int) -> Tensor:
    """Interpolate values at all frames from values at key frames.

    Between keys a and b with u from 0 to 1: uniform a + (b - a) u, accelerating a + (b - a) u^2, decelerating
    b - (b - a) (1 - u)^2 (SMILE and TubeletContrast, official code).

    Args:
        values: float [B, ..., S + 1], at the key frames.
        keys: float [B, S + 1], ascending frame numbers.
        kinds: int64 [B, S], interpolation of each segment.
        frames: T.

    Returns:
        float [B, ..., T]
    """
    segment, progress = _progress(keys, frames)
    kind = kinds.gather(1, segment)
    progress = torch.where(
        kind == ACCELERATE, progress.square(), torch.where(kind == DECELERATE, 1 - (1 - progress).square(), progress)
    )
    shape = (len(keys),) + (1,) * (values.ndim - 2) + (frames,)
    index = segment.view(shape).expand(*values.shape[:-1], frames)
    start, end = values.gather(-1, index), values.gather(-1, index + 1)
    return start + (end - start) * progress.view(shape)


def _progress(keys: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Segment of each frame, int64 [B, T], and its progress within the segment, [B, T] in [0, 1]."""
    time = torch.arange(frames, device=keys.device, dtype=keys.dtype)
    segment = (time[None, :, None] > keys[:, None, 1:-1]).sum(-1)
    start, end = keys.gather(1, segment), keys.gather(1, segment + 1)
    return segment, (time - start) / (end - start).clamp_min(1)


@lru_cache
def _smoothing_matrix() -> np.ndarray:
    """Matrix of SciPy's Gaussian filter (sigma 8, border 'reflect', truncated at 4 sigma) on 48 points: float64 [48, 48]."""
    return gaussian_filter1d(np.eye(POINTS), SMOOTHING, axis=0, mode="reflect")


def _even_points(frames: int) -> np.ndarray:
    """Indices of the points of each frame, among the 48 points."""
    return np.linspace(0, POINTS - 1, frames).round()


def smooth_path(points: Tensor, extent: Tensor, offset: Tensor, side: int, frames: int, whole: bool = True) -> Tensor:
    """One coordinate of a smooth path from its draws (SMILE and TubeletContrast, official code).

    The points are smoothed, scaled to [0, extent], shifted, and clipped to the picture; T evenly spaced ones are selected.

    Args:
        points: float [..., 48], uniform draws.
        extent: float [...], extent of the path.
        offset: float [...], smallest coordinate of the path.
        side: side of the picture along this coordinate.
        frames: T.
        whole: truncate to integer pixels.

    Returns:
        float [..., T]
    """
    smooth = points @ table(_smoothing_matrix, dtype=points.dtype, device=points.device).T
    low, high = smooth.amin(-1, keepdim=True), smooth.amax(-1, keepdim=True)
    path = (smooth - low) / (high - low) * extent[..., None] + offset[..., None]
    pick = table(_even_points, frames, dtype=torch.long, device=points.device)
    path = path.clamp(0, side - 1)[..., pick]
    return path.trunc() if whole else path


def box_sizes(scale: Tensor, ratio: Tensor, jitter: Tensor, picture: tuple[int, int]) -> Tensor:
    """Width and height of objects from their draws (SMILE and TubeletContrast, official code).

    Args:
        scale: float [...], square root of the area in pixels of a 224-pixel picture.
        ratio: float [...], width over height.
        jitter: float [..., 2], logarithm of the factor on each side.
        picture: height and width in pixels; sides are limited to the picture's minus one.

    Returns:
        float [..., 2], in pixels.
    """
    sides = torch.stack([scale * ratio.sqrt(), scale / ratio.sqrt()], dim=-1) * (min(picture) / REFERENCE_SIDE)
    height, width = picture
    return (sides * jitter.exp()).minimum(constant((width - 1, height - 1), sides.dtype, sides.device)).clamp_min(1)


def ramp(steps: Tensor) -> Tensor:
    """Cumulative sum of changes between key frames, starting at 0: float [..., S] -> [..., S + 1]."""
    return torch.cat([torch.zeros_like(steps[..., :1]), steps.cumsum(-1)], dim=-1)


def linear_path(start: Tensor, steps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Centres at the key frames: each is the previous one plus a step, clipped (TubeletContrast, official code).

    Args:
        start: float [..., 2], centre at the first key frame.
        steps: float [..., 2, S].
        low: float [..., 2], smallest coordinates.
        high: float [..., 2], largest ones.

    Returns:
        float [..., 2, S + 1]
    """
    values = [start]
    for step in steps.unbind(-1):
        values.append((values[-1] + step).maximum(low).minimum(high))
    return torch.stack(values, dim=-1)


def whole_boxes(centre: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes of boxes with corners rounded to integer pixels, halves to even: [..., 2] and [..., 2]."""
    low, high = (centre - size / 2).round(), (centre + size / 2).round()
    return (low + high) / 2, high - low


def draw_segments(count: int, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Key frames [count, S + 1] and the interpolation of each segment [count, S] (0.7 / 0.15 / 0.15)."""
    keys = draw_key_frames(count, frames, generator)
    share = constant(INTERPOLATION, torch.float32, generator.device)
    kinds = torch.multinomial(share.expand(count, -1), 3, replacement=True, generator=generator)
    return keys, kinds


@dataclass
class Motion:
    """Settings of the motion of objects. The defaults are SMILE's (official code).

    Args:
        path: smooth: centres move along smooth random curves ('gaussian' in the official code); both coordinates have the same
            extent, 40 to 179 pixels of a 224-pixel picture, if that fits. linear: objects start inside the picture and move in
            straight lines between key frames, clipped so that they stay inside. static: objects stay at the start of a smooth
            path.
        scales: square roots of the objects' areas to choose from, in pixels of a 224-pixel picture.
        ratios: widths over heights to choose from.
        jitter: each side is multiplied by exp(U(-jitter, jitter)).
        velocity: linear paths move by U(-v D, v D) along each axis between key frames D frames apart, in pixels of a
            224-pixel picture.
        size_velocity: sides change between key frames by a factor exp(U(-v D, v D)); 0 keeps them.
        transformation: rotation rotates objects, shear shears them along x, y or both (one choice per clip), none disables
            both.
        rotation_velocity: angles change between key frames by U(-v D, v D) degrees.
        shear_velocity: both shear factors change between key frames by U(-v D, v D).
        opacity: smallest and largest opacity; drawn at key frames of every object, with linear interpolation.
        whole_pixels: truncate centres, round boxes and truncate angles to integers, as in the official code; false keeps
            subpixel motion.
    """

    path: Path = "smooth"
    scales: tuple[float, ...] = (32, 48, 56, 64, 96, 128)
    ratios: tuple[float, ...] = (0.5, 0.67, 0.75, 1, 1.33, 1.5, 2)
    jitter: float = 0.18
    velocity: float = 12.0
    size_velocity: float = 0.025
    transformation: Transformation = "rotation"
    rotation_velocity: float = 6.0
    shear_velocity: float = 0.066
    opacity: tuple[float, float] = (1.0, 1.0)
    whole_pixels: bool = True

    def __post_init__(self) -> None:
        for name in ("scales", "ratios"):
            values = getattr(self, name)
            if not values or not all(0 < value < math.inf for value in values):
                raise SettingError(f"{type(self).__name__}.{name} is {values}; it needs at least one number, all above 0.")

    def draw(self, count: int, objects: int, frames: int, picture: tuple[int, int], generator: torch.Generator) -> MotionRecord:
        """Draw the motion of a batch.

        Args:
            count: clips B.
            objects: objects per clip K.
            frames: T.
            picture: height and width in pixels.
            generator: source of randomness; all tensors are made on its device.
        """
        start = self._sizes(count * objects, picture, generator).view(count, objects, 2)
        centre, keys, kinds = self.centres(start, frames, picture, generator)
        size = self._grow(start, frames, generator)
        angle, shear = torch.zeros_like(centre[..., 0]), torch.zeros_like(centre)
        if self.transformation == "rotation":
            angle = self._ramp(count, objects, frames, self.rotation_velocity, generator)
        elif self.transformation == "shear":
            shear = self._shear(count, objects, frames, generator)
        if self.whole_pixels:
            (centre, size), angle = whole_boxes(centre, size), angle.trunc()
        opacity = self._opacity(count, objects, frames, generator)
        segment, _ = _progress(keys, frames)
        time = torch.arange(frames, device=keys.device)
        return MotionRecord(
            centre.float(),
            size.float(),
            angle.float(),
            shear.float(),
            opacity.float(),
            (time[None, :, None] == keys[:, None]).any(-1),
            kinds.gather(1, segment).to(torch.int8),
        )

    def centres(
        self, size: Tensor, frames: int, picture: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Paths of the centres.

        Args:
            size: float [B, K, 2], width and height in the first frame.
            frames: T.
            picture: height and width in pixels.
            generator: source of randomness.

        Returns:
            centre [B, K, T, 2], key frames [B, S + 1], interpolation [B, S].
        """
        if self.path == "linear":
            return self._linear(size, frames, picture, generator)
        centre, keys, kinds = self._smooth(size, frames, picture, generator)
        return (centre[:, :, :1].expand_as(centre) if self.path == "static" else centre), keys, kinds

    def _smooth(
        self, size: Tensor, frames: int, picture: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, objects = size.shape[:2]
        shorter = min(picture)
        low, high = (round(bound * shorter / REFERENCE_SIDE) for bound in EXTENT)
        extent = low + _integers(generator, high - low, count, objects)
        axes = []
        for axis, side in enumerate((picture[1], picture[0])):
            half = size[..., axis, None] / 2
            points = 1 + half + (side - 2 - 2 * half) * _uniform(generator, 0, 1, count, objects, POINTS)
            offset = _integers(generator, (side - extent).clamp_min(1), count, objects)
            axes.append(smooth_path(points, extent, offset, side, frames, self.whole_pixels))
        keys = constant((0, *[frames - 1] * 3), size.dtype, size.device).expand(count, -1)
        return torch.stack(axes, dim=-1), keys, torch.zeros(count, 3, dtype=torch.long, device=size.device)

    def _linear(
        self, size: Tensor, frames: int, picture: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, objects = size.shape[:2]
        keys, kinds = draw_segments(count, frames, generator)
        height, width = picture
        room = constant((width, height), size.dtype, size.device) - size
        start = size / 2 + room * _uniform(generator, 0, 1, count, objects, 2)
        velocity = self.velocity * min(picture) / REFERENCE_SIDE
        steps = _uniform(generator, -1, 1, 3, count, objects, 2).movedim(0, -1) * velocity * keys.diff(dim=1)[:, None, None]
        path = linear_path(start, steps, size / 2, size / 2 + room)
        return fill(path, keys, kinds, frames).transpose(-1, -2), keys, kinds

    def _sizes(self, count: int, picture: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Width and height of objects, [count, 2] in pixels."""
        scale, ratio = (
            constant(tuple(choices), _precision(generator.device), generator.device)[
                torch.randint(len(choices), (count,), generator=generator, device=generator.device)
            ]
            for choices in (self.scales, self.ratios)
        )
        return box_sizes(scale, ratio, _uniform(generator, -self.jitter, self.jitter, count, 2), picture)

    def _grow(self, start: Tensor, frames: int, generator: torch.Generator) -> Tensor:
        """Sizes over time: [B, K, 2] -> [B, K, T, 2]."""
        count, objects = start.shape[:2]
        keys, kinds = draw_segments(count, frames, generator)
        steps = _uniform(generator, -1, 1, count, objects, 2, 3) * self.size_velocity * keys.diff(dim=1)[:, None, None]
        return fill(start[..., None] * ramp(steps).exp(), keys, kinds, frames).transpose(-1, -2)

    @staticmethod
    def _ramp(count: int, objects: int, frames: int, velocity: float, generator: torch.Generator) -> Tensor:
        """A quantity that starts at 0 and changes by U(-velocity D, velocity D) between key frames: [B, K, T]."""
        keys, kinds = draw_segments(count, frames, generator)
        steps = _uniform(generator, -1, 1, count, objects, 3) * velocity * keys.diff(dim=1)[:, None]
        return fill(ramp(steps), keys, kinds, frames)

    def _shear(self, count: int, objects: int, frames: int, generator: torch.Generator) -> Tensor:
        """Shear factors along x, y or both: [B, K, T, 2]."""
        factors = [self._ramp(count, objects, frames, self.shear_velocity, generator) for _ in range(2)]
        axis = torch.randint(3, (count, 1, 1), generator=generator, device=generator.device)
        return torch.stack([factors[0] * (axis != 1), factors[1] * (axis != 0)], dim=-1)

    def _opacity(self, count: int, objects: int, frames: int, generator: torch.Generator) -> Tensor:
        """Opacities over time: [B, K, T]."""
        low, high = self.opacity
        if low == high:
            return torch.full((count, objects, frames), low, device=generator.device)
        keys = draw_key_frames(count * objects, frames, generator)
        values = _uniform(generator, low, high, count * objects, keys.shape[1])
        even = torch.full_like(keys[:, 1:], UNIFORM, dtype=torch.long)
        return fill(values, keys, even, frames).view(count, objects, frames)

"""Crops of the views of a video: one class per rule, selected by `data.clip.crop`.

One box per clip, the same for all its frames. Boxes are (x, y, width, height) in pixels of the decoded frame.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from modules.core.errors import SettingError, check_positive, check_range

OWNER = "data.clip.crop"

# VideoMAE, official code: crop sizes as fractions of the shorter side, the largest difference of width and height in steps of
# that list, and the tolerance in pixels within which a crop side is replaced by the output size.
MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
MAX_DISTORTION = 1
SNAP_PIXELS = 2
# Corners, centre, side centres and quarter points, in quarters of the free space (x, y).
OFFSETS = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)
# TubeletContrast, official code: longer side of the stretched frame by its shorter side, for squares of 112 pixels.
STRETCHES = {112: 149, 128: 171, 144: 192}
STRETCH_REFERENCE = 112


class Box(NamedTuple):
    """A rectangle inside a frame, in pixels."""

    x: int
    y: int
    width: int
    height: int


def _check_share(centre: float) -> None:
    check_positive(OWNER, centre=centre)
    check_range(OWNER, 0, 1, centre=centre)


def _check_range(name: str, bounds: tuple[float, float], highest: float) -> None:
    low, high = bounds
    if not 0 < low <= high <= highest:
        limit = "above 0" if highest == math.inf else f"above 0 and at most {highest:g}"
        raise SettingError(f"{OWNER}.{name} is {list(bounds)}; it must be two numbers {limit}, the smaller first.")


class Crop(ABC):
    """Chooses the boxes of all views of a video at once: each view has its own box, unless the rule relates them."""

    centre: float
    """Side of the centred squares of evaluation and test, as a fraction of the frame's shorter side."""
    related: ClassVar[bool] = False
    """Whether the boxes of a video's clips are related."""

    def check(self, clips: int, repeat: int) -> None:  # noqa: B027  (most rules serve any)
        """Refuse numbers of clips and copies that the rule does not support.

        Raises:
            SettingError: if a number is not supported; the message names the setting to change.
        """

    @abstractmethod
    def draw(self, width: int, height: int, size: int, rng: np.random.Generator) -> Box:
        """The box of one view in training.

        Args:
            width: Width of the frame in pixels.
            height: Height of the frame in pixels.
            size: Side of the clip after resizing.
            rng: Source of randomness.
        """

    def boxes(self, width: int, height: int, size: int, clips: int, repeat: int, rng: np.random.Generator) -> list[Box]:
        """The boxes of all views in training; see `draw`.

        Args:
            width: Width of the frame in pixels.
            height: Height of the frame in pixels.
            size: Side of the clips after resizing.
            clips: Clips of the video.
            repeat: Views of each clip.
            rng: Source of randomness; each view draws from it in turn.

        Returns:
            clips * repeat boxes, with those of the same clip next to each other.
        """
        return [self.draw(width, height, size, rng) for _ in range(clips * repeat)]


@dataclass(frozen=True)
class MultiScale(Crop):
    """The multi-scale crop of VideoMAE pretraining; see `multi_scale_box`.

    Args:
        centre: Side of the centred squares of evaluation, as a fraction of the frame's shorter side.
    """

    centre: float = 1.0

    def __post_init__(self) -> None:
        _check_share(self.centre)

    def draw(self, width: int, height: int, size: int, rng: np.random.Generator) -> Box:
        """See `Crop.draw`."""
        return multi_scale_box(width, height, size, rng)


@dataclass(frozen=True)
class RandomResized(Crop):
    """Random area and aspect ratio; see `random_resized_box`.

    Args:
        scale: Smallest and largest area, as a fraction of the frame.
        ratio: Smallest and largest aspect ratio, width / height.
        centre: Side of the centred squares of evaluation, as a fraction of the frame's shorter side (SEVERE 0.875).
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    centre: float = 1.0

    def __post_init__(self) -> None:
        _check_share(self.centre)
        _check_range("scale", self.scale, highest=1.0)
        _check_range("ratio", self.ratio, highest=math.inf)

    def draw(self, width: int, height: int, size: int, rng: np.random.Generator) -> Box:
        """See `Crop.draw`."""
        return random_resized_box(width, height, self.scale, self.ratio, rng)


@dataclass(frozen=True)
class Stretched(Crop):
    """A square of the frame stretched to 4:3 (TubeletContrast, VCOP); see `stretched_box`.

    Args:
        centre: Side of the centred squares of evaluation, as a fraction of the frame's shorter side.
        heights: Shorter sides of the stretched frame for squares of 112 pixels, equally likely: of 112, 128 and 144
            (TubeletContrast: all; VCOP: 128).
    """

    centre: float = 1.0
    heights: tuple[int, ...] = tuple(STRETCHES)

    def __post_init__(self) -> None:
        _check_share(self.centre)
        # YAML has lists.
        object.__setattr__(self, "heights", tuple(self.heights))
        if not self.heights or not set(self.heights) <= STRETCHES.keys():
            raise SettingError(f"{OWNER}.heights is {list(self.heights)}; choose from {', '.join(map(str, STRETCHES))}.")

    def draw(self, width: int, height: int, size: int, rng: np.random.Generator) -> Box:
        """See `Crop.draw`."""
        return stretched_box(width, height, size, rng, self.heights)


@dataclass(frozen=True)
class Square(Crop):
    """A square of random side, anywhere (SlowFast); see `square_box`.

    Args:
        scale: Smallest and largest side, as a fraction of the frame's shorter side.
        centre: Side of the centred squares of evaluation, as a fraction of the frame's shorter side.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    centre: float = 1.0

    def __post_init__(self) -> None:
        _check_share(self.centre)
        _check_range("scale", self.scale, highest=1.0)

    def draw(self, width: int, height: int, size: int, rng: np.random.Generator) -> Box:
        """See `Crop.draw`."""
        return square_box(width, height, self.scale, rng)


@dataclass(frozen=True)
class Centre(Crop):
    """The centred square, also in training.

    Args:
        centre: Its side, as a fraction of the frame's shorter side.
    """

    centre: float = 1.0

    def __post_init__(self) -> None:
        _check_share(self.centre)

    def draw(self, width: int, height: int, size: int, rng: np.random.Generator) -> Box:
        """See `Crop.draw`; nothing is random."""
        return centre_box(width, height, self.centre)


@dataclass(frozen=True)
class Shared(Crop):
    """All clips of a video have the same box, so that positions correspond (SiamMAE).

    Copies of a clip still differ: the first copies of all clips share one box, the second ones another.

    Args:
        crop: How the shared boxes are drawn.
    """

    crop: Crop = RandomResized(scale=(0.5, 1.0))
    related: ClassVar[bool] = True

    @property
    def centre(self) -> float:  # type: ignore[override]
        """The centre of `crop`."""
        return self.crop.centre

    def check(self, clips: int, repeat: int) -> None:
        """See `Crop.check`."""
        if clips < 2:
            raise SettingError(
                f"data.clip.clips is {clips}, but Shared joins the boxes of several clips; set it to 2 or more, or use another "
                "data.clip.crop."
            )
        self.crop.check(1, repeat)

    def draw(self, width: int, height: int, size: int, rng: np.random.Generator) -> Box:
        """See `Crop.draw`."""
        return self.crop.draw(width, height, size, rng)

    def boxes(self, width: int, height: int, size: int, clips: int, repeat: int, rng: np.random.Generator) -> list[Box]:
        """See `Crop.boxes`."""
        return self.crop.boxes(width, height, size, 1, repeat, rng) * clips


@dataclass(frozen=True)
class Nested(Crop):
    """The first view is a crop, and each other view is a crop of the first one (CropMAE's `GlobalToLocal`).

    Args:
        outer: How the box of the first view is drawn.
        inner: How a part of the first view is drawn. The part is cut out of the decoded frame, to whole pixels, and not out of
            the resized first view, so that nothing is resized twice.
    """

    outer: Crop = RandomResized(scale=(0.5, 1.0))
    inner: Crop = RandomResized(scale=(0.3, 0.6))
    related: ClassVar[bool] = True

    @property
    def centre(self) -> float:  # type: ignore[override]
        """The centre of `outer`."""
        return self.outer.centre

    def check(self, clips: int, repeat: int) -> None:
        """See `Crop.check`."""
        if clips * repeat < 2:
            raise SettingError(
                "data.clip.clips and data.clip.repeat are 1, but Nested needs two views of each video; set data.clip.repeat to "
                "2."
            )

    def draw(self, width: int, height: int, size: int, rng: np.random.Generator) -> Box:
        """See `Crop.draw`; the box of the first view."""
        return self.outer.draw(width, height, size, rng)

    def boxes(self, width: int, height: int, size: int, clips: int, repeat: int, rng: np.random.Generator) -> list[Box]:
        """See `Crop.boxes`."""
        first = self.outer.draw(width, height, size, rng)
        parts = [self.inner.draw(size, size, size, rng) for _ in range(clips * repeat - 1)]
        return [first, *(box_within(first, part, size, size) for part in parts)]


# --- Rules ---


def multi_scale_box(width: int, height: int, size: int, rng: np.random.Generator) -> Box:
    """The multi-scale crop of VideoMAE pretraining (official code; from TSN): 10 shapes and 13 positions, equally likely.

    If the frame is up to two pixels smaller than `size`, the official crop extends beyond it; here the crop ends
    at its border.

    Args:
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.
        size: Side after resizing; a crop side within two pixels of it is set to it, so that nothing is resampled.
        rng: Source of randomness for shape and position.
    """
    sides = [max(1, int(min(width, height) * scale)) for scale in MULTI_SCALES]
    sides = [size if abs(side - size) <= SNAP_PIXELS else side for side in sides]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= MAX_DISTORTION]
    crop_width, crop_height = pairs[rng.integers(len(pairs))]
    crop_width, crop_height = min(crop_width, width), min(crop_height, height)
    across, down = OFFSETS[rng.integers(len(OFFSETS))]
    return Box(across * ((width - crop_width) // 4), down * ((height - crop_height) // 4), crop_width, crop_height)


def random_resized_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box of random area and log-uniform aspect ratio: the rule of torchvision's `RandomResizedCrop.get_params`.

    After ten boxes that do not fit, the largest centred box with a valid ratio is used.

    Args:
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.
        scale: Smallest and largest fraction of the frame's area.
        ratio: Smallest and largest width / height.
        rng: Source of randomness for area, ratio and position.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            y = int(rng.integers(height - crop_height + 1))
            x = int(rng.integers(width - crop_width + 1))
            return Box(x, y, crop_width, crop_height)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    crop_width = min(width, max(1, round(height * aspect)))
    crop_height = min(height, max(1, round(width / aspect)))
    return Box((width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height)


def stretched_box(
    width: int, height: int, size: int, rng: np.random.Generator, heights: tuple[int, ...] = tuple(STRETCHES)
) -> Box:
    """The square crop of TubeletContrast (official code): the frame is stretched to one of several 4:3 sizes, independently of
    its own shape, and a square of `size` is cut out at a random position.

    Here the part of the frame that becomes the square is cut out first, to whole pixels, and then resized.

    Args:
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.
        size: Side of the square.
        rng: Source of randomness for size and position.
        heights: See `Stretched`.
    """
    reference = heights[rng.integers(len(heights))]
    long, short = (round(side * size / STRETCH_REFERENCE) for side in (STRETCHES[reference], reference))
    across, down = (long, short) if width >= height else (short, long)
    x, y = int(rng.integers(across - size + 1)), int(rng.integers(down - size + 1))
    left, top = round(x * width / across), round(y * height / down)
    right, bottom = round((x + size) * width / across), round((y + size) * height / down)
    return Box(left, top, max(1, right - left), max(1, bottom - top))


def square_box(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """A square at a random position, whose side is a uniform fraction of the shorter side. It shows the same part of the frame
    as 'resize so that the inverse of the shorter side is uniform, then cut a square of a fixed size' (SlowFast, official code).

    Args:
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.
        scale: Smallest and largest fraction.
        rng: Source of randomness for side and position.
    """
    side = max(1, round(min(width, height) * rng.uniform(*scale)))
    x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    return Box(x, y, side, side)


def centre_box(width: int, height: int, share: float = 1.0) -> Box:
    """The centred square whose side is a fraction of the shorter side.

    Resized to `size`, it equals 'resize the shorter side, then crop the centre' except for a shift of less than a pixel, which
    is due to rounding in that order. It never creates a huge image from a long, narrow one.
    """
    side = max(1, round(min(width, height) * share))
    return Box((width - side) // 2, (height - side) // 2, side, side)


def view_boxes(width: int, height: int, crops: int, share: float = 1.0) -> list[Box]:
    """Centred squares moved along the longer side, from one end to the other: the crops of VideoMAE's test (official code).

    Args:
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.
        crops: Number of crops; a single one equals `centre_box`.
        share: Side of a square as a fraction of the shorter side.
    """
    centre = centre_box(width, height, share)
    if crops == 1:
        return [centre]
    room = max(width, height) - centre.width
    places = [int(crop * room / (crops - 1)) for crop in range(crops)]
    return [centre._replace(x=place) if width >= height else centre._replace(y=place) for place in places]


def box_within(outer: Box, part: Box, width: int, height: int) -> Box:
    """The box in the frame of a part of another, resized box, rounded to whole pixels.

    Args:
        outer: The other box.
        part: Part of it, in pixels after resizing.
        width: Width of the other box after resizing.
        height: Height of the other box after resizing.
    """
    left, top = round(part.x * outer.width / width), round(part.y * outer.height / height)
    right = round((part.x + part.width) * outer.width / width)
    bottom = round((part.y + part.height) * outer.height / height)
    left, top = min(left, outer.width - 1), min(top, outer.height - 1)
    return Box(outer.x + left, outer.y + top, max(1, right - left), max(1, bottom - top))

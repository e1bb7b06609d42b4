"""Crop and resize the decoded frames of one video into square uint8 clips.

One draw per clip, the same for all its frames. Nothing else happens in a loader worker: normalisation, flips and
colours run on the device. Boxes are (x, y, width, height) in pixels of the decoded frame.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.video.decode import DecodedClips
from datamodules.video.sampling import ClipSettings

# VideoMAE, official code: crop sizes as shares of the shorter side, by how many steps of that list width and height of
# a crop may differ, and how near a size must be to the wanted one to be replaced by it.
MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
MAX_DISTORTION = 1
SNAP_PIXELS = 2
# Corners, centre, side centres and quarter points, in quarters of the room to move (x, y).
OFFSETS = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)
# TubeletContrast, official code: longer and shorter side of the stretched picture, for squares of 112 pixels.
STRETCHES = ((149, 112), (171, 128), (192, 144))
STRETCH_REFERENCE = 112


class Box(NamedTuple):
    """A rectangle inside a frame, in pixels."""

    x: int
    y: int
    width: int
    height: int


def multi_scale_box(width: int, height: int, size: int, rng: np.random.Generator) -> Box:
    """The multi-scale crop of VideoMAE pretraining (official code; from TSN): 10 shapes and 13 places, equally likely.

    Where the picture is up to two pixels smaller than `size`, the official code reads outside it; here the crop ends
    at its border.

    Args:
        width: Of the frame.
        height: Of the frame.
        size: Side after resizing; a crop side within two pixels of it becomes it, so that nothing is resampled.
        rng: Draws shape and place.
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

    After ten boxes that do not fit, the largest centred one whose ratio is in bounds.

    Args:
        width: Of the frame.
        height: Of the frame.
        scale: Smallest and largest share of the frame's area.
        ratio: Smallest and largest width / height.
        rng: Draws area, ratio and place.
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


def stretched_box(width: int, height: int, size: int, rng: np.random.Generator) -> Box:
    """The square crop of TubeletContrast (official code): the picture is stretched to one of three 4:3 sizes, whatever its
    own shape, and a square of `size` is cut out anywhere.

    Here the part of the picture that becomes the square is cut out first, to whole pixels, and then resized.

    Args:
        width: Of the frame.
        height: Of the frame.
        size: Side of the square.
        rng: Draws the size and the place.
    """
    long, short = (round(side * size / STRETCH_REFERENCE) for side in STRETCHES[rng.integers(len(STRETCHES))])
    across, down = (long, short) if width >= height else (short, long)
    x, y = int(rng.integers(across - size + 1)), int(rng.integers(down - size + 1))
    left, top = round(x * width / across), round(y * height / down)
    right, bottom = round((x + size) * width / across), round((y + size) * height / down)
    return Box(left, top, max(1, right - left), max(1, bottom - top))


def square_box(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """A square anywhere, its side a uniform share of the shorter side: what 'resize so that the inverse of the shorter side is
    uniform, then cut a square of a fixed size anywhere' (SlowFast, official code) shows of the picture.

    Args:
        width: Of the frame.
        height: Of the frame.
        scale: Smallest and largest share.
        rng: Draws side and place.
    """
    side = max(1, round(min(width, height) * rng.uniform(*scale)))
    x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    return Box(x, y, side, side)


def centre_box(width: int, height: int, share: float = 1.0) -> Box:
    """The centred square over a share of the shorter side.

    Resized to `size`, it is what 'resize the shorter side, then crop the centre' gives but for a shift of less than a
    pixel, which that order owes to rounding; and it never makes a huge picture of a long narrow one.
    """
    side = max(1, round(min(width, height) * share))
    return Box((width - side) // 2, (height - side) // 2, side, side)


def view_boxes(width: int, height: int, crops: int, share: float = 1.0) -> list[Box]:
    """Centred squares moved along the longer side, from one end to the other: the crops of VideoMAE's test (official code).

    Args:
        width: Of the frame.
        height: Of the frame.
        crops: How many; a single one is that of `centre_box`.
        share: Side of a square as a share of the shorter side.
    """
    centre = centre_box(width, height, share)
    if crops == 1:
        return [centre]
    room = max(width, height) - centre.width
    places = [int(crop * room / (crops - 1)) for crop in range(crops)]
    return [centre._replace(x=place) if width >= height else centre._replace(y=place) for place in places]


def draw_box(settings: ClipSettings, width: int, height: int, rng: np.random.Generator | None) -> Box:
    """The box of one clip: `settings.crop` with a generator, the centre without."""
    if rng is None or settings.crop == "centre":
        return centre_box(width, height, settings.centre)
    if settings.crop == "multi_scale":
        return multi_scale_box(width, height, settings.size, rng)
    if settings.crop == "stretched":
        return stretched_box(width, height, settings.size, rng)
    if settings.crop == "square":
        return square_box(width, height, settings.scale, rng)
    return random_resized_box(width, height, settings.scale, settings.ratio, rng)


def crop_and_resize(frames: list[np.ndarray], box: Box, size: int | tuple[int, int]) -> Tensor:
    """Cut one box out of every frame and resize it bilinearly, with antialiasing where it shrinks, as PIL does.

    Args:
        frames: T arrays uint8 [h, w, 3].
        box: Inside all of them.
        size: Side of the result, or its height and width.

    Returns:
        uint8 [T, size, size, 3], contiguous.
    """
    x, y, width, height = box
    sides = (size, size) if isinstance(size, int) else size
    clip = torch.from_numpy(np.stack([frame[y : y + height, x : x + width] for frame in frames]))
    if (height, width) == sides:
        return clip
    # Viewed as [T, 3, h, w] the memory is channels-last, for which torch has a vectorised uint8 kernel.
    resized = interpolate(clip.permute(0, 3, 1, 2), size=sides, mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous()


def make_clips(
    decoded: DecodedClips, settings: ClipSettings, rng: np.random.Generator | None, crops: int | None = None
) -> Tensor:
    """Every view of one video: each clip cropped `settings.repeat` times, independently, or in `crops` places.

    Args:
        decoded: Frames and which of them each clip has.
        settings: Size, crop and number of repeats.
        rng: Draws the crops, one per view; `None` takes the centre, for evaluation.
        crops: Takes those of `view_boxes` instead, for tests.

    Returns:
        uint8 [V, T, size, size, 3] with V = clips * repeat, or clips * crops; the crops of one clip are neighbours.
    """
    height, width = decoded.frames[0].shape[:2]
    views = []
    for positions in decoded.position:
        # A short video repeats frames: each is resized once.
        unique, place = np.unique(positions, return_inverse=True)
        frames = [decoded.frames[position] for position in unique]
        repeated = torch.from_numpy(place) if len(unique) < len(positions) else None
        if crops is not None:
            boxes = view_boxes(width, height, crops, settings.centre)
        else:
            boxes = [draw_box(settings, width, height, rng) for _ in range(settings.repeat)]
        for box in boxes:
            view = crop_and_resize(frames, box, settings.size)
            views.append(view if repeated is None else view[repeated])
    return torch.stack(views) if len(views) > 1 else views[0][None]

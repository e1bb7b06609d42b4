"""Tubelets: patches cut from one clip, pasted with the same motion into two clips (TubeletContrast,
https://arxiv.org/abs/2303.11003).

`draw_tubelets` draws all random numbers, `cut_patches` makes the patches, `paste_tubelets` pastes them into both clips of a
pair, batched on the device. A patch is the content of the query clip in the tubelet's box in its source frame. It is not copied
but sampled through this window, so that one interpolation applies position, size, angle and shear, and a tubelet without
rotation and shear is invisible in its source frame.

Boxes are clipped at the border of the picture, and the patch is squeezed into the remaining box, as in the official code. There
are some deviations from the official code:

* A rotated or sheared patch that exceeds the left or upper border is cut; the official code shifts it inwards.
* A patch has the centre of its box; in the official code, rounding of the canvases shifts it by up to a pixel.
* The rim is the patch itself, fading out; the official code also mixes the rim with black.
* Colours and masks are interpolated once and together; the official code does this separately, and once for each of resizing,
  both shears and rotation.

If tubelets are inside the picture, pasted frames differ from the official ones by 0.03 grey levels on average without rotation
and shear, 0.2 with rotation and 1.0 with shear; around the official centres, the latter are 0.07 and 0.14. With the shift at
the border, the differences are 0.03, 0.4 and 2.9 (tests/parity/test_tubelet_contrast.py).

Axis letters: `B` pairs, `K` tubelets, `T` frames.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from modules.core.device import constant
from modules.core.errors import SettingError
from modules.motion.render import paste
from modules.motion.trajectory import Motion, MotionRecord

RECTANGLE, ELLIPSE, RHOMBUS = 0, 1, 2
CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))
HARD = 0.5
# Distance from the centre at which soft edges begin; the outline is at 0.5.
SOFT = (0.30, 0.45)


@dataclass
class TubeletSettings(Motion):
    """Number, appearance and motion of tubelets. The defaults are those of TubeletContrast (official code).

    The official base sizes are 16 to 64 at 112 pixels and 32 to 128 at 224, which is the same setting here.

    Args:
        path: smooth: centres move along smooth random curves ('non-linear' in the paper). linear: they move in straight lines
            between key frames. static: they stay at the start of a smooth path.
        scales: square roots of the boxes' areas to choose from, in pixels of a 224-pixel picture.
        ratios: widths over heights to choose from.
        jitter: each side is multiplied by exp(U(-jitter, jitter)).
        velocity: linear paths move by U(-v D, v D) along each axis between key frames D frames apart, in pixels of a
            224-pixel picture. The official value is 5 pixels for any picture: this is 10 here at 112, and 5 at 224.
        size_velocity: sides change between key frames by a factor exp(U(-v D, v D)); with the default, they hardly change.
            0.025 together with `transformation: none` is the paper's scaling.
        transformation: rotation rotates tubelets, shear shears them along x, y or both (one choice per pair), none disables
            both.
        rotation_velocity: angles change between key frames by U(-v D, v D) degrees.
        shear_velocity: both shear factors change between key frames by U(-v D, v D).
        opacity: smallest and largest opacity; drawn at key frames of every tubelet, with linear interpolation.
        whole_pixels: round to integer pixels and degrees, as in the official code; false keeps subpixel motion.
        count: tubelets per pair.
        shapes: relative frequencies of rectangles, ellipses and rhombi as masks.
        soft_edges: fraction of masks with a soft edge.
        visible: fraction of frames that show a tubelet; the first and the source frame always show it.
    """

    velocity: float = 10.0
    size_velocity: float = 0.0001
    opacity: tuple[float, float] = (0.8, 1.0)
    count: int = 2
    shapes: tuple[float, float, float] = (0.5, 0.35, 0.15)
    soft_edges: float = 0.5
    visible: float = 1.0

    def check(self) -> None:
        """Raise a SettingError for invalid values."""
        if self.count < 1:
            raise SettingError(f"model.tubelets.count is {self.count}; set it to at least 1 tubelet per pair.")
        if min(self.shapes) < 0 or sum(self.shapes) <= 0:
            raise SettingError(f"model.tubelets.shapes {self.shapes} must not be negative, nor all of them zero.")
        if not 0 <= self.opacity[0] <= self.opacity[1] <= 1:
            raise SettingError(f"model.tubelets.opacity {self.opacity} must ascend from 0 or more to 1 or less.")
        for name in ("soft_edges", "visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"model.tubelets.{name} is {getattr(self, name)}; it is a fraction, from 0 to 1.")


@dataclass
class TubeletRecord(MotionRecord):
    """Complete description of the tubelets of a batch of pairs.

    Args:
        centre: see `MotionRecord`; boxes are clipped to the picture, so this is the centre of the remaining box.
        size: see `MotionRecord`.
        angle: see `MotionRecord`.
        shear: see `MotionRecord`.
        opacity: see `MotionRecord`; 0 in frames that do not show the tubelet.
        keys: see `MotionRecord`.
        interpolation: see `MotionRecord`.
        source: int64 [B, K], index of the query clip's frame that the patch is cut from.
        shape: int64 [B, K], 0 rectangle, 1 ellipse, 2 rhombus.
        edge: float [B, K], start of the soft edge (tau in the official code); 0.5 for a hard edge.
    """

    source: Tensor
    shape: Tensor
    edge: Tensor

    def corners(self) -> Tensor:
        """Corners of the pasted patch, clockwise from its upper left: x and y in pixels, float [B, K, T, 4, 2].

        In frames that do not show the tubelet, all four are the centre.
        """
        size = self.size * (self.opacity > 0)[..., None]
        x, y = (size[..., None, :] / 2 * constant(CORNERS, size.dtype, size.device)).unbind(-1)
        # Sheared along x, then along y, then rotated, as in `paste`.
        x = x + self.shear[..., :1] * y
        y = y + self.shear[..., 1:] * x
        cos, sin = self.angle.deg2rad()[..., None].cos(), self.angle.deg2rad()[..., None].sin()
        return self.centre[..., None, :] + torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)

    def windows(self) -> Tensor:
        """Boxes in the source frames, x1 y1 x2 y2 in pixels: float [B, K, 4]."""
        boxes = self.boxes()
        return boxes.gather(2, self.source[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]


def clip_boxes(motion: MotionRecord, picture: tuple[int, int]) -> MotionRecord:
    """Clip boxes at the border of the picture (height, width), as in the official code."""
    height, width = picture
    low, high = (
        motion.boxes()
        .clamp_min(0)
        .minimum(constant((width, height) * 2, motion.size.dtype, motion.size.device))
        .split(2, dim=-1)
    )
    return replace(motion, centre=(low + high) / 2, size=high - low)


def draw_tubelets(
    settings: TubeletSettings, count: int, frames: int, picture: tuple[int, int], generator: torch.Generator
) -> TubeletRecord:
    """Draw the tubelets of a batch of pairs.

    Args:
        settings: settings of the tubelets.
        count: pairs B.
        frames: T.
        picture: height and width in pixels.
        generator: source of randomness; all tensors are made on its device.

    Returns:
        Record of K tubelets per pair, the largest first.
    """
    shape = (count, settings.count)
    motion = clip_boxes(settings.draw(*shape, frames, picture, generator), picture)

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=generator.device)

    source = torch.randint(frames, shape, generator=generator, device=generator.device)
    shares = constant(settings.shapes, torch.float32, generator.device)
    shapes = torch.multinomial(shares.expand(count, -1), settings.count, replacement=True, generator=generator)
    low, high = SOFT
    edge = torch.where(uniform(*shape) < settings.soft_edges, low + (high - low) * uniform(*shape), HARD)
    time = torch.arange(frames, device=generator.device)
    shown = (uniform(*shape, frames) <= settings.visible) | (time == 0) | (time == source[..., None])
    parts = {entry.name: getattr(motion, entry.name) for entry in fields(motion)}
    parts["opacity"] = motion.opacity * shown
    return TubeletRecord(**parts, source=source, shape=shapes, edge=edge).sorted_by_area()[0]


def mask_alpha(dx: Tensor, dy: Tensor, shape: Tensor, edge: Tensor) -> Tensor:
    """Opacity of a mask by distance from its centre (TubeletContrast, official code).

    Args:
        dx: float, horizontal distance as a fraction of the box's width.
        dy: float, vertical distance as a fraction of the box's height.
        shape: int64, 0 rectangle, 1 ellipse, 2 rhombus.
        edge: float, start of the soft edge; 0.5 for a hard edge. All four broadcast.

    Returns:
        float from 0 to 1: 1 within `edge`, falling evenly to 0 at 0.5; a hard rectangle is 1 everywhere.
    """
    distance = torch.where(shape == RECTANGLE, dx.maximum(dy), torch.where(shape == ELLIPSE, dx.hypot(dy), dx + dy))
    soft = ((HARD - distance) / (HARD - edge).clamp_min(1e-6)).clamp(0, 1)
    hard = ((distance < HARD) | (shape == RECTANGLE)).to(soft.dtype)
    return torch.where(edge < HARD, soft, hard)


def cut_patches(clip: Tensor, record: TubeletRecord) -> Tensor:
    """Source frames with the tubelets' masks as alpha; the patches are their parts within `record.windows()`.

    Args:
        clip: query clip, uint8 [B, T, H, W, 3].
        record: tubelets.

    Returns:
        float [B, K, H, W, 4] with values 0..255 and premultiplied alpha.
    """
    height, width = clip.shape[2:4]
    rows = torch.arange(len(clip), device=clip.device)[:, None]
    windows = record.windows()
    low, size = windows[..., :2], windows[..., 2:] - windows[..., :2]
    # Masks with an even number of pixels are shifted to the upper left by half a pixel, as in the official code.
    middle = low + ((size - 1) / 2).floor()
    x, y = (torch.arange(extent, device=clip.device) for extent in (width, height))
    dx = (x - middle[..., :1]).abs() / size[..., :1]
    dy = (y - middle[..., 1:]).abs() / size[..., 1:]
    shape, edge = record.shape[..., None, None], record.edge[..., None, None]
    alpha = mask_alpha(dx[..., None, :], dy[..., :, None], shape, edge)[..., None]
    return torch.cat([clip[rows, record.source] * alpha, alpha * 255], dim=-1)


def paste_tubelets(query: Tensor, key: Tensor, record: TubeletRecord) -> tuple[Tensor, Tensor]:
    """Cut patches from the query clip and paste them into both clips, with the same motion.

    Args:
        query: uint8 [B, T, H, W, 3].
        key: uint8 of the same shape, from another video.
        record: tubelets, from bottom to top.

    Returns:
        Both clips with tubelets, uint8 of the same shape. Pixels that no tubelet touches keep their value.
    """
    # Both clips are processed together, so that every patch is sampled once.
    both = paste(torch.cat([query, key], dim=-1), record, cut_patches(query, record), windows=record.windows())
    first, second = both.split(3, dim=-1)
    return first.contiguous(), second.contiguous()

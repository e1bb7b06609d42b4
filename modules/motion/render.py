"""Rendering of moving objects into clips: one affine sampling per object for all frames of all clips.

The official SMILE and TubeletContrast code pastes with PIL and OpenCV, object by object and frame by frame in the
loader's workers. Here, the position on the object is computed for every output pixel, on the device and for the complete batch.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.core.device import to_device
from modules.motion.trajectory import MotionRecord

# Number of pixels times objects per chunk. It limits the float32 working memory (40 to 52 bytes for each) and keeps it in the
# cache of a CPU. On a GPU, a typical batch has only a few chunks, which cost nothing.
PIECE_CPU = 1 << 17
PIECE_GPU = 1 << 26

# Rounding in float32 must not reduce exact integer blends to the next lower integer.
ROUNDING = 1e-3


def inverse_affine(angle: Tensor, shear: Tensor, size: Tensor) -> Tensor:
    """Matrices that map an offset from an object's centre in pixels to texture coordinates.

    An object is stretched to its size, sheared along x, then along y, then rotated clockwise.

    Args:
        angle: float [...], degrees, clockwise positive.
        shear: float [..., 2], shift in x per pixel of y, then shift in y per pixel of x.
        size: float [..., 2], width and height in pixels.

    Returns:
        float [..., 2, 2]; the object covers [-1, 1] in both coordinates.
    """
    radians = angle * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    shear_x, shear_y = shear.unbind(-1)
    # The inverse of the rotation, then of the shear along y, then of the shear along x.
    y_from_x, y_from_y = -sin - shear_y * cos, cos - shear_y * sin
    x_from_x, x_from_y = cos - shear_x * y_from_x, sin - shear_x * y_from_y
    rows = torch.stack((x_from_x, x_from_y, y_from_x, y_from_y), dim=-1).unflatten(-1, (2, 2))
    return rows * (2 / size.clamp_min(1e-3)).unsqueeze(-1)


def offsets(centre: Tensor, extent: int, wrap: bool) -> Tensor:
    """Distance of every pixel's centre from the object's centre along one axis: float [..., extent]."""
    pixels = torch.arange(extent, device=centre.device, dtype=torch.float32) + 0.5
    offset = pixels - centre.unsqueeze(-1)
    if wrap:
        offset = (offset + extent / 2).remainder(extent) - extent / 2
    return offset


def _look_through(grid: Tensor, window: Tensor, width: int, height: int) -> None:
    """Map coordinates [B, T, H, W, 2] on an object to those on its texture, in place, given its window [B, 4].

    They are clamped between the centres of a window's first and last texels, so that no texels outside are sampled.
    """
    window = window.view(-1, 1, 1, 1, 4)
    for axis, extent in enumerate((width, height)):
        low, high = window[..., axis] * (2 / extent) - 1, window[..., axis + 2] * (2 / extent) - 1
        plane = grid[..., axis].mul_((high - low) / 2).add_((low + high) / 2)
        torch.clamp(plane, low + 1 / extent, high - 1 / extent, out=plane)


class Geometry(NamedTuple):
    """Geometry of objects, separated by axis."""

    across: Tensor
    """[B, K, T, 2, 1, W], contribution of a pixel's column to each of its coordinates on the object"""
    down: Tensor
    """[B, K, T, 2, H, 1], contribution of its row"""
    half: Tensor
    """[B, K, T, 2, 1, 1], half the object's sides in pixels"""
    opacity: Tensor
    """[B, K, T, 1, 1]"""


def geometry(record: MotionRecord, picture: tuple[int, int], wrap: bool) -> Geometry:
    """The geometry of objects in pictures of this height and width, on the device of the record."""
    (height, width), size = picture, record.size.float()
    matrix = inverse_affine(record.angle.float(), record.shear.float(), size)
    dx, dy = (
        offsets(record.centre[..., axis].float(), extent, wrap)[..., None, :] for axis, extent in ((0, width), (1, height))
    )
    across, down = matrix[..., :1] * dx, matrix[..., 1:] * dy
    return Geometry(
        across[..., None, :], down[..., :, None], size[..., None, None] / 2, record.opacity.float()[..., None, None]
    )


def sample_objects(place: Geometry, textures: Tensor, windows: Tensor | None) -> Tensor:
    """Sample every object at every pixel: float [B, K, 4, T, H, W], colours from 0 to 255 and alpha from 0 to 1.

    Args:
        place: geometry of K objects in T frames, on the device of the textures.
        textures: [B, K, h, w, 4]
        windows: see `paste`.
    """
    B, K, T, H, W = (*place.opacity.shape[:3], place.down.shape[-2], place.across.shape[-1])
    grid = place.half.new_empty(B, K, T, H, W, 2)
    reach = place.half.new_empty(B, K, T, H, W)
    cover: Tensor | None = None
    for axis in range(2):
        torch.add(place.across[..., axis, :, :], place.down[..., axis, :, :], out=grid[..., axis])
        # Fraction of the pixel inside the box, so that opaque textures have antialiased edges.
        half = place.half[..., axis, :, :]
        torch.abs(grid[..., axis], out=reach)
        inside = reach.mul_(-half).add_(half + 0.5).clamp_(0, 1)
        cover = inside.clone() if cover is None else cover.mul_(inside)
    assert cover is not None
    cover.mul_(place.opacity)
    image = textures.flatten(0, 1).permute(0, 3, 1, 2).float()
    grid = grid.flatten(0, 1)
    if windows is not None:
        _look_through(grid, windows.flatten(0, 1).float(), image.shape[3], image.shape[2])
    sample = F.grid_sample(image, grid.view(B * K, T * H, W, 2), "bilinear", "border", align_corners=False)
    sample = sample.view(B, K, 4, T, H, W).mul_(cover[:, :, None])
    sample[:, :, 3].mul_(1 / 255)
    return sample


def blend(canvas: Tensor, sample: Tensor) -> None:
    """Blend an object [B, 4, T, H, W], from `sample_objects`, into a float canvas [B, T, H, W, 3 n] in place."""
    for channel in range(canvas.shape[-1]):
        plane = canvas[..., channel]
        plane.addcmul_(plane, sample[:, 3], value=-1).add_(sample[:, channel % 3])
    canvas.add_(ROUNDING).floor_()


def paste(frames: Tensor, record: MotionRecord, textures: Tensor, wrap: bool = False, windows: Tensor | None = None) -> Tensor:
    """Paste moving objects into clips, object 0 first, so that later objects are on top.

    ``out = frame * (1 - alpha) + object * alpha``, written to uint8 by truncation after each object (SMILE and
    TubeletContrast, official code). Parts outside the picture are cut. Pixels that no object touches keep their
    value exactly.

    Args:
        frames: uint8 [B, T, H, W, 3], or [B, T, H, W, 3 n] for n clips that get the same objects at the same positions.
        record: motion of K objects over T frames; pixel i covers [i, i + 1). Rotation is clockwise in degrees. It is on the
            device of the frames, or on the host, which then computes the geometry.
        textures: uint8 or float [B, K, h, w, 4] with values 0..255 and premultiplied alpha. They are stretched to the size in
            the record.
        wrap: treat the picture as a torus: objects that leave on the right enter on the left, and the same for bottom and top.
        windows: float [B, K, 4], corners x1 y1 x2 y2 in texels of the part of each texture that is the object; None uses the
            complete texture.

    Returns:
        uint8, with the shape of `frames`, which is not changed.
    """
    B, T, H, W, _ = frames.shape
    K = textures.shape[1]
    if record.centre.shape[:3] != (B, K, T) or textures.shape[0] != B:
        raise ValueError(
            f"frames {tuple(frames.shape)}, motion {tuple(record.centre.shape)} and textures {tuple(textures.shape)} "
            "disagree in clips, objects or frames"
        )
    out = torch.empty_like(frames)
    place = to_device(list(geometry(record, (H, W), wrap)), frames.device)
    piece = max(1, (PIECE_CPU if frames.device.type == "cpu" else PIECE_GPU) // (K * T * H * W))
    for start in range(0, B, piece):
        part = slice(start, start + piece)
        canvas = frames[part].float()
        moves = Geometry(*(values[part] for values in place))
        sample = sample_objects(moves, textures[part], None if windows is None else windows[part])
        for one in sample.unbind(1):
            blend(canvas, one)
        out[part] = canvas.to(torch.uint8)
    return out

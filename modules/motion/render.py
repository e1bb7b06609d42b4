"""Drawing moving objects into clips: one affine sampling per object for all frames of all clips.

The official SMILE and TubeletContrast code pastes with PIL and OpenCV, object by object and frame by frame in the
loader's workers. Here every output pixel asks where it lies on the object, on the device and for the whole batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.motion.trajectory import MotionRecord

# Pixels that are drawn at once. Bounds the float32 working memory (40 to 52 bytes per pixel) and, on a CPU, keeps it in
# the cache; on a GPU a batch of usual size is a handful of pieces, too few to cost anything.
PIECE_CPU = 1 << 17
PIECE_GPU = 1 << 24

# Exact blends that are whole numbers must not fall to the next lower one by rounding in float32.
ROUNDING = 1e-3


def inverse_affine(angle: Tensor, shear: Tensor, size: Tensor) -> Tensor:
    """Matrices that take an offset from an object's centre in pixels to texture coordinates.

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
    # Rotation undone, then the shear along y, then the one along x.
    y_from_x, y_from_y = -sin - shear_y * cos, cos - shear_y * sin
    x_from_x, x_from_y = cos - shear_x * y_from_x, sin - shear_x * y_from_y
    rows = torch.stack((x_from_x, x_from_y, y_from_x, y_from_y), dim=-1).unflatten(-1, (2, 2))
    return rows * (2 / size.clamp_min(1e-3)).unsqueeze(-1)


def _offsets(centre: Tensor, extent: int, wrap: bool) -> Tensor:
    """Distance of every pixel's middle from the centre along one axis: float [..., extent]."""
    pixels = torch.arange(extent, device=centre.device, dtype=torch.float32) + 0.5
    offset = pixels - centre.unsqueeze(-1)
    if wrap:
        offset = (offset + extent / 2).remainder(extent) - extent / 2
    return offset


def _look_through(grid: Tensor, window: Tensor, width: int, height: int) -> None:
    """Map coordinates [B, T, H, W, 2] over an object to those over its texture, in place, given its window [B, 4].

    Between the middles of a window's first and last texels, so that none outside it is ever seen.
    """
    window = window.view(-1, 1, 1, 1, 4)
    for axis, extent in enumerate((width, height)):
        low, high = window[..., axis] * (2 / extent) - 1, window[..., axis + 2] * (2 / extent) - 1
        plane = grid[..., axis].mul_((high - low) / 2).add_((low + high) / 2)
        torch.clamp(plane, low + 1 / extent, high - 1 / extent, out=plane)


def _draw(canvas: Tensor, record: MotionRecord, k: int, texture: Tensor, window: Tensor | None, wrap: bool) -> None:
    """Blend object k into a float canvas [B, T, H, W, 3 n] in place, given its texture [B, h, w, 4]."""
    B, T, H, W, channels = canvas.shape
    centre, size = record.centre[:, k].float(), record.size[:, k].float()
    matrix = inverse_affine(record.angle[:, k].float(), record.shear[:, k].float(), size)
    dx = _offsets(centre[..., 0], W, wrap)[:, :, None, :]
    dy = _offsets(centre[..., 1], H, wrap)[:, :, :, None]
    grid = canvas.new_empty(B, T, H, W, 2)
    reach = canvas.new_empty(B, T, H, W)
    cover: Tensor | None = None
    for axis in range(2):
        row = matrix[:, :, axis, :, None, None]
        torch.add(row[:, :, 0] * dx, row[:, :, 1] * dy, out=grid[..., axis])
        # How much of the pixel lies inside the box, so that opaque textures end softly wherever their edge falls.
        half = size[..., axis, None, None] / 2
        torch.abs(grid[..., axis], out=reach)
        inside = reach.mul_(-half).add_(half + 0.5).clamp_(0, 1)
        cover = inside.clone() if cover is None else cover.mul_(inside)
    assert cover is not None
    cover.mul_(record.opacity[:, k, :, None, None])
    image = texture.permute(0, 3, 1, 2).float()
    if window is not None:
        _look_through(grid, window.float(), image.shape[3], image.shape[2])
    sample = F.grid_sample(image, grid.view(B, T * H, W, 2), "bilinear", "border", align_corners=False)
    sample = sample.view(B, 4, T, H, W).mul_(cover[:, None])
    alpha = sample[:, 3].mul_(1 / 255)
    for channel in range(channels):
        plane = canvas[..., channel]
        plane.addcmul_(plane, alpha, value=-1).add_(sample[:, channel % 3])
    canvas.add_(ROUNDING).floor_()


def paste(frames: Tensor, record: MotionRecord, textures: Tensor, wrap: bool = False, windows: Tensor | None = None) -> Tensor:
    """Paste moving objects into clips, object 0 first, so that later objects lie on top.

    ``out = frame * (1 - alpha) + object * alpha``, written to uint8 by truncation after each object (SMILE and
    TubeletContrast, official code). Parts outside the picture are cut. Pixels that no object touches keep their
    value exactly.

    Args:
        frames: uint8 [B, T, H, W, 3], or [B, T, H, W, 3 n] for n clips that get the same objects at the same places.
        record: motion of K objects over T frames; pixel i covers [i, i + 1). Rotation is clockwise in degrees.
        textures: uint8 or float [B, K, h, w, 4] with values 0..255, colours already multiplied by alpha. Stretched to
            the size that the record gives.
        wrap: the picture is a torus: what leaves on the right comes in on the left, and likewise below and above.
        windows: float [B, K, 4], corners x1 y1 x2 y2 in texels of the part of each texture that is the object; None
            takes all of it.

    Returns:
        uint8, shaped as `frames`, which is not changed.
    """
    B, T, H, W, _ = frames.shape
    K = textures.shape[1]
    if record.centre.shape[:3] != (B, K, T) or textures.shape[0] != B:
        raise ValueError(
            f"frames {tuple(frames.shape)}, motion {tuple(record.centre.shape)} and textures {tuple(textures.shape)} "
            "disagree in clips, objects or frames"
        )
    out = torch.empty_like(frames)
    piece = max(1, (PIECE_CPU if frames.device.type == "cpu" else PIECE_GPU) // (T * H * W))
    for start in range(0, B, piece):
        part = slice(start, start + piece)
        canvas = frames[part].float()
        moves = record.select(part)
        for k in range(K):
            _draw(canvas, moves, k, textures[part, k], None if windows is None else windows[part, k], wrap)
        out[part] = canvas.to(torch.uint8)
    return out

"""Appearance of moving objects: cut-outs in a folder, or procedural shapes.

Textures are square RGBA images with premultiplied alpha, which the renderer stretches to an object's box (SMILE's official
code does not keep an object's aspect ratio either). Axis letters: `B` clips, `K` objects, `s` texels per side.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from modules.core.errors import SettingError, check_positive
from modules.core.randomness import device_generator

SHAPES = ("arrow", "corner", "tee", "triangle", "half_disc", "crescent", "flag", "sector")
"""Procedural shapes; no rotation maps one onto itself."""
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.0, 1.0, 1.0),
    "orange": (0.09, 1.0, 1.0),
    "yellow": (0.16, 1.0, 1.0),
    "green": (0.35, 0.9, 0.9),
    "cyan": (0.5, 0.9, 1.0),
    "blue": (0.63, 0.75, 1.0),
    "purple": (0.77, 0.65, 0.95),
    "pink": (0.9, 0.45, 1.0),
    "white": (0.0, 0.0, 1.0),
}
"""Hue, saturation and value by name, brighter than any background."""
LEVELS = 4
"""Number of blur levels for small objects, down to 1/8 of a texture's resolution."""


def _box(
    x: Tensor, y: Tensor, left: float | Tensor, top: float | Tensor, right: float | Tensor, bottom: float | Tensor
) -> Tensor:
    return torch.maximum(torch.maximum(left - x, x - right), torch.maximum(top - y, y - bottom))


def _disc(x: Tensor, y: Tensor, centre: float, radius: float | Tensor) -> Tensor:
    return ((x - centre).square() + y.square()).sqrt() - radius


def shape_distance(kind: int, x: Tensor, y: Tensor, stroke: Tensor) -> Tensor:
    """Signed distance (negative inside) from the outline of a shape.

    Args:
        kind: index into `SHAPES`.
        x: float [1, 1, s], from -1 (left) to 1 (right) over the object's box.
        y: float [1, s, 1], from -1 (top) to 1 (bottom).
        stroke: float [N, 1, 1], half width of lines, about 0.3.

    Returns:
        float [N, s, s]
    """
    name = SHAPES[kind]
    if name == "arrow":
        shaft = _box(x, y, -0.95, -0.75 * stroke, 0.2, 0.75 * stroke)
        head = torch.maximum(-x, (0.7 * x + y.abs() - 0.65) / math.hypot(0.7, 1))
        return torch.minimum(shaft, head)
    if name == "corner":
        upright = _box(x, y, -0.9, -0.9, -0.9 + 1.6 * stroke, 0.9)
        return torch.minimum(upright, _box(x, y, -0.9, 0.9 - 1.6 * stroke, 0.7, 0.9))
    if name == "tee":
        bar = _box(x, y, -0.9, -0.9, 0.9, -0.9 + 1.6 * stroke)
        return torch.minimum(bar, _box(x, y, -0.8 * stroke, -0.9, 0.8 * stroke, 0.9))
    if name == "triangle":
        return torch.maximum(-0.9 - x, (0.5 * x + y.abs() - 0.2 - stroke) / math.hypot(0.5, 1))
    if name == "half_disc":
        return torch.maximum(_disc(x, y, -0.3, 0.95), -0.7 + stroke - x)
    if name == "crescent":
        return torch.maximum(_disc(x, y, 0.0, 0.95), -_disc(x, y, 0.75, 1.15 - stroke))
    if name == "flag":
        pole = _box(x, y, -0.8, -0.95, -0.8 + 1.2 * stroke, 0.95)
        return torch.minimum(pole, _box(x, y, -0.8, -0.95, 0.85, 0.1))
    wedge = (y.abs() - (0.8 + stroke) * x) / (1 + (0.8 + stroke).square()).sqrt()
    return torch.maximum(_disc(x, y, 0.0, 0.95), -wedge)


def shape_alpha(kind: Tensor, stroke: Tensor, side: int) -> Tensor:
    """Coverage of shapes with soft edges.

    Args:
        kind: int64 [N], index into `SHAPES`.
        stroke: float [N], half width of lines, about 0.3.
        side: s, in texels.

    Returns:
        float [N, s, s] in [0, 1]
    """
    axis = texel_axis(side, kind.device)
    alpha = torch.empty(len(kind), side, side, device=kind.device)
    for number in range(len(SHAPES)):
        rows = (kind == number).nonzero()[:, 0]
        distance = shape_distance(number, axis[None, None, :], axis[None, :, None], stroke[rows, None, None])
        alpha[rows] = (0.5 - distance * (side / 2)).clamp(0, 1)
    return alpha


def texel_axis(side: int, device: torch.device) -> Tensor:
    """Centres of texels from -1 to 1, float [s]."""
    return (torch.arange(side, device=device) + 0.5) * (2 / side) - 1


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours [..., 3] in [0, 1] from hue, saturation and value [...] in [0, 1]."""
    sector = torch.stack([(hue * 6 + offset) % 6 for offset in (5.0, 3.0, 1.0)], dim=-1)
    fade = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return value[..., None] * (1 - saturation[..., None] * fade)


def premultiplied(colour: Tensor, alpha: Tensor) -> Tensor:
    """float colours [N, s, s, 3] and alpha [N, s, s] in [0, 1] -> uint8 [N, s, s, 4]."""
    rgba = torch.cat([colour * alpha[..., None], alpha[..., None]], dim=-1)
    return (rgba * 255).round().to(torch.uint8)


def procedural_objects(count: int, side: int, seed: int) -> Tensor:
    """Shapes with stripes in two colours: uint8 [count, side, side, 4], which only depend on the arguments."""
    g = device_generator("cpu", seed)
    stroke = 0.22 + 0.18 * torch.rand(count, generator=g)
    alpha = shape_alpha(torch.arange(count) % len(SHAPES), stroke, side)
    hue, saturation, value = torch.rand(3, count, 2, generator=g).unbind()
    first, second = hsv_to_rgb(hue, 0.2 + 0.8 * saturation, 0.5 + 0.5 * value)[:, :, None, None].unbind(1)
    cycles, phase = 1 + torch.rand(count, 1, 1, generator=g), 2 * math.pi * torch.rand(count, 1, 1, generator=g)
    stripes = 0.5 + 0.5 * torch.sin(2 * math.pi * cycles * texel_axis(side, alpha.device) + phase)
    return premultiplied(first + stripes[..., None] * (second - first), alpha)


def load_object(path: Path, side: int) -> tuple[np.ndarray, float]:
    """One cut-out, resized with antialiasing, and its original width over height.

    The texture is uint8 [side, side, 4] with premultiplied alpha. Files without alpha are opaque. Interpolation is bicubic, as
    in SMILE's official code.
    """
    with Image.open(path) as picture:
        aspect = picture.width / picture.height
        rgba = np.asarray(picture.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)).astype(np.float32)
    rgba[..., :3] *= rgba[..., 3:] / 255
    return rgba.round().astype(np.uint8), aspect


class ObjectBank:
    """Objects to paste into clips.

    Args:
        root: folder of cut-outs, <root>/<category>/<file>.png with transparency (SMILE uses 60,687 such images of 1,203
            categories); null uses procedural shapes instead.
        side: texels per side of a texture. All textures are stored on the device: 4 bytes x side^2 x objects.
        shapes: number of procedural objects.
        seed: seed for colours and proportions of the procedural objects.
    """

    def __init__(self, root: str | None = None, side: int = 96, shapes: int = 512, seed: int = 0) -> None:
        check_positive("model.paste.objects", side=side, shapes=shapes)
        self.root, self.side = root, side
        if root is None:
            self.names = [SHAPES[number % len(SHAPES)] for number in range(shapes)]
            self.aspect = torch.ones(shapes)
            self._textures = procedural_objects(shapes, side, seed)
            return
        # Operating systems create hidden files, such as ._1.png next to 1.png.
        found = (path for path in Path(root).glob("*/*.png") if not path.name.startswith("."))
        files = sorted(path for path in found if not path.parent.name.startswith((".", "__MACOSX")))
        if not files:
            raise SettingError(
                f"model.paste.objects.root {root} contains no <category>/<file>.png; pass the folder of cut-out objects, or "
                "null for procedural shapes."
            )
        self.names = [file.parent.name for file in files]
        with ThreadPoolExecutor() as threads:
            textures, aspects = zip(*threads.map(lambda file: load_object(file, side), files), strict=True)
        self.aspect = torch.tensor(aspects)
        self._textures = torch.from_numpy(np.stack(textures))

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, size: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an object for every box, uniformly, and blur it according to its size.

        Args:
            size: float [B, K, 2], mean width and height of the boxes in pixels.
            generator: source of randomness, on the device of `size`.

        Returns:
            uint8 [B, K, s, s, 4]
        """
        index = torch.randint(len(self), size.shape[:2], generator=generator, device=generator.device)
        return blur_to_size(self.pick(index), size)

    def pick(self, index: Tensor) -> Tensor:
        """Textures of objects by index, not blurred: int64 [B, K], on the device for rendering -> uint8 [B, K, s, s, 4]."""
        if self._textures.device != index.device:
            self._textures = self._textures.to(index.device)
        return self._textures[index]


def blur_to_size(textures: Tensor, size: Tensor) -> Tensor:
    """Blur textures that will be shrunk, so that bilinear sampling does not skip texels.

    For a box of 1/2, 1/4 or 1/8 of the texture's side, the texture is averaged over 2, 4 or 8 texels.

    Args:
        textures: uint8 [B, K, s, s, 4].
        size: float [B, K, 2], width and height of the boxes in pixels.
    """
    planes = textures.flatten(0, 1).permute(0, 3, 1, 2).float()
    side = planes.shape[-1]
    levels = [planes]
    for level in range(1, LEVELS):
        small = F.interpolate(planes, size=max(1, side >> level), mode="area")
        levels.append(F.interpolate(small, size=side, mode="bilinear"))
    shrink = (side / size.amax(-1).flatten().clamp_min(1)).log2().round().clamp(0, LEVELS - 1).long()
    chosen = torch.stack(levels)[shrink, torch.arange(len(planes), device=planes.device)]
    return chosen.round().to(torch.uint8).permute(0, 2, 3, 1).unflatten(0, textures.shape[:2])

"""Still backgrounds: generated ones, and crops of images in a folder. The two splits share no colours and no images.

Backgrounds have at most 0.6 of full brightness; objects are brighter, so they stand out.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.core.errors import SettingError
from modules.motion.appearance import hsv_to_rgb
from modules.scenes.classes import Draws, Split

Background = Literal["black", "noise", "gradient", "texture", "images"]
BRIGHTEST = 0.6
WAVES = 6
MAX_IMAGES = 512
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def _palette(draws: Draws, name: str) -> Tensor:
    """Two dark colours per clip, float32 [N, 2, 3]."""
    colours = []
    for part in ("one", "two"):
        hue = draws.banded(f"{name} hue {part}")
        saturation = draws.uniform(f"{name} saturation {part}", 0.3, 0.9)
        value = draws.uniform(f"{name} value {part}", 0.05, BRIGHTEST)
        colours.append(hsv_to_rgb(hue, saturation, value))
    return torch.stack(colours, dim=1).float()


def _blend(weight: Tensor, palette: Tensor) -> Tensor:
    """Mixes the two colours of each clip: weight [N, H, W] in [0, 1] -> [N, H, W, 3]."""
    return palette[:, None, None, 0] + weight[..., None] * (palette[:, 1] - palette[:, 0])[:, None, None]


def _coordinates(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size, device=device) + 0.5) / size - 0.5
    return axis[None, None, :], axis[None, :, None]


def noise(draws: Draws, size: int) -> Tensor:
    """Uniform noise in [0, BRIGHTEST) for every pixel and channel: float32 [N, size, size, 3]."""
    count = size * size * 3
    # Eight values from each 64-bit number, because hashing is most of the cost.
    words = draws.bits("noise", -(-count // 8)).view(torch.uint8)[:, :count]
    return words.reshape(-1, size, size, 3) * (BRIGHTEST / 255)


def gradient(draws: Draws, size: int) -> Tensor:
    """A linear ramp between two colours in a random direction: float32 [N, size, size, 3]."""
    x, y = _coordinates(size, draws.index.device)
    angle = draws.uniform("gradient angle", 0, 2 * math.pi).float()[:, None, None]
    ramp = x * angle.cos() + y * angle.sin()
    return _blend(ramp / math.sqrt(2) + 0.5, _palette(draws, "gradient"))


def texture(draws: Draws, size: int) -> Tensor:
    """Plane waves of random direction, frequency and phase, blended between two colours: float32 [N, size, size, 3]."""
    x, y = _coordinates(size, draws.index.device)
    total = torch.zeros(len(draws.index), size, size, device=draws.index.device)
    for wave in range(WAVES):
        angle = draws.uniform(f"texture angle {wave}", 0, 2 * math.pi).float()[:, None, None]
        frequency = draws.banded(f"texture frequency {wave}", 1.0, 7.0).float()[:, None, None]
        phase = draws.uniform(f"texture phase {wave}", 0, 2 * math.pi).float()[:, None, None]
        total += torch.cos(2 * math.pi * frequency * (x * angle.cos() + y * angle.sin()) + phase)
    # Scaled by about two standard deviations, so that the pattern fills the range and rarely saturates.
    weight = (total / (2 * math.sqrt(2 * WAVES)) * 2 + 0.5).clamp(0, 1)
    return _blend(weight, _palette(draws, "texture"))


def load_images(folder: Path, split: Split, side: int) -> Tensor:
    """Images of one split, with the shorter side resized to `side`, centre-cropped: uint8 [M, side, side, 3].

    Files are sorted by path; every fifth belongs to validation. At most `MAX_IMAGES` are read, evenly spaced.

    Raises:
        SettingError: If the folder is missing or has fewer than two images.
    """
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    # Operating systems create hidden files, such as ._1.jpg next to 1.jpg.
    files = sorted(p for p in found if not any(part.startswith((".", "__MACOSX")) for part in p.relative_to(folder).parts))
    if len(files) < 2:
        raise SettingError(
            f"data.scene.background_folder: {folder} contains {len(files)} images, but training and validation need at least "
            f"one each; pass a folder with two or more of {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    own = [f for i, f in enumerate(files) if (i % 5 == 1) == (split == "val")]
    own = [own[i] for i in np.linspace(0, len(own) - 1, min(len(own), MAX_IMAGES)).round().astype(int)]
    pictures = []
    for file in own:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
            scale = side / min(picture.size)
            width, height = (max(side, round(n * scale)) for n in picture.size)
            left, top = (width - side) // 2, (height - side) // 2
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
            pictures.append(np.asarray(picture.crop((left, top, left + side, top + side))))
    return torch.from_numpy(np.stack(pictures))


def crop_images(draws: Draws, size: int, images: Tensor) -> Tensor:
    """A random image, crop and flip for each clip: float32 [N, size, size, 3] from uint8 [M, S, S, 3]."""
    device = draws.index.device
    picture = draws.integer("picture", len(images))
    spare = images.shape[1] - size + 1
    columns = draws.integer("picture x", spare)[:, None] + torch.arange(size, device=device)
    columns = torch.where(draws.uniform("picture flip")[:, None] < 0.5, columns, columns.flip(1))
    rows = draws.integer("picture y", spare)[:, None] + torch.arange(size, device=device)
    return images.to(device)[picture[:, None, None], rows[:, :, None], columns[:, None, :]] / 255


def make_backgrounds(draws: Draws, kind: Tensor, kinds: Sequence[Background], size: int, images: Tensor | None) -> Tensor:
    """Backgrounds of the given kinds.

    Args:
        draws: Random numbers of the N clips.
        kind: int64 [N], index into `kinds` for each clip.
        kinds: Kinds of background.
        size: Side of the frame in pixels.
        images: uint8 [M, S, S, 3] with S >= size, images to crop; only needed for "images".

    Returns:
        uint8 [N, size, size, 3].
    """
    out = torch.zeros(len(kind), size, size, 3, dtype=torch.uint8, device=kind.device)
    for number, name in enumerate(kinds):
        rows = (kind == number).nonzero()[:, 0]
        own = draws.at(rows)
        if name == "black" or len(rows) == 0:
            continue
        if name == "images":
            assert images is not None
            drawn = crop_images(own, size, images)
        else:
            drawn = {"noise": noise, "gradient": gradient, "texture": texture}[name](own, size)
        out[rows] = (drawn * 255).round().to(torch.uint8)
    return out

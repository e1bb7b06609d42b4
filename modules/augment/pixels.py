"""Changes of the pixels of complete clips: those of RandAugment (timm) and of a colour jitter (torchvision).

The host draws a list of changes for each clip in advance. Clips whose next change is of the same kind are changed together,
each with its own strength, so that the number of operations does not grow with the number of clips. There is no host sync.
Results are those of torchvision's functions applied to each clip, except for rounding to a neighbouring value.

Axis letters: `N` clips of a batch, `n` clips that are changed together. All frames of a clip are changed in the same way.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from modules.core.device import constant

GREY = 128
EDGE, MIDDLE = 1 / 13, 5 / 13
BLUR = ((EDGE, EDGE, EDGE), (EDGE, MIDDLE, EDGE), (EDGE, EDGE, EDGE))
"""PIL's smoothing kernel."""


class Change(NamedTuple):
    """A change of one clip."""

    name: str
    """timm's name of the operation, without 'Increasing', or Hue"""
    levels: tuple[float, ...] = ()
    """strength, if it has one"""


@dataclass(eq=False)
class Group:
    """Changes of one kind."""

    kind: str
    rows: Tensor
    """int64 [n], indices of the clips"""
    values: Tensor
    """[n, ...], their strengths, encoded for the kind"""


# --- Strengths, on the host ---


def _solarize_add(values: Tensor, amount: int) -> Tensor:
    return torch.where(values < 128, (values.int() + amount).clamp(max=255).to(values.dtype), values)


VALUES: dict[str, Callable[..., Tensor]] = {
    "Invert": tv.invert,
    # With 0 bits, at full strength, the clip would be black.
    "Posterize": lambda values, bits: tv.posterize(values, max(1, bits)),
    "Solarize": lambda values, threshold: tv.solarize(values, threshold) if threshold < 256 else values,
    "SolarizeAdd": _solarize_add,
    "Brightness": tv.adjust_brightness,
}
"""Changes that only depend on the value."""


def _table(change: Change, picture: tuple[int, int]) -> list[int]:
    """The new value for each of the 256 values."""
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    table: list[int] = VALUES[change.name](values, *change.levels).flatten().tolist()
    return table


def _shares(change: Change, picture: tuple[int, int]) -> tuple[float, float, float]:
    """Weights of the picture and of the blended value, and whether the latter is the mean."""
    return change.levels[0], 1 - change.levels[0], float(change.name == "Contrast")


def _matrix(change: Change, picture: tuple[int, int]) -> list[list[float]]:
    """Affine matrix from output to source coordinates, relative to the centre: [2, 3].

    PIL shears about the upper left corner and rotates about the centre. Its rotation has the opposite direction, and its
    translation applies to the source.
    """
    (level,), (height, width) = change.levels, picture
    if change.name == "Rotate":
        cos, sin = math.cos(math.radians(-level)), math.sin(math.radians(-level))
        return [[cos, sin, 0], [-sin, cos, 0]]
    across, down = change.name.startswith("ShearX") * level, change.name.startswith("ShearY") * level
    right, below = (change.name == f"Translate{axis}Rel" and level for axis in "XY")
    return [[1, across, across * height / 2 + right * width], [down, 1, down * width / 2 + below * height]]


def _level(change: Change, picture: tuple[int, int]) -> tuple[float, ...]:
    return change.levels


# --- Clips, uint8 [n, T, 3, H, W], on any device ---


def _per_clip(values: Tensor) -> Tensor:
    """[n] -> [n, 1, 1, 1, 1]"""
    return values.view(-1, 1, 1, 1, 1)


def _look_up(clips: Tensor, table: Tensor) -> Tensor:
    """uint8 [n, 256]"""
    return table.gather(1, clips.flatten(1).long()).view_as(clips)


def _stretch(clips: Tensor, _: Tensor) -> Tensor:
    return tv.autocontrast(clips)


def _equalize(clips: Tensor, _: Tensor) -> Tensor:
    return tv.equalize(clips)


def _blend(clips: Tensor, shares: Tensor) -> Tensor:
    """Blend with the grey picture, which changes saturation, or with its mean, which changes contrast: float [n, 3]."""
    share, rest, to_mean = map(_per_clip, shares.unbind(1))
    grey = tv.rgb_to_grayscale(clips).float()
    other = torch.where(to_mean > 0, grey.mean((2, 3, 4), keepdim=True), grey)
    return torch.addcmul(clips * share, other, rest).clamp_(0, 255).to(torch.uint8)


def _sharpen(clips: Tensor, share: Tensor) -> Tensor:
    """Blend with the smoothed picture, which has the same border: float [n, 1], weight of the picture."""
    if min(clips.shape[-2:]) <= 2:
        return clips
    made = clips.float()
    inner = made[..., 1:-1, 1:-1]
    kernel = constant(BLUR, torch.float32, clips.device).expand(3, 1, 3, 3)
    blurred = F.conv2d(made.flatten(0, 1), kernel, groups=3).round_().view_as(inner)
    inner.addcmul_(blurred - inner, 1 - _per_clip(share))
    return made.clamp_(0, 255).to(torch.uint8)


def _move(clips: Tensor, matrix: Tensor) -> Tensor:
    """Rotate, shear or shift, with grey outside the source: float [n, 2, 3], see `_matrix`."""
    height, width = clips.shape[-2:]
    x, y = (torch.linspace((1 - side) / 2, (side - 1) / 2, side, device=clips.device) for side in (width, height))
    places = torch.stack([*torch.meshgrid(x, y, indexing="xy"), x.new_ones(1, 1).expand(height, width)], dim=-1)
    scaled = matrix.transpose(1, 2) / constant((width / 2, height / 2), torch.float32, clips.device)
    grid = places.view(1, -1, 3).expand(len(clips), -1, -1).bmm(scaled).view(-1, height, width, 2)
    # Frames are passed as channels; the last channel is the fraction of a pixel that is inside the source.
    planes = clips.flatten(1, 2).float()
    planes = torch.cat([planes, planes.new_ones(1, 1, 1, 1).expand(len(clips), 1, height, width)], dim=1)
    moved = F.grid_sample(planes, grid, "bilinear", "zeros", align_corners=False)
    moved, inside = moved[:, :-1], moved[:, -1:]
    return ((moved - GREY) * inside + GREY).round_().to(torch.uint8).view_as(clips)


def _turn_hue(clips: Tensor, shift: Tensor) -> Tensor:
    """float [n, 1], as a fraction of the circle"""
    # Rounding as in torchvision.
    return (turn_hue(clips.float() / 255, shift.view(-1, 1, 1, 1), 2) * (256 - 1e-3)).to(torch.uint8)


def turn_hue(colours: Tensor, shift: Tensor, dim: int) -> Tensor:
    """Add to the hue (torchvision's `adjust_hue` of float pictures).

    Args:
        colours: float, not negative, red, green and blue in dimension `dim`.
        shift: fraction of the circle; broadcasts to the shape of one colour.
        dim: dimension of the colours.
    """
    red, green, blue = colours.unbind(dim)
    value, low = colours.amax(dim), colours.amin(dim)
    spread = value - low
    safe = torch.where(spread > 0, spread, 1)
    from_green = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sixth = torch.where(value == red, (green - blue) / safe, from_green)
    sixth = (sixth + 6 * shift).remainder(6)
    made = []
    for peak in (5, 3, 1):
        away = (peak + sixth).remainder(6)
        made.append(value - spread * torch.minimum(away, 4 - away).clamp(0, 1))
    return torch.stack(made, dim=dim)


class Kind(NamedTuple):
    """A kind of changes that can be applied together."""

    encode: Callable[[Change, tuple[int, int]], Any]
    apply: Callable[[Tensor, Tensor], Tensor]
    dtype: torch.dtype = torch.float32
    """type of the encoded strengths"""


KINDS = {
    "value": Kind(_table, _look_up, torch.uint8),
    "stretch": Kind(_level, _stretch),
    "equalize": Kind(_level, _equalize),
    "blend": Kind(_shares, _blend),
    "sharpen": Kind(_level, _sharpen),
    "move": Kind(_matrix, _move),
    "hue": Kind(_level, _turn_hue),
}
KIND_OF = {
    **dict.fromkeys(VALUES, "value"),
    "AutoContrast": "stretch",
    "Equalize": "equalize",
    **dict.fromkeys(("Color", "Contrast"), "blend"),
    "Sharpness": "sharpen",
    **dict.fromkeys(("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"), "move"),
    "Hue": "hue",
}
"""The kind of each change."""


def group_changes(changes: list[list[Change]], picture: tuple[int, int]) -> list[Group]:
    """Group the changes of a batch so that many are applied together; the order within each clip is kept.

    Args:
        changes: changes of each of N clips, in order.
        picture: height and width.
    """
    waiting = {row: [*own] for row, own in enumerate(changes) if own}
    groups = []
    while waiting:
        kind = Counter(KIND_OF[own[0].name] for own in waiting.values()).most_common(1)[0][0]
        rows = [row for row, own in waiting.items() if KIND_OF[own[0].name] == kind]
        values = [KINDS[kind].encode(waiting[row].pop(0), picture) for row in rows]
        groups.append(Group(kind, torch.tensor(rows), torch.tensor(values, dtype=KINDS[kind].dtype)))
        waiting = {row: own for row, own in waiting.items() if own}
    return groups


def change_pixels(clips: Tensor, groups: list[Group]) -> Tensor:
    """Apply the changes.

    Args:
        clips: uint8 [N, T, H, W, 3]
        groups: groups of changes, on the device of the clips.

    Returns:
        uint8 [N, T, H, W, 3]; `clips` are not changed.
    """
    if not groups:
        return clips
    planes = clips.permute(0, 1, 4, 2, 3).contiguous()
    for group in groups:
        planes.index_copy_(0, group.rows, KINDS[group.kind].apply(planes.index_select(0, group.rows), group.values))
    return planes.permute(0, 1, 3, 4, 2).contiguous()

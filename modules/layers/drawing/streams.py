"""Drawing of one view of a stream, with one function per kind.

Streams of frames are drawn frame by frame, uint8 [T, H, W, 3]. Sound and sensor signals become one picture, uint8 [H, W, 3],
whose columns are evenly spaced over time, from the first to the last step. Axis letters as in `modules/core/batch.py`.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modules.layers.drawing.clips import OUTLINE_COLOURS, box_corners, outline

OBJECT_COLOURS = (*OUTLINE_COLOURS, (240, 228, 66), (0, 114, 178), (213, 94, 0), (255, 255, 255))
"""One colour per object, repeated from the ninth object on; starts with the outline colours."""
CURVE_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167))
NOT_MEASURED = (120, 120, 120)
"""Grey, which is not a colour of `shades`."""
HATCH = (235, 190)
"""Greys of missing parts."""
SHADES = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)
"""Viridis at nine even steps: perceptually uniform, from dark to bright."""
OCTAVES, DECIBELS = 6, 70
"""Range of a spectrogram: octaves below half the sampling rate, and decibels below the loudest level."""
WINDOW = 512
"""Longest window of a spectrum, in samples."""
LINE, FONT_SIZE = 13, 10
"""Height of a text line and font size, in pixels."""


def shades(values: Tensor) -> Tensor:
    """Colours of numbers from 0 (dark violet) to 1 (yellow); other numbers are clamped: float [...] -> uint8 [..., 3]."""
    steps = torch.tensor(SHADES, dtype=torch.float32)
    place = values.float().clamp(0, 1) * (len(SHADES) - 1)
    below = place.floor().long().clamp(max=len(SHADES) - 2)
    return torch.lerp(steps[below], steps[below + 1], (place - below)[..., None]).round().byte()


def hatch(height: int, width: int) -> Tensor:
    """Stripes in two greys, for missing parts: uint8 [H, W, 3]."""
    stripe = (torch.arange(height)[:, None] + torch.arange(width)).remainder(8) < 4
    return torch.where(stripe, *HATCH).byte()[..., None].expand(height, width, 3)


@cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Font of all text."""
    return ImageFont.load_default(FONT_SIZE)


def steps_at(steps: int, width: int) -> Tensor:
    """The step nearest to each column of a picture: int64 [width]."""
    return torch.linspace(0, steps - 1, width, dtype=torch.float64).round().long()


def fit(frames: Tensor, side: int) -> Tensor:
    """Resize frames to at most a size: small ones by an integer factor (nearest), larger ones by area averaging.

    Args:
        frames: uint8 [T, H, W, C]
        side: largest height and width.
    """
    height, width = frames.shape[1:3]
    factor = side // max(height, width)
    if factor:
        return frames.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    size = [max(1, round(length * side / max(height, width))) for length in (height, width)]
    smaller = F.interpolate(frames.permute(0, 3, 1, 2).float(), size=size, mode="area")
    return smaller.round().byte().permute(0, 2, 3, 1)


def flow_limit(flow: Tensor) -> float:
    """Largest finite speed, in pixels per frame: float [..., 2] -> a number, 0 if there is none."""
    speed = flow.float().norm(dim=-1)
    return float(speed[speed.isfinite()].max()) if speed.isfinite().any() else 0.0


def draw_flow(flow: Tensor, limit: float) -> Tensor:
    """Flow as colours of a wheel: right is red, down yellow-green, left cyan, up violet; no motion is white.

    Args:
        flow: float [..., 2], pixels to the right and down.
        limit: speed of full saturation; the saturation is proportional to the speed.

    Returns:
        uint8 [..., 3]
    """
    x, y = flow.float().nan_to_num().unbind(-1)
    hue = torch.atan2(y, x) / (2 * math.pi) * 6
    saturation = (torch.hypot(x, y) / max(limit, 1e-9)).clamp(0, 1)[..., None]
    # Red, green and blue of the pure hue, each a trapezium around the circle.
    pure = ((hue[..., None] - torch.tensor([0.0, 2.0, 4.0]) + 3).remainder(6) - 3).abs()
    pure = (2 - pure).clamp(0, 1)
    return ((1 - saturation * (1 - pure)) * 255).round().byte()


def flow_wheel(side: int) -> Tensor:
    """Legend of `draw_flow`, with all directions and speeds: uint8 [side, side, 3]."""
    step = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(step, step, indexing="ij")
    inside = torch.hypot(x, y) <= 1
    return draw_flow(torch.stack([x, y], -1) * inside[..., None], 1.0)


def depth_limits(depth: Tensor) -> tuple[float, float]:
    """Smallest and largest measured distance, in millimetres: uint16 [...] -> numbers, both 0 if nothing was measured."""
    # Few operators support uint16.
    measured = depth.int()[depth.int() > 0]
    return (float(measured.min()), float(measured.max())) if len(measured) else (0.0, 0.0)


def draw_depth(depth: Tensor, limits: tuple[float, float]) -> Tensor:
    """Depth as colours: near is bright, and pixels without a measurement are grey.

    Args:
        depth: uint16 [T, H, W, 1], millimetres, 0 without a measurement.
        limits: distances of the brightest and the darkest colour, in millimetres.

    Returns:
        uint8 [T, H, W, 3]
    """
    near, far = limits
    distance = depth[..., 0].int().float()
    colours = shades((far - distance) / max(far - near, 1e-9))
    return torch.where((distance > 0)[..., None], colours, torch.tensor(NOT_MEASURED, dtype=torch.uint8))


def draw_masks(canvas: Tensor, masks: Tensor) -> Tensor:
    """Draw objects over a picture, one colour per object: half transparent, with opaque outlines.

    Args:
        canvas: uint8 [T, H, W, 3]
        masks: bool [T, H, W, K]
    """
    drawn = canvas.float()
    for number, mask in enumerate(masks.unbind(-1)):
        colour = torch.tensor(OBJECT_COLOURS[number % len(OBJECT_COLOURS)], dtype=torch.float32)
        # A pixel is inside if its four neighbours belong to the object; pixels outside the picture do not.
        around = F.pad(mask, (1, 1, 1, 1))
        inside = around[:, 1:-1, :-2] & around[:, 1:-1, 2:] & around[:, :-2, 1:-1] & around[:, 2:, 1:-1]
        drawn = torch.where(mask[..., None], torch.where(inside[..., None], (drawn + colour) / 2, colour), drawn)
    return drawn.round().byte()


def draw_tracks(canvas: Tensor, boxes: Tensor, there: Tensor | None = None) -> Tensor:
    """Draw boxes over a picture, labelled with the numbers of their objects, from 1.

    Args:
        canvas: uint8 [T, H, W, 3]
        boxes: float [T, K, 4], x1 y1 x2 y2 in pixels of the canvas; may be outside it. Boxes without area are not drawn.
        there: bool [T, K], which boxes are present; None for all.
    """
    boxes = boxes.float().nan_to_num(posinf=0, neginf=0)
    shown = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1)
    shown = shown if there is None else shown & there
    boxes = boxes * shown[..., None]
    drawn = torch.empty_like(canvas)
    # One object at a time on black, because `outline` has fewer colours.
    outlined, black = canvas, torch.zeros_like(canvas)[None]
    for number in range(boxes.shape[1]):
        line = (outline(black, box_corners(boxes[None, None, :, number]))[0] > 0).any(-1, keepdim=True)
        colour = torch.tensor(OBJECT_COLOURS[number % len(OBJECT_COLOURS)], dtype=torch.uint8)
        outlined = torch.where(line, colour, outlined)
    for frame, (own, is_shown) in enumerate(zip(boxes.tolist(), shown.tolist(), strict=True)):
        picture = Image.fromarray(outlined[frame].numpy())
        pen = ImageDraw.Draw(picture)
        for number, (x, y, _, _) in enumerate(own):
            if is_shown[number]:
                corner = (max(0, x) + 2, max(0, y))
                pen.rectangle(pen.textbbox(corner, str(number + 1), font()), OBJECT_COLOURS[number % len(OBJECT_COLOURS)])
                pen.text(corner, str(number + 1), "black", font())
        drawn[frame] = to_tensor(picture)
    return drawn


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as uint8 [H, W, 3]."""
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, 3)


def draw_curves(values: Tensor, height: int, width: int, limits: tuple[float, float] | None = None) -> Tensor:
    """Each channel as a curve, with a grey line at 0. If a column covers several steps, it shows their range.

    Args:
        values: float [C, L]
        height: height in pixels.
        width: width in pixels.
        limits: values at the lowest and the highest row; None uses the range of the values.

    Returns:
        uint8 [height, width, 3]
    """
    values = values.float().nan_to_num(posinf=0, neginf=0)
    low, high = (float(values.min()), float(values.max())) if limits is None else limits
    if values.shape[1] < width:
        values = F.interpolate(values[None], size=width, mode="linear", align_corners=True)[0]
    most, least = F.adaptive_max_pool1d(values[None], width)[0], -F.adaptive_max_pool1d(-values[None], width)[0]
    # Each column reaches to the next one, so that curves have no gaps.
    least[:, :-1], most[:, :-1] = least[:, :-1].minimum(most[:, 1:]), most[:, :-1].maximum(least[:, 1:])
    scale = (height - 1) / max(high - low, 1e-9)
    row = torch.arange(height)[:, None]
    picture = torch.full((height, width, 3), 255, dtype=torch.uint8)
    if low <= 0 <= high:
        picture[round(high * scale)] = 200
    for number in range(len(values)):
        on = (row >= ((high - most[number]) * scale).round()) & (row <= ((high - least[number]) * scale).round())
        colour = torch.tensor(CURVE_COLOURS[number % len(CURVE_COLOURS)], dtype=torch.uint8)
        picture = torch.where(on[..., None], colour, picture)
    return picture


def draw_spectrogram(audio: Tensor, height: int, width: int) -> Tensor:
    """Spectrogram of the mean of all channels. Rows cover 6 octaves below half the rate, on a logarithmic axis.

    Args:
        audio: float [C, S]
        height: height in pixels.
        width: width in pixels.

    Returns:
        uint8 [height, width, 3], from dark (70 dB below the loudest level) to bright (the loudest).
    """
    sound = audio.float().nan_to_num(posinf=0, neginf=0).mean(0)
    sound = F.pad(sound, (0, max(0, 4 - len(sound))))
    window = min(WINDOW, len(sound))
    # One spectrum centred at each column's time; at both ends, the first and the last possible window.
    starts = steps_at(len(sound), width) - window // 2
    pieces = sound.unfold(0, window, 1)[starts.clamp(0, len(sound) - window)]
    power = torch.fft.rfft(pieces * torch.hann_window(window)).abs().square()
    # Each row shows the loudest of the frequencies within half a row below and above its own.
    bins = torch.linspace(0, -OCTAVES, height).exp2() * (power.shape[1] - 1)
    half = 2 ** (OCTAVES / (2 * max(height - 1, 1)))
    first = (bins / half).round().long()
    last = torch.maximum((bins * half).round().long(), first).clamp(max=power.shape[1] - 1)
    rows = torch.stack([power[:, a : b + 1].amax(1) for a, b in zip(first.tolist(), last.tolist(), strict=True)])
    level = 10 * (rows / rows.max().clamp_min(1e-12)).clamp_min(1e-12).log10()
    return shades(1 + level / DECIBELS)


def draw_features(feature: Tensor, height: int, width: int) -> Tensor:
    """A sequence of features as a picture, with one row per channel and one column per step.

    If there are more of them than pixels, each pixel shows the mean of several. Colours are those of `shades`, from the
    smallest to the largest value.

    Args:
        feature: float [S, D]
        height: height in pixels.
        width: width in pixels.

    Returns:
        uint8 [height, width, 3]
    """
    values = feature.float().nan_to_num(posinf=0, neginf=0)
    low, high = values.aminmax()
    fewer = F.adaptive_avg_pool2d(values[None], (min(len(values), width), min(values.shape[1], height)))[0]
    picture = fewer[steps_at(len(fewer), width)][:, steps_at(fewer.shape[1], height)].T
    return shades((picture - low) / (high - low).clamp_min(1e-9))


def width_of(text: str) -> int:
    """Width of a line of text in pixels."""
    return math.ceil(font().getlength(text))


def shortened(text: str, width: int) -> str:
    """A text of at most `width` pixels, cut and ended with dots if necessary."""
    if width_of(text) <= width:
        return text
    while text and width_of(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def wrap(text: str, width: int) -> list[str]:
    """Wrap a text into lines of at most `width` pixels; only a single long word may be wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font().getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def write(lines: list[str], width: int) -> Tensor:
    """Lines of text, black on white: uint8 [13 n, width, 3]; lines that are too long are cut."""
    picture = Image.new("RGB", (width, LINE * len(lines)), "white")
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        pen.text((1, number * LINE), line, "black", font())
    return to_tensor(picture)

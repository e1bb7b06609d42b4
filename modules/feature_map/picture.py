"""The map as a picture: points, axes, legend, and scores of the features."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from modules.core.files import write_whole
from modules.feature_map.colours import GREY, Colouring, Entry, rgb
from modules.feature_map.layout import Layout

WIDTH, HEIGHT = 1400, 900
FINE = 2
"""Drawn larger by this factor, and scaled down for smooth edges."""
LEFT, TOP, RIGHT, BOTTOM, LEGEND_LINE = 64, 96, 1040, 44, 24
INK, FAINT, LINE, PAPER, PANEL = "#1B1F24", "#5B6570", "#D5DAE0", "#FFFFFF", "#F6F8FA"
EDGE = (0, 0, 0, 90)


class Told(NamedTuple):
    """Text around the points."""

    title: str
    subtitle: str
    facts: list[str]


def draw_map(path: Path, layout: Layout, colouring: Colouring, told: Told) -> None:
    """Write the map as PNG.

    Args:
        path: file to write.
        layout: positions of the points.
        colouring: colouring of the points.
        told: title, and lines below.
    """
    facts = [line for fact in told.facts for line in _wrapped(fact, 14, WIDTH - 2 * LEFT)]
    height = HEIGHT + 20 * len(facts)
    picture = Image.new("RGB", (WIDTH * FINE, height * FINE), PAPER)
    pen = ImageDraw.Draw(picture, "RGBA")
    _write(pen, (LEFT, 22), _cut(told.title, 24, WIDTH - 2 * LEFT), 24)
    _write(pen, (LEFT, 58), _cut(told.subtitle, 15, WIDTH - 2 * LEFT), 15, FAINT)
    bottom = HEIGHT - BOTTOM
    _box(pen, LEFT, TOP, RIGHT, bottom)
    _points(pen, layout, colouring, (LEFT + 16, TOP + 16, RIGHT - 16, bottom - 16))
    _write(pen, ((LEFT + RIGHT) / 2, bottom + 8), layout.axes[0], 14, FAINT, "ma")
    _upwards(picture, (LEFT - 32, (TOP + bottom) / 2), layout.axes[1])
    _legend(pen, colouring)
    for number, fact in enumerate(facts):
        _write(pen, (LEFT, HEIGHT - 6 + 20 * number), fact, 14, FAINT)
    small = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    write_whole(path, lambda part: small.save(part, "PNG", optimize=True))


def _points(pen: ImageDraw.ImageDraw, layout: Layout, colouring: Colouring, box: tuple[int, int, int, int]) -> None:
    """Draw points in a box, with the same scale on both axes; grey points are below the others."""
    place = layout.place
    low, high = place.amin(0), place.amax(0)
    left, top, right, bottom = box
    unit = min((right - left) / max(float(high[0] - low[0]), 1e-12), (bottom - top) / max(float(high[1] - low[1]), 1e-12))
    middle = (low + high) / 2
    radius = max(2.0, min(6.0, 90 / len(place) ** 0.5))
    index = colouring.group.tolist()
    for number in sorted(layout.order().tolist(), key=lambda number: index[number] >= 0):
        x = (left + right) / 2 + float(place[number, 0] - middle[0]) * unit
        y = (top + bottom) / 2 - float(place[number, 1] - middle[1]) * unit
        entry = colouring.entries[index[number]] if index[number] >= 0 else Entry("", GREY, "circle", 0)
        _shape(pen, x, y, radius, entry)


def _shape(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, entry: Entry) -> None:
    x, y, radius = x * FINE, y * FINE, radius * FINE
    fill = (*rgb(entry.colour), 215)
    if entry.shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill, EDGE, 1)
        return
    corners = {
        "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
        "triangle": ((0, -1.1), (1.05, 0.8), (-1.05, 0.8)),
        "diamond": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
    }[entry.shape]
    pen.polygon([(x + a * radius, y + b * radius) for a, b in corners], fill, EDGE)


def _legend(pen: ImageDraw.ImageDraw, colouring: Colouring) -> None:
    """Draw groups with their counts (only the largest, if there is no space for all), or a scale."""
    x, y = RIGHT + 28, TOP
    _write(pen, (x, y), f"Colour: {colouring.name}" + (" (seconds)" if colouring.scale else ""), 16)
    y += 32
    if colouring.scale is not None:
        shades = len(colouring.entries)
        for number, entry in enumerate(reversed(colouring.entries)):
            pen.rectangle((x * FINE, (y + number * 5) * FINE, (x + 22) * FINE, (y + number * 5 + 5) * FINE), entry.colour)
        low, high = colouring.scale
        for place, value in ((0, high), (shades * 5 / 2, (low + high) / 2), (shades * 5, low)):
            _write(pen, (x + 34, y + place), f"{value:.1f}", 14, INK, "lm")
        return
    grey = int((colouring.group < 0).sum())
    room = (HEIGHT - BOTTOM - y) // LEGEND_LINE - (1 if grey else 0)
    shown = colouring.entries
    if len(shown) > room:
        shown = sorted(shown, key=lambda entry: -entry.points)[: room - 1]
    for entry in shown:
        _shape(pen, x + 8, y + 9, 6, entry)
        _write(pen, (x + 26, y), _cut(f"{entry.text}", 15, WIDTH - x - 100), 15)
        _write(pen, (WIDTH - 24, y), str(entry.points), 14, FAINT, "ra")
        y += LEGEND_LINE
    if hidden := len(colouring.entries) - len(shown):
        _write(pen, (x + 26, y), f"and {hidden} smaller ones", 14, FAINT)
        y += LEGEND_LINE
    if grey:
        _shape(pen, x + 8, y + 9, 6, Entry("", GREY, "circle", grey))
        _write(pen, (x + 26, y), "without a class", 15)
        _write(pen, (WIDTH - 24, y), str(grey), 14, FAINT, "ra")


def _box(pen: ImageDraw.ImageDraw, left: int, top: int, right: int, bottom: int) -> None:
    pen.rounded_rectangle((left * FINE, top * FINE, right * FINE, bottom * FINE), 6 * FINE, PANEL, LINE, FINE)


def _font(size: int, fine: int = FINE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * fine)


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: str = INK, anchor: str = "la"
) -> None:
    pen.text((place[0] * FINE, place[1] * FINE), _drawable(text), fill, _font(size), anchor)


def _upwards(picture: Image.Image, place: tuple[float, float], text: str) -> None:
    """Draw text from bottom to top, centred at a position."""
    font = _font(14)
    left, top, right, bottom = font.getbbox(_drawable(text))
    tile = Image.new("RGB", (int(right - left) + 8, int(bottom - top) + 8), PAPER)
    ImageDraw.Draw(tile).text((4 - left, 4 - top), _drawable(text), FAINT, font)
    turned = tile.rotate(90, expand=True)
    picture.paste(turned, (int(place[0] * FINE), int(place[1] * FINE - turned.height / 2)))


def _drawable(text: str) -> str:
    """A line without characters that cannot be drawn."""
    return " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")


def _cut(text: str, size: int, width: float) -> str:
    """Text shortened to a width in pixels, with an ellipsis if something is left out."""
    font, text = _font(size, 1), _drawable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _wrapped(text: str, size: int, width: float) -> list[str]:
    """Text in lines of at most a width in pixels."""
    font, lines = _font(size, 1), [""]
    for word in _drawable(text).split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines

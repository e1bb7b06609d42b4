"""The picture of a report: for each experiment a line from 0 to 100 points with published results as grey dots."""

import io
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

SCALE = 2
"""Pixels of the picture for one of the numbers below."""
LABELS, PLOT, RIGHT, LINE, TOP = 250, 560, 190, 26, 62
OWN, BAND, OTHER, TEXT, FAINT = (0, 114, 178), (158, 204, 230), (150, 150, 150), (30, 30, 30), (222, 222, 222)
# Okabe and Ito's blue for the encoder itself, and paler for its spread.


class Row(NamedTuple):
    """A line of the picture."""

    title: str
    value: float | None
    """points of the encoder; None where there are none"""
    spread: float
    """standard deviation over seeds, in points"""
    others: list[tuple[str, float]]
    """published methods and their points; empty for headings and where nothing was published"""


def draw_rows(title: str, rows: list[Row]) -> bytes:
    """Draw the lines below each other; a row without numbers is a heading.

    Returns:
        PNG
    """
    width, height = LABELS + PLOT + RIGHT, TOP + LINE * len(rows) + 50
    picture = Image.new("RGB", (SCALE * width, SCALE * height), "white")
    canvas = ImageDraw.Draw(picture)
    large, heading, normal, small = (ImageFont.load_default(SCALE * size) for size in (17, 14, 12, 10))

    def place(points: float) -> float:
        return SCALE * (LABELS + PLOT * min(max(points, 0.0), 100.0) / 100)

    canvas.text((SCALE * 16, SCALE * 14), title, TEXT, large)
    bottom = TOP + LINE * len(rows)
    for mark in range(0, 101, 20):
        canvas.line((place(mark), SCALE * (TOP - 6), place(mark), SCALE * bottom), FAINT, SCALE)
        canvas.text((place(mark), SCALE * (bottom + 4)), str(mark), TEXT, small, anchor="mt")
    for number, row in enumerate(rows):
        middle = SCALE * (TOP + LINE * number + LINE // 2)
        if row.value is None and not row.others:
            canvas.text((SCALE * 16, middle), row.title, TEXT, heading, anchor="lm")
            continue
        canvas.text((SCALE * 30, middle), row.title, TEXT, normal, anchor="lm")
        canvas.line((place(0), middle, place(100), middle), FAINT, SCALE)
        if row.value is not None and row.spread:
            # Taller than the dots, since it is often narrower than one.
            ends = place(row.value - row.spread), place(row.value + row.spread)
            canvas.rectangle((ends[0], middle - SCALE * 10, ends[1], middle + SCALE * 10), BAND)
        for _, points in row.others:
            _dot(canvas, place(points), middle, 4, OTHER)
        if row.value is None:
            canvas.text((SCALE * (LABELS + PLOT + 14), middle), "no result", OTHER, normal, anchor="lm")
            continue
        _dot(canvas, place(row.value), middle, 6, OWN)
        text = f"{row.value:.1f}" + (f" ± {row.spread:.1f}" if row.spread else "")
        better = sum(points > row.value for _, points in row.others)
        rank = f"  ({better + 1} of {len(row.others) + 1})" if row.others else ""
        canvas.text((SCALE * (LABELS + PLOT + 14), middle), text + rank, OWN, normal, anchor="lm")
    legend = SCALE * (bottom + 36)
    _dot(canvas, SCALE * 24, legend, 6, OWN)
    canvas.text((SCALE * 38, legend), "this encoder", TEXT, small, anchor="lm")
    meaning = "percent, the larger the better"
    if any(row.spread for row in rows):
        meaning += "; pale band: standard deviation over seeds"
    if any(row.others for row in rows):
        _dot(canvas, SCALE * 140, legend, 4, OTHER)
        canvas.text((SCALE * 152, legend), "published", TEXT, small, anchor="lm")
        meaning += "; in brackets: rank among published results"
    canvas.text((SCALE * LABELS, legend), meaning, TEXT, small, anchor="lm")
    stream = io.BytesIO()
    picture.resize((width * 3 // 2, height * 3 // 2), Image.Resampling.LANCZOS).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _dot(canvas: ImageDraw.ImageDraw, x: float, y: float, radius: int, colour: tuple[int, int, int]) -> None:
    reach = SCALE * radius
    canvas.ellipse((x - reach, y - reach, x + reach, y + reach), colour, "white", SCALE)

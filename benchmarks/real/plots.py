"""Plots of the study of real motion: labels against accuracy, and the trials of each search against validation."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from benchmarks.real.measured import Titles, Trial, baseline, ordered, ranked
from benchmarks.studies.compare_page import FAINT, OWN, SCALE, TEXT, Scores
from modules.feature_map.colours import FEW, GREY

FINETUNE = "finetune "
# The seventh, yellow, is hard to see on white.
COLOURS = FEW[:6]
HEADING = 14
PALE = (140, 140, 140)
Colour = str | tuple[int, int, int]
Place = tuple[float, float]


class Sheet:
    """A white picture, drawn finely and reduced at the end.

    Args:
        width: in units, of which `SCALE` pixels are drawn.
        height: in the same units.
    """

    def __init__(self, width: float, height: float) -> None:
        self._image = Image.new("RGB", (round(SCALE * width), round(SCALE * height)), "white")
        self._canvas = ImageDraw.Draw(self._image)

    def text(self, place: Place, text: str, size: int = 12, colour: Colour = TEXT, anchor: str = "lm") -> None:
        """Write a line; headings, which are larger, are bold."""
        font = ImageFont.load_default(SCALE * size)
        stroke = int(size >= HEADING)
        self._canvas.text((SCALE * place[0], SCALE * place[1]), text, colour, font, anchor, stroke_width=stroke)

    def line(self, start: Place, end: Place, colour: Colour, width: float = 1.0, dash: float = 0.0) -> None:
        """Draw a line, with a dash in pieces of this length and gaps of the same length."""
        length = math.dist(start, end)
        pieces = max(round(length / dash), 1) if dash else 1
        for piece in range(0, pieces, 2):
            ends = [
                (SCALE * (start[0] + (end[0] - start[0]) * share), SCALE * (start[1] + (end[1] - start[1]) * share))
                for share in (piece / pieces, (piece + 1) / pieces)
            ]
            self._canvas.line(ends, colour, round(SCALE * width))

    def dot(self, place: Place, radius: float, colour: Colour, edge: Colour = "white") -> None:
        """Draw a disc with an edge."""
        x, y, reach = SCALE * place[0], SCALE * place[1], SCALE * radius
        self._canvas.ellipse((x - reach, y - reach, x + reach, y + reach), colour, edge, SCALE)

    def png(self) -> bytes:
        """The picture."""
        stream = io.BytesIO()
        size = (self._image.width * 3 // 4, self._image.height * 3 // 4)
        # Few colours suffice for lines and letters, and make smaller files.
        self._image.resize(size, Image.Resampling.LANCZOS).quantize(128).save(stream, "PNG", optimize=True)
        return stream.getvalue()


class Curve(NamedTuple):
    """Accuracy of a row by share of the labels."""

    title: str
    colour: str
    hollow: bool
    dashed: bool
    points: dict[float, list[float]]
    """accuracies of the seeds by percent of the labels"""


def curves(titles: Titles, scores: Mapping[str, Sequence[Scores]], network: str) -> list[Curve]:
    """Rows of a network that were fine-tuned or trained from scratch."""
    found: list[Curve] = []
    for key in ordered(titles):
        title, own = titles[key]
        measures = {name for one in scores.get(key, []) for name in one if name.startswith(FINETUNE)}
        if own != network or not measures:
            continue
        points = {float(name.removeprefix(FINETUNE)): [one[name] for one in scores[key] if name in one] for name in measures}
        scratch = baseline(key) is not None
        number = sum(not curve.dashed for curve in found)
        colour = GREY if scratch else COLOURS[number % len(COLOURS)]
        hollow = not scratch and number >= len(COLOURS)
        found.append(Curve(title, colour, hollow, scratch, dict(sorted(points.items()))))
    return found


def draw_labels(titles: Titles, scores: Mapping[str, Sequence[Scores]]) -> bytes | None:
    """A panel for each network: percent of the labels against accuracy, a curve for each row, bars over all seeds.

    Returns:
        PNG; None if nothing was fine-tuned
    """
    networks = dict.fromkeys(network for _, network in titles.values())
    panels = {network: found for network in networks if (found := curves(titles, scores, network))}
    if not panels:
        return None
    width, plot, left, top, line = 420, 340, 56, 44, 20
    longest = max(map(len, panels.values()))
    sheet = Sheet(width * len(panels), top + plot + 56 + line * longest + 14)
    for number, (network, found) in enumerate(panels.items()):
        _labels_panel(sheet, (width * number + left, top), (width - left - 30, plot), network, found, line)
    return sheet.png()


def _labels_panel(sheet: Sheet, corner: Place, size: Place, network: str, found: list[Curve], line: float) -> None:
    left, top = corner
    width, height = size
    shares = sorted({share for curve in found for share in curve.points})
    highest = 10 * math.ceil(max(value for curve in found for values in curve.points.values() for value in values) / 10)

    def across(share: float) -> float:
        low, high = math.log(shares[0]), math.log(shares[-1])
        # Room on both sides, for curves that stand next to each other.
        return left + 16 + (width - 32) * ((math.log(share) - low) / (high - low) if high > low else 0.5)

    def up(value: float) -> float:
        return top + height * (1 - value / max(highest, 10))

    sheet.text((left - 36, top - 24), f"{network}: accuracy (percent)", HEADING)
    for mark in range(0, max(highest, 10) + 1, 10):
        sheet.line((left, up(mark)), (left + width, up(mark)), FAINT)
        sheet.text((left - 8, up(mark)), str(mark), 11, anchor="rm")
    for share in shares:
        sheet.line((across(share), top), (across(share), top + height), FAINT)
        sheet.text((across(share), top + height + 12), f"{share:g} %", 11, anchor="mm")
    sheet.text((left + width / 2, top + height + 30), "labelled clips (percent of all)", 11, anchor="mm")
    for number, curve in enumerate(found):
        # Aside, so that the lines of equal shares do not cover each other.
        aside = 2.5 * (number - (len(found) - 1) / 2)
        places = {share: across(share) + aside for share in curve.points}
        means = [(places[share], up(sum(values) / len(values))) for share, values in curve.points.items()]
        for start, end in itertools.pairwise(means):
            sheet.line(start, end, curve.colour, 2, dash=6 if curve.dashed else 0)
        for share, values in curve.points.items():
            sheet.line((places[share], up(min(values))), (places[share], up(max(values))), curve.colour, 1.5)
        for place in means:
            _marker(sheet, place, curve)
        y = top + height + 56 + line * number
        sheet.line((left - 36, y), (left - 6, y), curve.colour, 2, dash=6 if curve.dashed else 0)
        _marker(sheet, (left - 21, y), curve)
        sheet.text((left + 2, y), curve.title, 12)


def _marker(sheet: Sheet, place: Place, curve: Curve) -> None:
    colours = ("white", curve.colour) if curve.hollow else (curve.colour, "white")
    sheet.dot(place, 4.5, *colours)


def draw_trials(titles: Titles, trials: Sequence[Trial]) -> bytes | None:
    """A line for each searched row: each trial a point at its mean of both probes, and the untrained network across.

    Returns:
        PNG; None if no trial has a score
    """
    scored = [trial for trial in trials if trial.score is not None]
    shown = {trial.method for trial in scored}
    groups: dict[str, list[str]] = {}
    for key in ordered(titles):
        if key in shown and baseline(key) not in ("untrained", "scratch"):
            groups.setdefault(titles[key][1], []).append(key)
    if not groups:
        return None
    values = [trial.score or 0.0 for trial in scored]
    low, high = 5 * math.floor(min(values) / 5), 5 * math.floor(max(values) / 5) + 5
    labels, plot, right, line, top = 190, 460, 130, 26, 34
    height = sum(top + line * len(keys) + 40 for keys in groups.values())
    sheet = Sheet(labels + plot + right, height + 34)

    def across(value: float) -> float:
        return labels + plot * (value - low) / (high - low)

    y: float = 0
    for network, keys in groups.items():
        base = [one.score for one in scored if baseline(one.method) == "untrained" and titles[one.method][1] == network]
        first, last = y + top, y + top + line * len(keys)
        sheet.text((12, y + 18), network, HEADING)
        for mark in range(low, high + 1, 5):
            sheet.line((across(mark), first), (across(mark), last), FAINT)
            sheet.text((across(mark), last + 12), str(mark), 11, anchor="mm")
        for value in base:
            sheet.line((across(value or 0.0), first), (across(value or 0.0), last), PALE, 2, dash=5)
        for number, key in enumerate(keys):
            middle = first + line * (number + 0.5)
            own = [trial.score for trial in ranked(scored, key) if trial.score is not None]
            sheet.text((12, middle), titles[key][0], 12)
            sheet.line((across(low), middle), (across(high), middle), FAINT)
            # Alternately above and below the line, since equal scores are frequent.
            for place, value in reversed(list(enumerate(own))):
                aside = 0.0 if place == 0 else 3.0 if place % 2 else -3.0
                sheet.dot((across(value), middle + aside), 5.5 if place == 0 else 4, OWN if place == 0 else "#9ECAE1")
            sheet.text((across(high) + 16, middle), f"{own[0]:.1f}, best of {len(own)}", 12, OWN)
        y = last + 40
    _legend(sheet, y + 4)
    return sheet.png()


def _legend(sheet: Sheet, y: float) -> None:
    sheet.dot((18, y), 5.5, OWN)
    sheet.text((28, y), "best", 11)
    sheet.dot((88, y), 4, "#9ECAE1")
    sheet.text((98, y), "other trials", 11)
    sheet.line((178, y), (208, y), PALE, 2, dash=5)
    sheet.text((216, y), "untrained network", 11)
    sheet.text((350, y), "percent on the validation subject, mean of linear and attentive probe", 11)

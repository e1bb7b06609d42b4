"""Files and pictures of the per-class results of a test."""

from pathlib import Path

import torch
from lightning.pytorch import Trainer
from PIL import Image, ImageDraw
from torch import Tensor

from callbacks.pictures import write_film
from callbacks.reports.tables import columns_of, write_table
from modules.core.output import Columns
from modules.downstream.metrics.classes import ClassReport
from modules.layers.drawing.streams import LINE, font, shortened, to_tensor, width_of

SIDE, SMALLEST, LARGEST = 660, 2, 44
"""Target side of a matrix in pixels, within the limits of the cell size."""
WRITTEN = 26
"""Minimum side of cells that show their percentage."""
NAME, LIST, GAP = 150, 330, 12
"""Width of class names, width of the list of pairs, and margin, in pixels."""
PAIRS = 20
"""Number of listed pairs of classes."""
TICKS = (0, 5, 20, 50, 100)
"""Percentages shown in the colour scale."""
PAPER, INK, FULL, NOTHING = (255, 255, 255), (0, 0, 0), (0, 60, 120), (225, 225, 225)


def write_report(trainer: Trainer, report: ClassReport, result: Path) -> None:
    """Write `<result>_classes.csv` next to a result file. If samples have one class each, also write `<result>_confusion.csv`,
    with a row for each true class, and a picture of this matrix.

    Args:
        trainer: trainer with the folder and the loggers.
        report: report of the test.
        result: result file of the test.
    """
    write_table(result.with_name(f"{result.stem}_classes.csv"), columns_of(report.rows()))
    if report.confusion is None:
        return
    names = report.names
    if len({"class", *names}) <= len(names):
        # Column names must differ.
        names = [f"{number} {name}" for number, name in enumerate(names)]
    matrix: Columns = {"class": list(names)} | dict(zip(names, report.confusion.T.tolist(), strict=True))
    write_table(result.with_name(f"{result.stem}_confusion.csv"), matrix)
    write_film(trainer, f"confusion_{result.stem}", trainer.global_step, draw_confusion(report)[None])


def draw_confusion(report: ClassReport) -> Tensor:
    """A confusion matrix, with a list of the most frequently confused pairs of classes.

    A row is a true class; the darkness of a cell is the fraction of its samples that are predicted as the class of the column.
    Names are written if they fit, otherwise for every second class and so on; percentages if cells are large enough.

    Args:
        report: report with a matrix.

    Returns:
        uint8 [H, W, 3]
    """
    assert report.confusion is not None
    classes = len(report.names)
    cell = min(LARGEST, max(SMALLEST, SIDE // classes))
    side = cell * classes
    margin = GAP + max(width_of(shortened(name, NAME)) for name in report.names) + 4
    left, top = margin, 3 * LINE + margin
    height = max(top + side + 4 * LINE + GAP, 3 * LINE + (PAIRS + 3) * LINE)
    picture = Image.new("RGB", (max(left + side, 360) + 2 * GAP + LIST, height), PAPER)
    pen = ImageDraw.Draw(picture)
    right, total = int(report.confusion.diagonal().sum()), int(report.count.sum())
    pen.text((GAP, 4), f"{right} of {total} right: {100 * right / max(1, total):.1f} %", INK, font())
    pen.text((GAP, 4 + LINE), "Rows: true classes. Columns: what they are taken for, in percent of the row.", INK, font())
    share = report.confusion / report.count.clamp_min(1)[:, None]
    colours = _colours(share)
    colours[report.count == 0] = torch.tensor(NOTHING, dtype=torch.uint8)
    cells = colours.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    picture.paste(Image.fromarray(cells.numpy()), (left, top))
    pen.rectangle((left - 1, top - 1, left + side, top + side), outline=INK)
    if cell >= WRITTEN:
        for row, column in (report.confusion > 0).nonzero().tolist():
            value = float(share[row, column])
            place = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
            pen.text(place, f"{100 * value:.0f}", PAPER if value > 0.2 else INK, font(), "mm")
    every = -(-LINE // cell)
    for number in range(0, classes, every):
        middle, name = round((number + 0.5) * cell), shortened(report.names[number], NAME)
        pen.text((left - 4, top + middle), name, INK, font(), "rm")
        upright = Image.new("L", (width_of(name) + 2, LINE), 0)
        ImageDraw.Draw(upright).text((0, LINE // 2), name, 255, font(), "lm")
        turned = upright.rotate(90, expand=True)
        picture.paste(INK, (left + middle - LINE // 2, top - 4 - turned.height), turned)
    _draw_scale(picture, left, top + side + LINE)
    _list_pairs(pen, report, max(left + side, 360) + 2 * GAP)
    return to_tensor(picture)


def _colours(share: Tensor) -> Tensor:
    """Colours of fractions from 0 to 1, by square root to make small ones visible: float [...] -> uint8 [..., 3]."""
    paper, full = (torch.tensor(colour, dtype=torch.float32) for colour in (PAPER, FULL))
    return torch.lerp(paper, full, share.float().sqrt()[..., None]).round().byte()


def _draw_scale(picture: Image.Image, left: int, top: int) -> None:
    """Draw the colour scale with some percentages."""
    pen = ImageDraw.Draw(picture)
    for number, tick in enumerate(TICKS):
        colour = tuple(_colours(torch.tensor(tick / 100)).tolist())
        x = left + 55 * number
        pen.rectangle((x, top, x + 14, top + LINE), colour, INK)
        pen.text((x + 18, top + 1), f"{tick} %", INK, font())


def _list_pairs(pen: ImageDraw.ImageDraw, report: ClassReport, left: int) -> None:
    """Write the most frequently confused pairs below each other."""
    found = report.most_confused(PAIRS)
    pen.text((left, 4), "Most often confused" if found else "No class is taken for another.", INK, font())
    for line, pair in enumerate(found, 2):
        names = [shortened(report.names[number], 105) for number in (pair.true, pair.predicted)]
        told = f"{names[0]} taken for {names[1]}"
        pen.text((left, 4 + line * LINE), f"{pair.times} of {pair.of}", INK, font())
        pen.text((left + 55, 4 + line * LINE), told, INK, font())

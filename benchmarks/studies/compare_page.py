"""The page of the comparison of all methods, made from its JSON files alone: tables, sentences, and a picture."""

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from benchmarks.studies.blocks import filled, marks
from benchmarks.studies.compare_rows import ROWS, SUPERVISED, UNTRAINED, Row
from datamodules.sets.utd_mhad import ACTIONS
from modules.core.files import read_json, write_whole
from modules.severe.experiments import ALL, FACTORS, Experiment
from modules.severe.published import points

BLOCK = "compare.py"
START, END = marks(BLOCK)
EVERYTHING = "all"
UTD = {"linear": "UTD linear", "knn": "UTD kNN", "linear_few": "UTD 10 %"}
AXES = (*FACTORS, EVERYTHING)
MEANINGS = {
    "domain": "backgrounds, objects and noise that are new",
    "samples": "few labels",
    "actions": "classes that differ in little",
    "task": "other tasks than classification",
}
COLUMNS = (*AXES, *UTD)
"""Of the table."""
Scores = dict[str, float]
"""Points from 0 to 100 by column or experiment."""


class Measured(NamedTuple):
    """What there is of a row and a seed."""

    row: Row
    seed: int
    pretraining: dict[str, Any]
    severe: dict[str, Any]
    utd: dict[str, Any]

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Results of experiments by name."""
        return {one["experiment"]: one for one in self.severe.get("results", [])}

    @property
    def minutes(self) -> float:
        """Of all its parts."""
        return sum(part.get("seconds", 0.0) for part in (self.pretraining, self.severe, self.utd)) / 60


class Comparison(NamedTuple):
    """All that there is."""

    measured: list[Measured]
    run: dict[str, Any]
    """machine, and minutes of it all"""

    @property
    def experiments(self) -> list[Experiment]:
        """Those of which there is a number, in the order of their tables."""
        found = {name for one in self.measured for name in one.results}
        return [one for name, one in ALL.items() if name in found]

    def scores(self, row: Row) -> list[Scores]:
        """Of each seed, the numbers that there are; of an axis only where all of its experiments are there."""
        found = []
        for one in self.measured:
            if one.row != row:
                continue
            values = {name: points(ALL[name].is_error, result["value"]) for name, result in one.results.items()}
            found.append(values | means(values, self.experiments) | {name: one.utd[name] for name in UTD if name in one.utd})
        return found

    def chance(self) -> Scores:
        """What guessing scores, where that is defined: in classification with classes of equal size."""
        known = {name: result for one in self.measured for name, result in one.results.items()}
        guessed = {name: one for name, one in known.items() if ALL[name].metric == "test/top1" and "classes" in one}
        values = {name: 100 / one["classes"] for name, one in guessed.items()}
        on_depth = dict.fromkeys(UTD, 100 / len(ACTIONS)) if any(one.utd for one in self.measured) else {}
        return values | means(values, self.experiments) | on_depth


def means(values: Mapping[str, float], experiments: list[Experiment]) -> Scores:
    """Mean of each axis and of all, where all of its experiments are there."""
    found = {}
    for axis in AXES:
        own = [one.name for one in experiments if axis in (one.factor, EVERYTHING)]
        if own and all(name in values for name in own):
            found[axis] = sum(values[name] for name in own) / len(own)
    return found


def read_results(out: Path) -> Comparison:
    """All results below the folder of a comparison."""
    measured = []
    for row in ROWS:
        for folder in sorted((out / row.key).glob("seed*"), key=lambda path: int(path.name.removeprefix("seed"))):
            parts = (read_json(folder / f"{name}.json") for name in ("pretraining", "severe", "utd_mhad"))
            measured.append(Measured(row, int(folder.name.removeprefix("seed")), *parts))
    return Comparison(measured, read_json(out / "run.json"))


def mean(found: list[Scores], column: str) -> float | None:
    """Mean over the seeds that have the column."""
    values = [scores[column] for scores in found if column in scores]
    return sum(values) / len(values) if values else None


def spread(found: list[Scores], column: str) -> float:
    """Largest minus smallest."""
    values = [scores[column] for scores in found if column in scores]
    return max(values) - min(values) if values else 0.0


def cell(found: list[Scores], column: str) -> str:
    """A cell of a table: the mean, and with several seeds the spread in brackets."""
    value = mean(found, column)
    if value is None:
        return ""
    several = sum(column in scores for scores in found) > 1
    return f"{value:.1f}" + (f" ({spread(found, column):.1f})" if several else "")


def table(comparison: Comparison, columns: Mapping[str, str]) -> list[str]:
    """A row for each of `ROWS`, and chance.

    Args:
        comparison: results.
        columns: titles by column or experiment.
    """
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" + "|---:" * len(columns) + "|"]
    for row in ROWS:
        title = f"{row.title}: {row.impossible}" if row.impossible else row.title
        cells = [cell(comparison.scores(row), name) for name in columns]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines.append("| chance | " + " | ".join(cell([comparison.chance()], name) for name in columns) + " |")
    return lines


def pretraining_table(comparison: Comparison) -> list[str]:
    """Steps, losses and time of each row and seed."""
    lines = [
        "| | seed | encoder | steps | first loss | last loss | pretraining, s | mini-SEVERE, s | UTD-MHAD, s |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in comparison.measured:
        trained = one.row not in UNTRAINED.values()
        losses = one.pretraining.get("loss") or []
        shown = [f"{value:.3g}" for value in losses] if trained and losses else ["", ""]
        steps = one.pretraining.get("steps", "") if trained else 0
        took = [f"{part['seconds']:.0f}" if "seconds" in part else "" for part in (one.pretraining, one.severe, one.utd)]
        took[0] += " (resumed)" if one.pretraining.get("resumed") else ""
        cells = [one.row.title, str(one.seed), one.row.network, str(steps), *shown, *took]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdicts(comparison: Comparison) -> list[str]:
    """For each column, which rows end above their untrained network by more than the seeds of either differ, or below."""
    lines = []
    titles = {EVERYTHING: "mean of all"} | UTD
    for column in COLUMNS:
        groups: dict[str, list[str]] = {"above": [], "within the spread": [], "below": []}
        for row in ROWS:
            base = comparison.scores(UNTRAINED[row.network]) if row.network else []
            own = comparison.scores(row)
            value, least = mean(own, column), mean(base, column)
            if row in UNTRAINED.values() or value is None or least is None:
                continue
            difference, needed = value - least, max(spread(own, column), spread(base, column))
            group = "above" if difference > needed else "below" if difference < -needed else "within the spread"
            groups[group].append(f"{row.title} ({difference:+.1f})")
        said = "; ".join(f"{group}: {', '.join(names)}" for group, names in groups.items() if names)
        if said:
            lines.append(f"* **{titles.get(column, column)}**. {said[0].upper()}{said[1:]}.")
    return lines


def generated(comparison: Comparison, picture: str) -> str:
    """What stands between the markers of the page.

    Args:
        comparison: results.
        picture: name of the picture, next to the page.
    """
    run, measured = comparison.run, comparison.measured
    seeds = {row: sum(one.row == row for one in measured) for row in ROWS}
    trained = [row for row in ROWS if row not in UNTRAINED.values() and seeds[row]]
    several = Counter(seeds[row] for row in trained)
    each = ", ".join(f"{rows} with {count} seed{'s' * (count > 1)}" for count, rows in sorted(several.items()))
    few = next((one.utd["recordings"][2] for one in measured if one.utd), 0)
    lines = [
        f"Trained rows: {each or 'none'}. Untrained networks have {max(seeds[row] for row in UNTRAINED.values())} seeds.",
        f"It took {run.get('minutes', 0):.0f} minutes on {run.get('cores')} cores ({run.get('machine')}), with "
        f"{run.get('processes')} rows at a time, {run.get('threads')} thread(s) each, PyTorch {run.get('torch')}.",
        "",
        *table(comparison, {**{axis: axis for axis in AXES}, **UTD}),
        "",
        "Points from 0 to 100, higher is better: percent, for counting 100 (1 - error). An axis is the mean of its",
        f"experiments, `{EVERYTHING}` the mean of all experiments. In brackets: largest minus smallest of the seeds.",
        f"`{UTD['linear_few']}` uses {few} labelled recordings.",
        "",
        f"![Methods on each axis, with their untrained and supervised networks]({picture})",
        "",
        "Differences to the untrained network of the same class. `Within the spread` are those that are not larger than the",
        "difference between the seeds of either row:",
        "",
        *verdicts(comparison),
        "",
        "All experiments:",
        "",
        *table(comparison, {one.name: f"{one.title} ({one.factor})" for one in comparison.experiments}),
        "",
        "Pretraining and time:",
        "",
        *pretraining_table(comparison),
        "",
    ]
    return "\n".join(lines)


def write_page(page: Path, comparison: Comparison) -> None:
    """Fill a page between its markers, and draw its picture next to it.

    Raises:
        SettingError: if the page has no markers.
    """
    picture = page.with_suffix(".png")
    content = filled(page, {BLOCK: generated(comparison, picture.name)})
    write_whole(picture, lambda part: part.write_bytes(draw(comparison)))
    write_whole(page, lambda part: part.write_text(content))


SCALE = 2
"""Pixels drawn for one of the numbers below; the picture has half as many again."""
LABELS, PLOT, RIGHT, LINE, HEAD = 150, 300, 60, 22, 44
OWN, LOWEST, HIGHEST = (0, 114, 178), (120, 120, 120), (213, 94, 0)
# Okabe and Ito's blue and vermilion.
TEXT, FAINT = (30, 30, 30), (224, 224, 224)


def draw(comparison: Comparison) -> bytes:
    """A plot for each axis: a dot for each method, against its untrained network (grey) and its supervised one (orange).

    Returns:
        PNG
    """
    rows = [row for row in ROWS if row.module and not row.impossible]
    width, height = LABELS + PLOT + RIGHT, HEAD + LINE * len(rows) + 26
    sheet = Image.new("RGB", (SCALE * 2 * width, SCALE * (2 * height + 30)), "white")
    canvas = ImageDraw.Draw(sheet)
    normal, small = (ImageFont.load_default(SCALE * size) for size in (12, 10))
    for number, (axis, meaning) in enumerate(MEANINGS.items()):
        left, top = number % 2 * width, number // 2 * height

        def place(value: float, left: int = left) -> float:
            return SCALE * (left + LABELS + PLOT * min(max(value, 0.0), 100.0) / 100)

        bottom = top + HEAD + LINE * len(rows)
        canvas.text((SCALE * (left + 12), SCALE * (top + 14)), f"{axis}: {meaning}", TEXT, normal, stroke_width=1)
        for mark in range(0, 101, 20):
            canvas.line((place(mark), SCALE * (top + HEAD - 4), place(mark), SCALE * bottom), FAINT, SCALE)
            canvas.text((place(mark), SCALE * (bottom + 3)), str(mark), TEXT, small, anchor="mt")
        for line, row in enumerate(rows):
            middle = SCALE * (top + HEAD + LINE * line + LINE // 2)
            canvas.text((SCALE * (left + 12), middle), row.title, TEXT, normal, anchor="lm")
            canvas.line((place(0), middle, place(100), middle), FAINT, SCALE)
            for peers, colour in ((UNTRAINED, LOWEST), (SUPERVISED, HIGHEST)):
                _band(canvas, [place(one[axis]) for one in _of(comparison, peers, row) if axis in one], middle, colour)
            value = mean(comparison.scores(row), axis)
            if value is not None:
                reach = SCALE * 5
                x = place(value)
                canvas.ellipse((x - reach, middle - reach, x + reach, middle + reach), OWN, "white", SCALE)
            said = "no result" if value is None else f"{value:.1f}"
            canvas.text((place(100) + SCALE * 10, middle), said, OWN if value is not None else LOWEST, normal, anchor="lm")
    y = SCALE * (2 * height + 12)
    legend = [("method", OWN), ("untrained, all seeds", LOWEST), ("supervised with the labels of the motion", HIGHEST)]
    x = SCALE * 12
    for said, colour in legend:
        canvas.rectangle((x, y - SCALE * 4, x + SCALE * 8, y + SCALE * 4), colour)
        canvas.text((x + SCALE * 14, y), said, TEXT, small, anchor="lm")
        x += SCALE * 30 + int(canvas.textlength(said, small))
    stream = io.BytesIO()
    size = (sheet.width * 3 // 4, sheet.height * 3 // 4)
    sheet.resize(size, Image.Resampling.LANCZOS).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _of(comparison: Comparison, peers: Mapping[str, Row], row: Row) -> list[Scores]:
    return comparison.scores(peers[row.network]) if row.network in peers else []


def _band(canvas: ImageDraw.ImageDraw, places: list[float], middle: float, colour: tuple[int, int, int]) -> None:
    """A bar from the lowest to the highest seed, as wide as a line where they are the same."""
    if places:
        canvas.rectangle((min(places) - SCALE, middle - SCALE * 8, max(places) + SCALE, middle + SCALE * 8), colour)

"""The report of SEVERE: a table beside published rows, as Markdown, as a page and as a picture. Its numbers are those of the
JSON files alone.
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from modules.core.files import write_json, write_whole
from modules.severe.drawing import Row, draw_rows
from modules.severe.experiments import ALL, FACTORS, MINI_FACTORS, NOT_KNOWN, SUBSET, TABLES, Experiment, Factor, Preset
from modules.severe.published import COLUMNS, PUBLISHED, points, severe_score
from modules.severe.results import all_results

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 82rem; margin: 2rem auto; padding: 0 1rem; }
h1, th:first-child, td:first-child { overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { white-space: nowrap; padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; max-width: 19rem; }
tr.own { font-weight: 600; background: #0072b222; }
.scroll { overflow-x: auto; }
img { width: 100%; min-width: 44rem; max-width: 64rem; background: white; }
"""


MINI_NOTE = (
    "Generated clips and a frozen encoder: numbers of this project, which cannot be compared with published ones. In percent: "
    "accuracy, and mean average precision of detection and of several labels; counting is the mean absolute error, lower is "
    "better. Means take 100 (1 - error) for it."
)
PICTURE = "Results as points"


def caption_of(preset: Preset) -> str:
    """Heading of the experiments that are not columns."""
    return "experiment" if preset == "mini" else "further experiment"


class Cell(NamedTuple):
    """The numbers of an experiment over its seeds."""

    experiment: Experiment
    numbers: list[float]
    """one for each seed"""
    classes: int | None = None
    """from which one is chosen; None for other metrics than accuracy"""

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return mean(self.numbers)

    def chance(self) -> str:
        """Accuracy of guessing among classes of equal size; a dash for other metrics."""
        return f"{100 / self.classes:.1f}" if self.classes else "-"

    def text(self) -> str:
        """As in the tables, with the standard deviation where there are several seeds."""
        digits = 3 if self.experiment.is_error else 1
        spread = f" ± {stdev(self.numbers):.{digits}f}" if len(self.numbers) > 1 else ""
        return f"{self.value:.{digits}f}{spread}"


class Report(NamedTuple):
    """All that is in the report."""

    encoder: str
    preset: Preset
    cells: dict[str, Cell]
    """by the name of the experiment"""
    missing: list[str]
    """sentences about what is not there"""
    unverified: list[str]
    seeds: list[int]
    spread: float
    """standard deviation of the mean over seeds; 0 unless each of several seeds has all experiments"""

    @property
    def counted(self) -> tuple[Experiment, ...]:
        """The experiments of which a mean is made."""
        return TABLES[self.preset]

    @property
    def title(self) -> str:
        """Of the report."""
        return f"{'mini-SEVERE' if self.preset == 'mini' else 'SEVERE'}: {self.encoder}"

    def mean_of(self, experiments: Sequence[Experiment]) -> float | None:
        """Mean of some experiments in points, where all are there."""
        return severe_score({name: cell.value for name, cell in self.cells.items()}, experiments)

    @property
    def score(self) -> float | None:
        """The mean, where all experiments are there."""
        return self.mean_of(self.counted)

    def of_factor(self, factor: Factor) -> list[Experiment]:
        """The experiments of one kind that count in the mean."""
        return [one for one in self.counted if one.factor == factor]


def read_report(out: Path, encoder: str, preset: Preset, wanted: list[Experiment], seeds: list[int]) -> Report:
    """Collect the results in a folder.

    Args:
        out: the folder.
        encoder: name of its file.
        preset: whose published rows stand beside.
        wanted: experiments that were asked for.
        seeds: that were asked for.
    """
    results, counted = all_results(out), TABLES[preset]
    numbers: dict[str, list[float]] = {}
    classes: dict[str, int] = {}
    for content in results:
        numbers.setdefault(content["experiment"], []).append(float(content["value"]))
        if content["metric"] == "test/top1" and "classes" in content:
            classes[content["experiment"]] = content["classes"]
    known = {name: one for name, one in ALL.items() if one in counted or one in wanted or name in numbers}
    cells = {name: Cell(one, numbers[name], classes.get(name)) for name, one in known.items() if name in numbers}
    missing = [f"{one.title}: no result." for one in (*counted, *wanted) if one.name not in cells]
    missing = list(dict.fromkeys(missing))
    for name, cell in cells.items():
        if len(cell.numbers) < len(seeds):
            missing.append(f"{cell.experiment.title}: {len(cell.numbers)} of {len(seeds)} seeds.")
        missing += unread(cell.experiment, [content["videos"] for content in results if content["experiment"] == name])
    doubted: dict[str, list[str]] = {}
    for name, cell in cells.items():
        for text in next(content["unverified"] for content in results if content["experiment"] == name):
            doubted.setdefault(text, []).append(cell.experiment.title)
    unverified = [text if len(titles) == len(cells) else f"{text} ({', '.join(titles)})" for text, titles in doubted.items()]
    by_seed: dict[int, dict[str, float]] = {}
    for content in results:
        by_seed.setdefault(int(content["seed"]), {})[content["experiment"]] = float(content["value"])
    scores = [score for found in by_seed.values() if (score := severe_score(found, counted)) is not None]
    spread = stdev(scores) if len(scores) == len(by_seed) > 1 else 0.0
    return Report(encoder, preset, cells, missing, unverified, sorted(by_seed), spread)


SPLITS = {"train": "training", "val": "validation", "test": "test"}


def unread(experiment: Experiment, videos: list[dict[str, dict[str, int]]]) -> list[str]:
    """Sentences about the videos of an experiment that could not be read.

    Args:
        experiment: that they are of.
        videos: of each seed, how many were used and missed by split.
    """
    found = []
    for split, name in SPLITS.items():
        counts = [one[split] for one in videos if split in one]
        worst = max(counts, key=lambda one: one["missed"], default={"missed": 0})
        if worst["missed"]:
            every = worst["used"] + worst["missed"]
            found.append(f"{experiment.title}: {worst['missed']} of {every} {name} videos could not be read.")
    return found


def header(preset: Preset) -> list[str]:
    """Names of the columns: the eight experiments, or of the preset mini the factors."""
    names = list(FACTORS) if preset == "mini" else [one.title for one in SUBSET]
    return ["", *names, "mean"]


def own_row(report: Report) -> list[str]:
    """The encoder's row."""
    score = report.score
    if report.preset == "mini":
        means = [report.mean_of(report.of_factor(factor)) for factor in FACTORS]
        cells = [f"{value:.1f}" if value is not None else "-" for value in means]
    else:
        cells = [report.cells[name].text() if name in report.cells else "-" for name in COLUMNS]
    spread = f" ± {report.spread:.1f}" if report.spread else ""
    return [report.encoder, *cells, f"{score:.1f}{spread}" if score is not None else "-"]


def published_rows(preset: Preset) -> list[list[str]]:
    """The published rows, with the mean of their numbers."""
    rows = []
    for name, numbers in PUBLISHED[preset].items():
        cells = [f"{number:.{3 if one.is_error else 1}f}" for one, number in zip(SUBSET, numbers, strict=True)]
        score = severe_score(dict(zip(COLUMNS, numbers, strict=True)))
        rows.append([name, *cells, f"{score:.1f}"])
    return rows


def further_rows(report: Report) -> list[list[str]]:
    """Experiments that are not columns of the table: title, factor, chance, number."""
    return [
        [cell.experiment.title, cell.experiment.factor, cell.chance(), cell.text()]
        for name, cell in report.cells.items()
        if name not in COLUMNS
    ]


def notes(report: Report) -> list[str]:
    """Sentences below the table."""
    networks = {"cnn": "R(2+1)D-18", "vit": "ViT-B"}
    lines = (
        [MINI_NOTE]
        if report.preset == "mini"
        else [
            f"Published rows: {networks[report.preset]}, pretrained on Kinetics-400. Accuracy in percent; UCF-RC is the mean "
            "absolute error of counting, lower is better; Charades is mean average precision. The mean takes 100 (1 - error) "
            "for UCF-RC.",
        ]
    )
    if report.score is None:
        lines.append(f"There is no mean: it needs all {len(report.counted)} experiments, and none of them is estimated.")
    if len(report.seeds) > 1:
        lines.append(f"± is the standard deviation over seeds ({', '.join(map(str, report.seeds))}).")
    lines += [f"Unverified: {text}." for text in report.unverified]
    if report.preset != "mini":
        lines += [f"Not in this benchmark: {name} ({why})." for name, why in NOT_KNOWN.items()]
    return lines


def as_markdown(report: Report) -> str:
    """The report as Markdown."""
    columns, caption = header(report.preset), caption_of(report.preset)
    lines = [f"# {report.title}", "", f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    rows = [[f"**{cell}**" for cell in own_row(report)], *published_rows(report.preset)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    if further := further_rows(report):
        lines += ["", f"| {caption} | factor | chance | result |", "|---|---|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in further]
    if report.missing:
        lines += ["", "## Missing", "", *(f"* {text}" for text in report.missing)]
    lines += ["", "## Notes", "", *(f"* {text}" for text in notes(report)), "", f"![{PICTURE}](report.png)"]
    return "\n".join(lines) + "\n"


def as_page(report: Report, picture: bytes) -> str:
    """The report as one page that needs no other file."""

    def table(head: list[str], rows: list[list[str]], own: int | None = None) -> str:
        cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        body = "".join(
            f"<tr{' class=own' if place == own else ''}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
            for place, row in enumerate(rows)
        )
        return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'

    def bullets(texts: list[str]) -> str:
        return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"

    further = further_rows(report)
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(report.title)}</title><style>{STYLE}</style>",
            f"<h1>{html.escape(report.title)}</h1>",
            table(header(report.preset), [own_row(report), *published_rows(report.preset)], own=0),
            table([caption_of(report.preset), "factor", "chance", "result"], further) if further else "",
            f'<div class="scroll"><img alt="{PICTURE}" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></div>',
            f"<h2>Missing</h2>{bullets(report.missing)}" if report.missing else "",
            f"<h2>Notes</h2>{bullets(notes(report))}</html>",
        ]
    )


def rows_to_draw(report: Report) -> list[Row]:
    """Rows of the picture: the experiments by factor, then the mean."""
    published = PUBLISHED[report.preset]
    rows = []
    for factor, meaning in (MINI_FACTORS if report.preset == "mini" else FACTORS).items():
        rows.append(Row(f"{factor}: {meaning}", None, 0.0, []))
        for one in report.of_factor(factor):
            place = report.counted.index(one)
            others = [(name, points(one.is_error, numbers[place])) for name, numbers in published.items()]
            rows.append(_row(one, report.cells.get(one.name), others))
        for cell in report.cells.values():
            if cell.experiment not in report.counted and cell.experiment.factor == factor:
                rows.append(_row(cell.experiment, cell, []))
    means = [(name, severe_score(dict(zip(COLUMNS, numbers, strict=True))) or 0.0) for name, numbers in published.items()]
    return [*rows, Row("all of these", None, 0.0, []), Row("mean", report.score, report.spread, means)]


def _row(experiment: Experiment, cell: Cell | None, others: list[tuple[str, float]]) -> Row:
    title = f"{experiment.title}, 100 (1 - error)" if experiment.is_error else experiment.title
    if cell is None:
        return Row(title, None, 0.0, others)
    spread = stdev(cell.numbers) if len(cell.numbers) > 1 else 0.0
    return Row(title, points(experiment.is_error, cell.value), 100 * spread if experiment.is_error else spread, others)


def write_report(out: Path, encoder: str, preset: Preset, wanted: list[Experiment], seeds: list[int]) -> dict[str, Any]:
    """Write report.md, report.html and report.png of all results in a folder, and report.json, the results in one file.

    Returns:
        The score and what is missing, for those who call it from Python.
    """
    report = read_report(out, encoder, preset, wanted, seeds)
    picture = draw_rows(report.title, rows_to_draw(report))
    found = {"score": report.score, "missing": report.missing}
    joined = {"encoder": encoder, **found, "results": all_results(out)}
    write_whole(out / "report.json", lambda path: write_json(path, joined))
    write_whole(out / "report.png", lambda path: path.write_bytes(picture))
    write_whole(out / "report.md", lambda path: path.write_text(as_markdown(report), encoding="utf-8"))
    write_whole(out / "report.html", lambda path: path.write_text(as_page(report, picture), encoding="utf-8"))
    return found

"""The page of the study of real motion, made from its two result files alone: tables, verdicts in numbers, and two plots."""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.real.measured import (
    HASH,
    PROBES,
    Titles,
    Trial,
    baseline,
    by_method,
    check_titles,
    ordered,
    peer,
    ranked,
    read_results,
    read_trials,
)
from benchmarks.real.plots import draw_labels, draw_trials
from benchmarks.studies.blocks import filled
from benchmarks.studies.compare_page import Scores, cell, mean, spread
from modules.core.files import write_whole

SEEDS = 3
"""Fewer are named in the tables, and no verdict is drawn from them."""
AIM = 52.0
"""Percent on the test subjects that a frozen probe should exceed: about what ridge regression reaches on raw pixels."""
FEW = "finetune 10"
"""Fine-tuning with a tenth of the labels, which is compared with training from scratch."""

MAIN = {
    "linear": "linear",
    "attentive": "attentive",
    "knn": "kNN",
    "finetune 5": "5 %",
    FEW: "10 %",
    "finetune 25": "25 %",
    "finetune 100": "100 %",
}
PAIRS = {
    "pair sit2stand stand2sit": "sit to stand, stand to sit",
    "pair swipe_left swipe_right": "swipe left, right",
    "pair draw_circle_cw draw_circle_ccw": "circle clockwise, counter-clockwise",
}
ANALYSIS = {
    "rank": "rank",
    "variance subject": "subject",
    "variance action": "action",
    "variance phase": "phase",
    "variance place": "place",
    "pretrain steps": "pretraining steps",
    "minutes": "minutes",
}
PLOTS = {
    "labels": "Labels against accuracy of fine-tuning, and of training from scratch",
    "trials": "Trials of each search against accuracy on the validation subject",
}
EMPTY = "Not measured yet."


class Study(NamedTuple):
    """All that there is."""

    titles: Titles
    trials: list[Trial]
    scores: Mapping[str, list[Scores]]
    """by method, numbers of each seed"""
    budget: float
    """minutes of a process with one thread that the search of a method may take"""

    @property
    def methods(self) -> list[str]:
        """Keys of pretrained rows, in the order of the tables."""
        return [key for key in ordered(self.titles) if baseline(key) is None]

    def found(self, key: str | None) -> list[Scores]:
        """Numbers of each seed; none if there is no such row."""
        return list(self.scores.get(key, [])) if key is not None else []

    def title(self, key: str) -> str:
        """Title of a row."""
        return self.titles[key][0]


def seeds_of(found: list[Scores], measures: Iterable[str]) -> str:
    """Text that says how many seeds measures have; empty if all have enough."""
    counts = sorted({count for measure in measures if (count := sum(measure in scores for scores in found))})
    return f", {' or '.join(map(str, counts))} seed{'s' * (counts[-1] > 1)}" if counts and counts[0] < SEEDS else ""


def table(study: Study, columns: Mapping[str, str], complete: bool = False) -> str:
    """A line for each row of the study.

    Args:
        study: results.
        columns: headings by measure.
        complete: also lines of rows that have none of these measures.

    Returns:
        Markdown
    """
    lines = ["| | network | " + " | ".join(columns.values()) + " |", "|---|---" + "|---:" * len(columns) + "|"]
    for key in ordered(study.titles):
        found, (title, network) = study.found(key), study.titles[key]
        cells = [cell(found, measure) for measure in columns]
        if complete or any(cells):
            lines.append(f"| {title}{seeds_of(found, columns)} | {network} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if complete or len(lines) > 2 else EMPTY


def motion_table(study: Study, probe: str) -> str:
    """What a probe reaches when the frames of the test clips are in order, shuffled and reversed."""
    columns = {probe: f"{probe} probe", f"{probe} shuffled": "frames shuffled", f"{probe} reversed": "frames reversed"}
    return table(study, columns | {f"{probe} difference": "in order minus shuffled"})


def search_tables(study: Study) -> str:
    """The trials of each method, best first, in a section that is folded, with the time that they took.

    Returns:
        Markdown
    """
    parts = [_search(study, key) for key in ordered(study.titles) if any(one.method == key for one in study.trials)]
    hours = sum(trial.seconds for trial in study.trials) / 3600
    total = f"All searches: {len(study.trials)} trials, {hours:.1f} hours of a process with one thread."
    return "\n\n".join([total, *parts]) if parts else EMPTY


def _search(study: Study, key: str) -> str:
    trials = ranked(study.trials, key)
    minutes = sum(trial.seconds for trial in trials) / 60
    spent = f"{len(trials)} trial{'s' * (len(trials) != 1)}, {minutes:.1f} of {study.budget:.0f} minutes"
    lines = [
        "| trial | settings | mean | linear | attentive | kNN | rank | first loss | last loss | steps | minutes |",
        "|---|---" + "|---:" * 9 + "|",
    ]
    for number, trial in enumerate(trials):
        best = number == 0 and trial.score is not None
        name = f"**{trial.trial}** (best)" if best else trial.trial
        values = (trial.score, trial.linear, trial.attentive, trial.knn, trial.rank)
        cells = [name, _settings(trial), *("" if value is None else f"{value:.1f}" for value in values)]
        cells += ["" if loss is None else f"{loss:.3g}" for loss in (trial.first_loss, trial.last_loss)]
        cells += [str(trial.steps), f"{trial.seconds / 60:.1f}"]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    opening = f'<details markdown="1">\n<summary>{study.title(key)} ({study.titles[key][1]}): {spent}</summary>'
    return "\n\n".join((opening, "\n".join(lines), "</details>"))


def _settings(trial: Trial) -> str:
    """Names and values; a value that is not a word or a number is JSON."""
    values = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in trial.settings.items() if name != HASH
    }
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "as in the code"


def compared(study: Study, measure: str, kind: str) -> dict[str, list[str]]:
    """Methods by how they end against a baseline of the same network.

    `above` and `below` are those whose means differ by more than the larger spread of the two rows. No verdict is drawn where
    either has fewer than three seeds.

    Args:
        study: results.
        measure: name of what is compared.
        kind: which baseline.

    Returns:
        by verdict, titles with the difference in points
    """
    groups: dict[str, list[str]] = {"above": [], "within the spread": [], "below": [], "too few seeds": []}
    for key in study.methods:
        own, base = study.found(key), study.found(peer(key, kind, study.titles))
        value, least = mean(own, measure), mean(base, measure)
        if value is None or least is None:
            continue
        difference, needed = value - least, max(spread(own, measure), spread(base, measure))
        group = "above" if difference > needed else "below" if difference < -needed else "within the spread"
        if min(sum(measure in scores for scores in found) for found in (own, base)) < SEEDS:
            group = "too few seeds"
        groups[group].append(f"{study.title(key)} ({difference:+.1f}, spread {needed:.1f})")
    return groups


def verdicts(study: Study) -> str:
    """What the aims of the study come to, in numbers.

    Returns:
        Markdown
    """
    said = {
        "Fine-tuning with 10 % of the labels against training from scratch": compared(study, FEW, "scratch"),
        "Linear probe against the untrained network": compared(study, "linear", "untrained"),
        "Attentive probe against the untrained network": compared(study, "attentive", "untrained"),
    }
    lines = []
    for question, groups in said.items():
        total = sum(map(len, groups.values()))
        if total:
            parts = "; ".join(f"{group}: {', '.join(names)}" for group, names in groups.items() if names)
            count = f"{len(groups['above'])} of {total} above by more than the spread"
            lines.append(f"* **{question}**: {count}. {parts[0].upper()}{parts[1:]}.")
    probed = [(key, probe, value) for key in study.methods for probe in PROBES if (value := mean(study.found(key), probe))]
    if probed:
        key, probe, best = max(probed, key=lambda one: one[2])
        found = study.found(key)
        reached = cell(found, probe) + seeds_of(found, [probe])
        lines.append(
            f"* **Best frozen probe of a pretrained network**: {study.title(key)}, {probe}, {reached}: "
            f"{best - AIM:+.1f} points against the aim of {AIM:.0f} %, about what ridge regression reaches on raw pixels."
        )
    return "\n".join(lines) or EMPTY


def blocks(study: Study) -> dict[str, str]:
    """All tables, by the name of their block in the page."""
    return {
        "verdicts": verdicts(study),
        "results": table(study, MAIN, complete=True),
        "motion": "\n\n".join(motion_table(study, probe) for probe in PROBES),
        "pairs": table(study, PAIRS),
        "analysis": table(study, ANALYSIS),
        "search": search_tables(study),
    }


def write_report(page: Path, folder: Path, titles: Titles, budget: float) -> None:
    """Fill the blocks of a page, and draw its plots next to it.

    Without results there are the tables of the search only.

    Args:
        page: Markdown file with the blocks.
        folder: folder of `trials.csv` and `results.csv`.
        titles: title and network of each row.
        budget: minutes of a process with one thread that the search of a method may take.

    Raises:
        SettingError: if a file cannot be read, or the page lacks a block.
    """
    trials, results = read_trials(folder / "trials.csv"), []
    if (folder / "results.csv").is_file():
        results = read_results(folder / "results.csv")
    check_titles({one.method for one in trials} | {one.method for one in results}, titles)
    study = Study(titles, trials, by_method(results), budget)
    pictures = {"labels": draw_labels(titles, study.scores), "trials": draw_trials(titles, trials)}
    files = {name: page.with_name(f"{page.stem}_{name}.png") for name in pictures}
    links = {f"{name} plot": f"![{PLOTS[name]}]({files[name].name})" if png else EMPTY for name, png in pictures.items()}
    text = filled(page, blocks(study) | links)
    for name, png in pictures.items():
        if png:
            write_whole(files[name], partial(Path.write_bytes, data=png))
    write_whole(page, lambda part: part.write_text(text))

"""The two result files of the study of real motion: what was tried in the search, and what was measured afterwards."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from benchmarks.studies.compare_page import Scores
from modules.core.errors import SettingError

BASELINES = ("raw", "untrained", "supervised", "scratch")
"""First words of the keys of rows that are compared with; raw pixels have no network."""
PROBES = ("linear", "attentive")
"""Of frozen features. The mean of both on the validation subject is what settings are chosen by."""

HASH = "hash"
"""Name of what identifies all settings of a trial, among those that are written."""

Row = TypeVar("Row")
Titles = Mapping[str, tuple[str, str]]
"""Title and network by the key of a method."""


class Trial(NamedTuple):
    """A trial of the search, with accuracies on the validation subject in percent; None where it has no such number."""

    method: str
    trial: str
    settings: dict[str, Any]
    seed: int
    network: str
    steps: int
    linear: float | None
    attentive: float | None
    knn: float | None
    first_loss: float | None
    last_loss: float | None
    rank: float | None
    seconds: float

    @property
    def score(self) -> float | None:
        """What trials are compared by: the mean of both probes."""
        return None if self.linear is None or self.attentive is None else (self.linear + self.attentive) / 2


class Result(NamedTuple):
    """A number measured on the test subjects."""

    method: str
    seed: int
    measure: str
    value: float
    seconds: float


def read_trials(path: Path) -> list[Trial]:
    """All trials, in the order of the file.

    Raises:
        SettingError: if the file is missing, or has other columns, something that is not a number, or a trial twice.
    """

    def parse(row: dict[str, str]) -> Trial:
        settings = json.loads(row["settings"])
        if not isinstance(settings, dict):
            raise ValueError("settings are not a JSON object")
        numbers = {name: _optional(row[name]) for name in (*PROBES, "knn", "first_loss", "last_loss", "rank")}
        steps = int(float(row["steps"] or 0))
        seed, seconds = int(row["seed"]), _number(row["seconds"])
        return Trial(row["method"], row["trial"], settings, seed, row["network"], steps, **numbers, seconds=seconds)

    return _read(path, Trial._fields, parse, lambda trial: (trial.method, trial.trial, trial.seed))


def read_results(path: Path) -> list[Result]:
    """All results, in the order of the file.

    Raises:
        SettingError: if the file is missing, or has other columns, something that is not a number, or a result twice.
    """

    def parse(row: dict[str, str]) -> Result:
        return Result(row["method"], int(row["seed"]), row["measure"], _number(row["value"]), _number(row["seconds"]))

    return _read(path, Result._fields, parse, lambda result: (result.method, result.seed, result.measure))


def by_method(results: Iterable[Result]) -> dict[str, list[Scores]]:
    """Numbers of each seed by method, with two kinds that are made of others.

    `linear difference` and `attentive difference` are how many points of the probe are lost when frames of the test clips are
    shuffled; `minutes` is the time of all that was measured.
    """
    found: dict[str, dict[int, Scores]] = {}
    for one in results:
        scores = found.setdefault(one.method, {}).setdefault(one.seed, {"minutes": 0.0})
        scores[one.measure] = one.value
        scores["minutes"] += one.seconds / 60
    return {method: [scores | _differences(scores) for _, scores in sorted(seeds.items())] for method, seeds in found.items()}


def baseline(key: str) -> str | None:
    """Which of `BASELINES` a row is; None for a method."""
    kind = key.partition("_")[0]
    return kind if kind in BASELINES else None


def ordered(titles: Titles) -> list[str]:
    """Keys by network, raw pixels first and then each network's baselines before its methods."""
    networks = list(dict.fromkeys(network for _, network in titles.values()))

    def place(key: str) -> tuple[bool, int, int]:
        kind = baseline(key)
        return kind != "raw", networks.index(titles[key][1]), len(BASELINES) if kind is None else BASELINES.index(kind)

    return sorted(titles, key=place)


def peer(key: str, kind: str, titles: Titles) -> str | None:
    """The baseline of a kind with the network of a method; None if there is none."""
    own = titles[key][1]
    return next((other for other, (_, network) in titles.items() if baseline(other) == kind and network == own), None)


def ranked(trials: Iterable[Trial], method: str) -> list[Trial]:
    """Trials of a method, best first, and of equal ones in their order; those without a score are at the end."""
    own = [trial for trial in trials if trial.method == method]
    return sorted(own, key=lambda trial: math.inf if trial.score is None else -trial.score)


def check_titles(methods: Iterable[str], titles: Titles) -> None:
    """Refuse rows that no table would show.

    Raises:
        SettingError: if a file has a method without a title.
    """
    unknown = ", ".join(sorted(set(methods) - set(titles)))
    if unknown:
        raise SettingError(f"--results has rows of {unknown}, unknown to this study; remove them.")


def _differences(scores: Scores) -> Scores:
    pairs = {probe: (scores.get(probe), scores.get(f"{probe} shuffled")) for probe in PROBES}
    return {f"{probe} difference": a - b for probe, (a, b) in pairs.items() if a is not None and b is not None}


def _read(
    path: Path, header: tuple[str, ...], parse: Callable[[dict[str, str]], Row], key_of: Callable[[Row], tuple[object, ...]]
) -> list[Row]:
    found: dict[tuple[object, ...], Row] = {}
    for line, cells in _rows(path, header):
        try:
            row = parse(cells)
        except ValueError as error:
            raise _unreadable(path, line, error) from error
        key = key_of(row)
        if key in found:
            raise _twice(path, line, key)
        found[key] = row
    return list(found.values())


def _rows(path: Path, header: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Number and cells of each line below the header."""
    if not path.is_file():
        raise SettingError(f"--results has no file {path}; run the stage that writes it first.")
    with path.open(newline="") as file:
        reader = csv.reader(file)
        found = next(reader, [])
        if tuple(found) != header:
            raise SettingError(f"{path} has the columns {','.join(found)} instead of {','.join(header)}; correct --results.")
        rows = []
        for cells in reader:
            if len(cells) != len(header):
                raise _unreadable(path, reader.line_num, ValueError(f"{len(cells)} cells instead of {len(header)}"))
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    return rows


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _optional(text: str) -> float | None:
    """None for an empty cell, and for what a diverged run leaves."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def _unreadable(path: Path, line: int, error: ValueError) -> SettingError:
    return SettingError(f"Line {line} of {path} cannot be read ({error}); remove it, and run its stage again.")


def _twice(path: Path, line: int, key: tuple[object, ...]) -> SettingError:
    return SettingError(f"Line {line} of {path} repeats {', '.join(map(str, key))}; remove one of the two rows.")

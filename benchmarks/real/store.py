"""Writing the results of the benchmark `real_motion`: what is in its files is not measured again."""

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.real.measured import HASH, Trial
from benchmarks.real.protocols import HEADS, NEIGHBOURS, PENALTIES, AttentiveProbe
from benchmarks.real.recipes import Recipe
from modules.core.errors import SettingError
from modules.core.files import write_whole


class Store:
    """A CSV file to which several processes add rows.

    Args:
        path: the file.
        columns: its columns.
        key: number of the columns, without `settings`, that name a row.
    """

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]) -> None:
        self.path, self.columns, self.key = path, columns, key

    def rows(self) -> list[dict[str, str]]:
        """All rows.

        Raises:
            SettingError: if the file has other columns.
        """
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != tuple(self.columns):
                raise SettingError(f"{self.path} has other columns; pass another --results, or remove it.")
            return list(reader)

    def add(self, new: Iterable[dict[str, Any]]) -> None:
        """Add rows; those with the same key are replaced. Safe with other processes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            found = {self._key(row): row for row in self.rows()}
            for row in new:
                text = {name: number(row[name]) for name in self.columns}
                found[self._key(text)] = text
            write_whole(self.path, partial(self._write, rows=[found[key] for key in sorted(found)]))

    def _key(self, row: dict[str, str]) -> tuple[str, ...]:
        # Seeds have up to four digits.
        return tuple(row[name].rjust(4, "0") if name == "seed" else row[name] for name in self.key)

    def _write(self, path: Path, rows: list[dict[str, str]]) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def number(value: Any) -> str:
    """A cell: numbers with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def trial_store(folder: Path) -> Store:
    """The trials of the search."""
    return Store(folder / "trials.csv", Trial._fields, ("method", "trial", "seed"))


def settings_text(recipe: Recipe, base: Recipe) -> str:
    """What differs from the method's first trial, and a hash of all settings and of the probes', by which a row is known to be
    stale."""
    own, first = asdict(recipe), asdict(base)
    differs = {name: value for name, value in own.items() if value != first[name]}
    probes = {"penalties": PENALTIES, "neighbours": NEIGHBOURS, "heads": HEADS, **AttentiveProbe()._asdict()}
    digest = hashlib.sha256(json.dumps([own, probes], sort_keys=True).encode()).hexdigest()[:8]
    return json.dumps(differs | {HASH: digest}, sort_keys=True)

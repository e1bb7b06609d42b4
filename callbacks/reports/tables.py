"""Tables as csv files."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.core.files import write_whole
from modules.core.output import Columns


def write_table(path: Path, columns: Columns) -> None:
    """Write a csv file with a header; several entries of a cell are separated by semicolons."""

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(columns)
            table.writerows([_cell(value) for value in row.values()] for row in rows_of(columns))

    write_whole(path, write)


def rows_of(columns: Columns) -> Iterator[dict[str, Any]]:
    """The rows of a table. Numbers that are not finite become None, because JSON cannot represent them."""
    for row in zip(*columns.values(), strict=True):
        yield {name: _plain(value) for name, value in zip(columns, row, strict=True)}


def columns_of(rows: list[dict[str, Any]]) -> Columns:
    """The columns of a table of one or more rows with the same keys."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ";".join(str(_cell(one)) for one in value)
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value

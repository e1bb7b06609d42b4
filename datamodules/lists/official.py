"""Helpers for official annotation files: finding videos in any folder layout, and reporting how many exist."""

import csv
from collections.abc import Collection, Iterable
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.lists.files import read_lines
from datamodules.lists.folders import KNOWN_SUFFIXES, usual_first, video_files
from datamodules.lists.manifest import Manifest, make_manifest
from modules.core.errors import SettingError


def by_place(root: Path, suffixes: Collection[str] = KNOWN_SUFFIXES) -> dict[str, str]:
    """Files below a folder by folder name and file name without suffix, 'class/name'; see `by_stem` for ties."""
    found: dict[str, str] = {}
    for file in usual_first(video_files(root, suffixes)):
        found.setdefault(f"{Path(file).parent.name}/{Path(file).stem}", file)
    return found


def find_file(root: Path, folders: Iterable[str], names: Iterable[str]) -> Path | None:
    """The first of some names that exists in some folders below `root`; '' is the root itself."""
    names = list(names)
    return next((root / folder / name for folder in folders for name in names if (root / folder / name).is_file()), None)


def found_manifest(
    root: Path,
    rows: list[tuple[str, int]],
    existing: dict[str, str],
    source: Path,
    class_names: list[str],
    suffix: str = ".mp4",
) -> Manifest:
    """A manifest from (name without suffix, label) rows. Missing videos are kept and counted in a warning.

    Args:
        root: folder of the videos.
        rows: names, as in `existing`, and labels.
        existing: the files below `root` by name.
        source: the list that the rows are from.
        class_names: names by label.
        suffix: suffix given to missing files.
    """
    found = ((existing.get(name, name + suffix), label) for name, label in rows)
    manifest = make_manifest(root, found, source, class_names, tell_missing=False)
    missing = [name for name, _ in rows if name not in existing]
    if missing:
        rank_zero_warn(
            f"{len(rows) - len(missing)} of the {len(rows)} videos of {source} are below {root}; {len(missing)} are missing, "
            f"the first is {missing[0]}. Report results with these counts."
        )
    return manifest


def read_table(path: Path, columns: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a csv table with a header, with their line numbers.

    Raises:
        SettingError: if the file or a column is missing, or a row is too short.
    """
    lines = read_lines(path)
    table = csv.DictReader(lines.values())
    if absent := [name for name in columns if name not in (table.fieldnames or [])]:
        raise SettingError(f"{path} has no column {absent[0]}; pass the official file, whose first line names the columns.")
    rows = []
    for number, row in zip(list(lines)[1:], table, strict=False):
        if any(row[name] is None for name in columns):
            raise SettingError(f"Line {number} of {path} has fewer cells than the first line; copy the file again.")
        rows.append((number, row))
    return rows


def class_label(text: str, classes: int, where: str) -> int:
    """A label as an integer.

    Raises:
        SettingError: if it is not one from 0 to `classes` - 1; `where` describes its position.
    """
    if not (text.strip().isdecimal() and int(text) < classes):
        raise SettingError(f"{where} has the label {text!r}; expected an integer from 0 to {classes - 1}.")
    return int(text)

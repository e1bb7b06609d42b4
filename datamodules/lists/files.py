"""Lists of videos in files: rows 'path label', and the official files of Kinetics and Something-Something."""

import csv
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules.lists.folders import KNOWN_SUFFIXES, RARE_SUFFIXES, USUAL_SUFFIXES, by_stem, suffix_of
from datamodules.lists.manifest import MAX_LABEL, UNLABELLED, Manifest, is_file, make_manifest
from modules.core.errors import SettingError

LABEL = re.compile(r"[+-]?\d+", re.ASCII)
MAX_CLASSES = 10**6


def read_list(path: Path, root: Path, needs_labels: bool = True) -> Manifest:
    """A list of videos: with or without a header, one row per video.

    Accepts 'path label' and 'path num_frames label' separated by single spaces (VideoMAE and SEVERE style), the same
    separated by tabs or commas with quotes where needed, and tables whose header names `path` and `label`. A path
    without suffix gets that of the existing file. In 'a 12 3', 12 is the number of frames, unless there is a file
    'a 12' and none named 'a'. An empty last cell means a video without label.

    Args:
        path: the list.
        root: folder that relative paths are relative to.
        needs_labels: refuse lists that may have lost their labels. If false, lists may contain paths only, and in tables with a
            header labels may be class names, which are numbered in alphabetical order.

    Raises:
        SettingError: if the file is missing or a row cannot be parsed; the message names the line.
    """
    names = None if needs_labels else _names_of(path)
    return make_manifest(root, _rows_of(path, root, names or [], needs_labels), path, names)


def _header_of(path: Path) -> tuple[str | None, list[str]]:
    """Separator of the columns of a list, and the cells of its first line in lower case."""
    start = next(number_lines(path))[1]
    delimiter = "\t" if "\t" in start else "," if "," in start else None
    cells = [start] if delimiter is None else _cells(start, delimiter)
    return delimiter, [cell.strip().lower() for cell in cells]


def _names_of(path: Path) -> list[str] | None:
    """Names of the classes of a table whose labels are not all numbers; None for all other lists."""
    delimiter, header = _header_of(path)
    if delimiter is None or not {"path", "label"} <= set(header):
        return None
    what = header.index("label")
    rows = (_cells(line, delimiter) for _, line in islice(number_lines(path), 1, None))
    labels = {row[what].strip() for row in rows if len(row) > what} - {""}
    return None if all(LABEL.fullmatch(label) for label in labels) else sorted(labels)


def _rows_of(path: Path, root: Path, names: list[str], needs_labels: bool) -> Iterator[tuple[str, int]]:
    """Paths and labels of a list, line by line: there may be millions. Labels are numbers, or some of the names."""
    delimiter, header = _header_of(path)
    columns = (header.index("path"), header.index("label")) if {"path", "label"} <= set(header) else None
    start = next(number_lines(path))[1]
    if not needs_labels and columns is None and delimiter is None and len(_split_line(start, root)) == 1:
        yield from _paths_alone(path, root, header == ["path"])
        return
    known = {name: number for number, name in enumerate(names)}
    if columns and (parts := {"start", "end"} & set(header)):
        raise SettingError(
            f"{path} has the column {max(parts)}, but parts of files are only read by --data ListedStreams; remove the column."
        )
    where, what = columns or (0, -1)
    widths: set[int] = set()
    open_ended: dict[int, tuple[int, str]] = {}
    for number, line in islice(number_lines(path), 1 if columns else 0, None):
        row = _split(line, delimiter, root)
        if row[-1].strip():
            widths.add(len(row))
        elif columns is None and len(row) > 2:
            open_ended.setdefault(len(row), (number, line))
        try:
            label = row[what].strip()
            found = _file_of(row[where].strip(), root), known[label] if label in known else _label_of(label)
        except (ValueError, IndexError) as error:
            # The first invalid line is reported; whether an open-ended earlier line is invalid is only known from all lines.
            rows = (_split(line, delimiter, root) for _, line in number_lines(path))
            _check_ends(path, open_ended, {len(row) for row in rows if row[-1].strip()})
            raise SettingError(
                f"Line {number} of {path} is {' '.join(row)!r}; expected a path and, last, an integer label."
            ) from error
        yield found
    _check_ends(path, open_ended, widths)


def _paths_alone(path: Path, root: Path, has_header: bool) -> Iterator[tuple[str, int]]:
    """Rows of a list of paths without labels.

    Raises:
        SettingError: if a line has more than a path.
    """
    for number, line in islice(number_lines(path), 1 if has_header else 0, None):
        if len(_split_line(line, root)) > 1:
            raise SettingError(
                f"Line {number} of {path} is {line!r}, but the first line has no label; give all lines a label, or none."
            )
        yield _file_of(line.strip(), root), UNLABELLED


def _check_ends(path: Path, open_ended: dict[int, tuple[int, str]], widths: set[int]) -> None:
    """Refuse an empty last cell if no row fills it: in a,3, the 3 may be a label or a number of frames.

    Args:
        path: path of the list.
        open_ended: for each number of cells, the first line with an empty last cell, with its line number.
        widths: numbers of cells of the lines whose last one is not empty.
    """
    for width, (number, line) in open_ended.items():
        if width not in widths:
            raise SettingError(
                f"Line {number} of {path} is {line!r}, which ends with a separator, as all rows of {width} cells do; remove "
                "it, or name the columns path and label in the first line."
            )


def _split(line: str, delimiter: str | None, root: Path) -> list[str]:
    return _split_line(line, root) if delimiter is None else _cells(line, delimiter)


def _file_of(name: str, root: Path) -> str:
    if not name:
        raise ValueError(name)
    return _existing(name, root) or (name if "." in _file_name(name) else f"{name}.mp4")


def _label_of(text: str) -> int:
    # Python would also read 1_0 as 10.
    if text and LABEL.fullmatch(text) is None:
        raise ValueError(text)
    return int(text) if text else UNLABELLED


def number_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file with their numbers from 1, without line ends (of any system) and blank lines, as a generator.

    Raises:
        SettingError: if the file is missing or empty.
    """
    if not is_file(path):
        raise SettingError(f"The list {path} does not exist; set data.lists.train and data.lists.val to existing files.")
    is_empty = True
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                is_empty = False
                # Trailing tabs are kept: an unlabelled row has an empty cell after them.
                yield number, line.removesuffix("\n").strip(" ")
    if is_empty:
        raise SettingError(f"The list {path} is empty; pass another file.")


def read_lines(path: Path) -> dict[int, str]:
    """All lines of `number_lines` by number."""
    return dict(number_lines(path))


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    except csv.Error:
        # Read as one cell, the line is reported with its number.
        return [line]


def _split_line(line: str, root: Path) -> list[str]:
    """'path label' or 'path frames label'; a path may contain spaces, because the numbers come last."""
    text = line.strip()
    words = text.rsplit(" ", 2)
    count = 2 if len(words) > 2 and _is_number(words[1]) else 1
    if len(words) < 2 or not _is_number(words[-1]):
        return [line]
    numbers = words[-count:]
    name = text[: -len(" ".join(["", *numbers]))]
    if len(numbers) == 2 and not _is_complete(name) and not _existing(name, root):
        longer = text.rpartition(" ")[0].rstrip()
        if _existing(longer, root):
            return [longer, numbers[1]]
    return [name, *numbers]


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal()


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _is_complete(path: str) -> bool:
    return suffix_of(path) in KNOWN_SUFFIXES


def _existing(path: str, root: Path) -> str | None:
    """A path with the suffix of the existing file; None if there is none. Paths with a suffix are not looked up."""
    if _is_complete(path):
        return path
    suffixes = ("", *sorted(USUAL_SUFFIXES), *sorted(RARE_SUFFIXES))
    return next((path + suffix for suffix in suffixes if is_file(root / (path + suffix))), None)


def is_kinetics_csv(path: Path) -> bool:
    """Whether a list is an official Kinetics table."""
    return "youtube_id" in next(iter(read_lines(path).values()))


def read_kinetics_csv(path: Path, root: Path) -> Manifest:
    """The official table (label, youtube_id, time_start, time_end, ...); files are found by name in any layout.

    Labels are indices in the sorted list of class names. Missing files keep their expected name.
    """
    lines = read_lines(path)
    table = list(csv.DictReader(lines.values()))
    names = sorted({row["label"] for row in table if row.get("label")})
    number = {name: label for label, name in enumerate(names)}
    existing = by_stem(root)
    rows = []
    for number_of_line, row in zip(list(lines)[1:], table, strict=False):
        clip, label = row.get("youtube_id"), row.get("label") or ""
        try:
            if not clip:
                raise ValueError
            name = clip
            if row.get("time_start"):
                name += f"_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SettingError(
                f"Line {number_of_line} of {path} is {lines[number_of_line]!r}; expected youtube_id, and seconds in "
                "time_start and time_end, separated by commas."
            ) from error
        file = existing.get(name) or existing.get(clip) or f"{label}/{name}.mp4"
        rows.append((file, number.get(label, UNLABELLED)))
    return make_manifest(root, rows, path, names)


def read_mini_kinetics(path: Path, root: Path) -> Manifest:
    """Mini-Kinetics: text lists count labels from 1 and name neither folder nor suffix; csv lists count from 0."""
    if path.suffix == ".csv":
        return read_list(path, root)
    existing = by_stem(root)
    rows = []
    for number, line in read_lines(path).items():
        name, _, label = line.strip().rpartition(" ")
        if not (label.isdecimal() and 1 <= int(label) <= MAX_LABEL):
            raise SettingError(f"Line {number} of {path} is {line!r}; expected a name and, last, a label from 1.")
        stem = Path(name).name
        rows.append((existing.get(stem, f"{stem}.mp4"), int(label) - 1))
    return make_manifest(root, rows, path)


def read_something_json(path: Path, labels: Path, root: Path) -> Manifest:
    """Something-Something v2: a list of {id, template, ...} and a table of templates without brackets to string ids.

    Raises:
        SettingError: if a file is missing or has another format; the message names the entry.
    """
    if not is_file(path):
        raise SettingError(f"The list {path} does not exist; set data.lists.train and data.lists.val to existing files.")
    templates = _template_numbers(labels)
    entries = read_json(path)
    if not isinstance(entries, list):
        raise SettingError(f"{path} contains no list of videos; pass the official list, or rows 'path label' in a .csv file.")
    existing = by_stem(root)
    rows = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("template", ""), str):
            raise SettingError(f"{path}: entry {number} is {entry!r:.200}; expected an object with id and template.")
        template = entry.get("template", "").replace("[", "").replace("]", "")
        if template and template not in templates:
            raise SettingError(f"{path}: the template {template!r} of video {entry['id']} is not in {labels}.")
        file = existing.get(str(entry["id"]), f"{entry['id']}.webm")
        rows.append((file, templates.get(template, UNLABELLED)))
    # The index in the list of names is the label, even if the table skips numbers.
    names = [f"class {label}" for label in range(max(templates.values(), default=-1) + 1)]
    for name, label in templates.items():
        names[label] = name
    return make_manifest(root, rows, path, names)


def _template_numbers(path: Path) -> dict[str, int]:
    table = read_json(path)
    if not isinstance(table, dict):
        raise SettingError(f"{path} contains no table of templates and labels; pass the official file.")
    numbers = {}
    for name, label in table.items():
        try:
            numbers[name] = int(str(label))
        except ValueError:
            numbers[name] = UNLABELLED
        if not 0 <= numbers[name] < MAX_CLASSES:
            raise SettingError(f"{path}: the label of {name!r} is {label!r}; labels must be integers from 0.")
    return numbers


def read_json(path: Path) -> Any:
    """Content of a JSON file. Raises SettingError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise SettingError(f"{path} cannot be read as JSON ({error}); copy it again.") from error

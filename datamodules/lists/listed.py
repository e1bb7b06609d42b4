"""The general list: a csv file with a header, one row per sample, one column per stream. See docs/streams.md."""

import csv
import math
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.lists.files import LABEL, MAX_CLASSES
from datamodules.lists.manifest import MAX_LABEL, UNLABELLED, Manifest, check_files, is_file
from datamodules.lists.packed import PackedLists, PackedStrings
from datamodules.streams.arrays import is_there, split_source
from datamodules.streams.tables import window_list
from modules.core.batch import Kind
from modules.core.errors import SettingError

PLAIN = ("path", "start", "end", "label", "caption")
"""Columns that are not streams."""
FURTHER: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "text")
"""Possible kinds of columns."""


def read_columns(path: Path, main: Kind) -> dict[str, Kind]:
    """The columns of a list that contain further streams.

    Args:
        path: path of the list.
        main: kind of the files in the column `path`.

    Returns:
        Kinds by name: a column `audio` is the stream audio, a column `wrist:signal` the stream wrist of kind signal.

    Raises:
        SettingError: if the list is missing, or a column is unknown.
    """
    header = next(_rows(path))[1]
    if "path" not in header:
        raise SettingError(f"The header of {path} has no column path but {', '.join(header)}; name the columns there.")
    if repeated := [name for name in header if header.count(name) > 1]:
        raise SettingError(f"{path} has the column {repeated[0]} twice; remove one of them.")
    columns: dict[str, Kind] = {}
    for cell in header:
        if cell in PLAIN:
            continue
        name, _, given = (part.strip() for part in cell.partition(":"))
        kind = next((one for one in FURTHER if one == (given or name)), None)
        # Names of kinds are reserved for streams of that kind, and there is only one video.
        is_free = name and name not in (main, *columns, *PLAIN, *get_args(Kind)) and kind != "video"
        if kind is None or not (is_free or (name == kind and name not in (main, *columns))):
            raise SettingError(
                f"{path} has the column {cell!r}, which is neither one of {', '.join(PLAIN)} nor a further stream "
                f"({', '.join(one for one in FURTHER if one != main)}, or name:kind); rename or remove it."
            )
        columns[name] = kind
    return columns


def read_streams(
    path: Path,
    root: Path,
    main: Kind = "video",
    window: float | None = None,
    several: bool | None = None,
    is_collection: bool = False,
) -> Manifest:
    """The rows of a list.

    Args:
        path: path of the list.
        root: folder that relative paths start from.
        main: kind of the files in the column `path`.
        window: cut every row into windows of this many seconds (`window_list`).
        several: whether samples have several labels, as in the training list; None if this is the training list.
        is_collection: rows belong to a collection that was read before: repeated rows are kept, and no file is looked up.

    Raises:
        SettingError: if it is missing, a cell cannot be parsed, or most files are missing; the message names the line.
    """
    streams = read_columns(path, main)
    spans, labels, counts, numbers = array("d"), array("q"), array("q"), dict[str, int]()
    too_short: list[int] = []

    def texts() -> Iterator[str]:
        """Path, caption and further files of each row, streamed one by one to limit the number of Python objects."""
        rows = _rows(path)
        place = {cell.partition(":")[0].strip(): number for number, cell in enumerate(next(rows)[1])}
        # A missing column refers to the last cell, which is appended to every row.
        file, start, end, label, caption, *others = (place.get(name, -1) for name in (*PLAIN, *streams))
        for line, cells in rows:
            cells.append("")
            own = [name.strip() for name in cells[label].split(";") if name.strip()]
            try:
                if not cells[file]:
                    raise ValueError("has no path; fill it in, or remove the line")
                parts = _parts(cells[start], cells[end], window)
            except ValueError as error:
                raise SettingError(f"Line {line} of {path} {error}.") from None
            if not parts:
                too_short.append(line)
            for span in parts:
                spans.extend(span)
                counts.append(len(own))
                for name in own:
                    labels.append(numbers.setdefault(name, len(numbers)))
                yield cells[file]
                yield cells[caption]
                for other in others:
                    yield cells[other]

    packed = PackedStrings(texts())
    if too_short:
        rank_zero_warn(
            f"{path}: {len(too_short)} rows are not longer than data.window {window:g} s and were left out, the first is line "
            f"{too_short[0]}."
        )
    if not len(packed):
        raise SettingError(f"{path} lists no samples; pass another file.")
    if several is False and max(counts) > 1:
        raise SettingError(f"{path} has several labels per row, but the training list has one; use the same format for both.")
    files, captions, *further = (packed[column :: 2 + len(streams)] for column in range(2 + len(streams)))
    table, class_names = _classes(path, list(numbers))
    classes, ends = table[np.array(labels, np.int64)], np.cumsum(counts)
    single, intervals = np.full(len(files), UNLABELLED, np.int64), None
    if several or max(counts) > 1:
        parts = np.split(classes, ends[:-1])
        intervals = [[(-math.inf, math.inf, label) for label in own.tolist() if label != UNLABELLED] for own in parts]
    else:
        single[np.array(counts) == 1] = classes
    has_captions = any(captions)
    if (highest := int(classes.max(initial=UNLABELLED))) >= MAX_CLASSES:
        raise SettingError(f"{path} has the label {highest}; there may be {MAX_CLASSES} classes, counted from 0.")
    if (has_captions or intervals is not None) and not class_names:
        # With captions, or with several labels per sample, only labels with names are classes.
        class_names = [str(number) for number in range(highest + 1)]
    manifest = Manifest(
        root,
        files,
        single,
        class_names,
        intervals,
        PackedLists([text] for text in captions) if has_captions else None,
        dict(zip(streams, further, strict=True)),
        np.array(spans).reshape(-1, 2) if np.isfinite(spans).any() else None,
    )
    if is_collection:
        return manifest
    manifest = _without_repeated(manifest, path)
    check_files(manifest.file, len(manifest), path, what="files", is_there=_is_there)
    for name in streams:
        check_files(partial(manifest.further_file, name), len(manifest), path, what=f"files of {name}", is_there=_is_there)
    return manifest


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells, the header first, as a generator: there may be millions of rows.

    Raises:
        SettingError: if the file is missing, or a row has more or fewer cells than the header.
    """
    if not is_file(path):
        raise SettingError(f"The list {path} does not exist; set data.lists.train and data.lists.val to existing files.")
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = "\t" if "\t" in file.readline() else ","
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        width = 0
        try:
            for cells in reader:
                stripped = [cell.strip() for cell in cells]
                if not any(stripped):
                    continue
                if width and len(cells) != width:
                    raise SettingError(
                        f"Line {reader.line_num} of {path} has {len(cells)} cells and the header {width}; put cells with "
                        "separators into quotes."
                    )
                width = len(cells)
                yield reader.line_num, stripped
        except csv.Error as error:
            raise SettingError(f"Line {reader.line_num} of {path} cannot be read ({error}); correct its quotes.") from error
    if not width:
        raise SettingError(f"The list {path} is empty; pass another file.")


def _parts(start: str, end: str, window: float | None) -> list[tuple[float, float]]:
    """Start and end in seconds of each part of a file that a row refers to. Raises ValueError with the reason."""
    first, last = _seconds("start", start, -math.inf), _seconds("end", end, math.inf)
    if not first < last:
        raise ValueError(f"starts at {start} s and ends at {end} s; correct it")
    if window is None:
        return [(first, last)]
    if last == math.inf:
        raise ValueError("has no end, which data.window needs; fill it in, in seconds")
    return [(first, last) for first, last in window_list(max(first, 0.0), last, window).tolist()]


def _seconds(name: str, cell: str, default: float) -> float:
    if not cell:
        return default
    try:
        seconds = float(cell)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"has {cell!r} as its {name}; write seconds from the start of the file")
    return seconds


def _classes(path: Path, found: list[str]) -> tuple[np.ndarray, list[str]]:
    """Class index of each distinct label of a list, int64 [n], and the class names, if there are any."""
    numbered = [LABEL.fullmatch(label) is not None for label in found]
    if found and all(numbered):
        table = np.array([int(label) for label in found], object)
        if wrong := [number for number in table if not UNLABELLED <= number <= MAX_LABEL]:
            raise SettingError(f"{path} has the label {wrong[0]}; labels must be names, or integers from 0.")
        return table.astype(np.int64), []
    if any(numbered):
        number, name = found[numbered.index(True)], found[numbered.index(False)]
        raise SettingError(f"{path} has the labels {number} and {name!r}; use either numbers or names.")
    names = sorted(found)
    place = {name: number for number, name in enumerate(names)}
    return np.array([place[name] for name in found], np.int64), names


def _without_repeated(manifest: Manifest, path: Path) -> Manifest:
    """A manifest without rows that duplicate file, part and caption of an earlier one."""
    ends = manifest.spans.tolist() if manifest.spans is not None else [None] * len(manifest)
    texts = manifest.texts if manifest.texts is not None else [None] * len(manifest)
    keys = PackedStrings(f"{file}\n{end}\n{text}" for file, end, text in zip(manifest.paths, ends, texts, strict=True))
    first = keys.first_rows()
    repeated = int((first != np.arange(len(first))).sum())
    if not repeated:
        return manifest
    rank_zero_warn(f"{path}: {repeated} rows repeat path, start, end and caption of an earlier row and were left out.")
    return manifest.subset(np.unique(first))


def _is_there(path: Path) -> bool:
    return is_there(split_source(path)[0])

"""Lists of videos and labels: folders, 'path label' lists, and the official files of Kinetics and Something-Something.

Labels always count from 0. Missing files stay in the list, where the loader finds and reports them; a list of which most
files are missing is an error, because then the root is wrong.
"""

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.video.subsets import pick_evenly, pick_per_class
from modules.core.errors import SettingError

VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
UNLABELLED = -1
# So many rows of a list are looked up at the start; looking up all of a large list takes minutes on a network disk.
CHECKED_ROWS = 500
MAX_LABEL = 2**31 - 1
MAX_CLASSES = 10**6


@dataclass
class Manifest:
    """Videos of one split.

    Args:
        root: folder that relative paths start from.
        paths: files, relative to `root` or absolute.
        labels: int64 [N], from 0; -1 for none.
        class_names: names by label; empty if unknown.
        intervals: for each video, when it shows which classes: (first second, last second, class), any number of them; None
            where each video has one label.
        texts: the sentences of each video, or None where there are none.
    """

    root: Path
    paths: list[str]
    labels: np.ndarray
    class_names: list[str] = field(default_factory=list)
    intervals: list[list[tuple[float, float, int]]] | None = None
    texts: list[list[str]] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, row: int) -> Path:
        """Where a row's file is."""
        return self.root / self.paths[row]

    @property
    def num_classes(self) -> int:
        """Classes, as many as named or labelled."""
        return max(len(self.class_names), int(self.labels.max(initial=UNLABELLED)) + 1)

    def sha256(self) -> str:
        """Hash of paths and labels, for the record of a run; the same wherever the root is, also of a list of whole paths."""
        labels = self.texts or self.intervals or self.labels.tolist()
        paths = (path.removeprefix(f"{self.root}/") for path in self.paths)
        rows = (f"{path}\t{label}\n" for path, label in zip(paths, labels, strict=True))
        return hashlib.sha256("".join(rows).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def is_labelled(self) -> bool:
        """Whether any video has a label, or all have intervals."""
        return self.intervals is not None or bool((self.labels != UNLABELLED).any())

    def shown(self, row: int, clips: np.ndarray | None = None) -> np.ndarray:
        """Which classes a video shows, of those with intervals.

        Args:
            row: of the video.
            clips: float [V, 2], first and last second of clips; None for the whole video.

        Returns:
            float32 [K], 1 for a class that is shown in any of the clips, 0 for others.
        """
        assert self.intervals is not None
        found = np.zeros(self.num_classes, np.float32)
        for first, last, label in self.intervals[row]:
            found[label] = clips is None or ((first <= clips[:, 1]) & (clips[:, 0] <= last)).any() or found[label]
        return found

    def subset(self, rows: np.ndarray) -> "Manifest":
        """The manifest of some rows."""
        intervals = [self.intervals[row] for row in rows] if self.intervals is not None else None
        texts = [self.texts[row] for row in rows] if self.texts is not None else None
        paths = [self.paths[row] for row in rows]
        return replace(self, paths=paths, labels=self.labels[rows], intervals=intervals, texts=texts)

    def share(self, fraction: float, seed: int) -> "Manifest":
        """A share of the videos, in their order: of every class, rounded up (`pick_per_class`); with sentences, of which most
        have few videos, so that they are shared out evenly (`pick_evenly`). Smaller shares lie within larger ones.
        """
        if self.texts is not None:
            return self.subset(np.sort(pick_evenly(self.labels, math.ceil(len(self) * fraction), seed)))
        return self.subset(np.sort(pick_per_class(self.labels, lambda count: math.ceil(count * fraction), seed)))

    def few(self, wanted: int, seed: int) -> "Manifest":
        """So many videos, in their order: of every class the same number, rounded up, or all that it has (SEVERE, official
        code: of 1000 of UCF101's, 101 classes make 1010).
        """
        per_class = math.ceil(wanted / len(np.unique(self.labels)))
        return self.subset(np.sort(pick_per_class(self.labels, lambda count: per_class, seed)))

    def with_classes(self, class_names: list[str]) -> "Manifest":
        """The same videos with labels that count in another list of names; a class that is not in it gives no label."""
        number = {name: label for label, name in enumerate(class_names)}
        # The last place is for unlabelled rows.
        table = np.array([number.get(name, UNLABELLED) for name in self.class_names] + [UNLABELLED], np.int64)
        return Manifest(self.root, self.paths, table[self.labels], class_names)


def is_file(path: Path) -> bool:
    """Whether there is such a file; no name is too long or too strange to ask."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_root(root: Path, setting: str = "data.root") -> None:
    """Fail if a folder is missing."""
    if not root.is_dir():
        raise SettingError(f"{setting} is {root}, which is not a folder; pass the folder that holds the videos.")


def make_manifest(root: Path, rows: Iterable[tuple[str, int]], source: Path, class_names: list[str] | None = None) -> Manifest:
    """A manifest from (path, label) rows: repeated paths are kept once, and a wrong root is found out."""
    seen: dict[str, int] = {}
    repeated = 0
    for path, label in rows:
        repeated += path in seen
        seen.setdefault(path, label)
    if not seen:
        raise SettingError(f"{source} lists no videos; pass another file or folder.")
    if repeated:
        rank_zero_warn(f"{source}: {repeated} rows repeat the path of an earlier row and were left out.")
    for label in seen.values():
        if not UNLABELLED <= label <= MAX_LABEL:
            raise SettingError(f"{source} has the label {label}; labels must be whole numbers from 0.")
    manifest = Manifest(root, list(seen), np.array(list(seen.values()), np.int64), class_names or [])
    checked = np.linspace(0, len(manifest) - 1, min(len(manifest), CHECKED_ROWS)).astype(int)
    missing = [row for row in checked if not is_file(manifest.file(row))]
    if len(missing) > len(checked) / 2:
        raise SettingError(
            f"{len(missing)} of {len(checked)} videos that were looked up from {source} do not exist (the first: "
            f"{manifest.file(missing[0])}); set data.root to the folder that the paths of the list start from."
        )
    return manifest


def video_files(root: Path) -> list[str]:
    """All videos and pictures below a folder, sorted, relative to it with forward slashes."""
    found = []
    visited: set[str] = set()
    # Classes may be links to folders elsewhere; links may also form circles.
    for folder, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        for name in names:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
                found.append(Path(folder, name).relative_to(root).as_posix())
    return sorted(found)


def read_folder(folder: Path, setting: str = "data.root") -> Manifest:
    """Videos below a folder; if all lie in sub-folders, the first sub-folder's name is the class.

    Raises:
        SettingError: if the folder is missing or holds no video.
    """
    check_root(folder, setting)
    files = video_files(folder)
    if not files:
        raise SettingError(
            f"{setting} is {folder}, which holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}); pass another folder."
        )
    classes = sorted({file.split("/")[0] for file in files if "/" in file})
    if not classes or any("/" not in file for file in files):
        return Manifest(folder, files, np.full(len(files), UNLABELLED, np.int64))
    number = {name: label for label, name in enumerate(classes)}
    return Manifest(folder, files, np.array([number[file.split("/")[0]] for file in files], np.int64), classes)


def read_list(path: Path, root: Path) -> Manifest:
    """A list of videos: with or without a header, one row per video.

    Accepts 'path label' and 'path num_frames label' separated by single spaces (VideoMAE and SEVERE style), the same
    separated by tabs or commas with quotes where needed, and tables whose header names `path` and `label`. A path
    without suffix gets that of the file that exists. In 'a 12 3', 12 is taken for the number of frames, unless there is
    a file 'a 12' and none 'a'.

    Raises:
        SettingError: if the file is missing or a row cannot be understood; names the line.
    """
    lines = read_lines(path)
    start = next(iter(lines.values()))
    delimiter = "\t" if "\t" in start else "," if "," in start else None
    rows = [_cells(line, delimiter) if delimiter else _split_line(line, root) for line in lines.values()]
    header = [cell.strip().lower() for cell in rows[0]]
    columns = (header.index("path"), header.index("label")) if {"path", "label"} <= set(header) else None
    where, what = columns or (0, -1)
    parsed = []
    for number, row in list(zip(lines, rows, strict=True))[1 if columns else 0 :]:
        try:
            label = int(row[what]) if row[what].strip() else UNLABELLED
            name = row[where].strip()
            parsed.append((_existing(name, root) or (name if "." in _file_name(name) else f"{name}.mp4"), label))
        except (ValueError, IndexError) as error:
            raise SettingError(
                f"Line {number} of {path} is {' '.join(row)!r}; expected a path and, last, a label as a whole number."
            ) from error
    return make_manifest(root, parsed, path)


def read_lines(path: Path) -> dict[int, str]:
    """Lines of a text file by number from 1, without line ends (of any system) and blank lines."""
    if not is_file(path):
        raise SettingError(f"The list {path} does not exist; set data.train_list and data.val_list to existing files.")
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    # Tabs at the end stay: behind them an unlabelled row has its empty cell.
    lines = {number: line.strip(" ") for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not lines:
        raise SettingError(f"The list {path} is empty; pass another file.")
    return lines


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        # Read as one cell, the line is refused with its number.
        return [line]


def _split_line(line: str, root: Path) -> list[str]:
    """'path label' or 'path frames label'; a path may hold spaces, because the numbers stand last."""
    match = re.fullmatch(r"(.+?)((?: -?\d+){1,2})", line.strip())
    if match is None:
        return [line]
    name, numbers = match[1], match[2].split()
    if len(numbers) == 2 and not _is_complete(name) and not _existing(name, root):
        longer = line.strip().rpartition(" ")[0].rstrip()
        if _existing(longer, root):
            return [longer, numbers[1]]
    return [name, *numbers]


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _is_complete(path: str) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _existing(path: str, root: Path) -> str | None:
    """A path with the suffix of the file that exists; None if there is none. What has a suffix is not looked up."""
    if _is_complete(path):
        return path
    return next((path + suffix for suffix in ("", *sorted(VIDEO_SUFFIXES)) if is_file(root / (path + suffix))), None)


def by_stem(root: Path) -> dict[str, str]:
    """Files below a folder by name without suffix; videos win over pictures, then the first."""
    found: dict[str, str] = {}
    for file in sorted(video_files(root), key=lambda file: Path(file).suffix.lower() in IMAGE_SUFFIXES):
        found.setdefault(Path(file).stem, file)
    return found


def is_kinetics_csv(path: Path) -> bool:
    """Whether a list is an official Kinetics table."""
    return "youtube_id" in next(iter(read_lines(path).values()))


def read_kinetics_csv(path: Path, root: Path) -> Manifest:
    """The official table (label, youtube_id, time_start, time_end, ...); files are found by name in any layout.

    Labels are places in the sorted list of class names. Files that are not there keep the name they would have.
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
        SettingError: if a file is missing or not of that form; names the entry.
    """
    if not is_file(path):
        raise SettingError(f"The list {path} does not exist; set data.train_list and data.val_list to existing files.")
    templates = _template_numbers(labels)
    entries = read_json(path)
    if not isinstance(entries, list):
        raise SettingError(f"{path} holds no list of videos; pass the official list, or rows 'path label' in a .csv file.")
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
    # The place in the list of names is the label, also where the table leaves numbers out.
    names = [f"class {label}" for label in range(max(templates.values(), default=-1) + 1)]
    for name, label in templates.items():
        names[label] = name
    return make_manifest(root, rows, path, names)


def _template_numbers(path: Path) -> dict[str, int]:
    table = read_json(path)
    if not isinstance(table, dict):
        raise SettingError(f"{path} holds no table of templates and labels; pass the official file.")
    numbers = {}
    for name, label in table.items():
        try:
            numbers[name] = int(str(label))
        except ValueError:
            numbers[name] = UNLABELLED
        if not 0 <= numbers[name] < MAX_CLASSES:
            raise SettingError(f"{path}: the label of {name!r} is {label!r}; labels must be whole numbers from 0.")
    return numbers


def read_json(path: Path) -> Any:
    """Content of a JSON file. Raises SettingError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise SettingError(f"{path} cannot be read as JSON ({error}); copy it again.") from error

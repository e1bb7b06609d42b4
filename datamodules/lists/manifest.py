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
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.lists.subsets import pick_evenly, pick_per_class
from modules.core.errors import SettingError

USUAL_SUFFIXES = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"}
# Of files with one name, those above are taken: a .gif is often the preview of a video.
RARE_SUFFIXES = {
    *(".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".gif", ".m1v", ".m2ts", ".m2v", ".mpe", ".mts", ".mxf", ".ogm"),
    *(".ogv", ".qt", ".rm", ".rmvb", ".vob"),
}
VIDEO_SUFFIXES = USUAL_SUFFIXES | RARE_SUFFIXES
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
UNLABELLED = -1
# So many rows of a list are looked up at the start; looking up all of a large list takes minutes on a network disk.
CHECKED_ROWS = 500
MAX_LABEL = 2**31 - 1
MAX_CLASSES = 10**6
# What systems and archives leave in folders, besides names that begin with a dot.
LEFT_BEHIND = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"}
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Usual names of the folders and lists of splits, in lower case."""
NAMED = 5


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

    @property
    def has_classes(self) -> bool:
        """Whether `labels` are numbers of classes; with sentences they are numbers of those."""
        return self.texts is None and self.is_labelled

    def subset(self, rows: np.ndarray) -> "Manifest":
        """The manifest of some rows."""
        intervals = [self.intervals[row] for row in rows] if self.intervals is not None else None
        texts = [self.texts[row] for row in rows] if self.texts is not None else None
        paths = [self.paths[row] for row in rows]
        return replace(self, paths=paths, labels=self.labels[rows], intervals=intervals, texts=texts)

    def share(self, fraction: float, seed: int) -> "Manifest":
        """A share of the videos, in their order: of every class, and of the videos without one, rounded up (`pick_per_class`);
        with sentences, of which most have few videos, so that they are shared out evenly (`pick_evenly`). Smaller shares lie
        within larger ones.
        """
        if self.texts is not None:
            return self.subset(np.sort(pick_evenly(self.labels, math.ceil(len(self) * fraction), seed)))
        return self.subset(np.sort(pick_per_class(self.labels, lambda count: math.ceil(count * fraction), seed)))

    def few(self, wanted: int, seed: int) -> "Manifest":
        """So many videos, in their order: of every class the same number, rounded up, or all that it has (SEVERE, official
        code: of 1000 of UCF101's, 101 classes make 1010). Videos without a class are left out, unless there are no others.

        Raises:
            SettingError: if videos have sentences or several classes each.
        """
        if self.texts is not None or self.intervals is not None:
            raise SettingError(
                f"data.subset.low_shot is {wanted}, but the videos in {self.root} have several labels or sentences each, so "
                "that it cannot take equally many of every class; set data.subset.fraction instead."
            )
        labelled = np.flatnonzero(self.labels != UNLABELLED)
        rows = labelled if len(labelled) else np.arange(len(self))
        per_class = math.ceil(wanted / len(np.unique(self.labels[rows])))
        picked = np.sort(rows[pick_per_class(self.labels[rows], lambda count: per_class, seed)])
        if len(picked) < wanted:
            few = f"there are only {len(picked)} videos: some classes have too few."
            rank_zero_warn(f"data.subset.low_shot is {wanted}, but {few}")
        return self.subset(picked)

    def with_classes(self, class_names: list[str]) -> "Manifest":
        """The same videos with labels that count in another list of names; a class that is not in it gives no label."""
        number = {name: label for label, name in enumerate(class_names)}
        known = [number.get(name, UNLABELLED) for name in self.class_names]
        # Labels without a name have none in the other list; the last place is for unlabelled rows.
        table = np.array(known + [UNLABELLED] * (self.num_classes + 1 - len(known)), np.int64)
        intervals = self.intervals
        if intervals is not None:
            moved = [[(first, last, int(table[label])) for first, last, label in video] for video in intervals]
            intervals = [[one for one in video if one[2] != UNLABELLED] for video in moved]
        return replace(self, labels=table[self.labels], class_names=class_names, intervals=intervals)


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


def make_manifest(
    root: Path,
    rows: Iterable[tuple[str, int]],
    source: Path,
    class_names: list[str] | None = None,
    tell_missing: bool = True,
) -> Manifest:
    """A manifest from (path, label) rows: repeated paths are kept once, and a wrong root is found out.

    Args:
        root: folder that relative paths start from.
        rows: paths and labels.
        source: the list that they are from.
        class_names: names by label, where known.
        tell_missing: warn of missing files among those that are looked up.
    """
    seen: dict[str, int] = {}
    repeated = contradicting = 0
    for path, label in rows:
        repeated += path in seen
        contradicting += seen.setdefault(path, label) != label
    if not seen:
        raise SettingError(f"{source} lists no videos; pass another file or folder.")
    if repeated:
        other = f", {contradicting} of them with another label" if contradicting else ""
        rank_zero_warn(f"{source}: {repeated} rows repeat the path of an earlier row and were left out{other}.")
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
    if missing and tell_missing:
        rank_zero_warn(
            f"{len(missing)} of {len(checked)} videos that were looked up from {source} do not exist, the first is "
            f"{manifest.file(missing[0])}; they count as broken files."
        )
    return manifest


def is_hidden(name: str) -> bool:
    """Whether a name is that of a hidden file or folder, or of what systems and archives leave behind (`__MACOSX`)."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


@dataclass
class Found:
    """What is below a folder. Names are relative to it, with forward slashes.

    Args:
        files: videos and pictures, sorted.
        folders: folders directly below that are not hidden, sorted.
        hidden: hidden files and folders, into which nobody looked.
        others: files that are no videos and no pictures, counted by suffix.
        again: links to folders that were read already.
    """

    files: list[str]
    folders: list[str]
    hidden: list[str]
    others: Counter[str]
    again: list[str]

    def left_out(self) -> str:
        """What is there and is no sample, in words; nothing if there is nothing."""
        used = {file.split("/")[0] for file in self.files}
        empty = [name for name in self.folders if name not in used and name not in self.again]
        counts = sorted(self.others.items(), key=lambda one: (-one[1], one[0]))
        others = [f"{count} {suffix or 'without suffix'}" for suffix, count in counts]
        parts = [
            (f"{len(self.hidden)} hidden or left by systems", self.hidden),
            (f"{self.others.total()} files of other kinds", others),
            (f"{len(empty)} folders without videos", empty),
            (f"{len(self.again)} links to folders that were read already", self.again),
        ]
        return "; ".join(f"{what} ({shorten(names)})" for what, names in parts if names)


def shorten(names: list[str]) -> str:
    """The first few of some names."""
    return f"{', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''}"


def scan(root: Path) -> Found:
    """All videos and pictures below a folder, and what else is there, in one pass."""
    found = Found([], [], [], Counter(), [])
    visited: set[str] = set()
    base = str(root)
    # Classes may be links to folders elsewhere; links may also form circles.
    for folder, folders, names in os.walk(base, followlinks=True):
        inside = folder[len(base) :].lstrip(os.sep).replace(os.sep, "/")
        if (real := os.path.realpath(folder)) in visited:
            found.again.append(inside)
            folders.clear()
            continue
        visited.add(real)
        prefix = f"{inside}/" if inside else ""
        found.hidden += [prefix + name for name in (*folders, *names) if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        if not inside:
            found.folders = list(folders)
        for name in names:
            if is_hidden(name):
                continue
            suffix = Path(name).suffix.lower()
            if suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES:
                found.files.append(prefix + name)
            else:
                found.others[suffix] += 1
    found.files.sort()
    found.hidden.sort()
    return found


def video_files(root: Path) -> list[str]:
    """All videos and pictures below a folder that are not hidden, sorted, relative to it with forward slashes."""
    return scan(root).files


def split_of(name: str) -> str | None:
    """The split that a folder's name means: 'train', 'val' or 'test', in the usual spellings and any case; else None."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits directly below a folder, by split.

    Raises:
        SettingError: if two of them mean the same split.
    """
    found: dict[str, Path] = {}
    for folder in sorted(root.iterdir()):
        split = split_of(folder.name)
        if split is None or not folder.is_dir():
            continue
        if split in found:
            raise SettingError(
                f"data.root {root} holds both {found[split].name} and {folder.name}, which mean the same split; rename or move "
                "one of them."
            )
        found[split] = folder
    return found


def read_folder(folder: Path, setting: str = "data.root") -> Manifest:
    """Videos below a folder; the first sub-folder's name is the class. Says in one line what was found and left out.

    Videos beside the sub-folders are left out, if they are fewer than those within; if not, no video has a label.

    Raises:
        SettingError: if the folder is missing or holds no video, or its sub-folders look like splits.
    """
    check_root(folder, setting)
    found = scan(folder)
    left_out = found.left_out()
    if not found.files:
        there = f"; there are {left_out}" if left_out else ""
        raise SettingError(
            f"{setting} is {folder}, which holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}){there}; pass another folder."
        )
    within = [file for file in found.files if "/" in file]
    beside = [file for file in found.files if "/" not in file]
    classes = sorted({file.split("/")[0] for file in within})
    _check_layout(folder, within, classes, setting)
    files = found.files
    if classes and beside:
        if len(beside) < len(within):
            files = within
            what = f"are left out, because the {len(within)} others lie in folders of {len(classes)} classes"
        else:
            what = f"lie beside the {len(within)} in folders, so that folders are no classes and no video has a label"
        rank_zero_warn(f"{folder}: {len(beside)} videos ({shorten(beside)}) {what}; move them to where they belong.")
    labelled = bool(classes) and all("/" in file for file in files)
    lower = Counter(name.lower() for name in classes)
    if labelled and (alike := [name for name in classes if lower[name.lower()] > 1]):
        rank_zero_warn(f"{folder}: the classes {shorten(alike)} differ only in their capitals; they are different classes.")
    pictures = sum(Path(file).suffix.lower() in IMAGE_SUFFIXES for file in files)
    kinds = [f"{count} {kind}" for count, kind in ((len(files) - pictures, "videos"), (pictures, "pictures")) if count]
    rank_zero_info(
        f"{folder}: {' and '.join(kinds)} {f'of {len(classes)} classes' if labelled else 'without labels'}"
        f"{f'. Left out: {left_out}' if left_out else ''}."
    )
    if not labelled:
        return Manifest(folder, files, np.full(len(files), UNLABELLED, np.int64))
    number = {name: label for label, name in enumerate(classes)}
    return Manifest(folder, files, np.array([number[file.split("/")[0]] for file in files], np.int64), classes)


def _check_layout(folder: Path, within: list[str], classes: list[str], setting: str) -> None:
    """Refuse folders that look like splits, so that nobody trains on videos for validation, or learns to tell splits apart."""
    second = {parts[1] if len(parts := file.split("/")) > 2 else "" for file in within}
    if within and all(split_of(name) for name in second):
        raise SettingError(
            f"{setting} is {folder}, in whose folder {classes[0]} are folders of splits ({shorten(sorted(second))}); set "
            f"data.root to {folder / classes[0]}, or, if that is one of several classes, data.lists.train and data.lists.val "
            "to lists of the videos."
        )
    words = "|".join(name for names in SPLITS.values() for name in names)
    if len(classes) > 1 and all(re.match(rf"({words})(?![a-z])", name, re.IGNORECASE) for name in classes):
        raise SettingError(
            f"{setting} is {folder}, whose folders {shorten(classes)} could be splits or classes; call splits train, val and "
            "test, or put folders of classes into a folder train."
        )


def read_list(path: Path, root: Path) -> Manifest:
    """A list of videos: with or without a header, one row per video.

    Accepts 'path label' and 'path num_frames label' separated by single spaces (VideoMAE and SEVERE style), the same
    separated by tabs or commas with quotes where needed, and tables whose header names `path` and `label`. A path
    without suffix gets that of the file that exists. In 'a 12 3', 12 is taken for the number of frames, unless there is
    a file 'a 12' and none 'a'. An empty last cell means a video without label.

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
    widths = {len(row) for row in rows if row[-1].strip()}
    parsed = []
    for number, row in list(zip(lines, rows, strict=True))[1 if columns else 0 :]:
        # In a,3, the 3 may be a label or a number of frames; where no row has more behind it, nobody knows.
        if columns is None and len(row) > 2 and not row[-1].strip() and len(row) not in widths:
            raise SettingError(
                f"Line {number} of {path} is {lines[number]!r}, which ends with a separator, as all rows of {len(row)} cells "
                "do; remove it, or name the columns path and label in the first line."
            )
        try:
            parsed.append((_file_of(row[where].strip(), root), _label_of(row[what].strip())))
        except (ValueError, IndexError) as error:
            raise SettingError(
                f"Line {number} of {path} is {' '.join(row)!r}; expected a path and, last, a label as a whole number."
            ) from error
    return make_manifest(root, parsed, path)


def _file_of(name: str, root: Path) -> str:
    if not name:
        raise ValueError(name)
    return _existing(name, root) or (name if "." in _file_name(name) else f"{name}.mp4")


def _label_of(text: str) -> int:
    # Python would also take 1_0 for 10.
    if text and re.fullmatch(r"[+-]?\d+", text, re.ASCII) is None:
        raise ValueError(text)
    return int(text) if text else UNLABELLED


def read_lines(path: Path) -> dict[int, str]:
    """Lines of a text file by number from 1, without line ends (of any system) and blank lines."""
    if not is_file(path):
        raise SettingError(f"The list {path} does not exist; set data.lists.train and data.lists.val to existing files.")
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    # Tabs at the end stay: behind them an unlabelled row has its empty cell.
    lines = {number: line.strip(" ") for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not lines:
        raise SettingError(f"The list {path} is empty; pass another file.")
    return lines


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
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
    suffixes = ("", *sorted(USUAL_SUFFIXES), *sorted(RARE_SUFFIXES))
    return next((path + suffix for suffix in suffixes if is_file(root / (path + suffix))), None)


def by_stem(root: Path) -> dict[str, str]:
    """Files below a folder by name without suffix; usual videos win over rare ones, these over pictures, then the first."""
    found: dict[str, str] = {}
    for file in usual_first(video_files(root)):
        found.setdefault(Path(file).stem, file)
    return found


def usual_first(files: list[str]) -> list[str]:
    """Files in their order, but those with usual suffixes of videos before those with rare ones, and pictures last."""

    def rank(file: str) -> int:
        suffix = Path(file).suffix.lower()
        return 0 if suffix in USUAL_SUFFIXES else 1 if suffix in RARE_SUFFIXES else 2

    return sorted(files, key=rank)


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
        raise SettingError(f"The list {path} does not exist; set data.lists.train and data.lists.val to existing files.")
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

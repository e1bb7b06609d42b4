"""Folders of videos: their contents, and which sub-folders are splits or classes."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.lists.manifest import UNLABELLED, Manifest, check_root
from datamodules.lists.packed import PackedStrings
from modules.core.errors import SettingError

USUAL_SUFFIXES = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"}
# Of files with the same name, those above are preferred: a .gif is often the preview of a video.
RARE_SUFFIXES = {
    *(".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".gif", ".m1v", ".m2ts", ".m2v", ".mpe", ".mts", ".mxf", ".ogm"),
    *(".ogv", ".qt", ".rm", ".rmvb", ".vob"),
}
VIDEO_SUFFIXES = USUAL_SUFFIXES | RARE_SUFFIXES
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
KNOWN_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
SOUND_SUFFIXES = {".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".wma"}
# Names left behind by operating systems and archivers, besides those that start with a dot.
LEFT_BEHIND = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"}
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Common names of the folders and lists of splits, in lower case."""
NAMED = 5


def suffix_of(path: str) -> str:
    """`Path(path).suffix` in lower case, without the cost of creating a Path."""
    name = path.rstrip("/").rpartition("/")[2]
    place = name.rfind(".")
    return name[place:].lower() if 0 < place < len(name) - 1 else ""


def is_hidden(name: str) -> bool:
    """Whether a name is hidden, or left behind by operating systems and archivers (`__MACOSX`)."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


@dataclass
class Found:
    """Contents of a folder, recursively. Names are relative to it, with forward slashes.

    Args:
        files: videos and pictures, sorted.
        folders: folders directly below that are not hidden, sorted.
        hidden: hidden files and folders, which are not read.
        others: files that are neither videos nor pictures, counted by suffix.
        again: links to folders that have already been read.
    """

    files: PackedStrings = field(default_factory=lambda: PackedStrings(()))
    folders: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    again: list[str] = field(default_factory=list)

    def left_out(self) -> str:
        """Text about files that are not samples; empty if there are none."""
        used = set(map(top_folder, self.files))
        empty = [name for name in self.folders if name not in used and name not in self.again]
        counts = sorted(self.others.items(), key=lambda one: (-one[1], one[0]))
        others = [f"{count} {suffix or 'without suffix'}" for suffix, count in counts]
        parts = [
            (f"{len(self.hidden)} hidden or system files", self.hidden),
            (f"{self.others.total()} files of other kinds", others),
            (f"{len(empty)} folders without videos", empty),
            (f"{len(self.again)} links to folders that have already been read", self.again),
        ]
        return "; ".join(f"{what} ({shorten(names)})" for what, names in parts if names)


def top_folder(file: str) -> str:
    """The first folder of a path; '' if it has none."""
    return file.partition("/")[0] if "/" in file else ""


def shorten(names: Sequence[str]) -> str:
    """The first few of some names."""
    return f"{', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''}"


def scan(root: Path, suffixes: Collection[str] = KNOWN_SUFFIXES) -> Found:
    """All videos and pictures below a folder, or all files with some suffixes, and everything else, in one pass."""
    found = Found()
    # Packed one first-level folder at a time, so that there is never a list of all files.
    groups = {top: PackedStrings(sorted(files)) for top, files in groupby(_walk(root, found, suffixes), top_folder)}
    beside = groups.pop("", ())
    found.files = PackedStrings(merge(beside, _taken_in_order(groups)))
    found.hidden.sort()
    return found


def _walk(root: Path, found: Found, suffixes: Collection[str]) -> Iterator[str]:
    """The files with some suffixes below a folder, unordered; records everything else."""
    visited: set[str] = set()
    base = str(root)
    # Classes may be links to other folders; links may also form cycles.
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
            suffix = suffix_of(name)
            if suffix in suffixes:
                yield prefix + name
            else:
                found.others[suffix] += 1


def _taken_in_order(groups: dict[str, PackedStrings]) -> Iterator[str]:
    # The order of complete paths: a-b/1.mp4 comes before a/1.mp4.
    for top in sorted(groups, key=lambda name: f"{name}/"):
        yield from groups.pop(top)


def video_files(root: Path, suffixes: Collection[str] = KNOWN_SUFFIXES) -> PackedStrings:
    """All videos and pictures below a folder that are not hidden, sorted, relative to it with forward slashes.

    Args:
        root: the folder.
        suffixes: suffixes of the files to use instead.
    """
    return scan(root, suffixes).files


def by_stem(root: Path, suffixes: Collection[str] = KNOWN_SUFFIXES) -> dict[str, str]:
    """Files below a folder by name without suffix; common video suffixes are preferred to rare ones, these to images, and then
    the first file.

    Args:
        root: the folder.
        suffixes: suffixes of the files to use instead of videos and images.
    """
    found: dict[str, str] = {}
    for file in usual_first(video_files(root, suffixes)):
        found.setdefault(Path(file).stem, file)
    return found


def usual_first(files: Iterable[str]) -> list[str]:
    """Files in order, but common video suffixes before rare ones, and pictures last."""

    def rank(file: str) -> int:
        suffix = suffix_of(file)
        return 0 if suffix in USUAL_SUFFIXES else 1 if suffix in RARE_SUFFIXES else 2

    return sorted(files, key=rank)


def split_of(name: str) -> str | None:
    """The split of a folder name: 'train', 'val' or 'test', in the common spellings and any case; otherwise None."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits directly below a folder, by split.

    Raises:
        SettingError: if two of them are the same split.
    """
    found: dict[str, Path] = {}
    for folder in sorted(root.iterdir()):
        split = split_of(folder.name)
        if split is None or not folder.is_dir():
            continue
        if split in found:
            raise SettingError(
                f"data.root {root} contains {found[split].name} and {folder.name}, which are the same split; rename "
                "or move one."
            )
        found[split] = folder
    return found


def read_folder(folder: Path, setting: str = "data.root") -> Manifest:
    """Videos below a folder; the first sub-folder's name is the class. Prints one line about what was found and left out.

    Videos next to the sub-folders are left out if they are fewer than those inside; otherwise no video has a label.

    Raises:
        SettingError: if the folder is missing or contains no video, or its sub-folders look like splits.
    """
    check_root(folder, setting)
    found = scan(folder)
    left_out = found.left_out()
    if not found.files:
        there = f"; there are {left_out}" if left_out else ""
        raise SettingError(
            f"{setting} is {folder}, which contains no video ({', '.join(sorted(VIDEO_SUFFIXES))}){there}; pass another folder."
        )
    files = found.files
    # Folders are numbered in order of appearance; the numbers are then replaced by those of the sorted names.
    number: dict[str, int] = {}
    numbers = np.fromiter((number.setdefault(top_folder(file), len(number)) for file in files), np.int64, len(files))
    classes = sorted(name for name in number if name)
    label = {"": UNLABELLED} | {name: place for place, name in enumerate(classes)}
    labels = np.array([label[name] for name in number], np.int64)[numbers]
    _check_layout(folder, files, classes, setting)
    is_beside = labels == UNLABELLED
    beside = int(is_beside.sum())
    within = len(files) - beside
    if within and beside:
        named = shorten(files[is_beside])
        if beside < within:
            files, labels = files[~is_beside], labels[~is_beside]
            what = f"are left out, because the {within} others are in folders of {len(classes)} classes"
        else:
            labels = np.full_like(labels, UNLABELLED)
            what = f"are next to the {within} in folders, so folders are not used as classes and no video has a label"
        rank_zero_warn(f"{folder}: {beside} videos ({named}) {what}; move them to where they belong.")
    labelled = labels[0] != UNLABELLED
    lower = Counter(name.lower() for name in classes)
    if labelled and (alike := [name for name in classes if lower[name.lower()] > 1]):
        rank_zero_warn(f"{folder}: the classes {shorten(alike)} differ only in case; they are treated as different classes.")
    pictures = sum(suffix_of(file) in IMAGE_SUFFIXES for file in files)
    kinds = [f"{count} {kind}" for count, kind in ((len(files) - pictures, "videos"), (pictures, "pictures")) if count]
    rank_zero_info(
        f"{folder}: {' and '.join(kinds)} {f'of {len(classes)} classes' if labelled else 'without labels'}"
        f"{f'. Left out: {left_out}' if left_out else ''}."
    )
    return Manifest(folder, files, labels, classes if labelled else [])


def _check_layout(folder: Path, files: PackedStrings, classes: list[str], setting: str) -> None:
    """Refuse folders that look like splits, to avoid training on validation videos, or using splits as classes."""
    within = (file.split("/") for file in files if "/" in file)
    second = {parts[1] if len(parts) > 2 else "" for parts in within}
    if second and all(split_of(name) for name in second):
        raise SettingError(
            f"{setting} is {folder}, whose folder {classes[0]} contains split folders ({shorten(sorted(second))}); set "
            f"data.root to {folder / classes[0]}, or, if that is one of several classes, data.lists.train and data.lists.val "
            "to lists of the videos."
        )
    words = "|".join(name for names in SPLITS.values() for name in names)
    if len(classes) > 1 and all(re.match(rf"({words})(?![a-z])", name, re.IGNORECASE) for name in classes):
        raise SettingError(
            f"{setting} is {folder}, whose folders {shorten(classes)} could be splits or classes; name splits train, val and "
            "test, or put class folders into a folder train."
        )

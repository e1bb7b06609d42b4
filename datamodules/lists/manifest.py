"""Videos and labels of one split, independent of the format of their list.

Labels always start at 0. Missing files are kept in the manifest, and the loader reports them; it is an error if most
files of a list are missing, because then the root is wrong.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.lists.packed import PackedLists, PackedStrings
from datamodules.lists.subsets import pick_evenly, pick_per_class
from modules.core.errors import SettingError

UNLABELLED = -1
# Number of rows of a list checked at the start; checking all of a large list takes minutes on a network disk.
CHECKED_ROWS = 500
MAX_LABEL = 2**31 - 1


@dataclass
class Manifest:
    """Videos of one split. Paths and captions are packed, so that worker processes do not copy them; plain lists are accepted.

    Args:
        root: folder that relative paths are relative to.
        paths: files, relative to `root` or absolute.
        labels: int64 [N], from 0; -1 for none.
        class_names: names by label; empty if unknown.
        intervals: class intervals of each video: any number of (start in seconds, end in seconds, class); None
            if each video has one label.
        texts: captions of each video, or None.
        further: files of further streams by the stream's name, relative to `root` or absolute; '' if a row has none.
        spans: float64 [N, 2], start and end in seconds of each row's part of the file; infinite for its ends. None
            if each row is a complete file.
        fps: frames per second of videos that are folders of pictures; None for files.
    """

    root: Path
    paths: PackedStrings
    labels: np.ndarray
    class_names: list[str] = field(default_factory=list)
    intervals: list[list[tuple[float, float, int]]] | None = None
    texts: PackedLists | None = None
    further: dict[str, PackedStrings] = field(default_factory=dict)
    spans: np.ndarray | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        self.paths = PackedStrings(self.paths)
        self.further = {name: PackedStrings(paths) for name, paths in self.further.items()}
        self.texts = PackedLists(self.texts) if self.texts is not None else None

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, row: int) -> Path:
        """Path of a row's file."""
        return self.root / self.paths[row]

    def further_file(self, name: str, row: int) -> Path | None:
        """Path of the file of a row's further stream; None if the row has none."""
        path = self.further[name][row]
        return self.root / path if path else None

    @property
    def num_classes(self) -> int:
        """Number of classes, from names or labels."""
        return max(len(self.class_names), int(self.labels.max(initial=UNLABELLED)) + 1)

    def sha256(self) -> str:
        """Hash of paths and labels, for the record of a run; independent of the root, also for a list of absolute paths."""
        labels = self.texts or self.intervals or self.labels.tolist()
        digest, prefix = hashlib.sha256(), f"{self.root}/"
        for path, label in zip(self.paths, labels, strict=True):
            digest.update(f"{path.removeprefix(prefix)}\t{label}\n".encode("utf-8", "surrogateescape"))
        for name, paths in sorted(self.further.items()):
            digest.update(name.encode())
            for path in paths:
                digest.update(f"{path.removeprefix(prefix)}\n".encode("utf-8", "surrogateescape"))
        if self.spans is not None:
            digest.update(self.spans.tobytes())
        if self.texts is not None and self.has_classes:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()

    @property
    def is_labelled(self) -> bool:
        """Whether any video has a label, or all have intervals."""
        return self.intervals is not None or bool((self.labels != UNLABELLED).any())

    def shown(self, row: int, clips: np.ndarray | None = None) -> np.ndarray:
        """The classes shown in a video with class intervals.

        Args:
            row: row of the video.
            clips: float [V, 2], start and end of clips in seconds; None for the complete video.

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
        """Whether `labels` are class indices; with captions they are caption indices, unless classes have names."""
        return self.is_labelled and (self.texts is None or bool(self.class_names))

    def subset(self, rows: np.ndarray) -> "Manifest":
        """The manifest of some rows."""
        intervals = [self.intervals[row] for row in rows] if self.intervals is not None else None
        texts = self.texts[rows] if self.texts is not None else None
        further = {name: paths[rows] for name, paths in self.further.items()}
        spans = self.spans[rows] if self.spans is not None else None
        labels = self.labels[rows]
        return replace(
            self, paths=self.paths[rows], labels=labels, intervals=intervals, texts=texts, further=further, spans=spans
        )

    def share(self, fraction: float, seed: int) -> "Manifest":
        """A fraction of the videos, in order: of every class, and of the videos without one, rounded up
        (`pick_per_class`); with captions, which mostly have few videos, evenly (`pick_evenly`). Smaller fractions are
        subsets of larger ones.
        """
        if self.texts is not None:
            return self.subset(np.sort(pick_evenly(self.labels, math.ceil(len(self) * fraction), seed)))
        return self.subset(np.sort(pick_per_class(self.labels, lambda count: math.ceil(count * fraction), seed)))

    def hold_out(self, share: float, seed: int) -> tuple["Manifest", "Manifest"]:
        """A fraction of the files for validation, and the rest for training: of every class, and of the files without class, or
        of all files if there are no classes. It is rounded to whole files, but is at least one and never all, so that the only
        file of a class is for training. All parts of a file are in the same split.

        Returns:
            training and validation, in their order.

        Raises:
            SettingError: if there are too few files.
        """
        # The path of one file may be written in several ways.
        first = PackedStrings(os.path.normpath(self.file(row)) for row in range(len(self))).first_rows()
        files = np.unique(first)

        def count(files_of_class: int) -> int:
            return min(files_of_class - 1, max(1, round(files_of_class * share)))

        labels, has_classes = self.labels[files], self.has_classes and self.texts is None
        picked = pick_per_class(labels, count, seed) if has_classes else pick_evenly(labels, count(len(files)), seed)
        held = np.isin(first, files[picked])
        if not held.any():
            raise SettingError(
                f"data.subset.validation is {share:g}, but no class in {self.root} has more than one video; add videos, or "
                "name validation videos with data.lists.val."
            )
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))

    def few(self, wanted: int, seed: int) -> "Manifest":
        """A given number of videos, in order: the same number per class, rounded up, or all of its videos (SEVERE, official
        code: 1000 videos of UCF101's 101 classes become 1010). Videos without a class are left out, unless there are no others.

        Raises:
            SettingError: if videos have captions or several classes each.
        """
        if self.texts is not None or self.intervals is not None:
            raise SettingError(
                f"data.subset.low_shot is {wanted}, but the videos in {self.root} have several labels or captions each, so "
                "it cannot take the same number per class; set data.subset.fraction instead."
            )
        labelled = np.flatnonzero(self.labels != UNLABELLED)
        rows = labelled if len(labelled) else np.arange(len(self))
        per_class = math.ceil(wanted / len(np.unique(self.labels[rows])))
        picked = np.sort(rows[pick_per_class(self.labels[rows], lambda count: per_class, seed)])
        if len(picked) < wanted:
            few = f"only {len(picked)} videos are available: some classes have too few."
            rank_zero_warn(f"data.subset.low_shot is {wanted}, but {few}")
        return self.subset(picked)

    def with_classes(self, class_names: list[str]) -> "Manifest":
        """The same videos with label indices of another list of names; videos of other classes become unlabelled."""
        number = {name: label for label, name in enumerate(class_names)}
        known = [number.get(name, UNLABELLED) for name in self.class_names]
        # Labels without a name have none in the other list; the last entry is for unlabelled rows.
        table = np.array(known + [UNLABELLED] * (self.num_classes + 1 - len(known)), np.int64)
        intervals = self.intervals
        if intervals is not None:
            moved = [[(first, last, int(table[label])) for first, last, label in video] for video in intervals]
            intervals = [[one for one in video if one[2] != UNLABELLED] for video in moved]
        return replace(self, labels=table[self.labels], class_names=class_names, intervals=intervals)


def places(manifest: Manifest) -> Iterator[str]:
    """Absolute paths of the files of a manifest. Joined as strings: lists are long, and Path is slow."""
    root = manifest.root.resolve()
    return (path if path.startswith("/") else f"{root}/{path}" for path in manifest.paths)


def shared_rows(train: Manifest, other: Manifest) -> np.ndarray:
    """Rows of a manifest that share content with another: the same file, or overlapping parts of it.

    Returns:
        bool [N], for each row of `other`.
    """
    # Compare hashes first: a set of all paths would take far more memory than the lists.
    trained, asked = (np.fromiter(map(hash, places(one)), np.int64, len(one)) for one in (train, other))
    alike: dict[str, list[int]] = {}
    for row, place in compress(enumerate(places(train)), np.isin(trained, asked)):
        alike.setdefault(place, []).append(row)
    theirs, ours = (_ends(one) for one in (train, other))
    found = np.zeros(len(other), bool)
    for row, place in compress(enumerate(places(other)), np.isin(asked, trained)):
        first, last = theirs[alike.get(place, [])].T
        found[row] = ((first < ours[row, 1]) & (ours[row, 0] < last)).any()
    return found


def _ends(manifest: Manifest) -> np.ndarray:
    whole = np.broadcast_to(np.array([-np.inf, np.inf]), (len(manifest), 2))
    return whole if manifest.spans is None else manifest.spans


def is_file(path: Path) -> bool:
    """Whether a file exists; False for invalid or overlong names."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_root(root: Path, setting: str = "data.root") -> None:
    """Fail if a folder is missing."""
    if not root.is_dir():
        raise SettingError(f"{setting} is {root}, which is not a folder; pass the folder that contains the videos.")


def make_manifest(
    root: Path,
    rows: Iterable[tuple[str, int]],
    source: Path,
    class_names: list[str] | None = None,
    tell_missing: bool = True,
) -> Manifest:
    """A manifest from (path, label) rows: duplicate paths are kept once, and a wrong root is detected.

    Args:
        root: folder that relative paths are relative to.
        rows: paths and labels.
        source: the list that they are from.
        class_names: names by label, if known.
        tell_missing: warn about missing files among those that are checked.
    """
    numbers: list[int] = []

    def noting_labels() -> Iterator[str]:
        for path, label in rows:
            numbers.append(label)
            yield path

    # Rows are streamed, so that there is never a second list of a million strings.
    paths = PackedStrings(noting_labels())
    if not paths:
        raise SettingError(f"{source} lists no videos; pass another file or folder.")
    first = paths.first_rows()
    if repeated := np.flatnonzero(first != np.arange(len(first))).tolist():
        contradicting = sum(numbers[row] != numbers[first[row]] for row in repeated)
        other = f", {contradicting} of them with another label" if contradicting else ""
        rank_zero_warn(f"{source}: {len(repeated)} rows repeat the path of an earlier row and were left out{other}.")
        kept = np.unique(first)
        paths, numbers = paths[kept], [numbers[row] for row in kept]
    for label in numbers:
        if not UNLABELLED <= label <= MAX_LABEL:
            raise SettingError(f"{source} has the label {label}; labels must be integers from 0.")
    manifest = Manifest(root, paths, np.array(numbers, np.int64), class_names or [])
    check_files(manifest.file, len(manifest), source, tell_missing)
    return manifest


def check_files(
    file: Callable[[int], Path | None],
    rows: int,
    source: Path,
    tell_missing: bool = True,
    what: str = "videos",
    is_there: Callable[[Path], bool] = is_file,
) -> None:
    """Check whether some files of a list exist, to detect a wrong root.

    Args:
        file: path of a row's file; None if it has none.
        rows: number of rows of the list.
        source: the list.
        tell_missing: warn about missing ones.
        what: name of the files, for messages.
        is_there: returns whether a file exists.

    Raises:
        SettingError: if most of them are missing.
    """
    asked = (file(row) for row in np.linspace(0, rows - 1, min(rows, CHECKED_ROWS)).astype(int).tolist())
    checked = [path for path in asked if path is not None]
    missing = [path for path in checked if not is_there(path)]
    if len(missing) > len(checked) / 2:
        raise SettingError(
            f"{len(missing)} of {len(checked)} {what} that were checked from {source} do not exist (the first: "
            f"{missing[0]}); set data.root to the folder that the paths of the list are relative to."
        )
    if missing and tell_missing:
        rank_zero_warn(
            f"{len(missing)} of {len(checked)} {what} that were checked from {source} do not exist, the first is "
            f"{missing[0]}; they count as broken files."
        )

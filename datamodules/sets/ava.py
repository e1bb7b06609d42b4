"""AVA v2.2: actions of people in films, annotated once per second and person; 80 actions, 60 of which are evaluated."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_lines
from datamodules.lists.folders import by_stem, is_hidden
from datamodules.lists.manifest import Manifest, is_file
from datamodules.lists.official import class_label
from datamodules.lists.packed import PackedStrings
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.settings import ListSettings, ReadSettings, SubsetSettings
from datamodules.video.crops import Square
from datamodules.video.key_frames import KeyFrameDataset, KeyFrames, collate_boxes
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.batch import Batch, TrueBoxes
from modules.core.errors import SettingError, check_range

ACTIONS = 80
SECONDS = range(902, 1799)
"""Key frames of a film."""
VALIDATED = 4
"""Validation during training only uses the key frames at multiples of this many seconds (SEVERE, official code)."""
TRUE = {"train": ["ava_train_v2.2.csv"], "val": ["ava_val_v2.2.csv"]}
DETECTED = {
    "train": [
        "ava_detection_train_boxes_and_labels_include_negative_v2.2.csv",
        "ava_detection_train_boxes_and_labels_include_negative.csv",
    ],
    "val": ["ava_detection_val_boxes_and_labels.csv"],
}
EXCLUDED = ["ava_val_excluded_timestamps_v2.2.csv"]
SCORED = ["ava_action_list_v2.2_for_activitynet_2019.pbtxt"]


class Moment(NamedTuple):
    """A key frame."""

    film: str
    second: int


Corners = tuple[float, float, float, float]
Boxes = dict[Moment, dict[Corners, set[int]]]
"""The boxes of key frames, in the order of the file, and the action indices of each, from 0."""


class Evaluation(NamedTuple):
    """Ground truth of a split for its evaluation."""

    key_frames: KeyFrames
    truth: TrueBoxes
    """Frame indices are rows of `key_frames`; larger indices are annotated frames that have no box to classify."""
    scored: dict[int, str]
    """Evaluated actions by index from 0, and their names."""


@dataclass
class BoxSettings:
    """Detected boxes of people, in addition to or instead of the true ones.

    Args:
        train: List of detected boxes for training; null uses the default file name.
        val: List of detected boxes for validation and test; null uses ava_detection_val_boxes_and_labels.csv.
        min_score: Minimum score of detected boxes.
    """

    train: str | None = None
    val: str | None = None
    min_score: float = 0.9

    def __post_init__(self) -> None:
        check_range("data.boxes", 0, 1, min_score=self.min_score)
        for part, named in (("train", self.train), ("val", self.val)):
            if named and not is_file(Path(named)):
                raise SettingError(f"data.boxes.{part} is {named}, which does not exist; set it to a list of detected boxes.")


@dataclass
class FilmSettings:
    """How films are read.

    Args:
        start: Second of the film at which its file starts: 900 if films were cut by the official scripts, 0 for complete
            films.
        square: Whether evaluation resizes the complete frame to a square, as transformers need; otherwise its shorter side
            becomes `data.clip.size`.
    """

    start: float = 900.0
    square: bool = False

    def __post_init__(self) -> None:
        check_range("data.films", 0, start=self.start)


class AVA(VideoDataModule):
    """AVA v2.2 for action detection: a clip around each key frame, with the boxes of its people and their actions.

    Films are files of any kind, `<name>.mkv`, in any layout below `root`, or folders of pictures at 30 frames per second,
    `frames/<name>/<name>_000001.jpg`; if there is a folder `frames`, only this folder is read. The official lists contain true
    boxes, one line per action. Lists of detected boxes have the same format, with a score instead of the id of the person.

    Training uses true boxes, and detected boxes if there is a list of them (with or without actions). Random square
    crops clip the boxes and drop those outside; the official code keeps them as boxes without area. Validation uses
    every fourth second, the test all seconds; both read complete frames, one key frame per batch unless `films.square`.

    mp4 files are read from the keyframe before the clip; for other files the index is rebuilt for every clip by reading
    the file. `python main.py prepare videos` creates small mp4 files of films.

    Args:
        root: folder of the films.
        lists: lists of true boxes: `train` (null uses ava_train_v2.2.csv) and `val`, also used for the test (null uses
            ava_val_v2.2.csv); and the folder of the official lists.
        boxes: lists of detected boxes.
        clip: frames, size, and crop of training clips. The sampler must be `Dense`, with its stride in thirtieths of a second;
            `clips` and `repeat` must be left as they are.
        batch_size: key frames per batch and device in training.
        reading: worker processes, decoder, and tolerance for broken films; `decode_timeout` applies to one clip.
        subset: part of the training key frames; the same fraction of every film instead of every class.
        films: start second of files, and the shape of evaluation frames.
        benchmark: boxes to evaluate on: detected or true ones.
        probe_samples: key frames for probes.
        seed: random seed of order, clips and crops; null takes the run's seed.

    Raises:
        SettingError: for incompatible settings.
    """

    benchmarks = ("detected_boxes", "true_boxes")
    lists_taken = ("train", "val")
    places = ("", "annotations", "ava_annotations", "person_box_67091280_iou90", "annotations/person_box_67091280_iou90")

    def __init__(
        self,
        root: str,
        lists: ListSettings = ListSettings(),  # noqa: B008
        boxes: BoxSettings = BoxSettings(),  # noqa: B008
        clip: ClipSettings = ClipSettings(  # noqa: B008
            frames=32,
            size=112,
            sampler=Dense(2),  # noqa: B008
            crop=Square((112 / 320, 112 / 256)),  # noqa: B008
        ),
        batch_size: int = 16,
        reading: ReadSettings = ReadSettings(),  # noqa: B008
        subset: SubsetSettings = SubsetSettings(),  # noqa: B008
        films: FilmSettings = FilmSettings(),  # noqa: B008
        benchmark: str | None = None,
        probe_samples: int = 2048,
        seed: int | None = None,
    ) -> None:
        if clip.views > 1 or not isinstance(clip.sampler, Dense):
            raise SettingError(
                "AVA reads one clip around each key frame; leave out data.clip.clips and data.clip.repeat, and let "
                "data.clip.sampler be Dense."
            )
        super().__init__(
            root, lists, clip, batch_size, reading, subset, benchmark=benchmark, probe_samples=probe_samples, seed=seed
        )
        self.boxes, self.films = boxes, films
        self._evaluations: dict[str, Evaluation] = {}

    @property
    def num_classes(self) -> int:
        """Number of all actions, including those that are not evaluated."""
        return ACTIONS

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        part = "train" if split == "train" else "val"
        listed = self.lists.of(part) or self.find_list(*TRUE[part])
        if listed is None:
            raise self.lacks(TRUE[part][0], f"data.lists.{part}")
        return self.read_listed(listed, split)

    def read_listed(self, path: Path, split: str) -> Manifest:
        """See `VideoDataModule.read_listed`."""
        true = read_boxes(path)
        if split != "train":
            return self._evaluated(split, true, path).key_frames
        boxes: Boxes = {moment: {box: set(actions) for box, actions in found.items()} for moment, found in true.items()}
        detected = self._detected("train")
        if detected is None:
            rank_zero_warn(f"{self.list_folder} contains no {DETECTED['train'][0]}: training only uses true boxes.")
        for moment, found in (read_boxes(detected, self.boxes.min_score) if detected is not None else {}).items():
            for box, actions in found.items():
                boxes.setdefault(moment, {}).setdefault(box, set()).update(actions)
        return self._key_frames(boxes, path)

    def _detected(self, part: str) -> Path | None:
        named = self.boxes.train if part == "train" else self.boxes.val
        return Path(named) if named else self.find_list(*DETECTED[part])

    def _evaluated(self, split: str, true: Boxes, listed: Path) -> Evaluation:
        """Key frames of validation or test without excluded ones, and their ground truth."""
        excluded, names = self.find_list(*EXCLUDED), self.find_list(*SCORED)
        for found, wanted in ((excluded, EXCLUDED[0]), (names, SCORED[0])):
            if found is None:
                raise self.lacks(wanted)
        assert excluded is not None
        assert names is not None
        boxes = true
        if self.benchmark == "detected_boxes":
            detected = self._detected("val")
            if detected is None:
                raise SettingError(
                    f"{self.list_folder} contains no {DETECTED['val'][0]}; set data.boxes.val to a list of detected boxes, or "
                    "data.benchmark to true_boxes."
                )
            boxes = read_boxes(detected, self.boxes.min_score)
        left_out = read_moments(excluded)
        every = VALIDATED if split == "val" else 1
        true, boxes = (
            {at: one for at, one in table.items() if at not in left_out and at.second % every == 0} for table in (true, boxes)
        )
        key_frames = self._key_frames(boxes, listed)
        row = {at: number for number, at in enumerate([*sorted(boxes), *sorted(true.keys() - boxes.keys())])}
        pairs = [(row[at], box, action) for at, found in true.items() for box, actions in found.items() for action in actions]
        frames, corners, actions = zip(*pairs, strict=True) if pairs else ((), (), ())
        truth = TrueBoxes(
            torch.tensor(frames, dtype=torch.long),
            torch.tensor(corners, dtype=torch.float64).reshape(-1, 4),
            torch.tensor(actions, dtype=torch.long),
        )
        self._evaluations[split] = Evaluation(key_frames, truth, read_actions(names))
        return self._evaluations[split]

    def evaluation(self, stage: str) -> Evaluation:
        """Ground truth of 'val' or 'test'; frames and boxes have the same indices as in its batches."""
        return self._evaluations[stage]

    def _key_frames(self, boxes: Boxes, source: Path) -> KeyFrames:
        """A table of films, timestamps and boxes, sorted by film and second; more than half of the films must exist."""
        moments = sorted(boxes)
        films = sorted({moment.film for moment in moments})
        if not films:
            raise SettingError(f"{source} contains no key frame with a box; pass another list, or lower data.boxes.min_score.")
        existing = film_files(self.root)
        missing = [film for film in films if film not in existing]
        if len(missing) > len(films) / 2:
            raise SettingError(
                f"{len(missing)} of the {len(films)} films of {source} are not in {self.root} (the first: {missing[0]}); set "
                "data.root to the folder of the films, or of their folder `frames`."
            )
        if missing:
            rank_zero_warn(
                f"{len(films) - len(missing)} of the {len(films)} films of {source} are below {self.root}; {len(missing)} are "
                f"missing, the first is {missing[0]}. Report results with these counts."
            )
        number = {film: place for place, film in enumerate(films)}
        corners = [box for moment in moments for box in boxes[moment]]
        actions = np.zeros((len(corners), ACTIONS), bool)
        each = [found for moment in moments for found in boxes[moment].values()]
        for place, found in enumerate(each):
            actions[place, list(found)] = True
        return KeyFrames(
            self.root,
            PackedStrings(existing.get(moment.film, f"{moment.film}.mp4") for moment in moments),
            np.array([number[moment.film] for moment in moments], np.int64),
            seconds=np.array([moment.second - self.films.start for moment in moments], np.float64),
            boxes=np.array(corners, np.float64).reshape(-1, 4),
            actions=actions,
            first=np.cumsum([0, *(len(boxes[moment]) for moment in moments)]),
        )

    @staticmethod
    def _collate(samples: list[dict[str, Any]]) -> Batch:
        return collate_boxes(samples)

    def _dataset(self, manifest: Manifest, train: bool, views: ViewSettings | None, guard: WorkerGuard) -> KeyFrameDataset:
        assert isinstance(manifest, KeyFrames)
        decoder, timeout = self.reading.decoder, self.reading.decode_timeout
        return KeyFrameDataset(manifest, self.clip, self.seed, train, self.films.square, decoder, timeout, guard)

    def _samples_at_once(self, train: bool, views: ViewSettings | None) -> int:
        # Films have different aspect ratios.
        return self.batch_size if train or self.films.square else 1


def film_files(root: Path) -> dict[str, str]:
    """Films by name: folders of pictures in `frames` if it exists, otherwise files, named without their last suffix."""
    frames = root / "frames"
    if frames.is_dir():
        return {folder.name: f"frames/{folder.name}" for folder in sorted(frames.iterdir()) if _is_film(folder)}
    return by_stem(root)


def _is_film(folder: Path) -> bool:
    return folder.is_dir() and not is_hidden(folder.name)


def read_rows(path: Path, cells: int) -> Iterator[tuple[int, Moment, list[str]]]:
    """Line number, key frame and cells of each row of an official list.

    Raises:
        SettingError: if the file is missing or a row has too few cells or an invalid second; the message names the line.
    """
    if not is_file(path):
        raise SettingError(f"The list {path} does not exist; pass an existing file.")
    lines = read_lines(path)
    for number, row in zip(lines, csv.reader(lines.values()), strict=True):
        # Seconds have two forms: 902 and 0902.
        if len(row) < cells or not row[1].strip().isdecimal():
            raise SettingError(
                f"Line {number} of {path} is {lines[number]!r}; expected {cells} cells with commas: film, second"
                f"{', four corners, action, and person or score' if cells > 2 else ''}."
            )
        yield number, Moment(row[0].strip(), int(row[1])), row


def read_boxes(path: Path, min_score: float | None = None) -> Boxes:
    """Boxes of key frames; lines of the same box are merged, in any order.

    Args:
        path: list in the format of ava_train_v2.2.csv.
        min_score: minimum score in lists of detected boxes, whose last cell is a score; None for true boxes, whose last cell is
            the id of a person.

    Raises:
        SettingError: if the file is missing or a row is invalid; the message names the line.
    """
    boxes: Boxes = {}
    for number, moment, row in read_rows(path, 8):
        where = f"Line {number} of {path}"
        try:
            x1, y1, x2, y2 = (float(cell) for cell in row[2:6])
            score = 1.0 if min_score is None else float(row[7])
        except ValueError as error:
            raise SettingError(f"{where} has {','.join(row[2:])!r} after the second; expected numbers.") from error
        if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
            raise SettingError(
                f"{where} has the corners {row[2:6]}; expected x1, y1, x2, y2 as shares of width and height, from 0 to 1."
            )
        action = row[6].strip()
        if not action and min_score is None:
            raise SettingError(f"{where} has no action; lists of detected boxes belong to data.boxes.train and data.boxes.val.")
        if moment.second not in SECONDS or (min_score is not None and score < min_score):
            continue
        found = boxes.setdefault(moment, {}).setdefault((x1, y1, x2, y2), set())
        # Negative and missing numbers mean a box without any action.
        if action and action != "-1":
            found.add(class_label(action, ACTIONS + 1, where) - 1)
            if -1 in found:
                raise SettingError(f"{where} has the action 0; actions count from 1.")
    return boxes


def read_moments(path: Path) -> set[Moment]:
    """Key frames of a list of film and second. Raises SettingError like `read_rows`."""
    return {moment for _, moment, _ in read_rows(path, 2)}


def read_actions(path: Path) -> dict[int, str]:
    """Index (from 0) and name of each action of a list in protobuf's text format, with `id` or `label_id`.

    Raises:
        SettingError: if the file is missing or contains no action.
    """
    text = "\n".join(read_lines(path).values())
    found = {}
    for block in re.findall(r"\{([^}]*)\}", text):
        name, number = re.search(r'\bname:\s*"(.*?)"\s', block + "\n"), re.search(r"\b(?:label_)?id:\s*(\d+)", block)
        if name and number and 1 <= int(number[1]) <= ACTIONS:
            found[int(number[1]) - 1] = name[1]
    if not found:
        raise SettingError(f'{path} names no action from 1 to {ACTIONS}; expected blocks like item {{ name: "sit" id: 11 }}.')
    return dict(sorted(found.items()))

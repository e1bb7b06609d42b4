"""Detected boxes of a video, from csv and json files.

Axis letters: `V` views, `T` frames, `K` objects, `N` boxes of a file.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.streams.arrays import check_file, split_source
from datamodules.streams.reader import StreamReader, seconds_of
from datamodules.streams.settings import NO_PICTURES, TrackSettings
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.sampling import Plan
from modules.core.batch import Stream
from modules.core.errors import SettingError

CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Detections:
    """Boxes of one video.

    Args:
        counts_frames: whether `moment` is in frames and not in seconds.
        moment: float64 [N], time of each box, ascending.
        box: float64 [N, 4], x1 y1 x2 y2, as in the file.
        score: float64 [N], 1 if the file has none.
        track: int64 [N], index in `names` of each box's object, or -1.
        names: names of objects.
    """

    counts_frames: bool
    moment: np.ndarray
    box: np.ndarray
    score: np.ndarray
    track: np.ndarray
    names: tuple[str, ...]

    def of(self, rows: np.ndarray) -> "Detections":
        """A subset by indices int64 [n] or mask bool [N]."""
        return replace(self, moment=self.moment[rows], box=self.box[rows], score=self.score[rows], track=self.track[rows])

    def at(self, moment: float, reach: float) -> np.ndarray:
        """Rows of the boxes at the nearest time with boxes, if it is within `reach`: int64 [n], highest score first."""
        after = int(np.searchsorted(self.moment, moment))
        near = [self.moment[place] for place in (after - 1, after) if 0 <= place < len(self.moment)]
        nearest = min(near, key=lambda one: abs(one - moment), default=np.inf)
        if abs(nearest - moment) > reach + 1e-6:
            return np.zeros(0, np.int64)
        rows = np.arange(*(int(np.searchsorted(self.moment, nearest, side)) for side in ("left", "right")))
        return rows[np.argsort(-self.score[rows], kind="stable")]


class TrackReader(StreamReader):
    """Boxes from files of detections (`load_detections`), [V, T, K, 4] in pixels of the clip.

    With track names, an object has the same index in all frames of a view, sorted by their total score in the view; without
    them the boxes of each frame are in the order of their scores. Boxes outside the crop are 0 and not valid.

    Args:
        settings: unit, number of objects and time.
    """

    kind = "track"

    def __init__(self, settings: TrackSettings) -> None:
        self.settings = settings

    def info(self, source: Path) -> VideoInfo:
        """Refused: boxes need pictures, which `Wanted` ensures.

        Raises:
            SettingError: always.
        """
        raise SettingError(NO_PICTURES)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`."""
        found = load_detections(source, plan, self.settings)
        data = np.zeros((*plan.frames.shape, self.settings.most, 4), np.float32)
        for view, box in enumerate(plan.boxes):
            shown = [found.at(moment, self.settings.reach) for moment in moments_of(found, plan, self.settings)[view]]
            scale = np.array([size / box.width, size / box.height] * 2)
            for frame, rows in enumerate(slots(found, shown, self.settings.most)):
                there = rows >= 0
                placed = (found.box[rows[there]] - np.array([box.x, box.y] * 2)) * scale
                data[view, frame, : len(rows)][there] = placed.clip(0, size)
        valid = (data[..., 2] > data[..., 0]) & (data[..., 3] > data[..., 1])
        return Stream("track", torch.from_numpy(np.where(valid[..., None], data, 0)), torch.from_numpy(valid), seconds_of(plan))

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        shape = (*plan.frames.shape, self.settings.most)
        return Stream("track", torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.bool), seconds_of(plan))


def moments_of(found: Detections, plan: Plan, settings: TrackSettings) -> list[list[float]]:
    """Time of each frame of a plan, in the unit of the detections: V lists of T."""
    moments: list[list[float]] = (plan.frames + settings.first_frame if found.counts_frames else plan.moments).tolist()
    return moments


def slots(found: Detections, shown: list[np.ndarray], most: int) -> Iterator[np.ndarray]:
    """Assign the boxes of each frame of a view to K slots.

    Args:
        found: boxes of the video.
        shown: rows of the boxes in each frame, highest score first.
        most: number of slots.

    Yields:
        int64 [n] for each frame, n at most `most`: rows by slot; -1 for empty slots.
    """
    rows = np.concatenate(shown)
    if not len(rows) or (found.track[rows] < 0).any():
        yield from (own[:most] for own in shown)
        return
    tracks, number = np.unique(found.track[rows], return_inverse=True)
    total = np.bincount(number, found.score[rows])
    place = {track: slot for slot, track in enumerate(tracks[np.argsort(-total, kind="stable")][:most].tolist())}
    for own in shown:
        taken = np.full(len(place), -1, np.int64)
        # In ascending order of scores, so that the better of two boxes of one object is kept.
        for row in own[::-1].tolist():
            if (slot := place.get(int(found.track[row]))) is not None:
                taken[slot] = row
        yield taken


def load_detections(source: Path, plan: Plan, settings: TrackSettings) -> Detections:
    """Boxes of the video of a plan, in pixels of its frames.

    * csv files have columns `frame` (its number) or `seconds`, `x1`, `y1`, `x2`, `y2`, and optionally `video`, `track`,
      `score`, `class`; others are ignored.
    * json files contain a list of objects: `image_id` or `frame` (its number), or `seconds`, `bbox` [x, y, width, height] as in
      COCO, and optionally `video`, `track_id`, `score`, `category_id`.

    If videos are given, the rows of the plan's file are used; the video is its path with or without folders and suffix, or
    the name behind `#` in the source.

    Raises:
        DecodeError: if the file is broken, does not contain the video, or its boxes do not fit the frames.
    """
    path, named = split_source(source)
    check_file(path)
    width, height = plan.picture
    if not width:
        raise DecodeError("no video stream", "nothing to place boxes in")
    videos = _load(path, path.stat().st_mtime_ns)
    video = named if named is not None else _video_of(videos, plan.file)
    if video not in videos:
        raise DecodeError("no such stream", f"no boxes of {named if named is not None else plan.file}")
    found, classes = videos[video]
    keep = found.score >= (-np.inf if settings.score is None else settings.score)
    if settings.classes is not None:
        keep &= np.isin(classes, settings.classes)
    found = found.of(keep)
    if settings.unit == "share" and (found.box > 1.5).any():
        raise DecodeError("another size", "boxes beyond 1; see data.streams.track.unit")
    if settings.unit == "pixels" and len(found.box) and (found.box <= 1).all():
        raise DecodeError("another size", "all boxes within one pixel; see data.streams.track.unit")
    if settings.unit == "share":
        found = replace(found, box=found.box * np.array([width, height] * 2))
    centre = (found.box[:, :2] + found.box[:, 2:]) / 2
    if (outside := ((centre < 0) | (centre > (width, height))).any(1)).any():
        box = found.box[outside][0].tolist()
        raise DecodeError("another size", f"the centre of the box {box} is outside the frame of {width} x {height}")
    return found


def _video_of(videos: dict[str, tuple[Detections, np.ndarray]], file: Path | None) -> str:
    """The name of a video in a file of detections; '' if the file contains no names of videos."""
    if file is None or "" in videos:
        return ""
    for path in (file, file.with_suffix("")):
        # The longest name first, because it includes most folders.
        for depth in range(len(path.parts)):
            if (name := "/".join(path.parts[depth:]).replace("//", "/")) in videos:
                return name
    return ""


# Files may contain the boxes of many videos, and several streams of a sample may read the same file.
@lru_cache(maxsize=2)
def _load(path: Path, changed: int) -> dict[str, tuple[Detections, np.ndarray]]:
    """Detections of each video of a file, and their classes. Raises DecodeError."""
    rows = _read_json(path) if path.suffix == ".json" else _read_csv(path)
    videos: dict[str, list[tuple[float, ...]]] = {}
    labels: dict[str, list[str]] = {}
    tracks: dict[str, int] = {}
    counts_frames: bool | None = None
    for number, row in enumerate(rows, 1):
        try:
            in_frames = row.get("frame") not in (None, "")
            moment = float(row["frame"] if in_frames else row["seconds"])
            corners = [float(row[name]) for name in CORNERS]
            score = float(row["score"]) if row.get("score") not in (None, "") else 1.0
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError("not numbers", f"box {number}: {type(error).__name__} {error}") from error
        track = "" if row.get("track") is None else str(row["track"])
        entry = (moment, *corners, score, float(tracks.setdefault(track, len(tracks))) if track else -1.0)
        if not np.isfinite(entry).all() or corners[2] <= corners[0] or corners[3] <= corners[1]:
            raise DecodeError("not numbers", f"box {number} is {corners}, at {moment:g}")
        if counts_frames not in (None, in_frames):
            raise DecodeError("not numbers", f"box {number} counts frames where others count seconds, or the reverse")
        counts_frames = in_frames
        video = str(row.get("video") or "")
        videos.setdefault(video, []).append(entry)
        labels.setdefault(video, []).append("" if row.get("class") is None else str(row["class"]))
    if len(videos) > 1 and "" in videos:
        raise DecodeError("not numbers", "some boxes name their video, and some do not")
    found = {}
    for video, entries in (videos or {"": []}).items():
        table = np.array(entries, np.float64).reshape(-1, 7)
        order = np.argsort(table[:, 0], kind="stable")
        table = table[order]
        numbers = table[:, 6].astype(np.int64)
        one = Detections(counts_frames is not False, table[:, 0], table[:, 1:5], table[:, 5], numbers, tuple(tracks))
        found[video] = one, np.array(labels.get(video, []), str)[order]
    return found


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, skipinitialspace=True)
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            lacking = [name for name in CORNERS if name not in names]
            lacking += ["frame or seconds"] if ("frame" in names) == ("seconds" in names) else []
            if lacking:
                raise DecodeError("no such column", f"{', '.join(lacking)} of {', '.join(names)}")
            for row in reader:
                if None in row:
                    raise DecodeError("not numbers", f"line {reader.line_num} has more cells than the header")
                yield row
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DecodeError("cannot open", str(error)) from error


def _read_json(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise DecodeError("cannot open", str(error)) from error
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DecodeError("cannot open", "no list of objects with bbox")
    for number, entry in enumerate(content, 1):
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(one, int | float) for one in box):
            raise DecodeError("not numbers", f"box {number} has the bbox {box!r:.80}")
        corners = dict(zip(CORNERS, (box[0], box[1], box[0] + box[2], box[1] + box[3]), strict=True))
        others = {name: entry.get(name) for name in ("seconds", "video", "score")}
        own_names = {"track": entry.get("track_id"), "class": entry.get("category_id")}
        yield corners | others | own_names | {"frame": entry.get("frame", entry.get("image_id"))}

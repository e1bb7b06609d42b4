"""NTU RGB+D with all its cameras: colour, depth, infrared and skeletons of the same recording, paired by their names."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from datamodules.lists.folders import is_hidden
from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedStrings
from datamodules.sets.ntu import NTUVideos
from datamodules.skeleton.normalise import JOINTS, PERSONS, choose_persons, normalise
from datamodules.skeleton.raw import NTU_CLASSES, NTU_NAME, RawError, parse_ntu_name, read_bodies
from datamodules.skeleton.splits import NTU60_CLASSES, TRAINS, is_ntu60
from datamodules.streams.planes import DepthReader, FurtherVideo
from datamodules.streams.reader import StreamReader, seconds_of
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.sampling import Plan
from modules.core.batch import Kind, Stream
from modules.core.errors import SettingError

FPS = 30.0
ENDINGS = {"_rgb.avi": "video", "_ir.avi": "infrared", ".skeleton": "skeleton"}


class NTUStreams(NTUVideos):
    """NTU RGB+D: `<name>_rgb.avi`, folders `<name>` of depth pictures, `<name>_ir.avi` and `<name>.skeleton`, anywhere below
    `root`, where a name is like S001C002P003R002A013.

    The streams are video, depth, infrared (a further video) and skeleton. All cameras have 30 frames per second; if a stream
    has fewer frames than the first stream, the frames after its end are not valid. Depth and infrared come from another camera
    than the colour video: together with a video, they are cropped to their centred square. Recordings without their first
    stream are left out.
    """

    offers: ClassVar[dict[str, Kind]] = {"video": "video", "depth": "depth", "infrared": "video", "skeleton": "skeleton"}
    gives = ("video", "depth", "skeleton")

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        part, _, benchmark = self.benchmark.partition("_")
        names = [name for name in self.offers if name in self.wanted]
        samples = sorted(self._found().items())
        first = names[0]
        rows = []
        for name, files in samples:
            parsed = parse_ntu_name(name)
            if parsed is None or first not in files or (part == "ntu60" and not is_ntu60(parsed)):
                continue
            if TRAINS[benchmark](parsed) == (split == "train"):
                rows.append((parsed.action - 1, files))
        if not rows:
            if split != "train":
                return None
            raise SettingError(
                f"data.root {self.root} contains no training recording of {self.benchmark} with a stream {first}, named like "
                "S001C001P001R001A001; pass the folder of all recordings, or other data.streams.names."
            )
        classes = NTU60_CLASSES if part == "ntu60" else NTU_CLASSES
        return Manifest(
            self.root,
            PackedStrings(files[first] for _, files in rows),
            np.array([label for label, _ in rows], np.int64),
            [f"action {number}" for number in range(1, classes + 1)],
            further={name: PackedStrings(files.get(name, "") for _, files in rows) for name in names if name != "video"},
        )

    def reader_of(self, name: str) -> StreamReader:
        """See `VideoDataModule.reader_of`."""
        depth = self.stream_settings.depth
        fps = depth.fps or FPS
        if name == "skeleton":
            return RawSkeletons(fps)
        return (
            FurtherVideo(fps, same_view=False) if name == "infrared" else DepthReader(replace(depth, fps=fps), same_view=False)
        )

    def _found(self) -> dict[str, dict[str, str]]:
        """Paths relative to `root`, by name of the recording and stream."""
        found: dict[str, dict[str, str]] = {}
        for path, name, stream in _recordings(self.root):
            files = found.setdefault(name, {})
            if stream in files:
                raise SettingError(
                    f"data.root {self.root} contains {stream} of {name} twice, in {files[stream]} and {path}; move one away."
                )
            files[stream] = path
        return found


def _recordings(root: Path) -> Iterator[tuple[str, str, str]]:
    """Path, name and stream of each recording below a folder. Folders of pictures are not searched."""
    for folder, folders, files in os.walk(root, followlinks=True):
        inside = Path(folder).relative_to(root)
        for name in [name for name in folders if NTU_NAME.fullmatch(name)]:
            yield (inside / name).as_posix(), name, "depth"
        folders[:] = sorted(name for name in folders if not NTU_NAME.fullmatch(name) and not is_hidden(name))
        for file in files:
            match = NTU_NAME.match(file)
            stream = ENDINGS.get(file[match.end() :]) if match is not None else None
            if match is not None and stream is not None:
                yield (inside / file).as_posix(), match.group(), stream


class RawSkeletons(StreamReader):
    """Skeletons of two persons from `.skeleton` files, following the plan of a sample. They are centred and aligned as by
    `prepare ntu`, but each frame keeps its time, while `prepare ntu` removes gaps. Frames without the first person are not
    valid.

    Args:
        fps: frames per second.
    """

    kind: ClassVar[Kind] = "skeleton"

    def __init__(self, fps: float) -> None:
        self.fps = fps

    def info(self, source: Path) -> VideoInfo:
        """See `StreamReader.info`."""
        return VideoInfo(len(_joints(source)), self.fps, 0, 0)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`."""
        joints = _joints(source)
        steps = plan.frames if plan.length == len(joints) else plan.frames_at(self.fps, np.iinfo(np.int64).max)
        is_there = steps < len(joints)
        clips = joints[np.where(is_there, steps, 0)]
        valid = is_there & clips[..., 0].any((2, 3))
        if not valid.any():
            raise DecodeError("no such stream", "nobody is seen in the frames of the clip")
        clips = np.where(valid[..., None, None, None], clips, 0).transpose(0, 2, 1, 3, 4)
        data = torch.from_numpy(np.ascontiguousarray(clips))
        return Stream(self.kind, data, valid=torch.from_numpy(valid), time=seconds_of(plan))

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        views, frames = plan.frames.shape
        valid = torch.zeros(views, frames, dtype=torch.bool)
        return Stream(self.kind, torch.zeros(views, 3, frames, JOINTS, PERSONS), valid=valid, time=seconds_of(plan))


def _joints(source: Path) -> np.ndarray:
    """Joints of all frames, float32 [T, 3, J, M], 0 where the first person is missing. Raises DecodeError."""
    if not source.is_file():
        raise DecodeError("file not found", str(source))
    try:
        persons = choose_persons(read_bodies(source))
    except (RawError, OSError) as error:
        raise DecodeError("failed while decoding", str(error)) from error
    seen = np.flatnonzero(persons[0].any((1, 2)))
    if not len(seen):
        raise DecodeError("no such stream", "no frame shows a body")
    joints = np.zeros(persons.shape, np.float32)
    # The first frame with a person defines the rotation of all frames.
    joints[:, seen[0] :] = normalise(persons[:, seen[0] :], fill=False)
    return joints.transpose(1, 3, 2, 0)

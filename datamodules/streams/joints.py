"""Skeletons from arrays next to a video: joints of one or several persons over time.

Axis letters: `V` views, `T` frames, `J` joints, `M` persons.
"""

from pathlib import Path

import numpy as np
import torch

from datamodules.streams.arrays import check_numbers, load_arrays
from datamodules.streams.reader import StreamReader, seconds_of
from datamodules.streams.settings import SkeletonSettings
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.sampling import Plan
from modules.core.batch import Stream


class JointsReader(StreamReader):
    """Skeletons from .npy files, .npz files (array `joints`, or the only one) or one array of a .npz file (`file.npz#name`):
    [T, J, 3], or [T, M, J, 3] for several persons, in metres; absent persons are 0.

    All files must have the number of joints of the first file, and at most `settings.persons` persons.

    Args:
        settings: rate, persons and origin.
    """

    kind = "skeleton"

    def __init__(self, settings: SkeletonSettings) -> None:
        self.settings = settings
        self.joints: int | None = None

    def learn(self, source: Path) -> None:
        """See `StreamReader.learn`."""
        self.joints = self._load(source).shape[2]

    def info(self, source: Path) -> VideoInfo:
        """See `StreamReader.info`."""
        return VideoInfo(len(self._load(source)), self.settings.fps, 0, 0)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`: the frames nearest to the plan's timestamps, [V, 3, T, J, M]."""
        joints = self._load(source)
        if self.settings.origin is not None:
            joints = centre(joints, self.settings.origin)
        return cut_joints(joints, self.settings.fps, plan)

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        return cut_joints(np.zeros((0, self.settings.persons, self.joints or 1, 3), np.float32), self.settings.fps, plan)

    def _load(self, source: Path) -> np.ndarray:
        joints = as_persons(load_arrays(source, "joints")["joints"], self.settings.persons)
        if self.joints is not None and joints.shape[2] != self.joints:
            raise DecodeError("another width", f"{joints.shape[2]} joints, not {self.joints}")
        if self.settings.origin is not None and self.settings.origin >= joints.shape[2]:
            raise DecodeError("another width", f"{joints.shape[2]} joints, and data.streams.skeleton.origin is not one of them")
        return joints


def as_persons(joints: np.ndarray, persons: int) -> np.ndarray:
    """Joints of a recording, with an axis for persons.

    Args:
        joints: [T, J, 3] of one person, or [T, M, J, 3].
        persons: M of the result; absent persons are 0.

    Returns:
        float32 [T, M, J, 3]

    Raises:
        DecodeError: for another shape, more persons, no frames, or values that are not finite.
    """
    if joints.ndim not in (3, 4) or joints.shape[-1] != 3:
        raise DecodeError("another size", f"shape {joints.shape}, not [T, J, 3] or [T, M, J, 3]")
    if not len(joints):
        raise DecodeError("too short", "no frames")
    check_numbers(joints)
    found = joints[:, None] if joints.ndim == 3 else joints
    if found.shape[1] > persons:
        raise DecodeError("another size", f"{found.shape[1]} persons, and data.streams.skeleton.persons is {persons}")
    padded = np.zeros((len(found), persons, *found.shape[2:]), np.float32)
    padded[:, : found.shape[1]] = found
    return padded


def centre(joints: np.ndarray, origin: int) -> np.ndarray:
    """Move a recording so that a joint of the first person is at 0 in the first frame with this person.

    Args:
        joints: float32 [T, M, J, 3]; absent persons (0) stay 0.
        origin: index of the joint.
    """
    there: np.ndarray = joints.any((2, 3), keepdims=True)  # type: ignore[assignment]
    seen = np.flatnonzero(there[:, 0, 0, 0])
    moved: np.ndarray = np.where(there, joints - joints[seen[0], 0, origin], joints) if len(seen) else joints
    return moved


def cut_joints(joints: np.ndarray, fps: float, plan: Plan) -> Stream:
    """The frames of a recording that are nearest to the timestamps of a plan.

    Args:
        joints: float32 [T, M, J, 3], from time 0 of the sample's files on.
        fps: frames per second.
        plan: plan of the sample.

    Returns:
        A stream of one sample, [V, 3, T, J, M]; 0 and not valid after the end of the recording.
    """
    numbers = np.floor(plan.moments.astype(np.float64) * fps + 0.5).astype(np.int64)
    valid = (numbers >= 0) & (numbers < len(joints))
    shape = (*numbers.shape, *joints.shape[1:])
    found = joints[np.where(valid, numbers, 0)] if len(joints) else np.zeros(shape, np.float32)
    found = np.where(valid[..., None, None, None], found, np.float32(0))
    data = torch.from_numpy(np.ascontiguousarray(found.transpose(0, 4, 1, 3, 2)))
    return Stream("skeleton", data, torch.from_numpy(valid), seconds_of(plan))

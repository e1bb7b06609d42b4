"""Raw text files of NTU RGB+D and PKU-MMD: coordinates in metres, before choosing, centring and aligning bodies."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.skeleton.normalise import JOINTS, MAX_FRAMES, PERSONS, choose_persons, normalise

BODY_SLOTS = 4
"""Maximum bodies per frame; further ones are noise, such as chairs or reflections."""
BODY_LINES = 2 + JOINTS
JOINT_VALUES = 12
FARTHEST = 100.0
"""Maximum coordinate in metres; the range of a Kinect is less than ten."""
PKU_CLASSES = 51


class RawError(Exception):
    """Why a recording cannot be used, in a few words."""


class Clip(NamedTuple):
    """One recording, ready to be stored."""

    name: str
    label: int
    joints: np.ndarray
    """float32 [T, 3, J, M]"""


class Reading(NamedTuple):
    """Results of reading one file."""

    clips: list[Clip]
    faults: list[tuple[str, str]]
    """name and reason of each recording that could not be used"""


class NTUName(NamedTuple):
    """The numbers in the name of an NTU RGB+D sample, all from 1."""

    setup: int
    camera: int
    performer: int
    replication: int
    action: int


NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
NTU_CLASSES = 120


def parse_ntu_name(name: str) -> NTUName | None:
    """Setup, camera, performer, replication and action from SsssCcccPpppRrrrAaaa and any suffix; None for other names."""
    match = NTU_NAME.match(name)
    parsed = NTUName(*map(int, match.groups())) if match else None
    return parsed if parsed is not None and 1 <= parsed.action <= NTU_CLASSES else None


def read_bodies(path: Path) -> np.ndarray:
    """Bodies of an NTU RGB+D `.skeleton` file, by index in each frame's list.

    Args:
        path: text file: number of frames; per frame the number of bodies; per body a line of facts, the number of joints
            and a line of 12 values per joint, the first three of which are x, y and z.

    Returns:
        float64 [S, T, J, C] with S = 4, 0 where a frame does not list the body.

    Raises:
        RawError: if counts and content do not agree, or a coordinate is invalid.
    """
    lines = path.read_text(encoding="latin1").rstrip().splitlines()
    try:
        frames = int(lines[0])
        places, joints = _find_joints(lines, frames)
        # One call for the whole file. Only three of twelve values are parsed as numbers, because parsing takes most of the
        # time.
        values = np.loadtxt(joints, usecols=(0, 1, 2), comments=None, ndmin=2) if joints else np.zeros((0, 3))
    except ValueError as error:
        raise RawError(f"a number is expected where it says otherwise ({error})") from error
    except IndexError as error:
        raise RawError("ends before the number of frames that it announces") from error
    if len(values) != len(joints):
        raise RawError("a joint has no coordinates")
    if not (np.abs(values) < FARTHEST).all():
        raise RawError(f"a coordinate is not within {FARTHEST:g} m")
    bodies = np.zeros((BODY_SLOTS, frames, JOINTS, 3))
    if places:
        slots, times = zip(*places, strict=True)
        bodies[slots, times] = values.reshape(-1, JOINTS, 3)
    return bodies


def _find_joints(lines: list[str], frames: int) -> tuple[list[tuple[int, int]], list[str]]:
    """Slot and frame of every body that is used, and their lines of joints, concatenated."""
    if frames < 1:
        raise RawError("announces no frame")
    places: list[tuple[int, int]] = []
    joints: list[str] = []
    row = 1
    for frame in range(frames):
        count = int(lines[row])
        row += 1
        if count < 0:
            raise RawError(f"frame {frame} announces {count} bodies")
        for slot in range(count):
            if int(lines[row + 1]) != JOINTS:
                raise RawError(f"a body has {int(lines[row + 1])} joints, not {JOINTS}")
            if slot < BODY_SLOTS:
                places.append((slot, frame))
                joints += lines[row + 2 : row + BODY_LINES]
            row += BODY_LINES
    if row < len(lines):
        raise RawError(f"goes on behind the {frames} frames that it announces")
    if row > len(lines) or (count and len(lines[-1].split()) != JOINT_VALUES):
        raise RawError("ends before the number of frames that it announces")
    return places, joints


def read_ntu(path: Path) -> Reading:
    """One `.skeleton` file as a clip: two persons are chosen, centred and aligned; clips are cut at 300 frames."""
    parsed = parse_ntu_name(path.stem)
    try:
        if parsed is None or not NTU_NAME.fullmatch(path.stem):
            raise RawError("the name is not of the form SsssCcccPpppRrrrAaaa")
        bodies = read_bodies(path)
        return Reading([make_clip(path.stem, parsed.action - 1, choose_persons(bodies))], [])
    except (RawError, OSError) as error:
        return Reading([], [(path.name, str(error))])


def make_clip(name: str, label: int, persons: np.ndarray) -> Clip:
    """Cut, normalise and put into the order of the store.

    Args:
        name: name of the recording.
        label: label of its action.
        persons: float [M, T, J, C].

    Raises:
        RawError: if no frame contains a person.
    """
    if not persons.any():
        raise RawError("no frame shows a body")
    return Clip(name, label, normalise(persons[:, :MAX_FRAMES]).transpose(1, 3, 2, 0))


def read_pku_frames(path: Path) -> np.ndarray:
    """A PKU-MMD skeleton file, one line of 150 numbers per frame: float64 [T, M, J, C], 0 for an absent person.

    Raises:
        RawError: if a line has a wrong number of values, or a coordinate is invalid.
    """
    lines = path.read_text(encoding="latin1").rstrip().splitlines()
    if not lines:
        raise RawError("is empty")
    try:
        values = np.loadtxt(lines, comments=None, ndmin=2)
    except ValueError as error:
        raise RawError(f"has other content than lines of numbers ({error})") from error
    if values.shape != (len(lines), PERSONS * JOINTS * 3):
        raise RawError(
            f"has {values.shape[1]} numbers in {len(values)} of {len(lines)} lines, not {PERSONS * JOINTS * 3} in all"
        )
    if not (np.abs(values) < FARTHEST).all():
        raise RawError(f"a coordinate is not within {FARTHEST:g} m")
    return values.reshape(len(lines), PERSONS, JOINTS, 3)


def read_pku(path: Path, labels: Path) -> Reading:
    """All labelled intervals of a PKU-MMD recording as clips, named `<recording>_<row in the list of labels>`.

    As in the authors' code, an interval `label,start,end,confidence` contains the frames from start to end, excluding end.
    The persons keep their order; clips are cut at 300 frames.

    Args:
        path: skeleton file.
        labels: folder of the lists of intervals, which have the same name with suffix .txt.
    """
    clips: list[Clip] = []
    faults: list[tuple[str, str]] = []
    try:
        rows = [row for row in (labels / f"{path.stem}.txt").read_text().splitlines() if row.strip()]
        frames = read_pku_frames(path)
    except (RawError, OSError, UnicodeDecodeError) as error:
        return Reading([], [(path.name, str(error))])
    for number, row in enumerate(rows):
        name = f"{path.stem}_{number}"
        try:
            label, start, end = _parse_interval(row)
            persons = frames[start:end].transpose(1, 0, 2, 3)
            clips.append(make_clip(name, label, persons))
        except RawError as error:
            faults.append((name, str(error)))
    return Reading(clips, faults)


def _parse_interval(row: str) -> tuple[int, int, int]:
    try:
        label, start, end = (int(word) for word in row.split(",")[:3])
    except ValueError as error:
        raise RawError(f"the label {row!r} is not label,start,end,confidence") from error
    if not 1 <= label <= PKU_CLASSES:
        raise RawError(f"the label {label} is not one of 1 to {PKU_CLASSES}")
    if not 0 <= start < end:
        raise RawError(f"the interval from {start} to {end} is empty")
    return label - 1, start, end

"""Pre-processing of the official code: choose, centre and align the bodies of a raw recording.

Axis letters: `S` bodies as listed in the file, `M` = 2 persons, `T` frames, `J` = 25 joints of Kinect v2, `C` = x, y, z in
metres. The official code pads every clip to 300 frames first; without padding, the first T frames are the same.
"""

import numpy as np

PERSONS = 2
JOINTS = 25
MAX_FRAMES = 300
"""Longer recordings are cut, because the official arrays have no space for more frames."""
SPINE_BASE, SPINE_MID, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 1, 4, 8
TINY = 1e-6


def choose_persons(bodies: np.ndarray) -> np.ndarray:
    """The two bodies that move most, the first the one that moves more.

    The motion of a body is the sum of the standard deviations of its x, y and z over all joints and all frames in which
    it was seen. Body i is the i-th entry of each frame's list, which need not always be the same person.

    Args:
        bodies: float [S, T, J, C], 0 for missing bodies.

    Returns:
        [M, T, J, C], 0 for missing persons.
    """
    energy = np.zeros(max(len(bodies), PERSONS))
    for slot, body in enumerate(bodies):
        seen = body[body.sum((1, 2)) != 0]
        energy[slot] = seen.std((0, 1)).sum() if len(seen) else 0.0
    chosen = np.argsort(energy, kind="stable")[::-1][:PERSONS]
    persons = np.zeros((PERSONS, *bodies.shape[1:]), bodies.dtype)
    for person, slot in enumerate(chosen):
        if slot < len(bodies):
            persons[person] = bodies[slot]
    return persons


def fill_gaps(person: np.ndarray) -> np.ndarray:
    """Fill the empty frames at the end of a person by repeating the frames in which the person was seen.

    If the first frame is empty, all empty frames are dropped first. Otherwise, gaps in the middle stay empty.

    Args:
        person: float [T, J, C], 0 where not seen.
    """
    seen = person.sum((1, 2)) != 0
    if not seen.any():
        return person
    rows = np.flatnonzero(seen) if not seen[0] else np.arange(np.flatnonzero(seen)[-1] + 1)
    return person[rows[np.arange(len(person)) % len(rows)]]


def angle_between(first: np.ndarray, second: np.ndarray) -> float:
    """Angle in radians between two vectors [3]; 0 if one of them has length 0."""
    if np.abs(first).sum() < TINY or np.abs(second).sum() < TINY:
        return 0.0
    cosine = np.dot(first / np.linalg.norm(first), second / np.linalg.norm(second))
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)))


def rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix [3, 3], counter-clockwise by `angle` radians about `axis` (Rodrigues); identity if either is 0."""
    if np.abs(axis).sum() < TINY or abs(angle) < TINY:
        return np.eye(3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def align(persons: np.ndarray, start: int, end: int, axis: int) -> np.ndarray:
    """Rotate everything so that in frame 0 of person 0 the line from joint `start` to joint `end` is parallel to an axis.

    Args:
        persons: float32 [M, T, J, C].
        start: joint that the line starts from.
        end: joint that the line ends at.
        axis: 0, 1, 2 for x, y, z.
    """
    line = (persons[0, 0, end] - persons[0, 0, start]).astype(np.float64)
    target = np.eye(3)[axis]
    matrix = rotation_about(np.cross(line, target), angle_between(line, target))
    return (persons.reshape(-1, 3) @ matrix.T).astype(np.float32).reshape(persons.shape)


def normalise(persons: np.ndarray, fill: bool = True) -> np.ndarray:
    """Fill gaps, move joint 1 of person 0 to the origin in every frame, and rotate the first frame's spine to z, shoulders to
    x.

    Rotating the shoulders to x moves the spine away from z again, as in the official code.

    Args:
        persons: float [M, T, J, C], T at least 1.
        fill: whether gaps are filled, which moves frames in time.

    Returns:
        float32 [M, T, J, C]; missing persons (0) stay 0.
    """
    filled = persons.astype(np.float32)
    if fill:
        filled = np.stack([fill_gaps(person) for person in filled])
    there = (filled.sum(-1, keepdims=True) != 0).astype(np.float32)
    centred = (filled - filled[0, :, SPINE_MID, None]) * there
    upright = align(centred, SPINE_BASE, SPINE_MID, axis=2)
    return align(upright, LEFT_SHOULDER, RIGHT_SHOULDER, axis=0)

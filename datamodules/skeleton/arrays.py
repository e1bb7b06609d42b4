"""Joint arrays that are already prepared: the official .npy and .pkl files, and mmaction2's annotation files."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.skeleton.normalise import JOINTS, PERSONS, choose_persons
from datamodules.skeleton.pickles import read_pickle
from datamodules.skeleton.raw import Clip, RawError, Reading, make_clip, parse_ntu_name
from modules.core.errors import SettingError

CHUNK = 256
HALVES = ("train", "val")
ArrayChunk = tuple[str, int, Callable[[], Iterable[Reading]]]


def is_arrays(source: Path) -> bool:
    """Whether a path is an annotation file, or a folder of official arrays."""
    return source.suffix == ".pkl" or any((source / f"{half}_data_joint.npy").is_file() for half in HALVES)


def array_chunks(source: Path) -> tuple[list[ArrayChunk], str]:
    """Chunks of work (key, recordings, how to read them) and a hash of the source's name and size.

    Raises:
        SettingError: if the files are missing, damaged, or in another format.
    """
    if source.suffix != ".pkl":
        halves = [half for half in HALVES if (source / f"{half}_data_joint.npy").is_file()]
        return [chunk for half in halves for chunk in _official_chunks(source, half)], _digest(
            *(source / f"{half}_data_joint.npy" for half in halves)
        )
    digest = _digest(source)
    content = read_pickle(source)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise SettingError(f"--raw {source} contains no list of annotations; pass an annotation file of mmaction2.")
    chunks: list[ArrayChunk] = []
    for start in range(0, len(annotations), CHUNK):
        some = annotations[start : start + CHUNK]
        chunks.append((f"{digest[:16]}_{start}", len(some), partial(read_annotations, some)))
    return chunks, digest


def _digest(*paths: Path) -> str:
    try:
        facts = [f"{path.name}\t{path.stat().st_size}\t{path.stat().st_mtime_ns}\n" for path in paths]
    except OSError as error:
        raise SettingError(f"--raw {error.filename} cannot be read ({error.strerror}); pass another path.") from error
    return hashlib.sha256("".join(facts).encode("utf-8", "surrogateescape")).hexdigest()


def _official_chunks(folder: Path, half: str) -> list[ArrayChunk]:
    labels = read_pickle(folder / f"{half}_label.pkl")
    try:
        data = np.load(folder / f"{half}_data_joint.npy", mmap_mode="r")
        frames = np.load(folder / f"{half}_num_frame.npy")
        names, numbers = labels
        if not len(data) == len(frames) == len(names) == len(numbers):
            raise ValueError("their lengths differ")
        if data.ndim != 5 or data.shape[1] != 3 or data.shape[3:] != (JOINTS, PERSONS):
            raise ValueError(f"{half}_data_joint.npy has shape {data.shape}, not (N, 3, T, {JOINTS}, {PERSONS})")
    except (OSError, ValueError, TypeError) as error:
        raise SettingError(f"--raw {folder} contains no official arrays of {half} ({error}); pass another folder.") from error
    key = f"{_digest(folder / f'{half}_data_joint.npy')[:16]}_{half}"
    read = partial(_read_rows, data, frames, names, numbers)
    starts = range(0, len(data), CHUNK)
    return [(f"{key}_{start}", min(CHUNK, len(data) - start), partial(read, start)) for start in starts]


def _read_rows(data: np.ndarray, frames: np.ndarray, names: Any, labels: Any, start: int) -> Iterator[Reading]:
    """Recordings of the official arrays (N, C, T, J, M), which are already centred and aligned."""
    for row in range(start, min(start + CHUNK, len(data))):
        name, length = str(names[row]).removesuffix(".skeleton"), min(int(frames[row]), data.shape[2])
        joints = np.array(data[row, :, :length], np.float32).swapaxes(0, 1)
        if length < 1 or not joints.any() or not np.isfinite(joints).all():
            yield Reading([], [(name, "it is empty, or a coordinate is not finite")])
        else:
            yield Reading([Clip(name, int(labels[row]), joints)], [])


def read_annotations(annotations: list[Any]) -> Iterator[Reading]:
    """Recordings of mmaction2: two persons are chosen, then centred and aligned again as in the official code.

    Args:
        annotations: dictionaries with `frame_dir` (the name) and `keypoint` (M, T, J, C).
    """
    for annotation in annotations:
        name = str(annotation.get("frame_dir")) if isinstance(annotation, dict) else "?"
        parsed = parse_ntu_name(name)
        try:
            if parsed is None:
                raise RawError("the name is not of the form SsssCcccPpppRrrrAaaa")
            bodies = np.asarray(annotation.get("keypoint"))
            if bodies.ndim != 4 or bodies.shape[2:] != (JOINTS, 3) or bodies.dtype.kind != "f":
                raise RawError(f"its keypoints are not an array (M, T, {JOINTS}, 3)")
            if not np.isfinite(bodies).all():
                raise RawError("a coordinate is not finite")
            yield Reading([make_clip(name, parsed.action - 1, choose_persons(bodies.astype(np.float64)))], [])
        except RawError as error:
            yield Reading([], [(name, str(error))])

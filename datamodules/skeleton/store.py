"""A data set of skeletons in one folder: a few `.npy` files, the large one of which is memory-mapped, and a header.

joints.npy   float32 [n], the recordings, concatenated, each [T, 3, J, P]; P persons are stored, at most 2
length.npy   int64 [N], frames T of each recording
persons.npy  int64 [N], persons P of each recording
label.npy    int64 [N]
name.npy     text [N]
header.json  written last: if it exists, the rest is complete
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.skeleton.normalise import JOINTS
from modules.core.errors import SettingError
from modules.core.files import replacing

FORMAT = 1
HEADER = "header.json"
SMALL = ("length", "persons", "label", "name")


class Recordings:
    """Recordings of different lengths in flat arrays.

    Args:
        joints: float32 [n], in memory or memory-mapped, see the module.
        length: int64 [N], frames.
        persons: int64 [N], number of stored persons.
        label: int64 [N].
        name: text [N].
        header: properties of the data set.
        file: the file that `joints` is mapped from, so that other processes can map it, too.
    """

    def __init__(
        self,
        joints: np.ndarray,
        length: np.ndarray,
        persons: np.ndarray,
        label: np.ndarray,
        name: np.ndarray,
        header: dict[str, Any] | None = None,
        file: Path | None = None,
    ) -> None:
        self.joints, self.length, self.persons, self.label, self.name = joints, length, persons, label, name
        self.header, self.file = header or {}, file
        self.end = np.cumsum(length * persons * 3 * JOINTS)

    def __len__(self) -> int:
        return len(self.length)

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which opens a mapped file again instead of copying it."""
        return self.__dict__ | ({"joints": None} if self.file is not None else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.file is not None:
            self.joints = np.load(self.file, mmap_mode="r")

    def read(self, row: int, start: int = 0, end: int | None = None) -> np.ndarray:
        """Frames of one recording: float32 [T, 3, J, P]. Only these are read from the disk."""
        frames, persons = int(self.length[row]), int(self.persons[row])
        size = 3 * JOINTS * persons
        first = int(self.end[row]) - frames * size
        part = self.joints[first + start * size : first + (frames if end is None else min(end, frames)) * size]
        return np.asarray(part).reshape(-1, 3, JOINTS, persons)

    def sha256(self, rows: np.ndarray) -> str:
        """Hash of the source and names of some rows, for the record of a run."""
        digest = hashlib.sha256(str(self.header.get("source_sha256")).encode())
        for row in rows.tolist():
            digest.update(f"{self.name[row]}\t{self.label[row]}\n".encode())
        return digest.hexdigest()


def count_persons(joints: np.ndarray) -> int:
    """Number of persons of a recording [T, 3, J, M] to store: all up to the last one that occurs."""
    there = np.flatnonzero(joints.any((0, 1, 2)))
    return int(there[-1]) + 1 if len(there) else 0


def open_store(root: Path, dataset: str, command: str) -> Recordings:
    """Open a folder written by a `prepare` command.

    Args:
        root: the folder.
        dataset: name of the data set that it must contain.
        command: the command that writes it, for error messages.

    Raises:
        SettingError: if the folder is not such a store, or is incomplete.
    """
    header = read_header(root)
    if header is None:
        raise SettingError(f"data.root {root} contains no prepared data set ({HEADER} is missing); run {command} first.")
    if header.get("dataset") != dataset or header.get("format") != FORMAT:
        raise SettingError(
            f"data.root {root} contains {header.get('dataset')} in format {header.get('format')}, not {dataset} in format "
            f"{FORMAT}; set data.root to another folder, or run {command} again."
        )
    try:
        small = {name: np.load(root / f"{name}.npy") for name in SMALL}
        joints = np.load(root / "joints.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise SettingError(f"data.root {root} is incomplete ({error}); run {command} with --overwrite true.") from error
    recordings = Recordings(joints, **small, header=header, file=root / "joints.npy")
    if len(joints) != recordings.end[-1]:
        raise SettingError(f"data.root {root} is incomplete: joints.npy has another size; run {command} with --overwrite true.")
    return recordings


def read_header(root: Path) -> dict[str, Any] | None:
    """The header of a store; None if there is none.

    Raises:
        SettingError: if it cannot be read.
    """
    try:
        header = json.loads((root / HEADER).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SettingError(f"{root / HEADER} cannot be read ({error}); prepare the data set again.") from error
    return header if isinstance(header, dict) else {}


def write_part(path: Path, clips: Sequence[tuple[str, int, np.ndarray]], faults: list[tuple[str, str]]) -> None:
    """Write some recordings atomically.

    Args:
        path: .npz file.
        clips: name, label and float32 [T, 3, J, M] of each.
        faults: name and reason of each recording that could not be used.
    """
    persons = [count_persons(joints) for _, _, joints in clips]
    flat = [joints[..., :count].ravel() for (_, _, joints), count in zip(clips, persons, strict=True)]
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            joints=np.concatenate([np.empty(0, np.float32), *flat]),
            length=np.array([len(joints) for _, _, joints in clips], np.int64),
            persons=np.array(persons, np.int64),
            label=np.array([label for _, label, _ in clips], np.int64),
            name=np.array([name for name, _, _ in clips], np.str_),
            faults=np.array(faults, np.str_).reshape(-1, 2),
        )


def join_parts(parts: list[Path], root: Path, header: dict[str, Any]) -> tuple[int, list[tuple[str, str]]]:
    """Join parts into one store; the header is written last, and only if there is a recording.

    Args:
        parts: files of `write_part`.
        root: folder of the store.
        header: properties of the data set; format and number of clips are added.

    Returns:
        Number of recordings, and name and reason of each one that could not be used.
    """
    small: dict[str, list[np.ndarray]] = {name: [] for name in (*SMALL, "faults")}
    for part in parts:
        # Members of the archive are read one by one: the large one is not read here.
        with np.load(part) as archive:
            for name, found in small.items():
                found.append(archive[name])
    count = sum(map(len, small["length"]))
    faults = [(str(name), str(reason)) for found in small.pop("faults") for name, reason in found]
    if not count:
        return 0, faults
    joined = {name: np.concatenate(found) for name, found in small.items()}
    total = int((joined["length"] * joined["persons"]).sum()) * 3 * JOINTS
    with replacing(root / "joints.npy") as partial, partial.open("wb") as file:
        # Written as a stream, because pages of a mapped file would count as memory of this process.
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (total,)})
        for part in parts:
            with np.load(part) as archive:
                file.write(archive["joints"].astype("<f4", copy=False).data)
    for name in SMALL:
        with replacing(root / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, joined[name])
    with replacing(root / HEADER) as partial:
        partial.write_text(json.dumps({"format": FORMAT, "clips": count} | header, indent=1))
    return count, faults

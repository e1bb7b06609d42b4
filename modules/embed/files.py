"""Files of features: parts, which a killed command keeps, and the collection that they are joined to.

A collection is `NAME.safetensors` with `feature` float16 or float32, [N, D] with `time` float32 [N, 2] in seconds, or
[N, S, D] with `length` int64 [N] and `time` [N, S, 2], without `time` where it is unknown; `NAME.csv` with a row per
recording; `NAME.json`, the passport; and `NAME.bad.tsv`, if a recording could not be read. Axis letters: `N` recordings, `S`
steps, `D` width.
"""

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modules.core.errors import SettingError
from modules.core.files import read_json, write_json, write_whole
from modules.embed.source import Rows

JOB = "job.json"


class Steps(NamedTuple):
    """Features of some items, in order."""

    feature: Tensor
    """[n, D]"""
    time: Tensor
    """float32 [n, 2], start and end in seconds"""
    row: Tensor
    """int64 [n], recording index of each step"""
    faults: dict[int, str]
    """recordings that could not be read, with the reason"""
    about: dict[int, tuple[str, str]]
    """label and caption of the other recordings, if they come with the samples"""


class Parts:
    """The parts of a job, in a folder next to the collection that several processes may write to.

    Args:
        out: name of the collection, without suffix.
        job: everything that determines the content of the parts.

    Raises:
        SettingError: if the folder cannot be written, or contains parts of another job.
    """

    def __init__(self, out: Path, job: dict[str, Any]) -> None:
        self.out = out
        self.folder, self.rest = (out.with_name(f"{out.name}.{suffix}") for suffix in ("parts", "parts.old"))
        with writing(out):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.alone():
                before = read_json(self.folder / JOB)
                known = json.loads(json.dumps(job))
                if before and before != known:
                    changed = ", ".join(sorted(name for name in known if before.get(name) != known[name]))
                    raise SettingError(
                        f"{self.folder} holds features that were made with another {changed or 'job'}; pass another --out, or "
                        "remove the folder."
                    )
                write_whole(self.folder / JOB, lambda path: write_json(path, job))

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """A lock: while one process is inside, the others wait. Returns whether the folder still exists."""
        try:
            lock = FileLock(self.folder / "lock")
            lock.acquire()
        except FileNotFoundError:
            yield False
            return
        try:
            yield self.folder.is_dir()
        finally:
            lock.release()

    def path(self, number: int) -> Path:
        """Path of a part."""
        return self.folder / f"{number:06d}.safetensors"

    def missing(self, count: int) -> list[int]:
        """Indices of the missing parts, out of `count`."""
        return [number for number in range(count) if not self.path(number).is_file()]

    def write(self, number: int, steps: Steps) -> None:
        """Write a part atomically."""
        tensors = {"feature": steps.feature, "time": steps.time, "row": steps.row}
        told = {"faults": json.dumps(steps.faults), "about": json.dumps(steps.about)}
        with writing(self.out):
            write_whole(self.path(number), lambda path: save_file(tensors, path, told))

    def read(self, count: int) -> Steps:
        """Read and join all `count` parts.

        Raises:
            SettingError: if a part cannot be read.
        """
        parts: list[dict[str, Tensor]] = []
        faults, about = dict[int, str](), dict[int, tuple[str, str]]()
        for number in range(count):
            try:
                parts.append(load_file(self.path(number)))
                with safe_open(str(self.path(number)), "pt") as file:
                    told = {name: json.loads(text) for name, text in file.metadata().items()}
                faults |= {int(row): reason for row, reason in told["faults"].items()}
                about |= {int(row): (label, caption) for row, (label, caption) in told["about"].items()}
            except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
                raise SettingError(f"{self.path(number)} is damaged ({error}); remove it and run the command again.") from error
        width = max(part["feature"].shape[-1] for part in parts)
        kept = [part for part in parts if part["feature"].shape[-1] == width and len(part["row"])]
        if not kept:
            self.remove()  # so that repaired files are read when the command is run again
            raise SettingError(
                f"None of the {len(faults)} recordings could be read (the first: {next(iter(faults.values()))}); mend them, or "
                "pass another --source or --data."
            )
        feature, time, row = (torch.cat([part[name] for part in kept]) for name in ("feature", "time", "row"))
        return Steps(feature, time, row, faults, about)

    def remove(self) -> None:
        """Remove the parts once the collection is written. A process that is killed here leaves no partial folder."""
        shutil.rmtree(self.rest, ignore_errors=True)
        self.folder.replace(self.rest)
        shutil.rmtree(self.rest, ignore_errors=True)


def remove_rest(out: Path, job: dict[str, Any]) -> None:
    """Remove the parts of a finished collection, which remain if a process was killed before it removed them."""
    if read_json(out.with_name(f"{out.name}.parts") / JOB) == json.loads(json.dumps(job)):
        parts = Parts(out, job)
        with parts.alone() as still_there:
            if still_there:
                parts.remove()


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Convert errors from writing files into one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise SettingError(
            f"--out {out} cannot be written ({error}); free disk space or pass another folder. Finished parts are kept."
        ) from error


def write_collection(out: Path, steps: Steps, rows: Rows, passport: dict[str, Any], sequences: bool) -> int:
    """Write the files of a collection. Recordings that could not be read completely are left out.

    Args:
        out: name of the collection, without suffix.
        steps: features of all recordings.
        rows: the recordings.
        passport: passport of the features.
        sequences: write [N, S, D] instead of [N, D].

    Returns:
        Number of recordings in the collection.
    """
    columns = _columns(rows, steps)
    kept = [row for row in range(len(columns["path"])) if row not in steps.faults]
    # Steps of a recording are next to each other.
    counts = torch.bincount(steps.row, minlength=len(columns["path"])).tolist()
    tensors = {}
    known = {"feature": steps.feature} | ({} if steps.time.isnan().any() else {"time": steps.time})
    for name, values in known.items():
        each = values.split(counts)
        parts = [each[row] for row in kept]
        tensors[name] = pad_sequence(parts, batch_first=True) if sequences else torch.cat(parts)
    if sequences:
        tensors["length"] = torch.tensor([counts[row] for row in kept])
    told = {"passport": json.dumps(passport, default=float)}
    bad = out.with_name(f"{out.name}.bad.tsv")
    with writing(out):
        write_whole(out.with_name(f"{out.name}.safetensors"), lambda path: save_file(tensors, path, told))
        write_whole(out.with_name(f"{out.name}.csv"), lambda path: _write_table(path, columns, kept))
        if steps.faults:
            write_whole(bad, lambda path: _write_faults(path, columns["path"], steps.faults))
        else:
            bad.unlink(missing_ok=True)
        # Written last: if it exists, all files are complete.
        write_whole(out.with_name(f"{out.name}.json"), lambda path: write_json(path, passport))
    return len(kept)


def _columns(rows: Rows, steps: Steps) -> dict[str, Sequence[str]]:
    """Columns of the table by name: path, label, and everything else that any recording has."""
    nothing = ("", "")
    read = [steps.about.get(row, nothing) for row in range(len(rows.columns["path"]))]
    labels, captions = zip(*read, strict=True)
    columns = {"path": rows.columns["path"], "label": labels}
    return columns | ({"caption": captions} if any(captions) else {}) | rows.columns


def _write_table(path: Path, columns: dict[str, Sequence[str]], kept: list[int]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows([column[row] for column in columns.values()] for row in kept)


def _write_faults(path: Path, paths: Sequence[str], faults: dict[int, str]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(("path", "reason"))
        table.writerows((paths[row], reason) for row, reason in sorted(faults.items()))

"""Files of features: parts that a killed command need not make again, and the collection that they become.

A collection is `NAME.safetensors` with `feature` float16 or float32, [N, D] with `time` float32 [N, 2] in seconds, or
[N, S, D] with `length` int64 [N] and `time` [N, S, 2]; `NAME.csv` with a row per video; `NAME.json`, the passport; and
`NAME.bad.tsv`, if a video could not be read. Axis letters: `N` videos, `S` steps, `D` width.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.lists.manifest import UNLABELLED, Manifest
from modules.core.errors import SettingError
from modules.core.files import read_json, write_json, write_whole

JOB = "job.json"


class Steps(NamedTuple):
    """Features of some items, in order."""

    feature: Tensor
    """[n, D]"""
    time: Tensor
    """float32 [n, 2], seconds"""
    row: Tensor
    """int64 [n], video of each step"""
    faults: dict[int, str]
    """videos that could not be read, and why"""


class Parts:
    """The parts of a job in a folder beside the collection.

    Args:
        out: name of the collection, without suffix.
        job: all that decides what is in the parts.
        count: parts of the whole job.

    Raises:
        SettingError: if the folder holds parts of another job.
    """

    def __init__(self, out: Path, job: dict[str, Any], count: int) -> None:
        self.out, self.count = out, count
        self.folder = out.with_name(f"{out.name}.parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        before = read_json(self.folder / JOB)
        known = json.loads(json.dumps(job))
        if before and before != known:
            changed = ", ".join(sorted(name for name in known if before.get(name) != known[name]))
            raise SettingError(
                f"{self.folder} holds features that were made with another {changed or 'job'}; pass another --out, or remove "
                "the folder."
            )
        write_whole(self.folder / JOB, lambda path: write_json(path, job))

    def path(self, number: int) -> Path:
        """Where a part is."""
        return self.folder / f"{number:06d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there yet."""
        return [number for number in range(self.count) if not self.path(number).is_file()]

    def write(self, number: int, steps: Steps) -> None:
        """Write a part, whole or not at all."""
        tensors = {"feature": steps.feature, "time": steps.time, "row": steps.row}
        told = {"faults": json.dumps(steps.faults)}
        write_whole(self.path(number), lambda path: save_file(tensors, path, told))

    def read(self) -> Steps:
        """All parts as one.

        Raises:
            SettingError: if one cannot be read.
        """
        parts: list[dict[str, Tensor]] = []
        faults: dict[int, str] = {}
        for number in range(self.count):
            try:
                parts.append(load_file(self.path(number)))
                with safe_open(str(self.path(number)), "pt") as file:
                    faults |= {int(row): reason for row, reason in json.loads(file.metadata()["faults"]).items()}
            except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
                raise SettingError(f"{self.path(number)} is damaged ({error}); remove it and run the command again.") from error
        width = max(part["feature"].shape[-1] for part in parts)
        kept = [part for part in parts if part["feature"].shape[-1] == width and len(part["row"])]
        if not kept:
            raise SettingError(
                f"No video could be read: {next(iter(faults.values()), 'there is none')}; pass another --source."
            )
        feature, time, row = (torch.cat([part[name] for part in kept]) for name in ("feature", "time", "row"))
        return Steps(feature, time, row, faults)

    def remove(self) -> None:
        """The collection is written; nobody needs them any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_collection(out: Path, steps: Steps, manifest: Manifest, passport: dict[str, Any], sequences: bool) -> int:
    """Write the files of a collection. Videos that could not be read, also in part, are not in it.

    Args:
        out: its name, without suffix.
        steps: of all videos.
        manifest: the videos.
        passport: of the features.
        sequences: [N, S, D] instead of [N, D].

    Returns:
        How many videos it holds.
    """
    rows = [row for row in range(len(manifest)) if row not in steps.faults]
    # Steps of a video lie next to each other.
    counts = torch.bincount(steps.row, minlength=len(manifest)).tolist()
    features = dict(enumerate(steps.feature.split(counts)))
    times = dict(enumerate(steps.time.split(counts)))
    if sequences:
        tensors = {
            "feature": pad_sequence([features[row] for row in rows], batch_first=True),
            "time": pad_sequence([times[row] for row in rows], batch_first=True),
            "length": torch.tensor([counts[row] for row in rows]),
        }
    else:
        tensors = {"feature": torch.cat([features[row] for row in rows]), "time": torch.cat([times[row] for row in rows])}
    told = {"passport": json.dumps(passport, default=float)}
    file = out.with_name(f"{out.name}.safetensors")
    write_whole(file, lambda path: save_file(tensors, path, told))
    write_whole(out.with_name(f"{out.name}.csv"), lambda path: _write_table(path, manifest, rows))
    write_whole(out.with_name(f"{out.name}.json"), lambda path: write_json(path, passport))
    bad = out.with_name(f"{out.name}.bad.tsv")
    if steps.faults:
        lines = [f"{manifest.paths[row]}\t{reason}\n" for row, reason in sorted(steps.faults.items())]
        write_whole(bad, lambda path: path.write_text("".join(["path\treason\n", *lines])))
    else:
        bad.unlink(missing_ok=True)
    return len(rows)


def _write_table(path: Path, manifest: Manifest, rows: list[int]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for row in rows:
            label = int(manifest.labels[row])
            name = manifest.class_names[label] if manifest.class_names and label != UNLABELLED else label
            table.writerow([manifest.paths[row], "" if label == UNLABELLED else name])

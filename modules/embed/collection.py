"""Reads a collection of features with its table and passport, as written by `embed`.

Axis letters: `N` recordings, `S` steps, `D` width.
"""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.files import read_json


class Collection(NamedTuple):
    """Features of recordings, one row per recording."""

    name: Path
    """path of its files, without suffix"""
    feature: Tensor
    """float32 [N, D], or [N, S, D] for sequences"""
    length: Tensor
    """int64 [N], steps of each row; 1 without sequences"""
    time: Tensor | None
    """float32 [N, 2] or [N, S, 2], start and end of each step in seconds; None if unknown"""
    paths: list[str]
    """paths in the table, relative to `root` or absolute"""
    labels: list[str]
    """class names or indices, '' for none"""
    root: Path | None
    """folder that relative paths are relative to; None if the passport does not contain it"""
    passport: dict[str, Any]
    """passport of the features; empty if there is none"""

    @property
    def is_sequences(self) -> bool:
        """Whether rows are sequences."""
        return self.feature.ndim == 3

    def file(self, row: int) -> Path:
        """Path of the recording of a row."""
        return (self.root or Path()) / self.paths[row]


def read_collection(name: Path, setting: str = "--features") -> Collection:
    """Read NAME.safetensors, NAME.csv and NAME.json, which may be missing.

    Args:
        name: name of the collection, with or without suffix.
        setting: setting with the name, for error messages.

    Raises:
        SettingError: if files are missing, damaged, or do not belong together.
    """
    name = name.with_suffix("") if name.suffix in (".safetensors", ".csv", ".json") else name
    file, table = name.with_name(f"{name.name}.safetensors"), name.with_name(f"{name.name}.csv")
    for path in (file, table):
        if not path.is_file():
            raise SettingError(f"{setting} is {name}, but there is no {path}; pass the name that was given to embed as --out.")
    try:
        tensors = load_file(file)
        feature = tensors["feature"].float()
    except (SafetensorError, OSError, KeyError) as error:
        raise SettingError(f"{setting}: {file} is not a collection of features ({error}); write it with embed.") from error
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or "path" not in rows[0]:
        raise SettingError(f"{table} has no rows with a column path; write it with embed.")
    if len(rows) != len(feature):
        raise SettingError(f"{table} has {len(rows)} rows, but {file} holds {len(feature)} recordings; write both again.")
    if feature.ndim not in (2, 3) or not feature.isfinite().all():
        raise SettingError(f"{file} holds features of shape {list(feature.shape)}, or NaN among them; write it again.")
    passport = read_json(name.with_name(f"{name.name}.json"))
    root = passport.get("root")
    ones = torch.ones(len(feature), dtype=torch.int64)
    return Collection(
        name,
        feature,
        tensors.get("length", ones),
        tensors.get("time"),
        [row["path"] for row in rows],
        [row.get("label") or "" for row in rows],
        Path(root) if root else None,
        passport,
    )

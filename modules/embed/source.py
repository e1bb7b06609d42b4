"""Sources of recordings to embed: a folder, a list or a data set."""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from lightning import LightningDataModule

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_list
from datamodules.lists.folders import VIDEO_SUFFIXES, read_folder, split_folders
from datamodules.lists.manifest import UNLABELLED, Manifest
from datamodules.lists.packed import PackedStrings
from datamodules.loading.loader import ResumableLoader
from datamodules.loading.single_pass import SinglePass, fingerprint
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.skeleton.clips import SkeletonClipSettings, SkeletonDataset
from datamodules.streams.settings import SignalSettings
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch, Kind
from modules.core.errors import SettingError

Split = Literal["train", "val", "test"]


class Rows(NamedTuple):
    """The recordings of a collection, as listed in its table."""

    columns: dict[str, Sequence[str]]
    """columns by name: path, and label, start, end and caption if they are known before reading"""
    root: Path | None
    """absolute folder that relative paths are relative to; None if recordings are not files"""
    sha256: str
    """hash that identifies the recordings"""


class FromData(NamedTuple):
    """A split of a data set."""

    dataset: Any
    """dataset that returns evaluation samples for keys"""
    collate: Callable[[Any], Batch]
    """joins samples to a batch"""
    guard: WorkerGuard
    """records what the dataset is reading"""
    stream: str
    """name of the encoder's input stream"""
    clip: ClipSettings | SkeletonClipSettings
    """settings of its clips"""
    class_names: list[str]
    """empty if unknown"""
    rows: Rows


def rows_of(manifest: Manifest) -> Rows:
    """The recordings of a manifest, with labels and captions."""
    columns: dict[str, Sequence[str]] = {"path": manifest.paths, "label": _labels(manifest)}
    if manifest.spans is not None:
        for name, column in zip(("start", "end"), manifest.spans.T, strict=True):
            columns[name] = ["" if np.isinf(second) else f"{second:g}" for second in column]
    if manifest.texts is not None:
        columns["caption"] = [texts[0] if texts else "" for texts in manifest.texts]
    return Rows(columns, manifest.root.absolute(), manifest.sha256())


def _labels(manifest: Manifest) -> list[str]:
    """Class names, otherwise indices, separated by semicolons if there are several; '' for none."""
    names = manifest.class_names
    if manifest.intervals is not None:
        shown = [sorted({label for _, _, label in parts}) for parts in manifest.intervals]
        return [";".join(names[label] if names else str(label) for label in labels) for labels in shown]
    if not manifest.has_classes:
        return [""] * len(manifest)
    return [label_name(label, names) for label in manifest.labels.tolist()]


def label_name(label: int, names: Sequence[str]) -> str:
    """Name of a class, its index if classes have no names, '' for no class."""
    if label == UNLABELLED:
        return ""
    return names[label] if names else str(label)


def videos_of(source: Path, root: Path | None) -> Manifest:
    """The videos of a folder, with all its sub-folders, or of a list.

    Raises:
        SettingError: if there are none.
    """
    if not source.is_dir() and (source.suffix.lower() in VIDEO_SUFFIXES or not source.exists()):
        raise SettingError(f"--source is {source}; pass an existing folder of videos, or a list of them.")
    if not source.is_dir():
        return read_list(source, root or source.parent, needs_labels=False)
    splits = split_folders(source)
    if not splits:
        return read_folder(source, "--source")
    # All splits, with the classes of all splits.
    parts = {folder: read_folder(folder, "--source") for folder in sorted(splits.values())}
    names = sorted({name for part in parts.values() for name in part.class_names})
    paths = [f"{folder.relative_to(source).as_posix()}/{path}" for folder, part in parts.items() for path in part.paths]
    labels = [part.with_classes(names).labels if part.class_names else part.labels for part in parts.values()]
    return Manifest(source, PackedStrings(paths), np.concatenate(labels), names)


def open_data(
    data: LightningDataModule, split: Split, kind: Kind, clip: dict[str, Any], signal: dict[str, Any], num_workers: int
) -> FromData:
    """Open a split of a data set, with clips for an encoder.

    Args:
        data: data module of this project, before its setup.
        split: train, val or test.
        kind: kind of the encoder's input stream.
        clip: known settings of the clips, by the names of `ClipSettings`. The user's settings take precedence.
        signal: preparation of signals, by the names of `SignalSettings`; the user's settings take precedence.
        num_workers: number of reading processes.

    Raises:
        SettingError: if the data have no such stream or split, or cannot be read in order.
    """
    name = type(data).__name__
    given: Any = data
    if not (isinstance(data, SinglePass) and hasattr(data, "clip") and hasattr(data, "reading")):
        raise SettingError(f"--data {name} is made of other data sets; pass one of them.")
    streams: dict[str, Kind] = given.streams
    stream = next((one for one, other in streams.items() if other == kind), None)
    if stream is None:
        raise SettingError(
            f"--checkpoint is an encoder of {kind}, but --data {name} gives {', '.join(streams)}; pass other data, or set "
            "--data.streams.names where the data set has more."
        )
    given.clip = _merged(given.clip, inspect.signature(type(data).__init__).parameters["clip"].default, clip)
    if kind == "signal" and isinstance(data, VideoDataModule) and data.stream_settings.signal == SignalSettings():
        data.stream_settings = replace(data.stream_settings, signal=SignalSettings(**signal))
    given.reading = replace(given.reading, num_workers=num_workers)
    given.batch_size = 1
    data.setup("test" if split == "test" else "fit")
    loaders = {"train": given.train_once, "val": given.val_dataloader, "test": given.test_dataloader}
    loader = loaders[split]()
    if not isinstance(loader, ResumableLoader):
        raise SettingError(f"--split is {split}, which --data {name} does not have here; pass --split train.")
    dataset, names = copy.copy(loader.dataset), given.class_names or []
    if isinstance(dataset, VideoClipDataset):
        dataset.views = None  # the same clips in all splits, even if tests have several views
    return FromData(dataset, loader.collate_fn, loader.guard, stream, given.clip, names, _rows_of_data(dataset, split))


def _merged(own: Any, default: Any, known: dict[str, Any]) -> Any:
    """Settings of clips: those of the user, then known ones, then the data set's defaults; without copies of clips."""
    values = {field.name: getattr(own, field.name) for field in fields(own)}
    free = {name for name, value in values.items() if value == getattr(default, name)}
    # Skeletons have neither sizes nor samplers.
    merged = values | {name: value for name, value in known.items() if name in free}
    return type(own)(**merged | ({"repeat": 1} if "repeat" in merged else {}))


def _rows_of_data(dataset: Any, split: Split) -> Rows:
    """The recordings of a data set by file, name or index; labels and captions come with the samples."""
    sha256 = fingerprint(dataset)
    if isinstance(dataset, VideoClipDataset):
        found = rows_of(dataset.manifest)
        columns = {name: column for name, column in found.columns.items() if name not in ("label", "caption")}
        return Rows(columns, found.root, sha256)
    if isinstance(dataset, SkeletonDataset):
        return Rows({"path": dataset.recordings.name[dataset.rows].tolist()}, None, sha256)
    return Rows({"path": [f"{split}/{row:06d}" for row in range(len(dataset))]}, None, sha256)

"""Packs the videos of any data set into shards: `python main.py prepare shards`, for sets larger than one disk.

Every shard is written atomically and named by its content, so a killed command resumes when run again. The files are not
changed; use `prepare videos` first to make them small.
"""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.base import VideoDataModule
from datamodules.lists.manifest import Manifest
from datamodules.loading.shards import FORMAT, INDEX, LISTS, engine, write_shard
from datamodules.prepare.parallel import Progress
from datamodules.settings import SubsetSettings
from modules.core.errors import SettingError, check_whole, check_writable
from modules.core.files import replacing, to_json

REPORT, PART, NEW = "malformed.tsv", ".part", "new"
MEGABYTE = 2**20
SPLITS = ("train", "val", "test")
MAX_FILE = 2**31
"""Maximum bytes of a shard, because litdata stores offsets in 32 bits."""


class Found(NamedTuple):
    """A file to put into a shard."""

    row: int
    path: Path
    size: int
    time: int


def prepare_shards(data: VideoDataModule, out: Path, megabytes: int = 128, overwrite: bool = False) -> None:
    """Pack the videos of a data set into shards, for --data StreamedVideos. Shards can be copied to an object store.

    A killed command resumes when run again. All splits of the data set are written; missing and empty files are left out and
    listed in malformed.tsv. Labels, sentences and names go into lists.json, which is written last.

    Args:
        data: the data set, by name, with its root and, if necessary, lists and benchmark: --data UCF101 --data.root DIR.
        out: folder to write, for --data.root of StreamedVideos.
        megabytes: size of a shard; three times as much memory is needed.
        overwrite: replace what was prepared in `out` before.

    Raises:
        SettingError: for a data set that reads more than complete videos, if there is nothing to read, the disk is full, or
            `out` contains something else.
    """
    engine()
    check_writable("--out", out)
    check_whole("--", 1, 2048, megabytes=megabytes)
    name = type(data).__name__
    if type(data)._dataset is not VideoDataModule._dataset or type(data)._collate is not VideoDataModule._collate:
        raise SettingError(f"--data {name} has its own way of reading videos, which shards do not support; keep the files.")
    if [*data.wanted] != ["video"]:
        raise SettingError(
            f"--data {name} has the streams {', '.join(data.wanted)}, but shards only support "
            "videos; set --data.streams.names '[video]', or keep the files."
        )
    if data.subset != SubsetSettings():
        raise SettingError("--data.subset is set, but shards contain all videos; leave it out here, and set it for training.")
    data.check_root()
    manifests = {split: data.read_split(split) for split in SPLITS}
    for split, manifest in manifests.items():
        if manifest is not None and manifest.spans is not None:
            raise SettingError(
                f"The samples of the split {split} of --data {name} are parts of files, but shards contain whole files; cut "
                "them with `python main.py prepare videos`, or keep the files."
            )
    if any(manifest.fps or manifest.further for manifest in manifests.values() if manifest is not None):
        raise SettingError(
            f"--data {name} reads folders of pictures, or further streams, which shards do not support; keep the files."
        )
    files = {split: _find(manifest) for split, manifest in manifests.items() if manifest is not None}
    for split in {"train": None} | files:
        if not files.get(split):
            raise SettingError(f"--data.root {data.root} contains no readable video of the split {split}; pass another folder.")
    content = {
        "format": FORMAT,
        "data": name,
        "benchmark": data.benchmark,
        "flips_change_labels": data.flips_change_labels,
        "splits": {split: _listed(manifests[split], found, data.root) for split, found in files.items()},
    }
    names = {split: _shard_names(found, megabytes * MEGABYTE) for split, found in files.items()}
    lists = to_json(content | {"shards": {split: [*one] for split, one in names.items()}})
    before = out / LISTS
    if before.is_file() and not overwrite:
        if before.read_text(encoding="utf-8") == lists:
            print(f"{out} has already been prepared from the same files; pass --overwrite true to do it again.")
            return
        raise SettingError(f"--out {out} was prepared from other files; pass another folder, or --overwrite true.")
    for split in files:
        if (out / split).exists() and not (out / split / INDEX).is_file():
            raise SettingError(f"--out {out} contains a folder {split} that does not contain shards; pass another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        before.unlink(missing_ok=True)
        for split, shards in names.items():
            _write_split(out, split, shards)
        _write_report(out / REPORT, manifests, files)
        with replacing(before) as part:
            part.write_text(lists, encoding="utf-8")
    except OSError as error:
        raise SettingError(
            f"--out {out} cannot be written ({error}); free disk space or pass another folder. Finished shards are kept."
        ) from error
    count, missing = (sum(map(len, one.values())) for one in (files, {s: m for s, m in manifests.items() if m is not None}))
    left_out = f" {missing - count} were left out; {out / REPORT} lists them." if missing > count else ""
    print(f"{count} videos are in {sum(map(len, names.values()))} shards in {out}.{left_out}")


def _find(manifest: Manifest) -> list[Found]:
    """The existing files of a manifest that are neither empty nor too large."""
    found = []
    for row in range(len(manifest)):
        path = manifest.file(row)
        try:
            facts = path.stat()
        except (OSError, ValueError):
            continue
        if path.is_file() and 0 < facts.st_size < MAX_FILE:
            found.append(Found(row, path, facts.st_size, facts.st_mtime_ns))
    return found


def _listed(manifest: Manifest | None, found: list[Found], root: Path) -> dict[str, Any]:
    """Properties of some videos of a manifest that the data module needs."""
    assert manifest is not None
    part = manifest.subset(np.array([file.row for file in found], np.int64))
    # Relative to the root of the data set, so that a video in two splits has the same name in both.
    return {
        "paths": [os.path.relpath(file.path, root) for file in found],
        "labels": part.labels.tolist(),
        "class_names": part.class_names,
        "intervals": part.intervals,
        "texts": None if part.texts is None else list(part.texts),
    }


def _shard_names(found: list[Found], size: int) -> dict[str, list[Found]]:
    """Cut a list of files into shards of about `size` bytes. A shard's name is a hash of its content and order."""
    shards: list[list[Found]] = []
    room = 0
    for file in found:
        if room < file.size or not shards:
            shards.append([])
            room = size
        shards[-1].append(file)
        room -= file.size
    named = {}
    for number, files in enumerate(shards):
        facts = "\n".join(f"{path}\t{length}\t{time}" for _, path, length, time in files)
        digest = hashlib.sha256(f"{FORMAT}\n{facts}".encode("utf-8", "surrogateescape")).hexdigest()
        named[f"{number:05d}-{digest[:12]}.bin"] = files
    return named


def _write_split(out: Path, split: str, shards: dict[str, list[Found]]) -> None:
    """Write the shards of a split into a temporary folder, which is renamed at the end."""
    done, part = out / split, out / f"{split}{PART}"
    if done.is_dir():
        if [shard["filename"] for shard in json.loads((done / INDEX).read_text(encoding="utf-8"))["chunks"]] == [*shards]:
            return
        shutil.rmtree(done)
    part.mkdir(exist_ok=True)
    for left in part.iterdir():
        # Shards of other files, or incomplete shards.
        if left.is_dir():
            shutil.rmtree(left)
        elif left.with_suffix(".bin").name not in shards:
            left.unlink()
    missing = [name for name in shards if not (part / name).with_suffix(".json").is_file()]
    progress = Progress(sum(map(len, shards.values())), sum(len(shards[name]) for name in missing))
    for name in missing:
        shard, index = write_shard(part / NEW, [_content(file) for file in shards[name]])
        index["chunks"][0]["filename"] = name
        with replacing(part / name) as new:
            shard.replace(new)
        shutil.rmtree(part / NEW)
        with replacing((part / name).with_suffix(".json")) as new:
            new.write_text(json.dumps(index), encoding="utf-8")
        progress.add(len(shards[name]))
    progress.close()
    single = [(part / name).with_suffix(".json") for name in shards]
    indices = [json.loads(path.read_text(encoding="utf-8")) for path in single]
    with replacing(part / INDEX) as whole:
        chunks = [index["chunks"][0] for index in indices]
        # litdata compares this value to detect an outdated cached index.
        digest = hashlib.sha256(" ".join(shards).encode()).hexdigest()
        content = {"chunks": chunks, "config": indices[0]["config"], "updated_at": digest}
        whole.write_text(json.dumps(content), encoding="utf-8")
    part.replace(done)
    for path in single:
        (done / path.name).unlink()


def _content(file: Found) -> bytes:
    try:
        content = file.path.read_bytes()
    except OSError as error:
        raise SettingError(f"{file.path} cannot be read ({error}); fix it, and run the same command again.") from error
    if len(content) != file.size:
        raise SettingError(f"{file.path} changed while it was read; run the same command again.")
    return content


def _write_report(path: Path, manifests: dict[str, Manifest | None], files: dict[str, list[Found]]) -> None:
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(("path", "split", "reason"))
        for split, found in files.items():
            manifest, kept = manifests[split], {one.row for one in found}
            assert manifest is not None
            for row in range(len(manifest)):
                if row not in kept:
                    table.writerow((manifest.paths[row], split, _reason(manifest.file(row))))


def _reason(path: Path) -> str:
    if not path.exists():
        return "file not found"
    if not path.is_file():
        return "not a file"
    return "too large" if path.stat().st_size else "empty file"

"""Durations of the files of a list, from their headers and cached in a file; and splitting rows into segments."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from datamodules.lists.manifest import Manifest
from datamodules.video.decode import DecodeError, probe
from datamodules.video.readers import LENIENT
from modules.core.files import read_json, write_json, write_whole

AT_ONCE = 16
"""Files looked up in parallel: most of the time is spent waiting for the disk."""


def stated_seconds(path: Path, timeout: float | None = None) -> float:
    """The duration stated in a file's header or, if it has none, from its first frame to its last.

    Only the header is read (for mp4, the index), and nothing is decoded. Whether it is correct is checked when the file is
    read.

    Args:
        path: path of a video or audio file.
        timeout: seconds after which reading stops.

    Raises:
        DecodeError: if it cannot be opened, or has neither video nor audio.
    """
    if not path.is_file():
        raise DecodeError("file not found")
    try:
        with av.open(str(path), timeout=timeout, **LENIENT) as container:
            videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
            streams = [*videos, *container.streams.audio]
            if not streams:
                raise DecodeError("no video stream")
            if streams[0].duration and streams[0].time_base:
                return float(streams[0].duration * streams[0].time_base)
            if container.duration:
                return container.duration / av.time_base
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError("cannot open", str(error)) from error
    info = probe(path, timeout)
    return info.num_frames / info.fps


def seconds_of_files(manifest: Manifest, cache: Path, timeout: float | None = None) -> np.ndarray:
    """Duration of each row's file.

    Files are looked up once, several in parallel; durations are cached with file size and date. Those that cannot be opened are
    reported in one line, and tried again the next time.

    Args:
        manifest: manifest of the files.
        cache: JSON file for the results.
        timeout: maximum seconds for a file.

    Returns:
        float64 [N]; NaN if a file cannot be opened.
    """
    first = manifest.paths.first_rows()
    files = {int(row): manifest.file(int(row)) for row in np.unique(first)}
    before, found = read_json(cache), dict[str, list[float]]()
    seconds = np.full(len(manifest), np.nan)
    state: dict[int, list[float]] = {}
    for row, path in files.items():
        try:
            facts = path.stat()
        except (OSError, ValueError):
            continue
        state[row] = [facts.st_size, facts.st_mtime_ns]
        kept = before.get(str(path))
        if kept is not None and kept[:2] == state[row]:
            found[str(path)], seconds[row] = kept, kept[2]
    left = [row for row in files if math.isnan(seconds[row])]
    if left:
        rank_zero_info(f"{manifest.root}: looking up the durations of {len(left)} files; they are cached in {cache}.")
    faults: list[str] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for row, one in zip(left, pool.map(lambda row: _look(files[row], timeout), left), strict=True):
            if isinstance(one, DecodeError):
                faults.append(f"{manifest.paths[row]} ({one.reason})")
            else:
                seconds[row] = one
                if row in state:
                    found[str(files[row])] = [*state[row], one]
    if faults:
        rank_zero_warn(
            f"{len(faults)} of {len(files)} files in {manifest.root} cannot be opened, the first is {faults[0]}; each counts "
            "as one broken sample."
        )
    if found != before and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        write_whole(cache, lambda part: write_json(part, found))
    return seconds[first]


def _look(path: Path, timeout: float | None) -> float | DecodeError:
    try:
        return stated_seconds(path, timeout)
    except DecodeError as error:
        return error


def cut_into_stretches(manifest: Manifest, seconds: np.ndarray, stretch: float) -> Manifest:
    """A manifest of segments instead of complete rows, in order.

    The last segment of a row extends to its end, with 0.5 to 1.5 times the length of the others.

    Args:
        manifest: manifest of files, or of parts of files.
        seconds: float64 [N], duration of each row's file; NaN if unknown, which leaves the row unsplit.
        stretch: length of a segment in seconds.
    """
    spans = manifest.spans if manifest.spans is not None else np.tile([0.0, np.inf], (len(manifest), 1))
    first, last = np.maximum(spans[:, 0], 0.0), np.minimum(spans[:, 1], seconds)
    lengths = np.nan_to_num((last - first) / stretch, nan=1.0)
    counts = np.maximum(1, np.floor(lengths + 0.5)).astype(np.int64)
    rows = np.repeat(np.arange(len(manifest)), counts)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = first[rows] + place * stretch
    ends = np.where(place == counts[rows] - 1, spans[rows, 1], starts + stretch)
    return replace(manifest.subset(rows), spans=np.stack([starts, ends], 1))

"""How long the files of a list are, by what they state, looked up once and kept in a file; and rows cut into stretches."""

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
"""Files that are looked at together: most of the time is waiting for the disk."""


def stated_seconds(path: Path, timeout: float | None = None) -> float:
    """How long a file says that it is, or, where it does not say it, as counted from its first frame to its last.

    Only the file's head is read (of mp4, its index), and nothing is decoded. Whether it is true shows when the file is read.

    Args:
        path: of a video, or of sound.
        timeout: seconds after which to give up.

    Raises:
        DecodeError: if it cannot be opened, or holds neither.
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
    """How long the file of each row is.

    Files are looked at once, several together; what they say is kept with their size and date. Those that cannot be opened are
    told in one line, and looked at again the next time.

    Args:
        manifest: of the files.
        cache: JSON file for what was found.
        timeout: seconds for a file.

    Returns:
        float64 [N]; not a number where a file cannot be opened.
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
        rank_zero_info(f"{manifest.root}: looking up the length of {len(left)} files; they are kept in {cache}.")
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
    """A manifest of stretches in the place of whole rows, in their order.

    The last stretch of a row goes to its end and is half as long as the others at least, or half as long again at most.

    Args:
        manifest: of files, or of parts of files.
        seconds: float64 [N], how long each row's file is; not a number where nobody knows, which leaves the row whole.
        stretch: seconds.
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

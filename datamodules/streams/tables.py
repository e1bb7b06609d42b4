"""Sensor tables: one row per sample of the sensor, one column per channel, with or without a time column.

Axis letters: `V` views, `N` rows, `C` columns, `L` steps of a clip.
"""

import csv
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.signal import medfilt

from datamodules.streams.arrays import check_file, check_numbers, load_arrays, split_source
from datamodules.streams.reader import StreamReader, seconds_of
from datamodules.streams.settings import SignalSettings
from datamodules.video.decode import DecodeError, VideoInfo
from datamodules.video.sampling import Plan
from modules.core.batch import Stream
from modules.core.errors import SettingError

TIMES = ("t", "time", "timestamp")
"""Default names of the time column."""
UNEVEN = 0.1
"""Maximum deviation of the median time step from the period in the settings, as a fraction of the period."""


@dataclass(frozen=True)
class Recording:
    """A sensor table.

    Args:
        values: [N, C], values of the columns that are read.
        names: names of the columns, if the file has any.
        times: float64 [N], time of each row in seconds on the sample's clock, ascending; None if rows are evenly spaced.
    """

    values: np.ndarray
    names: tuple[str, ...] | None
    times: np.ndarray | None


class SignalReader(StreamReader):
    """Sensor tables from .csv files with a header (columns separated by commas, semicolons or tabs), and from
    .npy and .npz files [N, C] (in .npz, the array `signal` or the only one, and the array of times; or `file.npz#name`).

    Columns are selected by name, in the order of the settings or of the first file of the list, whatever the order in a file
    is; a file without one of them is broken. If times are not evenly spaced, or a clip begins between two samples, values
    are interpolated linearly.

    Args:
        settings: columns, clock and length.
    """

    kind = "signal"

    def __init__(self, settings: SignalSettings) -> None:
        self.settings = settings
        self.columns = None if settings.columns is None else tuple(settings.columns)
        self.width: int | None = None if self.columns is None else len(self.columns)

    def learn(self, source: Path) -> None:
        """See `StreamReader.learn`."""
        if self.columns is not None and split_source(source)[0].suffix in (".npy", ".npz"):
            raise SettingError(f"data.streams.signal.columns names columns, which {source} does not; leave it out.")
        recording = self._load(source)
        # If the rate of this file differs from the settings, the setting is wrong for all files.
        if self.settings.steps is None:
            self._check_rate(recording)
        self.columns, self.width = recording.names, recording.values.shape[1]

    def info(self, source: Path) -> VideoInfo:
        """See `StreamReader.info`; steps count from time 0 of the sample's files."""
        recording = self._load(source)
        if self.settings.steps is None:
            self._check_rate(recording)
        steps = max(round(self._ends(recording)[1] * self.settings.rate) + 1, 0)
        if not steps:
            raise DecodeError("too short", "ends before 0 s")
        return VideoInfo(steps, self.settings.rate, 0, 0)

    def read(self, source: Path, plan: Plan, size: int) -> Stream:
        """See `StreamReader.read`: [V, C, L]."""
        recording = self._load(source)
        parts = plan.time
        if self.settings.whole:
            asked = plan.span or (-np.inf, np.inf)
            ends = np.where(np.isfinite(asked), asked, self._ends(recording))
            parts = np.tile(ends.astype(np.float32), (plan.views, 1))
        cut = [self._cut(recording, first, last) for first, last in parts.astype(np.float64).tolist()]
        return replace(self._join(cut, plan), time=torch.from_numpy(parts))

    def nothing(self, plan: Plan, size: int) -> Stream:
        """See `StreamReader.nothing`."""
        steps = self.settings.steps or 1
        empty = np.zeros((steps, self.width or 1), np.float32), np.zeros(steps, bool)
        stream = self._join([empty] * plan.views, plan)
        return stream if stream.length is None else replace(stream, length=torch.zeros_like(stream.length))

    def _join(self, cut: list[tuple[np.ndarray, np.ndarray]], plan: Plan) -> Stream:
        """Join parts [L, C] and bool [L] of all views, padded to the longest."""
        lengths = [len(values) for values, _ in cut]
        data = np.zeros((len(cut), cut[0][0].shape[1], max(lengths)), np.float32)
        valid = np.zeros((len(cut), max(lengths)), bool)
        for view, (values, real) in enumerate(cut):
            data[view, :, : len(values)], valid[view, : len(values)] = values.T, real
        length = torch.tensor(lengths) if self.settings.steps is None else None
        return Stream("signal", torch.from_numpy(data), torch.from_numpy(valid), seconds_of(plan), length=length)

    def _cut(self, recording: Recording, first: float, last: float) -> tuple[np.ndarray, np.ndarray]:
        """A part of a recording: float32 [L, C], and bool [L]."""
        settings = self.settings
        if settings.steps is None:
            self._check_rate(recording)
        start, times = self._times_between(recording, first, last)
        values = recording.values[start : start + len(times)]
        check_numbers(values, start)
        if settings.window:
            return cut_window(values, times, first, last, settings.rate)
        if settings.steps is None and recording.times is None:
            # The samples of the file without interpolation, from the one nearest to the start on.
            begin = round((first - settings.offset) * settings.rate)
            rows = np.arange(begin, begin + round((last - first) * settings.rate) + 1) - start
            valid = (rows >= 0) & (rows < len(times))
            return np.where(valid[:, None], values[np.where(valid, rows, 0)], 0).astype(np.float32), valid
        if settings.steps is None:
            moments = first + np.arange(round((last - first) * settings.rate) + 1) / settings.rate
        else:
            moments = np.linspace(first, last, settings.steps)
        valid = (moments >= times[0] - self._half) & (moments <= times[-1] + self._half)
        found = np.stack([np.interp(moments, times, column) for column in values.T], 1)
        return np.where(valid[:, None], found, 0).astype(np.float32), valid

    def _times_between(self, recording: Recording, first: float, last: float) -> tuple[int, np.ndarray]:
        """The rows around a part of a recording, with one more on each side: index of the first, and their times [n].

        Raises:
            DecodeError: if there are none, or if there is a gap between them.
        """
        offset, rate, count = self.settings.offset, self.settings.rate, len(recording.values)
        if recording.times is None:
            start = min(max(int(np.floor((first - offset) * rate)), 0), count)
            stop = min(max(int(np.ceil((last - offset) * rate)) + 1, start), count)
            times = np.arange(start, stop) / rate + offset
        else:
            start = max(int(np.searchsorted(recording.times, first, "right")) - 1, 0)
            times = recording.times[start : int(np.searchsorted(recording.times, last, "left")) + 1]
        if not len(times) or times[-1] < first - self._half or times[0] > last + self._half:
            begin, end = self._ends(recording)
            raise DecodeError("too short", f"from {begin:g} s to {end:g} s, not from {first:g} s to {last:g} s")
        gaps = np.diff(times)
        if recording.times is not None and len(gaps) and gaps.max() > self.settings.max_gap + 1e-9:
            raise DecodeError("a gap in time", f"{gaps.max():g} s after {times[gaps.argmax()]:g} s")
        return start, times

    @property
    def _half(self) -> float:
        """Half a period: the tolerance at the ends of a recording."""
        return 0.5 / self.settings.rate + 1e-6

    def _ends(self, recording: Recording) -> tuple[float, float]:
        """Times of the first and the last row, in seconds."""
        if recording.times is not None:
            return float(recording.times[0]), float(recording.times[-1])
        return self.settings.offset, (len(recording.values) - 1) / self.settings.rate + self.settings.offset

    def _check_rate(self, recording: Recording) -> None:
        """Refuse times whose median step differs from the settings. Raises DecodeError."""
        if recording.times is not None and len(recording.times) > 1:
            usual = float(np.median(np.diff(recording.times)))
            if abs(usual * self.settings.rate - 1) > UNEVEN:
                raise DecodeError("another rate", f"{1 / usual:g} samples per second, not {self.settings.rate:g}")

    def _load(self, source: Path) -> Recording:
        path = split_source(source)[0]
        check_file(path)
        recording = _load_recording(source, path.stat().st_mtime_ns, self.columns, _Reading.of(self.settings))
        if self.width is not None and recording.values.shape[1] != self.width:
            raise DecodeError("another width", f"{recording.values.shape[1]} columns, not {self.width}")
        if self.width is not None and (recording.names is None) != (self.columns is None):
            raise DecodeError("no such column", "no column names, although the first file has some, or the reverse")
        return recording


@dataclass(frozen=True)
class _Reading:
    """The settings that determine the content of a recording."""

    time: str | None
    second: float
    offset: float
    from_first: bool
    median: int
    standardise: bool

    @classmethod
    def of(cls, settings: SignalSettings) -> "_Reading":
        second = {"s": 1.0, "ms": 1e3}[settings.unit]
        return cls(settings.time, second, settings.offset, settings.from_first, settings.median, settings.standardise)


# A reader loads the file of the first stream of a sample twice: for its length, and for a part.
@lru_cache(maxsize=2)
def _load_recording(source: Path, changed: int, columns: tuple[str, ...] | None, reading: _Reading) -> Recording:
    if split_source(source)[0].suffix in (".npy", ".npz"):
        found = load_arrays(source, "signal", *([reading.time] if reading.time is not None else TIMES))
        values, names = found.pop("signal"), None
        if len(found) > 1:
            raise DecodeError("cannot open", f"several arrays of times: {', '.join(found)}")
        if reading.time is not None and not found:
            raise DecodeError("no such column", reading.time)
        check_numbers(values[:0])
        times = next(iter(found.values()), None)
        if values.ndim != 2 or (times is not None and times.shape != values.shape[:1]):
            raise DecodeError(
                "another size", f"shape {values.shape}, not [N, C]; times {None if times is None else times.shape}"
            )
    else:
        values, names, times = _read_csv(source, columns, reading.time)
    if not len(values):
        raise DecodeError("too short", "no rows")
    if times is not None:
        check_numbers(times)
        times = times.astype(np.float64) / reading.second
        if (np.diff(times) <= 0).any():
            row = int(np.flatnonzero(np.diff(times) <= 0)[0]) + 1
            raise DecodeError("times not ascending", f"row {row} has {times[row]:g} s after {times[row - 1]:g} s")
        times += reading.offset - (times[0] if reading.from_first else 0)
    if reading.median > 1 or reading.standardise:
        check_numbers(values)
        values = filter_median(values, reading.median)
        values = standardise(values) if reading.standardise else values
    return Recording(values, names, times)


def _read_csv(
    path: Path, columns: tuple[str, ...] | None, time: str | None
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray | None]:
    """Columns of a table, float64 [N, C], their names, and the time column [N]. Raises DecodeError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline().rstrip("\r\n")
            delimiter = max(",;\t", key=first.count)
            header = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
            check_names(header)
            lines = [line for line in file if line.strip()]
            if not lines:
                raise DecodeError("too short", "no rows")
            table = np.loadtxt(lines, np.float64, delimiter=delimiter, ndmin=2, comments=None, quotechar='"')
    except OSError as error:
        raise DecodeError("cannot open", str(error)) from error
    except (ValueError, csv.Error) as error:
        raise DecodeError("not numbers", str(error).partition("\n")[0]) from error
    if table.shape[1] != len(header):
        raise DecodeError("not numbers", f"{table.shape[1]} cells in a row, {len(header)} column names")
    candidates = [name for name in header if name.lower() in TIMES] if time is None else [time]
    if len(candidates) > 1:
        raise DecodeError("cannot open", f"{' and '.join(candidates)} may both be times; set data.streams.signal.time")
    names = tuple(name for name in header if name not in candidates) if columns is None else columns
    for name in (*candidates, *names):
        if name not in header:
            raise DecodeError("no such column", name)
    values = table[:, [header.index(name) for name in names]]
    return values, names, table[:, header.index(candidates[0])] if candidates else None


def check_names(header: list[str]) -> None:
    """Refuse a first line without column names, or with repeated ones. Raises DecodeError."""
    if not any(header) or all(_is_number(cell) for cell in header):
        raise DecodeError("no such column", "the first line has no names")
    if len(set(header)) < len(header):
        raise DecodeError("no such column", f"two columns have the same name: {', '.join(header)}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# --- IMU-video's windows, official code ---


def filter_median(values: np.ndarray, kernel: int) -> np.ndarray:
    """Median of each column over `kernel` rows around each row, with zeros beyond the ends: [N, C] -> float32 [N, C]."""
    filtered = values if kernel == 1 else np.stack([medfilt(column, kernel) for column in values.T]).T
    return filtered.astype(np.float32)


def standardise(values: np.ndarray) -> np.ndarray:
    """Subtract the mean of each column and divide by its standard deviation, where that is not 0: float [N, C]."""
    deviation = values.std(0)
    deviation[deviation == 0] = 1
    standardised: np.ndarray = (values - values.mean(0)) / deviation
    return standardised


def cut_window(values: np.ndarray, times: np.ndarray, first: float, last: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """The rows between two times without interpolation, cut or padded with zeros to round(seconds) times the rate.

    Args:
        values: [N, C]
        times: float64 [N], ascending, in seconds.
        first: start time, inclusive.
        last: end time, exclusive.
        rate: samples per second.

    Returns:
        float32 [L, C], and which rows are not padding: bool [L].

    Raises:
        DecodeError: if the last row is before the end of the window.
    """
    if max(first, last) > times[-1]:
        raise DecodeError("too short", f"ends at {times[-1]:g} s, and the window at {last:g} s")
    start, stop = (int(np.searchsorted(times, moment, "left")) for moment in (first, last))
    if start == stop:
        start, stop = max(start - 1, 0), stop + 1
    window = np.zeros((max(round(round(last - first) * rate), 1), values.shape[1]), np.float32)
    found = values[start:stop][: len(window)]
    window[: len(found)] = found
    return window, np.arange(len(window)) < len(found)


def window_list(first: float, last: float, seconds: float) -> np.ndarray:
    """Consecutive windows of a recording; a window that ends exactly with the recording is left out: float64 [n, 2]."""
    starts, ends = np.arange(first, last, seconds), np.arange(first + seconds, last, seconds)
    return np.stack([starts[: len(ends)], ends], 1)

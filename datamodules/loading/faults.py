"""Handling of broken videos: each is counted once and listed in a report; too many of them stop the run."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedStrings
from modules.core.batch import Batch
from modules.core.errors import SettingError

# With fewer files a fraction is not meaningful: one broken file of a dozen must not stop a first try.
MIN_FILES = 100
REPORT = "bad_videos.tsv"
COLUMNS = ("path", "split", "reason")
CRASHED = "decoder crashed"
NAMED = 10
PREDICTED = "predict"
"""Split of the samples of `predict`. They are not replaced, so all of them may be broken."""


class BadFile(NamedTuple):
    """A file that could not be read; the same path may be a different file in another split."""

    path: str
    split: str


class FaultLog:
    """Counts broken files in the batches that the loaders return.

    The report on disk is the record: a resumed run reads it and appends to it. The fraction of bad files refers to the
    training files that this process has read.

    Args:
        max_bad_fraction: maximum fraction of bad files among those read so far; training stops above it, once 100 different
            files have been read.
    """

    def __init__(self, max_bad_fraction: float) -> None:
        self.max_bad_fraction = max_bad_fraction
        self.bad: dict[BadFile, str] = {}
        self.report: Path | None = None
        self._crashed: set[BadFile] = set()
        self._training = PackedStrings(())
        self._file = self._training.first_rows()
        self._seen = np.zeros(0, bool)
        self._seen_bad: dict[str, str] = {}

    def write_to(self, folder: Path, rank: int = 0) -> None:
        """Set the folder of the report, and read an existing report.

        Args:
            folder: folder of the run.
            rank: rank of this process; all processes except the first add their rank to the report's name.
        """
        self.report = folder / (REPORT if rank == 0 else REPORT.replace(".tsv", f".rank{rank}.tsv"))
        before = read_report(self.report)
        new = [file for file in self.bad if file not in before]
        self.bad = before | self.bad
        if new:
            self._write()
        # A run may resume with another number of processes, which distribute the files differently.
        for report in folder.glob(REPORT.replace(".tsv", "*.tsv")):
            self._crashed |= {file for file, reason in read_report(report).items() if reason == CRASHED}

    def crashes(self, manifest: Manifest, split: str) -> set[int]:
        """Rows of a manifest whose files are known to crash the decoder."""
        crashed = self._crashed | {file for file, reason in self.bad.items() if reason == CRASHED}
        paths = {file.path for file in crashed if file.split == split}
        return {row for row, path in enumerate(manifest.paths) if path in paths} if paths else set()

    def record(self, batch: Batch, manifest: Manifest, split: str, counts: bool) -> None:
        """Record a batch.

        Args:
            batch: batch that was read.
            manifest: manifest of the batch's rows.
            split: 'train', 'val', 'test' or 'predict'.
            counts: whether its files count for the fraction of bad files.

        Raises:
            SettingError: when too many files are bad, or when a sample could not be replaced.
        """
        found: dict[str, list[str]] = {}
        for row, reason in batch.reading.faults:
            found.setdefault(manifest.paths[row], []).append(reason)
        # Several streams of a sample may be missing.
        faults = {path: CRASHED if CRASHED in own else "; ".join(dict.fromkeys(own)) for path, own in found.items()}
        new = {BadFile(path, split): reason for path, reason in faults.items()}
        new = {file: reason for file, reason in new.items() if file not in self.bad}
        if new:
            if not self.bad and self.report is not None:
                name, reason = next(iter(faults.items()))
                # File names may contain characters that a terminal cannot show.
                name = name.encode("utf-8", "backslashreplace").decode()
                rank_zero_info(f"{name} could not be read ({reason}). All such files are listed in {self.report}.")
            self.bad |= new
            self._write()
        if any(batch.reading.unreplaced) and split != PREDICTED:
            lacking = any(reason.endswith(": no such stream") for reason in faults.values())
            hint = " data.streams.on_missing mark keeps samples that lack a stream." if lacking else ""
            raise SettingError(f"Several videos in a row could not be read: {self._summary(faults)}{hint}")
        if counts:
            self._note(manifest.paths, batch.index.tolist() + [row for row, _ in batch.reading.faults])
            self._seen_bad |= faults
            self._judge()

    def broken(self, split: str) -> set[str]:
        """Files of a split that could not be read, in all processes and before the run was resumed."""
        reports = self.report.parent.glob(REPORT.replace(".tsv", "*.tsv")) if self.report is not None else ()
        files = self.bad.keys() | {file for report in reports for file in read_report(report)}
        return {file.path for file in files if file.split == split}

    def reason(self, path: str, split: str) -> str | None:
        """Why a file of a split could not be read; None if unknown to this process."""
        return self.bad.get(BadFile(path, split))

    def _note(self, training: PackedStrings, rows: list[int]) -> None:
        """Mark files of a list as read: one byte each instead of a set of names, which would grow to all of them."""
        if training != self._training:
            self._training, self._file = training, training.first_rows()
            self._seen, self._seen_bad = np.zeros(len(training), bool), {}
        # Rows may repeat a file.
        self._seen[self._file[rows]] = True

    def _judge(self) -> None:
        bad, seen = len(self._seen_bad), int(np.count_nonzero(self._seen))
        if seen >= MIN_FILES and bad > self.max_bad_fraction * seen:
            raise SettingError(
                f"{bad} of the {seen} training videos read so far are bad, more than data.reading.max_bad_fraction "
                f"{self.max_bad_fraction:g} allows; repair or remove them, or raise it: {self._summary(self._seen_bad)}"
            )

    def _summary(self, bad: dict[str, str]) -> str:
        named = "; ".join(f"{path} ({reason})" for path, reason in list(bad.items())[:NAMED])
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        return f"{named}{more}" + (f". All are listed in {self.report}." if self.report is not None else ".")

    def _write(self) -> None:
        if self.report is None:
            return
        self.report.parent.mkdir(parents=True, exist_ok=True)
        partial = self.report.with_suffix(".part")
        # Names may have any encoding, and contain tabs and line ends, which the writer quotes.
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([*bad, reason] for bad, reason in sorted(self.bad.items()))
        partial.replace(self.report)


def read_report(path: Path) -> dict[BadFile, str]:
    """The files and reasons in a report; empty if there is none."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", restval=""))
    return {BadFile(row["path"], row.get("split") or "train"): row.get("reason") or "" for row in rows if row.get("path")}

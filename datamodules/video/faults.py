"""What becomes of broken videos: each is counted once and named in a report; too many of them stop the run."""

from pathlib import Path
from typing import Any

from modules.core.errors import SettingError

# Below that many different files a share says little: one broken file of a dozen must not stop a first try.
MIN_FILES = 100
REPORT = "bad_videos.tsv"
NAMED = 10


class FaultLog:
    """Counts broken files from the batches that the loader hands out.

    Args:
        paths: all files of the manifest, by row.
        max_bad_fraction: share of bad files among those read so far above which training stops; judged once 100
            different files were read.
        folder: where the report is written; None writes none (yet).
    """

    def __init__(self, paths: list[str], max_bad_fraction: float, folder: Path | None = None) -> None:
        self.paths, self.max_bad_fraction = paths, max_bad_fraction
        self.bad: dict[int, str] = {}
        self.seen: set[int] = set()
        self.report: Path | None = None
        if folder is not None:
            self.write_to(folder)

    def write_to(self, folder: Path, rank: int = 0) -> None:
        """Name the folder for the report; other processes than the first add their number to the file's name."""
        self.report = folder / (REPORT if rank == 0 else REPORT.replace(".tsv", f".rank{rank}.tsv"))
        if self.bad:
            self._write()

    def record(self, batch: dict[str, Any]) -> None:
        """Take note of a batch.

        Raises:
            SettingError: when too many files are bad, or when a sample could not be replaced.
        """
        self.seen.update(batch["index"].tolist())
        new = {row: reason for row, reason in batch["faults"] if row not in self.bad}
        if new:
            self.bad |= new
            self.seen.update(new)
            self._write()
        if batch["unreplaced"].any():
            raise SettingError(f"Not one of several videos in a row could be read: {self._summary()}")
        if len(self.seen) >= MIN_FILES and len(self.bad) > self.max_bad_fraction * len(self.seen):
            raise SettingError(
                f"{len(self.bad)} of the {len(self.seen)} videos read so far are bad, more than data.max_bad_fraction "
                f"{self.max_bad_fraction:g} allows; repair or remove them, or raise it: {self._summary()}"
            )

    def _summary(self) -> str:
        named = "; ".join(f"{self.paths[row]} ({reason})" for row, reason in list(self.bad.items())[:NAMED])
        more = f"; and {len(self.bad) - NAMED} more" if len(self.bad) > NAMED else ""
        return f"{named}{more}" + (f". All are listed in {self.report}." if self.report is not None else ".")

    def _write(self) -> None:
        if self.report is None:
            return
        self.report.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{row}\t{self.paths[row]}\t{reason}\n" for row, reason in sorted(self.bad.items())]
        partial = self.report.with_suffix(".part")
        partial.write_text("row\tpath\treason\n" + "".join(lines), encoding="utf-8", errors="surrogateescape")
        partial.replace(self.report)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"bad": dict(self.bad), "seen": sorted(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.bad, self.seen = dict(state["bad"]), set(state["seen"])
        if self.bad:
            self._write()

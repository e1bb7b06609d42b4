"""Workers that die or hang inside a decoder: identifying the file, so that the loader can continue without it."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

from datamodules.video.readers import DecodeError, Reason

NOTHING = -1
# Beyond a file's own time limit, which readers check between frames.
GRACE = 10.0
# Signals of the user, the terminal or the job scheduler: no file is responsible.
FROM_OUTSIDE = {-number for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM))}
# Windows has neither these signals nor alarms; there a hanging worker is not ended.
KILLED = -getattr(signal, "SIGKILL", 9)
ALARM: signal.Signals | None = getattr(signal, "SIGALRM", None)


class WorkerGuard:
    """Tracks what each worker is reading, ends hanging workers, and condemns files that ended a worker.

    Workers note the row that they read in shared memory. An alarm of the operating system ends a worker whose file
    takes too long, even if a decoder never returns to Python. This is not possible in the main process: without
    workers, only `condemned` has an effect.

    Args:
        workers: number of worker processes.
        limit: seconds for one file; None disables the limit.
        crashed: rows that are known to crash the decoder.
    """

    def __init__(self, workers: int, limit: float | None = None, crashed: Iterable[int] = ()) -> None:
        self.limit = limit
        self.condemned: dict[int, Reason] = dict.fromkeys(crashed, "decoder crashed")
        self._rows = torch.full((workers,), NOTHING)
        if workers:
            self._rows.share_memory_()
        self._suspects: set[int] = set()

    def start(self) -> None:
        """In a new worker: a file that takes too long ends the process. For the main thread."""
        if ALARM is not None:
            signal.signal(ALARM, signal.SIG_DFL)

    @contextmanager
    def reading(self, row: int) -> Iterator[None]:
        """Around the reading of one file.

        Raises:
            DecodeError: for a condemned row.
        """
        if row in self.condemned:
            raise DecodeError(self.condemned[row])
        worker = get_worker_info()
        if worker is None or worker.id >= len(self._rows):
            yield
            return
        self._rows[worker.id] = row
        _set_alarm(self.limit)
        try:
            yield
        finally:
            _set_alarm(None)
            self._rows[worker.id] = NOTHING

    def blame(self, deaths: dict[int, int]) -> bool:
        """Condemn the files that ended workers; all workers count as idle afterwards.

        A worker may have been killed because of low memory, so its file is tried once more.

        Args:
            deaths: exit codes by worker number; negative ones are signals.

        Returns:
            Whether a file was condemned.
        """
        before = len(self.condemned)
        for worker, code in deaths.items():
            row = int(self._rows[worker])
            if row == NOTHING or code == 0 or code in FROM_OUTSIDE:
                continue
            if code == KILLED and row not in self._suspects:
                self._suspects.add(row)
            else:
                self.condemned[row] = "timed out" if ALARM is not None and code == -ALARM else "decoder crashed"
        self._rows.fill_(NOTHING)
        return len(self.condemned) > before


def _set_alarm(seconds: float | None) -> None:
    if ALARM is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds or 0)

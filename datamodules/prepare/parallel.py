"""Helpers for commands that process many files in parallel."""

import multiprocessing
import os
import signal
import sys
import threading

from tqdm import tqdm


def core_count() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    """Let only the main process handle Ctrl-C, and end the worker if the main process is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Progress:
    """A progress bar in a terminal; otherwise a line for every tenth of the work.

    Args:
        total: number of all files.
        left: number of remaining files.
    """

    def __init__(self, total: int, left: int) -> None:
        self.total, self.done = total, total - left
        self.next = self.done + max(1, left // 10)
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=self.done, unit="file") if terminal else None
        if left < total:
            print(f"{total - left} of {total} files have already been prepared.", file=sys.stderr)

    def add(self, count: int) -> None:
        """Add this number of finished files."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.done >= self.next:
            print(f"{self.done} of {self.total} files", file=sys.stderr, flush=True)
            self.next = self.done + max(1, self.total // 10)

    def close(self) -> None:
        """Close the bar and leave it visible."""
        if self.bar is not None:
            self.bar.close()

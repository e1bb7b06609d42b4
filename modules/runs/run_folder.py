"""The folder of a run: where it may be, that one run at a time writes to it, and where an attempt without a checkpoint goes."""

import os
import re
import socket
import time
from itertools import count
from pathlib import Path
from typing import IO

from lightning.pytorch.utilities import rank_zero_warn

from modules.core.errors import SettingError

try:
    import fcntl
except ImportError:  # Windows has no such locks; there nothing protects a run from a second one.
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
REQUEUE_WAIT = 120.0
"""Seconds that a requeued job waits for the lock: on NFS, that of a machine that died lives on for about 90 s."""
ATTEMPT = ("config.yaml", "hparams.yaml", "events.out.tfevents.*", "checkpoints", "pictures", "nonfinite", "probe_report.*")
"""What a run writes for itself; `results`, `bad_videos.tsv` and `provenance.json` collect what several starts add."""


def local_folder(given: str) -> Path:
    """The folder that trainer.default_root_dir names, with `~` expanded.

    Raises:
        SettingError: for an address like s3://..., or if the place is taken by something that is no folder.
    """
    if re.match(r"\w+://", given):
        raise SettingError(
            f"trainer.default_root_dir is {given}, an address; a run is resumed and locked in a local folder, so name one, or "
            "one where the store is mounted."
        )
    return Path(given).expanduser()


def make_folder(root: Path) -> None:
    """Make the folder of a run, unless it is there.

    Raises:
        SettingError: if it cannot be made or written to.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        reason = "there is a file of that name" if root.is_file() else error.strerror or error
        raise SettingError(
            f"trainer.default_root_dir is {root}, which cannot be the folder of a run ({reason}); choose another."
        ) from error


class RunLock:
    """Held by the first process of a run from before anything is built to its end.

    The system releases it when the process ends, in whatever way. It belongs to the process alone, so that loader workers
    that outlive it for a moment keep nobody out (`lockf`, not `flock`, which children share).

    Args:
        root: folder of the run; it must exist.
        wait: seconds to wait for another run's end.

    Raises:
        SettingError: if another process holds it.
    """

    def __init__(self, root: Path, wait: float = 0.0) -> None:
        self._file: IO[str] | None = None
        if fcntl is None:
            return
        path, until = root / LOCK, time.monotonic() + wait
        try:
            self._file = path.open("a+")
        except OSError as error:
            raise SettingError(
                f"trainer.default_root_dir is {root}, where {path} cannot be written ({error.strerror}); choose another."
            ) from error
        while not self._taken(root):
            if time.monotonic() >= until:
                self._file.seek(0)
                holder = self._file.read().strip() or "a process"
                self.release()
                raise SettingError(
                    f"{root} belongs to a run that is still going ({holder}); wait for its end, or choose another folder with "
                    "--trainer.default_root_dir."
                )
            time.sleep(min(5.0, wait))
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def _taken(self, root: Path) -> bool:
        assert self._file is not None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            rank_zero_warn(f"{root} cannot be locked ({error.strerror}): make sure that no second run starts there.")
        return True

    def release(self) -> None:
        """Let another run have the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None


def set_attempt_aside(root: Path) -> Path | None:
    """Move what a run left that ended before its first checkpoint, so that curves and settings of two runs do not mix.

    Args:
        root: folder of the run, which holds no checkpoint to resume from.

    Returns:
        Folder `attempt_<n>` within, or None where there was nothing to move.
    """
    if not (root / "config.yaml").is_file():
        return None
    aside = next(place for number in count() if not (place := root / f"attempt_{number}").exists())
    aside.mkdir()
    for pattern in ATTEMPT:
        for found in root.glob(pattern):
            found.rename(aside / found.name)
    return aside

"""The folder of a run: validation of its path, locking it for one run at a time, and moving failed attempts aside."""

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
except ImportError:  # Windows has no such locks; there, two runs in one folder are not detected.
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
REQUEUE_WAIT = 120.0
"""Seconds that a requeued job waits for the lock: on NFS, the lock of a crashed machine persists for about 90 s."""
ATTEMPT = ("config.yaml", "hparams.yaml", "events.out.tfevents.*", "checkpoints", "pictures", "nonfinite", "probe_report.*")
"""Files of a single start; `results`, `bad_videos.tsv` and `provenance.json` are appended to by several starts."""


def local_folder(given: str) -> Path:
    """The folder of trainer.default_root_dir, with `~` expanded.

    Raises:
        SettingError: for an address like s3://..., or if the path exists and is not a folder.
    """
    if re.match(r"\w+://", given):
        raise SettingError(
            f"trainer.default_root_dir is {given}, a URL; runs are locked and resumed in a local folder, so name one, or the "
            "folder where the store is mounted."
        )
    return Path(given).expanduser()


def make_folder(root: Path) -> None:
    """Create the folder of a run, unless it exists.

    Raises:
        SettingError: if it cannot be created or written to.
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
    """Lock on a run's folder, held by its first process from before anything is built until it ends.

    The system releases the lock when the process ends in any way. It is not inherited by loader workers, which
    may outlive the process for a short time (`lockf`, not `flock`, which children share).

    Args:
        root: folder of the run; it must exist.
        wait: seconds to wait for another run to end.

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
                    f"{root} is in use by an active run ({holder}); wait until it ends, or choose another folder with "
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
        """Release the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None


def set_attempt_aside(root: Path) -> Path | None:
    """Move the files of a run that ended before its first checkpoint, so that curves and settings of two runs do not mix.

    Args:
        root: folder of the run, which contains no checkpoint to resume from.

    Returns:
        Folder `attempt_<n>` in the run's folder, or None if there was nothing to move.
    """
    if not (root / "config.yaml").is_file():
        return None
    aside = next(place for number in count() if not (place := root / f"attempt_{number}").exists())
    aside.mkdir()
    for pattern in ATTEMPT:
        for found in root.glob(pattern):
            found.rename(aside / found.name)
    return aside

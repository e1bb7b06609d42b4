"""Atomic writing of checkpoints: the file is complete or absent, whatever happens during the write."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from modules.core.errors import SettingError
from modules.core.files import replacing
from modules.core.loading import reason


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file next to the checkpoint, flushes it to disk, and then renames it to the checkpoint.

    If the process is killed, the disk is full or permission is missing, the previous checkpoint stays intact. (Lightning's
    own writes to the folder for temporary files and copies from there.) The command line uses it in every run; remote
    paths (`s3://...`) are left to Lightning; such stores replace objects atomically.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            SettingError: if it cannot be written; the message contains the reason and the state of the previous checkpoint.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch reports a failed write as RuntimeError, with the system's error before it.
            cause = error if isinstance(error, OSError) else error.__context__ or error
            left = "the previous one is intact" if target.is_file() else "there is no previous one"
            raise SettingError(
                f"The checkpoint {target} could not be written ({cause}); {left}. Free some disk space "
                "or set trainer.default_root_dir to another folder, then resume with --ckpt_path last."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; by default only tensors and plain values.

        Raises:
            SettingError: if the file is damaged or is not a checkpoint.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise SettingError(
                f"--ckpt_path names {path}, which cannot be read as a checkpoint ({reason(path, error)}); pass another file of "
                "the run's folder checkpoints."
            ) from error

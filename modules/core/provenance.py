"""What a run was made with: versions, code, command, seed, data."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

PACKAGES = ("lightning-video-ssl", "lightning", "torch", "torchvision", "timm", "torchmetrics", "av", "numpy")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    """Output of git in this project's folder; None outside a checkout."""
    folder = Path(__file__).parents[2]
    try:
        result = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


class Provenance(Callback):
    """Writes `provenance.json` into the run's folder before the first step. The command line adds it to every run."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the record."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        status = _git("status", "--porcelain")
        record = {
            "command": sys.argv,
            "python": platform.python_version(),
            "packages": {package: _version(package) for package in PACKAGES},
            "git_commit": _git("rev-parse", "HEAD"),
            "git_changed_files": None if status is None else status.splitlines(),
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "data_sha256": getattr(trainer.datamodule, "manifest_hash", None),  # type: ignore[attr-defined]
            "devices": trainer.world_size,
            "precision": str(trainer.precision),
        }
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "provenance.json").write_text(json.dumps(record, indent=1))

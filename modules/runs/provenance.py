"""Provenance of a run: settings, versions, code, command, seed, data. Stored in its folder and in each of its checkpoints."""

import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from modules.core.files import replacing
from modules.core.run import run_of

PACKAGES = ("lightning-video-ssl", "lightning", "torchvision", "timm", "torchmetrics", "av", "numpy")
# Speeds differ from run to run; a checkpoint contains only reproducible values.
NOT_REPEATABLE = ("speed/", "lr-")


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


def made_with() -> dict[str, Any]:
    """Versions of Python and packages, and state of the code."""
    status = _git("status", "--porcelain")
    return {
        "python": platform.python_version(),
        # torch's own version string also contains the build (CPU or CUDA).
        "packages": {package: _version(package) for package in PACKAGES} | {"torch": str(torch.__version__)},
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed_files": None if status is None else status.splitlines(),
    }


class Provenance(Callback):
    """Adds a record to `provenance.json` in the run's folder at every start, and one to every checkpoint.

    The command line adds it to every run.

    Args:
        config: all settings of the run, as YAML.
    """

    def __init__(self, config: str = "") -> None:
        self.config = config
        self._metrics: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add this start to the record."""
        if not trainer.is_global_zero or run_of(trainer).fast_dev_run:
            return
        start = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "from_step": trainer.global_step,
            "command": sys.argv,
            **made_with(),
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "data_sha256": getattr(run_of(trainer).datamodule, "manifest_hash", None),
            "splits": getattr(run_of(trainer).datamodule, "split_record", None),
            "devices": trainer.world_size,
            "precision": str(trainer.precision),
        }
        path = Path(trainer.default_root_dir) / "provenance.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        starts = json.loads(path.read_text())["starts"] if path.is_file() else []
        with replacing(path) as partial:
            partial.write_text(json.dumps({"starts": [*starts, start]}, indent=1))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the provenance to the checkpoint, so that it is kept when the file is copied."""
        for name, value in trainer.callback_metrics.items():
            if not name.startswith(NOT_REPEATABLE):
                self._metrics[name] = float(value)
        kind = type(pl_module)
        names = getattr(run_of(trainer).datamodule, "class_names", None)
        checkpoint["record"] = {
            "method": f"{kind.__module__}.{kind.__qualname__}",
            "config": self.config,
            "metrics": dict(self._metrics),
            # Class indices mean nothing without the data set.
            "class_names": [str(name) for name in names] if names else None,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the last metrics from before the run was stopped."""
        self._metrics = dict(checkpoint.get("record", {}).get("metrics", {}))

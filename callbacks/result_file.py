"""One JSON file per test: metrics, and everything needed to trace how they were obtained. Tables are made from these files."""

import os
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.reports.classes import write_report
from callbacks.reports.tables import write_table
from modules.augment.flips import RandomFlip
from modules.core.errors import SettingError
from modules.core.files import sha256, write_json, write_whole
from modules.core.loading import open_run
from modules.core.run import run_of
from modules.downstream.metrics.classes import ClassReport
from modules.runs.provenance import Provenance, made_with
from modules.weights.files import weight_file
from modules.weights.run_config import parse_config

# Settings that name weight files.
WEIGHT_FILES = ("checkpoint", "init_from", "ckpt_path")


class ResultFile(Callback):
    """Writes `results/<data>_<protocol>-<number>.json` in the run's folder after every test.

    It contains the metrics, the protocol, the seed, how many videos were used and which were missing (of a run that trained,
    also how many training and validation videos), the hashes of the weight files and of the training list, the fraction of
    training clips that are mirrored, the complete config, and versions. The first process writes it. The name of the data set
    is that of the data module's class, so a recipe cannot change it.

    Of a classifier, `..._classes.csv` beside it has a row per class: its videos, how many were right, and for which class they
    were taken most often, or its average precision where videos have several. `..._confusion.csv` is the confusion matrix, with
    a row per true class, and `pictures/..._confusion_<data>_<protocol>.png` its picture. Of label propagation,
    `..._sequences.csv` has a row per video. The command line adds this callback, with the protocol `test`, to every `test` that
    has none.

    Args:
        protocol: name of the evaluation, for tables, without the data set.
        after_fit: test when training has ended, with the final weights. (Done by the command line.)
    """

    def __init__(self, protocol: str, after_fit: bool = True) -> None:
        self.protocol, self.after_fit = _checked(protocol), after_fit

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        content = {"selected_on_test": False, "metrics": metrics, "trained_steps": trained_steps(trainer)}
        written = write_result(trainer, self.protocol, content | getattr(pl_module, "test_record", {}))
        report: ClassReport | None = getattr(pl_module, "class_report", None)
        if written is not None and report is not None:
            write_report(trainer, report, written)
        if written is not None:
            for name, table in getattr(pl_module, "test_tables", {}).items():
                write_table(written.with_name(f"{written.stem}_{name}.csv"), table)


def trained_steps(trainer: Trainer) -> int:
    """Optimiser steps behind the weights: of this run, or of the checkpoint that it tests."""
    if trainer.global_step or not trainer.ckpt_path:
        return trainer.global_step
    return int(open_run(str(trainer.ckpt_path), "--ckpt_path").get("global_step", 0))


class BestOnTest(Callback):
    """Writes the best accuracy over all epochs, evaluated on the samples that results are reported for.

    Skeleton contrast reports its results this way (https://arxiv.org/abs/2108.03656, official code). Such a result is too high,
    since the epoch is selected with labels of the test set: the file says `selected_on_test`, and contains the result of the
    last epoch too. For skeleton data sets the validation set is the published test set; elsewhere it may not be.

    Args:
        protocol: name of the evaluation; the file is `results/<data>_<protocol>_best_on_test-<number>.json`.
        monitor: validation metric, the larger the better.
    """

    def __init__(self, protocol: str, monitor: str = "val/top1") -> None:
        self.protocol, self.monitor = _checked(protocol), monitor
        self.best: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare this epoch with the best so far.

        Raises:
            SettingError: if the metric was not logged.
        """
        if trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise SettingError(
                f"BestOnTest.monitor is {self.monitor}, which this validation has not logged; choose one of "
                f"{', '.join(name for name in trainer.callback_metrics if name.startswith('val/'))}."
            )
        now = float(trainer.callback_metrics[self.monitor])
        if not self.best or now > self.best["value"]:
            self.best = {"value": now, "epoch": trainer.current_epoch}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the best."""
        if self.best:
            metrics = {self.monitor: self.best["value"], f"last/{self.monitor}": float(trainer.callback_metrics[self.monitor])}
            content = {"selected_on_test": True, "metrics": metrics, "epoch": self.best["epoch"]}
            write_result(trainer, f"{self.protocol}_best_on_test", content)

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best so far."""
        self.best = state_dict["best"]


def _checked(protocol: str) -> str:
    if not re.fullmatch(r"[\w.-]+", protocol):
        raise SettingError(f"protocol is {protocol!r}; it is part of a file name: use letters, digits, '_', '-' and '.' only.")
    return protocol


def write_result(trainer: Trainer, protocol: str, content: dict[str, Any]) -> Path | None:
    """Write a file of results, from the first process and not in a trial run.

    Args:
        trainer: knows folder, config, data and weights.
        protocol: of which, with the data, the name of the file is made.
        content: what was measured; facts about the run are added.

    Returns:
        The file, if this process wrote it.
    """
    if not trainer.is_global_zero or run_of(trainer).fast_dev_run:
        return None
    facts = facts_of(trainer)
    if run_of(trainer).datamodule is not None:
        prefix = f"{facts['data'].lower()}_"
        protocol = prefix + protocol.removeprefix(prefix)
    folder = Path(trainer.default_root_dir) / "results"
    number = len(list(folder.glob(f"{protocol}-[0-9][0-9][0-9].json")))
    result = {"protocol": protocol, **content, **facts}
    path = folder / f"{protocol}-{number:03d}.json"
    write_whole(path, lambda part: write_json(part, result))
    return path


def facts_of(trainer: Trainer) -> dict[str, Any]:
    """What one must know of a run to know how its numbers came about: data, weights with their hashes, settings, versions."""
    texts = [one.config for one in run_of(trainer).callbacks if isinstance(one, Provenance) and one.config]
    config = parse_config(texts[0]) if texts else None
    files = weight_files(config) | ({"ckpt_path": str(trainer.ckpt_path)} if trainer.ckpt_path else {})
    data = run_of(trainer).datamodule
    # Cached features belong to the data set that they were computed from.
    source = getattr(data, "data", data)
    flip: RandomFlip | None = getattr(trainer.lightning_module, "flip", None)
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
        "data": type(source).__name__,
        "benchmark": getattr(source, "benchmark", None) or None,
        "flip": flip.probability if flip is not None else 0.0,
        "data_sha256": getattr(data, "manifest_hash", None),
        "splits": getattr(source, "split_record", None),
        # Of a test alone, nothing is known about the training.
        "samples_read": getattr(source, "samples_read", None) if trainer.global_step else None,
        "weights": {setting: {"file": name, "sha256": sha256(weight_file(name, setting))} for setting, name in files.items()},
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "command": sys.argv,
        **made_with(),
        "config": config,
    }


def weight_files(settings: Any, path: str = "") -> dict[str, str]:
    """Weight files by the names of their settings on the command line.

    Args:
        settings: settings of a run, as read from YAML.
        path: name of the setting that contains them.
    """
    if isinstance(settings, list):
        settings = {str(number): value for number, value in enumerate(settings)}
    if not isinstance(settings, dict):
        return {}
    found: dict[str, str] = {}
    for name, value in settings.items():
        inner = path if name == "init_args" else f"{path}.{name}".removeprefix(".")
        if name in WEIGHT_FILES and isinstance(value, str) and Path(value).exists():
            found[inner] = value
        found |= weight_files(value, inner)
    return found

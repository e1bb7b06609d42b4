"""Rows of the comparison of all methods, and what is measured of each: pretraining, mini-SEVERE, depth of UTD-MHAD."""

import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modules.core.errors import SettingError
from modules.core.files import read_json, sha256, write_json, write_whole
from modules.severe.results import all_results

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "benchmarks/compare"
COMMON = SETTINGS / "common.yaml"
LOSS = "train/loss"


class Row(NamedTuple):
    """A row of the table."""

    key: str
    """its folder, and its YAML file below benchmarks/compare"""
    title: str
    network: str
    """class of the encoder; empty if the row is not measured"""
    module: str = ""
    """file of modules/methods; empty for baselines"""
    impossible: str = ""
    """why it is not measured; empty if it is"""


LATER = "measured in the study of order and contrast, see learning.md"
PAIRS = "measured in the study of masks and pairs, see learning.md"
PREDICTION = "measured in the study of prediction, see learning.md"
UNMEASURED = "not measured yet"
TOWER = "not measured, needs the weights of a published image tower"
ROWS = (
    Row("videomae", "VideoMAE", "VideoViT", "videomae"),
    Row("videomae_v2", "VideoMAE V2", "VideoViT", "videomae"),
    Row("videomae_relations", "VideoMAE with relations", "", "videomae", PREDICTION),
    Row("stmae", "STMAE", "", "stmae", PAIRS),
    Row("smile", "SMILE (pixels)", "VideoViT", "smile"),
    Row("smile_clip", "SMILE (CLIP)", "VideoViT", "smile", TOWER),
    Row("sigma", "SIGMA (MLP)", "VideoViT", "sigma"),
    Row("sigma_dino", "SIGMA (DINO)", "VideoViT", "sigma", TOWER),
    Row("siammae", "SiamMAE", "", "siammae", PAIRS),
    Row("cropmae", "CropMAE", "", "cropmae", PAIRS),
    Row("vjepa", "V-JEPA", "", "vjepa", PREDICTION),
    Row("vjepa2", "V-JEPA 2", "", "vjepa", UNMEASURED),
    Row("crossvideomae", "CrossVideoMAE", "", "crossvideomae", PREDICTION),
    Row("lvmae", "LVMAE", "", "lvmae", "cannot be measured on videos, takes sequences of features"),
    Row("moco", "MoCo over time", "VideoResNet", "moco"),
    Row("rspnet", "RSPNet", "", "rspnet", LATER),
    Row("cvrl", "CVRL", "", "cvrl", LATER),
    Row("tubelet_contrast", "TubeletContrast", "VideoResNet", "tubelet_contrast"),
    Row("vcop", "VCOP", "", "vcop", LATER),
    Row("shuffle_and_learn", "Shuffle & Learn", "", "shuffle_and_learn", LATER),
    Row("opn", "OPN", "", "opn", LATER),
    Row("odd_one_out", "Odd-One-Out", "", "odd_one_out", LATER),
    Row("locomotion", "LocoMotion", "BEiTVideo", "locomotion"),
    Row("skeleton_contrast", "Skeleton contrast", "", "skeleton_contrast", "cannot be measured on videos, takes skeletons"),
    Row("prp", "PRP", "", "prp", LATER),
    Row("rotnet", "RotNet", "", "rotnet", LATER),
    Row("supervised_vit", "supervised VideoViT", "VideoViT"),
    Row("supervised_cnn", "supervised VideoResNet", "VideoResNet"),
    Row("untrained_vit", "untrained VideoViT", "VideoViT"),
    Row("untrained_cnn", "untrained VideoResNet", "VideoResNet"),
    Row("untrained_beit", "untrained BEiTVideo", "BEiTVideo"),
)
UNTRAINED = {row.network: row for row in ROWS if row.key.startswith("untrained")}
SUPERVISED = {row.network: row for row in ROWS if row.key.startswith("supervised")}
UNTRAINED_SEEDS = 3
"""Seeds of the untrained networks, whose spread says what a difference must exceed."""


class Job(NamedTuple):
    """A row and a seed."""

    row: Row
    seed: int
    out: Path
    """folder of the comparison"""

    @property
    def folder(self) -> Path:
        """Where all of it is."""
        return self.out / self.row.key / f"seed{self.seed}"

    @property
    def checkpoint(self) -> Path:
        """The encoder, once it is pretrained."""
        return self.folder / "pretraining/checkpoints/last.ckpt"

    def __str__(self) -> str:
        return f"{self.row.title}, seed {self.seed}"


class FailedError(Exception):
    """A command of a row ended with an error."""


class Processes:
    """Runs commands in separate processes, which end when this one is told to.

    Args:
        threads: of each.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def call(self, words: list[str], log: Path) -> None:
        """Run `main.py` and append what it prints to a file.

        Raises:
            FailedError: if it ends with an error.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        with log.open("ab") as file:
            with self._lock:
                if self._stopped:
                    raise FailedError("stopped")
                command = [sys.executable, str(ROOT / "main.py"), *words]
                # In a separate session, Ctrl-C does not reach it: it gets one signal, that of `stop`, and saves.
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                )
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
        if code != 0:
            raise FailedError(f"main.py {words[0]} ended with {code}, see {log}")

    def stop(self) -> None:
        """Tell all to save and end, and start no more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def jobs_of(keys: list[str] | None, seeds: int, out: Path) -> list[Job]:
    """What is to be measured, the first seed of all rows first.

    Raises:
        SettingError: if there is no row of a name, or it cannot be measured.
    """
    known = {row.key: row for row in ROWS if not row.impossible}
    if unknown := sorted(set(keys or []) - known.keys()):
        raise SettingError(f"--methods names {', '.join(unknown)}; choose from {', '.join(known)}.")
    rows = [row for row in known.values() if keys is None or row.key in keys]
    return [
        Job(row, seed, out)
        for seed in range(max(seeds, UNTRAINED_SEEDS))
        for row in rows
        if seed < (max(seeds, UNTRAINED_SEEDS) if row in UNTRAINED.values() else seeds)
    ]


def settings_of(row: Row) -> list[Path]:
    """The YAML files of a row."""
    return [COMMON, SETTINGS / f"{row.key}.yaml"]


def pretrain(job: Job, run: Processes, more: list[str]) -> None:
    """Pretrain, or resume, unless it is done.

    Args:
        job: row and seed.
        run: runs commands.
        more: further settings of `main.py fit`.

    Raises:
        FailedError: if the command fails.
        SettingError: if what is there was made with other settings.
    """
    path, folder = job.folder / "pretraining.json", job.folder / "pretraining"
    files = settings_of(job.row)
    settings = {"files": {file.name: sha256(file) for file in files}, "more": more}
    before = read_json(job.folder / "settings.json")
    if before and before != settings:
        raise SettingError(f"{job.folder} was made with other settings; pass another --out, or remove that folder.")
    if path.is_file():
        return
    write_whole(job.folder / "settings.json", lambda part: write_json(part, settings))
    start, resumed = time.perf_counter(), job.checkpoint.is_file()
    words = ["fit", *(word for file in files for word in ("--config", str(file))), f"--seed_everything={job.seed}"]
    words += [f"--trainer.default_root_dir={folder.resolve()}", *more, *(["--ckpt_path=last"] if resumed else [])]
    run.call(words, job.folder / "log.txt")
    steps = int(torch.load(job.checkpoint, weights_only=True)["global_step"])
    content = {"row": job.row.key, "seed": job.seed, "steps": steps, "loss": losses(folder)}
    took = {"seconds": round(time.perf_counter() - start, 1), "resumed": resumed}
    write_whole(path, lambda part: write_json(part, content | took))


def losses(folder: Path) -> list[float]:
    """The first and the last loss that a run logged."""
    curves = EventAccumulator(str(folder)).Reload()
    values = [event.value for event in curves.Scalars(LOSS)] if LOSS in curves.Tags()["scalars"] else []
    return [values[0], values[-1]] if values else []


def severe(job: Job, run: Processes, only: list[str] | None) -> None:
    """Run or resume mini-SEVERE, unless it is done.

    Args:
        job: row and seed, pretrained.
        run: runs commands.
        only: names of experiments; None for all.

    Raises:
        FailedError: if the command fails.
    """
    path, out = job.folder / "severe.json", job.folder / "severe"
    if path.is_file() and read_json(path).get("only") == only:
        return
    start = time.perf_counter()
    words = ["severe", f"--checkpoint={job.checkpoint.resolve()}", "--preset=mini", f"--out={out.resolve()}"]
    run.call([*words, *([f"--only=[{','.join(only)}]"] if only is not None else [])], job.folder / "log.txt")
    content = {"only": only, "seconds": round(time.perf_counter() - start, 1), "results": all_results(out)}
    write_whole(path, lambda part: write_json(part, content))


def machine(processes: int) -> dict[str, Any]:
    """What the comparison is measured with, where so many rows are measured at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": cores,
        "torch": torch.__version__,
        "processes": processes,
        "threads": max(1, cores // processes),
    }

"""Time from the start of a run's process to its first training step.

    python benchmarks/startup.py

Compared with `python -c "import lightning, timm"`, the lower bound for runs with these libraries. The run has the model, the
batches and the callbacks of the quickstart, and ends as soon as one step is done. Real work is left out: the
quickstart's report before training (`ProbeReport`), and most of its generated clips, which are made before the first step
(`--videos 8192` makes as many as the quickstart). Processes take turns, and Python's shutdown is not measured; the figures
are medians over pairs of ours / theirs, of wall-clock time and processor time, after a warm-up pair that fills the file
caches.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer

ROOT = Path(__file__).parents[1]
LEAST = "import os, lightning, timm; os._exit(0)"
CALLBACKS = ["benchmarks.startup.EndAfterOneStep", "LastCheckpoint", "LearningRateMonitor", "Throughput", "Pictures"]


class EndAfterOneStep(Callback):
    """Ends the process as soon as one step is done."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the process at once, without Python's shutdown and before other callbacks run."""
        os._exit(0)


def command(folder: str, videos: int) -> list[str]:
    """Command of the run, in its own folder."""
    callbacks = json.dumps([{"class_path": name} for name in CALLBACKS])
    words = ["fit", "--config", str(ROOT / "configs/quickstart.yaml"), f"--trainer.callbacks={callbacks}"]
    words += [f"--data.train_videos={videos}", f"--data.val_videos={videos}", f"--trainer.default_root_dir={folder}"]
    return [sys.executable, str(ROOT / "main.py"), *words]


def seconds(words: list[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a process.

    Raises:
        SystemExit: if it fails.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tempfile.gettempdir())
    if ended.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{ended.stdout}{ended.stderr}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(videos: int = 256, pairs: int = 7, out: Path | None = None) -> None:
    """Time processes.

    Args:
        videos: generated clips to train on, and to validate on.
        pairs: interleaved pairs, after a warm-up.
        out: JSON file to write.
    """
    rows: dict[str, list[tuple[float, float]]] = {"run": [], "least": []}
    print(f"{'pair':>4} {'run s':>8} {'least s':>8} {'ratio':>7} {'of CPU':>7}")
    for pair in range(pairs + 1):
        with tempfile.TemporaryDirectory() as folder:
            both = {"run": command(folder, videos), "least": [sys.executable, "-c", LEAST]}
            taken = {name: seconds(both[name]) for name in (both if pair % 2 else reversed(both))}
        if pair == 0:
            continue
        for name, values in taken.items():
            rows[name].append(values)
        (wall, cpu), (least_wall, least_cpu) = taken["run"], taken["least"]
        print(f"{pair:>4} {wall:>8.2f} {least_wall:>8.2f} {wall / least_wall:>7.2f} {cpu / least_cpu:>7.2f}", flush=True)
    wall_ratio, cpu_ratio = (
        statistics.median(run[clock] / least[clock] for run, least in zip(rows["run"], rows["least"], strict=True))
        for clock in (0, 1)
    )
    print(
        f"median of {pairs} pairs: first step / imports of lightning and timm = {wall_ratio:.2f} ({cpu_ratio:.2f} of CPU time)"
    )
    if out is not None:
        machine = platform.processor() or platform.machine()
        about = {"machine": machine, "videos": videos, "pairs": pairs}
        out.write_text(json.dumps(about | {"ratio": wall_ratio, "cpu_ratio": cpu_ratio, "seconds": rows}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

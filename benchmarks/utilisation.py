"""Utilisation of the device's peak in a training step, with and without compilation.

    python benchmarks/utilisation.py --methods "[VideoMAE]" --batch 64

FLOPs of a step are counted once, over forward and backward pass, including frozen towers. The utilisation (MFU) is FLOPs
per second divided by the device's dense peak. Ways to compile take turns in one process, each with its own weights; seconds of
compilation are listed next to the steps.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.methods import Precision, Size, job, machine
from benchmarks.pairs import seconds
from modules.training.compilation import Compiled, compile_parts
from modules.training.devices import peak_tflops
from modules.training.flops import step_flops


def measure(
    name: str, what: Compiled, size: Size, batch: int, precision: Precision, steps: int, backend: str
) -> dict[str, float]:
    """Seconds of a step, of compilation (including other work of the first steps), and TFLOPs of a step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    work = job(name, size, batch, device, precision)
    flops = step_flops(work.method, work.batch) or 0
    if what != "none":
        compile_parts(work.method, what, backend)
    start = time.perf_counter()
    for _ in range(min(3, steps)):
        work.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    first = time.perf_counter() - start
    taken = statistics.median(seconds(work.step, device) for _ in range(steps))

    def queue() -> None:
        for _ in range(steps):
            work.step()

    # Steps without a host sync in between, as in a run.
    running = seconds(queue, device) / steps
    result = {"step_s": taken, "running_s": running, "first_s": first, "tflop": flops / 1e12, "clips": float(work.clips)}
    return result | {"tflop_per_s": flops / 1e12 / running}


def main(
    size: Size = "base",
    batch: int = 64,
    precision: Precision = "bf16",
    methods: list[str] = ["VideoMAE", "SMILE"],  # noqa: B006  (never mutated; shows the default in --help)
    compile: list[Compiled] = ["none", "blocks", "all"],  # noqa: B006
    steps: int = 20,
    peak: float | None = None,
    backend: str = "inductor",
    out: Path | None = None,
) -> None:
    """Measure utilisation.

    Args:
        size: encoder preset.
        batch: samples per step.
        precision: float32, or bf16 under autocast.
        methods: names of methods.
        compile: values of the setting `compile` to compare.
        steps: number of measurements of each.
        peak: TFLOP/s of the device; null looks it up.
        backend: backend of torch.compile.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = machine(device)
    limit = peak or peak_tflops(str(about["machine"]), "bf16-mixed" if precision == "bf16" else "32-true")
    print(f"ViT-{size}, batch {batch}, {precision}, {about['machine']}, peak {limit or 'unknown'} TFLOP/s")
    print(
        f"{'method':16} {'compile':8} {'s/step':>8} {'clips/s':>9} {'TFLOP':>8} {'TFLOP/s':>8} {'MFU':>6} {'first steps s':>14}"
    )
    rows: dict[str, dict[str, Any]] = {}
    for name in methods:
        for what in compile:
            row = measure(name, what, size, batch, precision, steps, backend)
            share = row["tflop_per_s"] / limit if limit else None
            rows[f"{name}, {what}"] = row | {"mfu": share}
            shown = (
                f"{row['running_s']:8.4f} {row['clips'] / row['running_s']:9.1f} {row['tflop']:8.2f} {row['tflop_per_s']:8.1f}"
            )
            print(
                f"{name:16} {what:8} {shown} {'-' if share is None else f'{share:.1%}':>6} {row['first_s']:14.1f}", flush=True
            )
            if out is not None:
                # Print results at once, because compilation may be cut short.
                out.write_text(json.dumps(about | {"size": size, "batch": batch, "peak": limit, "rows": rows}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

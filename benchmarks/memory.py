"""Memory of a training step of every method, with and without recomputing activations.

    python benchmarks/memory.py                    # ViT-B, batch 2, CPU or the first GPU
    python benchmarks/memory.py --precision bf16   # under autocast

On a GPU, it is the allocator's peak of a step, after warm-up steps. On a CPU, where no allocator counts, it is the
two parts that make up most of such a peak, counted in bytes: tensors that exist between steps (weights, buffers, gradients,
optimiser, frozen towers), and tensors kept for the backward pass. Recomputing is enabled in every part that supports it
(`recompute_blocks`).
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.methods import BUILD, Job, Precision, Size, job, machine

MIB = 2**20


def bytes_of(tensors: list[Tensor]) -> int:
    """Bytes of the storages of tensors, each counted once."""
    return sum({one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}.values())


def lasting(work: Job) -> list[Tensor]:
    """All tensors of a job that exist between steps; also gradients, which are freed in between but exist at the peak."""
    tower = getattr(getattr(work.method, "target", None), "tower", None)
    parts: list[nn.Module] = [work.method, *([tower] if isinstance(tower, nn.Module) else [])]
    weights = [value for part in parts for value in part.parameters()]
    buffers = [value for part in parts for value in part.buffers()]
    state = [value for own in work.optimiser.state.values() for value in own.values() if isinstance(value, Tensor)]
    return [*weights, *buffers, *state, *(value.grad for value in weights if value.grad is not None)]


def on_cpu(work: Job) -> dict[str, float]:
    """MiB that exist between steps, and that are kept for the backward pass."""
    work.step()
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = work.loss()
    loss.backward()
    stays = lasting(work)
    last, together = bytes_of(stays), bytes_of([*stays, *kept])
    return {"lasting": last / MIB, "kept": (together - last) / MIB, "peak": together / MIB}


def on_gpu(work: Job) -> dict[str, float]:
    """MiB that exist between steps, and the peak of a step."""
    for _ in range(2):
        work.step()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work.step()
    peak = torch.cuda.max_memory_allocated()
    return {"lasting": before / MIB, "kept": (peak - before) / MIB, "peak": peak / MIB}


def main(
    size: Size = "base",
    batch: int = 2,
    precision: Precision = "32",
    methods: list[str] | None = None,
    out: Path | None = None,
) -> None:
    """Count memory.

    Args:
        size: encoder preset; networks without presets are scaled in proportion.
        batch: samples per step; a sample of MoCo, TubeletContrast and SkeletonContrast is two clips.
        precision: float32, or bf16 under autocast.
        methods: names of methods; null takes all.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = {"size": size, "batch": batch, "precision": precision} | machine(device)
    print(f"MiB of a step: ViT-{size}, batch {batch}, {precision}, {about['machine']}")
    print(f"{'method':20} {'lasting':>9} {'in a step':>10} {'together':>9} {'recomputing':>12} {'saved':>6}")
    rows: dict[str, Any] = {}
    for name in BUILD if methods is None else methods:
        figures = {}
        for recompute in (False, True):
            torch.manual_seed(0)
            work = job(name, size, batch, device, precision, recompute)
            figures["recomputing" if recompute else "plain"] = on_gpu(work) if device.type == "cuda" else on_cpu(work)
            del work
            # Modules have circular references.
            gc.collect()
        rows[name] = figures
        plain, again = figures["plain"], figures["recomputing"]
        shown = f"{plain['lasting']:9.0f} {plain['kept']:10.0f} {plain['peak']:9.0f} {again['peak']:12.0f}"
        print(f"{name:20} {shown} {1 - again['peak'] / plain['peak']:6.0%}", flush=True)
    if out is not None:
        out.write_text(json.dumps(about | {"methods": rows}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

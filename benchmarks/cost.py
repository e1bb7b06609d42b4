"""Cost of a training step of each method on a GPU, counted with fake CUDA tensors; no GPU is needed, and nothing is computed.

    python benchmarks/cost.py
    python benchmarks/cost.py --method SMILE --lines 20

Operations are those launched by the forward pass without compilation, excluding views. Bytes are
what they read and write without caches. FLOPs are those of the whole step including frozen towers, per sample.
"""

import gc
import json
import sys
from collections import Counter
from pathlib import Path

import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fake_cuda import step_cost
from benchmarks.methods import BUILD, Size, random_batch
from modules.core.errors import SettingError
from modules.training.flops import step_flops

BATCH = {"VideoMAE": 64, "SMILE": 16, "SIGMA-MLP": 40, "SIGMA-DINO": 40, "V-JEPA": 24, "LocoMotion": 32, "SkeletonContrast": 64}
"""Samples per device in the recipes, if not 8."""


def main(
    method: str | None = None, size: Size = "base", batch: int | None = None, lines: int = 0, out: Path | None = None
) -> None:
    """Print a table.

    Args:
        method: name of a method; null takes all.
        size: encoder preset.
        batch: samples per step; null takes those of the recipe.
        lines: number of code lines to list for each method, those with the most operations.
        out: JSON file to write.

    Raises:
        SettingError: if there is no method of that name.
    """
    if method is not None and method not in BUILD:
        raise SettingError(f"--method is {method}; choose one of {', '.join(BUILD)}.")
    print(f"{'method':<20}{'batch':>6}{'GFLOP/sample':>14}{'ops':>7}{'casts':>7}{'GB':>8}{'copies':>8}{'waits':>7}")
    rows = []
    for name in BUILD if method is None else [method]:
        samples = random_batch(name, batch or BATCH.get(name, 8), torch.device("cpu"))
        count = len(samples.index)
        built = BUILD[name](size)
        flops = step_flops(built, samples)
        cost = step_cost(built, samples)
        row = {
            "method": name,
            "batch": count,
            "gflop_per_sample": round(flops / count / 1e9, 1) if flops is not None else None,
            "operations": cost.ops.total(),
            "casts": cost.ops["_to_copy"],
            "gigabytes": round(cost.traffic.total() / 1e9, 1),
            "copies": len(cost.copies),
            "waits": len(cost.waits),
        }
        rows.append(row)
        _, *numbers = row.values()
        print(
            f"{name:<20}"
            + "".join(f"{number!s:>{width}}" for number, width in zip(numbers, (6, 14, 7, 7, 8, 8, 7), strict=True))
        )
        for place, operations in Counter(cost.places).most_common(lines):
            print(f"    {operations:>5} {cost.traffic[place] / 1e9:>8.2f} GB  {place}")
        gc.collect()
    if out is not None:
        out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

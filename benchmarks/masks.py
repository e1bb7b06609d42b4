"""Cost of masks relative to a training step.

    python benchmarks/masks.py                    # ViT-B, 16 x 224 x 224, batch 32, CPU or the first GPU
    python benchmarks/masks.py --batch 2          # for less memory
    python benchmarks/masks.py --precision bf16   # the step under autocast

Times one draw of every mask generator and a complete training step of VideoMAE with tube masks, in turns on the same machine.
The relevant figure is the ratio. On a GPU, a generator that causes a host sync ends the run with an error.
"""

import json
import platform
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.methods import Precision, Size, job
from benchmarks.pairs import seconds
from modules.backbones.vit.video_vit import VideoViT
from modules.masks.base import MaskGenerator
from modules.masks.blocks import draw_sets
from modules.masks.blue_noise import OptimBlueMask
from modules.masks.noise import Green3D, NoiseMask
from modules.masks.tokens import RandomMask, RunningCellMask, TubeMask
from modules.masks.trajectory import TrajectoryMask
from modules.methods.vjepa import LONG, SHORT


def generators(ratio: float) -> dict[str, MaskGenerator]:
    """One generator of each kind, by the names in docs/masks.md. Running cells cannot mask more than 3 of 4."""
    return {
        "tube": TubeMask(ratio),
        "random": RandomMask(ratio),
        "trajectory": TrajectoryMask(ratio),
        "running cell": RunningCellMask(),
        "Green3D": Green3D(ratio),
        "green 2D": NoiseMask("green", ratio, slices="independent"),
        "green tube": NoiseMask("green", ratio, slices="repeated"),
        "red 3D": NoiseMask("red", ratio),
        "blue 2D": NoiseMask("blue", ratio, slices="independent"),
        "purple 2D": NoiseMask("purple", ratio, 0.7, slices="independent"),
        "Optim Blue": OptimBlueMask(ratio),
    }


def random_boxes(count: int, frames: int, side: int, device: torch.device) -> Tensor:
    """Boxes of two objects, [B, 2, T, 4], for the trajectory mask."""
    corner = torch.rand(count, 2, 1, 2, device=device) * side / 2
    return torch.cat([corner, corner + side / 4], dim=-1).expand(-1, -1, frames, -1)


def check_that_none_waits(draws: list[Callable[[], object]], device: torch.device) -> None:
    """On a GPU, end with an error if a draw after the first one causes a host sync."""
    for waiting in ("default", "error"):
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode(waiting)
        for draw in draws:
            draw()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")


def main(
    size: Size = "base",
    batch: int = 32,
    repeats: int = 5,
    ratio: float = 0.9,
    precision: Precision = "32",
    out: Path | None = None,
) -> None:
    """Time masks against a training step.

    Args:
        size: encoder preset of the step.
        batch: clips per step and masks per draw.
        repeats: measurements of each, after a warm-up.
        ratio: mask ratio.
        precision: float32, or bf16 under autocast, for the step.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = job("VideoMAE", size, batch, device, precision)
    work.method.mask = TubeMask(ratio)  # type: ignore[assignment]
    grid = VideoViT("micro", depth=1).grid
    generator = torch.Generator(device).manual_seed(0)
    boxes = random_boxes(batch, 16, 224, device)
    draws: dict[str, Callable[[], object]] = {
        name: partial(kind.draw, batch, grid, generator, boxes) for name, kind in generators(ratio).items()
    }
    # Drawn on the host, where batches are read.
    blocks = partial(draw_sets, [SHORT, LONG], grid, "cut", 0)
    draws["multi-block"] = lambda: blocks([np.random.default_rng(row) for row in range(batch)])
    check_that_none_waits(list(draws.values()), device)
    taken: dict[str, list[float]] = {name: [] for name in ("step", *draws)}
    for _ in range(repeats + 1):
        taken["step"].append(seconds(work.step, device))
        for name, draw in draws.items():
            taken[name].append(seconds(draw, device))
    median = {name: statistics.median(times[1:]) for name, times in taken.items()}
    share = {name: 100 * median[name] / median["step"] for name in draws}
    print(f"a step of ViT-{size}, {batch} clips of 16 x 224 x 224: {1e3 * median['step']:.0f} ms")
    print(f"{'masks of the batch':>20} {'ms':>8} {'% of the step':>14}")
    for name in draws:
        print(f"{name:>20} {1e3 * median[name]:>8.2f} {share[name]:>14.2f}")
    if out is not None:
        machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
        about = {"size": size, "batch": batch, "precision": precision, "machine": machine}
        about |= {"threads": torch.get_num_threads()}
        out.write_text(json.dumps({"share_percent": share, "seconds": taken} | about, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

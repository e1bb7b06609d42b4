"""Cost of making TubeletContrast's pairs, relative to a training step.

    python benchmarks/pairs.py

Times, in turns on the same machine and clips, the making of pairs (flips, tubelets, colours) and a complete training step of
TubeletContrast (pairs, both forward passes, backward pass, optimiser). The relevant figure is the ratio.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from modules.backbones import VideoResNet
from modules.core.batch import unlabelled
from modules.core.randomness import device_generator
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.methods.tubelet_contrast import TubeletContrast
from modules.training.optim import SGDSettings


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call, including all work that it started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(pairs: int = 4, frames: int = 16, side: int = 112, width: int = 64, repeats: int = 5, out: Path | None = None) -> None:
    """Time the making of pairs against a training step.

    Args:
        pairs: Pairs per step.
        frames: Frames per clip.
        side: Height and width of the clips.
        width: Channels of the first stage of R(2+1)D-18; 64 is the published network.
        repeats: Measurements of each, after a warm-up.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    contrast = ContrastSettings(queue_size=pairs * 64)
    method = TubeletContrast(VideoResNet(width=width), contrast=contrast).to(device).train()
    optimiser = SGDSettings().build(method, 0.01, set())
    video = torch.randint(0, 256, (pairs, 2, frames, side, side, 3), dtype=torch.uint8, device=device)
    batch = unlabelled(video)

    def step() -> None:
        loss = method.step(batch, device_generator(device, 0))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    making: list[float] = []
    training: list[float] = []
    for _ in range(repeats + 1):
        making.append(seconds(lambda: method.make_pairs(video, device_generator(device, 0)), device))
        training.append(seconds(step, device))
    made, trained = statistics.median(making[1:]), statistics.median(training[1:])
    share = 100 * made / trained
    print(
        f"{pairs} pairs of {frames} x {side} x {side}: {1e3 * made:.1f} ms; a step {1e3 * trained:.0f} ms; {share:.1f} % of it"
    )
    if out is not None:
        out.write_text(json.dumps({"pairs_s": making[1:], "step_s": training[1:], "share_percent": share}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

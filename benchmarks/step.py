"""Time of a training step: of every method, and of VideoMAE and SMILE compared with the same step in other implementations.

    python benchmarks/step.py                       # ViT-B, 16 x 224 x 224, batch 2, CPU or the first GPU
    python benchmarks/step.py --precision bf16      # under autocast
    python benchmarks/step.py --size small --batch 4
    python benchmarks/step.py --methods "[]"        # only the comparisons

The peers (`benchmarks/peers.py`): `transformers`, and a plain loop in the style of the official code. Networks have the same
sizes, use clips of the same size, hide the same number of tokens and take the same AdamW step. SMILE with its two masks is also
compared with itself run twice with one mask each. Pairs are interleaved and their order alternates, because a machine's speed
drifts; the figure is the median over pairs of ours / theirs. Next to it is the same ratio including the work of a loader worker
for these clips on the CPU (crop and resize; in the plain loop also objects, masks and normalisation), as if it were sequential.
Run it on a quiet machine.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.methods import BUILD, Job, Precision, Size, job, machine, smile
from benchmarks.pairs import seconds
from benchmarks.peers import SIDE, Contender, plain_smile, plain_videomae, transformers_smile, transformers_videomae
from datamodules.video.crops import multi_scale_box
from datamodules.video.transforms import crop_and_resize
from modules.core.batch import unlabelled

Way = Callable[[], Contender]
RATIO = {"VideoMAE": 0.9, "SMILE": 0.8}
HEIGHT, WIDTH = 256, 340


def ours(work: Job, frames: list[np.ndarray]) -> Contender:
    """A method of this project: crop and resize in the loader, everything else in the step."""
    rng = np.random.default_rng(0)
    device = work.batch.index.device

    def load() -> torch.Tensor:
        clips = [crop_and_resize(list(own), multi_scale_box(WIDTH, HEIGHT, SIDE, rng), SIDE) for own in frames]
        return torch.stack(clips)[:, None]

    def step(clips: torch.Tensor) -> None:
        work.batch = unlabelled(clips.to(device, non_blocking=True))
        work.step()

    return Contender(load, step)


def two_passes(size: Size, frames: list[np.ndarray], device: torch.device, precision: Precision) -> Contender:
    """SMILE of this project with one mask per clip, run twice for one step of the optimiser."""
    work = job("SMILE", size, len(frames), device, precision, build=partial(smile, masks_per_clip=1))
    once = ours(work, frames)

    def step(batches: list[torch.Tensor]) -> None:
        for clips in batches:
            work.batch = unlabelled(clips.to(device, non_blocking=True))
            (work.loss() / 2).backward()
        work.update()

    return Contender(lambda: [once.load(), once.load()], step)


def comparisons(size: Size, batch: int, device: torch.device, precision: Precision) -> dict[str, tuple[Way, Way]]:
    """Builders of ours and theirs, by name of the comparison."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (16, HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(batch)]
    clip = torch.randint(0, 256, (batch, 16, SIDE, SIDE, 3), dtype=torch.uint8, device=device)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")

    def here(name: str) -> Contender:
        return ours(job(name, size, batch, device, precision), frames)

    def library(make: Callable[..., Callable[[], None]], name: str) -> Contender:
        step = make(size, device, RATIO[name], clip)

        def under_autocast(clips: torch.Tensor) -> None:
            # The clips are not used, but they are read and copied to the device like ours.
            clips.to(device, non_blocking=True)
            with autocast():
                step()

        return Contender(ours(job("VideoMAE", "micro", 1, device), frames).load, under_autocast)

    def plain(make: Callable[..., Contender], name: str, **more: bool) -> Contender:
        return make(size, device, RATIO[name], frames, autocast, **more)

    mae, two = partial(here, "VideoMAE"), partial(here, "SMILE")
    return {
        "VideoMAE / transformers": (mae, partial(library, transformers_videomae, "VideoMAE")),
        "VideoMAE / plain loop": (mae, partial(plain, plain_videomae, "VideoMAE")),
        "SMILE / itself, a pass per mask": (two, partial(two_passes, size, frames, device, precision)),
        "SMILE / transformers": (two, partial(library, transformers_smile, "SMILE")),
        "SMILE / plain loop, a pass per mask": (two, partial(plain, plain_smile, "SMILE")),
        "SMILE / plain loop, teacher once": (two, partial(plain, plain_smile, "SMILE", teacher_once=True)),
    }


def measure(mine: Contender, peer: Contender, pairs: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of loading and of steps, `pairs` of each after a warm-up."""
    both = {"ours": mine, "theirs": peer}
    taken: dict[str, list[float]] = {f"{name}_{part}": [] for name in both for part in ("load", "step")}
    for pair in range(pairs + 1):
        for name in both if pair % 2 else reversed(both):
            start = time.perf_counter()
            batch = both[name].load()
            taken[f"{name}_load"].append(time.perf_counter() - start)
            taken[f"{name}_step"].append(seconds(partial(both[name].step, batch), device))
    return {name: values[1:] for name, values in taken.items()}


def summary(taken: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of the results of `measure`."""
    ours_all, theirs_all = (
        [load + step for load, step in zip(taken[f"{name}_load"], taken[f"{name}_step"], strict=True)]
        for name in ("ours", "theirs")
    )

    def ratio(mine: list[float], peer: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(mine, peer, strict=True))

    return {
        "ours_s": statistics.median(taken["ours_step"]),
        "theirs_s": statistics.median(taken["theirs_step"]),
        "ratio": ratio(taken["ours_step"], taken["theirs_step"]),
        "ratio_with_loading": ratio(ours_all, theirs_all),
        "seconds": taken,
    }


def main(
    size: Size = "base",
    batch: int = 2,
    pairs: int = 9,
    precision: Precision = "32",
    methods: list[str] | None = None,
    compare: list[str] | None = None,
    out: Path | None = None,
) -> None:
    """Time training steps.

    Args:
        size: encoder preset; networks without presets are scaled in proportion.
        batch: samples per step; a sample of MoCo, TubeletContrast and SkeletonContrast is two clips.
        pairs: interleaved pairs to time, after a warm-up; also the number of steps of each method.
        precision: float32, or bf16 under autocast.
        methods: names of the methods to time separately; null times all.
        compare: names of the comparisons; null takes all whose peer is installed.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    about = {"size": size, "batch": batch, "precision": precision, "pairs": pairs} | machine(device)
    print(f"ViT-{size}, batch {batch}, {precision}, {about['machine']}, {about['threads']} threads")
    rows: dict[str, dict[str, Any]] = {}
    print(f"{'method':36} {'s/step':>8} {'clips/s':>8}")
    for name in BUILD if methods is None else methods:
        work = job(name, size, batch, device, precision)
        steps = [seconds(work.step, device) for _ in range(pairs + 1)][1:]
        median = statistics.median(steps)
        rows[name] = {"seconds": steps, "median_s": median, "clips_per_second": work.clips / median}
        print(f"{name:36} {median:8.3f} {work.clips / median:8.2f}", flush=True)
        del work
    found: dict[str, dict[str, Any]] = {}
    print(f"{'ours / theirs':36} {'ours s':>8} {'theirs s':>8} {'ratio':>7} {'faster':>7} {'+ load':>7}")
    ways = comparisons(size, batch, device, precision)
    for name in ways if compare is None else compare:
        try:
            mine, peer = ways[name]
            row = summary(measure(mine(), peer(), pairs, device))
        except ModuleNotFoundError as error:
            print(f"{name:36} left out: {error.name} is not installed", flush=True)
            continue
        found[name] = row
        shown = f"{row['ours_s']:8.3f} {row['theirs_s']:8.3f} {row['ratio']:7.3f} {1 / row['ratio']:7.2f}"
        print(f"{name:36} {shown} {row['ratio_with_loading']:7.3f}", flush=True)
    print(f"medians of {pairs} pairs or steps")
    if out is not None:
        out.write_text(json.dumps(about | {"methods": rows, "comparisons": found}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

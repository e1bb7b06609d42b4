"""Time and memory of label propagation compared with a plain loop over frames; features are given.

    python benchmarks/propagation.py      # 480 x 880 pixels at stride 8
    python benchmarks/propagation.py --rule.variant dino --rule.context 7 --rule.topk 5 --rule.radius 12 --rule.temperature 0.1

`plain` compares every token of a frame with every token of all its context frames, 100 tokens at a time, and hides what is
too far away afterwards; `ours` is `modules.downstream.propagation.propagate`. The context is full when they start. Memory is
the peak growth of the resident set, in addition to the features (Linux). Run it on a quiet machine.
"""

import json
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from modules.downstream.propagation.propagate import PropagationSettings, Propagator

PIECE = 100


def plain_step(features: Tensor, soft: Tensor, frame: int, settings: PropagationSettings, piece: int = PIECE) -> Tensor:
    """Labels of one frame, float [L, h, w], written from the description of the two published forms without any shortcut.

    Args:
        features: float [T, C, h, w].
        soft: float [T, L, h, w], labels of the frames before this one.
        frame: which one, at least 1.
        settings: settings of the propagation.
        piece: tokens of the frame that are compared at once.
    """
    height, width = features.shape[2:]
    before = range(frame - settings.context, frame)
    if settings.variant == "videowalk":
        # In front of the video are copies of its first frame.
        sources = [0, *(max(0, number) for number in before)]
    else:
        sources = [0, *(number for number in before if number >= 1)]
    unit = F.normalize(features, dim=1).flatten(2)
    keys, queries = unit[sources], unit[frame]
    labels = soft[sources].flatten(2)
    place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1).float()
    parts = []
    for start in range(0, height * width, piece):
        chosen = slice(start, start + piece)
        apart = place[:, None, :] - place[:, chosen, None]
        if settings.variant == "videowalk":
            near = apart.square().sum(0).sqrt() < settings.radius
        else:
            near = apart.abs().amax(0) <= settings.radius
        # [context, queries, hw]
        affinity = torch.einsum("cq,ncs->nqs", queries[:, chosen], keys)
        hidden = (~near).expand_as(affinity).clone()
        if settings.variant == "videowalk":
            hidden[0] = False
        affinity = affinity.masked_fill(hidden, -math.inf).transpose(0, 1).flatten(1) / settings.temperature
        best = affinity.topk(min(settings.topk, affinity.shape[1])).values[:, -1:]
        values = labels.transpose(0, 1).flatten(1)
        if settings.variant == "videowalk":
            weights, index = affinity.topk(settings.topk)
            parts.append((values[:, index] * weights.softmax(1)).sum(2))
        else:
            kept = torch.where(affinity >= best, affinity.exp(), torch.zeros(()))
            parts.append(values @ (kept / kept.sum(1, keepdim=True)).T)
    return torch.cat(parts, 1).unflatten(1, (height, width))


def plain_propagate(features: Tensor, first: Tensor, settings: PropagationSettings) -> Tensor:
    """Labels of all frames, float [T, L, h, w], of which the first has `first`."""
    soft = torch.zeros(len(features), *first.shape)
    soft[0] = first
    for frame in range(1, len(features)):
        soft[frame] = plain_step(features, soft, frame, settings)
    return soft


def peak_growth(work: Callable[[], object]) -> tuple[float, int]:
    """Seconds that a function takes, and the peak growth of the resident set in bytes meanwhile."""
    start, peak, over = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.002):
            peak = max(peak, resident() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    work()
    taken = time.perf_counter() - began
    over.set()
    watcher.join()
    return taken, peak


def resident() -> int:
    """Bytes of this process in memory, without files (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def propagation(
    height: int = 480,
    width: int = 880,
    stride: int = 8,
    channels: int = 384,
    labels: int = 3,
    frames: int = 2,
    rule: PropagationSettings = PropagationSettings(),  # noqa: B008
    plain: bool = True,
    threads: int | None = None,
    out: Path | None = None,
) -> None:
    """Measure one setting.

    Args:
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        stride: pixels of a token's side.
        channels: of a feature.
        labels: number of labels, with the background.
        frames: frames that are measured, after as many as the context has.
        rule: how labels are propagated.
        plain: whether to run the plain loop too.
        threads: of PyTorch; null takes its own number.
        out: file for the numbers, as JSON.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    shape = (height // stride, width // stride)
    first = 1 + rule.context
    features = torch.randn(first + frames, channels, *shape, generator=generator)
    soft = torch.randn(first + frames, labels, *shape, generator=generator).softmax(1)
    found: dict[str, Tensor] = {}

    def ours() -> None:
        propagator = Propagator(features[0], soft[0], rule)
        for number in range(1, first):
            propagator.remember(features[number], soft[number])
        found["ours"] = torch.stack([propagator.step(features[number]) for number in range(first, first + frames)])

    def by_loop() -> None:
        known = soft.clone()
        for number in range(first, first + frames):
            known[number] = plain_step(features, known, number, rule)
        found["plain"] = known[first:]

    report: dict[str, Any] = {"seconds_per_frame": {}, "mebibytes": {}}
    for name, work in (("ours", ours), *((("plain", by_loop),) if plain else ())):
        seconds, memory = peak_growth(work)
        report["seconds_per_frame"][name], report["mebibytes"][name] = seconds / frames, memory / 2**20
    if plain:
        report["ratio"] = report["seconds_per_frame"]["plain"] / report["seconds_per_frame"]["ours"]
        report["largest_difference"] = float((found["plain"] - found["ours"]).abs().max())
    print(f"{shape[0]} x {shape[1]} tokens of {channels}, {rule.variant}, {torch.get_num_threads()} thread(s)")
    for name, seconds in report["seconds_per_frame"].items():
        print(f"{name:<6}{seconds:>8.2f} s a frame{report['mebibytes'][name]:>8.0f} MiB")
    if plain:
        print(f"plain / ours {report['ratio']:.2f}, largest difference {report['largest_difference']:.1e}")
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    auto_cli(propagation, as_positional=False)

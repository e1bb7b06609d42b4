"""Memory and time of SIGMA's balanced assignments, compared with the plain alternating form of Sinkhorn-Knopp.

    python benchmarks/sinkhorn.py                     # a batch of 32 clips of ViT-B, 3000 prototypes, both branches
    python benchmarks/sinkhorn.py --dim 768           # features of DINO's ViT-B
    python benchmarks/sinkhorn.py --losses true       # with both losses and the backward pass

Each way assigns the rows of both branches to prototypes: `plain` rewrites the n x K matrix in every iteration, `ours` is
the method's code, `side by side` handles both branches at once (fewer messages between processes). With `--losses`,
`plain` keeps all scores for the backward pass. Memory, in addition to the features, is in units of n x K float32 matrices: on a
CPU the peak growth of the resident set, sampled every millisecond (Linux); on a GPU, memory allocated by PyTorch. Ways
are timed in turns. Run it on a quiet machine.
"""

import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from modules.losses.sinkhorn import SinkhornSettings, balance
from modules.methods.sigma import swapped_loss

Way = Literal["plain", "ours", "side_by_side"]
WAYS: tuple[Way, ...] = ("plain", "ours", "side_by_side")
EPSILON, TURNS, TEMPERATURE = 0.05, 10, 0.1


def inputs(n: int, k: int, dim: int, losses: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows of both branches, and prototypes."""
    generator = torch.Generator(device).manual_seed(0)
    drawn = (torch.randn(rows, dim, generator=generator, device=device) for rows in (n, n, k))
    target, prediction, prototypes = (F.normalize(values).requires_grad_(losses) for values in drawn)
    return target, prediction, prototypes


@torch.no_grad()
def plain_assigned(scores: Tensor) -> Tensor:
    """[n, K] -> int64 [n], scaling the matrix itself in turns."""
    q = (scores / EPSILON).exp_().T
    q /= q.sum()
    for _ in range(TURNS):
        q /= q.sum(dim=1, keepdim=True) * q.shape[0]
        q /= q.sum(dim=0, keepdim=True) * q.shape[1]
    q /= q.sum(dim=0, keepdim=True)
    return q.T.argmax(dim=1)


def work(way: Way, target: Tensor, prediction: Tensor, prototypes: Tensor) -> Tensor:
    """Prototypes of both branches' rows, int64 [2, n]; with losses and gradients, if the inputs take them."""
    settings = SinkhornSettings(EPSILON, TURNS, side_by_side=way == "side_by_side")
    if way == "plain":
        if not target.requires_grad:
            return torch.stack([plain_assigned(rows @ prototypes.T) for rows in (target, prediction)])
        ours, theirs = target @ prototypes.T, prediction @ prototypes.detach().T
        told = plain_assigned(ours), plain_assigned(theirs)
        (F.cross_entropy(ours / TEMPERATURE, told[1]) + F.cross_entropy(theirs / TEMPERATURE, told[0])).backward()
        return torch.stack(told)
    if target.requires_grad:
        swapped = swapped_loss(target, prediction, prototypes, TEMPERATURE, settings)
        (swapped.target + swapped.prediction).backward()
        return swapped.assigned
    return balance((target, prediction), prototypes, settings).best


def resident() -> int:
    """Bytes of this process in memory, without files (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def extra_bytes(way: Way, tensors: tuple[Tensor, Tensor, Tensor]) -> int:
    """Peak additional memory of a way."""
    if tensors[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work(way, *tensors)
        return torch.cuda.max_memory_allocated() - before
    seen, done = [resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work(way, *tensors)
    done.set()
    watcher.join()
    return max(seen) - seen[0]


def seconds(way: Way, tensors: tuple[Tensor, Tensor, Tensor]) -> float:
    """Wall-clock time of one call, including all work that it started on the device."""
    start = time.perf_counter()
    work(way, *tensors)
    if tensors[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(
    n: int = 45056,
    k: int = 3000,
    dim: int = 256,
    losses: bool = False,
    repeats: int = 3,
    out: Path | None = None,
) -> None:
    """Compare ways of assigning both branches' rows to prototypes.

    Args:
        n: Rows per branch, masked tokens of a batch.
        k: Number of prototypes.
        dim: Width of features and prototypes.
        losses: Also compute both losses and their gradients.
        repeats: Measurements of time, after a warm-up.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tensors = inputs(n, k, dim, losses, device)
    # Warm-up, so that the set-up of libraries is not measured.
    told = {way: work(way, *tensors) for way in WAYS}
    same = min(float((told["plain"] == told[way]).float().mean()) for way in WAYS)
    matrices = {way: extra_bytes(way, tensors) / (4 * n * k) for way in WAYS}
    times: dict[Way, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            times[way].append(seconds(way, tensors))
    print(f"{n} rows of each branch, {k} prototypes, width {dim}; {100 * same:.3f} % of the assignments are equal")
    print(f"{'way':<14} {'memory, n x K':>14} {'seconds':>9} {'plain / it':>11}")
    ratios = {way: statistics.median(a / b for a, b in zip(times["plain"], times[way], strict=True)) for way in WAYS}
    for way in WAYS:
        print(f"{way:<14} {matrices[way]:>14.2f} {statistics.median(times[way]):>9.2f} {ratios[way]:>11.2f}")
    if out is not None:
        result = {"n": n, "k": k, "dim": dim, "losses": losses, "equal": same, "device": str(device)}
        out.write_text(json.dumps(result | {"memory": matrices, "seconds": times, "ratio": ratios}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

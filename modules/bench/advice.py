"""The bottleneck of a run, explained in words, and settings that may make it faster."""

import math
import os
from dataclasses import dataclass, field
from typing import Literal

from modules.bench.ledger import AUGMENTATION, BACKWARD, CALLBACKS, FORWARD, OPTIMISER, REST, TRANSFER, WAITING
from modules.bench.measure import Measured
from modules.bench.outlook import devices_here

Limit = Literal["data", "callbacks", "transfer", "augmentation", "network"]
MUCH = 0.25
"""Fraction of the time above which waiting, or work outside the steps, counts as the bottleneck."""
MOST = 0.6
"""Fraction of the network below which another part is worth optimising too."""
LITTLE = 0.03
"""Fraction of waiting below which another worker process is not worthwhile."""
COPYING = 0.15
"""The same for copies to the device, which could overlap with computation."""


@dataclass
class Proposal:
    """A change that may help."""

    why: str
    settings: list[str] = field(default_factory=list)
    """Command-line settings; empty if a setting is not enough."""
    changes_learning: bool = False
    """Whether it also changes what is learned, not only the speed."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_of(measured: Measured) -> Limit:
    """The bottleneck."""
    shares = measured.shares
    beside = shares.get(CALLBACKS, 0.0) + shares.get(REST, 0.0)
    if measured.waiting > MUCH and measured.waiting >= beside:
        return "data"
    if beside > MUCH:
        return "callbacks"
    if shares.get(TRANSFER, 0.0) > COPYING:
        return "transfer"
    if shares.get(AUGMENTATION, 0.0) > sum(shares.get(part, 0.0) for part in (FORWARD, BACKWARD, OPTIMISER)):
        return "augmentation"
    return "network"


def explain_limit(measured: Measured) -> str:
    """One or two sentences for readers who have never profiled a program."""
    shares = measured.shares
    kind = limit_of(measured)
    name = "processor" if measured.device == "cpu" else "GPU"
    if kind == "data":
        waits = measured.waiting
        gain = f"Without waiting, the same {name} would train {1 / max(1 - waits, 0.01):.1f} times as fast."
        told = f"For {_percent(waits)} of the time the network only waits for the next batch."
        if waits > shares[WAITING] + MUCH / 2:
            told = (
                f"Workers need {measured.reading_seconds:.2g} s to read a batch, and a training step takes "
                f"{measured.busy_seconds:.2g} s. Prefetched batches have hidden this so far; in a long run "
                f"{_percent(waits)} of the time is waiting."
            )
        return f"Reading the data. {told} {gain}"
    if kind == "callbacks":
        beside = shares.get(CALLBACKS, 0.0) + shares.get(REST, 0.0)
        return (
            f"Work outside of training. {_percent(beside)} of the time goes to callbacks (pictures, probes, records), "
            "to logging and to the training loop."
        )
    if kind == "transfer":
        return f"Copies to the {name}. {_percent(shares[TRANSFER])} of the time goes to moving batches into its memory."
    if kind == "augmentation":
        return (
            f"Augmentation. {_percent(shares[AUGMENTATION])} of the time goes to changing clips (colours, pasted objects, ...) "
            "before the network sees them, more than the network itself needs."
        )
    network = sum(shares.get(part, 0.0) for part in (FORWARD, BACKWARD, OPTIMISER))
    told = f"The network itself. {_percent(network)} of the time goes to its forward pass, its gradients and the optimiser"
    if network < MOST or shares[WAITING] > LITTLE:
        other = max((part for part in shares if part not in (FORWARD, BACKWARD, OPTIMISER)), key=lambda part: shares[part])
        return f"{told}, more than to any other part; next comes {other} with {_percent(shares[other])}."
    return (
        f"{told}; data arrive in time. This is the ideal case: the {name} is kept busy, and only less work or a faster {name} "
        "would help."
    )


def proposals(measured: Measured, largest_batch: int | None) -> list[Proposal]:
    """Changes that may speed up the run, the most promising first.

    Args:
        measured: measurement of the run.
        largest_batch: samples per batch that fit into memory; None if unknown.
    """
    kind = limit_of(measured)
    network = [*_faster_network(measured), *_other_batches(measured, largest_batch)]
    if kind == "data":
        return [*_workers(measured), *_easier_files(measured)]
    if kind == "callbacks":
        return [
            Proposal("Call callbacks less often (their every_n_steps), or remove those that you do not use."),
            *network,
        ]
    if kind == "transfer":
        return [Proposal("Smaller clips (data.clip.size, data.clip.frames) mean less data to copy."), *network]
    if kind == "augmentation":
        return [Proposal("Remove or simplify augmentations (model.augmentation, model.paste)."), *network]
    return network


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _workers(measured: Measured) -> list[Proposal]:
    """Worker processes: enough to keep up with the network, if there are cores for them."""
    if measured.workers is None:
        return []
    devices = devices_here(measured.settings.trainer)
    needed, there = workers_needed(measured), max(1, cores() // devices)
    wanted = min(needed, there) if needed is not None else there
    if wanted <= measured.workers:
        return []
    reason = (
        ""
        if needed is None
        else f" To keep up with the network, {needed} would be needed; there are {there} core(s) for each device."
    )
    return [
        Proposal(
            f"More worker processes read at the same time ({measured.workers} now).{reason}",
            [f"--data.reading.num_workers={count}"],
        )
        for count in sorted({wanted, there}, key=lambda count: abs(count - wanted))
    ]


def workers_needed(measured: Measured) -> int | None:
    """Number of workers that read as fast as the network trains; None if the data module does not report reading times."""
    if measured.decode_ms is None or measured.batch_size is None:
        return None
    return max(1, math.ceil(measured.decode_ms / 1000 * measured.batch_size / max(measured.busy_seconds, 1e-6)))


def _easier_files(measured: Measured) -> list[Proposal]:
    if measured.decode_ms is None:
        return []
    return [
        Proposal(
            "Videos of 256 px with many key frames are several times faster to read; create them once: "
            "python main.py prepare videos --source DIR --out SMALL, then --data.root SMALL."
        ),
        Proposal(
            "Use each decoded clip twice, which halves the reading per step.", ["--data.clip.repeat=2"], changes_learning=True
        ),
    ]


def _faster_network(measured: Measured) -> list[Proposal]:
    found = []
    trainer = measured.settings.trainer
    gpu = measured.device != "cpu"
    if gpu and measured.precision.startswith("32"):
        found.append(
            Proposal("Half precision is two to five times as fast on a GPU.", ["--trainer.precision=bf16-mixed"], True)
        )
    if gpu and measured.settings.get("compile") == "none":
        found.append(Proposal("Compiled blocks access memory less often; the first steps take longer.", ["--compile=blocks"]))
    if gpu and not trainer.benchmark:
        found.append(Proposal("Let cuDNN search for the fastest convolutions; useful for CNNs.", ["--trainer.benchmark=true"]))
    if measured.workers == 0 and measured.shares[WAITING] > LITTLE:
        found.append(
            Proposal("A worker process reads the next batch while the network trains.", ["--data.reading.num_workers=1"])
        )
    if measured.workers:
        there = "the network" if not gpu else "the process that feeds the GPU"
        found.append(
            Proposal(
                f"Fewer worker processes leave more of the cores to {there}.",
                [f"--data.reading.num_workers={measured.workers - 1}"],
            )
        )
    return found


def _other_batches(measured: Measured, largest: int | None) -> list[Proposal]:
    """Double and half the batch size: which is faster depends on the caches."""
    size = measured.batch_size
    if size is None:
        return []
    found = []
    if largest is None or 2 * size <= largest:
        why = "A larger batch gives the device more parallel work; another batch size changes what is learned."
        found.append(Proposal(why, [f"--data.batch_size={2 * size}"], True))
    if measured.device == "cpu" and size > 1:
        why = "A smaller batch may fit the processor's caches; another batch size changes what is learned."
        found.append(Proposal(why, [f"--data.batch_size={size // 2}"], True))
    return found

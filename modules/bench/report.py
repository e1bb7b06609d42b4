"""Report of the measurements, as a text that needs no knowledge of profilers, and as JSON."""

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from callbacks.throughput import utilisation
from modules.bench.advice import Proposal, cores, explain_limit, limit_of
from modules.bench.ledger import AUGMENTATION, BACKWARD, CALLBACKS, FORWARD, OPTIMISER, REST, TRANSFER, WAITING
from modules.bench.measure import Measured
from modules.bench.outlook import Outlook

MEANINGS = {
    WAITING: "nothing to compute, the next batch is not ready yet",
    TRANSFER: "a batch is moved to the device",
    AUGMENTATION: "clips are augmented before the network sees them: objects, colours, flips",
    FORWARD: "the network, frozen target networks, and the loss",
    BACKWARD: "gradients",
    OPTIMISER: "weights are updated",
    CALLBACKS: "pictures, records, checks",
    REST: "logging, and the training loop",
}
BAR = 30
"""Characters of a bar for 100 %."""
WIDTH = 110
FEW = 5
"""Minimum number of steps for reliable results."""


@dataclass
class Tried:
    """Result of settings that were tried."""

    settings: list[str]
    """Settings added to those of the run; empty for the unchanged run."""
    clips_per_second: float
    """Median speed."""
    ratio: float
    """Speed relative to the unchanged run, median of the rounds."""
    changes_learning: bool = False


def render(measured: Measured, outlook: Outlook, advice: list[Proposal]) -> str:
    """The report as text.

    Args:
        measured: measurement of the run.
        outlook: estimates for the complete run.
        advice: changes that may help.
    """
    size = f"batches of {measured.batch_size}, " if measured.batch_size is not None else ""
    lines = [
        "",
        f"{measured.method} on {measured.data}: one {measured.device}, precision {measured.precision}, {size}"
        f"{measured.steps} steps in {measured.seconds:.0f} s",
        "",
        f"Speed   {measured.clips_per_second:.1f} clips/s, {_duration(measured.step_seconds)} for a step{_used(measured)}",
        "",
        "Where the time goes",
        *_shares(measured),
        "",
        "What limits this run",
        *_wrapped(explain_limit(measured), "  "),
        "",
        *_few(measured),
        "The complete run at this speed",
        *_whole(measured, outlook),
    ]
    others = ", ".join(["validation", *sorted(set(measured.left_out))])
    lines += _wrapped(f"without {others}, which were not measured and add to it", "  ")
    if advice:
        lines += ["", "What may help"]
    for one in advice:
        words = [f"{' '.join(one.settings)}:"] if one.settings else []
        lines += _wrapped(" ".join([*words, one.why]), "  * ")
    return "\n".join(lines)


def _wrapped(text: str, first: str) -> list[str]:
    # Settings are for copy and paste, so they are not wrapped.
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False)


def _few(measured: Measured) -> list[str]:
    if measured.steps >= FEW:
        return []
    return [*_wrapped(f"Only {measured.steps} step(s) fitted into the time; a larger --seconds is more reliable.", "  "), ""]


def _used(measured: Measured) -> str:
    if measured.flops is None:
        return ""
    tflops = measured.flops / measured.step_seconds / 1e12
    return f", {utilisation(tflops, tflops / measured.peak_tflops if measured.peak_tflops else None)}"


def _shares(measured: Measured) -> list[str]:
    lines = []
    for part, meaning in MEANINGS.items():
        if part == AUGMENTATION and part not in measured.shares:
            meaning = "cannot be separated from the forward pass here"
        share = measured.shares.get(part, 0.0)
        shown = f"{100 * share:4.0f} %" if part in measured.shares or part != AUGMENTATION else "   ?  "
        lines.append(f"  {part:<17}{shown}  {'#' * round(BAR * share):<{BAR}}  {meaning}")
    if measured.decode_ms is not None:
        reads = f"{measured.decode_ms:.0f} ms of a worker process; there are {measured.workers}"
        if not measured.workers:
            reads = f"{measured.decode_ms:.0f} ms, while the network waits: there are no worker processes"
        lines.append(f"  Reading a sample takes {reads}.")
        for name, own in measured.stream_ms.items():
            lines.append(f"    of it {name:<9}{own:6.1f} ms  {100 * own / max(measured.decode_ms, 1e-9):4.0f} %")
    return lines


def _whole(measured: Measured, outlook: Outlook) -> list[str]:
    each = f" on each of {outlook.devices} devices" if outlook.devices > 1 else ""
    together = measured.settings.trainer.accumulate_grad_batches
    steps = f"{outlook.batches // together} steps" + (f" of {together} batches" if together > 1 else "")
    time = f"about {_duration(outlook.seconds)}: {outlook.epochs:.4g} epochs, {steps}{each}"
    if outlook.endless:
        time = f"not limited by epochs or steps; one epoch takes about {_duration(outlook.seconds)}, {steps}{each}"
    if outlook.devices > 1:
        time += ", excluding communication between devices"
    lines = [f"  time     {time}"]
    if measured.memory:
        memory = f"  memory   {_size(measured.memory)} of {_size(measured.memory_there)}"
        if outlook.largest_batch is not None and measured.batch_size is not None:
            memory += f"; a batch of about {outlook.largest_batch} would fit ({measured.batch_size} now)"
        lines.append(memory)
    disk = f"{_size(outlook.disk_bytes)}{' after it' if outlook.endless else ''}"
    checkpoints = f"{outlook.checkpoints} checkpoint(s) of {_size(measured.checkpoint_bytes)}"
    lines.append(f"  disk     about {disk}: {checkpoints} are kept, plus logs")
    return lines


def render_tried(tried: list[Tried]) -> str:
    """A table of the settings that were tried, the fastest first.

    Args:
        tried: results, including the unchanged run.
    """
    lines = ["", "Tried, in turns", f"  {'clips/s':>8}  {'to now':>6}  settings"]
    for one in tried:
        note = "   (changes what is learned)" if one.changes_learning else ""
        lines.append(f"  {one.clips_per_second:8.1f}  {one.ratio:6.2f}  {' '.join(one.settings) or 'as it is'}{note}")
    best = tried[0].settings
    lines += ["", f"The fastest: add {' '.join(best)}" if best else "The fastest: the run as it is."]
    return "\n".join(lines)


def as_json(
    words: list[str], measured: Measured, outlook: Outlook, advice: list[Proposal], tried: list[Tried]
) -> dict[str, Any]:
    """All numbers, in seconds and bytes.

    Args:
        words: settings of the run, as on the command line.
        measured: measurement of the run.
        outlook: estimates for the complete run.
        advice: changes that may help.
        tried: results of tried settings, the fastest first.
    """
    tflops = measured.flops / measured.step_seconds / 1e12 if measured.flops is not None else None
    return {
        "command": words,
        "device": measured.device,
        "cores": cores(),
        "precision": measured.precision,
        "method": measured.method,
        "data": measured.data,
        "batch_size": measured.batch_size,
        "workers": measured.workers,
        "steps": measured.steps,
        "seconds": measured.seconds,
        "clips_per_second": measured.clips_per_second,
        "step_seconds": measured.step_seconds,
        "tflops": tflops,
        "mfu": tflops / measured.peak_tflops if tflops is not None and measured.peak_tflops else None,
        "decode_ms": measured.decode_ms,
        "stream_ms": measured.stream_ms,
        "shares": measured.shares,
        "limit": limit_of(measured),
        "explanation": explain_limit(measured),
        "left_out": measured.left_out,
        "memory_bytes": measured.memory,
        "memory_there_bytes": measured.memory_there,
        "checkpoint_bytes": measured.checkpoint_bytes,
        "whole_run": asdict(outlook),
        "proposals": [asdict(one) for one in advice],
        "tried": [asdict(one) for one in tried],
        "fastest": tried[0].settings if tried else None,
    }


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{1000 * seconds:.0f} ms"


def _size(count: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"

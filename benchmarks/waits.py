"""Checks whether any method causes a host sync within a step.

    python benchmarks/waits.py

Takes steps of every method, the last one under `torch.cuda.set_sync_debug_mode("error")`, which raises an error at each host
sync: a copy from pageable memory, a value read back, or shapes that depend on data. Prints the line, and ends with an error if
there is one. On a CPU, where there are no host syncs, it only runs one step.
"""

import json
import sys
import traceback
from pathlib import Path

import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.methods import BUILD, Job, Precision, Size, job, machine

ROOT = Path(__file__).parents[1]
WARM_UP = 3
"""Steps in which constants are cached, kernels chosen and queues filled."""


def place_of(error: BaseException) -> str:
    """Deepest line of the project in a traceback."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if Path(one.filename).is_relative_to(ROOT)]
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "outside the project"


def wait_in(work: Job) -> str | None:
    """Line and reason of a host sync in a step; None if there is none."""
    if not torch.cuda.is_available():
        work.step()
        return None
    for _ in range(WARM_UP):
        work.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work.step()
    except RuntimeError as error:
        # Other errors, such as out of memory, are failures of the benchmark.
        if "synchroniz" not in str(error):
            raise
        return f"{place_of(error)}: {str(error).splitlines()[0]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def main(
    size: Size = "base",
    batch: int = 8,
    precision: Precision = "bf16",
    methods: list[str] | None = None,
    out: Path | None = None,
) -> None:
    """Look for host syncs.

    Args:
        size: encoder preset.
        batch: samples per step.
        precision: float32, or bf16 under autocast.
        methods: names of methods; null takes all.
        out: JSON file to write.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, str | None] = {}
    for name in BUILD if methods is None else methods:
        found[name] = wait_in(job(name, size, batch, device, precision))
        fine = "the host does not wait" if device.type == "cuda" else "ran on a CPU, where nothing waits"
        print(f"{name:20} {found[name] or fine}", flush=True)
    if out is not None:
        out.write_text(json.dumps(machine(device) | {"waits": found}, indent=1))
    if any(found.values()):
        raise SystemExit("The host waits for the GPU within a step; see above.")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

"""Time of a run by part, from the trainer's calls of its profiler."""

import time
from collections import defaultdict
from collections.abc import Callable

from lightning.pytorch.profilers import Profiler

from modules.core.undocumented import FETCH, STEP

WAITING, TRANSFER, AUGMENTATION, FORWARD, BACKWARD, OPTIMISER, CALLBACKS, REST = (
    "waiting for data",
    "copy to device",
    "augmentation",
    "forward",
    "backward",
    "optimiser",
    "callbacks",
    "the rest",
)


def part_of(action: str) -> str:
    """The part of a run that an action of the trainer belongs to.

    Args:
        action: name that Lightning passes to the profiler.
    """
    if action == FETCH:
        return WAITING
    if action.startswith("[Callback]"):
        return CALLBACKS
    if action.endswith(".batch_to_device") or "_batch_transfer" in action or action.endswith(".transfer_batch_to_device"):
        return TRANSFER
    if action.endswith(".training_step"):
        return FORWARD
    if action.endswith(".backward"):
        return BACKWARD
    # The rest of a step belongs to the optimiser.
    if action == STEP or any(word in action for word in ("optimizer", "gradient_clipping", "lr_scheduler")):
        return OPTIMISER
    return REST


class Ledger(Profiler):
    """Sums the seconds of each part, excluding nested actions.

    Args:
        wait: called before each time measurement: on a GPU, to synchronise.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.wait = wait
        self.reset()
        self._open: list[tuple[str, float]] = []
        self._within: list[float] = []

    def reset(self) -> None:
        """Reset the sums."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.marked = 0
        """Number of steps in which `mark` was called."""
        self._marked_at = -1.0

    def start(self, action_name: str) -> None:
        """An action begins."""
        self.wait()
        self._open.append((action_name, time.perf_counter()))
        self._within.append(0.0)

    def stop(self, action_name: str) -> None:
        """The most recent action ends."""
        self.wait()
        name, since = self._open.pop()
        seconds, within = time.perf_counter() - since, self._within.pop()
        self.seconds[part_of(name)] += seconds - within
        if self._within:
            self._within[-1] += seconds

    def mark(self) -> None:
        """Marks the end of augmentation in a training step; only the first call in a step counts."""
        since = next((since for name, since in reversed(self._open) if part_of(name) == FORWARD), None)
        if since is None or since == self._marked_at:
            return
        self.wait()
        self._marked_at = since
        seconds = time.perf_counter() - since
        self.seconds[AUGMENTATION] += seconds
        self.seconds[FORWARD] -= seconds
        self.marked += 1

"""Where the time of a run goes, from what the trainer tells its profiler."""

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
        action: as Lightning names it to its profiler.
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
    # What is left of a step is the optimiser's.
    if action == STEP or any(word in action for word in ("optimizer", "gradient_clipping", "lr_scheduler")):
        return OPTIMISER
    return REST


class Ledger(Profiler):
    """Adds up the seconds of each part, without those of actions within it.

    Args:
        wait: is called before each look at the clock: on a GPU, to wait for what it has been given.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.wait = wait
        self.reset()
        self._open: list[tuple[str, float]] = []
        self._within: list[float] = []

    def reset(self) -> None:
        """Forget what was added up."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.marked = 0
        """Steps in which `mark` was called."""
        self._marked_at = -1.0

    def start(self, action_name: str) -> None:
        """An action begins."""
        self.wait()
        self._open.append((action_name, time.perf_counter()))
        self._within.append(0.0)

    def stop(self, action_name: str) -> None:
        """The last action that began ends."""
        self.wait()
        name, since = self._open.pop()
        seconds, within = time.perf_counter() - since, self._within.pop()
        self.seconds[part_of(name)] += seconds - within
        if self._within:
            self._within[-1] += seconds

    def mark(self) -> None:
        """In a step of training, augmentation ends here: only the first call in a step counts."""
        since = next((since for name, since in reversed(self._open) if part_of(name) == FORWARD), None)
        if since is None or since == self._marked_at:
            return
        self.wait()
        self._marked_at = since
        seconds = time.perf_counter() - since
        self.seconds[AUGMENTATION] += seconds
        self.seconds[FORWARD] -= seconds
        self.marked += 1

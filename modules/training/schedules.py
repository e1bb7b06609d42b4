"""Values that change during a run: learning rate, weight decay, momentum of a momentum encoder, temperature."""

import math
from dataclasses import dataclass
from typing import Literal

from modules.core.errors import SettingError, check_range


@dataclass(frozen=True)
class Schedule:
    """A value as a function of progress: a linear warm-up, then from `start` to `end`.

    Progress is counted in epochs, including the fraction of the current one, so that a run resumed with another batch size or
    on other devices keeps its position; or, if a recipe says so, in optimiser steps. `Method.scheduled` returns the value at
    the current position of a run.

    Args:
        start: value after the warm-up.
        end: value at the horizon and later; None keeps `start`.
        kind: shape of the curve; `constant` keeps `start`.
        warmup: length of the warm-up.
        warmup_start: value at the start of the warm-up.
        horizon: position at which `end` is reached, including the warm-up; None uses the length of the complete schedule.
        per: `step`: lengths in epochs, a new value at each step; `epoch`: lengths in epochs, one value per epoch (during
            warm-up, that of the middle of the epoch, since the first epoch would otherwise have `warmup_start`); `steps`:
            lengths in optimiser steps.
        restart: whether the curve starts after the warm-up. Otherwise, it starts at position 0, and the warm-up ends at its
            value there (TensorFlow's official models).
    """

    start: float
    end: float | None = None
    kind: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = 0.0
    warmup_start: float = 0.0
    horizon: float | None = None
    per: Literal["step", "epoch", "steps"] = "step"
    restart: bool = True

    def check(self, setting: str) -> None:
        """Check that the settings form a valid schedule.

        Args:
            setting: name of the setting, for error messages.

        Raises:
            SettingError: naming the setting.
        """
        check_range(setting, 0, warmup=self.warmup)
        if self.horizon is not None and self.horizon <= self.warmup:
            raise SettingError(
                f"{setting}.horizon is {self.horizon:g}, but must be greater than {setting}.warmup {self.warmup:g}."
            )
        if self.per == "steps" and self.horizon is None and self.kind != "constant" and self.end is not None:
            raise SettingError(f"{setting}.per is steps, so {setting}.horizon must be set, in steps.")

    def at(self, done: float, length: float | None = None) -> float:
        """The value at a position of the run.

        Args:
            done: completed epochs, or optimiser steps if these are counted.
            length: length of the complete schedule in the same unit, if there is no `horizon`.
        """
        if self.per == "epoch":
            done = math.floor(done)
        if done < self.warmup:
            share = min(1.0, (done + 0.5) / self.warmup) if self.per == "epoch" else done / self.warmup
            after = self.start if self.restart else self._curve(self.warmup, length)
            return self.warmup_start + (after - self.warmup_start) * share
        return self._curve(done, length)

    def _curve(self, done: float, length: float | None) -> float:
        """The value without warm-up."""
        total = self.horizon if self.horizon is not None else length
        if self.kind == "constant" or self.end is None:
            return self.start
        if total is None:
            raise ValueError("a schedule without a horizon needs the length of the run")
        begin = self.warmup if self.restart else 0.0
        progress = (done - begin) / (total - begin) if done < total else 1.0
        if self.kind == "linear":
            return self.start + (self.end - self.start) * progress
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * progress))

"""Numbers that change while a run goes on: learning rate, weight decay, momentum of a slow copy, temperature."""

import math
from dataclasses import dataclass
from typing import Literal

from modules.core.errors import SettingError, check_range


@dataclass(frozen=True)
class Schedule:
    """A number as a function of progress: a linear warm-up, then from `start` to `end`.

    Progress is counted in epochs done, the share of the present one included, so that a run that is resumed with another batch
    or on other devices keeps its place; or, where a recipe says so, in optimiser steps. `Method.scheduled` gives the number at
    the place where a run is.

    Args:
        start: after the warm-up.
        end: at the horizon and later; None stays at `start`.
        kind: how it gets there; `constant` does not.
        warmup: length of the warm-up.
        warmup_start: where the warm-up begins.
        horizon: where `end` is reached, warm-up included; None takes the length of the whole schedule.
        per: `step`, lengths in epochs, a new number for each step; `epoch`, lengths in epochs, one number for each of them, and
            that in the middle of the epoch during warm-up, for that at its start is `warmup_start` in the first one; `steps`,
            lengths in optimiser steps, however many an epoch has.
    """

    start: float
    end: float | None = None
    kind: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = 0.0
    warmup_start: float = 0.0
    horizon: float | None = None
    per: Literal["step", "epoch", "steps"] = "step"

    def check(self, setting: str) -> None:
        """Refuse what is no schedule.

        Args:
            setting: what the user calls it.

        Raises:
            SettingError: naming the setting.
        """
        check_range(setting, 0, warmup=self.warmup)
        if self.horizon is not None and self.horizon <= self.warmup:
            raise SettingError(
                f"{setting}.horizon is {self.horizon:g}, no more than {setting}.warmup {self.warmup:g}; set it above that."
            )
        if self.per == "steps" and self.horizon is None and self.kind != "constant" and self.end is not None:
            raise SettingError(f"{setting}.per is steps, so that {setting}.horizon must say after how many; set it.")

    def at(self, done: float, length: float | None = None) -> float:
        """The number at a place of the run.

        Args:
            done: epochs, or optimiser steps where these are counted.
            length: of the whole schedule, likewise, where there is no `horizon`.
        """
        if self.per == "epoch":
            done = math.floor(done)
        if done < self.warmup:
            share = min(1.0, (done + 0.5) / self.warmup) if self.per == "epoch" else done / self.warmup
            return self.warmup_start + (self.start - self.warmup_start) * share
        total = self.horizon if self.horizon is not None else length
        if self.kind == "constant" or self.end is None:
            return self.start
        if total is None:
            raise ValueError("a schedule without a horizon needs the length of the run")
        progress = (done - self.warmup) / (total - self.warmup) if done < total else 1.0
        if self.kind == "linear":
            return self.start + (self.end - self.start) * progress
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * progress))

"""Schedules of values that change during a run."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.training.schedules import Schedule
from tests.callbacks.runs import STEPS, Pixels, StopAfter, data, make_trainer

EPOCHS = 2
MOMENTUM = Schedule(0.9, 1.0)
TEMPERATURE = Schedule(0.07, kind="constant", warmup=4, warmup_start=0.03, per="steps")
DECAY = Schedule(0.04, 0.4, "linear", horizon=4, per="epoch")


def test_kinds() -> None:
    # DINO's momentum: half a cosine upward, flat at both ends.
    assert [MOMENTUM.at(done, 8) for done in (0, 4, 8, 9)] == pytest.approx([0.9, 0.95, 1.0, 1.0])
    assert MOMENTUM.at(2, 8) == pytest.approx(1 - 0.05 * (1 + math.cos(math.pi / 4)))
    assert [Schedule(1.0, 0.0, "linear", horizon=4).at(done) for done in (0, 1, 4, 7)] == [1, 0.75, 0, 0]
    assert [Schedule(2.0, kind="constant").at(done) for done in (0, 9)] == [2, 2]


def test_warmup() -> None:
    slow = Schedule(0.07, 0.01, "linear", warmup=2, warmup_start=0.03, horizon=4)
    assert [slow.at(done) for done in (0, 1, 2, 3, 4)] == pytest.approx([0.03, 0.05, 0.07, 0.04, 0.01])
    # One number per epoch: that in its middle, whatever was done of it.
    each = Schedule(1.0, 0.0, "linear", warmup=2, horizon=6, per="epoch")
    assert [each.at(done) for done in (0, 0.9, 1, 2, 3.5, 6)] == [0.25, 0.25, 0.75, 1, 0.75, 0]


def test_curve_from_the_start() -> None:
    """The warm-up ends at the value that the curve has there."""
    early, late = Schedule(1.0, 0.0, warmup=2, horizon=8, restart=False), Schedule(1.0, 0.0, horizon=8)
    assert [early.at(done) for done in (2, 3, 8, 9)] == [late.at(done) for done in (2, 3, 8, 9)]
    assert [early.at(done) for done in (0, 1)] == pytest.approx([0, late.at(2) / 2])


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(
        SettingError, match=r"model\.momentum\.horizon is 2, but must be greater than model\.momentum\.warmup 3"
    ):
        Schedule(1.0, warmup=3, horizon=2).check("model.momentum")
    with pytest.raises(SettingError, match=r"model\.momentum\.warmup is -1"):
        Schedule(1.0, warmup=-1).check("model.momentum")
    with pytest.raises(SettingError, match=r"per is steps, so model\.momentum\.horizon must be set"):
        Schedule(1.0, 0.5, per="steps").check("model.momentum")


class Paced(Pixels):
    """Records the values of its schedules at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[float, ...]] = []

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        if self.training:
            self.said.append(tuple(self.scheduled(one) for one in (MOMENTUM, TEMPERATURE, DECAY)))
        return super().step(batch, generator)


def run(folder: Path, *callbacks: Any, checkpoint: Path | None = None) -> Paced:
    """Trains for two epochs, or less; leaves a checkpoint."""
    method = Paced()
    trainer = make_trainer(folder, [*callbacks], EPOCHS, limit_val_batches=0)
    trainer.fit(method, datamodule=data(), ckpt_path=None if checkpoint is None else str(checkpoint))
    trainer.save_checkpoint(folder / "run.ckpt")
    return method


def test_a_method_follows_schedules_and_a_resumed_run_keeps_its_place(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole").said
    places = [step / STEPS for step in range(EPOCHS * STEPS)]
    for step, (momentum, temperature, decay) in enumerate(whole):
        assert momentum == pytest.approx(MOMENTUM.at(places[step], EPOCHS))
        assert temperature == pytest.approx(min(0.07, 0.03 + 0.01 * step))
        assert decay == pytest.approx(0.04 + 0.09 * (step // STEPS))
    assert len(whole) == EPOCHS * STEPS
    begun = run(tmp_path / "begun", StopAfter(2)).said
    assert begun == whole[:2]
    assert run(tmp_path / "resumed", checkpoint=tmp_path / "begun" / "run.ckpt").said == whole[2:]


def test_outside_of_a_run_it_is_the_beginning() -> None:
    assert [Paced().scheduled(one) for one in (MOMENTUM, TEMPERATURE, DECAY)] == [0.9, 0.03, 0.04]

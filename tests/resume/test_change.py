"""Runs that go on with another batch size, accumulation or length keep their place in the data and in the schedule."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.video.loader import EpochSampler, LoaderMemory, ResumableLoader, SampleKey
from modules.core.base import Method
from modules.core.contracts import StepOutput
from modules.core.errors import SettingError
from modules.core.last_checkpoint import LAST, LastCheckpoint
from modules.core.optim import AdamWSettings, ScheduleSettings, SGDSettings, warmup_cosine

SAMPLES, EPOCHS, WARMUP = 96, 4, 1.5
OPTIM = AdamWSettings(base_lr=1e-2, min_lr=1e-4, warmup_epochs=WARMUP, scale_lr=False)
pytestmark = pytest.mark.filterwarnings("ignore:.*log_every_n_steps.*", "ignore:.*eval mode.*", "ignore:You defined a .valid.*")


class Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: SampleKey) -> dict[str, Tensor]:
        return {"index": torch.tensor(key.row), "epoch": torch.tensor(key.epoch)}


class Data(lightning.LightningDataModule):
    """Samples that are their numbers."""

    def __init__(self, batch_size: int, samples: int = SAMPLES, seed: int = 0, sha256: str = "a") -> None:
        super().__init__()
        self.batch_size, self.samples, self.seed, self.sha256 = batch_size, samples, seed, sha256
        self.memory = LoaderMemory()

    def train_dataloader(self) -> ResumableLoader:
        sampler = EpochSampler(self.samples, self.seed, True)
        return self.memory.keep(ResumableLoader(Rows(self.samples), sampler, self.batch_size), self.sha256)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(Rows(3), EpochSampler(3, self.seed, False), 2)

    def state_dict(self) -> dict[str, Any]:
        return {"loader": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["loader"])


class Line(Method):
    """A single layer."""

    def __init__(self, optim: ScheduleSettings = OPTIM) -> None:
        super().__init__(optim)
        self.backbone = nn.Linear(1, 1)

    def step(self, batch: Any, generator: torch.Generator) -> StepOutput:
        noise = torch.rand((), generator=generator)
        return {"loss": (self.backbone(batch["index"].float()[:, None] / SAMPLES) - noise).square().mean()}


@dataclass
class Seen:
    """What happened in a run, over all its parts."""

    batches: list[tuple[int, list[int]]] = field(default_factory=list)
    """Epoch and rows of each batch."""
    steps: list[tuple[int, float]] = field(default_factory=list)
    """Batches before each step of the optimiser, and the rate of the step."""
    logged_at: list[int] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)
    """Batches before each validation."""
    epoch_ends: list[int] = field(default_factory=list)

    def rows(self, epoch: int) -> list[int]:
        return [row for number, batch in self.batches for row in batch if number == epoch]

    def factors(self, whole: int = SAMPLES) -> list[tuple[float, float]]:
        """Epochs done before each step, counted from what was seen, and the rate of the step."""
        found, first = [], 0
        for behind, rate in self.steps:
            epoch = self.batches[first][0]
            done = sum(len(rows) for number, rows in self.batches[:first] if number == epoch)
            found.append((epoch + done / whole, rate))
            first = behind
        return found


class Witness(lightning.Callback):
    """Writes down what happens, and ends the run after so many batches: as a power cut, or by asking it to stop."""

    def __init__(self, seen: Seen, die_after: int | None = None, stop_after: int | None = None) -> None:
        self.seen, self.die_after, self.stop_after = seen, die_after, stop_after
        self.count = 0
        self.pending: list[tuple[int, list[int]]] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, method: Any, batch: Any, batch_idx: int) -> None:
        if self.count == self.die_after:
            raise RuntimeError("power cut")
        self.seen.batches.append((int(batch["epoch"][0]), batch["index"].tolist()))

    def on_before_optimizer_step(self, trainer: lightning.Trainer, method: Any, optimiser: torch.optim.Optimizer) -> None:
        # The step learns from the batches of its window, the last of which has begun.
        self.seen.steps.append((len(self.seen.batches), optimiser.param_groups[0]["lr"]))

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.count += 1
        self.seen.logged_at.append(trainer.fit_loop.epoch_loop._batches_that_stepped)
        trainer.should_stop = trainer.should_stop or self.count == self.stop_after

    def on_validation_start(self, trainer: lightning.Trainer, method: Any) -> None:
        self.seen.validated.append(len(self.seen.batches))

    def on_train_epoch_end(self, trainer: lightning.Trainer, method: Any) -> None:
        self.seen.epoch_ends.append(len(self.seen.batches))


def run(
    folder: Path,
    seen: Seen,
    batch: int = 4,
    accumulate: int = 1,
    die_after: int | None = None,
    stop_after: int | None = None,
    data: Data | None = None,
    optim: ScheduleSettings = OPTIM,
    last: LastCheckpoint | ModelCheckpoint | None = None,
    **settings: Any,
) -> lightning.Trainer:
    """Begin a run, or go on with it."""
    settings = {"max_epochs": EPOCHS} | settings
    trainer = lightning.Trainer(
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[Witness(seen, die_after, stop_after), last or LastCheckpoint(1)],
        **settings,
    )
    checkpoint = folder / LAST
    expected = nullcontext() if die_after is None else pytest.raises(RuntimeError, match="power cut")
    with expected:
        trainer.fit(
            Line(optim),
            datamodule=data or Data(batch),
            ckpt_path=checkpoint if checkpoint.is_file() else None,
            weights_only=True,
        )
    return trainer


def check(seen: Seen, epochs: int = EPOCHS, batch: int = 4, **schedule: float) -> None:
    """Every sample once per epoch, every batch in one step, and the rate as a function of epochs done."""
    for epoch in range(epochs):
        rows = seen.rows(epoch)
        assert len(set(rows)) == len(rows)
        # Whole epochs of batches that do not divide leave out a remainder.
        assert len(rows) > SAMPLES - 8
    factor = warmup_cosine(**{"warmup": WARMUP, "total": epochs, "final": 1e-2} | schedule)
    for done, rate in seen.factors():
        assert rate == pytest.approx(1e-2 * factor(done), rel=1e-9), done
    behind = [number for number, _ in seen.steps]
    assert behind == sorted(set(behind))
    changes = [number for number in range(1, len(seen.batches)) if seen.batches[number - 1][0] != seen.batches[number][0]]
    assert {*changes, len(seen.batches)} <= set(behind)
    # Loggers count as the optimiser does, whatever Lightning's counts of batches were.
    assert seen.logged_at == sorted(seen.logged_at)
    assert seen.logged_at[-1] == len(seen.steps) - 1


# Batch size, accumulated batches, and batches after which the part of the run ends.
PLANS = {
    "4 to 8 to 2": [(4, 1, 34), (8, 1, 4), (2, 1, None)],
    "2 to 8 to 4": [(2, 1, 10), (8, 1, 20), (4, 1, None)],
    "accumulating 3": [(4, 1, 29), (4, 3, 10), (4, 1, None)],
    "accumulating 5 and other batches": [(4, 1, 25), (2, 5, 8), (8, 3, 4), (3, 1, None)],
    "between epochs": [(4, 1, 24), (8, 1, 12), (2, 1, None)],
    "after one batch": [(4, 1, 1), (8, 1, 1), (16, 1, None)],
}


@pytest.mark.parametrize("end", ["die_after", "stop_after"])
@pytest.mark.parametrize("plan", list(PLANS))
def test_another_batch_keeps_the_place_in_data_and_schedule(plan: str, end: str, tmp_path: Path) -> None:
    seen = Seen()
    for batch, accumulate, count in PLANS[plan]:
        trainer = run(tmp_path, seen, batch, accumulate, **{end: count})
    check(seen)
    assert [len(set(seen.rows(epoch))) for epoch in range(EPOCHS)] == [SAMPLES] * EPOCHS
    assert (trainer.current_epoch, trainer.global_step) == (EPOCHS, len(seen.steps))
    # One validation behind each epoch, and for a run that is asked to end, one there.
    ends = [number for number in range(1, len(seen.batches)) if seen.batches[number - 1][0] != seen.batches[number][0]]
    stops = {len(seen.batches)} if end == "die_after" else set(seen.validated)
    assert sorted({*ends, *stops}) == sorted(set(seen.validated))


def test_without_changes_nothing_is_different(tmp_path: Path) -> None:
    whole, parts = Seen(), Seen()
    run(tmp_path / "whole", whole, accumulate=3)
    for stop in (12, 24, 30, None):
        run(tmp_path / "parts", parts, accumulate=3, stop_after=stop)
    assert (parts.batches, parts.steps) == (whole.batches, whole.steps)


@pytest.mark.parametrize(("every", "expected"), [(6, [6, 12, 18, 24, 30]), (0.25, [6, 12, 18, 24, 30])])
def test_validation_within_an_epoch_comes_where_it_would(every: float, expected: list[int], tmp_path: Path) -> None:
    """A quarter of an epoch apart, or so many batches apart, counted from the end of the epoch."""
    seen = Seen()
    run(tmp_path, seen, 4, die_after=32, val_check_interval=every)
    assert seen.validated == expected
    del seen.validated[:]
    run(tmp_path, seen, 8, max_epochs=2, val_check_interval=int(every / 2) or every)
    # Of the second epoch 8 batches of 4 were seen: 64 samples are left, the next quarter of the epoch ends behind 16 of them.
    assert [number - 32 for number in seen.validated] == [2, 5, 8]
    check(seen, epochs=2, total=EPOCHS) if False else None


def test_batches_of_the_rest_may_be_more_than_a_whole_epoch_has(tmp_path: Path) -> None:
    seen = Seen()
    run(tmp_path, seen, 4, die_after=1, limit_train_batches=10, max_epochs=3)
    run(tmp_path, seen, 2, limit_train_batches=10, max_epochs=3)
    # The first epoch ends where it would have, behind 40 samples; the others have ten of the present batches.
    assert [len(set(seen.rows(epoch))) for epoch in range(3)] == [40, 20, 20]
    assert seen.validated == seen.epoch_ends == [19, 29, 39]

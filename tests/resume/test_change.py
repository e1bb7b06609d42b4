"""Runs that resume with another batch size, accumulation or length keep their position in the data and in the schedule."""

import json
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import Dataset

from datamodules import VideoFolder
from datamodules.loading.loader import EpochSampler, LoaderMemory, ResumableLoader, SampleKey
from datamodules.settings import ReadSettings
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.runs.last_checkpoint import LAST, LastCheckpoint
from modules.training.method import Method
from modules.training.optim import AdamWSettings, ScheduleSettings, SGDSettings, warmup_cosine
from tests.registry import DOWNSTREAM, METHODS
from tests.resume import runs
from tests.resume.bits import differences
from tests.resume.runs import write_videos

SAMPLES, EPOCHS, WARMUP = 96, 4, 1.5
OPTIM = AdamWSettings(base_lr=1e-2, min_lr=1e-4, warmup_epochs=WARMUP, scale_lr=False)
pytestmark = pytest.mark.filterwarnings("ignore:.*log_every_n_steps.*", "ignore:.*eval mode.*", "ignore:You defined a .valid.*")


class Rows(Dataset[Batch]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        rows = torch.tensor([key.row for key in keys])
        return Batch(rows, torch.full_like(rows, -1), {})


def whole(batch: Batch) -> Batch:
    return batch


class Data(lightning.LightningDataModule):
    """Samples that are their indices."""

    def __init__(self, batch_size: int, samples: int = SAMPLES, seed: int = 0, sha256: str = "a") -> None:
        super().__init__()
        self.batch_size, self.samples, self.seed, self.sha256 = batch_size, samples, seed, sha256
        self.memory = LoaderMemory()

    def train_dataloader(self) -> ResumableLoader:
        sampler = EpochSampler(self.samples, self.seed, True)
        return self.memory.keep(ResumableLoader(Rows(self.samples), sampler, self.batch_size, collate_fn=whole), self.sha256)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(Rows(3), EpochSampler(3, self.seed, False), 2, collate_fn=whole)

    def state_dict(self) -> dict[str, Any]:
        return {"loader": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["loader"])


class Line(Method):
    """A single layer."""

    def __init__(self, optim: ScheduleSettings = OPTIM) -> None:
        super().__init__(optim)
        torch.manual_seed(0)
        self.backbone = nn.Linear(1, 1)

    def step(self, batch: Any, generator: torch.Generator) -> StepOutput:
        noise = torch.rand((), generator=generator)
        return {"loss": (self.backbone(batch.index.float()[:, None] / SAMPLES) - noise).square().mean()}


@dataclass
class Seen:
    """Events of a run, over all its parts."""

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
    """Records events, and ends the run after some batches, like a power cut or by requesting a stop."""

    def __init__(self, seen: Seen, die_after: int | None = None, stop_after: int | None = None) -> None:
        self.seen, self.die_after, self.stop_after = seen, die_after, stop_after
        self.count = 0
        self.pending: list[tuple[int, list[int]]] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, method: Any, batch: Any, batch_idx: int) -> None:
        if self.count == self.die_after:
            raise RuntimeError("power cut")
        self.seen.batches.append((trainer.current_epoch, batch.index.tolist()))

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
    data: lightning.LightningDataModule | None = None,
    optim: ScheduleSettings = OPTIM,
    last: LastCheckpoint | ModelCheckpoint | None = None,
    **settings: Any,
) -> lightning.Trainer:
    """Start or resume a run."""
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


def check(seen: Seen, epochs: int = EPOCHS, total: int = EPOCHS) -> None:
    """Every sample once per epoch, every batch in one step, and the rate as a function of epochs done."""
    for epoch in range(epochs):
        rows = seen.rows(epoch)
        assert len(set(rows)) == len(rows)
        # Complete epochs leave out the remainder of batches.
        assert len(rows) > SAMPLES - 8
    factor = warmup_cosine(WARMUP, total, 1e-2)
    for done, rate in seen.factors():
        assert rate == pytest.approx(1e-2 * factor(done), rel=1e-9), done
    behind = [number for number, _ in seen.steps]
    assert behind == sorted(set(behind))
    changes = [number for number in range(1, len(seen.batches)) if seen.batches[number - 1][0] != seen.batches[number][0]]
    assert {*changes, len(seen.batches)} <= set(behind)
    # Loggers count optimiser steps, independent of Lightning's batch counters.
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
    # One validation after each epoch, and one when a run is requested to end.
    ends = [number for number in range(1, len(seen.batches)) if seen.batches[number - 1][0] != seen.batches[number][0]]
    stops = {len(seen.batches)} if end == "die_after" else set(seen.validated)
    assert sorted({*ends, *stops}) == sorted(set(seen.validated))


def test_without_changes_nothing_is_different(tmp_path: Path) -> None:
    whole, parts = Seen(), Seen()
    run(tmp_path / "whole", whole, accumulate=3)
    for stop in (12, 24, 30, None):
        run(tmp_path / "parts", parts, accumulate=3, stop_after=stop)
    assert (parts.batches, parts.steps) == (whole.batches, whole.steps)


@pytest.mark.parametrize("end", ["max_time", "checkpoint"])
def test_no_gradient_is_lost_where_a_run_ends_within_a_step(end: str, tmp_path: Path) -> None:
    """Two batches of three were seen, but their gradients are not in the checkpoint, so they are repeated."""
    whole, parts = Seen(), Seen()
    run(tmp_path / "whole", whole, accumulate=3)
    if end == "max_time":
        run(tmp_path / "parts", parts, accumulate=3, stop_after=29)
    else:
        keep = ModelCheckpoint(
            tmp_path / "parts" / LAST.parent, filename=LAST.stem, every_n_epochs=1, save_on_train_epoch_end=False
        )
        run(tmp_path / "parts", parts, accumulate=3, last=keep, val_check_interval=5, die_after=6)
    run(tmp_path / "parts", parts, accumulate=3)
    one, other = (torch.load(tmp_path / name / LAST, weights_only=True) for name in ("whole", "parts"))
    assert differences(one["state_dict"], other["state_dict"]) == []
    assert one["global_step"] == other["global_step"] == 32


@pytest.mark.parametrize(("every", "expected"), [(6, [6, 12, 18, 24, 30]), (0.25, [6, 12, 18, 24, 30])])
def test_validation_within_an_epoch_comes_where_it_would(every: float, expected: list[int], tmp_path: Path) -> None:
    """A quarter of an epoch apart, or a number of batches apart, counted from the end of the epoch."""
    seen = Seen()
    run(tmp_path, seen, 4, die_after=32, val_check_interval=every)
    assert seen.validated == expected
    del seen.validated[:]
    run(tmp_path, seen, 8, max_epochs=2, val_check_interval=int(every / 2) or every)
    # Of the second epoch 8 batches of 4 were seen: 64 samples are left, the next quarter of the epoch ends behind 16 of them.
    assert [number - 32 for number in seen.validated] == [2, 5, 8]


def test_batches_of_the_rest_may_be_more_than_a_whole_epoch_has(tmp_path: Path) -> None:
    seen = Seen()
    run(tmp_path, seen, 4, die_after=1, limit_train_batches=10, max_epochs=3)
    run(tmp_path, seen, 2, limit_train_batches=10, max_epochs=3)
    # The first epoch ends where it would have, behind 40 samples; the others have ten of the present batches.
    assert [len(set(seen.rows(epoch))) for epoch in range(3)] == [40, 20, 20]
    assert seen.epoch_ends == [19, 29, 39]
    assert set(seen.validated) >= {19, 29, 39}


HORIZON = AdamWSettings(base_lr=1e-2, min_lr=1e-4, warmup_epochs=WARMUP, horizon_epochs=EPOCHS, scale_lr=False)


@pytest.mark.parametrize("first", [30, 24, 48])
def test_a_run_that_ended_by_its_number_of_steps_goes_on_when_it_is_longer(first: int, tmp_path: Path) -> None:
    """Also at the end of an epoch, which Lightning counts as the end of the next one."""
    whole, parts = Seen(), Seen()
    run(tmp_path / "whole", whole, optim=HORIZON, max_steps=60)
    run(tmp_path / "parts", parts, optim=HORIZON, max_steps=first)
    assert len(parts.steps) == first
    run(tmp_path / "parts", parts, optim=HORIZON, max_steps=60)
    assert (parts.batches, parts.steps) == (whole.batches, whole.steps)
    assert parts.logged_at == whole.logged_at
    run(tmp_path / "parts", parts, optim=HORIZON)
    check(parts)


def test_a_last_epoch_that_was_cut_short_is_made_whole(tmp_path: Path) -> None:
    seen = Seen()
    run(tmp_path, seen, optim=HORIZON, max_epochs=1, max_steps=10)
    run(tmp_path, seen, 8, optim=HORIZON, max_epochs=1, max_steps=20)
    assert (len(set(seen.rows(0))), len(seen.rows(0)), len(seen.steps)) == (SAMPLES, SAMPLES, 17)


def test_a_run_that_has_nothing_to_do_says_so(tmp_path: Path) -> None:
    seen = Seen()
    run(tmp_path, seen, max_epochs=2)
    with pytest.warns(UserWarning, match="Nothing was trained: the checkpoint already has 48 steps and 2 epochs"):
        run(tmp_path, seen, max_epochs=2)
    assert len(seen.steps) == 48
    run(tmp_path, seen, max_epochs=3)
    with pytest.raises(SettingError, match="max_epochs is 1, but the checkpoint already has 3 epochs"):
        run(tmp_path, seen, max_epochs=1)


def test_a_schedule_that_ends_with_a_number_of_steps_is_not_stretched(tmp_path: Path) -> None:
    seen = Seen()
    run(tmp_path, seen, max_epochs=-1, max_steps=96, stop_after=30)
    with pytest.raises(SettingError, match=r"an epoch now has 12 steps, and 24 .*horizon_epochs .* which were 4"):
        run(tmp_path, seen, 8, max_epochs=-1, max_steps=96)
    run(tmp_path, seen, 8, max_epochs=-1, max_steps=63, optim=HORIZON)
    check(seen, epochs=3)


def test_one_rate_per_epoch_stays_one(tmp_path: Path) -> None:
    seen, optim = Seen(), SGDSettings(base_lr=1e-2, milestones=[1, 3])
    for batch, accumulate, stop in PLANS["accumulating 5 and other batches"]:
        run(tmp_path, seen, batch, accumulate, stop_after=stop, optim=optim)
    expected = {0: 1.0, 1: 0.1, 2: 0.1, 3: 0.01}
    assert [rate for _, rate in seen.factors()] == pytest.approx([1e-2 * expected[int(done)] for done, _ in seen.factors()])


def test_one_rate_per_epoch_where_what_is_left_of_one_cannot_be_dealt_out(tmp_path: Path) -> None:
    """A single sample is left, not enough for a batch: the epoch ends at once, and the next one has its own rate."""
    seen, optim = Seen(), SGDSettings(base_lr=1e-2, milestones=[1, 3])
    run(tmp_path, seen, 1, die_after=20, data=Data(1, samples=21), optim=optim)
    with pytest.warns(UserWarning, match="1 sample.* of epoch 0 do not fit into"):
        run(tmp_path, seen, 4, data=Data(4, samples=21), optim=optim)
    expected = {0: 1.0, 1: 0.1, 2: 0.1, 3: 0.01}
    found = [(seen.batches[behind - 1][0], rate) for behind, rate in seen.steps]
    assert [epoch for epoch, _ in found] == [0] * 20 + [1] * 5 + [2] * 5 + [3] * 5
    assert [rate for _, rate in found] == pytest.approx([1e-2 * expected[epoch] for epoch, _ in found])


def test_another_optimiser_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Seen(), stop_after=30)
    with pytest.raises(SettingError, match=r"builds SGD with 1 group.*, which cannot resume the checkpoint's AdamW with 2"):
        run(tmp_path, Seen(), optim=SGDSettings())


def rates(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("Learning rate: ")]


def test_the_peak_is_that_of_the_checkpoint_unless_the_settings_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen, optim = Seen(), AdamWSettings(base_lr=0.256, min_lr=0.0256, warmup_epochs=0)
    caplog.set_level("INFO")
    run(tmp_path, seen, 4, stop_after=30, optim=optim)
    run(tmp_path, seen, 8, stop_after=4, optim=optim)
    other = AdamWSettings(base_lr=0.512, min_lr=0.0512, warmup_epochs=0, weight_decay=0.2)
    run(tmp_path, seen, 8, optim=other)
    factor = warmup_cosine(0, EPOCHS, 0.1)
    peaks = [4e-3] * 34 + [16e-3] * (len(seen.steps) - 34)
    assert [rate for _, rate in seen.factors()] == pytest.approx(
        [peak * factor(done) for peak, (done, _) in zip(peaks, seen.factors(), strict=True)]
    )
    first, kept, changed = rates(caplog)
    assert "peak 0.004 (global batch 4)" in first
    assert "peak 0.004 (the checkpoint's 0.004 for global batch 4; the rule gives 0.008 for the current 8" in kept
    assert (
        "peak 0.016 (global batch 8, from the changed settings, instead of the checkpoint's 0.004 for global batch 4" in changed
    )
    told = [record.message for record in caplog.records if "resumes with changed settings" in record.message]
    assert told == ["The optimiser resumes with changed settings: weight_decay 0.2 (was 0.05)."]


def test_rates_of_layers_keep_their_proportion(tmp_path: Path) -> None:
    """With layer decay each group of parameters has its own rate."""
    method, data = METHODS[0].build(), METHODS[0].data(4, 24, 4)
    method.optim_settings = AdamWSettings(base_lr=0.256, warmup_epochs=0, layer_decay=0.5)
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"default_root_dir": tmp_path, "use_distributed_sampler": False, "limit_val_batches": 0}
    trainer = lightning.Trainer(max_epochs=2, max_steps=9, callbacks=[LastCheckpoint(1)], **settings)
    trainer.fit(method, datamodule=data)
    before = [group["initial_lr"] for group in trainer.optimizers[0].param_groups]
    assert len(set(before)) > 2
    for base_lr, scale in ((0.256, 1), (0.512, 4)):
        method.optim_settings = AdamWSettings(base_lr=base_lr, warmup_epochs=0, layer_decay=0.5)
        trainer = lightning.Trainer(max_epochs=2, callbacks=[], enable_checkpointing=False, **settings)
        trainer.fit(method, datamodule=METHODS[0].data(8, 24, 4), ckpt_path=tmp_path / LAST, weights_only=True)
        assert [group["initial_lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx(
            [scale * rate for rate in before]
        )


def test_a_warm_up_counts_whole_steps_where_batches_do_not_divide(tmp_path: Path) -> None:
    """Five batches are two steps of four: the last one uses the remainder."""
    seen, optim = Seen(), AdamWSettings(base_lr=1.0, min_lr=0.0, warmup_epochs=4, horizon_epochs=20, scale_lr=False)
    run(tmp_path, seen, 16, 4, data=Data(16, samples=80), optim=optim, max_epochs=11)
    found = [rate for _, rate in seen.steps]
    # Four epochs are eight steps; a cosine of sixteen epochs has 0.691 of its peak after six.
    assert (found[0], found[8]) == (0, 1)
    assert found[:8:2] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert found[20] == pytest.approx(0.691, abs=5e-4)


@pytest.mark.parametrize(
    ("optim", "expected"), [(AdamWSettings(1.0, 0.0, 5, scale_lr=False), 0.5), (SGDSettings(1.0, 0.0, 5), 1.0)]
)
def test_a_warm_up_longer_than_the_run_takes_a_tenth_of_it(optim: ScheduleSettings, expected: float, tmp_path: Path) -> None:
    seen = Seen()
    with pytest.warns(
        UserWarning, match="warmup_epochs 5 is not less than the schedule's 2 epochs: warm-up takes a tenth .* 0.2"
    ):
        run(tmp_path, seen, 8, data=Data(8, samples=80), optim=optim, max_epochs=2)
    found = [rate for _, rate in seen.steps]
    assert (found[1], max(found)) == (expected, 1.0)
    assert found[2] == pytest.approx(1.0)


def test_another_order_within_an_epoch_is_refused_and_between_epochs_told(tmp_path: Path) -> None:
    seen = Seen()
    run(tmp_path, seen, stop_after=30)
    for data in (Data(4, samples=60), Data(4, seed=1), Data(4, sha256="b")):
        with pytest.raises(SettingError, match="within epoch 1, and the training data have changed since"):
            run(tmp_path, seen, data=data)
    run(tmp_path, seen, max_epochs=2)
    with pytest.warns(UserWarning, match="training data have changed since the checkpoint was written: 96 samples then, 60"):
        run(tmp_path, seen, data=Data(4, samples=60), max_epochs=3)
    assert [len(seen.rows(epoch)) for epoch in range(3)] == [96, 96, 60]


def test_a_run_goes_on_after_the_videos_moved_and_not_after_the_list_changed(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos")

    def data(root: Path) -> VideoFolder:
        return VideoFolder(
            str(root),
            clip=ClipSettings(frames=2, sampler=Dense(1), size=16),
            batch_size=4,
            reading=ReadSettings(0, max_bad_fraction=1.0),
        )

    seen = Seen()
    run(tmp_path / "run", seen, stop_after=7, data=data(videos), limit_val_batches=0)
    moved = videos.rename(tmp_path / "moved")
    run(tmp_path / "run", seen, stop_after=1, data=data(moved), limit_val_batches=0)
    first = [row for batch in seen.batches[:5] for row in batch[1]]
    assert len(set(first)) == len(first) == 20
    assert len(set(seen.rows(1))) == len(seen.rows(1)) == 12
    (moved / "train/class 0/0.mp4").unlink()
    with pytest.raises(SettingError, match=r"within epoch 1, .* changed since \(21 samples then, 20 now\)"):
        run(tmp_path / "run", seen, data=data(moved), limit_val_batches=0)
    (moved / "train/class 0/new.mp4").write_bytes(b"")
    with pytest.raises(SettingError, match=r"within epoch 1, .* changed since \(another list of 21 samples\)"):
        run(tmp_path / "run", seen, data=data(moved), limit_val_batches=0)


def test_another_seed_of_masks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, Seen(), stop_after=30)
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    with pytest.warns(UserWarning, match="seed_everything is 3 and was 0 when the checkpoint was written"):
        run(tmp_path, Seen(), stop_after=1)


def test_no_checkpoint_is_written_between_the_batches_of_a_step(tmp_path: Path) -> None:
    """Validations that do not coincide with accumulated batches once ran in the middle of a step."""
    counts: list[int] = []

    class Noted(LastCheckpoint):
        def _save(self, trainer: lightning.Trainer) -> None:
            counts.append(trainer.fit_loop.batch_idx + 1)
            super()._save(trainer)

    run(tmp_path, Seen(), 9, 2, data=Data(9, samples=90), last=Noted(1), val_check_interval=3, max_epochs=2)
    assert counts == [2, 4, 6, 8, 10] * 2 or {2, 10} <= set(counts)
    assert [count for count in counts if count % 2] == []


def test_a_checkpoint_of_the_last_batch_of_an_epoch(tmp_path: Path) -> None:
    """Lightning's own callback writes before the epoch has ended."""
    seen = Seen()
    keep = ModelCheckpoint(tmp_path / LAST.parent, filename=LAST.stem, every_n_train_steps=24)
    run(tmp_path, seen, 4, last=keep, max_epochs=1, optim=HORIZON)
    run(tmp_path, seen, 8)
    check(seen)


def test_a_state_that_counts_batches_is_refused_in_training_alone(tmp_path: Path) -> None:
    run(tmp_path, Seen(), stop_after=30)
    content = torch.load(tmp_path / LAST, weights_only=True)
    old = {"epoch": 1, "batches": 6}
    content["Data"]["loader"], content["loops"]["fit_loop"]["state_dict"]["combined_loader"] = old, [old]
    del content["schedule"]
    torch.save(content, tmp_path / LAST)
    with pytest.raises(SettingError, match="older version"):
        run(tmp_path, Seen())
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.validate(Line(), datamodule=Data(4), ckpt_path=tmp_path / LAST, weights_only=True)


# Samples of a batch, processes, accumulated batches, batches after which the part ends; 21 videos, of which batches of 4 leave
# one out.
PARTS = [(4, 1, 1, 7), (8, 2, 1, 1), (2, 1, 3, 6), (4, 1, 1, None)]


@pytest.mark.slow
@pytest.mark.parametrize("method", [case.name for case in METHODS + DOWNSTREAM])
def test_methods_go_on_with_other_batches_and_processes(method: str, tmp_path: Path) -> None:
    videos, seen = write_videos(tmp_path / "videos"), Seen()
    epoch_steps: list[int] = []
    for number, (batch, world, accumulate, stop) in enumerate(PARTS):
        folder = tmp_path / "run"
        part = runs.Run(method, folder, videos, accumulate, world=world, batch=batch, stop_after=stop)
        assert runs.start(part, limit=200) == [0] * world, f"part {number}"
        diaries = [folder / f"diary{rank}.jsonl" for rank in range(world)]
        lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in diaries]
        batches = [[content for kind, _, content in one if kind == "batch"] for one in lines]
        kinds = [(kind, content) for kind, _, content in lines[0] if kind in ("batch", "rate")]
        count = len(seen.batches)
        for kind, content in kinds:
            if kind == "rate":
                # Written before its batch ends.
                seen.steps.append((count + 1, content))
            count += kind == "batch"
        epoch_steps += [math.ceil(20 // batch / accumulate)] * (len(seen.steps) - len(epoch_steps))
        for together in zip(*batches, strict=True):
            seen.batches.append((together[0][4], [row for one in together for row in one[0]]))
        for path in folder.glob("diary*.jsonl"):
            path.unlink()
    sizes = [len(rows) for epoch, rows in seen.batches if epoch == 1]
    assert sizes == [4, 4, 6, 2, 2, 2]
    assert [len(rows) for epoch, rows in seen.batches if epoch == 2] == [2, 2, 2, 4, 4, 3, 3]
    for epoch in range(runs.EPOCHS):
        assert len(set(seen.rows(epoch))) == len(seen.rows(epoch)) == 20
    checkpoint = torch.load(tmp_path / "run" / LAST, weights_only=True)
    settings = next(case for case in METHODS + DOWNSTREAM if case.name == method).build().optim_settings
    factor = settings.factor(0, runs.EPOCHS, settings.min_lr / settings.base_lr)
    for (done, rate), steps in zip(seen.factors(20), epoch_steps, strict=True):
        expected = factor(int(done) if settings.per_epoch else done + settings.ahead / steps)
        assert rate == pytest.approx(checkpoint["schedule"]["peak"] * expected), done

"""Probes use the clips of the validation pass: no clip is read or embedded twice, and results do not change."""

from collections import Counter
from pathlib import Path
from typing import Any

import lightning
import pytest
from torch import Tensor

from callbacks import CollapseAlarm, ModelEMA, Neighbours, OnlineKNN, OnlineLinear, ProbeReport
from callbacks.collapse import measure
from callbacks.features import _sets, extract_all, probe_sets
from datamodules.generated.motion import SyntheticMotion
from datamodules.loading.loader import ResumableLoader
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch
from modules.downstream.metrics.probes import knn_accuracy
from tests.callbacks.runs import BATCH, STEPS, TRAIN, Pixels, fit, videomae
from tests.registry import FRAMES, SIDE

VAL, EPOCHS = 24, 2


class Counted(SyntheticMotion):
    """Counts the loaders of each set, and the clips that they return."""

    def __init__(self) -> None:
        super().__init__(ClipSettings(frames=FRAMES, size=SIDE), BATCH, train_videos=TRAIN, val_videos=VAL)
        self.made: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()

    def _loader(self, name: str) -> ResumableLoader:
        loader = super()._loader(name)
        self.made[name] += 1
        loader.on_batch = lambda batch: self.reads.update({name: len(batch.index)})
        return loader


class CountedPixels(Pixels):
    """Counts the clips that are embedded in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded = 0

    def embed(self, batch: Batch) -> Tensor:
        self.embedded += len(batch.index) if self.trainer.validating else 0
        return super().embed(batch)


def run(folder: Path, callbacks: list[Any], method: Any = None, **settings: Any) -> tuple[Counted, lightning.Trainer]:
    module = Counted()
    trainer = fit(method or Pixels(), folder, callbacks, module, EPOCHS, **({"num_sanity_val_steps": 0} | settings))
    return module, trainer


def test_each_validation_clip_is_read_once_per_epoch(tmp_path: Path) -> None:
    method = CountedPixels()
    module, _ = run(tmp_path, [OnlineKNN(k=3), CollapseAlarm()], method)
    # The alarm also evaluates the untrained network.
    assert module.reads["val"] == VAL * (EPOCHS + 1)
    assert module.reads["probe"] == TRAIN * EPOCHS
    assert module.made == {"train": 1, "val": 1, "probe": 1}
    assert method.embedded == (VAL + TRAIN) * EPOCHS


def test_more_probes_read_no_more(tmp_path: Path) -> None:
    method = CountedPixels()
    probes = [OnlineLinear(), Neighbours(every_n_epochs=1, k=2), CollapseAlarm(samples=3), OnlineKNN(k=3)]
    module, _ = run(tmp_path, probes, method)
    assert module.reads["val"] == BATCH + VAL * EPOCHS
    assert module.reads["probe"] == TRAIN * EPOCHS
    assert module.made == {"train": 1, "val": 1, "probe": 1}
    assert method.embedded == (VAL + TRAIN) * EPOCHS


def test_an_alarm_of_its_own_embeds_as_few_clips_as_it_needs(tmp_path: Path) -> None:
    method = CountedPixels()
    module, _ = run(tmp_path, [CollapseAlarm(samples=BATCH + 1)], method)
    assert module.reads["probe"] == 0
    assert method.embedded == 2 * BATCH * EPOCHS


def test_probes_see_as_many_batches_as_the_validation(tmp_path: Path) -> None:
    for limit in (1, 0.4):
        module, _ = run(tmp_path, [OnlineKNN(k=3), CollapseAlarm()], limit_val_batches=limit)
        assert module.reads["val"] == BATCH * (EPOCHS + 1)
    report = ProbeReport(k=3)
    module, _ = run(tmp_path, [report], limit_val_batches=1)
    # All samples are read before training, and once after it for all rows of the table.
    assert module.reads["val"] == BATCH * EPOCHS + 2 * VAL
    assert module.reads["probe"] == 2 * TRAIN
    assert module.made == {"train": 1, "val": 1, "probe": 1}


def test_the_check_before_training_asks_for_nothing(tmp_path: Path) -> None:
    module, _ = run(tmp_path, [OnlineKNN(k=3)], num_sanity_val_steps=1)
    assert module.reads["val"] == BATCH + VAL * EPOCHS
    assert module.reads["probe"] == TRAIN * EPOCHS


def test_nothing_is_kept_beyond_a_validation_or_a_run(tmp_path: Path) -> None:
    class Look(lightning.Callback):
        def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
            sets = probe_sets(trainer)
            kept.append(sum(share.samples for share in sets._validation.values()) + (sets._bank is not None))

    kept: list[int] = []
    _, trainer = run(tmp_path, [OnlineKNN(k=3), Look()])
    assert kept == [0] * STEPS * EPOCHS
    assert trainer not in _sets


class ReadAgain(lightning.Callback):
    """The results of both probes with separate loaders, read after the validation."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []
        self.logged: list[dict[str, float]] = []

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        data: Any = trainer.datamodule
        bank, bank_labels = extract_all(trainer, pl_module, data.probe_dataloader(), [pl_module.embed])[0]
        queries, labels = extract_all(trainer, pl_module, data.val_dataloader(), [pl_module.embed])[0]
        accuracy = 100 * knn_accuracy(bank, bank_labels, queries, labels, 3)
        alarm = {f"collapse/{name}": value for name, value in measure(queries[:11]).items()}
        self.values.append({"knn/acc1": float(accuracy)} | alarm)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items() if name in self.values[-1]})


@pytest.mark.parametrize("together", [False, True])
def test_numbers_are_those_of_sets_that_are_read_again(together: bool, tmp_path: Path) -> None:
    probes: list[list[Any]] = [[OnlineKNN(k=3, temperature=0.07)], [CollapseAlarm(samples=11)]]
    for number, callbacks in enumerate([probes[1] + probes[0]] if together else probes):
        again = ReadAgain()
        run(tmp_path / str(number), [*callbacks, again], videomae())
        assert len(again.logged) == EPOCHS
        for logged, values in zip(again.logged, again.values, strict=True):
            assert len(logged) == (3 if together else 1 + number)
            assert logged == pytest.approx({name: values[name] for name in logged}, abs=1e-6)


@pytest.mark.parametrize("first", [False, True])
def test_both_sets_are_embedded_with_the_averaged_weights(first: bool, tmp_path: Path) -> None:
    class Weighed(Pixels):
        def embed(self, batch: Batch) -> Tensor:
            seen.add((self.trainer.current_epoch, float(self.backbone.weight)))
            return super().embed(batch)

    seen: set[tuple[int, float]] = set()
    average = ModelEMA(decay=0.5)
    run(tmp_path, [average, OnlineKNN(k=3)] if first else [OnlineKNN(k=3), average], Weighed())
    # Averaged weights are swapped back at the end of a validation, before or after the probe runs.
    assert sorted(epoch for epoch, _ in seen) == list(range(EPOCHS))

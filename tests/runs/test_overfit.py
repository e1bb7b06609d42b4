"""trainer.overfit_batches: the same samples in the same order in every epoch, also after a resume."""

from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor

from callbacks import LastCheckpoint
from datamodules.loading.loader import EpochSampler
from datamodules.mixed import MixedData
from modules.core.batch import Batch
from modules.core.errors import SettingError
from tests.callbacks.runs import StopAfter, data, make_trainer, videomae

EPOCHS, OVERFIT = 3, 2


class Seen(lightning.Callback):
    """Which samples each batch had."""

    def __init__(self) -> None:
        self.train: list[list[int]] = []
        self.val: list[list[int]] = []

    def on_train_batch_start(self, trainer: object, pl_module: object, batch: Batch, batch_idx: int) -> None:
        self.train.append(batch.index.tolist())

    def on_validation_batch_start(self, trainer: lightning.Trainer, pl_module: object, batch: Batch, *_: object) -> None:
        if not trainer.sanity_checking:
            self.val.append(batch.index.tolist())


def run(folder: Path, stop: int = 10**6, resume: bool = False, overfit: float = OVERFIT) -> tuple[Seen, dict[str, Tensor]]:
    seen, method = Seen(), videomae()
    lightning.seed_everything(3)
    trainer = make_trainer(
        folder, [seen, StopAfter(stop), LastCheckpoint(1)], EPOCHS, overfit_batches=overfit, enable_checkpointing=True
    )
    path = folder / "checkpoints/last.ckpt" if resume else None
    trainer.fit(method, datamodule=data(), ckpt_path=path, weights_only=True if resume else None)
    return seen, method.state_dict()


def test_every_epoch_has_the_same_batches_and_a_resume_goes_on_with_them(tmp_path: Path) -> None:
    seen, whole = run(tmp_path / "whole")
    assert seen.train == seen.train[:OVERFIT] * EPOCHS
    assert seen.train[0] != seen.train[1]
    # As in Lightning, the first batches of the validation samples.
    assert seen.val == [list(range(8)), list(range(8, 13))] * EPOCHS
    first, _ = run(tmp_path / "part", stop=OVERFIT + 1)
    rest, resumed = run(tmp_path / "part", resume=True)
    assert first.train + rest.train == seen.train
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    # A fraction of the three batches.
    assert len(run(tmp_path / "share", overfit=0.7)[0].train) == EPOCHS * 2


def test_clips_are_cut_out_anew_in_every_epoch() -> None:
    sampler, keys = EpochSampler(9, 5, True), []
    sampler.repeats = True
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        keys.append(list(sampler))
    assert [key.row for key in keys[0]] == [key.row for key in keys[1]]
    assert [key.epoch for key in keys[1]] == [1] * 9


def test_refusals(tmp_path: Path) -> None:
    run(tmp_path, stop=OVERFIT - 1)
    with pytest.raises(SettingError, match=r"within epoch 0 of a run with trainer\.overfit_batches"):
        run(tmp_path, resume=True, overfit=0.0)
    trainer = make_trainer(tmp_path / "mixed", [], overfit_batches=1)
    with pytest.raises(SettingError, match="every epoch of MixedData mixes other samples"):
        trainer.fit(videomae(), datamodule=MixedData([data()], batch_size=8))

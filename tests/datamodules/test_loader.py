"""Order of samples, and going on in the middle of an epoch."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.video.loader import EpochSampler, ResumableLoader, SampleKey

LENGTH, BATCH = 23, 3


class Keys(Dataset[dict[str, Tensor]]):
    """Each sample is its own key."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, key: SampleKey) -> dict[str, Tensor]:
        return {"epoch": torch.tensor(key.epoch), "index": torch.tensor(key.row)}


def loader(workers: int = 0, shuffle: bool = True, **settings: Any) -> ResumableLoader:
    return ResumableLoader(Keys(), EpochSampler(LENGTH, 5, shuffle, **settings), BATCH, workers)


def rows(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    sampler = EpochSampler(LENGTH, 5, True)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append([key.row for key in sampler])
    assert sorted(orders[0]) == list(range(LENGTH))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != [key.row for key in EpochSampler(LENGTH, 6, True)]


def test_processes_share_training_samples_equally_and_without_overlap() -> None:
    parts = [[key.row for key in EpochSampler(LENGTH, 5, True, rank, 4)] for rank in range(4)]
    assert {len(part) for part in parts} == {LENGTH // 4}
    assert len({row for part in parts for row in part}) == 4 * (LENGTH // 4)


def test_processes_evaluate_every_sample_once() -> None:
    parts = [EpochSampler(LENGTH, 5, False, rank, 4) for rank in range(4)]
    assert sorted(key.row for part in parts for key in part) == list(range(LENGTH))
    assert [len(part) for part in parts] == [len(list(part)) for part in parts]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_new_loader_goes_on_behind_what_was_handed_out(workers: int) -> None:
    whole = loader()
    whole.sampler.set_epoch(3)
    expected = rows(whole)
    first = loader(workers)
    first.sampler.set_epoch(3)
    batches = iter(first)
    taken = rows(next(batches) for _ in range(4))
    state = first.state_dict()
    second = loader(workers)
    second.load_state_dict(state)
    second.sampler.set_epoch(3)
    assert len(second) == len(expected) == LENGTH // BATCH
    assert taken + rows(second) == expected
    second.sampler.set_epoch(4)
    assert len(rows(second)) == len(expected)


def test_state_of_another_epoch_is_not_applied() -> None:
    stopped = loader()
    next(iter(stopped))
    fresh = loader()
    fresh.load_state_dict(stopped.state_dict())
    fresh.sampler.set_epoch(1)
    assert len(rows(fresh)) == LENGTH // BATCH


class Listener(lightning.LightningModule):
    """Notes which samples it was trained on."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.stop_after = stop_after
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen += list(zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True))
        return self.layer(batch["index"].float()[:, None]).mean()

    def on_train_batch_end(self, *_: object) -> None:
        self.trainer.should_stop = self.trainer.fit_loop.total_batch_idx + 1 == self.stop_after

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(module: Listener, folder: Path, workers: int, accumulate: int, ckpt_path: Path | None = None) -> None:
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)],
    ).fit(module, loader(workers), ckpt_path=ckpt_path, weights_only=True)


@pytest.mark.parametrize(("before", "after", "accumulate"), [(0, 0, 1), (2, 2, 1), (2, 0, 1), (0, 0, 2)])
def test_a_run_goes_on_with_the_next_unseen_sample(before: int, after: int, accumulate: int, tmp_path: Path) -> None:
    whole = Listener()
    fit(whole, tmp_path / "whole", before, accumulate)
    # Two batches into the second epoch, between steps of the optimiser also when two batches make one.
    first = Listener(stop_after=9)
    fit(first, tmp_path / "part", before, accumulate)
    assert first.seen == whole.seen[: 9 * BATCH]
    second = Listener()
    fit(second, tmp_path / "part", after, accumulate, tmp_path / "part/last.ckpt")
    assert first.seen + second.seen == whole.seen

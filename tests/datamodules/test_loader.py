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
pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step.")


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


def test_skipped_keys_are_the_first_of_this_process() -> None:
    sampler = EpochSampler(LENGTH, 5, True, 1, 2)
    order = list(sampler)
    sampler.skip = 4
    assert list(sampler) == order[4:]
    # The length stays that of the whole epoch: progress bars and schedules count with it.
    assert len(sampler) == len(order) == LENGTH // 2


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
    # The state is for one pass: loaders of validation go through epoch 0 again and again.
    assert rows(second) == expected
    for epoch in (4, 5):
        whole.sampler.set_epoch(epoch)
        second.sampler.set_epoch(epoch)
        assert rows(second) == rows(whole)


def test_stopping_again_and_again_loses_and_repeats_nothing() -> None:
    expected, taken = rows(loader()), []
    state = loader().state_dict()
    while len(taken) < len(expected):
        part = loader()
        part.load_state_dict(state)
        batches = iter(part)
        taken += rows(next(batches) for _ in range(min(2, len(expected) - len(taken))))
        state = part.state_dict()
    assert taken == expected
    # Nothing is left of an epoch that was handed out whole.
    ended = loader()
    ended.load_state_dict(state)
    assert rows(ended) == []


def test_state_before_the_first_batch_is_the_one_that_was_loaded() -> None:
    part = loader()
    assert part.state_dict() == {"epoch": 0, "batches": 0}
    part.load_state_dict({"epoch": 3, "batches": 2})
    assert part.state_dict() == {"epoch": 3, "batches": 2}
    part.sampler.set_epoch(3)
    next(iter(part))
    assert part.state_dict() == {"epoch": 3, "batches": 3}


def test_processes_go_on_with_their_own_samples() -> None:
    for rank in range(2):
        expected = rows(loader(rank=rank, world_size=2))
        part = loader(rank=rank, world_size=2)
        part.load_state_dict({"epoch": 0, "batches": 1})
        assert rows(part) == expected[1:]


def test_evaluation_hands_out_the_last_smaller_batch() -> None:
    assert [len(batch) for batch in rows(loader(shuffle=False))] == [BATCH] * 7 + [2]


def test_batches_are_noted_when_they_are_handed_out() -> None:
    noted: list[list[int]] = []
    source = ResumableLoader(
        Keys(), EpochSampler(LENGTH, 5, True), BATCH, 2, on_batch=lambda batch: noted.append(batch["index"].tolist())
    )
    first = next(iter(source))
    # Workers are batches ahead by now.
    assert noted == [first["index"].tolist()]


def test_state_of_another_epoch_is_not_applied() -> None:
    stopped = loader()
    next(iter(stopped))
    fresh = loader()
    fresh.load_state_dict(stopped.state_dict())
    fresh.sampler.set_epoch(1)
    assert len(rows(fresh)) == LENGTH // BATCH


class Listener(lightning.LightningModule):
    """Notes which samples it was trained on."""

    def __init__(self, stop_after: int | None = None, fail_after: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.stop_after, self.fail_after = stop_after, fail_after
        self.seen: list[tuple[int, int]] = []
        self.evaluated: list[int] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if len(self.seen) == (self.fail_after or -1) * BATCH:
            raise RuntimeError("power cut")
        self.seen += list(zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True))
        return self.layer(batch["index"].float()[:, None]).mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.evaluated += batch["index"].tolist()

    def on_train_batch_end(self, *_: object) -> None:
        self.trainer.should_stop = self.trainer.fit_loop.total_batch_idx + 1 == self.stop_after

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(
    module: Listener, folder: Path, workers: int, accumulate: int = 1, ckpt_path: Path | None = None, every: int | None = None
) -> None:
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        accumulate_grad_batches=accumulate,
        val_check_interval=every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)],
    ).fit(module, loader(workers), loader(workers, shuffle=False) if every else None, ckpt_path=ckpt_path, weights_only=True)


@pytest.mark.parametrize(("before", "after", "accumulate"), [(0, 0, 1), (2, 2, 1), (2, 0, 1), (0, 1, 1), (0, 0, 2), (2, 2, 2)])
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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_died_goes_on_behind_its_last_checkpoint(workers: int, tmp_path: Path) -> None:
    whole = Listener()
    fit(whole, tmp_path / "whole", workers)
    first = Listener(fail_after=10)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(first, tmp_path / "part", workers)
    second = Listener()
    fit(second, tmp_path / "part", workers, ckpt_path=tmp_path / "part/last.ckpt")
    assert first.seen + second.seen == whole.seen


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_within_an_epoch_does_not_disturb_the_order(workers: int, tmp_path: Path) -> None:
    plain, whole = Listener(), Listener()
    fit(plain, tmp_path / "plain", 0)
    fit(whole, tmp_path / "whole", workers, every=2)
    assert whole.seen == plain.seen
    first = Listener(stop_after=10)
    fit(first, tmp_path / "part", workers, every=2)
    second = Listener()
    fit(second, tmp_path / "part", workers, ckpt_path=tmp_path / "part/last.ckpt", every=2)
    assert first.seen + second.seen == whole.seen
    # Every validation sees all samples, also the first after the run went on.
    for module in (whole, first, second):
        rounds = [module.evaluated[start : start + LENGTH] for start in range(0, len(module.evaluated), LENGTH)]
        assert rounds == [list(range(LENGTH))] * len(rounds)
        assert rounds

"""Order of samples, and resuming in the middle of an epoch."""

import itertools
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.loading.loader import EpochSampler, ResumableLoader, SampleKey
from modules.core.errors import SettingError

LENGTH, BATCH = 23, 3
pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step.")


class Keys(Dataset[dict[str, Tensor]]):
    """Each sample is its own key."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, key: SampleKey) -> dict[str, Tensor]:
        return {"epoch": torch.tensor(key.epoch), "index": torch.tensor(key.row)}


def loader(workers: int = 0, shuffle: bool = True, ahead: int = 2, **settings: Any) -> ResumableLoader:
    return ResumableLoader(Keys(), EpochSampler(LENGTH, 5, shuffle, **settings), BATCH, workers, prefetch_factor=ahead)


def state(epoch: int, samples: int, end: int = 21, seed: int = 5) -> dict[str, Any]:
    """The state of a loader: by default, one process returns seven batches of three."""
    return {"epoch": epoch, "samples": samples, "end": end, "seed": seed, "length": LENGTH, "sha256": None}


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


def test_samples_that_were_seen_are_the_first_of_all_processes() -> None:
    sampler = EpochSampler(LENGTH, 5, True, 1, 2)
    order = list(sampler)
    sampler.start = 8
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


@pytest.mark.parametrize(("workers", "ahead"), [(0, 2), (2, 2), (2, 5)])
def test_a_new_loader_goes_on_behind_what_was_handed_out(workers: int, ahead: int) -> None:
    whole = loader()
    whole.batches.sampler.set_epoch(3)
    expected = rows(whole)
    first = loader(workers, ahead=ahead)
    assert first.prefetch_factor == (ahead if workers else None)
    first.batches.sampler.set_epoch(3)
    batches = iter(first)
    taken = rows(next(batches) for _ in range(4))
    second = loader(workers, ahead=ahead)
    second.load_state_dict(first.state_dict())
    second.batches.sampler.set_epoch(3)
    assert len(second) == len(expected) == LENGTH // BATCH
    assert taken + rows(second) == expected
    # The state is for one pass: validation loaders iterate over epoch 0 repeatedly.
    assert rows(second) == expected
    for epoch in (4, 5):
        whole.batches.sampler.set_epoch(epoch)
        second.batches.sampler.set_epoch(epoch)
        assert rows(second) == rows(whole)


def test_stopping_again_and_again_loses_and_repeats_nothing() -> None:
    expected, taken = rows(loader()), []
    saved = loader().state_dict()
    while len(taken) < len(expected):
        part = loader()
        part.load_state_dict(saved)
        batches = iter(part)
        taken += rows(next(batches) for _ in range(min(2, len(expected) - len(taken))))
        saved = part.state_dict()
    assert taken == expected
    # Nothing is left of an epoch that was returned completely.
    ended = loader()
    ended.load_state_dict(saved)
    assert rows(ended) == []


def test_state_before_the_first_batch_is_the_one_that_was_loaded() -> None:
    part = loader()
    assert part.state_dict() == state(0, 0)
    part.load_state_dict(state(3, 6))
    assert part.state_dict() == state(3, 6)
    part.batches.sampler.set_epoch(3)
    next(iter(part))
    assert part.state_dict() == state(3, 9)


def test_processes_go_on_with_their_own_samples() -> None:
    for rank in range(2):
        expected = rows(loader(rank=rank, world_size=2))
        part = loader(rank=rank, world_size=2)
        part.load_state_dict(state(0, 2 * BATCH, end=18))
        assert rows(part) == expected[1:]


class Rows(Dataset[int]):
    """Each sample is its row."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: SampleKey) -> int:
        return key.row


def processes(length: int, batch: int, world: int = 1, seed: int = 5, sha256: str | None = None) -> list[ResumableLoader]:
    """The loaders of all processes of a run."""
    samplers = [EpochSampler(length, seed, True, rank, world) for rank in range(world)]
    group = [ResumableLoader(Rows(length), sampler, batch, collate_fn=list) for sampler in samplers]
    for one in group:
        one.sha256 = sha256
        one.batches.sampler.set_epoch(2)
    return group


def take(group: list[ResumableLoader], batches: int | None = None) -> list[list[list[int]]]:
    """The next batches of each process, by default all."""
    return [list(itertools.islice(iter(one), batches)) for one in group]


def flat(given: list[list[list[int]]]) -> list[int]:
    return [row for one in given for batch in one for row in batch]


CHANGES = [(4, 1), (8, 1), (2, 1), (3, 2), (4, 2), (6, 1), (1, 4), (5, 3)]


@pytest.mark.parametrize("length", [96, 50, 31])
@pytest.mark.parametrize("after", CHANGES)
@pytest.mark.parametrize("before", CHANGES)
def test_the_rest_of_an_epoch_is_dealt_out_to_other_batches_and_processes(
    before: tuple[int, int], after: tuple[int, int], length: int
) -> None:
    """Each sample of the epoch occurs once, whatever changed within it."""
    first, second = processes(length, *before), processes(length, *after)
    expected, seen = flat(take(processes(length, *before))), flat(take(first, 2))
    (saved,) = {tuple(one.state_dict().items()) for one in first}
    for one in second:
        one.load_state_dict(dict(saved))
    share = second[0].batches_left(2)
    given = take(second)
    rest = flat(given)
    assert len(set(seen + rest)) == len(seen + rest)
    missing = set(expected) - set(seen + rest)
    # Samples are only left out if the complete list cannot be divided equally.
    assert len(missing) < after[1] * (2 if after[0] == 2 else 1)
    assert not missing or len(seen + rest) + after[1] * (2 if after[0] == 2 else 1) > length
    sizes = {tuple(len(batch) for batch in one) for one in given}
    assert len(sizes) == 1
    (counts,) = sizes
    assert share == (len(counts) or None)
    assert max(counts, default=0) <= after[0]
    # The last two batches share the remainder, and no sample is alone, unless the batch size is 1.
    assert set(counts[:-2]) <= {after[0]}
    assert max(counts[-2:], default=0) - min(counts[-2:], default=0) <= 1
    assert min(counts, default=2) > 1 or after[0] == 1
    assert {one.epochs_done for one in second} == {3.0}
    # With the same settings it is the same batches.
    if before == after:
        assert [one[2:] for one in take(processes(length, *before))] == given


def test_changes_again_and_again_within_an_epoch_lose_and_repeat_nothing() -> None:
    seen: list[int] = []
    saved = None
    for batch, world, batches in [(4, 1, 5), (8, 1, 2), (2, 2, 6), (4, 1, 2), (3, 1, None)]:
        group = processes(96, batch, world)
        for one in group:
            if saved is not None:
                one.load_state_dict(saved)
        seen += flat(take(group, batches))
        saved = group[0].state_dict()
    assert sorted(seen) == list(range(96))
    order = flat(take(processes(96, 1)))
    # Two processes take turns.
    assert [set(seen[a:b]) for a, b in ((0, 36), (36, 60), (60, 96))] == [
        set(order[a:b]) for a, b in ((0, 36), (36, 60), (60, 96))
    ]


def test_what_processes_cannot_share_is_said(recwarn: pytest.WarningsRecorder) -> None:
    group = processes(21, 2, world=2)
    for one in group:
        one.load_state_dict({**state(2, 12), "length": 21})
    with pytest.warns(UserWarning, match=r"1 sample\(s\) of epoch 2 do not fit into 2 x 2 and are left"):
        assert len(flat(take(group))) == 8


def test_an_epoch_that_is_limited_ends_at_its_limit() -> None:
    part, order = processes(96, 4)[0], flat(take(processes(96, 4)))
    part.limit = 5
    assert flat(take([part])) == order[:20]
    assert (part.state_dict()["end"], part.epochs_done) == (20, 3.0)
    # An epoch that was started with a limit ends where it would have ended.
    one, other = processes(96, 4)[0], processes(96, 2)[0]
    one.limit, other.limit = 5, 3
    take([one], 2)
    other.load_state_dict(one.state_dict())
    assert flat(take([other])) == order[8:20]
    other.batches.sampler.set_epoch(3)
    assert len(flat(take([other]))) == 6


def test_progress_is_counted_in_samples() -> None:
    one = processes(96, 4)[0]
    assert one.epochs_done == 2
    batches = iter(one)
    for number in range(1, 25):
        next(batches)
        assert one.epochs_done == 2 + number / 24
    # Between epochs, even if Lightning has already set the next epoch.
    one.batches.sampler.set_epoch(3)
    assert (one.epochs_done, one.state_dict()["epoch"]) == (3, 2)


@pytest.mark.parametrize(
    ("length", "seed", "sha256", "what"),
    [
        (60, 5, "a", "96 samples then, 60 now"),
        (96, 5, "b", "another list of 96 samples"),
        (96, 6, "a", "data.seed 5 then, 6 now"),
        (60, 6, "b", "96 samples then, 60 now, data.seed 5 then, 6 now"),
    ],
)
def test_an_epoch_does_not_go_on_in_another_order(length: int, seed: int, sha256: str, what: str) -> None:
    one, other = processes(96, 4, sha256="a")[0], processes(length, 4, seed=seed, sha256=sha256)[0]
    take([one], 3)
    with pytest.raises(SettingError, match=rf"within epoch 2, and the training data have changed since \({what}\)"):
        other.load_state_dict(one.state_dict())
    # Between two epochs, nothing is repeated or left out, but the change is reported.
    take([one])
    with pytest.warns(UserWarning, match=f"The training data have changed since the checkpoint was written: {what}"):
        other.load_state_dict(one.state_dict())
    other.batches.sampler.set_epoch(3)
    assert len(flat(take([other]))) == length


def test_a_state_that_counts_batches_is_refused() -> None:
    with pytest.raises(SettingError, match="older version, which did not save how many samples were seen"):
        loader().load_state_dict({"epoch": 0, "batches": 1})


def test_evaluation_hands_out_the_last_smaller_batch() -> None:
    assert [len(batch) for batch in rows(loader(shuffle=False))] == [BATCH] * 7 + [2]


@pytest.mark.parametrize("length", range(1, 9))
def test_processes_evaluate_in_their_own_number_of_batches(length: int) -> None:
    samplers = [EpochSampler(length, 5, False, rank, 2) for rank in range(2)]
    given = [list(ResumableLoader(Rows(length), sampler, 2, collate_fn=list)) for sampler in samplers]
    assert sorted(flat(given)) == list(range(length))
    assert [len(one) for one in given] == [len(ResumableLoader(Rows(length), sampler, 2)) for sampler in samplers]


def test_batches_are_noted_when_they_are_handed_out() -> None:
    noted: list[list[int]] = []
    source = ResumableLoader(
        Keys(), EpochSampler(LENGTH, 5, True), BATCH, 2, on_batch=lambda batch: noted.append(batch["index"].tolist())
    )
    first = next(iter(source))
    # Workers have prefetched batches by now.
    assert noted == [first["index"].tolist()]


def test_state_of_another_epoch_is_not_applied() -> None:
    stopped = loader()
    next(iter(stopped))
    fresh = loader()
    fresh.load_state_dict(stopped.state_dict())
    fresh.batches.sampler.set_epoch(1)
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
    # Every validation uses all samples, also the first one after resuming.
    for module in (whole, first, second):
        rounds = [module.evaluated[start : start + LENGTH] for start in range(0, len(module.evaluated), LENGTH)]
        assert rounds == [list(range(LENGTH))] * len(rounds)
        assert rounds

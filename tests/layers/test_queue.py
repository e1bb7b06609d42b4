"""The queue of keys: a step, a lap, the end of a lap, and how it is saved."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast, own_keys
from modules.layers.contrast.queue import Queue
from modules.losses.contrast import unit_rows
from tests.callbacks.runs import make_trainer
from tests.registry import METHODS, tiny_cnn

DIM = 8


def keys(count: int, seed: int) -> Tensor:
    return unit_rows(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)))


def test_starts_with_unit_rows_that_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    queue = Queue(512, DIM)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Queue(512, DIM).keys, queue.keys)
    assert not torch.equal(Queue(512, DIM, seed=1).keys, queue.keys)
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(512))
    # Directions without preference: the mean of 512 unit vectors is short.
    assert queue.keys.mean(dim=0).norm() < 0.15
    assert queue.keys.dtype == torch.float32


def test_a_step_changes_its_rows_only() -> None:
    queue = Queue(12, DIM)
    queue.enqueue(keys(4, 0))
    before, new = queue.keys.clone(), keys(4, 1)
    queue.enqueue(new)
    assert torch.equal(queue.keys[4:8], new)
    assert torch.equal(queue.keys[:4], before[:4])
    assert torch.equal(queue.keys[8:], before[8:])
    assert int(queue.pointer) == 8


def test_after_a_lap_the_oldest_keys_go_first() -> None:
    queue = Queue(12, DIM)
    batches = [keys(4, seed) for seed in range(5)]
    for count, batch in enumerate(batches, 1):
        queue.enqueue(batch)
        assert int(queue.pointer) == 4 * count % 12
    assert torch.equal(queue.keys, torch.cat([batches[3], batches[4], batches[2]]))


def test_a_batch_may_cross_the_end() -> None:
    queue = Queue(10, DIM)
    first, second = keys(7, 0), keys(7, 1)
    queue.enqueue(first)
    queue.enqueue(second)
    assert torch.equal(queue.keys, torch.cat([second[3:], first[4:7], second[:3]]))
    assert int(queue.pointer) == 4


def test_keys_of_lower_precision_are_stored_in_float32_without_gradient() -> None:
    queue, new = Queue(4, DIM), keys(2, 0).bfloat16().requires_grad_()
    queue.enqueue(new)
    assert torch.equal(queue.keys[:2], new.detach().float())
    assert queue.keys.dtype == torch.float32
    assert not queue.keys.requires_grad


def test_state_continues_in_the_middle_of_a_lap() -> None:
    queue = Queue(12, DIM)
    for seed in range(4):
        queue.enqueue(keys(4, seed))
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    resumed = Queue(12, DIM, seed=9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for one in (queue, resumed):
        one.enqueue(keys(4, 4))
    assert torch.equal(resumed.keys, queue.keys)
    assert torch.equal(resumed.pointer, queue.pointer)
    assert set(queue.state_dict()) == {"keys", "pointer"}


def test_writes_into_the_buffers_that_others_hold() -> None:
    """The guard against NaN keeps references to buffers from the start of training and restores them in place."""
    queue = Queue(4, DIM)
    held = dict(queue.named_buffers())
    queue.enqueue(keys(2, 0))
    assert held["keys"] is queue.keys
    assert torch.equal(held["keys"][:2], keys(2, 0))
    assert int(held["pointer"]) == 2


def test_never_waits_for_the_device() -> None:
    """Tensors without values: whatever needs one, as an index or a condition on the host would, fails."""
    queue = Queue(12, DIM).to("meta")
    queue.enqueue(torch.empty(4, DIM, device="meta"))
    assert queue.keys.shape == (12, DIM)
    with pytest.raises(RuntimeError, match=r"meta|item"):
        queue.pointer.item()


@pytest.mark.parametrize(("size", "batch", "fitting"), [(16384, 48, 16368), (8, 32, 32), (100, 64, 128)])
def test_a_batch_that_does_not_divide_the_queue_is_named(size: int, batch: int, fitting: int) -> None:
    with pytest.raises(
        SettingError, match=rf"model.contrast.queue_size {size} .* {batch} keys.*to {fitting}, or data.batch_size"
    ):
        Queue(size, 2).check(batch)
    Queue(fitting, 2).check(batch)


def test_dividing_batches_pass_and_empty_queues_do_not() -> None:
    for batch in (1, 4, 12):
        Queue(12, DIM).check(batch)
    with pytest.raises(SettingError, match=r"model.contrast.queue_size is 0"):
        Queue(0, DIM)


@pytest.mark.parametrize(("samples", "size"), [(20, 34), (20, 92), (40, 24), (40, 40)])
def test_own_keys_are_counted(samples: int, size: int) -> None:
    """The formula against counting in a queue over epochs in random order."""
    generator, seen, found = np.random.default_rng(0), [], []
    for epoch in range(400 * 20 // samples):
        for video in generator.permutation(samples):
            if epoch > size / samples + 1:
                found.append(seen[-size:].count(video))
            seen.append(video)
    # The query itself stands between, which the formula leaves out.
    assert own_keys(size, samples, samples) == pytest.approx(np.mean(found), abs=1.5 / samples)


def messages(run: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(one.message) for one in caught if "queue_size" in str(one.message)]


@pytest.mark.parametrize(("name", "warns"), [("MoCo", True), ("SkeletonContrast", True), ("TubeletContrast", False)])
def test_a_queue_that_holds_the_querys_own_video_is_named_before_the_first_step(name: str, warns: bool, tmp_path: Path) -> None:
    """Negatives of TubeletContrast are other tubelets, also over the same video."""
    case = next(case for case in METHODS if case.name == name)
    trainer = make_trainer(tmp_path, [], 5, limit_val_batches=0, max_steps=1)
    found = messages(lambda: trainer.fit(case.build(), datamodule=case.data(4, 12, 4)))
    assert len(found) == warns
    if warns:
        # 32 keys, 12 samples: 32 / 12 - 1 / 2.
        assert found[0].startswith("model.contrast.queue_size 32 is 2.7 times the 12 training samples, so 2.2 of the negatives")
        assert "set it to 5 or less" in found[0]


@pytest.mark.parametrize(
    ("samples", "size", "epochs", "share"),
    [
        # UCF101 and HMDB51, split 1; Mini-Kinetics and NTU RGB+D 60, for which the recipes are; one epoch sees each video once.
        (9537, 16384, 100, "1.2"),
        (3570, 16384, 100, "4.1"),
        (3570, 16384, 2, "1"),
        (79_900, 16384, 100, None),
        (40_091, 16384, 451, None),
        (3570, 16384, 1, None),
        (3570, 0, 100, None),
    ],
)
def test_only_a_queue_that_is_too_long_is_named(samples: int, size: int, epochs: int, share: str | None) -> None:
    contrast = MomentumContrast(tiny_cnn(), ContrastSettings(queue_size=size, out_dim=4))
    loader = SimpleNamespace(dataset=range(samples))
    data = SimpleNamespace(batch_size=8)
    trainer: Any = SimpleNamespace(
        train_dataloader=loader, datamodule=data, world_size=4, num_training_batches=samples // 32, max_epochs=epochs
    )
    found = messages(lambda: contrast.check_data(trainer))
    assert [f"so {share} of the negatives of each query" in line for line in found] == ([True] if share else [])

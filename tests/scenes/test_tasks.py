"""What generated clips show is what their labels say."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from datamodules.generated.tasks import SyntheticTasks
from datamodules.loading.loader import SampleKey
from modules.core.errors import SettingError
from modules.scenes.classes import Change, Draws
from modules.scenes.tasks.motions import CHANGES, CLASS_NAMES, HEADINGS, ORDERS, PARTS, SPEED_SPREAD, SPEEDS, Task, make_task

FRAMES, COUNT = 25, 240
TIME = torch.linspace(0, 1, FRAMES, dtype=torch.float64)


def changed(task: Task) -> tuple[Tensor, Change]:
    """Labels, and what the motion adds to the start of each clip."""
    index = torch.arange(COUNT)
    label = index % len(CLASS_NAMES[task])
    return label, CHANGES[task](Draws(0, "train", index), label, TIME)


def steps(change: Change) -> Tensor:
    """Way from frame to frame, [N, T - 1]."""
    return change.shift.diff(dim=1).norm(dim=-1)


def test_speed_is_that_of_the_class() -> None:
    label, change = changed("speed")
    ratio = change.shift[:, -1].norm(dim=-1) / torch.tensor(SPEEDS, dtype=torch.float64)[label]
    assert ((ratio - 1).abs() <= SPEED_SPREAD).all()
    torch.testing.assert_close(steps(change), steps(change)[:, :1].expand(-1, FRAMES - 1))


def test_objects_move_in_the_quarter_of_their_class_alone() -> None:
    label, change = changed("phase")
    moving = (steps(change) > 1e-9).unflatten(1, (4, 6))
    torch.testing.assert_close(moving.double().mean(2), torch.nn.functional.one_hot(label, 4).double())


def test_headings_are_those_of_the_classes() -> None:
    label, change = changed("direction")
    x, y = change.shift[:, -1].unbind(-1)
    heading = torch.rad2deg(torch.atan2(y, x)).remainder(360).round()
    assert torch.equal(heading.remainder(360), 360.0 / HEADINGS * label.double())


def test_parts_come_in_the_order_of_the_class() -> None:
    label, change = changed("order")
    parts = {"travel": steps(change), "turn": change.turn.diff(dim=1), "grow": change.growth.diff(dim=1)}
    third = torch.stack([parts[name].unflatten(1, (3, 8)).sum(2).argmax(1) for name in PARTS], 1)
    assert [[order.index(part) for part in PARTS] for order in (ORDERS[number] for number in label.tolist())] == third.tolist()
    # Each part takes its own third, and nothing else happens then.
    assert all(((value.unflatten(1, (3, 8)).abs().sum(2) > 1e-9).sum(1) == 1).all() for value in parts.values())


def test_objects_slow_down() -> None:
    _, change = changed("slowing")
    assert (steps(change).diff(dim=1) < 0).all()


def test_two_motions_have_two_labels() -> None:
    clips = make_task("several", 52, 4, 16, "train", 0)
    assert clips.label.sum(1).tolist() == [2] * 52
    assert (clips.label.sum(0) >= 4).all()


@pytest.mark.parametrize("task", CLASS_NAMES)
def test_a_clip_depends_on_its_number_split_and_seed_alone(task: Task) -> None:
    clips = make_task(task, 6, 4, 16, "train", 3)
    few = make_task(task, 4, 4, 16, "train", 3)
    assert torch.equal(clips.video[:4], few.video)
    assert torch.equal(clips.label[:4], few.label)
    others = [make_task(task, 6, 4, 16, "val", 3), make_task(task, 6, 4, 16, "train", 4)]
    assert all(not torch.equal(one.video, other.video) for one, other in pairwise([clips, *others]))


def test_batches_have_the_labels_of_their_clips() -> None:
    data = SyntheticTasks("speed", batch_size=4, train_videos=8, val_videos=4, probe_samples=6)
    data.setup("fit")
    assert len(data.train_dataloader()) == 2
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch.label, batch.index % 4)
    assert batch.stream("video").data.shape == (4, 1, 16, 32, 32, 3)
    probe = data.dataset("probe").__getitems__([SampleKey(0, 5)])
    train = data.dataset("train").__getitems__([SampleKey(0, 5)])
    assert torch.equal(probe.stream("video").data, train.stream("video").data)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SettingError, match="an epoch would have no full batch"):
        SyntheticTasks("speed", batch_size=64, train_videos=8)

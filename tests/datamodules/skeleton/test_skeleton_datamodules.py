"""Data modules of skeletons: splits, batches, fractions of the training set, generated people, and resuming."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from datamodules import NTU60, NTUVideos, SyntheticSkeleton
from datamodules.settings import LoadSettings, ReadSettings, RecordingSubset
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.skeleton.raw import NTU_NAME, NTUName, parse_ntu_name
from datamodules.skeleton.splits import NTU60_SUBJECTS, NTU120_SUBJECTS, TRAINS, is_ntu60, missing_samples
from datamodules.skeleton.store import join_parts, write_part
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from modules.scenes.classes import Draws
from modules.scenes.skeletons import ACTIONS, BONES, draw_proportions, make_skeletons
from tests.datamodules.sets.trees import put

CLIP = SkeletonClipSettings(frames=8, clips=2)
pytestmark = pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
SMALL: dict[str, Any] = {"clip": CLIP, "batch_size": 8, "train_clips": 44, "val_clips": 13, "probe_samples": 10}


def ready(**settings: Any) -> SyntheticSkeleton:
    data = SyntheticSkeleton(**(SMALL | settings))
    data.setup("fit")
    return data


def batches(data: SyntheticSkeleton, epoch: int = 0) -> list[dict[str, Tensor]]:
    loader = data.train_dataloader()
    loader.batches.sampler.set_epoch(epoch)
    return list(loader)


def test_people_of_training() -> None:
    assert len(NTU60_SUBJECTS) == 20
    assert max(NTU60_SUBJECTS) <= 40
    assert len(NTU120_SUBJECTS) == 53
    assert max(NTU120_SUBJECTS) <= 106
    assert {subject for subject in NTU120_SUBJECTS if subject <= 40} == NTU60_SUBJECTS


def test_samples_that_are_missing() -> None:
    missing = missing_samples()
    assert len(missing) == len(set(missing)) == 535
    assert all(NTU_NAME.fullmatch(name) for name in missing)
    parsed = [parse_ntu_name(name) for name in missing]
    assert all(is_ntu60(name) for name in parsed[:302])
    assert not any(is_ntu60(name) for name in parsed[302:])


def test_benchmarks_split_people_cameras_and_setups() -> None:
    def sample(setup: int = 1, camera: int = 1, performer: int = 3) -> NTUName:
        return NTUName(setup, camera, performer, 1, 1)

    assert sum(TRAINS["xsub"](sample(performer=number)) for number in range(1, 41)) == 20
    assert sum(TRAINS["xsub"](sample(performer=number)) for number in range(1, 107)) == 53
    assert [TRAINS["xview"](sample(camera=number)) for number in (1, 2, 3)] == [False, True, True]
    assert [number for number in range(1, 33) if TRAINS["xset"](sample(setup=number))] == list(range(2, 33, 2))


def write_store(root: Path, count: int = 40) -> Path:
    """Recordings of ten classes by eight people."""
    clips = []
    for number in range(count):
        name = f"S001C001P{number % 8 + 1:03d}R001A{number % 10 + 1:03d}"
        joints = np.full((20, 3, 25, 2), number, np.float32)
        clips.append((name, number % 10, joints))
    root.mkdir()
    write_part(root / "part.npz", clips, [])
    join_parts([root / "part.npz"], root, {"dataset": "ntu", "source_sha256": "s"})
    return root


def chosen(root: Path, subset: RecordingSubset = RecordingSubset()) -> list[int]:  # noqa: B008
    data = NTU60(str(root), clip=CLIP, batch_size=1, reading=LoadSettings(0), subset=subset)
    data.setup("fit")
    assert data.split is not None
    return data.split.train.tolist()


def test_shares_of_the_training_set(tmp_path: Path) -> None:
    root = write_store(tmp_path / "store")
    # People 1, 2, 4, 5 and 8 train.
    everything = chosen(root)
    assert everything == [number for number in range(40) if number % 8 + 1 in (1, 2, 4, 5, 8)]
    some = chosen(root, RecordingSubset(0.21))
    assert len(some) == int(25 * 0.21) == 5
    assert set(some) < set(everything)
    assert some == chosen(root, RecordingSubset(0.21)) != chosen(root, RecordingSubset(0.21, seed=1))
    # Of every class, rounded up.
    each = chosen(root, RecordingSubset(0.21, per_class=True))
    assert sorted(number % 10 for number in each) == list(range(10))
    with pytest.raises(SettingError, match=r"data\.subset\.fraction"):
        chosen(root, RecordingSubset(0))
    with pytest.raises(SettingError, match=r"data.batch_size 1 .* 0 training recordings"):
        chosen(root, RecordingSubset(0.01))


def test_batches_follow_the_contract(tmp_path: Path) -> None:
    data = NTU60(str(write_store(tmp_path / "store")), clip=CLIP, batch_size=4, reading=LoadSettings(2), seed=1)
    data.setup("fit")
    loader = data.train_dataloader()
    batch = next(iter(loader))
    assert len(loader) == 25 // 4
    assert batch.kinds == data.streams == {"skeleton": "skeleton"}
    assert batch.stream("skeleton").data.shape == (4, 2, 3, 8, 25, 2)
    # The index refers to the split, not to the store.
    rows = data.split.train[batch.index.numpy()]
    assert batch.stream("skeleton").data[:, 0, 0, 0, 0, 0].tolist() == rows.tolist()
    assert batch.label.tolist() == (rows % 10).tolist()
    val = torch.cat([batch.index for batch in data.val_dataloader()])
    assert val.tolist() == list(range(15))
    assert data.num_classes == 60
    other = NTU60(data.root, "xview", clip=CLIP, batch_size=1)
    with pytest.raises(SettingError, match="0 training recordings"):
        other.setup("fit")


def test_generated_recordings_are_what_their_settings_say() -> None:
    data = ready()
    assert (data.num_classes, data.class_names) == (12, list(ACTIONS))
    found = batches(data)
    assert len(found) == 44 // 8
    assert found[0].stream("skeleton").data.shape == (8, 2, 3, 8, 25, 2)
    assert all(batch.stream("skeleton").data.isfinite().all() for batch in found)
    length = data.split.recordings.length
    assert length.min() >= 45
    assert length.max() <= 150
    # Joint 1 of the first person is the origin, as in real recordings.
    assert not found[0].stream("skeleton").data[:, :, :, :, 1, 0].any()
    assert sum(len(batch.index) for batch in data.val_dataloader()) == 13
    assert sum(len(batch.index) for batch in data.probe_dataloader()) == 10


def test_generated_recordings_are_a_function_of_the_seed_and_their_number() -> None:
    first, again, other = ready(), ready(), ready(seed=1)
    assert all(
        torch.equal(one.stream("skeleton").data, two.stream("skeleton").data)
        for one, two in zip(batches(first), batches(again), strict=True)
    )
    assert not torch.equal(batches(first)[0].stream("skeleton").data, batches(other)[0].stream("skeleton").data)
    assert not torch.equal(batches(first)[0].stream("skeleton").data, batches(first, epoch=1)[0].stream("skeleton").data)
    alone = make_skeletons(2, "train", 0, first=5)
    many = make_skeletons(8, "train", 0)
    assert torch.equal(alone.joints, many.joints[5:7])
    assert first.manifest_hash == again.manifest_hash != other.manifest_hash


def test_generated_bodies_hold_together() -> None:
    made = make_skeletons(40, "train", 0, noise=0.0)
    for joint, parent, _, offset in BONES:
        bone = (made.joints[:, 0, :, joint] - made.joints[:, 0, :, parent]).norm(dim=-1)
        for length, frames in zip(bone, made.length.tolist(), strict=True):
            # A bone keeps its length, which is near that of a person of 1.7 m.
            assert length[:frames].amax() - length[:frames].amin() < 1e-5
            assert 0.7 < length[0] / np.linalg.norm(offset) < 1.3
            assert not length[frames:].any()
    second = made.joints[:, 1].flatten(1).any(1)
    assert 0 < second.sum() < 20
    # The second person sways, the first one acts.
    moved = [
        (joints[:, :frames] - joints[:, :1]).norm(dim=-1).amax((1, 2))
        for joints, frames, there in zip(made.joints, made.length.tolist(), second, strict=True)
        if there
    ]
    assert all(acting > standing for acting, standing in moved)


def test_training_and_validation_share_no_body() -> None:
    numbers = torch.arange(300)
    train, val = (draw_proportions(Draws(0, split, numbers)) for split in ("train", "val"))
    for name, values in train.items():
        # Values of both halves cover the same range, but never coincide.
        gaps = (values[:, None] - val[name][None]).abs()
        assert gaps.min() > 0.003, name
        assert gaps.amin(1).max() < 0.05, name


def test_opposite_actions_show_the_same_poses() -> None:
    # Raising and lowering, circles forwards and backwards: the mean poses are similar, their changes are not.
    made = make_skeletons(240, "train", 0, second_person=0.0, noise=0.0)
    wrist = made.joints[:, 0, :, [6, 10], 1] - made.joints[:, 0, :, [1], 1]
    names = [ACTIONS[label] for label in made.action.tolist()]
    rises, means = {}, {}
    for name in ("raise_arms", "lower_arms"):
        rows = [row for row, found in enumerate(names) if found == name]
        last = made.length[rows] - 1
        rises[name] = (wrist[rows, last] - wrist[rows, 0]).mean()
        means[name] = torch.stack([wrist[row, : int(end)].mean() for row, end in zip(rows, last, strict=True)]).mean()
    assert rises["raise_arms"] > 0.2
    assert rises["lower_arms"] < -0.2
    assert abs(means["raise_arms"] - means["lower_arms"]) < 0.2


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"batch_size": 0}, "data.batch_size"),
        ({"batch_size": 45}, "data.batch_size"),
        ({"train_clips": 0}, "data.train_clips"),
        ({"second_person": 1.5}, "data.second_person"),
        ({"probe_samples": 0}, "data.probe_samples"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError, match=name):
        ready(**settings)


class Listener(lightning.LightningModule):
    """Records its training samples."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.stop_after = stop_after
        self.seen: list[Tensor] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch.stream("skeleton").data)
        return self.layer(batch.stream("skeleton").data.mean().reshape(1, 1)).mean()

    def on_train_batch_end(self, *_: object) -> None:
        self.trainer.should_stop = self.trainer.fit_loop.total_batch_idx + 1 == self.stop_after

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(module: Listener, folder: Path, workers: int, ckpt_path: Path | None = None) -> None:
    lightning.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=folder, limit_val_batches=0,
        callbacks=[ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)],
    ).fit(module, datamodule=ready(reading=LoadSettings(workers)), ckpt_path=ckpt_path, weights_only=True)  # fmt: skip


def test_a_run_goes_on_with_the_next_crops(tmp_path: Path) -> None:
    whole, first, second = Listener(), Listener(stop_after=7), Listener()
    fit(whole, tmp_path / "whole", 0)
    fit(first, tmp_path / "part", 1)
    fit(second, tmp_path / "part", 0, tmp_path / "part/last.ckpt")
    assert len(whole.seen) == 2 * (44 // 8)
    assert len(first.seen) == 7
    assert all(torch.equal(one, two) for one, two in zip(whole.seen, first.seen + second.seen, strict=True))


def test_videos_are_split_as_skeletons(tmp_path: Path, one_video: Path) -> None:
    for name in ("S001C001P001R001A005", "S001C002P003R001A060", "S018C003P003R001A061"):
        put(one_video, tmp_path / f"nturgb+d_rgb_{name[:4]}" / f"{name}_rgb.avi")
    put(one_video, tmp_path / "other.avi")
    size: dict[str, Any] = {"clip": ClipSettings(frames=4, size=32), "batch_size": 1, "reading": ReadSettings(0)}
    expected = {
        "ntu60_xsub": ([4], [59]),
        "ntu60_xview": ([59], [4]),
        "ntu120_xsub": ([4], [59, 60]),
        "ntu120_xset": ([60], [4, 59]),
    }
    for benchmark, (train, val) in expected.items():
        data = NTUVideos(str(tmp_path), benchmark=benchmark, **size)
        data.setup("fit")
        assert (data.train_manifest.labels.tolist(), data.val_manifest.labels.tolist()) == (train, val)
    batch = next(iter(data.train_dataloader()))
    assert batch.stream("video").data.shape == (1, 1, 4, 32, 32, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=r"data\.root"):
        NTUVideos(str(tmp_path / "empty"), **size).setup("fit")

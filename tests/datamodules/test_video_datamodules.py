"""Data modules on trees of small real files, some of them broken."""

import os
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from datamodules import Kinetics400, MiniKinetics, SSv2, VideoFolder
from datamodules.base import VideoDataModule
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from tests.datamodules.video_files import write_video
from tests.methods import METHODS

CLIP = ClipSettings(frames=4, stride=2, size=32)
VIDEOS_DIR = Path(os.environ.get("VIDEOS_DIR", Path(__file__).parents[3] / "shared" / "videos"))


@pytest.fixture(scope="module")
def one_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "one.mp4", frames=40)


@pytest.fixture
def tree(tmp_path: Path, one_video: Path) -> Path:
    """Six training videos of three classes, three for validation."""
    for split, count in (("train", 6), ("val", 3)):
        for number in range(count):
            put(one_video, tmp_path / split / f"class {number % 3}" / f"{split}{number}.mp4")
    return tmp_path


def put(video: Path, where: Path) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    where.hardlink_to(video)


def ready(data: VideoDataModule) -> VideoDataModule:
    data.setup("fit")
    return data


def folder(root: Path, workers: int = 0, **settings: Any) -> VideoDataModule:
    return ready(VideoFolder(str(root), **({"clip": CLIP, "batch_size": 3, "num_workers": workers, "seed": 1} | settings)))


def batches(data: VideoDataModule, epoch: int = 0) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_equal(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("video", "index", "label", "time", "substituted"):
            assert torch.equal(one[name], other[name]), name


def test_batches_do_not_depend_on_the_number_of_workers(tree: Path) -> None:
    reference = batches(folder(tree))
    for workers in (1, 4):
        assert_equal(reference, batches(folder(tree, workers)))
    assert not torch.equal(reference[0]["video"], batches(folder(tree), epoch=1)[0]["video"])


def test_batch_contract(tree: Path) -> None:
    data = folder(tree, clip=ClipSettings(frames=4, stride=2, size=32, clips=2, repeat=3))
    batch = batches(data)[0]
    assert batch["video"].dtype == torch.uint8
    assert batch["video"].shape == (3, 6, 4, 32, 32, 3)
    assert batch["time"].shape == (3, 6, 2)
    assert batch["label"].tolist() == [index // 2 for index in batch["index"].tolist()]
    assert len(batch["decode_ms"]) == 3
    assert data.class_names == ["class 0", "class 1", "class 2"]
    # Copies of a clip share frames, not the crop.
    first, again = batch["video"][0, 0], batch["video"][0, 1]
    assert torch.equal(batch["time"][0, 0], batch["time"][0, 1])
    assert not torch.equal(first, again)


def test_validation_takes_the_middle_of_every_video_once(tree: Path) -> None:
    data = folder(tree, batch_size=2)
    seen = [index for batch in data.val_dataloader() for index in batch["index"].tolist()]
    assert seen == [0, 1, 2]
    first, again = (next(iter(data.val_dataloader()))["video"] for _ in range(2))
    assert torch.equal(first, again)


def test_probe_loader_picks_videos_evenly(tree: Path) -> None:
    data = folder(tree, probe_samples=3)
    labels = [label for batch in data.probe_dataloader() for label in batch["label"].tolist()]
    assert labels == [0, 1, 2]


def test_kinetics_from_folders_and_from_lists(tree: Path) -> None:
    with pytest.warns(UserWarning, match="Kinetics400 has 400 classes, the train split .* has 3"):
        data = ready(Kinetics400(str(tree), clip=CLIP, batch_size=2))
    assert data.train_manifest is not None
    assert data.train_manifest.labels.tolist() == [0, 0, 1, 1, 2, 2]
    (tree / "train.csv").write_text("train/class 0/train0 7\ntrain/class 1/train1 399\n")
    data = ready(Kinetics400(str(tree), clip=CLIP, batch_size=2, num_workers=0))
    assert data.train_manifest is not None
    assert data.train_manifest.labels.tolist() == [7, 399]
    assert next(iter(data.train_dataloader()))["video"].shape == (2, 1, 4, 32, 32, 3)


def test_mini_kinetics(tree: Path) -> None:
    (tree / "train_mini1.txt").write_text("train0 1\ntrain1 200\n")
    data = ready(MiniKinetics(str(tree), clip=CLIP, batch_size=2))
    assert data.train_manifest is not None
    assert data.train_manifest.paths == ["train/class 0/train0.mp4", "train/class 1/train1.mp4"]
    assert data.train_manifest.labels.tolist() == [0, 199]
    assert data.val_dataloader() == []


def test_something_something(tmp_path: Path, one_video: Path) -> None:
    for number in (1, 2):
        put(one_video, tmp_path / "20bn" / f"{number}.mp4")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/labels.json").write_text('{"Moving something": "5"}')
    (tmp_path / "labels/train.json").write_text(
        '[{"id": "1", "template": "Moving [something]"}, {"id": "2", "template": "Moving [something]"}]'
    )
    data = ready(SSv2(str(tmp_path), clip=ClipSettings(frames=4, size=32, sampling="segment"), batch_size=2, num_workers=0))
    assert next(iter(data.train_dataloader()))["label"].tolist() == [5, 5]


def test_broken_files_are_replaced_alike_and_reported_once(tree: Path) -> None:
    broken = tree / "train/class 1/train1.mp4"
    broken.unlink()
    broken.write_bytes(b"this is no video")
    runs = []
    for workers in (0, 2):
        data = folder(tree, workers)
        assert data.faults is not None
        data.faults.write_to(tree / f"run{workers}")
        runs.append(batches(data) + batches(data, epoch=1))
        lines = (tree / f"run{workers}/bad_videos.tsv").read_text().splitlines()
        assert lines[0] == "row\tpath\treason"
        assert len(lines) == 2
        assert "class 1/train1.mp4" in lines[1]
        restored = folder(tree)
        restored.load_state_dict(data.state_dict())
        assert restored.faults is not None
        assert restored.faults.bad == data.faults.bad
    assert_equal(*runs)
    substituted = torch.cat([batch["substituted"] for batch in runs[0]])
    index = torch.cat([batch["index"] for batch in runs[0]])
    # The broken file is row 2 of the sorted paths; its place is taken, and says so, once in each epoch.
    assert index[substituted >= 0].tolist() == [2, 2]


def test_too_many_broken_files_stop_the_run_with_their_list(tmp_path: Path, one_video: Path) -> None:
    for number in range(110):
        put(one_video, tmp_path / "videos" / f"{number:03d}.mp4")
    for number in range(0, 110, 10):
        (tmp_path / "videos" / f"{number:03d}.mp4").unlink()
        (tmp_path / "videos" / f"{number:03d}.mp4").write_bytes(b"")
    data = folder(tmp_path / "videos", batch_size=10, clip=ClipSettings(frames=2, stride=1, size=32))
    with pytest.raises(SettingError, match=r"more than data\.max_bad_fraction 0\.05 allows.*\.mp4 \(empty file\)"):
        batches(data)
    tolerant = folder(tmp_path / "videos", batch_size=10, clip=ClipSettings(frames=2, stride=1, size=32), max_bad_fraction=0.2)
    assert len(batches(tolerant)) == 11


def test_report_lies_in_the_folder_of_the_run(tree: Path) -> None:
    (tree / "train/class 0/empty.mp4").write_bytes(b"")
    data = VideoFolder(str(tree), clip=CLIP, batch_size=3, num_workers=0)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=tree / "run",
    )  # fmt: skip
    trainer.fit(METHODS[0].build(), datamodule=data)
    assert "class 0/empty.mp4\tempty file" in (tree / "run/bad_videos.tsv").read_text()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: VideoFolder(str(root / "gone")), r"data\.root is .*gone, which is not a folder"),
        (lambda root: VideoFolder(str(root / "empty")), r"data\.root is .*empty, which holds no video"),
        (lambda root: VideoFolder(str(root), batch_size=7), r"data\.batch_size 7 on 1 device\(s\) is more than the 6"),
        (lambda root: SSv2(str(root)), r"No list of training videos was found in .*; set data\.train_list"),
        (lambda root: MiniKinetics(str(root)), r"No list of training videos"),
        (lambda root: VideoFolder(str(root), train_list=str(root / "no.csv")), r"no\.csv does not exist"),
    ],
)
def test_wrong_settings(make: Any, message: str, tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(SettingError, match=message):
        make(tree).setup("fit")


def test_real_files(tmp_path: Path) -> None:
    if not VIDEOS_DIR.is_dir():
        pytest.skip(f"no videos at {VIDEOS_DIR}; set VIDEOS_DIR to a folder of real video files")

    def read(workers: int) -> list[dict[str, Any]]:
        data = folder(VIDEOS_DIR, workers, clip=ClipSettings(frames=8, stride=4, size=64), batch_size=4)
        assert data.faults is not None
        data.faults.write_to(tmp_path / str(workers))
        return batches(data)

    reference = read(0)
    for workers in (1, 4):
        assert_equal(reference, read(workers))
    report = (tmp_path / "4/bad_videos.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in report] == ["corrupted.mp4"]
    moving: Tensor = torch.cat([batch["video"].float().std(2).mean((1, 2, 3, 4)) for batch in reference])
    # Some begin with seconds of a still picture.
    assert (moving > 0).sum() >= 8

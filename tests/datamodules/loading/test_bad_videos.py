"""Broken files in all data modules: they are replaced in the same way, reported once, and too many of them stop the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import VideoFolder
from datamodules.base import VideoDataModule
from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedStrings
from datamodules.loading.faults import FaultLog
from datamodules.settings import ReadSettings
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from modules.core.batch import Batch, Reading
from modules.core.errors import SettingError
from tests.datamodules.sets.trees import CLIP, assert_equal, batches, fit, folder, put

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*worker processes in total"),
    pytest.mark.filterwarnings("ignore:You passed in a .val_dataloader."),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


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
        assert lines == ["path\tsplit\treason", "class 1/train1.mp4\ttrain\tcannot open"]
    assert_equal(*runs)
    substituted = torch.cat([batch.substituted for batch in runs[0]])
    index = torch.cat([batch.index for batch in runs[0]])
    # The broken file is row 2 of the sorted paths; it is replaced and marked once in each epoch.
    assert index[substituted >= 0].tolist() == [2, 2]


def test_a_substitute_has_its_own_label(tmp_path: Path) -> None:
    for shade in (0, 255):
        (tmp_path / f"{shade:03d}").mkdir()
        Image.new("RGB", (64, 48), (shade, shade, shade)).save(tmp_path / f"{shade:03d}/picture.png")
    (tmp_path / "255/broken.mp4").write_bytes(b"")
    substitutes = []
    for epoch in range(8):
        (batch,) = batches(folder(tmp_path), epoch)
        assert (batch.stream("video").data.flatten(1).float().mean(1) / 255).tolist() == batch.label.tolist()
        substitutes += batch.label[batch.substituted >= 0].tolist()
    # The draw depends on the epoch and includes both files; the label is not that of the broken file.
    assert len(substitutes) == 8
    assert set(substitutes) == {0, 1}


def test_too_many_broken_files_stop_the_run_with_their_list(tmp_path: Path, one_video: Path) -> None:
    for number in range(110):
        put(one_video, tmp_path / "videos" / f"{number:03d}.mp4")
    for number in range(0, 110, 10):
        (tmp_path / "videos" / f"{number:03d}.mp4").unlink()
        (tmp_path / "videos" / f"{number:03d}.mp4").write_bytes(b"")
    data = folder(tmp_path / "videos", batch_size=10, clip=ClipSettings(frames=2, sampler=Dense(1), size=32))
    with pytest.raises(SettingError, match=r"more than data\.reading\.max_bad_fraction 0\.05 allows.*\.mp4 \(empty file\)"):
        batches(data)
    clip, tolerance = ClipSettings(frames=2, sampler=Dense(1), size=32), ReadSettings(0, max_bad_fraction=0.2)
    tolerant = folder(tmp_path / "videos", batch_size=10, clip=clip, reading=tolerance)
    assert len(batches(tolerant)) == 11
    # Through a trainer and workers the same error is raised, and the report lists the broken files.
    data = VideoFolder(
        str(tmp_path / "videos"), clip=ClipSettings(frames=2, sampler=Dense(1), size=32), batch_size=10, reading=ReadSettings(2)
    )
    with pytest.raises(SettingError, match=r"more than data\.reading\.max_bad_fraction .*All are listed in .*bad_videos\.tsv"):
        fit(data, tmp_path / "run")
    assert len((tmp_path / "run/bad_videos.tsv").read_text().splitlines()) > 6


@pytest.mark.parametrize("workers", [0, 2])
def test_report_lies_in_the_folder_of_the_run(workers: int, tree: Path) -> None:
    broken = tree / "train/class 0/empty.mp4"
    broken.write_bytes(b"")
    settings: dict[str, Any] = {"clip": CLIP, "batch_size": 7, "reading": ReadSettings(workers)}
    module = fit(VideoFolder(str(tree), **settings), tree / "run")
    expected = ["path\tsplit\treason", "class 0/empty.mp4\ttrain\tempty file"]
    assert (tree / "run/bad_videos.tsv").read_text().splitlines() == expected
    # Both epochs read all seven files; only the empty one is marked.
    assert sorted(module.substituted) == sorted([(0, 0), (0, 0)] + [(row, -1) for row in range(1, 7)] * 2)
    # A resumed run still lists the file, although it does not read it again.
    broken.unlink()
    put(tree / "train/class 0/train0.mp4", broken)
    fit(VideoFolder(str(tree), **settings), tree / "run", epochs=3, ckpt_path=tree / "run/last.ckpt")
    assert (tree / "run/bad_videos.tsv").read_text().splitlines() == expected


def test_every_run_has_its_own_report(tree: Path) -> None:
    broken = tree / "train/class 0/empty.mp4"
    broken.write_bytes(b"")
    data = VideoFolder(str(tree), clip=CLIP, batch_size=7, reading=ReadSettings(0))
    fit(data, tree / "first")
    broken.unlink()
    put(tree / "train/class 0/train0.mp4", broken)
    (tree / "train/class 1/train1.mp4").unlink()
    fit(data, tree / "second")
    assert "empty.mp4" in (tree / "first/bad_videos.tsv").read_text()
    assert (tree / "second/bad_videos.tsv").read_text().splitlines()[1:] == ["class 1/train1.mp4\ttrain\tfile not found"]


def test_broken_validation_videos_are_reported_and_count_for_no_share(tree: Path) -> None:
    for name in ("train/class 0/train0.mp4", "val/class 0/val0.mp4", "val/class 1/val1.mp4"):
        (tree / name).unlink()
    # The same path in both splits, and only one of them broken.
    put(tree / "train/class 2/train2.mp4", tree / "train/class 0/val0.mp4")
    (tree / "val/class 0").mkdir(exist_ok=True)
    (tree / "val/class 0/val0.mp4").write_bytes(b"")
    data = folder(tree, batch_size=2)
    assert data.faults is not None
    data.faults.write_to(tree / "run")
    first = list(data.val_dataloader())
    assert [batch.substituted.tolist() for batch in first] == [[0, -1]]
    # Substitutes of evaluation are the same in every epoch.
    loader = data.val_dataloader()
    loader.batches.sampler.set_epoch(5)
    assert_equal(first, list(loader))
    lines = (tree / "run/bad_videos.tsv").read_text().splitlines()[1:]
    assert lines == ["class 0/val0.mp4\tval\tempty file"]
    # Probes read training files, which count when training reads them.
    (tree / "train/class 1/train1.mp4").unlink()
    list(data.probe_dataloader())
    lines = (tree / "run/bad_videos.tsv").read_text().splitlines()[1:]
    assert lines == ["class 0/val0.mp4\tval\tempty file", "class 1/train1.mp4\ttrain\tfile not found"]
    assert not data.faults._seen.any()


def test_validation_stops_where_nothing_can_be_read(tree: Path) -> None:
    for file in (tree / "val").rglob("*.mp4"):
        file.unlink()
        file.write_bytes(b"")
    with pytest.raises(SettingError, match=r"Several videos .*\(empty file\)"):
        list(folder(tree).val_dataloader())


def test_states_of_earlier_versions_are_not_misread(tree: Path) -> None:
    """They can be tested, but training cannot resume from a number of batches of unknown size."""
    data = folder(tree)
    assert set(data.state_dict()) == {"loader"}
    data.load_state_dict({"faults": {"bad": {2: "cannot open"}, "seen": [2]}, "loader": {"epoch": 0, "batches": 1}})
    assert data.faults is not None
    assert not data.faults.bad
    assert list(data.val_dataloader())
    with pytest.raises(SettingError, match="older version, which did not save how many samples were seen"):
        data.train_dataloader()


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (0, 2)])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_run_goes_on_in_the_middle_of_an_epoch(before: int, after: int, stop_after: int, tree: Path) -> None:
    def data(workers: int) -> VideoDataModule:
        return VideoFolder(str(tree), clip=CLIP, batch_size=2, reading=ReadSettings(workers))

    whole = fit(data(before), tree / "whole")
    first = fit(data(before), tree / "part", stop_after=stop_after)
    resumed = data(after)
    second = fit(resumed, tree / "part", ckpt_path=tree / "part/last.ckpt")
    assert first.substituted + second.substituted == whole.substituted
    # A new run with the same data module starts from the beginning.
    assert fit(resumed, tree / "new").substituted == whole.substituted


def test_the_first_broken_file_is_told_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = Manifest(tmp_path, PackedStrings(["1.mp4", "2.mp4"]), np.zeros(2, np.int64))
    log = FaultLog(0.5)
    log.write_to(tmp_path)

    def record(row: int, reason: str, unreplaced: bool = False) -> None:
        reading = Reading(faults=[(row, reason)], unreplaced=[unreplaced])
        log.record(Batch(torch.tensor([row]), torch.tensor([0]), {}, reading=reading), manifest, "train", True)

    with caplog.at_level("INFO"):
        record(0, "audio: no such stream")
        record(1, "empty file")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("1.mp4 could not be read (audio: no such stream).")
    with pytest.raises(SettingError, match="on_missing mark keeps samples that lack a stream"):
        record(0, "audio: no such stream", unreplaced=True)


def test_run_stops_when_nothing_can_be_read(tree: Path) -> None:
    for file in (tree / "train").rglob("*.mp4"):
        file.unlink()
        file.write_bytes(b"")
    data = VideoFolder(str(tree), clip=CLIP, batch_size=3, reading=ReadSettings(2))
    with pytest.raises(SettingError, match=r"Several videos .*\(empty file\).*run/bad_videos\.tsv"):
        fit(data, tree / "run")
    assert "empty file" in (tree / "run/bad_videos.tsv").read_text()

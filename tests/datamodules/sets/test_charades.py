"""Charades: its official files, times of actions, and preparation, training and test."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from datamodules import Charades
from datamodules.lists.manifest import Manifest
from datamodules.loading.loader import SampleKey
from datamodules.sets.charades import Intervals, read_actions, read_class_names, read_frame_list
from datamodules.settings import ListSettings, ReadSettings
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.samplers import Timed
from datamodules.video.sampling import ClipSettings, ViewSettings
from main import main
from modules.core.errors import SettingError
from modules.downstream.classification import Classification
from modules.downstream.labels import LabelSettings
from tests.datamodules.sets.test_downstream_datasets import write
from tests.datamodules.sets.trees import batches, put, ready
from tests.registry import FRAMES, OPTIM, SIDE, tiny_cnn

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
FRAME_HEADER = "original_vido_id video_id frame_id path labels"
CLASSES = 5
LENGTH = 40 / 25
CLIP = ClipSettings(frames=FRAMES, size=SIDE, sampler=Timed(8))
SMALL: dict[str, Any] = {"clip": CLIP, "batch_size": 2, "reading": ReadSettings(0), "seed": 1}


def row(name: str, actions: str, length: float = LENGTH) -> str:
    return f'{name},S1,Kitchen,6,7,Yes,"A person, in ""the kitchen"", sits.",a;b,"He sits, or so.",{actions},{length}'


@pytest.fixture
def charades(tmp_path: Path, one_video: Path) -> Path:
    for name in ("AB1CD", "001YG", "0A8CF", "N11GT"):
        put(one_video, tmp_path / "Charades_v1_480" / f"{name}.mp4")
    write(tmp_path, "Charades/Charades_v1_classes.txt", *(f"c{label:03d} Doing {label} things" for label in range(CLASSES)))
    write(
        tmp_path, "Charades/Charades_v1_train.csv",
        HEADER, row("AB1CD", "c002 0.00 0.40;c004 0.90 30.50;c002 1.40 1.50"), row("001YG", ""),
    )  # fmt: skip
    write(tmp_path, "Charades/Charades_v1_test.csv", HEADER, row("0A8CF", "c001 0.10 0.50"), row("N11GT", "c003 0.00 9.00"))
    return tmp_path


def test_lists(charades: Path) -> None:
    data = ready(Charades(str(charades), **SMALL))
    train, val = data.train_manifest, data.val_manifest
    assert train is not None
    assert val is not None
    assert train.paths == ["Charades_v1_480/AB1CD.mp4", "Charades_v1_480/001YG.mp4"]
    # An action ends with its video at the latest; a video without action stays.
    assert train.intervals == [[(0.0, 0.4, 2), (0.9, LENGTH, 4), (1.4, 1.5, 2)], []]
    assert val.shown(0).tolist() == [0, 1, 0, 0, 0]
    assert (data.num_classes, data.class_names) == (CLASSES, [f"Doing {label} things" for label in range(CLASSES)])
    assert train.subset(np.array([1])).intervals == [[]]
    assert train.sha256() != Manifest(train.root, train.paths, train.labels, train.class_names).sha256()
    data.setup("test")
    assert data.test_manifest is val


def test_labels_of_clips_and_videos(charades: Path) -> None:
    data = ready(Charades(str(charades), **SMALL))
    assert data.train_manifest is not None
    seen = set()
    for epoch in range(6):
        for batch in batches(data, epoch):
            for index, label, (first, last) in zip(
                batch.index, batch.label, batch.stream("video").time[:, 0].tolist(), strict=True
            ):
                active = {2} if first <= 0.4 or (first <= 1.5 and last >= 1.4) else set()
                active |= {4} if last >= 0.9 else set()
                assert set(label.nonzero()[:, 0].tolist()) == (active if index == 0 else set())
                seen.add(tuple(label.tolist()))
    assert len(seen) >= 3
    (batch,) = data.val_dataloader()
    assert batch.label.dtype == torch.float32
    assert batch.label.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    # In evaluation, clips of training videos have the labels of the whole video.
    (batch,) = data.probe_dataloader()
    assert batch.label.tolist() == [[0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]


def test_several_clips_show_what_any_of_them_shows(charades: Path) -> None:
    train = ready(Charades(str(charades), **SMALL)).train_manifest
    assert train is not None
    assert train.shown(0, np.array([[0.5, 0.8]])).sum() == 0
    assert train.shown(0, np.array([[0.5, 0.8], [0.4, 0.45], [0.85, 0.95]])).tolist() == [0, 0, 1, 0, 1]


def test_a_short_video_that_is_repeated_is_seen_as_a_whole(charades: Path) -> None:
    train = ready(Charades(str(charades), **SMALL)).train_manifest
    assert train is not None
    longer = VideoClipDataset(train, ClipSettings(frames=16, size=SIDE, sampler=Timed(8)), 0, train=True)
    # 16 frames take 2 s; the 13 existing ones are followed by the first 3.
    sample = longer[SampleKey(0, 0)]
    assert sample["time"].tolist() == [[0.0, pytest.approx(LENGTH)]]
    assert sample["label"].tolist() == [0, 0, 1, 0, 1]


def frame_lines(name: str, number: int, frames: int, actions: Intervals) -> list[str]:
    lines = []
    for frame in range(frames):
        labels = sorted({label for first, last, label in actions if first <= frame / 24 <= last})
        picture = f"{name}/{name}-{frame + 1:06d}.jpg"
        lines.append(f'{name} {number} {frame} {picture} "{",".join(map(str, labels))}"')
    return lines


def test_list_of_frames_gives_the_same_actions(tmp_path: Path) -> None:
    frames = 60
    table = write(
        tmp_path, "Charades_v1_train.csv",
        HEADER, row("AB1CD", "c092 0.50 1.37;c147 0.00 2.90;c092 1.80 2.00", frames / 24), row("001YG", "", 1.0),
    )  # fmt: skip
    expected = read_actions(table, 157)
    lines = frame_lines("AB1CD", 0, frames, expected["AB1CD"]) + frame_lines("001YG", 1, 24, [])
    found = read_frame_list(write(tmp_path, "train.csv", FRAME_HEADER, *lines), 157)
    assert list(found) == ["AB1CD", "001YG"]
    assert found["001YG"] == []
    assert sorted(found["AB1CD"]) == [
        (pytest.approx(first, abs=1 / 24), pytest.approx(last, abs=1 / 24), label)
        for first, last, label in sorted(expected["AB1CD"])
    ]
    assert all(first >= interval[0] and last <= interval[1] for interval, (first, last, _) in zip(
        sorted(expected["AB1CD"]), sorted(found["AB1CD"]), strict=True
    ))  # fmt: skip


def test_list_of_frames_in_the_place_of_the_table(charades: Path) -> None:
    listed = write(charades, "train.csv", FRAME_HEADER, *frame_lines("AB1CD", 0, 38, [(0.5, 1.0, 3)]))
    data = ready(Charades(str(charades), lists=ListSettings(str(listed)), **(SMALL | {"batch_size": 1})))
    assert data.train_manifest is not None
    assert data.train_manifest.intervals == [[(0.5, 1.0, 3)]]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        (
            "Charades_v1_train.csv",
            [HEADER, row("a", "c005 0 1")],
            r"Line 2 .*train.csv has the actions 'c005 0 1'.*5 classes",
        ),
        ("Charades_v1_train.csv", [HEADER, row("a", "c001 0")], r"Line 2 of .*expected actions like c092 11\.90 21\.20"),
        ("Charades_v1_train.csv", [HEADER.replace("actions", "acts")], r"has no column actions"),
        (
            "Charades_v1_classes.txt",
            ["c000 Sitting", "c002 Standing"],
            r"Line 2 .*classes.txt is 'c002 Standing'; .* c001",
        ),
        (
            "Charades_v1_train.csv",
            [FRAME_HEADER, 'a 0 x a.jpg "1"'],
            r"Line 2 .*train.csv is 'a 0 x a.jpg .*expected a video",
        ),
        ("Charades_v1_train.csv", [FRAME_HEADER, 'a 0 0 a.jpg "5"'], r"Line 2 of .*labels of 5 classes in quotes"),
    ],
)
def test_wrong_files(name: str, lines: list[str], message: str, charades: Path) -> None:
    write(charades / "Charades", name, *lines)
    with pytest.raises(SettingError, match=message):
        ready(Charades(str(charades), **SMALL))


def test_missing_files_and_actions_outside_their_video(charades: Path) -> None:
    table = write(charades, "odd.csv", HEADER, row("AB1CD", "c001 9.00 9.50;c002 0.80 0.20;c003 0.10 0.20"))
    with pytest.warns(UserWarning, match=r"2 actions begin after the end of their video or after their own end .* AB1CD"):
        assert read_actions(table, CLASSES) == {"AB1CD": [(0.1, 0.2, 3)]}
    (charades / "Charades/Charades_v1_classes.txt").unlink()
    with pytest.raises(SettingError, match=r"contains no Charades_v1_classes.txt; set data\.lists"):
        ready(Charades(str(charades), **SMALL))
    with pytest.raises(SettingError, match=r"contains no Charades_v1_train.csv; set data\.lists"):
        ready(Charades(str(charades / "Charades_v1_480"), **SMALL))
    with pytest.raises(SettingError, match=r"nothing.csv does not exist"):
        read_actions(charades / "nothing.csv", CLASSES)
    assert read_class_names(write(charades, "few.txt", "c000 Sitting down", "")) == ["Sitting down"]


def test_from_official_files_to_a_result(charades: Path) -> None:
    prepared = charades / "small"
    videos = charades / "Charades_v1_480"
    main(["prepare", "videos", f"--source={videos}", f"--out={prepared}", "--short_side=32", "--workers=0"])
    data = Charades(str(prepared), lists=ListSettings(folder=str(charades)), views=ViewSettings(2, 3), **SMALL)
    torch.manual_seed(0)
    method = Classification(tiny_cnn(), labels=LabelSettings("several"), optim=OPTIM)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, default_root_dir=charades, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    assert method.classifier.out_features == CLASSES
    (found,) = trainer.test(method, datamodule=data, verbose=False)
    assert method.test_record == {"videos": 2, "missed": [], "classes": CLASSES, "views": 6}
    # Of two videos, each is the only one of its class: first or second.
    assert found["test/map"] in (50, 75, 100)
    with pytest.raises(SettingError, match=r"set model\.labels\.per_sample to several"):
        trainer.test(Classification(tiny_cnn(), optim=OPTIM), datamodule=data)

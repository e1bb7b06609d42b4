"""Sequences of features from files of one recording and of many."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from datamodules.listed import ListedStreams
from datamodules.sets.feature_sequences import FeatureSequences
from datamodules.settings import ReadSettings
from datamodules.streams.features import FeatureReader
from datamodules.streams.settings import FeatureSettings
from datamodules.video.sampling import ClipSettings, Plan
from modules.core.errors import SettingError
from tests.datamodules.streams.files import make_plan_of, settings, write_collection, write_csv


def test_a_recording_of_a_collection_is_its_own_steps(tmp_path: Path) -> None:
    found = write_collection(tmp_path / "all.safetensors")
    reader = FeatureReader(FeatureSettings())
    reader.learn(tmp_path / "all.safetensors#0")
    stream = reader.read(tmp_path / "all.safetensors#1", make_plan_of([0, 1]), 32)
    assert torch.equal(stream.data[0], found["feature"][1, :4].float())
    assert stream.length is not None
    assert stream.length.tolist() == [4]
    assert stream.time is not None
    assert stream.time.tolist() == [[0, 4]]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors"])
def test_files_of_one_recording(name: str, tmp_path: Path) -> None:
    feature = torch.arange(24.0).view(6, 4)
    if name == "a.npy":
        np.save(tmp_path / name, feature.numpy().astype(np.float16))
    elif name == "a.npz":
        np.savez(tmp_path / name, feature=feature.numpy())
    else:
        save_file({"feature": feature.bfloat16()}, tmp_path / name)
    views = replace(Plan.empty(2, 4), span=None)
    stream = FeatureReader(FeatureSettings()).read(tmp_path / name, views, 32)
    assert stream.data.dtype == torch.float32
    assert torch.equal(stream.data, feature.expand(2, 6, 4))
    assert stream.valid is not None
    assert stream.valid.all()


def test_steps_within_a_clip_and_within_a_part(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(20, dtype=np.float32).reshape(10, 2))
    # Steps of half a second; the clip shows 1.2 s to 2.4 s, which is in steps 2 to 4.
    shown = FeatureReader(FeatureSettings(whole=False, rate=2)).read(tmp_path / "a.npy", make_plan_of([30, 60]), 32)
    assert shown.data[0, :, 0].tolist() == [4, 6, 8]
    part = FeatureReader(FeatureSettings(rate=2)).read(tmp_path / "a.npy", make_plan_of([0, 1], span=(4, np.inf)), 32)
    assert part.data[0, :, 0].tolist() == [16, 18]


def test_one_feature_per_recording(tmp_path: Path) -> None:
    save_file({"feature": torch.eye(4)}, tmp_path / "all.safetensors")
    reader = FeatureReader(FeatureSettings())
    reader.learn(tmp_path / "all.safetensors#0")
    stream = reader.read(tmp_path / "all.safetensors#2", Plan.empty(3, 1), 32)
    assert torch.equal(stream.data, torch.eye(4)[2].expand(3, 4))
    assert reader.nothing(Plan.empty(3, 1), 32).data.shape == (3, 4)


def test_times_are_asked_for_before_the_first_step(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((5, 4), np.float32))
    with pytest.raises(SettingError, match=r"data\.streams\.feature\.rate"):
        FeatureReader(FeatureSettings(whole=False)).learn(tmp_path / "a.npy")


def collections(root: Path) -> Path:
    for split in ("train", "val"):
        write_collection(root / f"{split}.safetensors")
        write_csv(root / f"{split}.csv", "path,label,caption", "a.mp4,run,she runs", "b.mp4,sit,", "a.mp4,run,she runs")
    return root


def test_collections_with_lists_are_a_data_set(tmp_path: Path) -> None:
    root = collections(tmp_path)
    data = FeatureSequences(str(root), batch_size=3, reading=ReadSettings(num_workers=0), clip=ClipSettings(frames=2))
    data.setup("fit")
    assert data.streams == {"feature": "feature", "text": "text"}
    assert (data.num_classes, data.class_names) == (2, ["run", "sit"])
    batch = next(iter(data.val_dataloader()))
    stream = batch.stream("feature", "feature")
    assert stream.data.shape == (3, 1, 5, 4)
    assert stream.length is not None
    assert stream.length.tolist() == [[5], [4], [3]]
    assert stream.valid is not None
    assert stream.valid.sum(-1).tolist() == stream.length.tolist()
    assert batch.label.tolist() == [0, 1, 0]
    assert batch.text().first == ["she runs", "", "she runs"]
    assert batch.reading.faults == []
    data.setup("test")
    assert next(iter(data.test_dataloader())).stream("feature").data.shape == (3, 1, 5, 4)


def test_lists_that_do_not_fit_their_collection_are_refused(tmp_path: Path) -> None:
    root = collections(tmp_path)
    write_csv(root / "val.csv", "path,label", "a.mp4,run")
    with pytest.raises(SettingError, match=r"1 rows, but .* has 3 recordings"):
        FeatureSequences(str(root), batch_size=1).setup("fit")
    (root / "val.safetensors").unlink()
    with pytest.raises(SettingError, match=r"no .*val\.safetensors"):
        FeatureSequences(str(root), batch_size=1).setup("fit")


def test_features_of_another_width_are_counted_and_named(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.ones((5, 4 if number != 1 else 7), np.float32))
    write_csv(tmp_path / "train.csv", "path", *[f"{number}.npy" for number in range(3)])
    streams = settings(on_missing="replace")
    data = ListedStreams(str(tmp_path), batch_size=3, reading=ReadSettings(num_workers=0), streams=streams, main="feature")
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert [fault for fault in batch.reading.faults if fault[0] == 1] == [(1, "another width")]
    assert (batch.substituted[batch.index == 1] == 1).all()

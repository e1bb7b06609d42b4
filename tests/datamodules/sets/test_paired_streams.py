"""Data sets of several streams in their official layouts: DAVIS, the drone clips, NTU RGB+D with all its cameras."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.prepare import write_skeleton
from datamodules import DAVIS2016, DAVIS2017, DroneAir, NTUStreams
from datamodules.base import VideoDataModule
from datamodules.settings import ListSettings, ReadSettings
from datamodules.skeleton.raw import read_ntu
from datamodules.streams.settings import MaskSettings, StreamSettings
from datamodules.video.crops import Shared
from datamodules.video.samplers import Dense, FramePair
from datamodules.video.sampling import ClipSettings
from main import main
from modules.core.batch import Batch
from modules.core.errors import SettingError
from tests.datamodules.sets.trees import put, ready
from tests.datamodules.streams.test_planes import save_all, whole, write_grey

REAL = Path(os.environ.get("REAL_DIR", Path(__file__).parents[4] / "shared" / "real"))
CLIP = ClipSettings(frames=4, size=32, sampler=Dense(2))


def settings(**other: Any) -> dict[str, Any]:
    return {"clip": CLIP, "batch_size": 2, "reading": ReadSettings(0), "seed": 1} | other


def first_batch(data: VideoDataModule) -> Batch:
    return next(iter(ready(data).train_dataloader()))


# --- DAVIS ---


def write_davis(root: Path, size: str = "480p") -> Path:
    """Four sequences with a bright square and its mask; in the second pixel row of objects, object 2."""
    for name, length in (("bear", 12), ("bmx-bumps", 9), ("blackswan", 10), ("camel", 9)):
        frames, masks = np.zeros((length, 48, 85, 3), np.uint8), np.zeros((length, 48, 85), np.uint8)
        for number in range(length):
            frames[number, 10:26, 20 + number : 44 + number] = 250
            masks[number, 10:18, 20 + number : 44 + number] = 1
            masks[number, 18:26, 20 + number : 44 + number] = 2
        save_all(root / "JPEGImages" / size / name, frames, "{:05d}.jpg")
        save_all(root / "Annotations" / size / name, masks, "{:05d}.png")
        for path in (root / "Annotations" / size / name).iterdir():
            picture = Image.open(path)
            picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            picture.save(path)
    lists = {"2017/train.txt": "bear\nbmx-bumps\n", "2017/val.txt": "blackswan\ncamel\n", "2016/train.txt": "bear\ncamel\n"}
    lists["480p/val.txt"] = "".join(
        f"/JPEGImages/480p/{name}/{number:05d}.jpg /Annotations/480p/{name}/{number:05d}.png \n"
        for name in ("blackswan", "bmx-bumps")
        for number in range(3)
    )
    for name, text in lists.items():
        (root / "ImageSets" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / name).write_text(text)
    return root


def test_davis_2017_shows_each_object_where_the_frames_do(tmp_path: Path) -> None:
    root = write_davis(tmp_path)
    data = DAVIS2017(str(root), **settings(streams=StreamSettings(mask=MaskSettings(3))))
    batch = first_batch(data)
    assert data.val_manifest is not None
    assert list(data.val_manifest.paths) == ["JPEGImages/480p/blackswan", "JPEGImages/480p/camel"]
    assert data.num_classes is None
    assert batch.reading.faults == []
    assert batch.label.tolist() == [-1, -1]
    video, mask = batch.stream("video"), batch.stream("mask")
    assert (video.data.shape, mask.data.shape) == ((2, 1, 4, 32, 32, 3), (2, 1, 4, 32, 32, 3))
    bright = video.data.float().mean(-1) > 125
    # To a pixel of the border of what was cut and resized.
    assert (mask.data.any(-1) == bright).float().mean() > 0.97
    assert mask.data.any(-1).float().mean() > 0.05
    assert not mask.data[..., 2].any()
    assert mask.time is not None
    assert torch.equal(mask.time, video.time)
    # One frame of 24 a second later.
    torch.testing.assert_close(video.time[:, 0, 1] - video.time[:, 0, 0], torch.full((2,), 6 / 24))


def test_davis_2016_has_one_object_and_lists_of_two_forms(tmp_path: Path) -> None:
    data = DAVIS2016(str(write_davis(tmp_path)), **settings())
    batch = first_batch(data)
    assert data.train_manifest is not None
    assert data.val_manifest is not None
    assert [list(one.paths) for one in (data.train_manifest, data.val_manifest)] == [
        [f"JPEGImages/480p/{name}" for name in names] for names in (("bear", "camel"), ("blackswan", "bmx-bumps"))
    ]
    assert batch.stream("mask").data.shape == (2, 1, 4, 32, 32, 1)
    pairs = ClipSettings(frames=1, size=32, clips=2, sampler=FramePair((2, 5)), crop=Shared())
    batch = first_batch(DAVIS2016(str(tmp_path), **settings(clip=pairs)))
    assert batch.stream("mask").data.shape == (2, 2, 1, 32, 32, 1)


def test_shards_do_not_take_folders_of_pictures(tmp_path: Path) -> None:
    pytest.importorskip("litdata", reason="litdata is not installed: pip install -e '.[streaming]'")
    root = write_davis(tmp_path / "davis")
    words = ["prepare", "shards", "--data=DAVIS2017", f"--data.root={root}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(SettingError, match=r"--data DAVIS2017 has the streams video, mask, but shards only support videos"):
        main(words)
    with pytest.raises(SettingError, match=r"--data DAVIS2017 reads folders of pictures, or further streams"):
        main([*words, "--data.streams.names=[video]"])


def test_a_mask_that_is_missing_is_named(tmp_path: Path) -> None:
    root = write_davis(tmp_path)
    (root / "Annotations/480p/bear/00005.png").unlink()
    batch = first_batch(DAVIS2017(str(root), **settings(streams=StreamSettings(on_missing="mark"))))
    (fault,) = batch.reading.faults
    assert fault == (0, "mask: a gap in time")
    valid = batch.stream("mask").valid
    assert valid is not None
    assert valid[batch.index == 0].any().item() is False
    (root / "ImageSets/2017/train.txt").write_text("nowhere\n")
    with pytest.raises(SettingError, match=r"1 of 1 sequences of .*train\.txt are not in"):
        ready(DAVIS2017(str(root), **settings()))


def test_the_real_davis() -> None:
    root = REAL / "davis2016_val"
    listed = root / "ImageSets/2016/val.txt"
    if not listed.is_file():
        pytest.skip(f"{listed} is missing; set REAL_DIR")
    with pytest.warns(UserWarning, match="are also training videos"):
        batch = first_batch(DAVIS2016(str(root), ListSettings(str(listed), str(listed)), **settings()))
    assert batch.reading.faults == []
    valid, mask = batch.stream("mask").valid, batch.stream("mask").data
    assert valid is not None
    assert valid.all()
    assert 0.01 < mask.float().mean() < 0.6


# --- Drone clips ---


def write_drone(root: Path, video: Path) -> Path:
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ["path", "sensor", "label", "source_video", "first_frame", "crop_x", "crop_y", "crop_size", "target_rel_size"]
        )
        for folder, sensor in (("visible", "V"), ("infrared", "IR")):
            for label in ("airplane", "bird", "drone", "helicopter"):
                for number in range(1, 5):
                    name = f"{sensor}_{label.upper()}_{number:03d}"
                    for window in range(2):
                        path = f"{folder}/{label}/{name}_w{window}.mp4"
                        put(video, root / path)
                        table.writerow([path, sensor, label, name, 36, 0.2])
    return root


@pytest.mark.parametrize(("benchmark", "sensor"), [("visible", "V"), ("infrared", "IR")])
def test_drone_clips_of_one_video_are_on_one_side(benchmark: str, sensor: str, tmp_path: Path, one_video: Path) -> None:
    data = ready(DroneAir(str(write_drone(tmp_path, one_video)), **settings(benchmark=benchmark)))
    assert data.train_manifest is not None
    assert data.val_manifest is not None
    assert data.class_names == ["airplane", "bird", "drone", "helicopter"]
    assert np.bincount(data.train_manifest.labels).tolist() == [6] * 4
    assert np.bincount(data.val_manifest.labels).tolist() == [2] * 4
    sources = [{Path(path).stem.rpartition("_")[0] for path in one.paths} for one in (data.train_manifest, data.val_manifest)]
    assert all(name.startswith(f"{sensor}_") for side in sources for name in side)
    assert not sources[0] & sources[1]
    assert {name.rpartition("_")[2] for name in sources[1]} == {"004"}
    assert first_batch(data).stream("video").data.shape == (2, 1, 4, 32, 32, 3)


def test_a_drone_table_that_is_not_understood(tmp_path: Path, one_video: Path) -> None:
    root = write_drone(tmp_path, one_video)
    text = (root / "labels.csv").read_text()
    (root / "labels.csv").write_text(text.replace("bird,V_BIRD_002", "kite,V_BIRD_002", 1))
    with pytest.raises(SettingError, match=r"Line 12 of .*labels\.csv has the class 'kite'"):
        ready(DroneAir(str(root), **settings()))


@pytest.mark.parametrize("benchmark", DroneAir.benchmarks)
def test_the_real_drone_clips_are_split_by_video(benchmark: str) -> None:
    root = REAL / "drone_air"
    if not root.is_dir():
        pytest.skip(f"{root} is missing; set REAL_DIR")
    data = ready(DroneAir(str(root), **settings(benchmark=benchmark)))
    assert data.train_manifest is not None
    assert data.val_manifest is not None
    sides = [{path.rpartition("_w")[0] for path in one.paths} for one in (data.train_manifest, data.val_manifest)]
    assert not sides[0] & sides[1]
    counts = np.stack([np.bincount(one.labels, minlength=4) for one in (data.train_manifest, data.val_manifest)])
    assert counts.sum() == {"visible": 549, "infrared": 708}[benchmark]
    assert ((counts[1] / counts.sum(0) > 0.15) & (counts[1] / counts.sum(0) < 0.35)).all()


# --- NTU RGB+D ---

RECORDINGS = ("S001C001P001R001A005", "S001C002P002R002A060", "S001C001P003R001A005")
LENGTH = 12


def write_ntu(root: Path) -> Path:
    """Three recordings of twelve frames whose index is shown by all streams, as brightness, depth and height of the head."""
    shades = np.arange(LENGTH, dtype=np.uint8)[:, None, None, None] * 15 + 30
    for name in RECORDINGS:
        (root / "nturgb+d_rgb").mkdir(parents=True, exist_ok=True)
        for folder, ending, size in (("nturgb+d_rgb", "rgb", (36, 64)), ("nturgb+d_ir", "ir", (48, 64))):
            (root / folder).mkdir(exist_ok=True)
            frames = np.ascontiguousarray(np.broadcast_to(shades, (LENGTH, *size, 3)))
            write_grey(root / folder / f"{name}_{ending}.avi", frames)
        depth = np.full((LENGTH, 48, 64), 1000, np.uint16) + 100 * np.arange(LENGTH, dtype=np.uint16)[:, None, None]
        save_all(root / "nturgb+d_depth_masked" / name, depth, "MDepth-{:08d}.png", first=1)
        bodies = np.random.default_rng(0).normal(size=(1, LENGTH, 25, 3)) * 0.1
        bodies[0, :, 3, 1] = np.arange(LENGTH)
        # Nobody is visible at first.
        bodies[0, :2] = 0
        (root / "nturgb+d_skeletons").mkdir(exist_ok=True)
        write_skeleton(root / "nturgb+d_skeletons" / f"{name}.skeleton", bodies)
    return root


def ntu(root: Path, *names: str, **streams: Any) -> NTUStreams:
    kept = StreamSettings(names=list(names) or None, **streams)
    return NTUStreams(str(root), **settings(benchmark="ntu60_xsub", streams=kept))


def test_all_cameras_of_ntu_show_the_same_frames(tmp_path: Path) -> None:
    data = ntu(write_ntu(tmp_path), "skeleton", "infrared", "depth", "video")
    batch = first_batch(data)
    assert data.train_manifest is not None
    assert data.val_manifest is not None
    assert (data.train_manifest.labels.tolist(), data.val_manifest.labels.tolist()) == ([4, 59], [4])
    assert batch.reading.faults == []
    assert batch.kinds == {"skeleton": "skeleton", "infrared": "video", "depth": "depth", "video": "video"}
    seen = {name: batch.stream(name).data for name in batch.kinds}
    assert [seen[name].shape[3:] for name in ("video", "infrared", "depth")] == [(32, 32, 3), (32, 32, 3), (32, 32, 1)]
    numbers = {
        "video": (seen["video"].float().mean((3, 4, 5)) - 30) / 15,
        "infrared": (seen["infrared"].float().mean((3, 4, 5)) - 30) / 15,
        "depth": (seen["depth"].float().mean((3, 4, 5)) - 1000) / 100,
    }
    torch.testing.assert_close(numbers["video"].round(), numbers["depth"])
    torch.testing.assert_close(numbers["infrared"].round(), numbers["depth"])
    skeleton, valid = batch.stream("skeleton"), batch.stream("skeleton").valid
    assert skeleton.data.shape == (2, 1, 3, 4, 25, 2)
    assert valid is not None
    # Nobody is in the first two frames, and the recording is not shifted in time.
    assert torch.equal(valid, numbers["depth"] > 1.5)
    heights = skeleton.data[..., 3, 0].norm(dim=2)
    assert ((heights[..., 1:] - heights[..., :-1])[valid[..., :-1]] > 1).all()


def test_ntu_without_colours_is_led_by_depth(tmp_path: Path) -> None:
    root = write_ntu(tmp_path)
    for path in (root / "nturgb+d_rgb").iterdir():
        path.unlink()
    batch = first_batch(ntu(root, "depth", "skeleton"))
    assert list(batch.streams) == ["depth", "skeleton"]
    assert batch.reading.faults == []
    infrared = first_batch(ntu(root, "infrared"))
    assert infrared.stream("infrared").data.shape == (2, 1, 4, 32, 32, 3)
    assert "video" not in infrared.streams
    with pytest.raises(SettingError, match="no training recording of ntu60_xsub with a stream video"):
        ready(ntu(root))


def test_a_camera_that_is_missing_or_shorter(tmp_path: Path) -> None:
    root = write_ntu(tmp_path)
    for name in RECORDINGS:
        (root / "nturgb+d_skeletons" / f"{name}.skeleton").unlink()
        (root / f"nturgb+d_depth_masked/{name}/MDepth-{LENGTH:08d}.png").unlink()
    data = ready(ntu(root, "video", "depth", "skeleton", on_missing="mark"))
    data.clip = ClipSettings(frames=LENGTH, size=32, sampler=Dense(1))
    batch = next(iter(data.train_dataloader()))
    assert {reason for _, reason in batch.reading.faults} == {"skeleton: no such stream"}
    depth, skeleton = batch.stream("depth"), batch.stream("skeleton")
    assert depth.valid is not None
    assert skeleton.valid is not None
    assert depth.valid[0, 0].tolist() == [True] * (LENGTH - 1) + [False]
    assert not skeleton.valid.any()
    put(root / f"nturgb+d_ir/{RECORDINGS[0]}_ir.avi", root / f"copy/{RECORDINGS[0]}_ir.avi")
    with pytest.raises(SettingError, match=f"contains infrared of {RECORDINGS[0]} twice"):
        ready(ntu(root, "infrared"))


def test_skeletons_are_aligned_as_prepared_ones(tmp_path: Path) -> None:
    """If a person is in all frames, both readers return the same joints."""
    root = write_ntu(tmp_path)
    path = root / "nturgb+d_skeletons" / f"{RECORDINGS[1]}.skeleton"
    write_skeleton(path, np.random.default_rng(1).normal(size=(2, LENGTH, 25, 3)))
    reader = ntu(root).reader_of("skeleton")
    joints = reader.read(path, whole(64, 36, LENGTH), 32).data[0].transpose(0, 1).numpy()
    np.testing.assert_allclose(joints, read_ntu(path).clips[0].joints, atol=1e-6)

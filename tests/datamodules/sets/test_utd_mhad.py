"""UTD-MHAD: both layouts give the same streams with one plan; broken files are listed; the real recordings."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from datamodules import UTDMHAD
from datamodules.loading.single_pass import fingerprint
from datamodules.sets.utd_mhad import ACTIONS, KINECT_V1, DepthReader, SignalReader, SkeletonReader, cut_nearest, millimetres
from datamodules.settings import ListSettings, ReadSettings
from datamodules.skeleton.normalise import normalise
from datamodules.streams.settings import SignalSettings, StreamSettings
from datamodules.video.crops import Box, Square
from datamodules.video.decode import DecodeError
from datamodules.video.samplers import Dense, Segments
from datamodules.video.sampling import ClipSettings, Plan
from modules.core.errors import SettingError
from tests.datamodules.sets.utd_files import FRAMES, SAMPLES, joints, write_official, write_reduced
from tests.datamodules.video_files import write_video
from tests.parity.cases import PARITY_DIR

REAL = PARITY_DIR.parent / "real/utd_mhad"
ALL = ["depth", "skeleton", "signal"]


def utd(root: Path, names: list[str] | None = None, **settings: Any) -> UTDMHAD:
    streams = StreamSettings(names, signal=SignalSettings(steps=9), on_missing=settings.pop("on_missing", "replace"))
    usual = {"clip": ClipSettings(frames=4, size=16, sampler=Dense(1)), "batch_size": 2, "reading": ReadSettings(0), "seed": 1}
    data = UTDMHAD(str(root), streams=streams, **usual | settings)
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("official")
    write_official(root)
    return root


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reduced")
    write_reduced(root)
    return root


@pytest.mark.parametrize("layout", ["official", "reduced"])
def test_all_streams_show_the_same_part(layout: str, request: pytest.FixtureRequest) -> None:
    data = utd(request.getfixturevalue(layout), ALL)
    assert data.train_manifest is not None
    assert (len(data.train_manifest), data.num_classes, data.class_names) == (4, 27, list(ACTIONS))
    first = next(iter(data.train_dataloader()))
    assert {int(row) for row in first.label} <= {0, 1}
    for batch in data.val_dataloader():
        assert not batch.reading.faults
        depth, skeleton, signal = (batch.stream(name) for name in ALL)
        assert (depth.data.dtype, depth.data.shape) == (torch.uint16, (2, 1, 4, 16, 16, 1))
        assert (skeleton.data.shape, signal.data.shape) == ((2, 1, 3, 4, 25, 2), (2, 1, 6, 9))
        assert all(bool(stream.valid.all()) for stream in (depth, skeleton, signal) if stream.valid is not None)
        # The four frames in the middle: 2 to 5 of 8.
        for row, action in enumerate((batch.label + 1).tolist()):
            found = depth.data[row, 0, :, 8, 2, 0].float()
            if layout == "official":
                assert found.tolist() == [2020 + action, 2030 + action, 2040 + action, 2050 + action]
            else:
                assert torch.allclose(found, 2000 + (255 - (200 - 10 * torch.arange(2.0, 6))) * 1400 / 215, atol=15)
            assert not depth.data[row, 0, :, 8, 12].any()
            subject = int(batch.index[row]) % 2 * 2 + 2
            body = np.zeros((2, FRAMES, 25, 3))
            body[0] = joints(action, subject)[:, KINECT_V1]
            expected = torch.from_numpy(normalise(body).transpose(3, 1, 2, 0)[:, 2:6].copy())
            assert torch.allclose(skeleton.data[row, 0], expected, atol=1e-5)
            assert not skeleton.data[row, ..., 1].any()
            # 20 samples for 8 frames, from the beginning of frame 2 to that of frame 5.
            ramp = torch.linspace(2 * SAMPLES / FRAMES, 5 * SAMPLES / FRAMES, 9) + action / 10
            assert torch.allclose(signal.data[row, 0], ramp + 100 * torch.arange(6)[:, None], atol=1e-3)


def test_a_stream_can_be_had_alone_and_without_the_others_files(reduced: Path, tmp_path: Path) -> None:
    for name in ("skeleton", "signal"):
        batch = next(iter(utd(reduced, [name]).val_dataloader()))
        assert list(batch.streams) == [name]
    assert list(next(iter(utd(reduced).val_dataloader())).streams) == ["depth"]
    for path in (reduced / "labels.csv", reduced / "inertial.npz"):
        (tmp_path / path.name).symlink_to(path)
    alone = next(iter(utd(tmp_path, ["signal"]).val_dataloader()))
    assert torch.equal(alone.stream("signal").data, next(iter(utd(reduced, ["signal"]).val_dataloader())).stream("signal").data)
    with pytest.raises(SettingError, match=r"contains no depth of UTD-MHAD; leave it out of data\.streams\.names"):
        utd(tmp_path)


def test_splits_and_refusals(reduced: Path, official: Path, tmp_path: Path) -> None:
    data = utd(official)
    assert data.train_manifest is not None
    assert data.val_manifest is not None
    assert {path.split("_")[1] for path in data.train_manifest.paths} == {"s1", "s3"}
    assert {path.split("_")[1] for path in data.val_manifest.paths} == {"s2", "s4"}
    with pytest.raises(SettingError, match="has no depth of the subjects 7"):
        utd(official, benchmark="xsub_settings")
    with pytest.raises(SettingError, match="neither official files of UTD-MHAD"):
        utd(tmp_path)
    with pytest.raises(SettingError, match=r"data\.streams\.signal\.columns is set, which UTDMHAD does not use"):
        SignalReader(SignalSettings(columns=["ax"]))
    with pytest.raises(SettingError, match=r"data\.lists\.train is set, which UTDMHAD does not use"):
        utd(reduced, lists=ListSettings(train="some.csv"))
    (tmp_path / "labels.csv").write_text("clip,action\nnone,1\n")
    with pytest.raises(SettingError, match="row without a clip such as a01_s1_t1"):
        utd(tmp_path)
    (tmp_path / "labels.csv").write_text("clip,action\na28_s1_t1,28\n")
    with pytest.raises(SettingError, match="is of action 28, but UTD-MHAD has 27"):
        utd(tmp_path)
    (tmp_path / "labels.csv").unlink()
    for folder in ("one", "two"):
        write_official(tmp_path / folder, (1,), (1,))
    with pytest.raises(SettingError, match="in two folders"):
        utd(tmp_path)


def test_depth_follows_colour_and_a_missing_stream_is_marked_or_replaced(tmp_path: Path) -> None:
    write_official(tmp_path)
    (tmp_path / "RGB").mkdir()
    for action in (1, 2):
        for subject in (1, 2, 3, 4):
            # Twice as wide and high as the depth, and three times as many frames.
            write_video(tmp_path / f"RGB/a{action}_s{subject}_t1_color.avi", "mpeg4", frames=3 * FRAMES)
    (tmp_path / "Inertial/a1_s2_t1_inertial.mat").unlink()
    names = ["video", "depth", "signal"]
    data = utd(tmp_path, names, on_missing="mark", clip=ClipSettings(frames=4, size=16, sampler=Segments()))
    assert data.train_manifest is not None
    batch = next(iter(data.val_dataloader()))
    assert batch.stream("video").data.shape == (2, 1, 4, 16, 16, 3)
    assert [reason for _, reason in batch.reading.faults] == ["signal: no such stream"]
    signal = batch.stream("signal")
    assert signal.valid is not None
    assert signal.valid.flatten(1).any(1).tolist() == [False, True]
    assert not signal.data[0].any()
    # Middles of four parts of 24 frames are those of four parts of 8.
    assert batch.stream("depth").data[0, 0, :, 8, 0, 0].tolist() == [2011, 2031, 2051, 2071]
    replaced = next(iter(utd(tmp_path, ["depth", "signal"]).val_dataloader()))
    assert replaced.substituted.tolist() == [0, -1]


def test_broken_files_are_named(tmp_path: Path) -> None:
    plan = Plan(
        np.zeros((1, 2), np.int64), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32), [Box(0, 0, 4, 4)], (4, 4), 1
    )
    path = tmp_path / "a1_s1_t1_inertial.mat"
    reader = SignalReader(SignalSettings(steps=4))

    def reason(content: dict[str, Any] | bytes | None, reader: Any = reader) -> str:
        # Content is cached by path.
        file = path.with_stem(f"{path.stem}{len(list(tmp_path.iterdir()))}")
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content is not None:
            savemat(file, content)
        with pytest.raises(DecodeError) as error:
            reader.read(file, plan, 4)
        return error.value.reason

    assert reason(None) == "file not found"
    assert reason(b"no matlab file") == "cannot open"
    assert reason({"d_skel": np.zeros((3, 6))}) == "no such stream"
    assert reason({"d_iner": np.zeros((6, 30))}) == "another width"
    assert reason({"d_iner": np.full((30, 6), np.nan)}) == "not numbers"
    assert reason({"d_skel": np.zeros((25, 3, 9))}, SkeletonReader()) == "another size"
    assert reason({"d_depth": np.zeros((4, 4))}, DepthReader()) == "another size"


def test_depth_is_never_a_mean_and_noise_is_nothing() -> None:
    assert millimetres(np.array([0, 3, 19, 40, 255], np.uint8)).tolist() == [0, 0, 0, 3400, 2000]
    picture = np.arange(64, dtype=np.uint16).reshape(1, 8, 8)
    assert cut_nearest(picture, Box(0, 0, 8, 8), (8, 8), 2)[0].tolist() == [[18, 22], [50, 54]]
    # The box refers to a picture of twice the size.
    assert cut_nearest(picture, Box(8, 8, 8, 8), (16, 16), 4)[0].tolist() == picture[0, 4:, 4:].tolist()
    assert set(cut_nearest(picture, Box(0, 0, 3, 8), (8, 8), 16).ravel()) <= set(picture.ravel())


def test_signals_without_a_number_of_steps_keep_their_rate(reduced: Path) -> None:
    streams = StreamSettings(["signal"], signal=SignalSettings())
    clip = ClipSettings(frames=3, clips=2, sampler=Dense(4))
    data = UTDMHAD(str(reduced), clip=clip, batch_size=2, reading=ReadSettings(0), streams=streams, seed=1)
    data.setup("fit")
    signal = next(iter(data.val_dataloader())).stream("signal")
    assert signal.data.shape == (2, 2, 6, 9)
    assert (signal.data[0, 0, 0].diff() - 1).abs().max() < 1e-4
    # Cached features for one number of steps are not used for another.
    prints = {fingerprint(utd(reduced, names).train_once().dataset) for names in (["signal"], ["skeleton", "signal"])}
    assert len(prints | {fingerprint(data.train_once().dataset)}) == 3
    assert fingerprint(utd(reduced, ["signal"]).train_once().dataset) in prints


def test_the_real_recordings_are_read_as_their_table_says() -> None:
    if not REAL.is_dir():
        pytest.skip(f"no recordings at {REAL}; set PARITY_DIR to the folder beside that of real data")
    clip = ClipSettings(frames=16, size=32, sampler=Segments(), crop=Square())
    data = utd(REAL, ALL, clip=clip)
    assert data.train_manifest is not None
    assert data.val_manifest is not None
    assert (len(data.train_manifest), len(data.val_manifest)) == (431, 430)
    with (REAL / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [ACTIONS[int(row["action"]) - 1] for row in rows] == [row["name"] for row in rows]
    reader = data.reader_of("depth")
    for row in (0, 200, 429):
        path = data.val_manifest.file(row)
        (own,) = (one for one in rows if one["clip"] == path.stem)
        assert int(data.val_manifest.labels[row]) == int(own["action"]) - 1
        lengths = [reader.info(path).num_frames]
        lengths += [data.reader_of(name).info(data.val_manifest.further_file(name, row)).num_frames for name in ALL[1:]]  # type: ignore[arg-type]
        assert lengths == [int(own[f"{name}s"]) for name in ("depth_frame", "skeleton_frame", "inertial_sample")]
    batch = next(iter(data.val_dataloader()))
    assert not batch.reading.faults
    depth = batch.stream("depth").data.float()
    body = depth[depth > 0]
    assert 0.02 < len(body) / depth.numel() < 0.5
    assert (body.min() > 1950, body.max() < 3600) == (True, True)
    # A person of usual size, and a sensor that feels gravity.
    skeleton = batch.stream("skeleton").data
    assert 0.3 < (skeleton[:, :, :, :, 3, 0] - skeleton[:, :, :, :, 0, 0]).norm(dim=2).median() < 1.1
    assert 0.8 < batch.stream("signal").data[:, :, :3].norm(dim=2).median() < 1.3

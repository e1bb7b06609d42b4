"""Folders of images instead of a video."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedStrings
from datamodules.loading.loader import SampleKey
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.decode import DecodeError, read_clips
from datamodules.video.picture_folder import in_order
from datamodules.video.readers import PictureFolder
from datamodules.video.samplers import Dense, FramePair, Timed
from datamodules.video.sampling import ClipSettings
from tests.datamodules.video_files import RATE, decode_all, fixed


def unpack(video: Path, folder: Path, name: str = "{}.png") -> Path:
    """The frames of a video as pictures without loss."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(decode_all(video)):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


@pytest.mark.parametrize("sampler", [Dense(2), Timed(10.0), FramePair()], ids=lambda one: type(one).__name__)
def test_a_folder_is_read_as_the_video_that_it_came_from(sampler: Dense, one_video: Path, tmp_path: Path) -> None:
    unpack(one_video, tmp_path / "frames")
    pair = isinstance(sampler, FramePair)
    clip = ClipSettings(frames=1 if pair else 6, size=32, clips=2, sampler=sampler)
    samples = []
    for root, path, fps in ((one_video.parent, one_video.name, None), (tmp_path, "frames", RATE)):
        manifest = Manifest(root, PackedStrings([path]), np.array([0]), fps=fps)
        samples.append(VideoClipDataset(manifest, clip, 5, train=True)[SampleKey(2, 0)])
    assert samples[0]["faults"] == samples[1]["faults"] == []
    assert (samples[0]["video"] == samples[1]["video"]).all()
    np.testing.assert_allclose(samples[0]["time"], samples[1]["time"], atol=1e-5)


def test_numbers_are_counted_and_not_spelled(tmp_path: Path, one_video: Path) -> None:
    folder = unpack(one_video, tmp_path / "frames", "take2_{}.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    assert [path.name for path in in_order(folder)] == [f"take2_{number}.png" for number in range(40)]
    info = read_clips(PictureFolder(folder, 12.0), fixed([39, 0]), None).info
    assert (info.num_frames, info.fps, info.width, info.height) == (40, 12, 64, 48)


def test_what_is_wrong_in_a_folder(tmp_path: Path, one_video: Path) -> None:
    folder = unpack(one_video, tmp_path / "frames", "{:03d}.png")
    source = PictureFolder(folder, 12.0)
    Image.new("RGB", (10, 10)).save(folder / "007.png")
    with pytest.raises(DecodeError, match="frame size changes"):
        read_clips(source, fixed([6, 7]), None)
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(folder / "007.png")
    with pytest.raises(DecodeError, match=r"another format .*007\.png has more than 8 bits"):
        read_clips(source, fixed([6, 7]), None)
    (folder / "007.png").write_bytes(b"noise")
    with pytest.raises(DecodeError, match=r"failed while decoding .*007\.png"):
        read_clips(source, fixed([6, 7]), None)
    with pytest.raises(DecodeError, match="timed out"):
        read_clips(source, fixed([5, 6]), None, decode_timeout=0)
    (folder / "007.png").unlink()
    with pytest.raises(DecodeError, match="a gap in time"):
        read_clips(source, fixed([1]), None)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DecodeError, match="no frame decoded"):
        read_clips(source, fixed([1]), None)
    with pytest.raises(DecodeError, match="file not found"):
        read_clips(PictureFolder(tmp_path / "nowhere", 12.0), fixed([1]), None)
    # Without a frame rate, a folder is not a video.
    with pytest.raises(DecodeError, match="cannot open"):
        read_clips(folder, fixed([1]), None)


def test_pictures_with_and_without_numbers_do_not_mix(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [path.name for path in in_order(tmp_path)] == ["a.png", "b.png"]
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    with pytest.raises(DecodeError, match=r"another format .*a\.png has no number"):
        in_order(tmp_path)


def test_every_fifth_frame_is_no_gap(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{5 * number:05d}.jpg")
    assert len(in_order(tmp_path)) == 4

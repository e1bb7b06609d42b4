"""Files that cannot be read give an error with one of a few fixed reasons."""

import os
import pickle
import struct
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from datamodules.video import pyav_reader, readers
from datamodules.video.decode import DecodeError, VideoInfo, probe, read_clips
from datamodules.video.pyav_reader import PyAVReader
from datamodules.video.samplers import Dense, Sampler, Segments
from datamodules.video.sampling import ClipSettings
from tests.datamodules.video_files import DAMAGE, X264, decode_all, fixed, write_still, write_video


@pytest.mark.parametrize("kind", DAMAGE)
def test_broken_files_say_what_is_wrong(kind: str, tmp_path: Path) -> None:
    make, reason = DAMAGE[kind]
    path = make(tmp_path)
    choose = ClipSettings(frames=8, sampler=Segments()).choose
    with pytest.raises(DecodeError) as caught:
        read_clips(path, choose, None)
    assert caught.value.reason == reason
    if kind != "two sizes":
        with pytest.raises(DecodeError, match=reason):
            probe(path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(DecodeError, match="cannot open"):
        probe(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a\0b.mp4", "x" * 5000])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="file not found"):
        probe(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_frames_that_take_too_much_memory_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / name, "mpeg4")
    monkeypatch.setattr(readers, "MAX_BYTES", 3 * 64 * 48 * 4)
    assert len(read_clips(path, fixed([0, 1, 2, 3, 3]), None).frames) == 4
    with pytest.raises(DecodeError, match=r"too large \(5 frames of 64 x 48\)"):
        read_clips(path, fixed([0, 1, 2, 3, 4]), None)
    # The size of decoded frames is used, whatever the container states.
    reader = PyAVReader(path, 1, None)
    with closing(reader), pytest.raises(DecodeError, match="too large"):
        reader.read([0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    "error", [ValueError("x"), OverflowError("x"), MemoryError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), KeyError("x")]
)
@pytest.mark.parametrize("where", ["_index", "_picture", "_packets_from"])
def test_whatever_a_library_raises_is_the_fault_of_the_file(
    error: Exception, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(PyAVReader, where, fail)
    with pytest.raises(DecodeError, match=f"failed while decoding \\({type(error).__name__}"):
        probe(write_video(tmp_path / "a.mp4", frames=4))


def test_many_packets_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", options={X264: "keyint=100:scenecut=0"})
    monkeypatch.setattr(pyav_reader, "MAX_PACKETS", path.stat().st_size // 2)
    counted = []
    count = PyAVReader._read_by_count
    monkeypatch.setattr(PyAVReader, "_read_by_count", lambda self, n: counted.append(n) or count(self, n))
    decoded = read_clips(path, fixed([3, 70]), None)
    assert counted == [[3, 70]]
    np.testing.assert_array_equal(decoded.frames[1], decode_all(path)[70])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_ten_hours(name: str, tmp_path: Path) -> None:
    path = write_still(tmp_path / name, 36_000)
    begin = time.perf_counter()
    decoded = read_clips(path, fixed([5, 30_000, 35_999]), None, decode_timeout=30.0)
    assert time.perf_counter() - begin < 20
    assert decoded.info == VideoInfo(36_000, 1.0, 16, 16)
    assert decoded.time.tolist() == [[5.0, 35_999.0]]
    for frame, number in zip(decoded.frames, (5, 30_000, 35_999), strict=True):
        assert abs(float(frame.mean()) - number * 7 % 256) < 6


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("sampler", [Dense(3), Segments()], ids=str)
def test_hours_between_frames(name: str, sampler: Sampler, tmp_path: Path) -> None:
    path = write_still(tmp_path / name, 10, gap=3600)
    settings = ClipSettings(frames=3, sampler=sampler)
    decoded = read_clips(path, settings.choose, None, decode_timeout=30.0)
    assert decoded.info.num_frames == 10
    numbers = settings.choose(decoded.info, None)
    assert decoded.time.tolist() == [[numbers[0, 0] * 3600.0, numbers[0, -1] * 3600.0]]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_video_of_one_frame(name: str, tmp_path: Path) -> None:
    path = write_still(tmp_path / name, 1)
    for settings in (ClipSettings(), ClipSettings(sampler=Segments()), ClipSettings(sampler=Segments("spread"))):
        for rng in (None, np.random.default_rng(0)):
            decoded = read_clips(path, settings.choose, rng)
            assert (decoded.info.num_frames, decoded.position.tolist()) == (1, [[0] * 16])


@pytest.mark.parametrize(("frames", "claimed"), [(72, 74), (72, 100), (72, 10), (20, 22), (20, 2000)])
def test_length_that_a_container_states_wrongly(frames: int, claimed: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", "mpeg4", frames=frames)
    data = bytearray(path.read_bytes())
    # The stream header of AVI contains its length 32 bytes after the stream's type.
    at = data.index(b"vids") + 32
    assert struct.unpack_from("<I", data, at) == (frames,)
    struct.pack_into("<I", data, at, claimed)
    path.write_bytes(data)
    asked = []

    def last_frames(info: VideoInfo, rng: np.random.Generator | None) -> np.ndarray:
        asked.append(info.num_frames)
        return np.array([[3, info.num_frames - 1]])

    decoded = read_clips(path, last_frames, None)
    assert asked == [frames] == [decoded.info.num_frames]
    np.testing.assert_array_equal(decoded.frames[1], decode_all(path)[-1])


def test_time_limit(tmp_path: Path) -> None:
    for path in (write_video(tmp_path / "a.mp4"), write_video(tmp_path / "a.avi", "mpeg4")):
        with pytest.raises(DecodeError) as caught:
            read_clips(path, fixed([40]), None, decode_timeout=0.0)
        assert caught.value.reason == "timed out"
        assert len(read_clips(path, fixed([40]), None, decode_timeout=60.0).frames) == 1


def test_impossible_choice_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=10)
    for choice in (fixed([10]), fixed([-1]), lambda info, rng: np.array([1, 2])):
        with pytest.raises(ValueError, match="frame numbers must be"):
            read_clips(path, choice, None)


def test_decode_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("timed out", "after 3 frames")))
    assert (error.reason, error.detail, str(error)) == ("timed out", "after 3 frames", "timed out (after 3 frames)")

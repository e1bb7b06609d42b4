"""Files that cannot be read say what is wrong with them, in words that can be counted."""

import pickle
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from datamodules.video.decode import DecodeError, VideoInfo, probe, read_clips
from datamodules.video.sampling import ClipSettings, choose_frames
from tests.datamodules.video_files import DAMAGE, decode_all, fixed, write_video


@pytest.mark.parametrize("kind", DAMAGE)
def test_broken_files_say_what_is_wrong(kind: str, tmp_path: Path) -> None:
    make, reason = DAMAGE[kind]
    path = make(tmp_path)
    choose = partial(choose_frames, ClipSettings(frames=8, sampling="segment"))
    with pytest.raises(DecodeError) as caught:
        read_clips(path, choose, None)
    assert caught.value.reason == reason
    if kind not in ("truncated", "truncated avi", "two sizes"):
        with pytest.raises(DecodeError, match=reason):
            probe(path)


@pytest.mark.parametrize(
    ("frames", "claimed", "accepted"),
    [(72, 74, True), (72, 75, True), (72, 76, False), (72, 100, False), (20, 22, True), (20, 23, False)],
)
def test_length_that_a_container_overstates(frames: int, claimed: int, accepted: bool, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", "mpeg4", frames=frames)
    data = bytearray(path.read_bytes())
    # The stream header of AVI holds its length 32 bytes behind the stream's type.
    at = data.index(b"vids") + 32
    assert struct.unpack_from("<I", data, at) == (frames,)
    struct.pack_into("<I", data, at, claimed)
    path.write_bytes(data)
    asked = []

    def last_frames(info: VideoInfo, rng: np.random.Generator | None) -> np.ndarray:
        asked.append(info.num_frames)
        return np.array([[3, info.num_frames - 1]])

    if accepted:
        decoded = read_clips(path, last_frames, None)
        assert asked == [claimed, frames]
        assert decoded.info.num_frames == frames
        np.testing.assert_array_equal(decoded.frames[1], decode_all(path)[-1])
    else:
        with pytest.raises(DecodeError, match="failed while decoding"):
            read_clips(path, last_frames, None)


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

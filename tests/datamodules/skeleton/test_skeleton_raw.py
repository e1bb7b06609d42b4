"""Raw files of NTU RGB+D and PKU-MMD, and pickles of arrays."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from benchmarks.prepare import write_skeleton
from datamodules.skeleton.pickles import read_pickle
from datamodules.skeleton.raw import RawError, parse_ntu_name, read_bodies, read_ntu, read_pku, read_pku_frames
from modules.core.errors import SettingError

NAME = "S001C002P003R002A013"


def bodies(count: int = 1, frames: int = 5, seed: int = 0) -> np.ndarray:
    """Bodies [S, T, J, C] that move, each more than the one before."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, frames, 25, 3)) * (1 + np.arange(count))[:, None, None, None]


def written(folder: Path, content: np.ndarray, name: str = NAME) -> Path:
    path = folder / f"{name}.skeleton"
    write_skeleton(path, content)
    return path


def reason(path: Path) -> str:
    reading = read_ntu(path)
    assert reading.clips == []
    return reading.faults[0][1]


def test_a_file_has_a_line_for_every_count_body_and_joint(tmp_path: Path) -> None:
    content = bodies(6, frames=4)
    content[:, 2] = 0
    content[1:, 3] = 0
    path = written(tmp_path, content)
    # T, then a count per frame, then 27 lines per body.
    assert len(path.read_text().splitlines()) == 1 + 4 + (6 + 6 + 0 + 1) * (2 + 25)
    found = read_bodies(path)
    assert found.shape == (4, 4, 25, 3)
    # Bodies beyond the fourth are left out; a frame without bodies stays empty.
    np.testing.assert_allclose(found, content[:4], rtol=1e-6)


def test_bodies_are_told_apart_by_their_place_not_by_their_number(tmp_path: Path) -> None:
    content = bodies(2, frames=2)
    content[0, 1] = 0
    found = read_bodies(written(tmp_path, content))
    # In the second frame only the second body is listed, and so it is the first.
    np.testing.assert_allclose(found[0, 1], content[1, 1], rtol=1e-6)
    assert not found[1, 1].any()


def test_label_and_name_come_from_the_file_name(tmp_path: Path) -> None:
    reading = read_ntu(written(tmp_path, bodies()))
    assert reading.faults == []
    clip = reading.clips[0]
    assert (clip.name, clip.label) == (NAME, 12)
    assert clip.joints.shape == (5, 3, 25, 2)
    assert clip.joints.dtype == np.float32


def test_names() -> None:
    parsed = parse_ntu_name(f"{NAME}_rgb.avi")
    assert parsed is not None
    assert parsed == (1, 2, 3, 2, 13)
    assert parse_ntu_name("S001C001P001R001A000") is None
    assert parse_ntu_name("S001C001P001R001A121") is None
    assert parse_ntu_name("clip") is None


def test_recordings_longer_than_300_frames_are_cut(tmp_path: Path) -> None:
    clip = read_ntu(written(tmp_path, bodies(frames=310))).clips[0]
    assert len(clip.joints) == 300
    shorter = read_ntu(written(tmp_path, bodies(frames=310)[:, :300], "S001C001P001R001A001")).clips[0]
    np.testing.assert_array_equal(clip.joints, shorter.joints)


def test_malformed_files_have_a_reason(tmp_path: Path) -> None:
    text = written(tmp_path, bodies()).read_text()
    lines = text.splitlines()

    def damaged(content: str) -> str:
        path = tmp_path / "S001C001P001R001A001.skeleton"
        path.write_text(content)
        return reason(path)

    assert "ends before" in damaged("")
    assert "ends before" in damaged("\n".join(lines[:60]))
    assert "ends before" in damaged(text[:-30])
    assert "goes on" in damaged(text + "1 2 3\n")
    assert "no frame" in damaged("0\n")
    assert "no frame shows a body" in damaged("2\n0\n0\n")
    assert "24 joints" in damaged(text.replace("\n25\n", "\n24\n", 1))
    assert "-1 bodies" in damaged("1\n-1\n")
    words = lines[5].split()
    assert "number is expected" in damaged(text.replace(words[1], "x", 1))
    assert "within 100 m" in damaged(text.replace(words[1], "nan", 1))
    assert "within 100 m" in damaged(text.replace(words[1], "1e9", 1))
    assert "number is expected" in damaged("\0\1\2" * 100)
    assert "number is expected" in damaged(text.replace(lines[5], "0.5", 1))
    assert "SsssCcccPpppRrrrAaaa" in reason(written(tmp_path, bodies(), "one"))
    assert "SsssCcccPpppRrrrAaaa" in reason(written(tmp_path, bodies(), f"{NAME}_copy"))
    assert "No such file" in reason(tmp_path / "S001C001P001R001A002.skeleton")


def write_pku(folder: Path, frames: np.ndarray, labels: str, name: str = "0002-L") -> Path:
    """A recording [T, M, J, C] and its list of intervals."""
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / f"{name}.txt").write_text(labels)
    path = folder / f"{name}.txt"
    np.savetxt(path, frames.reshape(len(frames), -1), fmt="%.9g")
    return path


def recording(frames: int) -> np.ndarray:
    return bodies(2, frames).swapaxes(0, 1)


def test_pku_intervals_are_clips(tmp_path: Path) -> None:
    frames = recording(40)
    # The second person is not there at first; a person who moves less comes first all the same.
    frames[:20, 1] = 0
    path = write_pku(tmp_path, frames, "3,5,12,2\n51,20,40,1\n")
    np.testing.assert_allclose(read_pku_frames(path), frames, rtol=1e-6)
    reading = read_pku(path, tmp_path / "labels")
    assert reading.faults == []
    first, second = reading.clips
    # Labels count from 1; the end is not part of an interval.
    assert (first.name, first.label, first.joints.shape) == ("0002-L_0", 2, (7, 3, 25, 2))
    assert (second.name, second.label, second.joints.shape) == ("0002-L_1", 50, (20, 3, 25, 2))
    assert not first.joints[..., 1].any()
    # Distances between joints are those of person 0 as listed: nothing changed places.
    span = np.linalg.norm(second.joints[:, :, 3, 0] - second.joints[:, :, 7, 0], axis=1)
    np.testing.assert_allclose(span, np.linalg.norm(frames[20:, 0, 3] - frames[20:, 0, 7], axis=1), rtol=1e-4)


def test_long_pku_intervals_have_300_frames_and_say_so(tmp_path: Path) -> None:
    clip = read_pku(write_pku(tmp_path, recording(400), "1,10,390,2\n"), tmp_path / "labels").clips[0]
    assert len(clip.joints) == 300


def test_broken_pku_intervals_do_not_cost_the_others(tmp_path: Path) -> None:
    labels = "1,0,9,2\n52,0,9,1\n0,0,9,1\n2,9,9,1\n\nx\n3,100,120,1\n4,3,100,2\n"
    reading = read_pku(write_pku(tmp_path, recording(12), labels), tmp_path / "labels")
    assert [(clip.name, len(clip.joints)) for clip in reading.clips] == [("0002-L_0", 9), ("0002-L_6", 9)]
    reasons = dict(reading.faults)
    assert [name[-1] for name in reasons] == list("12345")
    assert "52" in reasons["0002-L_1"]
    assert "empty" in reasons["0002-L_3"]
    assert "label,start,end" in reasons["0002-L_4"]
    assert "no frame shows a body" in reasons["0002-L_5"]


def test_broken_pku_recordings_have_a_reason(tmp_path: Path) -> None:
    path = write_pku(tmp_path, recording(4), "1,0,3,2\n")
    text = path.read_text()
    for content in ("", "1 2 3\n", text[:-40], text + "x\n", text.replace("\n", "\n\n", 1)):
        path.write_text(content)
        with pytest.raises(RawError):
            read_pku_frames(path)
        assert read_pku(path, tmp_path / "labels").faults[0][0] == "0002-L.txt"
    path.write_text(text)
    (tmp_path / "labels" / "0002-L.txt").unlink()
    assert "No such file" in read_pku(path, tmp_path / "labels").faults[0][1]


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays_are_read(protocol: int, tmp_path: Path) -> None:
    content = {
        "split": {"train": ["a"]},
        "annotations": [{"keypoint": np.arange(6.0).reshape(2, 3), "label": np.int64(3), "name": "a", "all": (1, None, b"x")}],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(path)
    np.testing.assert_array_equal(found["annotations"][0].pop("keypoint"), content["annotations"][0].pop("keypoint"))
    assert found == content


def test_pickles_cannot_run_code(tmp_path: Path) -> None:
    path, sign = tmp_path / "a.pkl", tmp_path / "was here"
    contents = (Trap(sign), {"annotations": [Trap(sign)]}, np.array([Trap(sign)], object), np.array([None]))
    for content in contents:
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(SettingError, match=r"a\.pkl cannot be read"):
            read_pickle(path)
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(SettingError, match="rot13"):
        read_pickle(path)
    path.write_bytes(b"")
    with pytest.raises(SettingError, match="cannot be read"):
        read_pickle(path)
    assert not sign.exists()

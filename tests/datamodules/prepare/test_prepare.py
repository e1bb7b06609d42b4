"""`python main.py prepare`: stored, left out and listed files, and resuming after a kill."""

import csv
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import datamodules.prepare.command
from benchmarks.prepare import write_skeleton
from datamodules import NTU60, NTU120, PKUMMD
from datamodules.settings import LoadSettings
from datamodules.skeleton.raw import Reading, read_ntu
from datamodules.skeleton.store import Recordings, open_store
from main import main
from modules.core.errors import SettingError
from tests.datamodules.skeleton.test_skeleton_raw import bodies, recording, write_pku

# Samples of training and test in every benchmark: people 1 and 3, cameras 2 and 1, setups 1, 2 and 18.
NAMES = [f"S{s:03d}C{c:03d}P{p:03d}R001A{a:03d}" for s, a in ((1, 1), (2, 7), (18, 61)) for c in (1, 2) for p in (1, 3)]
MISSING = "S001C002P005R002A008"


def write_ntu(folder: Path, names: list[str] = NAMES) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        write_skeleton(folder / f"{name}.skeleton", bodies(1, 5 + number % 3, number))
    return folder


def prepare(raw: Path, out: Path, *more: str) -> Recordings:
    main(["prepare", "ntu", f"--raw={raw}", f"--out={out}", "--workers=0", *more])
    return open_store(out, "ntu", "")


def rows_of(report: Path) -> list[list[str]]:
    with report.open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_become_one_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_ntu(tmp_path / "raw")
    recordings = prepare(raw, tmp_path / "out")
    assert recordings.name.tolist() == sorted(NAMES)
    for row, name in enumerate(recordings.name.tolist()):
        clip = read_ntu(raw / f"{name}.skeleton").clips[0]
        np.testing.assert_array_equal(recordings.read(row), clip.joints[..., :1])
        assert recordings.label[row] == clip.label == int(name[-3:]) - 1
    assert f"{len(NAMES)} recordings are in" in capsys.readouterr().out
    assert set(files_of(tmp_path / "out")) == {
        *("header.json", "joints.npy", "label.npy", "length.npy", "malformed.tsv", "name.npy", "persons.npy")
    }


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodules.prepare.command, "CHUNK_FILES", 3)
    raw = write_ntu(tmp_path / "raw")
    prepare(raw, tmp_path / "alone")
    main(["prepare", "ntu", f"--raw={raw}", f"--out={tmp_path / 'many'}", "--workers=2"])
    assert files_of(tmp_path / "many") == files_of(tmp_path / "alone")


def test_incomplete_samples_are_left_out_and_malformed_files_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_ntu(tmp_path / "raw", [*NAMES, MISSING])
    whole = (raw / f"{NAMES[0]}.skeleton").read_text()
    (raw / f"{NAMES[0]}.skeleton").write_text(whole[:-500])
    (raw / f"{NAMES[1]}.skeleton").write_bytes(b"")
    (raw / f"{NAMES[2]}.skeleton").unlink()
    (raw / f"{NAMES[2]}.skeleton").symlink_to(tmp_path / "gone")
    (raw / "other.skeleton").write_text(whole)
    # A copy in another folder is the same sample.
    (raw / "deeper").mkdir()
    (raw / "deeper" / f"{NAMES[3]}.skeleton").write_text("0")
    recordings = prepare(raw, tmp_path / "out")
    assert recordings.name.tolist() == sorted(NAMES[3:])
    header, *rows = rows_of(tmp_path / "out/malformed.tsv")
    assert header == ["name", "reason"]
    listed = dict(rows)
    assert listed.keys() == {f"{NAMES[0]}.skeleton", f"{NAMES[1]}.skeleton", f"{NAMES[2]}.skeleton", "other.skeleton"}
    assert "ends before" in listed[f"{NAMES[0]}.skeleton"]
    assert "SsssCcccPpppRrrrAaaa" in listed["other.skeleton"]
    said = capsys.readouterr().out
    assert "1 known to be incomplete are left out" in said
    assert "4 could not be used" in said


def test_a_finished_folder_is_not_touched_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = write_ntu(tmp_path / "raw"), tmp_path / "out"
    prepare(raw, out)
    before = (out / "joints.npy").stat().st_mtime_ns
    prepare(raw, out)
    assert "already been prepared" in capsys.readouterr().out
    assert (out / "joints.npy").stat().st_mtime_ns == before
    (raw / f"{NAMES[0]}.skeleton").unlink()
    with pytest.raises(SettingError, match="from other files"):
        prepare(raw, out)
    assert len(prepare(raw, out, "--overwrite=true")) == len(NAMES) - 1


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--raw .*not a folder"):
        prepare(tmp_path / "gone", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=r"--raw .*contains no file .skeleton"):
        prepare(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "a.skeleton").write_text("")
    with pytest.raises(SettingError, match=r"No recording.*a\.skeleton"):
        prepare(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(SettingError, match="prepare"):
        NTU60(str(tmp_path / "out")).setup("fit")
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"--out .*cannot be written"):
        prepare(write_ntu(tmp_path / "raw"), tmp_path / "file")
    with pytest.raises(SettingError, match=r"--raw .*ntu60_3d"):
        prepare(tmp_path / "ntu60_3d.pkl", tmp_path / "out")


def prepare_slowly(raw: Path, out: Path, worker: Path) -> None:
    """Prepare in a separate process, slowly enough that it can be killed in between."""

    def slow(path: Path) -> Reading:
        # Written atomically, because this process may be killed at any time.
        part = worker.with_suffix(".part")
        part.write_text(str(os.getpid()))
        part.replace(worker)
        time.sleep(0.05)
        return read_ntu(path)

    # Functions are sent to workers by name.
    globals()["slow"], slow.__qualname__ = slow, "slow"
    datamodules.prepare.command.CHUNK_FILES, datamodules.prepare.command.read_ntu = 3, slow
    datamodules.prepare.command.prepare_ntu(raw, out, workers=1)


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_a_killed_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"S001C001P001R001A{action:03d}" for action in range(1, 61)]
    raw, out, worker = write_ntu(tmp_path / "raw", names), tmp_path / "out", tmp_path / "pid"
    # A copy of this process, which has all imports done.
    command = multiprocessing.get_context("fork").Process(target=prepare_slowly, args=(raw, out, worker))
    command.start()
    deadline = time.monotonic() + 120
    while len(list((out / "parts").glob("*.npz")) if (out / "parts").is_dir() else []) < 2:
        assert time.monotonic() < deadline
        assert command.is_alive()
        time.sleep(0.01)
    command.kill()
    command.join()
    assert command.exitcode == -signal.SIGKILL
    # Its worker does not outlive it.
    while running(int(worker.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not (out / "header.json").exists()
    kept = {path.stem for path in (out / "parts").glob("*.npz")}
    assert 2 <= len(kept) < 20
    read: list[str] = []

    def note(path: Path) -> Reading:
        read.append(path.stem)
        return read_ntu(path)

    monkeypatch.setattr(datamodules.prepare.command, "CHUNK_FILES", 3)
    monkeypatch.setattr(datamodules.prepare.command, "read_ntu", note)
    prepare(raw, out)
    # Finished parts are not repeated, and the result equals that of an uninterrupted command.
    assert len(read) == len(set(read)) == 3 * (20 - len(kept))
    prepare(raw, tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_part_of_a_file_that_has_changed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodules.prepare.command, "CHUNK_FILES", 3)
    raw, out = write_ntu(tmp_path / "raw"), tmp_path / "out"

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        # Everything is read, then the disk is full.
        patch.setattr(datamodules.prepare.command, "join_parts", full)
        with pytest.raises(SettingError, match=r"no space left.*kept"):
            prepare(raw, out)
    assert len(list((out / "parts").iterdir())) == 4
    changed = bodies(1, 9, 77)
    write_skeleton(raw / f"{NAMES[0]}.skeleton", changed)
    recordings = prepare(raw, out)
    assert recordings.length[recordings.name.tolist().index(NAMES[0])] == 9


def test_official_arrays_are_stored_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    halves = {"train": (NAMES[:3], [5, 7, 2]), "val": (NAMES[3:5], [3, 9])}
    (tmp_path / "xsub").mkdir()
    arrays = {}
    for half, (names, frames) in halves.items():
        data = rng.normal(size=(len(names), 3, 9, 25, 2)).astype(np.float32)
        for row, length in enumerate(frames):
            data[row, :, length:] = 0
        data[1, ..., 1] = 0
        arrays |= {name: data[row, :, :length] for row, (name, length) in enumerate(zip(names, frames, strict=True))}
        np.save(tmp_path / f"xsub/{half}_data_joint.npy", data)
        # The official number of frames may be larger than the array.
        np.save(tmp_path / f"xsub/{half}_num_frame.npy", np.array([400 if length == 9 else length for length in frames]))
        labels = [int(name[-3:]) - 1 for name in names]
        (tmp_path / f"xsub/{half}_label.pkl").write_bytes(pickle.dumps(([f"{name}.skeleton" for name in names], labels)))
    recordings = prepare(tmp_path / "xsub", tmp_path / "out")
    assert recordings.name.tolist() == NAMES[:5]
    assert recordings.label.tolist() == [int(name[-3:]) - 1 for name in NAMES[:5]]
    for row, name in enumerate(NAMES[:5]):
        found = recordings.read(row)
        np.testing.assert_array_equal(found, arrays[name].swapaxes(0, 1)[..., : found.shape[-1]])
    assert recordings.persons.tolist() == [2, 1, 2, 2, 1]
    (tmp_path / "xsub/val_num_frame.npy").unlink()
    with pytest.raises(SettingError, match="no official arrays of val"):
        prepare(tmp_path / "xsub", tmp_path / "other")


def test_annotations_of_mmaction_are_read(tmp_path: Path) -> None:
    keypoint = bodies(2, 6).astype(np.float32)
    good = {"frame_dir": NAMES[0], "total_frames": 6, "label": 99, "keypoint": keypoint}
    bad = [good | {"frame_dir": NAMES[1], "keypoint": keypoint[..., :2]}, good | {"frame_dir": "x"}, "no dictionary"]
    path = tmp_path / "ntu60_3d.pkl"
    path.write_bytes(pickle.dumps({"split": {"xsub_train": [NAMES[0]]}, "annotations": [good, *bad]}))
    recordings = prepare(path, tmp_path / "out")
    assert recordings.name.tolist() == [NAMES[0]]
    # The label is that of the name; the person who moves more comes first.
    assert recordings.label.tolist() == [int(NAMES[0][-3:]) - 1]
    span = np.linalg.norm(recordings.read(0)[:, :, 3, 0] - recordings.read(0)[:, :, 7, 0], axis=1)
    np.testing.assert_allclose(span, np.linalg.norm(keypoint[1, :, 3] - keypoint[1, :, 7], axis=1), rtol=1e-4)
    assert [row[0] for row in rows_of(tmp_path / "out/malformed.tsv")[1:]] == [NAMES[1], "x", "?"]
    path.write_bytes(pickle.dumps({"annotations": 3}))
    with pytest.raises(SettingError, match="no list of annotations"):
        prepare(path, tmp_path / "other")


def test_both_parts_of_ntu_come_from_one_folder(tmp_path: Path) -> None:
    prepare(write_ntu(tmp_path / "raw"), tmp_path / "out")

    def samples(data: NTU60 | NTU120) -> tuple[set[str], set[str]]:
        data.setup("fit")
        assert data.split is not None
        names = data.split.recordings.name
        return set(names[data.split.train].tolist()), set(names[data.split.val].tolist())

    first = {name for name in NAMES if name[:4] != "S018"}
    size = {"batch_size": 1, "reading": LoadSettings(0)}
    root = str(tmp_path / "out")
    assert samples(NTU60(root, "xsub", **size)) == ({n for n in first if "P001" in n}, {n for n in first if "P003" in n})
    assert samples(NTU60(root, "xview", **size)) == ({n for n in first if "C002" in n}, {n for n in first if "C001" in n})
    everything = set(NAMES)
    assert samples(NTU120(root, "xsub", **size)) == ({n for n in NAMES if "P001" in n}, {n for n in NAMES if "P003" in n})
    odd = {name for name in NAMES if name[:4] == "S001"}
    assert samples(NTU120(root, "xset", **size)) == (everything - odd, odd)
    prepare(write_ntu(tmp_path / "raw60", sorted(first)), tmp_path / "out60")
    with pytest.raises(SettingError, match="only has NTU RGB"):
        NTU120(str(tmp_path / "out60"), batch_size=1).setup("fit")


def write_pku_set(folder: Path, part: int) -> list[str]:
    """Three recordings and the splits of one part; returns the words of the command."""
    videos = [f"000{number}-{view}" for number, view in ((2, "L"), (2, "M"), (3, "R"))]
    folder.mkdir()
    for number, video in enumerate(videos):
        write_pku(folder, recording(330), f"{number + 1},3,9,2\n51,10,325,1\n", video)
    splits = folder / "splits"
    splits.mkdir()
    suffix = "" if part == 1 else "_v2"
    train = {"subject": videos[:2], "view": [videos[0], videos[2]]}
    for name, half in train.items():
        rest = [video for video in videos if video not in half]
        lines = ["Training videos:", ", ".join(half), "", "Validation videos:", ", ".join(rest) + ","]
        (splits / f"cross_{name}{suffix}.txt").write_text("\n".join(lines))
    words = ["prepare", "pku", f"--raw={folder}", f"--labels={folder / 'labels'}", f"--splits={splits}"]
    (folder / "raw").mkdir()
    for video in videos:
        (folder / f"{video}.txt").rename(folder / "raw" / f"{video}.txt")
    return [*words[:2], f"--raw={folder / 'raw'}", *words[3:], "--workers=0"]


def test_pku(tmp_path: Path) -> None:
    words = write_pku_set(tmp_path / "pku", part=1)
    main([*words, f"--out={tmp_path / 'out'}"])
    data = PKUMMD(str(tmp_path / "out"), batch_size=2, reading=LoadSettings(0))
    data.setup("fit")
    assert data.split is not None
    names = data.split.recordings.name
    assert names[data.split.train].tolist() == ["0002-L_0", "0002-L_1", "0002-M_0", "0002-M_1"]
    assert names[data.split.val].tolist() == ["0003-R_0", "0003-R_1"]
    # Long intervals are stored, counted and loaded with 300 frames.
    assert data.split.recordings.length.tolist() == [6, 300] * 3
    batch = next(iter(data.val_dataloader()))
    assert batch.extra["length"].tolist() == [6, 300]
    assert batch.label.tolist() == [2, 50]
    view = PKUMMD(str(tmp_path / "out"), benchmark="part1_xview", batch_size=2)
    view.setup("fit")
    assert names[view.split.val].tolist() == ["0002-M_0", "0002-M_1"]


def test_the_parts_of_pku_are_not_mixed_up(tmp_path: Path) -> None:
    words = write_pku_set(tmp_path / "pku", part=2)
    with pytest.raises(SettingError, match=r"no cross_subject\.txt.*part 1"):
        main([*words, f"--out={tmp_path / 'out'}"])
    main([*words, "--part=2", f"--out={tmp_path / 'out'}"])
    with pytest.raises(SettingError, match=r"contains part 2.*data\.benchmark to part2_xsub"):
        PKUMMD(str(tmp_path / "out")).setup("fit")
    data = PKUMMD(str(tmp_path / "out"), "part2_xsub", batch_size=2)
    data.setup("fit")
    assert data.num_classes == 51
    # Changed labels are not taken from an earlier result.
    (tmp_path / "pku/labels/0002-L.txt").write_text("7,0,20,2\n")
    with pytest.raises(SettingError, match="other files"):
        main([*words, "--part=2", f"--out={tmp_path / 'out'}"])
    main([*words, "--part=2", f"--out={tmp_path / 'out'}", "--overwrite=true"])
    assert open_store(tmp_path / "out", "pku", "").label.tolist() == [6, 1, 50, 2, 50]


def test_wrong_splits_of_pku(tmp_path: Path) -> None:
    words = write_pku_set(tmp_path / "pku", part=1)
    path = tmp_path / "pku/splits/cross_view.txt"
    for content, reason in (("a\nb\n", "2 lines"), ("a\nx, y\nb\ny\n", "lists y for training and for validation")):
        path.write_text(content)
        with pytest.raises(SettingError, match=reason):
            main([*words, f"--out={tmp_path / 'out'}"])
    for name in ("subject", "view"):
        (tmp_path / f"pku/splits/cross_{name}.txt").write_text("a\nA01N01-L\nb\nA02N01-L\n")
    with pytest.raises(SettingError, match="None of the recordings of part 1"):
        main([*words, f"--out={tmp_path / 'out'}"])


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (("ntu", ("--raw", "--workers", "one per core")), ("pku", ("--labels", "--splits", "--part {1,2}"))):
        with pytest.raises(SystemExit):
            main(["prepare", name, "--help"])
        said = capsys.readouterr().out
        assert all(word in said for word in words)
    with pytest.raises(SettingError, match="part"):
        main(["prepare", "pku", "--part=3", "--raw=a", "--labels=a", "--splits=a", "--out=a"])

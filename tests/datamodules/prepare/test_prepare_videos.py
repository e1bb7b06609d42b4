"""`python main.py prepare videos`: written, cut, listed and left out files, and resuming after a kill."""

import csv
import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import datamodules.prepare.reencode
import datamodules.prepare.videos
from datamodules import ActivityNet, EpicKitchens100, FineGym, SSv1, VideoFolder
from datamodules.prepare.reencode import Encoding, reencode
from datamodules.settings import ListSettings
from datamodules.video.decode import probe
from main import main
from modules.core.errors import SettingError
from tests.datamodules.sets.test_downstream_datasets import (
    EPIC_HEADER,
    SMALL,
    check_reads,
    epic_row,
    listing,
    write,
    write_activitynet,
)
from tests.datamodules.sets.trees import put, ready
from tests.datamodules.video_files import DAMAGE, RATE, decode_all, write_video, write_with_sound

VIDEOS_DIR = Path(os.environ.get("VIDEOS_DIR", Path(__file__).parents[4] / "shared" / "videos"))
ENCODING = Encoding(short_side=32, gop=12, quality=12, rate=12)


def prepare(source: Path, out: Path, *more: str, workers: int = 0) -> None:
    main(["prepare", "videos", f"--source={source}", f"--out={out}", "--short_side=32", f"--workers={workers}", *more])


def rows_of(table: Path) -> list[list[str]]:
    with table.open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


def files_of(out: Path) -> dict[str, str]:
    """The files of a folder without the journals, whose names contain the shards; with the content of the tables."""
    return {
        path.relative_to(out).as_posix(): path.read_text() if path.suffix == ".tsv" else ""
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.parent.name != "journals"
    }


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    return [moment - times[0] for moment in times]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.core.files._flush", lambda path: None)


@pytest.fixture
def many(tmp_path: Path, one_video: Path) -> Path:
    """Nine videos, one of them broken, and a list that also names a missing one."""
    source = tmp_path / "source"
    for number in range(9):
        put(one_video, source / f"class {number % 2}" / f"{number}.mp4")
    (source / "class 0/4.mp4").unlink()
    (source / "class 0/4.mp4").write_bytes(b"noise")
    write(source, "list.txt", *(f"class {number % 2}/{number}.mp4 {number % 2 + 3}" for number in range(10)))
    return source


# AVI contains H.264 with decode times, which are not in display order.
@pytest.mark.parametrize(
    ("suffix", "codec", "irregular"), [("mkv", "libx264", True), ("avi", "mpeg4", False), ("avi", "libx264", False)]
)
def test_frames_and_times_stay(suffix: str, codec: str, irregular: bool, tmp_path: Path) -> None:
    source = write_video(tmp_path / f"a.{suffix}", codec, frames=40, size=(96, 64), irregular=irregular)
    assert reencode(source, tmp_path / "b.mp4", None, None, ENCODING) == 40
    info = probe(tmp_path / "b.mp4")
    assert (info.width, info.height, info.num_frames) == (48, 32, 40)
    if irregular:
        np.testing.assert_allclose(times_of(tmp_path / "b.mp4"), times_of(source), atol=1e-6)
    else:
        np.testing.assert_allclose(np.diff(times_of(tmp_path / "b.mp4")), 1 / RATE, atol=1e-6)
    for before, after in zip(decode_all(source), decode_all(tmp_path / "b.mp4"), strict=True):
        small = before.astype(float).reshape(32, 2, 48, 2, 3).mean((1, 3, 4))
        assert np.corrcoef(small.ravel(), after.mean(2).ravel())[0, 1] > 0.9
    with av.open(str(tmp_path / "b.mp4")) as container:
        keys = [number for number, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff([*keys, 40])) <= 12


def test_small_videos_keep_their_size_and_sound_is_left_out(tmp_path: Path, one_video: Path) -> None:
    source = write_with_sound(tmp_path / "a.mkv", one_video)
    reencode(source, tmp_path / "b.mp4", None, None, ENCODING._replace(short_side=256))
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    info = probe(tmp_path / "b.mp4")
    assert (info.width, info.height, info.fps) == (64, 48, 25)


def test_parts_are_cut_to_the_frame(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", first_time=10)
    assert reencode(source, tmp_path / "b.mp4", 1.0, 2.2, ENCODING._replace(short_side=48)) == 30
    whole, part = decode_all(source), decode_all(tmp_path / "b.mp4")
    distance = [np.abs(part[0].astype(float) - frame).mean() for frame in whole]
    assert int(np.argmin(distance)) == 25
    assert times_of(tmp_path / "b.mp4")[-1] == pytest.approx(29 / 25)


def test_videos_that_lie_on_their_side_are_set_upright(tmp_path: Path) -> None:
    source = VIDEOS_DIR / "video_90.mov"
    if not source.is_file():
        pytest.skip(f"{source} is missing; set VIDEOS_DIR")
    reencode(source, tmp_path / "b.mp4", None, None, ENCODING._replace(short_side=10**4))
    before, after = decode_all(source)[0], decode_all(tmp_path / "b.mp4")[0]
    assert before.shape == after.shape
    assert np.abs(before.astype(float) - after).mean() < 5


def test_videos_keep_their_paths_and_labels(many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(many, tmp_path / "out", f"--list={many / 'list.txt'}")
    usable = [number for number in range(9) if number != 4]
    assert rows_of(tmp_path / "out/manifest.tsv") == [
        [f"class {number % 2}/{number}.mp4", "40", str(number % 2 + 3)] for number in usable
    ]
    broken, missing = rows_of(tmp_path / "out/malformed.tsv")
    assert broken[0] == "class 0/4.mp4"
    assert broken[2].startswith("cannot open")
    assert missing == ["class 1/9.mp4", "class 1/9.mp4", "file not found"]
    assert "8 videos are in" in (said := capsys.readouterr().out)
    assert "2 are missing or broken" in said
    manifest = str(tmp_path / "out/manifest.tsv")
    data = ready(VideoFolder(str(tmp_path / "out"), ListSettings(manifest, manifest), **SMALL))
    assert data.num_classes == 5
    check_reads(data)


def test_a_finished_folder_is_not_done_again_but_failures_are(many: Path, one_video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(many, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert len(before) == 8
    (many / "class 0/4.mp4").unlink()
    put(one_video, many / "class 0/4.mp4")
    (out / "class 1/1.mp4").unlink()
    prepare(many, out)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert {path.name for path in after if before.get(path) != after[path]} == {"1.mp4", "4.mp4"}
    assert rows_of(out / "malformed.tsv") == []
    # Other settings are other files.
    prepare(many, out, "--quality=40")
    assert all(path.stat().st_mtime_ns != after[path] for path in after)


def die_at(name: str) -> Any:
    def dying(source: Path, out: Path, *rest: Any) -> int:
        if source.name == name:
            out.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        return reencode(source, out, *rest)

    return dying


def test_a_killed_command_goes_on(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(datamodules.prepare.videos, "reencode", die_at("3.mp4"))
        process = multiprocessing.get_context("fork").Process(target=prepare, args=(many, out))
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert 0 < len(done) < 8
    assert not (out / "manifest.tsv").exists()
    journal = out / "journals/1-of-1"
    journal.write_text(journal.read_text() + '["0123456789abcdef", 4')
    prepare(many, out)
    assert all(path.stat().st_mtime_ns == done[path] for path in done)
    prepare(many, tmp_path / "at once")
    assert files_of(out) == files_of(tmp_path / "at once")


def test_shards_join_to_the_same_files(many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(many, tmp_path / "one", workers=2)
    for shard in ("3/3", "1/3", "2/3"):
        assert not (tmp_path / "shards/manifest.tsv").exists()
        capsys.readouterr()
        prepare(many, tmp_path / "shards", f"--shard={shard}")
    assert "8 videos are in" in capsys.readouterr().out
    assert files_of(tmp_path / "shards") == files_of(tmp_path / "one")


def crash_or_hang(source: Path, *rest: Any) -> int:
    if source.name == "2.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    if source.name == "5.mp4":
        time.sleep(60)
    return reencode(source, *rest)


def test_files_that_end_or_block_a_process_are_listed(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodules.prepare.videos, "reencode", crash_or_hang)
    prepare(many, tmp_path / "out", "--timeout=1", workers=2)
    assert len(rows_of(tmp_path / "out/manifest.tsv")) == 6
    reasons = {Path(row[0]).name: row[2] for row in rows_of(tmp_path / "out/malformed.tsv")}
    assert reasons.keys() == {"2.mp4", "4.mp4", "5.mp4"}
    assert reasons["2.mp4"] == reasons["5.mp4"] == "decoder crashed (or took longer than --timeout)"


def test_every_kind_of_damage_is_reported(tmp_path: Path, one_video: Path) -> None:
    source, expected = tmp_path / "source", {}
    for kind, (make, reason) in DAMAGE.items():
        (source / kind).mkdir(parents=True)
        path = make(source / kind)
        if path.is_file():
            expected[path.relative_to(source).as_posix()] = reason
    put(one_video, source / "good.mp4")
    write(tmp_path, "list.csv", *(f"{path},0" for path in [*expected, "good.mp4"]))
    prepare(source, tmp_path / "out", f"--list={tmp_path / 'list.csv'}")
    assert [row[0] for row in rows_of(tmp_path / "out/manifest.tsv")] == ["good.mp4"]
    reasons = {row[0]: row[2] for row in rows_of(tmp_path / "out/malformed.tsv")}
    assert reasons.keys() == expected.keys()
    # Noise in whole containers may fail the decoder before the first frame.
    different = {path for path, reason in expected.items() if not reasons[path].startswith(reason)}
    assert different <= {"noise for frames/file.mp4"}
    assert sorted(path.name for path in (tmp_path / "out").rglob("*file*")) == []


def test_folders_of_pictures(tmp_path: Path) -> None:
    source = tmp_path / "20bn-something-something-v1"
    for video in ("7", "101"):
        (source / video).mkdir(parents=True)
        for number in range(1, 13):
            Image.new("RGB", (133, 100), (number * 20, 0, int(video))).save(source / video / f"{number:05d}.jpg")
    prepare(source, tmp_path / "out")
    info = probe(tmp_path / "out/7.mp4")
    assert (info.num_frames, info.fps, info.width, info.height) == (12, 12, 42, 32)
    reds = [frame[..., 0].mean() for frame in decode_all(tmp_path / "out/101.mp4")]
    np.testing.assert_allclose(reds, np.arange(1, 13) * 20, atol=6)
    prefix = "something-something-v1"
    write(tmp_path, f"out/{prefix}-labels.csv", "Opening [something]", "Closing [something]")
    write(tmp_path, f"out/{prefix}-train.csv", "101;Closing [something]")
    write(tmp_path, f"out/{prefix}-validation.csv", "7;Opening [something]")
    data = ready(SSv1(str(tmp_path / "out"), **SMALL))
    assert listing(data.train_manifest) == [("101.mp4", 1)]
    check_reads(data)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """2.88 seconds under the names of three data sets."""
    video = write_video(tmp_path / "long.mp4")
    for name in ("P01/videos/P01_01.MP4", "v_AbC-EfG_IjK.mkv", "-bCdEfGhIjK.webm", "-AbC_dEfGhI.mp4"):
        put(video, tmp_path / "source" / name)
    put(video, tmp_path / "source/bAbC_dEfGhI_E_000010_000013.mp4")
    return tmp_path / "source"


def test_epic_kitchens_is_cut_by_time(recordings: Path, tmp_path: Path) -> None:
    row = epic_row("P01_01_12", 3, 8, "00:00:00.5", "00:00:01.70")
    listed = write(tmp_path, "EPIC_100_train.csv", EPIC_HEADER, row, epic_row("P01_02_0", 3, 8))
    prepare(recordings, tmp_path / "out", f"--list={listed}")
    # Frames from 0.52 s, the first one after 0.5, to 1.68 s.
    assert rows_of(tmp_path / "out/manifest.tsv") == [["P01/P01_01_12.mp4", "30", ""]]
    assert rows_of(tmp_path / "out/malformed.tsv") == [["P01_02.MP4", "P01/P01_02_0.mp4", "file not found"]]
    with pytest.warns(UserWarning, match="1 of the 2 videos of"):
        data = ready(EpicKitchens100(str(tmp_path / "out"), lists=ListSettings(str(listed)), benchmark="noun", **SMALL))
    assert listing(data.train_manifest) == [("P01/P01_01_12.mp4", 8), ("P01_02_0.mp4", 8)]


def test_activitynet_is_cut_by_time(recordings: Path, tmp_path: Path) -> None:
    listed = write_activitynet(tmp_path)
    prepare(recordings, tmp_path / "out", f"--list={listed}")
    # From 0.2 to 0.9 s, from 1 to 1.5 s, and from 0 to 1 s, at 25 frames per second.
    assert rows_of(tmp_path / "out/manifest.tsv") == [
        ["v_AbC-EfG_IjK_0.mp4", "18", ""], ["v_AbC-EfG_IjK_2.mp4", "13", ""], ["v_-bCdEfGhIjK_0.mp4", "25", ""],
    ]  # fmt: skip
    check_reads(ready(ActivityNet(str(tmp_path / "out"), lists=ListSettings(str(listed), str(listed)), **SMALL)))


def test_finegym_is_cut_by_time(recordings: Path, tmp_path: Path) -> None:
    """Times of elements count from the start of the event; the event may have been cut out before."""
    stages = [[0.2, 0.5], [0.5, 0.8], [0.8, 1.2]]
    annotation = {
        "-AbC_dEfGhI": {
            "E_000001_000003": {"event": 1, "timestamps": [[1.0, 2.8]], "segments": {"A_0000_0001": {"timestamps": stages}}},
            "E_000005_000006": {"event": 1, "timestamps": [[5.0, 6.0]], "segments": None},
        },
        "bAbC_dEfGhI": {
            "E_000010_000013": {"timestamps": [[10.0, 13.0]], "segments": {"A_0000_0001": {"timestamps": [[0.0, 1.0]]}}},
        },
    }  # fmt: skip
    (tmp_path / "annotation.json").write_text(json.dumps(annotation))
    prepare(recordings, tmp_path / "out", f"--list={tmp_path / 'annotation.json'}")
    first, second = "-AbC_dEfGhI_E_000001_000003_A_0000_0001", "bAbC_dEfGhI_E_000010_000013_A_0000_0001"
    assert rows_of(tmp_path / "out/manifest.tsv") == [[f"{first}.mp4", "25", ""], [f"{second}.mp4", "25", ""]]
    whole, part = decode_all(recordings / "-AbC_dEfGhI.mp4"), decode_all(tmp_path / f"out/{first}.mp4")
    assert abs(part[0].mean() - whole[30].mean()) < 3
    write(tmp_path, "gym99_train.txt", f"{first} 3")
    write(tmp_path, "gym99_val.txt", f"{second} 5")
    lists = ListSettings(str(tmp_path / "gym99_train.txt"), str(tmp_path / "gym99_val.txt"))
    check_reads(ready(FineGym(str(tmp_path / "out"), lists, benchmark="vault", **SMALL)))
    (tmp_path / "annotation.json").write_text('{"a": 1}')
    with pytest.raises(SettingError, match="is not in the format of FineGym's annotation"):
        prepare(recordings, tmp_path / "out", f"--list={tmp_path / 'annotation.json'}")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--shard=0/3", "--shard is 0/3; pass i/n with i from 1 to n"),
        ("--shard=4/3", "--shard is 4/3"),
        ("--list=nowhere", "--list nowhere is not a file"),
        ("--list={outside}", "which is not in --source"),
        ("--out={source}/out", "is in --source .* pass another folder"),
        ("--source={tmp}/nowhere", "--source is .*nowhere, which is not a folder"),
        ("--source={empty}", "empty names no video"),
        ("--source={twice}", "a.mkv and a.avi would both become a.mp4|a.avi and a.mkv would|a.mkv and a.avi"),
        ("--source={bad}", r"No video could be used, .* a.mp4 \(empty file\)"),
    ],
)
def test_wrong_settings(more: str, message: str, many: Path, tmp_path: Path, one_video: Path) -> None:
    for name in ("empty", "twice", "bad"):
        (tmp_path / name).mkdir()
    put(one_video, tmp_path / "twice/a.avi")
    put(one_video, tmp_path / "twice/a.mkv")
    (tmp_path / "bad/a.mp4").touch()
    put(one_video, tmp_path / "other.mp4")
    write(tmp_path, "outside", "../other.mp4 1")
    places = {name: tmp_path / name for name in ("outside", "empty", "twice", "bad")} | {"tmp": tmp_path, "source": many}
    with pytest.raises(SettingError, match=message):
        prepare(many, tmp_path / "out", more.format(**places))


def test_no_room(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datamodules.prepare.videos, "reencode", full)
    for workers in (0, 2):
        with pytest.raises(SettingError, match=r"--out .* cannot be written \(.*No space left.*Finished files are kept"):
            prepare(many, tmp_path / "out", workers=workers)


def test_what_was_written_is_read_again(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mux, muxed = datamodules.prepare.reencode._mux, []

    def losing(container: Any, packets: list[av.Packet], length: int) -> None:
        for packet in packets:
            muxed.append(packet)
            if len(muxed) != 5:
                mux(container, [packet], length)

    monkeypatch.setattr(datamodules.prepare.reencode, "_mux", losing)
    prepare(many, tmp_path / "out")
    reasons = {row[0]: row[2] for row in rows_of(tmp_path / "out/malformed.tsv")}
    assert reasons["class 0/0.mp4"].startswith("failed while decoding (")
    assert not (tmp_path / "out/class 0/0.mp4").exists()
    assert len(rows_of(tmp_path / "out/manifest.tsv")) == 7


@pytest.mark.slow
def test_two_hundred_videos(tmp_path: Path, one_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed and resumed, in shards, and in one run: the same files."""
    source = tmp_path / "source"
    for number in range(200):
        put(one_video, source / f"{number % 7}/{number}.mp4")
    for number in (13, 77):
        (source / f"{number % 7}/{number}.mp4").unlink()
        (source / f"{number % 7}/{number}.mp4").write_bytes(one_video.read_bytes()[:-3000])
    with monkeypatch.context() as patch:
        patch.setattr(datamodules.prepare.videos, "reencode", die_at("100.mp4"))
        process = multiprocessing.get_context("fork").Process(target=prepare, args=(source, tmp_path / "killed"))
        process.start()
        process.join(120)
    assert process.exitcode == -signal.SIGKILL
    prepare(source, tmp_path / "killed", workers=2)
    for shard in range(1, 5):
        prepare(source, tmp_path / "shards", f"--shard={shard}/4")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "shards")
    assert len(rows_of(tmp_path / "killed/manifest.tsv")) == 198
    assert {Path(row[0]).name for row in rows_of(tmp_path / "killed/malformed.tsv")} == {"13.mp4", "77.mp4"}

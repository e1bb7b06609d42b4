"""The general list: meaning of columns, refused input, and memory use."""

import gc
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.listed import ListedStreams
from datamodules.lists.listed import read_columns, read_streams
from datamodules.settings import ListSettings, ReadSettings
from datamodules.streams.settings import SignalSettings, StreamSettings
from datamodules.video.decode import read_clips
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from tests.datamodules.sets.trees import put
from tests.datamodules.streams.files import write_csv, write_table


@pytest.fixture
def root(tmp_path: Path, one_video: Path) -> Path:
    """Two videos of 1.6 s and a table for each."""
    for name in "ab":
        put(one_video, tmp_path / f"clips/{name}.mp4")
        write_table(tmp_path / f"imu/{name}.csv")
    return tmp_path


def listed(root: Path, **options: Any) -> ListedStreams:
    clip = options.pop("clip", ClipSettings(frames=4, size=32))
    data = ListedStreams(str(root), clip=clip, batch_size=1, reading=ReadSettings(num_workers=0), seed=0, **options)
    data.setup("fit")
    return data


def test_columns_name_streams(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", "path, label,audio ,wrist:signal,left hand : track")
    assert read_columns(path, "video") == {"audio": "audio", "wrist": "signal", "left hand": "track"}
    sound = write_csv(tmp_path / "b.csv", "path\tvideo")
    assert read_columns(sound, "audio") == {"video": "video"}


@pytest.mark.parametrize(
    ("header", "main", "named"),
    [
        ("path,sound", "video", "'sound'"),
        ("path,Label", "video", "'Label'"),
        ("path,video", "video", "'video'"),
        ("path,audio", "audio", "'audio'"),
        ("path,text", "video", "'text'"),
        ("path,hand:thing", "video", "'hand:thing'"),
        ("path,audio:signal", "video", "'audio:signal'"),
        ("path,front:video", "video", "'front:video'"),
        ("path,:signal", "video", "':signal'"),
        ("path,a:signal,a:track", "video", "'a:track'"),
        ("path,label:signal", "video", "'label:signal'"),
        ("path,", "video", "''"),
        ("path,label,label", "video", "label twice"),
        ("file,label", "video", "no column path"),
        ("", "video", "empty"),
    ],
)
def test_unknown_columns_are_refused_by_name(header: str, main: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=named):
        read_columns(write_csv(tmp_path / "a.csv", header), main)


HEADER = "path,start,end,label,caption,signal"


def test_a_row_holds_a_part_a_label_a_sentence_and_files(root: Path) -> None:
    path = write_csv(
        root / "a.csv",
        HEADER,
        'clips/a.mp4,0.5,1.5,wave,"she waves, twice",imu/a.csv',
        "clips/a.mp4,,0.5,clap,,",
        "clips/b.mp4,,,,he claps,imu/b.csv",
    )
    manifest = read_streams(path, root)
    assert manifest.paths == ["clips/a.mp4", "clips/a.mp4", "clips/b.mp4"]
    assert manifest.spans is not None
    assert manifest.spans.tolist() == [[0.5, 1.5], [-math.inf, 0.5], [-math.inf, math.inf]]
    assert manifest.class_names == ["clap", "wave"]
    assert manifest.labels.tolist() == [1, 0, -1]
    assert manifest.texts == [["she waves, twice"], [""], ["he claps"]]
    assert manifest.further == {"signal": ["imu/a.csv", "", "imu/b.csv"]}
    assert manifest.has_classes
    plain = read_streams(write_csv(root / "b.csv", "path,label", "clips/a.mp4,3", "clips/b.mp4,-1"), root)
    assert (plain.labels.tolist(), plain.class_names, plain.spans, plain.texts) == ([3, -1], [], None, None)


def test_several_labels(root: Path) -> None:
    several = read_streams(write_csv(root / "a.csv", "path,label", "clips/a.mp4,wave; clap", "clips/b.mp4,"), root)
    assert several.shown(0).tolist() == [1, 1]
    assert several.shown(0, np.zeros((1, 2))).tolist() == [1, 1]
    assert several.shown(1).tolist() == [0, 0]
    assert several.num_classes == 2
    numbered = read_streams(write_csv(root / "a.csv", "path,label", "clips/a.mp4,0;2", "clips/b.mp4,1"), root)
    assert numbered.num_classes == 3
    assert numbered.shown(0).tolist() == [1, 0, 1]


def test_rows_that_repeat_an_earlier_one_are_left_out(root: Path) -> None:
    rows = ["clips/a.mp4,0,1,wave,she waves,", "clips/a.mp4,0,1,wave,she waves,", "clips/a.mp4,0,1,wave,a hand,"]
    with pytest.warns(UserWarning, match="1 rows repeat"):
        manifest = read_streams(write_csv(root / "a.csv", HEADER, *rows, "clips/a.mp4,0,2,wave,she waves,"), root)
    assert len(manifest) == 3


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("clips/b.mp4,x,1,,,", "Line 3 .*'x' as its start"),
        ("clips/b.mp4,-1,1,,,", "Line 3 .*'-1' as its start"),
        ("clips/b.mp4,0,nan,,,", "Line 3 .*'nan' as its end"),
        ("clips/b.mp4,0,0:12,,,", "Line 3 .*'0:12' as its end"),
        ("clips/b.mp4,2,1,,,", "Line 3 .*starts at 2 s and ends at 1 s"),
        ("clips/b.mp4,1,1,,,", "Line 3 .*starts at 1 s and ends at 1 s"),
        ("clips/b.mp4,,,3,,", "the labels 3 and 'wave'"),
        ("clips/b.mp4,,,a,b,c,d", "Line 3 .*has 7 cells and the header 6"),
        ('clips/b.mp4,,,"a"b,,', "Line 3 .*cannot be read"),
        (",,,,,", "no path"),
        ("clips/b.mp4,,,,,gone.csv\nclips/b.mp4,,1,,,lost.csv", "files of signal .* do not exist"),
    ],
)
def test_cells_that_mean_nothing_are_refused_with_their_line(row: str, named: str, root: Path) -> None:
    path = write_csv(root / "a.csv", HEADER, "clips/a.mp4,,,wave,,", row if row != ",,,,," else ",0,1,,,")
    with pytest.raises(SettingError, match=named):
        read_streams(path, root)


def test_labels_below_zero_and_wrong_roots_are_refused(root: Path) -> None:
    with pytest.raises(SettingError, match="the label -2"):
        read_streams(write_csv(root / "a.csv", "path,label", "clips/a.mp4,-2"), root)
    with pytest.raises(SettingError, match=r"data\.root"):
        read_streams(write_csv(root / "a.csv", "path,label", "a.mp4,2"), root)
    with pytest.raises(SettingError, match="lists no samples"):
        read_streams(write_csv(root / "a.csv", "path,label"), root)
    with pytest.raises(SettingError, match="the label 99000000"):
        read_streams(write_csv(root / "a.csv", "path,label,caption", "clips/a.mp4,99000000,x"), root)
    with pytest.raises(SettingError, match="does not exist"):
        read_streams(root / "gone.csv", root)


def test_all_lists_have_the_same_streams(root: Path) -> None:
    write_csv(root / "train.csv", "path,signal", "clips/a.mp4,imu/a.csv")
    write_csv(root / "val.csv", "path", "clips/b.mp4")
    with pytest.raises(SettingError, match=r"val\.csv has columns for the streams none, .* for signal"):
        listed(root)
    with pytest.raises(SettingError, match=r"data\.main is text"):
        ListedStreams(str(root), main="text")
    with pytest.raises(SettingError, match=r"data\.streams\.names is \['depth'\]; ListedStreams has video, signal, audio"):
        ListedStreams(str(root), streams=StreamSettings(names=["depth"]))


def test_labels_of_all_lists_count_alike(root: Path) -> None:
    write_csv(root / "train.csv", "path,label,caption", "clips/a.mp4,wave,x", "clips/a.mp4,clap,y")
    write_csv(root / "val.csv", "path,label,caption", "clips/b.mp4,wave,x")
    data = listed(root)
    assert data.val_manifest is not None
    assert (data.num_classes, data.val_manifest.labels.tolist()) == (2, [1])


def test_all_lists_have_as_many_labels(root: Path) -> None:
    one, two = "clips/a.mp4,wave", "clips/b.mp4,wave;clap"
    write_csv(root / "train.csv", "path,label", one, two)
    write_csv(root / "val.csv", "path,label", one)
    batch = next(iter(listed(root).val_dataloader()))
    assert batch.label.tolist() == [[0, 1]]
    write_csv(root / "train.csv", "path,label", one)
    write_csv(root / "val.csv", "path,label", two)
    with pytest.raises(SettingError, match=r"val\.csv has several labels per row"):
        listed(root)


def test_parts_of_a_recording_show_their_own_frames_and_samples(root: Path, one_video: Path) -> None:
    rows = [f"clips/a.mp4,{second},{second + 0.4},{second},imu/a.csv" for second in (0, 1)]
    train = write_csv(root / "train.csv", "path,start,end,label,signal", *rows)
    streams = StreamSettings(signal=SignalSettings(steps=2))
    data = listed(root, clip=ClipSettings(frames=2, size=48), lists=ListSettings(val=str(train)), streams=streams)
    assert data.streams == {"video": "video", "signal": "signal"}
    frames = read_clips(one_video, lambda info, rng: np.arange(40)[None], None).frames
    for row, batch in enumerate(data.val_dataloader()):
        video, signal = batch.stream("video"), batch.stream("signal")
        assert video.time is not None
        first, last = video.time[0, 0].tolist()
        assert row <= first < last <= row + 0.4
        # The table's first column is the time itself.
        assert signal.data[0, 0, 0].tolist() == pytest.approx([first, last], abs=1e-4)
        shown = np.stack([frames[round(moment * 25)][:, 8:56] for moment in (first, last)])
        assert torch.equal(video.data[0, 0], torch.from_numpy(shown))


def test_windows(root: Path) -> None:
    path = write_csv(root / "a.csv", "path,start,end,label", "clips/a.mp4,0.2,1.5,wave", "clips/b.mp4,,0.3,clap")
    with pytest.warns(UserWarning, match=r"1 rows are not longer than data\.window"):
        manifest = read_streams(path, root, window=0.4)
    assert manifest.spans is not None
    assert manifest.spans.tolist() == pytest.approx(np.array([[0.2, 0.6], [0.6, 1.0], [1.0, 1.4]]))
    assert manifest.labels.tolist() == [0, 0, 0]
    with pytest.raises(SettingError, match=r"Line 2 .*no end, .*data\.window"):
        read_streams(write_csv(root / "a.csv", "path,start", "clips/a.mp4,0"), root, window=1)


def test_a_sample_without_a_stream_is_replaced_or_marked(root: Path) -> None:
    write_csv(root / "train.csv", "path,signal", "clips/a.mp4,", "clips/b.mp4,imu/b.csv")
    marked = listed(root, streams=StreamSettings(on_missing="mark", signal=SignalSettings(steps=4)))
    for batch in marked.train_dataloader():
        signal, row = batch.stream("signal"), int(batch.index)
        assert batch.substituted.tolist() == [-1]
        assert signal.data.shape == (1, 1, 3, 4)
        assert signal.valid is not None
        assert signal.valid.all() == (row == 1)
        assert batch.reading.faults == ([] if row == 1 else [(0, "signal: no such stream")])
    for batch in listed(root).train_dataloader():
        if int(batch.index) == 0:
            assert batch.substituted.tolist() == [0]


def test_workers_give_the_same_samples(root: Path) -> None:
    np.save(root / "joints.npy", np.random.default_rng(0).normal(size=(60, 5, 3)))
    rows = [f"clips/{name}.mp4,imu/{name}.csv,joints.npy,{end}" for name in "ab" for end in (1, 1.5)]
    write_csv(root / "train.csv", "path,signal,skeleton,end", *rows)
    seen = []
    for workers in (0, 2):
        data = ListedStreams(str(root), clip=ClipSettings(frames=4, size=32), batch_size=2, reading=ReadSettings(workers))
        data.setup("fit")
        seen.append(list(data.train_dataloader()))
    for own, other in zip(*seen, strict=True):
        assert own.index.tolist() == other.index.tolist()
        for name in ("video", "signal", "skeleton"):
            assert torch.equal(own.stream(name).data, other.stream(name).data)


def test_streams_of_which_no_file_can_be_read_end_the_run_before_the_first_step(root: Path) -> None:
    for name in "ab":
        (root / f"imu/{name}.csv").write_text("time,ax\n0,fast\n")
    write_csv(root / "train.csv", "path,signal", "clips/a.mp4,imu/a.csv", "clips/b.mp4,imu/b.csv")
    with pytest.raises(SettingError, match=r"None of the first 2 files of the stream signal .*fast.*data\.streams"):
        listed(root).train_dataloader()


def test_another_rate_than_all_files_have_names_the_setting(root: Path) -> None:
    write_csv(root / "train.csv", "path,signal", "clips/a.mp4,imu/a.csv", "clips/b.mp4,imu/b.csv")
    with pytest.raises(
        SettingError, match=r"another rate \(50 samples per second, not 100\)\); correct them, or data\.streams"
    ):
        listed(root, streams=StreamSettings(signal=SignalSettings(rate=100))).train_dataloader()


def test_flow_leads(root: Path) -> None:
    for name in "ab":
        np.save(root / f"{name}.npy", np.zeros((39, 48, 64, 2), np.float32))
    write_csv(root / "train.csv", "path", "a.npy", "b.npy")
    batch = next(iter(listed(root, main="flow").train_dataloader()))
    assert batch.stream("flow").data.shape == (1, 1, 4, 32, 32, 2)


def test_recordings_of_other_kinds_lead(root: Path) -> None:
    write_csv(root / "train.csv", "path,label,video", "imu/a.csv,x,clips/a.mp4", "imu/b.csv,y,clips/b.mp4")
    data = listed(root, main="signal", streams=StreamSettings(names=["signal"]), clip=ClipSettings(frames=8))
    batch = next(iter(data.train_dataloader()))
    # Every fourth of the samples, so that 8 of them show 28 periods.
    assert (list(batch.streams), batch.stream("signal").data.shape) == (["signal"], (1, 1, 3, 29))
    for names in (["video"], None):
        both = listed(root, main="signal", streams=StreamSettings(names=names))
        assert next(iter(both.train_dataloader())).stream("video").data.shape == (1, 1, 4, 32, 32, 3)


def test_a_long_list_is_packed(tmp_path: Path) -> None:
    count = 5000
    rows = [f"clips/{row:07d}.mp4,{row},{row + 5},class {row % 100},a sentence,imu/{row:07d}.csv" for row in range(count)]
    path = write_csv(tmp_path / "train.csv", HEADER, *rows)
    gc.collect()
    tracemalloc.start()
    manifest = read_streams(path, tmp_path, is_collection=True)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = path.stat().st_size
    assert len(manifest) == count
    # The texts, eight bytes for the offset of each, and 24 bytes of numbers.
    assert held < size + 80 * count
    assert peak < 5 * size

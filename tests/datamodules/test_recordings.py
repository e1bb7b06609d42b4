"""Long recordings: every segment once, all clips of a sample in one pass, durations looked up once, parts distinguished."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import LongRecordings, VideoFolder
from datamodules.base import _same_classes
from datamodules.lists import durations
from datamodules.lists.durations import cut_into_stretches, seconds_of_files, stated_seconds
from datamodules.lists.manifest import Manifest, shared_rows
from datamodules.loading.loader import SampleKey
from datamodules.loading.single_pass import fingerprint, sample_names
from datamodules.prepare.shards import prepare_shards
from datamodules.settings import ReadSettings
from datamodules.streams.settings import StreamSettings
from datamodules.video import decode, pyav_reader
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.decode import DecodeError
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, ViewSettings
from modules.core.errors import SettingError
from tests.datamodules.sets.trees import CLIP, assert_equal, batches, put
from tests.datamodules.video_files import write_still, write_video

CLIPS = ClipSettings(frames=4, sampler=Dense(1), size=16, clips=3)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute, ten minutes and an hour, one frame in each second, whose shade encodes the second."""
    folder = tmp_path_factory.mktemp("films")
    for name, seconds in (("a", 60), ("b", 620), ("c", 3600)):
        write_still(folder / f"{name}.mp4", seconds)
    return folder


def recordings(films: Path, where: Path, **settings: Any) -> LongRecordings:
    given = {"clip": CLIPS, "batch_size": 4, "reading": ReadSettings(0), "seed": 1, "durations": str(where / "durations")}
    data = LongRecordings(str(films), **(given | settings))
    data.setup("fit")
    return data


def test_every_stretch_comes_once_in_an_epoch(films: Path, tmp_path: Path) -> None:
    data = recordings(films, tmp_path, batch_size=1)
    manifest = data.train_manifest
    assert manifest is not None
    assert manifest.spans is not None
    # 1, 10 and 60: the twenty seconds that are left of ten minutes belong to the last of them.
    assert [list(manifest.paths).count(f"{name}.mp4") for name in "abc"] == [1, 10, 60]
    assert manifest.spans[:3].tolist() == [[0, np.inf], [0, 60], [60, 120]]
    assert manifest.spans[10].tolist() == [540, np.inf]
    read = batches(data)
    assert sorted(row for one in read for row in one.index.tolist()) == list(range(71))
    for one in read[:20]:
        first, last = manifest.spans[int(one.index)]
        time = one.stream("video").time
        assert time is not None
        assert first <= float(time.min())
        assert float(time.max()) < last
        # Clips show the frames of their timestamps: a shade per second, over eight bits.
        shade = one.stream("video").data[0, :, 0].float().mean((1, 2, 3))
        assert shade == pytest.approx((time[0, :, 0] * 7 % 256), abs=6)


def test_clips_of_a_sample_are_cut_out_in_one_pass(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    started = pyav_reader.PyAVReader.__init__

    def counting(reader: Any, source: Any, *rest: Any) -> None:
        opened.append(Path(source).name)
        started(reader, source, *rest)

    monkeypatch.setattr(decode.PyAVReader, "__init__", counting)
    for clips in (1, 6):
        opened.clear()
        data = recordings(films, tmp_path, clip=replace(CLIPS, clips=clips))
        loader = data.train_dataloader()
        read = [one for _, one in zip(range(3), loader, strict=False)]
        samples = sum(len(one.index) for one in read)
        assert read[0].stream("video").data.shape[1] == clips
        # Six clips need a sixth of the file openings of single clips.
        assert len(opened) == samples


def test_lengths_are_looked_up_once(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    look = durations.stated_seconds

    def counting(path: Path, timeout: float | None) -> float:
        looked.append(path.name)
        return look(path, timeout)

    monkeypatch.setattr(durations, "stated_seconds", counting)
    monkeypatch.setattr(decode, "read_clips", None)  # nothing is decoded
    for name in "abc":
        put(films / f"{name}.mp4", tmp_path / f"films/{name}.mp4")
    counts = []
    for change in (None, None, "a.mp4"):
        if change:
            put(films / "b.mp4", tmp_path / "films" / change)
        looked.clear()
        recordings(tmp_path / "films", tmp_path)
        counts.append(sorted(looked))
    assert counts == [["a.mp4", "b.mp4", "c.mp4"], [], ["a.mp4"]]
    (kept,) = (tmp_path / "durations").glob("*.json")
    assert [seconds for _, _, seconds in json.loads(kept.read_text()).values()] == [620, 3600, 620]


def test_files_are_looked_through_once_by_whoever_reads_them(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look = pyav_reader.PyAVReader._look

    def counting(reader: Any) -> Any:
        looked.append(Path(reader._source).name)
        return look(reader)

    monkeypatch.setattr(pyav_reader.PyAVReader, "_look", counting)

    def read() -> list[Any]:
        # Like another process, with an empty cache.
        monkeypatch.setattr(pyav_reader, "_memory", pyav_reader._Memory())
        looked.clear()
        return batches(recordings(films, tmp_path, batch_size=1, clip=replace(CLIPS, clips=1)))

    first = read()
    assert sorted(looked) == ["a.mp4", "b.mp4", "c.mp4"]
    again = read()
    assert looked == []
    assert_equal(first, again)
    kept = sorted((tmp_path / "durations/frames").iterdir())
    assert [path.suffix for path in kept] == [".npz"] * 3
    # Broken and changed files are read again.
    kept[0].write_bytes(kept[0].read_bytes()[:-100])
    read()
    assert len(looked) == 1
    # Other data modules cache nothing.
    VideoFolder(str(films), clip=CLIP, batch_size=3, reading=ReadSettings(0)).setup("fit")
    assert pyav_reader._memory.folder is None


def test_damaged_files_are_told_and_counted_once(films: Path, tmp_path: Path) -> None:
    put(films / "a.mp4", tmp_path / "films/a.mp4")
    (tmp_path / "films/b.mp4").write_bytes(b"no video")
    with pytest.warns(UserWarning, match=r"1 of 2 files in .* cannot be opened, the first is b\.mp4 \(cannot open\)"):
        data = recordings(tmp_path / "films", tmp_path, batch_size=2)
    assert data.faults is not None
    data.faults.write_to(tmp_path)
    (one,) = batches(data)
    assert one.substituted.tolist() == [row if row == 1 else -1 for row in one.index.tolist()]
    assert (tmp_path / "bad_videos.tsv").read_text().splitlines()[1:] == ["b.mp4\ttrain\tcannot open"]
    # A repaired file is scanned again.
    put(films / "b.mp4", tmp_path / "films/b.mp4")
    manifest = recordings(tmp_path / "films", tmp_path).train_manifest
    assert manifest is not None
    assert len(manifest) == 11


def test_what_files_state(films: Path, tmp_path: Path) -> None:
    assert stated_seconds(films / "b.mp4") == 620
    # Nothing is stated: frames are counted.
    assert stated_seconds(write_video(tmp_path / "raw.h264", frames=50)) == pytest.approx(2, abs=0.1)
    for name in ("gone.mp4", "."):
        with pytest.raises(DecodeError, match="file not found"):
            stated_seconds(tmp_path / name)


def test_parts_of_files_are_cut_within_their_ends(tmp_path: Path) -> None:
    rows = Manifest(tmp_path, ["a", "a", "b"], np.array([0, 1, 2]), spans=np.array([[10.0, 40], [100, np.inf], [0, np.inf]]))
    cut = cut_into_stretches(rows, np.array([130.0, 130, np.nan]), 10)
    assert cut.spans is not None
    assert cut.labels.tolist() == [0] * 3 + [1] * 3 + [2]
    assert cut.spans.tolist() == [[10, 20], [20, 30], [30, 40], [100, 110], [110, 120], [120, np.inf], [0, np.inf]]


def test_repeated_paths_are_looked_at_once(films: Path, tmp_path: Path) -> None:
    rows = Manifest(films, ["a.mp4", "b.mp4", "a.mp4"], np.array([0, 0, 0]))
    assert seconds_of_files(rows, tmp_path / "kept.json").tolist() == [60, 620, 60]


def test_settings_that_are_refused(films: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.stretch is 0; it must be a number above 0"):
        recordings(films, tmp_path, stretch=0)
    with pytest.raises(SettingError, match=r"data\.durations .* cannot be written"):
        recordings(films, films / "a.mp4")


# --- Comparisons of samples distinguish parts of one file ---


def parts(root: Path, *spans: tuple[float, float], path: str = "a.mp4") -> Manifest:
    return Manifest(root, [path] * len(spans), np.zeros(len(spans), np.int64), spans=np.array(spans, np.float64).reshape(-1, 2))


def test_rows_share_what_overlaps(tmp_path: Path) -> None:
    train, other = parts(tmp_path, (0, 10), (20, 30)), parts(tmp_path, (10, 20), (9, 11), (25, np.inf), (40, 50))
    assert shared_rows(train, other).tolist() == [False, True, True, False]
    assert not shared_rows(train, parts(tmp_path / "elsewhere", (0, 10))).any()
    assert not shared_rows(train, parts(tmp_path, (0, 10), path="b.mp4")).any()
    whole = replace(train, spans=None)
    assert shared_rows(whole, other).all()
    assert shared_rows(train, replace(other, spans=None)).all()
    # The same file by its absolute path.
    assert shared_rows(train, parts(tmp_path, (0, 5), path=str(tmp_path / "a.mp4"))).all()


def test_only_shared_parts_are_warned_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    train = parts(tmp_path, (0, 10), (20, 30))
    _same_classes(train, parts(tmp_path, (10, 20)), "validation")
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"1 of the 1 validation videos are also training videos, the first is a\.mp4"):
        _same_classes(train, parts(tmp_path, (5, 15), (30, 40)), "validation")


def test_test_samples_that_are_training_samples_are_counted_by_their_parts(films: Path, tmp_path: Path) -> None:
    data = recordings(films, tmp_path, batch_size=1)
    rows = data.train_manifest
    assert rows is not None
    data.train_manifest, data.test_manifest = rows.subset(np.arange(0, 71, 2)), rows.subset(np.arange(1, 71, 2))
    assert data.tested_in_training() == 0
    data.test_manifest = rows.subset(np.arange(5))
    assert data.tested_in_training() == 3
    assert len(sample_names(data.train_dataloader().dataset)) == 36


def test_other_parts_are_other_features(films: Path) -> None:
    rows = parts(films, (0, 10))
    lists = (rows, replace(rows, spans=None), parts(films, (0, 11)))
    assert len({fingerprint(VideoClipDataset(one, CLIP, 0, False)) for one in lists}) == 3


def test_labels_of_a_part_are_those_of_its_time(films: Path) -> None:
    shown = [[(5.0, 8.0, 0), (50.0, 60.0, 1)]]
    for span, label in (((0, 20), [1, 0]), ((40, np.inf), [0, 1]), ((20, 40), [0, 0]), (None, [1, 1])):
        rows = Manifest(films, ["a.mp4"], np.zeros(1, np.int64), ["x", "y"], shown)
        rows.spans = None if span is None else np.array([span], np.float64)
        for views in (None, ViewSettings(2, 1)):
            dataset = VideoClipDataset(rows, CLIPS, 0, False, views=views)
            assert dataset[SampleKey(0, 0)]["label"].tolist() == label


class Halves(VideoFolder):
    """The first ten seconds of each film."""

    def read_split(self, split: str) -> Manifest | None:
        found = super().read_split(split)
        return None if found is None else replace(found, spans=np.tile([0.0, 10.0], (len(found), 1)))


def test_shards_refuse_parts_and_further_streams(films: Path, tmp_path: Path) -> None:
    pytest.importorskip("litdata", reason="litdata is not installed: pip install -e '.[streaming]'")
    with pytest.raises(SettingError, match=r"samples of the split train of --data Halves are parts of files"):
        prepare_shards(Halves(str(films)), tmp_path / "out")
    with pytest.raises(SettingError, match="LongRecordings has its own way of reading videos, which shards do not support"):
        prepare_shards(LongRecordings(str(films), durations=str(tmp_path / "durations")), tmp_path / "out")
    sound = VideoFolder(str(films), streams=StreamSettings(["video", "audio"]))
    with pytest.raises(SettingError, match=r"has the streams video, audio, but shards only support videos; set --data"):
        prepare_shards(sound, tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""Odd folders and lists: nothing becomes a class or loses its label without a message, and labels are checked at the start."""

import dataclasses
import inspect
import logging
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import datamodules.lists.manifest
import datamodules.video.key_frames
from datamodules import AVA, CachedFeatures, Kinetics400, SyntheticMotion, SyntheticSkeleton, UCFRep, VideoFolder
from datamodules.base import VideoDataModule
from datamodules.lists.files import read_list
from datamodules.lists.folders import by_stem, read_folder
from datamodules.lists.manifest import UNLABELLED, Manifest
from datamodules.lists.official import by_place
from datamodules.prepare.command import find_files
from datamodules.sets.ava import BoxSettings, FilmSettings, film_files
from datamodules.sets.ucfrep import annotations, find_recordings, read_pictures
from datamodules.sets.video_text import TextRow, text_manifest
from datamodules.settings import ListSettings, LoadSettings, ReadSettings, RecordingSubset, SubsetSettings
from datamodules.skeleton.base import Split
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.video.key_frames import KeyFrames
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from main import main
from modules.core.errors import SettingError
from modules.motion.appearance import ObjectBank
from modules.scenes.backgrounds import load_images
from tests.datamodules.lists.test_manifest import listing, touch
from tests.datamodules.sets.trees import CLIP, folder

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _hear(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def ready(root: Path, kind: type[VideoDataModule] = VideoFolder, **settings: Any) -> VideoDataModule:
    data = kind(str(root), **({"batch_size": 1, "reading": ReadSettings(0)} | settings))
    data.setup("fit")
    return data


def splits(data: VideoDataModule) -> tuple[list[str], list[str]]:
    assert data.train_manifest is not None
    assert data.val_manifest is not None
    return data.train_manifest.paths, data.val_manifest.paths


# --- Folders ---


def test_hidden_files_and_folders_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "run/1.mp4", "run/._1.mp4", "swim/2.MP4", "swim/.cache/3.mp4", "swim/notes.txt", "picnic/readme.md")
    touch(tmp_path, ".ipynb_checkpoints/1-checkpoint.mp4", "__MACOSX/run/._1.mp4", "@eaDir/1.mp4", ".DS_Store")
    manifest = read_folder(tmp_path)
    assert (listing(manifest), manifest.class_names) == ([("run/1.mp4", 0), ("swim/2.MP4", 1)], ["run", "swim"])
    (line,) = caplog.messages
    assert "2 videos of 2 classes. Left out: 6 hidden or system files (" in line
    assert "2 files of other kinds (1 .md, 1 .txt); 1 folders without videos (picnic)" in line


def test_hidden_files_are_left_out_wherever_folders_are_read(tmp_path: Path) -> None:
    touch(tmp_path, "a/v.mp4", "a/._v.mp4", "__MACOSX/a/w.mp4", ".a/x.mp4")
    assert by_stem(tmp_path) == {"v": "a/v.mp4"}
    assert by_place(tmp_path) == {"a/v": "a/v.mp4"}
    raw = touch(tmp_path / "raw", "S1.skeleton", "._S1.skeleton", ".old/S2.skeleton")
    assert [file.path.name for file in find_files(raw, "--raw", ".skeleton")] == ["S1.skeleton"]
    assert [path.name for path in annotations(touch(tmp_path / "mat", "1.mat", "._1.mat"))] == ["1.mat"]
    films = touch(tmp_path / "films", "frames/film/film_000001.jpg", "frames/.ipynb_checkpoints/x.jpg")
    assert film_files(films) == {"film": "frames/film"}
    touch(films, "frames/film/._film_000001.jpg")
    assert datamodules.video.key_frames._pictures_in(films / "frames/film") == 1
    pictures = tmp_path / "pictures/kind"
    pictures.mkdir(parents=True)
    for number in range(3):
        Image.new("RGBA", (16, 16), (250, 0, 0, 255)).save(pictures / f"{number}.png")
    touch(pictures, "._0.png", "._1.png")
    touch(tmp_path / "pictures", "__MACOSX/kind/0.png", ".trash/0.png")
    assert len(read_pictures(pictures, range(3))) == 3
    assert load_images(tmp_path / "pictures", "train", 8).shape[0] == 2
    assert ObjectBank(str(tmp_path / "pictures"), side=8).names == ["kind"] * 3


@pytest.mark.parametrize(
    "names", [("Train", "Val"), ("training", "validation"), ("train", "valid"), ("TRAIN", "Validate"), ("train", "dev")]
)
def test_usual_names_of_splits(names: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, f"{names[0]}/a/1.mp4", f"{names[0]}/b/2.mp4", f"{names[1]}/b/3.mp4", "Testing/a/4.mp4", "more/5.mp4")
    for kind in (VideoFolder, Kinetics400):
        data = ready(tmp_path, kind)
        assert splits(data) == (["a/1.mp4", "b/2.mp4"], ["b/3.mp4"])
        assert data.val_manifest is not None
        assert data.val_manifest.labels.tolist() == [1]
        data.setup("test")
        assert data.test_manifest is not None
        assert data.test_manifest.paths == ["a/4.mp4"]
    assert any("folders next to" in line and line.endswith(": more.") for line in caplog.messages)


def test_official_tables_of_kinetics_by_their_usual_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    for name, clip in (("train", "a"), ("validate", "b")):
        (tmp_path / f"{name}.csv").write_text(f"label,youtube_id,split\nx,{clip},{name}\n")
    assert splits(ready(tmp_path, Kinetics400)) == (["a.mp4"], ["b.mp4"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train/1.mp4", "val/2.mp4", "validation/3.mp4"), "contains val and validation, which are the same split"),
        (("Train/a/1.mp4", "train/a/2.mp4"), "contains Train and train"),
        # A class of vehicles.
        (("train/1.mp4", "car/2.mp4", "plane/3.mp4"), "a folder train next to car, plane, so train could be a split or a"),
        (("test/a/1.mp4", "other/2.mp4"), "contains test but no train"),
        (("Validation/a/1.mp4",), "contains Validation but no train"),
        (("train_256/a/1.mp4", "val_256/a/2.mp4"), "whose folders train_256, val_256 could be splits or classes"),
        (("run/train/1.mp4", "run/val/2.mp4", "swim/train/3.mp4"), r"whose folder run contains split folders \(train, val\)"),
        (("videos/train/a/1.mp4", "videos/val/a/2.mp4"), r"set data\.root to \S+videos, or"),
    ],
)
def test_ambiguous_folders_are_refused(files: tuple[str, ...], message: str, tmp_path: Path) -> None:
    if files[0].startswith("Train") and (touch(tmp_path, "x") / "X").exists():
        pytest.skip("names of this file system have no case")
    with pytest.raises(SettingError, match=message):
        ready(touch(tmp_path, *files))


def test_classes_called_like_splits_within_a_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/train/1.mp4", "train/car/2.mp4", "val/train/3.mp4")
    data = ready(tmp_path)
    assert data.class_names == ["car", "train"]
    assert splits(data) == (["car/2.mp4", "train/1.mp4"], ["train/3.mp4"])


def test_videos_beside_folders_of_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4", "stray.mp4")
    with pytest.warns(UserWarning, match=r"1 videos \(stray\.mp4\) are left out"):
        assert listing(read_folder(tmp_path)) == [("a/1.mp4", 0), ("b/2.mp4", 1)]
    touch(tmp_path, "3.mp4", "4.mp4")
    with pytest.warns(
        UserWarning, match=r"3 videos \(3\.mp4, 4\.mp4, stray\.mp4\) are next to the 2 in folders.*no video has a"
    ):
        manifest = read_folder(tmp_path)
    assert (len(manifest), set(manifest.labels), manifest.class_names) == (5, {UNLABELLED}, [])


def test_empty_folders_circles_and_capitals_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "run/1.mp4", "swim/2.mp4", "dive/notes.odt")
    (tmp_path / "run/back").symlink_to(tmp_path)
    (tmp_path / "zoo").symlink_to(tmp_path / "swim")
    assert [name for name, _ in listing(read_folder(tmp_path))] == ["run/1.mp4", "swim/2.mp4"]
    assert "1 folders without videos (dive); 2 links to folders that have already been read (run/back, zoo)" in caplog.text
    touch(tmp_path, "Run/1.mp4")
    if len(list(tmp_path.iterdir())) == 5:
        with pytest.warns(UserWarning, match="the classes Run, run differ only in case"):
            read_folder(tmp_path)


def test_what_was_found_when_there_is_no_video(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.foo", "a/2.foo", "a/._3.mp4")
    with pytest.raises(
        SettingError, match=r"contains no video .*; there are 1 hidden .*\(a/\._3\.mp4\); 2 files of other kinds \(2 \.f"
    ):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "codec", "form"),
    [("gif", "gif", "gif"), ("3gp", "mpeg4", "3gp"), ("MTS", "mpeg2video", "mpegts"), ("vob", "mpeg2video", "vob")],
)
def test_rare_containers_are_read(suffix: str, codec: str, form: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with av.open(str(tmp_path / f"a/clip.{suffix}"), "w", format=form) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8" if codec == "gif" else "yuv420p"
        for number in range(12):
            picture = np.full((48, 64, 3), 20 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=stream.pix_fmt)))
        file.mux(stream.encode())
    (batch,) = folder(tmp_path, batch_size=1, clip=ClipSettings(frames=4, sampler=Dense(3), size=32)).probe_dataloader()
    assert (batch.substituted.tolist(), batch.label.tolist()) == ([-1], [0])
    assert (batch.stream("video").data.float().mean((0, 1, 3, 4, 5)).diff() > 30).all()


def test_other_suffixes_of_videos(tmp_path: Path) -> None:
    names = sorted(f"a/{number}.{suffix}" for number, suffix in enumerate(("ogv", "Vob", "m2ts", "3g2", "asf", "mxf", "rmvb")))
    assert [name for name, _ in listing(read_folder(touch(tmp_path, *names)))] == names
    # A preview does not replace its video.
    touch(tmp_path, "a/v.gif", "a/v.mp4", "a/v.jpg", "a/w.gif", "a/w.jpg")
    assert (by_stem(tmp_path)["v"], by_stem(tmp_path)["w"]) == ("a/v.mp4", "a/w.gif")
    assert (by_place(tmp_path)["a/v"], find_recordings(tmp_path)["v"]) == ("a/v.mp4", "a/v.mp4")
    assert text_manifest(tmp_path, [TextRow("v", ["it moves"])], tmp_path).paths == ["a/v.mp4"]
    (tmp_path / "list").write_text("a/v 0\na/w 1\n")
    assert listing(read_list(tmp_path / "list", tmp_path)) == [("a/v.mp4", 0), ("a/w.gif", 1)]


# --- Lists ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1.mp4,3,\n2.mp4,0,\n", "Line 1 of .*list is '1.mp4,3,', which ends with a separator"),
        ("1.mp4,120,3,\n2.mp4,80,0,\n", "Line 1 of .* ends with a separator"),
        ("1.mp4\t3\t\n2.mp4\t0\t\n", "Line 1 of .* ends with a separator"),
        ("1.mp4,0\n2.mp4,3,\n", "Line 2 of .* ends with a separator"),
        ("1.mp4,archery\n2.mp4,diving\n", "Line 1 of .* expected a path and, last, an integer label"),
        ("path,label\n1.mp4,archery\n2.mp4,0\n", "Line 2 of .* expected a path and, last"),
        (
            "path,start,end,label\n1.mp4,0,1,3\n",
            "has the column start, but parts of files are only read by --data ListedStreams",
        ),
        ("video,class\n1.mp4,3\n2.mp4,0\n", "Line 1 of .* expected a path"),
        ("1.mp4;3\n2.mp4;0\n", "Line 1 of .* expected a path"),
        ("1.mp4,3.0\n2.mp4,0\n", "Line 1 of .* expected a path"),
        ("1.mp4,1_0\n2.mp4,0\n", "Line 1 of .* expected a path"),
        (",3\n2.mp4,0\n", "Line 1 of .* expected a path"),
        ("1.mp4\n2.mp4\n", "Line 1 of .* expected a path"),
    ],
)
def test_lists_that_would_lose_labels_are_refused(content: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "list").write_text(content)
    with pytest.raises(SettingError, match=message):
        read_list(tmp_path / "list", tmp_path)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("path,label,\n1.mp4,3,\n2.mp4,,\n", [3, UNLABELLED]),
        ('\ufeff"path" , "label"\r\n1.mp4, 3\r\n2.mp4,0\r\n', [3, 0]),
        ("1.mp4,120,3\n2.mp4,80,\n", [3, UNLABELLED]),
        ("1.mp4,3\n2.mp4,\n", [3, UNLABELLED]),
    ],
)
def test_lists_that_are_clear_are_read(content: str, labels: list[int], tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "list").write_bytes(content.encode())
    assert listing(read_list(tmp_path / "list", tmp_path)) == [("1.mp4", labels[0]), ("2.mp4", labels[1])]


def test_missing_and_contradicting_rows_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "list").write_text("1.mp4 0\n2.mp4 1\n1.mp4 1\n2.mp4 1\n")
    with pytest.warns(
        UserWarning, match="2 rows repeat the path of an earlier row and were left out, 1 of them with another label"
    ):
        read_list(tmp_path / "list", tmp_path)
    (tmp_path / "list").write_text("1.mp4 0\n2.mp4 1\ngone/3.mp4 1\n")
    with pytest.warns(UserWarning, match=r"1 of 3 videos .* do not exist, the first is \S+gone/3\.mp4; they count as broken"):
        read_list(tmp_path / "list", tmp_path)


def lists(root: Path, train: str, val: str, **more: str) -> ListSettings:
    """Lists of these rows, whose videos exist."""
    settings = {}
    for name, rows in ({"train": train, "val": val} | more).items():
        touch(root, *(row.rpartition(" ")[0] for row in rows.split("\n")))
        (root / f"{name}.list").write_text(f"{rows}\n")
        settings[name] = str(root / f"{name}.list")
    return ListSettings(**settings)


def test_a_label_that_training_lacks_is_found_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        SettingError,
        match=r"A validation video .* has the label 2, but the highest training label is 1; correct data\.lists\.v",
    ):
        ready(tmp_path, lists=lists(tmp_path, "1.mp4 0\n2.mp4 1", "3.mp4 2"))
    # A list of test videos is also checked before training.
    with pytest.raises(
        SettingError, match=r"A test video .* has the label 7, but the highest training label is 1; correct data\.lists\.test"
    ):
        ready(tmp_path, lists=lists(tmp_path, "1.mp4 0\n2.mp4 1", "3.mp4 1", test="4.mp4 7"))
    gone = dataclasses.replace(lists(tmp_path, "1.mp4 0\n2.mp4 1", "3.mp4 1"), test=str(tmp_path / "gone.list"))
    with pytest.raises(SettingError, match=r"gone\.list does not exist; set data\.lists\.test"):
        ready(tmp_path, lists=gone)
    with pytest.warns(UserWarning, match="1 validation videos in .* belong to 1 classes without training videos.* is 1"):
        data = ready(tmp_path, lists=lists(tmp_path, "1.mp4 0\n2.mp4 2", "3.mp4 1\n4.mp4 2"))
    assert data.val_manifest is not None
    assert data.val_manifest.labels.tolist() == [1, 2]
    # If training has no labels, those of other splits are not used; parts of a training set keep its classes.
    ready(tmp_path, lists=lists(tmp_path, "1.mp4 -1\n2.mp4 -1", "3.mp4 2"))
    rows = "\n".join(f"{number}.mp4 {number % 5}" for number in range(20))
    for part in (SubsetSettings(low_shot=5), SubsetSettings(fraction=0.1)):
        assert ready(tmp_path, lists=lists(tmp_path, rows, "val/3.mp4 4"), subset=part).num_classes == 5


@pytest.mark.parametrize("numbered", ["train", "val"])
def test_numbers_beside_names_of_classes(numbered: str, tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4", "val/b/4.mp4", "flat/5.mp4")
    listed = tmp_path / "list"
    for rows in (f"{numbered}/a/{{}}.mp4 1\n{numbered}/b/{{}}.mp4 0\n", "flat/5.mp4 0\n"):
        listed.write_text(rows.format(*((1, 2) if numbered == "train" else (3, 4))))
        with pytest.raises(SettingError, match=r"have class names, but the .* have labels without names"):
            ready(tmp_path, lists=ListSettings(**{numbered: str(listed)}))
    # Paths that contain the class names confirm that both lists use the same indices.
    listed.write_text(f"{numbered}/b/{2 if numbered == 'train' else 4}.mp4 1\n")
    data = ready(tmp_path, lists=ListSettings(**{numbered: str(listed)}))
    assert data.num_classes == 2


def test_classes_that_differ_only_in_capitals_between_splits_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/Run/1.mp4", "train/swim/2.mp4", "val/run/3.mp4")
    with pytest.raises(SettingError, match="val has the class run but training has Run; give a class the same name everywhere"):
        ready(tmp_path)


def test_videos_of_training_among_those_of_validation_are_counted(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"2 of the 3 validation videos are also training videos, the first is 2\.mp4"):
        ready(tmp_path, lists=lists(tmp_path, "1.mp4 0\n2.mp4 0\n3.mp4 1", "2.mp4 0\n3.mp4 1\n4.mp4 1"))


# --- Parts of manifests ---


def test_low_shot_counts_classes_and_not_what_has_none(tmp_path: Path) -> None:
    labels = np.array([UNLABELLED] * 50 + [0] * 20 + [1] * 20)
    manifest = Manifest(tmp_path, [str(row) for row in range(len(labels))], labels)
    assert np.unique(manifest.few(10, 1).labels, return_counts=True)[1].tolist() == [5, 5]
    assert set(manifest.few(10, 1).labels) == {0, 1}
    # With `fraction`, the same fraction of videos without class is kept.
    assert np.unique(manifest.share(0.1, 1).labels, return_counts=True)[1].tolist() == [5, 2, 2]
    with pytest.warns(UserWarning, match=r"data\.subset\.low_shot is 60, but only 40 videos"):
        assert len(manifest.few(60, 1)) == 40
    bare = Manifest(tmp_path, manifest.paths, np.full(90, UNLABELLED))
    assert len(bare.few(10, 1)) == 10
    for several in ({"texts": [["a"]] * 90}, {"intervals": [[(0.0, 1.0, 0)]] * 90}):
        with pytest.raises(
            SettingError, match=r"data\.subset\.low_shot is 10, but the videos in .* have several labels or captions"
        ):
            dataclasses.replace(bare, **several).few(10, 1)


def full(kind: type[Manifest]) -> Manifest:
    """A manifest of four rows with a value in every field."""
    fields: dict[str, Any] = {
        "root": Path("root"),
        "paths": ["0", "1", "2", "3"],
        "labels": np.array([0, 1, 1, 0]),
        "class_names": ["a", "b"],
        "intervals": [[(float(row), float(row) + 1, row % 2)] for row in range(4)],
        "texts": [[f"text {row}"] for row in range(4)],
        "further": {"depth": [f"depth {row}" for row in range(4)]},
        "spans": np.arange(8.0).reshape(4, 2),
        "fps": 12.0,
    }
    if kind is KeyFrames:
        fields["seconds"], fields["first"] = np.arange(4.0), np.arange(5)
        fields["boxes"] = np.arange(4.0)[:, None].repeat(4, 1)
        fields["actions"] = np.eye(4, dtype=bool)
    assert fields.keys() == {one.name for one in dataclasses.fields(kind)}, "a new field needs a value here"
    return kind(**fields)


MAKERS = {
    "subset": lambda whole: whole.subset(np.array([3, 1])),
    "share": lambda whole: whole.share(0.5, 1),
    "few": lambda whole: dataclasses.replace(whole, texts=None, intervals=None).few(2, 1),
    "with_classes": lambda whole: whole.with_classes(["a", "b"]),
}


@pytest.mark.parametrize("kind", [Manifest, KeyFrames])
@pytest.mark.parametrize("maker", MAKERS)
def test_every_manifest_made_of_another_keeps_every_field(kind: type[Manifest], maker: str) -> None:
    methods = inspect.getmembers(kind, inspect.isfunction)
    known = {name for name, one in methods if inspect.signature(one).return_annotation in ("Manifest", "KeyFrames")}
    assert known == set(MAKERS), "a new method needs a line here"
    whole = full(kind)
    part = MAKERS[maker](whole)
    assert type(part) is kind
    rows = [int(path) for path in part.paths]
    for one in dataclasses.fields(kind):
        before, after = getattr(whole, one.name), getattr(part, one.name)
        if maker == "few" and one.name in ("texts", "intervals"):
            continue
        if one.name in ("root", "class_names", "fps"):
            assert after == before, one.name
        elif one.name == "further":
            assert after == {"depth": [f"depth {row}" for row in rows]}
        elif one.name == "first":
            assert after.tolist() == list(range(len(rows) + 1))
        else:
            wanted = before[rows] if isinstance(before, np.ndarray) else [before[row] for row in rows]
            assert np.array_equal(after, wanted) if isinstance(before, np.ndarray) else after == wanted, one.name


def test_intervals_count_in_the_other_names_too() -> None:
    other = full(Manifest).with_classes(["b", "c"])
    assert other.labels.tolist() == [UNLABELLED, 0, 0, UNLABELLED]
    assert other.intervals == [[], [(1.0, 2.0, 0)], [], [(3.0, 4.0, 0)]]


# --- Settings ---

WRONG_NUMBERS: list[tuple[str, Any]] = [
    ("batch_size", 0), ("batch_size", -1), ("batch_size", None), ("probe_samples", 0), ("probe_samples", None), ("seed", -1),
]  # fmt: skip
OWN_NUMBERS: list[tuple[type, str, Any]] = [
    (UCFRep, "segments", None), (UCFRep, "segments", 0), (SyntheticMotion, "batch_size", None),
    (SyntheticMotion, "seed", -1), (SyntheticMotion, "seed", None), (SyntheticMotion, "val_videos", None),
    (SyntheticSkeleton, "seed", None), (SyntheticSkeleton, "noise", float("nan")), (SyntheticSkeleton, "noise", None),
    (SyntheticSkeleton, "second_person", None), (SyntheticSkeleton, "train_clips", 0), (CachedFeatures, "views", None),
    (CachedFeatures, "views", -1), (CachedFeatures, "batch_size", 0),
]  # fmt: skip
GROUPED_NUMBERS: list[tuple[type, str, Any]] = [
    (LoadSettings, "reading.num_workers", -1), (LoadSettings, "reading.num_workers", None),
    (ReadSettings, "reading.num_workers", -1), (ReadSettings, "reading.num_workers", None),
    (ReadSettings, "reading.max_bad_fraction", None), (ReadSettings, "reading.max_bad_fraction", -0.1),
    (ReadSettings, "reading.max_bad_fraction", 1.5), (ReadSettings, "reading.decode_timeout", 0.0),
    (ReadSettings, "reading.decode_timeout", float("inf")), (ReadSettings, "reading.decoder", None),
    (SubsetSettings, "subset.seed", -1), (SubsetSettings, "subset.seed", None), (SubsetSettings, "subset.fraction", None),
    (SubsetSettings, "subset.fraction", float("nan")), (SubsetSettings, "subset.low_shot", 1.5),
    (RecordingSubset, "subset.seed", -1), (RecordingSubset, "subset.seed", None), (RecordingSubset, "subset.fraction", None),
    (RecordingSubset, "subset.fraction", float("nan")), (BoxSettings, "boxes.min_score", 2.0),
    (FilmSettings, "films.start", -1.0),
]  # fmt: skip


@pytest.mark.parametrize("part", ["ntu", "videos"])
def test_where_nothing_can_be_written_is_found_before_the_work(part: str, tmp_path: Path) -> None:
    touch(tmp_path, "raw/S001C001P001R001A001.skeleton", "raw/1.mp4", "file")
    source = "--raw" if part == "ntu" else "--source"
    for out in ("file", "file/below"):
        with pytest.raises(SettingError, match=rf"--out \S*{out} cannot be written \(\S+file is not a folder\)"):
            main(["prepare", part, f"{source}={tmp_path / 'raw'}", f"--out={tmp_path / out}"])
    with pytest.raises(SettingError, match="--workers is -1; it must be a whole number of at least 0"):
        main(["prepare", part, f"{source}={tmp_path / 'raw'}", f"--out={tmp_path / 'out'}", "--workers=-1"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(SettingError, match=r"data\.folder \S+file cannot be written"):
        CachedFeatures(SyntheticMotion(train_videos=64), str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, *one) for kind in (VideoFolder, UCFRep, AVA, SyntheticSkeleton) for one in WRONG_NUMBERS] + OWN_NUMBERS,
)
def test_numbers_out_of_range_are_refused_in_a_sentence(kind: type, name: str, value: Any, tmp_path: Path) -> None:
    first = {SyntheticMotion: {}, SyntheticSkeleton: {}, CachedFeatures: {"data": SyntheticMotion(train_videos=64)}}
    if name == "seed" and value is None and kind is not SyntheticMotion and kind is not SyntheticSkeleton:
        pytest.skip("null takes the run's seed")
    if name == "probe_samples" and value is None and issubclass(kind, VideoDataModule):
        pytest.skip("null takes as many as the classes need")
    with pytest.raises(SettingError, match=rf"data\.{name} is "):
        kind(**first.get(kind, {"root": str(tmp_path)}) | {name: value})


@pytest.mark.parametrize(("kind", "name", "value"), GROUPED_NUMBERS)
def test_groups_of_settings_refuse_numbers_likewise(kind: type, name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"data\.{name} is "):
        kind(**{name.partition(".")[2]: value})


def test_lists_that_a_data_set_does_not_read_are_refused(tmp_path: Path) -> None:
    for kind, split in ((UCFRep, "train"), (AVA, "test")):
        with pytest.raises(SettingError, match=rf"data\.lists\.{split} is set, which {kind.__name__} does not use"):
            kind(str(tmp_path), ListSettings(**{split: "list.csv"}))


def test_a_decoder_that_is_not_installed_is_found_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.settings.find_spec", lambda name: None)
    with pytest.raises(
        SettingError, match=r"data\.reading\.decoder is torchcodec, which is not installed; run pip install torchcodec"
    ):
        ReadSettings(decoder="torchcodec")


SMILE = ["fit", f"--config={ROOT / 'configs/smile.yaml'}", "--data=VideoFolder", "--model.target=TimmTarget"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--data.root=/nowhere"], r"data\.root is /nowhere, which is not a folder"),
        (["--data.root={}", "--data.lists.train={}/gone.csv"], r"The list \S+gone\.csv does not exist; set data\.lists\.train"),
        (["--data.root={}", "--data.batch_size=3"], r"data\.batch_size 3 on 1 device\(s\) is more than the 2 training videos"),
        (["--data.root={}", "--data.lists.val={}/val.csv"], "have labels without names"),
        (["--data.root={}", "--data.clip=null"], r"data\.clip is null, but VideoFolder needs a value; leave it out"),
        (["--data.root={}", "--data.views=null"], r"data\.views is null, but VideoFolder needs a value; leave it out"),
        (
            ["--data.root={}", "--data.subset.fraction=null"],
            r"data\.subset\.fraction must be of type float, not 'null'",
        ),
        (
            ["--data.root={}", "--data.reading.decoder=null"],
            r"data\.reading\.decoder is 'null'; it must be one of 'pyav', 'decord', 'torchcodec'",
        ),
    ],
)
def test_data_is_checked_before_anything_is_downloaded(
    settings: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> None:
        pytest.fail("asks for weights before it looks at the data")

    monkeypatch.setattr("modules.backbones.image_towers._download", asked)
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4")
    (tmp_path / "val.csv").write_text("val/a/3.mp4 1\n")
    run = f"--trainer.default_root_dir={tmp_path / 'run'}"
    with pytest.raises(SettingError, match=message):
        main([*SMILE, "--data.batch_size=1", *(setting.format(tmp_path) for setting in settings), run])


def test_an_early_check_reads_lists_once_and_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4")
    reads = []
    plain = datamodules.lists.folders.scan
    monkeypatch.setattr("datamodules.lists.folders.scan", lambda root: reads.append(root.name) or plain(root))
    small: dict[str, Any] = {"batch_size": 2}
    modules = [
        VideoFolder(str(tmp_path), clip=CLIP, reading=ReadSettings(0), **small),
        SyntheticMotion(ClipSettings(frames=4, size=32), train_videos=4, val_videos=2, **small),
        SyntheticSkeleton(SkeletonClipSettings(4), train_clips=4, val_clips=2, **small),
        CachedFeatures(VideoFolder(str(tmp_path), clip=CLIP, reading=ReadSettings(0), **small)),
    ]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for data in modules:
        data.check("fit")
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
    assert reads == ["train", "val"] * 2
    # Cached features are set up with a trainer.
    for data in [*modules[:-1], modules[-1].data]:
        data.setup("fit")
    assert reads == ["train", "val"] * 2


def test_labels_of_recordings_beyond_the_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = SyntheticSkeleton(SkeletonClipSettings(4), 2, train_clips=4, val_clips=2)
    found: Split = data.load()
    found.recordings.label[1] = 12
    monkeypatch.setattr(data, "load", lambda: found)
    with pytest.raises(SettingError, match=r"labels from .* to 12, but SyntheticSkeleton has 12 classes"):
        data.setup("fit")


@pytest.mark.parametrize("header", [[], ["path"]])
def test_a_list_of_paths_alone_has_no_labels(tmp_path: Path, header: list[str]) -> None:
    for name in ("a b", "a", "c"):
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "list.txt").write_text("\n".join([*header, "a b.mp4", "c.mp4", ""]))
    manifest = read_list(tmp_path / "list.txt", tmp_path, needs_labels=False)
    assert list(manifest.paths) == ["a b.mp4", "c.mp4"]
    assert not manifest.is_labelled
    (tmp_path / "list.txt").write_text("\n".join([*header, "a.mp4", "c.mp4 3", ""]))
    with pytest.raises(SettingError, match=r"Line \d of .*list.txt is 'c.mp4 3', but the first line has no label"):
        read_list(tmp_path / "list.txt", tmp_path, needs_labels=False)


def test_a_table_may_name_its_classes(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("label,path\nrun,a.mp4\n,b.mp4\njump,c.mp4\n")
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    manifest = read_list(tmp_path / "list.csv", tmp_path, needs_labels=False)
    assert manifest.class_names == ["jump", "run"]
    assert manifest.labels.tolist() == [1, -1, 0]
    (tmp_path / "list.csv").write_text("label,path\n4,a.mp4\n,b.mp4\n")
    assert read_list(tmp_path / "list.csv", tmp_path, needs_labels=False).labels.tolist() == [4, -1]

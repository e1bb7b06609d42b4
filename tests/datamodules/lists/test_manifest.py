"""Lists and folders of videos, in the layouts of published data sets."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from datamodules.lists.files import is_kinetics_csv, read_kinetics_csv, read_list, read_mini_kinetics, read_something_json
from datamodules.lists.folders import read_folder
from datamodules.lists.manifest import UNLABELLED, Manifest
from modules.core.errors import SettingError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def listing(manifest: Manifest) -> list[tuple[str, int]]:
    return list(zip(manifest.paths, manifest.labels.tolist(), strict=True))


LISTS = {
    "path label": "a/1.mp4 3\nb 2.mp4 0\n",
    "path frames label": "a/1.mp4 120 3\nb 2.mp4 80 0\n",
    "tabs": "a/1.mp4\t3\nb 2.mp4\t0\n",
    "tabs and frames": "a/1.mp4\t120\t3\nb 2.mp4\t80\t0\n",
    "commas": '"a/1.mp4",3\nb 2.mp4,0\n',
    "commas and frames": "a/1.mp4,120,3\nb 2.mp4,80,0\n",
    "header": "label,path\n3,a/1.mp4\n0,b 2.mp4\n",
    "header and tabs": "split\tPath\tLabel\ntrain\ta/1.mp4\t3\ntrain\tb 2.mp4\t0\n",
    "Windows": "\ufeffa/1.mp4 3\r\n\r\nb 2.mp4 0\r\n",
    "spaces around": " a/1.mp4  3 \nb 2.mp4 0\t\n",
    "no suffix": "a/1 3\nb 2.mp4 0\n",
}


@pytest.mark.parametrize("layout", LISTS)
def test_lists(layout: str, tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b 2.mp4")
    (tmp_path / "list").write_bytes(LISTS[layout].encode())
    assert listing(read_list(tmp_path / "list", tmp_path)) == [("a/1.mp4", 3), ("b 2.mp4", 0)]


@pytest.mark.parametrize(
    ("files", "line", "expected"),
    [
        (["clip.mp4"], "clip 12 3", "clip.mp4"),
        (["clip 12.mp4"], "clip 12 3", "clip 12.mp4"),
        (["clip 12"], "clip 12 3", "clip 12"),
        (["clip.avi", "clip 12.mp4"], "clip 12 3", "clip.avi"),
        ([], "clip 12 3", "clip.mp4"),
        (["clip 12.mp4", "clip.mp4 12.mp4"], "clip.mp4 12 3", "clip.mp4"),
        (["a b 7.mp4"], "a b 7 3", "a b 7.mp4"),
        (["v_1.5 s.webm"], "v_1.5 s 3", "v_1.5 s.webm"),
        ([], "v_1.5 3", "v_1.5"),
        (["1"], "1 3", "1"),
    ],
)
def test_what_exists_decides_what_a_number_in_a_list_is(files: list[str], line: str, expected: str, tmp_path: Path) -> None:
    touch(tmp_path, "other.mp4", *files)
    (tmp_path / "list").write_text(f"other.mp4 0\n{line}\n")
    assert listing(read_list(tmp_path / "list", tmp_path))[1] == (expected, 3)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["grün/日本 語.mp4", "a b/c, d.mp4", 'quote\'s "x".mp4', "ünï cödé (1).mp4", "#1 100%.mp4"])
def test_names_of_any_kind(name: str, end: str, tmp_path: Path) -> None:
    touch(tmp_path, name, "z.mp4")
    quoted = '"' + name.replace('"', '""') + '"'
    for text in (f"{name} 3{end}z.mp4 0{end}", f"{quoted},3{end}z.mp4,0", f"{quoted}\t10\t3{end}{end}z.mp4\t7\t0{end}"):
        (tmp_path / "list").write_bytes(text.encode())
        if text[0] != '"' and "," in name:
            continue
        assert listing(read_list(tmp_path / "list", tmp_path)) == [(name, 3), ("z.mp4", 0)]


def test_names_in_no_encoding(tmp_path: Path) -> None:
    name = b"latin \xe4.mp4"
    (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    (tmp_path / "list").write_bytes(name + b" 3\n")
    manifest = read_list(tmp_path / "list", tmp_path)
    assert manifest.file(0).read_bytes() == b"x"
    assert len(manifest.sha256()) == 64


@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_paths_with_separators_are_quoted(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, "a, b/x_000001_000011.mp4", "c.mp4")
    (tmp_path / "list.csv").write_text(f'"a, b/x_000001_000011{suffix}",1\nc{suffix},0\n')
    assert listing(read_list(tmp_path / "list.csv", tmp_path)) == [("a, b/x_000001_000011.mp4", 1), ("c.mp4", 0)]


def test_absolute_paths_stay(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "list").write_text(f"{tmp_path}/1.mp4 2\n")
    manifest = read_list(tmp_path / "list", tmp_path / "elsewhere")
    assert manifest.file(0) == tmp_path / "1.mp4"


@pytest.mark.parametrize("content", ["1.mp4\t\n2.mp4\t4\n", "path\tlabel\n1.mp4\t\n2.mp4\t4\n", "1.mp4 -1\n2.mp4 4\n"])
def test_rows_without_label(content: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "list").write_text(content)
    assert listing(read_list(tmp_path / "list", tmp_path)) == [("1.mp4", UNLABELLED), ("2.mp4", 4)]


def test_rows_without_label_and_repeated_rows(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "list.csv").write_text("1.mp4,\n2.mp4,4\n2.mp4,5\n")
    with pytest.warns(UserWarning, match="1 rows repeat the path"):
        manifest = read_list(tmp_path / "list.csv", tmp_path)
    assert listing(manifest) == [("1.mp4", UNLABELLED), ("2.mp4", 4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1.mp4 0\nnonsense\n", r"Line 2 of .*list is 'nonsense'"),
        # Lines are counted as in an editor, including blank ones.
        ("1.mp4 0\n\n\nnonsense\n", r"Line 4 of .*list is 'nonsense'"),
        ("path,label\n\n1.mp4,x\n", r"Line 3 of .*list is '1.mp4 x'"),
        ("path,label\n", "lists no videos"),
        # The first missing one is named, not the first of the list.
        ("1.mp4 0\ngone/2.mp4 1\ngone/3.mp4 1\n", r"2 of 3 videos .*the first: \S*gone/2\.mp4"),
        ("1.mp4 -3\n", "label -3; labels must be integers from 0"),
        ("1.mp4 99999999999999999999\n", "label 99999999999999999999; labels must be"),
        ("1.mp4,0\n" + "x" * 200_000 + ",y\n", r"Line 2 of"),
        ("x" * 3000 + " 1\n", "1 of 1 videos"),
        ("\n\n", "is empty"),
        ("gone/1.mp4 0\ngone/2.mp4 1\n", r"2 of 2 videos .* do not exist .*set data\.root"),
    ],
)
def test_wrong_lists(content: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "list").write_text(content)
    with pytest.raises(SettingError, match=message):
        read_list(tmp_path / "list", tmp_path)


def test_missing_list(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"does not exist; set data\.lists\.train"):
        read_list(tmp_path / "list", tmp_path)


def test_some_missing_files_stay_in_the_list(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "list").write_text("gone 1\n1 0\n")
    assert listing(read_list(tmp_path / "list", tmp_path)) == [("gone.mp4", 1), ("1.mp4", 0)]


def test_official_kinetics_table(tmp_path: Path) -> None:
    touch(tmp_path, "train/zumba/abc-1_x_000010_000020.mp4", "flat_000001_000011.mkv", "bare.mp4")
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "zumba,abc-1_x,10,20,train\n"
        '"air drumming",flat,1,11,train\n'
        "zumba,bare,5,15,train\n"
        "zumba,gone,0,10,train\n"
    )
    manifest = read_kinetics_csv(tmp_path / "train.csv", tmp_path)
    assert manifest.class_names == ["air drumming", "zumba"]
    assert listing(manifest) == [
        ("train/zumba/abc-1_x_000010_000020.mp4", 1),
        ("flat_000001_000011.mkv", 0),
        ("bare.mp4", 1),
        ("zumba/gone_000000_000010.mp4", 1),
    ]


def test_kinetics_table_of_another_tree(tmp_path: Path) -> None:
    # Underscores for spaces, another container, and pictures next to the videos.
    touch(tmp_path, "VideoData/air_drumming/a_000001_000011.avi", "VideoData/air_drumming/a_000001_000011.JPG")
    table = tmp_path / "train.csv"
    table.write_bytes(b"\xef\xbb\xbflabel,youtube_id,time_start,time_end,split\r\nair drumming,a,1.0,11.0,train\r\n")
    assert is_kinetics_csv(table)
    assert listing(read_kinetics_csv(table, tmp_path)) == [("VideoData/air_drumming/a_000001_000011.avi", 0)]
    # Lists of test videos have no labels.
    table.write_text("youtube_id,time_start,time_end,split\na,1,11,test\n")
    assert listing(read_kinetics_csv(table, tmp_path)) == [("VideoData/air_drumming/a_000001_000011.avi", UNLABELLED)]
    for line in ("x,a,one,11", "x", "x,a,1", "x,a,inf,11", "x,,1,11"):
        table.write_text(f"label,youtube_id,time_start,time_end\n\n{line}\n")
        with pytest.raises(SettingError, match=rf"Line 3 of .*train\.csv is '{line}'; expected youtube_id"):
            read_kinetics_csv(table, tmp_path)
    table.write_text("label\tyoutube_id\tsplit\nx\ta\ttrain\n")
    with pytest.raises(SettingError, match=r"Line 2 of .*separated by commas"):
        read_kinetics_csv(table, tmp_path)


@pytest.mark.parametrize("line", ["v1 0", "v1", "v1 x", "v1 99999999999999999999"])
def test_wrong_mini_kinetics(line: str, tmp_path: Path) -> None:
    touch(tmp_path, "v1.mp4", "v2.mp4")
    (tmp_path / "train.txt").write_text(f"v2 1\n{line}\n")
    with pytest.raises(SettingError, match=rf"Line 2 of .*train\.txt is '{line}'; expected .* a label from 1"):
        read_mini_kinetics(tmp_path / "train.txt", tmp_path)


def test_mini_kinetics_counts_from_one_in_text_and_from_zero_in_csv(tmp_path: Path) -> None:
    touch(tmp_path, "train/a b/v1.mp4", "train/c/v2.mp4")
    (tmp_path / "train.txt").write_text("v1 1\nv2 200\n")
    assert listing(read_mini_kinetics(tmp_path / "train.txt", tmp_path)) == [("train/a b/v1.mp4", 0), ("train/c/v2.mp4", 199)]
    (tmp_path / "train.csv").write_text("train/a b/v1.mp4 0\ntrain/c/v2.mp4 199\n")
    assert listing(read_mini_kinetics(tmp_path / "train.csv", tmp_path)) == [("train/a b/v1.mp4", 0), ("train/c/v2.mp4", 199)]


def test_something_something(tmp_path: Path) -> None:
    touch(tmp_path, "20bn/1.webm", "20bn/22.webm", "20bn/333.webm")
    (tmp_path / "labels.json").write_text(json.dumps({"Holding something": "1", "Closing something": "0"}))
    rows = [{"id": "22", "template": "Holding [something]"}, {"id": "1", "template": "Closing [something]"}, {"id": "333"}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    manifest = read_something_json(tmp_path / "train.json", tmp_path / "labels.json", tmp_path)
    assert listing(manifest) == [("20bn/22.webm", 1), ("20bn/1.webm", 0), ("20bn/333.webm", UNLABELLED)]
    assert manifest.class_names == ["Closing something", "Holding something"]
    (tmp_path / "train.json").write_text(json.dumps([{"id": "1", "template": "Eating [something]"}]))
    with pytest.raises(SettingError, match="'Eating something' of video 1 is not in"):
        read_something_json(tmp_path / "train.json", tmp_path / "labels.json", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"train\.json cannot be read as JSON"),
        (b"\xff\xfe[", r"train\.json cannot be read as JSON"),
        ('{"id": "1"}', r"train\.json contains no list of videos"),
        ('[{"id": "1"}, 7]', r"train\.json: entry 1 is 7; expected an object with id and template"),
        ('[{"template": "A"}]', r"train\.json: entry 0 is {'template': 'A'}"),
        ('[{"id": "1", "template": null}]', r"train\.json: entry 0 is"),
    ],
)
def test_broken_something_list(content: str | bytes, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.webm")
    (tmp_path / "labels.json").write_text('{"A": "0"}')
    (tmp_path / "train.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingError, match=message):
        read_something_json(tmp_path / "train.json", tmp_path / "labels.json", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", r"labels\.json cannot be read as JSON"),
        ('["A"]', r"labels\.json contains no table"),
        *((f'{{"A": {label}}}', r"labels\.json: the label of 'A' is") for label in ('"x"', "1.5", "-1", "null", '"9999999"')),
    ],
)
def test_broken_something_labels(content: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.webm")
    (tmp_path / "labels.json").write_text(content)
    (tmp_path / "train.json").write_text('[{"id": "1", "template": "A"}]')
    with pytest.raises(SettingError, match=message):
        read_something_json(tmp_path / "train.json", tmp_path / "labels.json", tmp_path)


def test_something_labels_may_leave_numbers_out(tmp_path: Path) -> None:
    touch(tmp_path, "1.webm")
    (tmp_path / "labels.json").write_text('{"B": "3", "A": 1}')
    (tmp_path / "train.json").write_text('[{"id": 1, "template": "B"}]')
    manifest = read_something_json(tmp_path / "train.json", tmp_path / "labels.json", tmp_path)
    assert listing(manifest) == [("1.webm", 3)]
    assert manifest.class_names == ["class 0", "A", "class 2", "B"]


def test_missing_something_list(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(SettingError, match=r"gone\.json does not exist; set data\.lists\.train"):
        read_something_json(tmp_path / "gone.json", tmp_path / "labels.json", tmp_path)


def test_flat_missing_and_empty_folders(tmp_path: Path) -> None:
    touch(tmp_path, "b.webm", "a c.jpg", "notes.txt", "empty/notes.txt")
    assert listing(read_folder(tmp_path)) == [("a c.jpg", UNLABELLED), ("b.webm", UNLABELLED)]
    with pytest.raises(SettingError, match=r"data\.root is .*empty, which contains no video \("):
        read_folder(tmp_path / "empty")
    with pytest.raises(SettingError, match=r"data\.root is .*gone, which is not a folder"):
        read_folder(tmp_path / "gone")


def test_classes_may_be_links_to_folders(tmp_path: Path) -> None:
    touch(tmp_path, "all/run/1.mp4", "all/swim/2.mp4", "few/sit/3.mp4")
    (tmp_path / "few/run").symlink_to(tmp_path / "all/run")
    (tmp_path / "few/sit/circle").symlink_to(tmp_path / "few")
    assert listing(read_folder(tmp_path / "few")) == [("run/1.mp4", 0), ("sit/3.mp4", 1)]


def test_labels_in_other_names() -> None:
    manifest = Manifest(Path("x"), ["1", "2", "3"], np.array([1, 0, UNLABELLED]), ["b", "c"])
    other = manifest.with_classes(["a", "b"])
    assert listing(other) == [("1", UNLABELLED), ("2", 1), ("3", UNLABELLED)]
    assert (other.class_names, other.num_classes) == (["a", "b"], 2)


def test_folders_are_classes_if_every_video_lies_in_one(tmp_path: Path) -> None:
    touch(tmp_path, "grün 1/ä b.mp4", "grün 1/deep/c.MKV", "blue/picture.jpg", "blue/notes.txt")
    manifest = read_folder(tmp_path)
    assert manifest.class_names == ["blue", "grün 1"]
    assert listing(manifest) == [("blue/picture.jpg", 0), ("grün 1/deep/c.MKV", 1), ("grün 1/ä b.mp4", 1)]
    # A stray file is left out, and does not remove the labels of the others.
    touch(tmp_path, "top.mp4")
    with pytest.warns(UserWarning, match=r"1 videos \(top\.mp4\) are left out, because the 3 others are in folders of 2"):
        assert listing(read_folder(tmp_path)) == listing(manifest)


def test_hash_and_subset() -> None:
    manifest = Manifest(Path("x"), ["a", "b", "c"], np.array([0, 1, 2]))
    other = Manifest(Path("y"), ["a", "b", "c"], np.array([0, 1, 1]))
    assert manifest.sha256() == Manifest(Path("y"), ["a", "b", "c"], np.array([0, 1, 2])).sha256() != other.sha256()
    assert listing(manifest.subset(np.array([2, 0]))) == [("c", 2), ("a", 0)]


def test_share_of_every_class_rounded_up(tmp_path: Path) -> None:
    labels = np.array([0] * 10 + [1] * 3 + [2] + [UNLABELLED] * 4)
    manifest = Manifest(tmp_path, [f"{row}.mp4" for row in range(len(labels))], labels)
    part = manifest.share(0.25, 12345)
    assert [int((part.labels == label).sum()) for label in (0, 1, 2, UNLABELLED)] == [3, 1, 1, 1]
    assert part.paths == sorted(part.paths, key=lambda path: int(path.split(".")[0]))
    assert part.paths == manifest.share(0.25, 12345).paths != manifest.share(0.25, 99999).paths
    assert manifest.share(1.0, 0).paths == manifest.paths


def test_the_hash_of_a_list_does_not_depend_on_its_root() -> None:
    """The hash of a list of absolute paths does not change if all videos are moved."""
    labels = np.array([0, 1])
    lists = [Manifest(Path(root), [f"{root}/a.mp4", "b/c.mp4"], labels) for root in ("/old", "/new/place")]
    assert lists[0].sha256() == lists[1].sha256() == Manifest(Path("x"), ["a.mp4", "b/c.mp4"], labels).sha256()
    assert lists[0].sha256() != Manifest(Path("/old"), ["/other/a.mp4", "b/c.mp4"], labels).sha256()

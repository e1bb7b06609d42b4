"""Data sets for downstream tasks: official file formats with made-up content, and the special cases of each."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules import HMDB51, UCF101, ActivityNet, Diving48, EpicKitchens100, FineGym, Jester, SSv1
from datamodules.base import VideoDataModule
from datamodules.lists.manifest import Manifest
from datamodules.sets.epic_kitchens import seconds
from datamodules.settings import ListSettings, ReadSettings
from modules.core.errors import SettingError
from tests.datamodules.sets.trees import CLIP, batches, put, ready

SMALL: dict[str, Any] = {"clip": CLIP, "batch_size": 1, "reading": ReadSettings(0), "seed": 1}


def listing(manifest: Manifest | None) -> list[tuple[str, int]]:
    assert manifest is not None
    return list(zip(manifest.paths, manifest.labels.tolist(), strict=True))


def write(root: Path, name: str, *lines: str) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{line}\n" for line in lines), newline="")
    return root / name


def put_all(video: Path, root: Path, *names: str) -> None:
    for name in names:
        put(video, root / name)


def check_reads(data: VideoDataModule) -> None:
    """Every training and test video of a small tree is read, with its label."""
    rows = listing(data.train_manifest)
    seen = {(batch.index.item(), batch.label.item()) for batch in batches(data)}
    assert seen == {(row, label) for row, (_, label) in enumerate(rows)}
    data.setup("test")
    labels = [batch.label.item() for batch in data.test_dataloader()]
    assert labels == [label for _, label in listing(data.val_manifest)]


@pytest.fixture
def ucf(tmp_path: Path, one_video: Path) -> Path:
    """Three classes, of which one has another case in the names of its files; Windows lines; two splits."""
    stems = [
        f"{folder}/v_{name}_g{group}_c01"
        for folder, name in (("Archery", "Archery"), ("YoYo", "YoYo"))
        for group in ("01", "08")
    ]
    stems.append("HandstandPushups/v_HandStandPushups_g01_c01")
    put_all(one_video, tmp_path / "UCF-101", *(f"{stem}.avi" for stem in stems))
    lists = "ucfTrainTestlist"
    write(tmp_path, f"{lists}/classInd.txt", "1 Archery\r", "2 HandstandPushups\r", "3 YoYo\r")
    write(tmp_path, f"{lists}/trainlist01.txt", "Archery/v_Archery_g08_c01.avi 1", "YoYo/v_YoYo_g08_c01.avi 3")
    write(
        tmp_path, f"{lists}/testlist01.txt",
        "Archery/v_Archery_g01_c01.avi\r", "HandstandPushups/v_HandStandPushups_g01_c01.avi\r", "\r",
    )  # fmt: skip
    write(tmp_path, f"{lists}/trainlist02.txt", "YoYo/v_YoYo_g01_c01.avi 3")
    write(tmp_path, f"{lists}/testlist02.txt", "YoYo/v_YoYo_g08_c01.avi")
    return tmp_path


def test_ucf101(ucf: Path) -> None:
    data = ready(UCF101(str(ucf), **SMALL))
    assert listing(data.train_manifest) == [
        ("UCF-101/Archery/v_Archery_g08_c01.avi", 0),
        ("UCF-101/YoYo/v_YoYo_g08_c01.avi", 2),
    ]
    assert [label for _, label in listing(data.val_manifest)] == [0, 1]
    assert (data.num_classes, data.class_names) == (3, ["Archery", "HandstandPushups", "YoYo"])
    check_reads(data)
    other = ready(UCF101(str(ucf / "UCF-101"), benchmark="split2", lists=ListSettings(folder=str(ucf)), **SMALL))
    assert listing(other.train_manifest) == [("YoYo/v_YoYo_g01_c01.avi", 2)]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("classInd.txt", "0 Archery", "trainlist01|skips labels"),
        ("classInd.txt", "Archery", "Line 1 of .*classInd.txt is 'Archery'"),
        ("trainlist01.txt", "Archery/v_Archery_g08_c01.avi 2", "Line 1 of .*trainlist01.txt is 'Archery/"),
        ("trainlist01.txt", "Golf/v_Golf_g08_c01.avi 1", "Line 1 of .* a class of classInd.txt"),
        ("trainlist01.txt", "Archery/v_Archery_g30_c01.avi 1", "1 of 1 videos .* do not exist"),
        ("trainlist01.txt", "", "trainlist01.txt is empty"),
    ],
)
def test_wrong_files_of_ucf101(name: str, line: str, message: str, ucf: Path) -> None:
    write(ucf / "ucfTrainTestlist", name, line)
    with pytest.raises(SettingError, match=message):
        ready(UCF101(str(ucf), **SMALL))


def test_lists_of_ucf101_are_missing(ucf: Path) -> None:
    with pytest.raises(SettingError, match=r"contains no classInd.txt; set data.lists.folder"):
        ready(UCF101(str(ucf / "UCF-101"), **SMALL))
    with pytest.raises(SettingError, match=r"contains no trainlist03\.txt; set data\.lists\.folder"):
        ready(UCF101(str(ucf), benchmark="split3", **SMALL))


def test_missing_videos_are_counted_and_stay_in_the_list(ucf: Path) -> None:
    (ucf / "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi").unlink()
    with pytest.warns(UserWarning, match=r"1 of the 2 videos of .*testlist01.txt are below .*HandstandPushups/v_Hand"):
        data = ready(UCF101(str(ucf), **SMALL))
    assert listing(data.val_manifest)[1] == ("HandstandPushups/v_HandStandPushups_g01_c01.avi", 1)


# Names as they are in the data set: nothing in them may be interpreted as a pattern or a separator.
STRANGE = "#1_a;b & (c)[d]!+e@~f_brush_hair_u_nm_np1_ba_goo_0"


@pytest.fixture
def hmdb(tmp_path: Path, one_video: Path) -> Path:
    for name, stems in (("brush_hair", [STRANGE, "b", "c"]), ("wave", ["d", "b", "e"])):
        put_all(one_video, tmp_path / "videos", *(f"{name}/{stem}.avi" for stem in stems))
        flags = [f"{stem}.avi {flag} " for stem, flag in zip(stems, (1, 2, 0), strict=True)]
        write(tmp_path, f"test_train_splits/{name}_test_split1.txt", *flags)
        write(tmp_path, f"test_train_splits/{name}_test_split3.txt", *(f"{stem}.avi 1" for stem in stems))
    write(tmp_path, "test_train_splits/.wave_test_split1.txt.swp", "an editor's file")
    write(tmp_path, "test_train_splits/.aaa_test_split1.txt", "another system's file")
    put(one_video, tmp_path / "videos/aaa/extra.avi")
    return tmp_path


def test_hmdb51(hmdb: Path) -> None:
    data = ready(HMDB51(str(hmdb), **SMALL))
    assert listing(data.train_manifest) == [(f"videos/brush_hair/{STRANGE}.avi", 0), ("videos/wave/d.avi", 1)]
    # The same name in two classes is two videos.
    assert listing(data.val_manifest) == [("videos/brush_hair/b.avi", 0), ("videos/wave/b.avi", 1)]
    assert data.class_names == ["brush_hair", "wave"]
    check_reads(data)
    all_of_them = HMDB51(str(hmdb / "videos"), benchmark="split3", lists=ListSettings(folder=str(hmdb)), **SMALL).read_split(
        "train"
    )
    assert len(listing(all_of_them)) == 6
    with pytest.raises(SettingError, match=r"no <class>_test_split2.txt; set data.lists"):
        ready(HMDB51(str(hmdb), benchmark="split2", **SMALL))
    write(hmdb, "test_train_splits/wave_test_split1.txt", "d.avi 1", "b.avi 3")
    with pytest.raises(SettingError, match=r"Line 2 of .*wave_test_split1.txt is 'b.avi 3'"):
        ready(HMDB51(str(hmdb), **SMALL))


GYM = {label: f"-AbC_dEfGh{number}_E_002407_002435_A_0003_0005" for number, label in enumerate((0, 5, 6, 16, 40, 74, 88, 98))}
PARTS = {
    "gym99": [0, 5, 6, 16, 40, 74, 88, 98], "vault": [0, 5], "floor": [0, 10, 34], "fx_s1": [0, 10], "ub_s1": [0, 14],
}  # fmt: skip
CLASSES = {"gym99": 99, "gym288": 288, "vault": 6, "floor": 35, "fx_s1": 11, "ub_s1": 15}


@pytest.fixture
def gym(tmp_path: Path, one_video: Path) -> Path:
    put_all(one_video, tmp_path / "clips", *(f"{name}.mp4" for name in GYM.values()))
    for part, suffix in (("train_element_v1.0", ""), ("val_element", ".avi")):
        write(tmp_path, f"annotations/gym99_{part}.txt", *(f"{name}{suffix} {label}" for label, name in GYM.items()))
        write(tmp_path, f"annotations/gym288_{part}.txt", *(f"{name} {label + 189}" for label, name in GYM.items()))
    return tmp_path


@pytest.mark.parametrize("subset", CLASSES)
def test_finegym(subset: Any, gym: Path) -> None:
    data = ready(FineGym(str(gym), benchmark=subset, **SMALL))
    for manifest in (data.train_manifest, data.val_manifest):
        expected = PARTS.get(subset, [label + 189 for label in GYM])
        assert [label for _, label in listing(manifest)] == expected
        assert all(path.startswith("clips/-AbC_dEfGh") for path, _ in listing(manifest))
    assert data.num_classes == CLASSES[subset]
    if subset == "ub_s1":
        check_reads(data)


def test_wrong_lists_of_finegym(gym: Path) -> None:
    bad = write(gym, "bad.txt", f"{GYM[0]} 0", f"{GYM[5]} 99")
    with pytest.raises(SettingError, match=r"Line 2 of .*bad.txt has the label '99'; expected an integer from 0 to 98\."):
        ready(FineGym(str(gym), lists=ListSettings(str(bad)), **SMALL))
    few = write(gym, "few.txt", f"{GYM[0]} 0")
    with pytest.raises(SettingError, match=r"few.txt lists no videos"):
        ready(FineGym(str(gym), benchmark="ub_s1", lists=ListSettings(str(few)), **SMALL))
    with pytest.raises(SettingError, match=r"contains no gym99_train_element_v1.1.txt; set data.lists.train"):
        ready(FineGym(str(gym / "clips"), **SMALL))


@pytest.fixture
def diving(tmp_path: Path, one_video: Path) -> Path:
    put_all(one_video, tmp_path, "rgb/-bCdEfGhIjK_00012.mp4", "rgb/_bCdEfGhIjK_00003.mp4")
    for split, name, label in (("train", "-bCdEfGhIjK_00012", 47), ("test", "_bCdEfGhIjK_00003", 29)):
        entry = {"vid_name": name, "label": label, "start_frame": 0, "end_frame": 7}
        (tmp_path / f"Diving48_V2_{split}.json").write_text(json.dumps([entry]))
        (tmp_path / f"Diving48_{split}.json").write_text(json.dumps([entry | {"label": 1}]))
    (tmp_path / "Diving48_vocab.json").write_text(json.dumps([["Back", "15som", "05Twis", f"P{n}"] for n in range(48)]))
    return tmp_path


def test_diving48(diving: Path) -> None:
    data = ready(Diving48(str(diving), **SMALL))
    # Labels of version 2; a class without videos keeps its index.
    assert listing(data.train_manifest) == [("rgb/-bCdEfGhIjK_00012.mp4", 47)]
    assert listing(data.val_manifest) == [("rgb/_bCdEfGhIjK_00003.mp4", 29)]
    assert data.num_classes == 48
    assert data.class_names is not None
    assert data.class_names[30] == "Back, 15som, 05Twis, P30"
    check_reads(data)
    (diving / "Diving48_V2_train.json").write_text(json.dumps([{"vid_name": "a", "label": 48}]))
    with pytest.raises(SettingError, match=r"Entry 0 of .*train.json has the label '48'"):
        ready(Diving48(str(diving), **SMALL))
    (diving / "Diving48_V2_train.json").write_text(json.dumps([{"vid_name": "a"}]))
    with pytest.raises(SettingError, match=r"expected an object with vid_name and label"):
        ready(Diving48(str(diving), **SMALL))
    (diving / "Diving48_V2_train.json").unlink()
    with pytest.raises(SettingError, match=r"contains no Diving48_V2_train.json"):
        ready(Diving48(str(diving), **SMALL))


@pytest.mark.parametrize(("kind", "prefix"), [(Jester, "jester-v1-"), (SSv1, "something-something-v1-")])
def test_numbered_lists(kind: type[Jester], prefix: str, tmp_path: Path, one_video: Path) -> None:
    put_all(one_video, tmp_path, "videos/101.mp4", "videos/7.mp4", "videos/12.mp4")
    write(tmp_path, f"{prefix}labels.csv", "Swiping Right", "Holding [something], up", "Swiping Left")
    write(tmp_path, f"{prefix}train.csv", "101;Swiping Left", "7;Holding [something], up")
    write(tmp_path, f"{prefix}validation.csv", "12;Swiping Right")
    write(tmp_path, f"{prefix}test.csv", "7")
    data = ready(kind(str(tmp_path), **SMALL))
    # Labels follow the order of the list of classes, not the alphabet.
    assert listing(data.train_manifest) == [("videos/101.mp4", 2), ("videos/7.mp4", 1)]
    assert listing(data.val_manifest) == [("videos/12.mp4", 0)]
    assert listing(data.read_split("test")) == [("videos/7.mp4", -1)]
    check_reads(data)
    write(tmp_path, f"{prefix}train.csv", "101;Swiping Up")
    with pytest.raises(SettingError, match=r"Line 1 of .*train.csv has the class 'Swiping Up'"):
        ready(kind(str(tmp_path), **SMALL))
    put(one_video, tmp_path / "pictures/101/00001.jpg")
    write(tmp_path, f"pictures/{prefix}labels.csv", "Swiping Up")
    write(tmp_path, f"pictures/{prefix}train.csv", "101;Swiping Up")
    with pytest.raises(SettingError, match=r"contains folders of pictures; run `python main.py prepare videos"):
        ready(kind(str(tmp_path / "pictures"), **SMALL))
    (tmp_path / f"{prefix}labels.csv").unlink()
    with pytest.raises(SettingError, match=f"The list of classes {prefix}labels.csv is missing next to"):
        ready(kind(str(tmp_path), **SMALL))


EPIC_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,narration,"
    "verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)


def epic_row(name: str, verb: int, noun: int, start: str = "00:00:05.5", stop: str = "00:00:07.2") -> str:
    video = name.rpartition("_")[0]
    return f"{name},P01,{video},00:00:05.349,{start},{stop},330,432,open,open,{verb},a,{noun},\"['a', 'b']\",\"[{noun}, 9]\""


@pytest.fixture
def epic(tmp_path: Path, one_video: Path) -> Path:
    put_all(one_video, tmp_path / "P01", *(f"P01_01_{number}.mp4" for number in range(4)))
    write(
        tmp_path, "EPIC_100_train.csv",
        EPIC_HEADER, epic_row("P01_01_0", 3, 8), epic_row("P01_01_1", 0, 299), epic_row("P01_01_9", 1, 1, stop="00:00:05.5"),
    )  # fmt: skip
    write(tmp_path, "EPIC_100_validation.csv", EPIC_HEADER, epic_row("P01_01_2", 96, 8), epic_row("P01_01_3", 3, 8))
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*stop before they start")
@pytest.mark.parametrize(
    ("target", "train", "val", "classes"),
    [("verb", [3, 0], [96, 3], 97), ("noun", [8, 299], [8, 8], 300), ("action", [1, 0], [2, 1], 3)],
)
def test_epic_kitchens(target: Any, train: list[int], val: list[int], classes: int, epic: Path) -> None:
    data = ready(EpicKitchens100(str(epic), benchmark=target, **SMALL))
    assert listing(data.train_manifest) == list(zip(["P01/P01_01_0.mp4", "P01/P01_01_1.mp4"], train, strict=True))
    # A pair that only occurs in validation is also a class: its samples count as wrong and are not left out.
    assert [label for _, label in listing(data.val_manifest)] == val
    assert data.num_classes == classes
    if target == "action":
        check_reads(data)


def test_wrong_lists_of_epic_kitchens(epic: Path) -> None:
    with pytest.warns(UserWarning, match="1 narrations stop before they start and are left out, the first: P01_01_9"):
        ready(EpicKitchens100(str(epic), **SMALL))
    for text, message in (
        (EPIC_HEADER.replace("noun_class,all", "other,all"), "has no column noun_class"),
        (f"{EPIC_HEADER}\n{epic_row('P01_01_0', 97, 8)}", "Line 2 of .* has the label '97'"),
        (f"{EPIC_HEADER}\n{epic_row('P01_01_0', 9, 8, start='5.5')}", "Line 2 of .* has the time '5.5'"),
        (f"{EPIC_HEADER}\nP01_01_0,P01", "Line 2 of .* fewer cells"),
    ):
        write(epic, "EPIC_100_train.csv", text)
        with pytest.raises(SettingError, match=message):
            ready(EpicKitchens100(str(epic), **SMALL))


def test_time_stamps() -> None:
    assert seconds("00:01:02.5", Path("list"), 1) == 62.5
    assert seconds("01:00:00", Path("list"), 1) == 3600


def write_activitynet(root: Path) -> Path:
    def entry(subset: str, *rows: tuple[float, float, str]) -> dict[str, Any]:
        return {"subset": subset, "annotations": [{"segment": [a, b], "label": label} for a, b, label in rows]}

    database = {
        "AbC-EfG_IjK": entry("training", (0.2, 0.9, "Drinking coffee"), (1.0, 1.0, "Archery"), (1.0, 1.5, "Archery")),
        "-bCdEfGhIjK": entry("validation", (0.0, 1.0, "Drinking coffee")),
        "cbCdEfGhIjK": entry("testing"),
    }
    path = root / "activity_net.v1-3.min.json"
    path.write_text(json.dumps({"database": database}))
    return path


def test_activitynet(tmp_path: Path, one_video: Path) -> None:
    path = write_activitynet(tmp_path)
    put_all(one_video, tmp_path, *(f"clips/v_{name}.mp4" for name in ("AbC-EfG_IjK_0", "AbC-EfG_IjK_2", "-bCdEfGhIjK_0")))
    data = ready(ActivityNet(str(tmp_path), **SMALL))
    assert listing(data.train_manifest) == [("clips/v_AbC-EfG_IjK_0.mp4", 1), ("clips/v_AbC-EfG_IjK_2.mp4", 0)]
    assert listing(data.val_manifest) == [("clips/v_-bCdEfGhIjK_0.mp4", 1)]
    assert data.class_names == ["Archery", "Drinking coffee"]
    check_reads(data)
    path.write_text("{}")
    with pytest.raises(SettingError, match=r"is not in the format of ActivityNet 1\.3 \(KeyError: 'database'\)"):
        ready(ActivityNet(str(tmp_path), **SMALL))


def test_a_benchmark_that_a_data_set_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.benchmark is split4, which UCF101 .* choose split1, split2, split3"):
        UCF101(str(tmp_path), benchmark="split4")
    with pytest.raises(SettingError, match="which Diving48 does not have; leave it out"):
        Diving48(str(tmp_path), benchmark="v1")


def test_own_lists_in_the_place_of_official_ones(ucf: Path, tmp_path: Path) -> None:
    video = next(path for path in (ucf / "UCF-101").rglob("*.avi"))
    (tmp_path / "mine.txt").write_text(f"{video.relative_to(ucf / 'UCF-101')} 3\n")
    data = UCF101(str(ucf / "UCF-101"), ListSettings(str(tmp_path / "mine.txt"), folder=str(ucf)), **SMALL)
    assert data.read_split("train").labels.tolist() == [3]

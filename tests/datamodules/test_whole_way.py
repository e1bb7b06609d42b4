"""Every data set from its official files to a file of results: prepared, trained on and tested by commands."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from datamodules.video.decode import probe
from main import main
from tests.datamodules.sets.ava_files import FILM_START, write_ava
from tests.datamodules.sets.repetitions import write_ucfrep
from tests.datamodules.sets.test_charades import HEADER, row
from tests.datamodules.sets.test_downstream_datasets import EPIC_HEADER, epic_row
from tests.datamodules.sets.trees import put

ROOT = Path(__file__).parents[2]
CNN, CHARADES = "finetune/cnn_ucf101.yaml", "finetune/cnn_charades.yaml"
YOUTUBE = tuple(f"{start}bCdEfGhIj{number}" for start, number in zip("-_ab", range(4), strict=True))


class Layout(NamedTuple):
    """Four videos of a data set, the first two for training, as they are published.

    Args:
        data: name of the data module.
        videos: paths of the files; those of pictures are folders.
        lists: content of the official files, by name.
        classes: expected number of classes.
        cut: the list by which `prepare` must cut the videos.
        benchmark: benchmark of the data set.
        recipe: recipe of the training.
    """

    data: str
    videos: tuple[str, ...]
    lists: dict[str, str] = {}  # noqa: RUF012  (never mutated)
    classes: int = 2
    cut: str | None = None
    benchmark: str = "null"
    recipe: str = CNN


def lines(*rows: str) -> str:
    return "".join(f"{line}\n" for line in rows)


def kinetics_csv(split: str, *rows: tuple[str, str]) -> str:
    head = "label,youtube_id,time_start,time_end,split,is_cc"
    return lines(head, *(f'"{label}",{name},12,22,{split},0' for name, label in rows))


def kinetics(version: str, folder: str = "{split}/{label}") -> Layout:
    labels = ("tasting food", "playing (chess)", "tasting food", "playing (chess)")
    videos = tuple(
        f"{folder.format(split='train' if number < 2 else 'val', label=label)}/{name}_000012_000022.mp4"
        for number, (name, label) in enumerate(zip(YOUTUBE, labels, strict=True))
    )
    rows = list(zip(YOUTUBE, labels, strict=True))
    return Layout(version, videos, {"train.csv": kinetics_csv("train", *rows[:2]), "val.csv": kinetics_csv("val", *rows[2:])})


def numbered(data: str, prefix: str) -> Layout:
    lists = {
        f"{prefix}labels.csv": lines("Swiping Right", "Holding [something], up", "Swiping Left"),
        f"{prefix}train.csv": lines("101;Swiping Left", "7;Holding [something], up"),
        f"{prefix}validation.csv": lines("12;Swiping Right", "8;Swiping Left"),
    }
    return Layout(data, ("101/", "7/", "12/", "8/"), lists, 3)


def something_json(*names: str) -> str:
    template = "Putting [something] on [something]"
    return json.dumps([{"id": name, "label": "a", "template": template, "placeholders": ["a", "b"]} for name in names])


def gym(names: tuple[str, ...], labels: tuple[int, int]) -> str:
    return lines(*(f"{name}_E_000000_000001_A_0000_0001 {label}" for name, label in zip(names, labels, strict=True)))


def gym_annotation() -> str:
    segments = {"A_0000_0001": {"stages": 2, "timestamps": [[0.1, 0.4], [0.4, 0.9]]}}
    event = {"E_000000_000001": {"event": 1, "timestamps": [[0.2, 1.4]], "segments": segments}}
    return json.dumps(dict.fromkeys(YOUTUBE, event))


def activities() -> str:
    entries = {
        name: {"duration": 1.6, "subset": subset, "annotations": [{"segment": [0.1, 0.9], "label": label}]}
        for name, subset, label in zip(
            YOUTUBE, ("training", "training", "validation", "validation"), ("Yoga", "Archery") * 2, strict=True
        )
    }
    return json.dumps({"version": "VERSION 1.3", "database": entries})


def dives(*rows: tuple[str, int]) -> str:
    return json.dumps([{"vid_name": name, "label": label, "start_frame": 0, "end_frame": 30} for name, label in rows])


DIVES = tuple(f"{name}_0001{number}" for number, name in enumerate(YOUTUBE))
NTU = ("S001C001P001R001A005", "S001C002P002R001A060", "S001C003P003R001A060", "S002C001P040R002A001")
TUNE = "brush_hair_u_nm_np1_ba_goo_0"
EPIC_TIMES = ("00:00:00.20", "00:00:01.00")
LAYOUTS = [
    Layout(
        "UCF101",
        ("UCF-101/YoYo/v_YoYo_g08_c01.avi", "UCF-101/HandstandPushups/v_HandStandPushups_g08_c01.avi",
         "UCF-101/YoYo/v_YoYo_g01_c01.avi", "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi"),
        {"classInd.txt": "1 HandstandPushups\r\n2 YoYo\r\n",
         "trainlist01.txt": "YoYo/v_YoYo_g08_c01.avi 2\r\nHandstandPushups/v_HandStandPushups_g08_c01.avi 1\r\n",
         "testlist01.txt": "YoYo/v_YoYo_g01_c01.avi\r\nHandstandPushups/v_HandStandPushups_g01_c01.avi\r\n\r\n"},
        benchmark="split1",
    ),
    Layout(
        "HMDB51",
        (f"brush_hair/#1_a;b & (c)[d]!+e@~f_{TUNE}.avi", "wave/b.avi", f"brush_hair/c_{TUNE}.avi", "wave/d.avi"),
        {"brush_hair_test_split2.txt": lines(f"#1_a;b & (c)[d]!+e@~f_{TUNE}.avi 1 ", f"c_{TUNE}.avi 2 ", "unused.avi 0 "),
         "wave_test_split2.txt": lines("b.avi 1 ", "d.avi 2 ")},
        benchmark="split2",
    ),
    kinetics("Kinetics400"),
    kinetics("Kinetics600", "videos/vol_00"),
    kinetics("Kinetics700", "VideoData/{label}"),
    Layout(
        "MiniKinetics",
        tuple(f"arm wrestling/{name}_000012_000022.mp4" for name in YOUTUBE),
        {"train_mini1.txt": lines(*(f"{name}_000012_000022 {label}" for name, label in ((YOUTUBE[0], 1), (YOUTUBE[1], 200)))),
         "val_split_1.txt": lines(*(f"{name}_000012_000022 {label}" for name, label in ((YOUTUBE[2], 200), (YOUTUBE[3], 1))))},
        200,
    ),
    numbered("SSv1", "something-something-v1-"),
    numbered("Jester", "jester-v1-"),
    Layout(
        "SSv2",
        ("20bn/1.webm", "20bn/20.webm", "20bn/3.webm", "20bn/4.webm"),
        {"something-something-v2-labels.json": '{"Putting something on something": "173"}',
         "something-something-v2-train.json": something_json("1", "20"),
         "something-something-v2-validation.json": something_json("3", "4")},
        174,
    ),
    Layout("NTUVideos", tuple(f"nturgb+d_rgb/{name}_rgb.avi" for name in NTU), {}, 60, benchmark="ntu60_xsub"),
    Layout(
        "FineGym",
        tuple(f"{name}.mkv" for name in YOUTUBE),
        {"finegym_annotation_info_v1.0.json": gym_annotation(), "gym99_train_element_v1.0.txt": gym(YOUTUBE[:2], (6, 16)),
         "gym99_val_element.txt": gym(YOUTUBE[2:], (16, 6))},
        11, "finegym_annotation_info_v1.0.json", "fx_s1",
    ),
    Layout(
        "Diving48",
        tuple(f"rgb/{name}.mp4" for name in DIVES),
        {"Diving48_V2_train.json": dives((DIVES[0], 47), (DIVES[1], 0)),
         "Diving48_V2_test.json": dives((DIVES[2], 29), (DIVES[3], 47)),
         "Diving48_vocab.json": json.dumps([["Back", "15som", "05Twis", f"P{n}"] for n in range(48)])},
        48,
    ),
    Layout(
        "EpicKitchens100",
        ("P01/videos/P01_01.MP4", "P02/videos/P02_101.MP4"),
        {"EPIC_100_train.csv": lines(EPIC_HEADER, *(epic_row(f"P01_01_{n}", 3 + n, 8, *EPIC_TIMES) for n in (0, 1))),
         "EPIC_100_validation.csv": lines(EPIC_HEADER, *(epic_row(f"P02_101_{n}", 4, 8, *EPIC_TIMES) for n in (0, 1)))},
        2, "EPIC_100_train.csv EPIC_100_validation.csv", "action",
    ),
    Layout(
        "Charades",
        ("Charades_v1_480/AB1CD.mp4", "Charades_v1_480/001YG.mp4", "Charades_v1_480/0A8CF.mp4", "Charades_v1_480/N11GT.mp4"),
        {"Charades_v1_classes.txt": lines("c000 Holding some clothes", "c001 Sitting down"),
         "Charades_v1_train.csv": lines(HEADER, row("AB1CD", "c001 0.00 0.40;c000 0.90 30.50"), row("001YG", "")),
         "Charades_v1_test.csv": lines(HEADER, row("0A8CF", "c001 0.10 0.50"), row("N11GT", "c000 0.00 9.00"))},
        recipe=CHARADES,
    ),
    Layout(
        "ActivityNet",
        tuple(f"v_{name}{suffix}" for name, suffix in zip(YOUTUBE, (".mp4", ".mkv", ".mp4", ".mkv"), strict=True)),
        {"activity_net.v1-3.min.json": activities()},
        2, "activity_net.v1-3.min.json",
    ),
]  # fmt: skip


VIDEOS_DIR = Path(os.environ.get("VIDEOS_DIR", Path(__file__).parents[3] / "shared" / "videos"))
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=0", "--trainer.limit_test_batches=1.0"]


def write_layout(layout: Layout, video: Path, root: Path) -> None:
    """The published files: videos or folders of pictures in `source`, lists in `lists`."""
    for name in layout.videos:
        if not name.endswith("/"):
            put(video, root / "source" / name)
            continue
        (root / "source" / name).mkdir(parents=True)
        for number in range(1, 6):
            Image.new("RGB", (48, 36), (number * 40, 0, 9)).save(root / "source" / name / f"{number:05d}.jpg")
    (root / "lists").mkdir()
    for name, text in layout.lists.items():
        (root / "lists" / name).write_text(text, newline="")


def prepare(source: Path, out: Path, *more: str) -> None:
    main(["prepare", "videos", f"--source={source}", f"--out={out}", "--short_side=32", "--workers=0", *more])


def fit_and_test(recipe: str, run: Path, data: str, *more: str) -> dict[str, Any]:
    """Two steps of a tiny network and its test; gives the file of results."""
    layers = [f"--config={ROOT / 'configs' / name}" for name in (recipe, "debug/tiny_classifier.yaml")]
    words = [f"--data={data}", "--data.batch_size=1", "--model.backbone.width=4", f"--trainer.default_root_dir={run}"]
    main(["fit", *layers, *words, *QUIET, *more])
    (path,) = (run / "results").glob("*.json")
    return json.loads(path.read_text())


CHEAP = ("EpicKitchens100",)


@pytest.mark.filterwarnings("ignore:Kinetics.00 has")
@pytest.mark.parametrize(
    "layout",
    [pytest.param(one, id=one.data, marks=[] if one.data in CHEAP else [pytest.mark.slow]) for one in LAYOUTS],
)
def test_from_official_files_to_a_result(layout: Layout, one_video: Path, tmp_path: Path) -> None:
    write_layout(layout, one_video, tmp_path)
    for cut in layout.cut.split() if layout.cut is not None else [None]:
        prepare(tmp_path / "source", tmp_path / "small", *([f"--list={tmp_path / 'lists' / cut}"] if cut else []))
    words = [
        f"--data.root={tmp_path / 'small'}",
        f"--data.lists.folder={tmp_path / 'lists'}",
        f"--data.benchmark={layout.benchmark}",
    ]
    result = fit_and_test(layout.recipe, tmp_path / "run", layout.data, *words)
    assert (result["data"], result["classes"], result["trained_steps"]) == (layout.data, layout.classes, 2)
    assert (result["videos"], result["missed"]) == (2, [])
    assert result["config"]["data"]["class_path"].endswith(layout.data)
    names = {"test/map"} if layout.recipe == CHARADES else {"test/top1", "test/top5", "test/per_class", "test/per_class_all"}
    assert names <= result["metrics"].keys()


@pytest.mark.slow
def test_repetitions_and_boxes_on_prepared_videos(tmp_path: Path) -> None:
    folder = write_ucfrep(tmp_path / "ucfrep", train=4)
    prepare(folder, tmp_path / "small")
    words = [
        f"--data.root={tmp_path / 'small'}",
        f"--data.lists.folder={folder}",
        "--data.reading.num_workers=0",
        "--data.batch_size=4",
    ]
    words += ["--data.segments=1", "--data.clip.size=16", "--model.backbone.width=2", "--model.steps_per_batch=2"]
    words += ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=1", *QUIET]
    run = tmp_path / "counting"
    main(["fit", f"--config={ROOT / 'configs/counting/ucfrep.yaml'}", *words, f"--trainer.default_root_dir={run}"])
    assert json.loads((run / "results/ucfrep_counting-000.json").read_text())["videos"] == 3
    films = write_ava(tmp_path / "ava")
    prepare(films, tmp_path / "small films")
    words = [f"--data.root={tmp_path / 'small films'}", f"--data.lists.folder={films}", f"--data.films.start={FILM_START}"]
    result = fit_and_test("detection/ava.yaml", tmp_path / "detection", "AVA", *words)
    assert (result["key_frames"], result["missed"]) == (2, [])


# --- Real files ---


def real(name: str) -> Path:
    if not (VIDEOS_DIR / name).is_file():
        pytest.skip(f"{VIDEOS_DIR / name} is missing; set VIDEOS_DIR to a folder of real videos")
    return VIDEOS_DIR / name


def test_a_real_file_of_ntu(tmp_path: Path) -> None:
    """One recording under the names of two: of a person of training, and of another."""
    video = real("S001C001P001R001A001_rgb.avi")
    for name in NTU[0], NTU[2]:
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / f"{name}_rgb.avi").symlink_to(video)
    prepare(tmp_path / "source", tmp_path / "small")
    info = probe(tmp_path / "small" / f"{NTU[0]}_rgb.mp4")
    assert (info.num_frames, info.height) == (103, 32)
    # Its timestamps are not ascending.
    assert info.fps == pytest.approx(30)
    words = [f"--data.root={tmp_path / 'small'}", "--data.benchmark=ntu60_xsub", "--data.views.segments=3"]
    result = fit_and_test(CNN, tmp_path / "run", "NTUVideos", *words)
    assert (result["classes"], result["videos"], result["missed"], result["views"]) == (60, 1, [], 3)


def test_real_files_in_the_layout_of_ucf101(tmp_path: Path) -> None:
    layout = LAYOUTS[0]
    files = ("mpeg4_320x240.avi", "short_32_frames.mp4", "mpeg4_320x240.avi", "nasa_13013.mp4")
    write_layout(layout._replace(videos=()), tmp_path, tmp_path)
    for name, file in zip(layout.videos, files, strict=True):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(real(file))
    broken = tmp_path / "source/UCF-101/YoYo/v_YoYo_g02_c01.avi"
    broken.symlink_to(real("corrupted.mp4"))
    prepare(tmp_path / "source", tmp_path / "small")
    assert "UCF-101/YoYo/v_YoYo_g02_c01.avi" in (tmp_path / "small/malformed.tsv").read_text()
    with (tmp_path / "lists/testlist01.txt").open("a") as file:
        file.write("YoYo/v_YoYo_g02_c01.avi\r\n")
    words = [f"--data.root={tmp_path / 'small'}", f"--data.lists.folder={tmp_path / 'lists'}", "--data.views.segments=3"]
    with pytest.warns(UserWarning, match=r"2 of the 3 videos of .*testlist01.txt"):
        result = fit_and_test(CNN, tmp_path / "run", "UCF101", *words)
    # Videos that could not be prepared are not counted, but listed.
    assert (result["classes"], result["videos"], result["missed"]) == (2, 2, [2])

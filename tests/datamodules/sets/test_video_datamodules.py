"""Data modules on trees of small real files."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import Kinetics400, MiniKinetics, SSv2, VideoFolder
from datamodules.lists.manifest import Manifest
from datamodules.lists.subsets import pick_for_probes
from datamodules.settings import ListSettings, ReadSettings, SubsetSettings
from datamodules.video.crops import Centre, Crop, MultiScale, RandomResized
from datamodules.video.decode import read_clips
from datamodules.video.samplers import Dense, Segments
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from tests.datamodules.sets.trees import CLIP, assert_equal, batches, folder, put, ready
from tests.datamodules.video_files import write_video

VIDEOS_DIR = Path(os.environ.get("VIDEOS_DIR", Path(__file__).parents[4] / "shared" / "videos"))
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker processes in total")


def test_batches_do_not_depend_on_the_number_of_workers(tree: Path) -> None:
    reference = batches(folder(tree))
    for workers in (1, 4):
        assert_equal(reference, batches(folder(tree, workers)))


def test_epochs_differ_in_order_and_in_each_clip(tree: Path) -> None:
    epochs = [batches(folder(tree, batch_size=1), epoch) for epoch in range(2)]
    orders = [[batch.index.item() for batch in epoch] for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(6))
    assert orders[0] != orders[1]
    clips = [{batch.index.item(): batch.stream("video").data for batch in epoch} for epoch in epochs]
    assert not any(torch.equal(clips[0][row], clips[1][row]) for row in range(6))


def test_batch_contract(tree: Path) -> None:
    data = folder(tree, clip=ClipSettings(frames=4, sampler=Dense(2), size=32, clips=2, repeat=3))
    batch = batches(data)[0]
    assert batch.stream("video").data.dtype == torch.uint8
    assert batch.stream("video").data.shape == (3, 6, 4, 32, 32, 3)
    assert batch.stream("video").time.shape == (3, 6, 2)
    assert batch.label.tolist() == [index // 2 for index in batch.index.tolist()]
    assert len(batch.reading.decode_ms) == 3
    assert data.class_names == ["class 0", "class 1", "class 2"]
    # Copies of a clip share frames, not the crop.
    first, again = batch.stream("video").data[0, 0], batch.stream("video").data[0, 1]
    assert torch.equal(batch.stream("video").time[0, 0], batch.stream("video").time[0, 1])
    assert not torch.equal(first, again)


def test_all_clips_of_a_video_come_from_one_reading(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted(path: Path, *args: Any, **settings: Any) -> Any:
        reads.append(path.name)
        return read_clips(path, *args, **settings)

    monkeypatch.setattr("datamodules.video.dataset.read_clips", counted)
    batches(folder(tree, clip=ClipSettings(frames=4, sampler=Dense(2), size=32, clips=2, repeat=3)))
    assert sorted(reads) == [f"train{number}.mp4" for number in range(6)]


def test_order_and_clips_follow_the_seed_of_the_run(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = batches(folder(tree, seed=8))
    monkeypatch.setenv("PL_GLOBAL_SEED", "8")
    assert_equal(reference, batches(folder(tree, seed=None)))
    other = batches(folder(tree, seed=9))
    assert any(
        not torch.equal(one.stream("video").data, two.stream("video").data) for one, two in zip(reference, other, strict=True)
    )


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (250, 10, 10)).save(tmp_path / "red.png")
    (batch,) = batches(folder(tmp_path, batch_size=1))
    assert batch.substituted.tolist() == [-1]
    assert batch.stream("video").data.shape == (1, 1, 4, 32, 32, 3)
    assert batch.stream("video").data.unique(dim=4).flatten(0, 4).unique(dim=0).tolist() == [[250, 10, 10]]


@pytest.mark.parametrize("size", [(512, 64), (64, 512)])
@pytest.mark.parametrize("crop", [MultiScale(), RandomResized(), Centre()], ids=str)
def test_long_and_narrow_pictures(size: tuple[int, int], crop: Crop, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", "mpeg4", frames=8, size=size)
    clip = ClipSettings(frames=4, sampler=Dense(2), size=32, clips=4, crop=crop)
    for loader in (
        folder(tmp_path, batch_size=1, clip=clip).train_dataloader(),
        folder(tmp_path, batch_size=1, clip=clip).probe_dataloader(),
    ):
        (batch,) = list(loader)
        assert batch.stream("video").data.shape == (1, 4, 4, 32, 32, 3)
        assert batch.substituted.tolist() == [-1]
        # Part of the texture, neither a border nor one stretched line.
        assert (batch.stream("video").data.float().std((3, 4)) > 10).all()


def test_skewed_labels_with_gaps(tree: Path) -> None:
    paths = [f"train/class {number % 3}/train{number}.mp4" for number in range(6)]
    (tree / "list").write_text("".join(f"{path} {label}\n" for path, label in zip(paths, [9, 9, 2, 9, 9, 9], strict=True)))
    (tree / "val list").write_text("val/class 0/val0.mp4 2\nval/class 1/val1.mp4 5\n")
    data = folder(tree, lists=ListSettings(str(tree / "list"), str(tree / "val list")), batch_size=6)
    assert data.num_classes == 10
    (batch,) = batches(data)
    assert [label for _, label in sorted(zip(batch.index.tolist(), batch.label.tolist(), strict=True))] == [
        9,
        9,
        2,
        9,
        9,
        9,
    ]
    # A label that does not occur in training is unchanged.
    assert [label for batch in data.val_dataloader() for label in batch.label.tolist()] == [2, 5]
    shutil.rmtree(tree / "train")
    for name in ("alone/1.mp4", "many/1.mp4", "many/2.mp4", "many/3.mp4"):
        put(tree / "val/class 0/val0.mp4", tree / "train" / name)
    shutil.rmtree(tree / "val")
    data = folder(tree, batch_size=4)
    assert data.class_names == ["alone", "many"]
    assert sorted(batches(data)[0].label.tolist()) == [0, 1, 1, 1]


def test_lists_decide_instead_of_folders(tree: Path) -> None:
    (tree / "few.csv").write_text("train/class 0/train0.mp4,4\nval/class 1/val1.mp4,\n")
    data = folder(tree, batch_size=1, lists=ListSettings(str(tree / "few.csv"), str(tree / "few.csv")))
    assert data.train_manifest is not None
    assert data.train_manifest.labels.tolist() == [4, -1]
    assert (data.num_classes, data.class_names) == (5, None)
    assert [batch.label.item() for batch in data.val_dataloader()] == [4, -1]


def test_validation_videos_are_never_trained_on(tree: Path) -> None:
    shutil.rmtree(tree / "train")
    with pytest.raises(SettingError, match="contains val but no train"):
        folder(tree)


def test_without_classes_there_are_no_labels(tree: Path) -> None:
    data = folder(tree / "train/class 0", batch_size=2)
    assert (data.num_classes, data.class_names, data.val_dataloader()) == (None, None, [])
    assert batches(data)[0].label.tolist() == [-1, -1]
    assert data.manifest_hash != folder(tree / "train/class 1", batch_size=2).manifest_hash


def test_validation_labels_count_as_those_of_training(tree: Path, one_video: Path) -> None:
    # A copy of a data set may lack a class in one split; the labels after it must not shift.
    shutil.rmtree(tree / "val/class 1")
    data = folder(tree)
    assert data.val_manifest is not None
    assert data.val_manifest.labels.tolist() == [0, 2]
    put(one_video, tree / "val/another class/x.mp4")
    with pytest.warns(UserWarning, match="1 classes of the validation videos .* count as unlabelled: another class"):
        data = folder(tree)
    assert data.val_manifest is not None
    assert data.val_manifest.labels.tolist() == [-1, 0, 2]


def test_validation_takes_the_middle_of_every_video_once(tree: Path) -> None:
    data = folder(tree, batch_size=2)
    seen = [index for batch in data.val_dataloader() for index in batch.index.tolist()]
    assert seen == [0, 1, 2]
    loader = data.val_dataloader()
    first = list(loader)
    loader.batches.sampler.set_epoch(1)
    assert_equal(first, list(loader))


def test_probe_loader_picks_labelled_videos(tree: Path) -> None:
    paths = [f"train/class {number % 3}/train{number}.mp4" for number in range(6)]
    # Its class names would not match the indices in the list.
    shutil.rmtree(tree / "val")

    def probe_labels(labels: list[int], count: int) -> list[int]:
        (tree / "list").write_text("".join(f"{path} {label}\n" for path, label in zip(paths, labels, strict=True)))
        loader = folder(tree, lists=ListSettings(str(tree / "list")), probe_samples=count).probe_dataloader()
        return [label for batch in loader for label in batch.label.tolist()]

    assert probe_labels([-1, 2, -1, -1, 1, -1], 100) == [2, 1]
    assert probe_labels([-1] * 6, 3) == [-1, -1, -1]


def test_no_probe_sample_at_all_is_refused(tree: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.probe_samples is 0; it must be a whole number of at least 1"):
        folder(tree, probe_samples=0)


def test_probe_loader_picks_videos_evenly(tree: Path) -> None:
    data = folder(tree, probe_samples=3)
    labels = [label for batch in data.probe_dataloader() for label in batch.label.tolist()]
    assert labels == [0, 1, 2]
    everything = folder(tree, probe_samples=100).probe_dataloader()
    assert [label for batch in everything for label in batch.label.tolist()] == [0, 0, 1, 1, 2, 2]


@pytest.mark.filterwarnings("ignore:Kinetics400 has")
def test_official_kinetics_tree(tmp_path: Path, one_video: Path) -> None:
    put(one_video, tmp_path / "train/zumba/a_000001_000011.mp4")
    put(one_video, tmp_path / "train/air drumming/b_000002_000012.mp4")
    put(one_video, tmp_path / "val/zumba/c_000003_000013.mp4")
    (tmp_path / "annotations").mkdir()
    head = "label,youtube_id,time_start,time_end,split,is_cc\n"
    rows = "zumba,a,1,11,train,0\nair drumming,b,2,12,train,0\nzumba,gone,5,15,train,0\n"
    (tmp_path / "annotations/train.csv").write_text(head + rows)
    (tmp_path / "annotations/val.csv").write_text(head + "zumba,c,3,13,val,0\n")
    data = ready(Kinetics400(str(tmp_path), clip=CLIP, batch_size=3, reading=ReadSettings(0), seed=0))
    assert data.class_names == ["air drumming", "zumba"]
    assert data.val_manifest is not None
    assert data.val_manifest.labels.tolist() == [1]
    (batch,) = batches(data)
    assert sorted(batch.substituted.tolist()) == [-1, -1, 2]
    assert data.faults is not None
    assert data.faults.bad == {("zumba/gone_000005_000015.mp4", "train"): "file not found"}


@pytest.mark.filterwarnings("ignore:Kinetics400 has 400 classes, the val split")
def test_kinetics_from_folders_and_from_lists(tree: Path) -> None:
    with pytest.warns(UserWarning, match="Kinetics400 has 400 classes, the train split .* has 3"):
        data = ready(Kinetics400(str(tree), clip=CLIP, batch_size=2))
    assert data.train_manifest is not None
    assert data.train_manifest.labels.tolist() == [0, 0, 1, 1, 2, 2]
    # Folders of validation videos have class names, which do not match these indices.
    shutil.rmtree(tree / "val")
    (tree / "train.csv").write_text("train/class 0/train0 7\ntrain/class 1/train1 399\n")
    data = ready(Kinetics400(str(tree), clip=CLIP, batch_size=2, reading=ReadSettings(0)))
    assert data.train_manifest is not None
    assert data.train_manifest.labels.tolist() == [7, 399]
    assert next(iter(data.train_dataloader())).stream("video").data.shape == (2, 1, 4, 32, 32, 3)


def test_mini_kinetics(tree: Path) -> None:
    (tree / "train_mini1.txt").write_text("train0 1\ntrain1 200\n")
    data = ready(MiniKinetics(str(tree), clip=CLIP, batch_size=2))
    assert data.train_manifest is not None
    assert data.train_manifest.paths == ["train/class 0/train0.mp4", "train/class 1/train1.mp4"]
    assert data.train_manifest.labels.tolist() == [0, 199]
    assert data.val_dataloader() == []


def test_something_something(tmp_path: Path, one_video: Path) -> None:
    for number in (1, 2):
        put(one_video, tmp_path / "20bn" / f"{number}.mp4")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/labels.json").write_text('{"Moving something": "5"}')
    (tmp_path / "labels/train.json").write_text(
        '[{"id": "1", "template": "Moving [something]"}, {"id": "2", "template": "Moving [something]"}]'
    )
    data = ready(
        SSv2(str(tmp_path), clip=ClipSettings(frames=4, size=32, sampler=Segments()), batch_size=2, reading=ReadSettings(0))
    )
    assert next(iter(data.train_dataloader())).label.tolist() == [5, 5]
    # Official names are preferred to short ones, in the root or a folder of lists.
    entries = [{"id": "2", "template": "Moving [something]", "placeholders": ["a cup"]}]
    (tmp_path / "something-something-v2-labels.json").write_text('{"Moving something": "3"}')
    for name in ("train", "validation"):
        (tmp_path / f"something-something-v2-{name}.json").write_text(json.dumps(entries))
    data = ready(SSv2(str(tmp_path), clip=CLIP, batch_size=1))
    for manifest in (data.train_manifest, data.val_manifest):
        assert manifest is not None
        assert (manifest.paths, manifest.labels.tolist()) == (["20bn/2.mp4"], [3])
    (tmp_path / "something-something-v2-labels.json").unlink()
    with pytest.raises(SettingError, match=r"something-something-v2-labels\.json or labels\.json\) is missing next to"):
        ready(SSv2(str(tmp_path), clip=CLIP, batch_size=1))


def test_batch_of_all_devices_must_fit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoFolder, "_rank", lambda self: (0, 2))
    with pytest.raises(SettingError, match=r"data\.batch_size 4 on 2 device\(s\) is more than the 6 training videos"):
        folder(tree, batch_size=4)


def test_every_process_must_have_a_validation_video(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoFolder, "_rank", lambda self: (0, 4))
    with pytest.raises(SettingError, match=r"3 validation video\(s\) in .*val cannot be distributed over 4 processes"):
        folder(tree, batch_size=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: VideoFolder(str(root / "gone")), r"data\.root is .*gone, which is not a folder"),
        (lambda root: VideoFolder(str(root / "empty")), r"data\.root is .*empty, which contains no video"),
        (lambda root: VideoFolder(str(root), batch_size=7), r"data\.batch_size 7 on 1 device\(s\) is more than the 6"),
        (lambda root: SSv2(str(root)), r"contains no something-something-v2-train\.json; set data\.lists\.train"),
        (lambda root: MiniKinetics(str(root)), r"contains no train_mini1\.txt; set data\.lists\.train"),
        (lambda root: Kinetics400(str(root / "train")), r"No list of training videos was found in .*; set data\.lists\.train"),
        (lambda root: VideoFolder(str(root), lists=ListSettings(str(root / "no.csv"))), r"no\.csv does not exist"),
    ],
)
def test_wrong_settings(make: Any, message: str, tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(SettingError, match=message):
        make(tree).setup("fit")


def test_real_files(tmp_path: Path) -> None:
    if not VIDEOS_DIR.is_dir():
        pytest.skip(f"no videos at {VIDEOS_DIR}; set VIDEOS_DIR to a folder of real video files")

    def read(workers: int) -> list[dict[str, Any]]:
        data = folder(VIDEOS_DIR, workers, clip=ClipSettings(frames=8, sampler=Dense(4), size=64), batch_size=4)
        assert data.faults is not None
        data.faults.write_to(tmp_path / str(workers))
        return batches(data)

    reference = read(0)
    for workers in (1, 4):
        assert_equal(reference, read(workers))
    report = (tmp_path / "4/bad_videos.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[:2] for line in report] == [["corrupted.mp4", "train"]]
    moving: Tensor = torch.cat([batch.stream("video").data.float().std(2).mean((1, 2, 3, 4)) for batch in reference])
    # Some begin with seconds of a still picture.
    assert (moving > 0).sum() >= 8


def test_a_share_of_the_training_videos(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("val", 3)):
        for number in range(2 * count):
            path = tmp_path / split / f"class{number % 2}" / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    data = VideoFolder(str(tmp_path), subset=SubsetSettings(0.25), batch_size=2)
    data.setup("fit")
    assert data.train_manifest is not None
    assert sorted(data.train_manifest.labels.tolist()) == [0, 0, 1, 1]
    assert data.val_manifest is not None
    assert len(data.val_manifest) == 6
    whole = VideoFolder(str(tmp_path), batch_size=2)
    whole.setup("fit")
    assert data.manifest_hash != whole.manifest_hash
    with pytest.raises(SettingError, match=r"data\.subset\.fraction is 0"):
        VideoFolder(str(tmp_path), subset=SubsetSettings(0))
    # Of 16 videos 5, of 2 classes: 3 of each.
    few = VideoFolder(str(tmp_path), subset=SubsetSettings(low_shot=5, seed=99999), batch_size=2)
    few.setup("fit")
    assert few.train_manifest is not None
    assert sorted(few.train_manifest.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert few.train_manifest.paths == sorted(few.train_manifest.paths)
    for settings in ({"low_shot": 0}, {"low_shot": 5, "fraction": 0.5}):
        with pytest.raises(SettingError, match=r"data\.subset\.low_shot is"):
            VideoFolder(str(tmp_path), subset=SubsetSettings(**settings))


def test_probe_bank_has_fifty_of_each_class_as_far_as_there_are() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(401), [*[300] * 300, *[60] * 100, 7]))
    picked = pick_for_probes(labels)
    count = np.bincount(labels[picked])
    # 401 classes of 50 would be more than 20,000.
    assert (set(count[:400]), count[400], len(picked)) == ({49}, 7, 400 * 49 + 7)
    assert (np.diff(picked) > 0).all()
    few = np.repeat(np.arange(3), [5000, 100, 2000])
    assert np.bincount(few[pick_for_probes(few)]).tolist() == [974, 100, 974]
    sixty = np.repeat(np.arange(101), 94)
    assert set(np.bincount(sixty[pick_for_probes(sixty)])) == {50}
    # Small sets are complete, and left-out rows are spread evenly over the list.
    assert len(pick_for_probes(np.repeat(np.arange(5), 8))) == 40
    rows = pick_for_probes(np.zeros(100_000, int))
    assert (len(rows), rows[0], rows[-1]) == (2048, 0, 99_999)
    assert set(np.diff(rows)) <= {48, 49}


def test_probe_loader_takes_enough_of_each_class_by_default(tree: Path) -> None:
    data = folder(tree)
    paths, labels = [f"{number}.mp4" for number in range(400 * 20)], np.arange(400 * 20) % 400
    for manifest, expected in (
        (Manifest(tree, paths, labels), 400 * 20),
        (Manifest(tree, paths, np.full_like(labels, -1)), 2048),
        # The label is then the index of a sentence, or unused.
        (Manifest(tree, paths, labels, texts=[["it moves"]] * len(paths)), 2048),
    ):
        data.train_manifest = manifest
        assert len(data.probe_dataloader().dataset) == expected

"""AVA: official lists, clips around key frames, and boxes that follow their people."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.loading.loader import SampleKey
from datamodules.sets.ava import AVA, FilmSettings, read_actions
from datamodules.settings import SubsetSettings
from datamodules.video.crops import Box, Square
from datamodules.video.decode import DecodeError, VideoInfo, read_clips
from datamodules.video.key_frames import KeyFrameDataset, KeyFrames, key_frame_indices, move_boxes
from datamodules.video.samplers import Dense, Segments
from datamodules.video.sampling import ClipSettings
from datamodules.video.transforms import crop_and_resize
from modules.core.errors import SettingError
from tests.datamodules.sets.ava_files import FILM_START, small_ava, write_ava
from tests.datamodules.sets.trees import fit

DETECTED = "person_box_67091280_iou90/ava_detection_val_boxes_and_labels.csv"
NAMES = "ava_action_list_v2.2_for_activitynet_2019.pbtxt"
LINE = "Ab.C-1,0904,0.1,0.1,0.5,0.5"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ava(tmp_path_factory.mktemp("ava"))


@pytest.fixture
def root(films: Path, tmp_path: Path) -> Path:
    """A copy whose lists a test may change."""
    copy = tmp_path / "ava"
    for file in films.rglob("*.*"):
        if file.is_file():
            target = copy / file.relative_to(films)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(file) if file.suffix == ".mkv" else target.write_text(file.read_text())
    return copy


def table(found: KeyFrames) -> list[tuple[str, float, list[list[int]]]]:
    """Film, second of the file, and the actions (from 0) of each box."""
    actions = [np.flatnonzero(row).tolist() for row in found.actions]
    return [(path, float(found.seconds[row]), actions[found.of(row)]) for row, path in enumerate(found.paths)]


def ready(data: AVA, stage: str = "fit") -> AVA:
    data.setup(stage)
    return data


def test_lists(films: Path) -> None:
    data = ready(small_ava(films), "test")
    # Lines of a box are joined, 80 becomes 79, a box without action stays, one with a low score does not, nor does second 901.
    assert isinstance(data.train_manifest, KeyFrames)
    assert table(data.train_manifest) == [
        ("Ab.C-1.mkv", 1.0, [[11, 78, 79], [0], []]),
        ("Ab.C-1.mkv", 2.0, [[6]]),
        ("train2.mkv", 1.0, [[6]]),
        ("train2.mkv", 2.0, [[6]]),
    ]
    assert data.train_manifest.boxes[:3].tolist() == [[0.077, 0.151, 0.283, 0.811], [0.5, 0.1, 0.9, 0.9], [0.3, 0.3, 0.6, 0.6]]
    # Every fourth second; a key frame without a detected box is evaluated, but not read; one is excluded.
    assert (len(data.val_manifest or []), len(data.test_manifest or [])) == (1, 2)
    scored = data.evaluation("test")
    assert table(scored.key_frames) == [("val1.mkv", 1.0, [[], []]), ("val1.mkv", 2.0, [[]])]
    pairs = set(zip(scored.truth.frame.tolist(), scored.truth.action.tolist(), strict=True))
    assert pairs == {(0, 6), (0, 79), (0, 1), (1, 6), (2, 6)}
    assert scored.scored == {0: "bend/bow (at the waist)", 1: 'crouch \\"low\\"', 6: "jump"}
    assert (data.num_classes, data.class_names) == (80, None)
    half = ready(small_ava(films, subset=SubsetSettings(0.5))).train_manifest
    assert isinstance(half, KeyFrames)
    rows = [list(data.train_manifest.paths).index(path) + (second == 2) for path, second, _ in table(half)]
    assert table(half) == [table(data.train_manifest)[row] for row in rows]
    assert half.paths == ["Ab.C-1.mkv", "train2.mkv"]
    true = ready(small_ava(films, benchmark="true_boxes"), "test").evaluation("test").key_frames
    assert [actions for _, _, actions in table(true)] == [[[6, 79], [1]], [[6]], [[6]]]


def test_batches(films: Path) -> None:
    data = ready(small_ava(films, batch_size=4), "test")
    (batch,) = data.train_dataloader()
    assert batch.stream("video").data.shape == (4, 1, 4, 32, 32, 3)
    assert batch.label.shape == (4, 80)
    assert batch.regions.box.shape[1:] == (5,)
    assert batch.regions.box.shape[0] == batch.regions.action.shape[0] == len(batch.regions.number)
    for place, number, actions in zip(batch.regions.box[:, 0].int(), batch.regions.number, batch.regions.action, strict=True):
        row = int(batch.index[place])
        assert data.train_manifest.first[row] <= number < data.train_manifest.first[row + 1]
        assert actions.tolist() == data.train_manifest.actions[number].tolist()
    # Films are 64 x 48: the test shows all of them, one at a time, with all boxes where the lists say.
    tested = list(data.test_dataloader())
    assert [batch.stream("video").data.shape for batch in tested] == [(1, 1, 4, 32, 42, 3)] * 2
    assert torch.allclose(tested[0].regions.box[0, 1:], torch.tensor([0.61 * 42, 0.1 * 32, 0.9 * 42, 0.9 * 32]))
    # Around the second of the key frame: 4 frames, 2 thirtieths apart, of a film with 25 per second.
    assert tested[1].stream("video").time[0, 0].tolist() == pytest.approx([2 - 4 / 30, 2 + 2 / 30], abs=0.5 / 25)
    square = ready(small_ava(films, films=FilmSettings(FILM_START, square=True), batch_size=2), "test")
    assert [batch.stream("video").data.shape for batch in square.test_dataloader()] == [(2, 1, 4, 32, 32, 3)]


def test_samples_are_a_function_of_seed_epoch_and_row(films: Path) -> None:
    clips = []
    for epoch in (0, 0, 1):
        loader = ready(small_ava(films)).train_dataloader()
        loader.batches.sampler.set_epoch(epoch)
        clips.append(
            {int(row): video for batch in loader for row, video in zip(batch.index, batch.stream("video").data, strict=True)}
        )
    assert all(torch.equal(clips[0][row], clips[1][row]) for row in range(4))
    assert not any(torch.equal(clips[0][row], clips[2][row]) for row in range(4))


def test_a_run_goes_on_with_the_next_key_frame(films: Path, tmp_path: Path) -> None:
    whole = fit(small_ava(films), tmp_path / "whole")
    fit(small_ava(films), tmp_path / "cut", stop_after=1)
    rest = fit(small_ava(films), tmp_path / "cut", ckpt_path=tmp_path / "cut/last.ckpt")
    assert [row for row, _ in rest.substituted] == [row for row, _ in whole.substituted][2:]


@pytest.mark.parametrize(("fps", "places"), [(30.0, np.arange(28, 92, 2)), (15.0, np.arange(14, 46))])
def test_frames_around_a_key_frame(fps: float, places: np.ndarray) -> None:
    found = key_frame_indices(2.0, 32, 2, VideoInfo(1000, fps, 8, 8))
    assert found.tolist() == [places.tolist()]


def test_frames_beyond_the_film_repeat_its_ends() -> None:
    assert key_frame_indices(0.0, 4, 2, VideoInfo(60, 30.0, 8, 8)).tolist() == [[0, 0, 0, 2]]
    assert key_frame_indices(1.9, 4, 4, VideoInfo(60, 30.0, 8, 8)).tolist() == [[49, 53, 57, 59]]
    with pytest.raises(DecodeError, match="ends before second 2"):
        key_frame_indices(2.0, 4, 2, VideoInfo(60, 30.0, 8, 8))


def test_folder_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "frames/a.b"
    folder.mkdir(parents=True)
    for number in range(60):
        Image.new("RGB", (40, 30), (4 * number, 0, 0)).save(folder / f"a.b_{number + 1:06d}.jpg", quality=100)
    one = KeyFrames(
        tmp_path, ["frames/a.b"], np.array([0]),
        seconds=np.array([1.0]), boxes=np.array([[0, 0, 0.5, 1.0]]), actions=np.ones((1, 80), bool), first=np.array([0, 1]),
    )  # fmt: skip
    data = KeyFrameDataset(one, ClipSettings(frames=4, sampler=Dense(2), size=30), 0, train=False)
    sample = data[SampleKey(0, 0)]
    # Second 1 is the 31st picture.
    assert (sample["video"][0, :, 0, 0, 0].float() / 4).round().tolist() == [26, 28, 30, 32]
    assert sample["regions"].box.tolist() == [[0, 0, 20, 30]]
    (folder / "a.b_000031.jpg").write_text("no picture")
    assert data[SampleKey(0, 0)]["faults"][0] == (0, "failed while decoding")
    (folder / "a.b_000031.jpg").unlink()
    assert data[SampleKey(0, 0)]["faults"][0] == (0, "file not found")


def test_boxes_follow_the_crop() -> None:
    frame = np.zeros((90, 160, 3), np.uint8)
    frame[30:60, 40:100] = 255
    share = np.array([[40 / 160, 30 / 90, 100 / 160, 60 / 90], [0, 0, 0.02, 0.02]])
    square = Square((0.35, 0.6))
    outside = 0
    for seed in range(20):
        crop = square.draw(160, 90, 64, np.random.default_rng(seed))
        (box, _), inside = move_boxes(share, (160, 90), crop, (64, 64))
        shown = crop_and_resize([frame], crop, 64)[0, :, :, 0] > 127
        assert bool(shown.any()) == bool(inside[0])
        outside += not inside[1]
        if not inside[0]:
            assert not (box[2:] > box[:2]).all()
            continue
        rows, columns = (shown.any(axis).nonzero()[:, 0] for axis in (1, 0))
        edges = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        assert (box - edges).abs().max() <= 1
    assert outside > 0
    assert move_boxes(share, (160, 90), Box(0, 0, 160, 90), (56, 32))[1].all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ava_train_v2.2.csv", None, "contains no ava_train_v2.2.csv; set data.lists.train to it, or data.lists.folder"),
        ("ava_val_v2.2.csv", None, "contains no ava_val_v2.2.csv; set data.lists.val"),
        ("ava_val_excluded_timestamps_v2.2.csv", None, "contains no ava_val_excluded_timestamps_v2.2.csv; set"),
        (NAMES, None, "contains no ava_action_list_v2.2_for_activitynet_2019"),
        (DETECTED, None, "set data.boxes.val .* or data.benchmark"),
        ("ava_train_v2.2.csv", f"{LINE},7\n", "Line 1 of .* expected 8 cells"),
        ("ava_train_v2.2.csv", "Ab.C-1,soon,0.1,0.1,0.5,0.5,7,1\n", "Line 1 of .* film, second"),
        ("ava_train_v2.2.csv", "Ab.C-1,0904,0.1,0.1,0.5,x,7,1\n", "expected numbers"),
        ("ava_train_v2.2.csv", "Ab.C-1,0904,0.1,0.1,50,0.5,7,1\n", "shares of width and height, from 0 to 1"),
        ("ava_train_v2.2.csv", f"{LINE},81,1\n", "Line 1 of .* the label '81'"),
        ("ava_train_v2.2.csv", f"{LINE},0,1\n", "actions count from 1"),
        ("ava_train_v2.2.csv", f"{LINE},,1\n", "no action; lists of detected boxes belong to"),
        ("ava_train_v2.2.csv", f"{LINE},7,1\nno,0904,0,0,1,1,7,1\nno2,0904,0,0,1,1,7,1\n", "2 of the 3 films"),
        (NAMES, "sit, stand", "names no action from 1 to 80"),
        (DETECTED, "val1,0904,0,0,1,1,,0.2\n", "lower data.boxes.min_score"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_wrong_files(name: str, text: str | None, message: str, root: Path) -> None:
    (root / name).unlink() if text is None else (root / name).write_text(text)
    with pytest.raises(SettingError, match=message) as raised:
        ready(small_ava(root), "test")
    assert "\n" not in str(raised.value)


def test_missing_films_and_detections_are_told(root: Path) -> None:
    (root / "val2.mkv").unlink()
    (root / DETECTED).write_text("val1,0904,0,0,1,1,,1\nval2,0904,0,0,1,1,,1\n")
    (root / "person_box_67091280_iou90/ava_detection_train_boxes_and_labels_include_negative_v2.2.csv").unlink()
    with (
        pytest.warns(UserWarning, match="training only uses true boxes"),
        pytest.warns(UserWarning, match="1 of the 2 films .* the first is val2"),
    ):
        data = ready(small_ava(root), "test")
    batches = list(data.test_dataloader())
    assert [batch.substituted.item() for batch in batches] == [-1, 1]


def test_clips_of_another_kind_are_refused(films: Path) -> None:
    for clip in (ClipSettings(frames=4, size=32, clips=2), ClipSettings(frames=4, size=32, sampler=Segments())):
        with pytest.raises(
            SettingError, match=r"leave out data\.clip\.clips and data\.clip\.repeat, and let data\.clip\.sampler be Dense"
        ):
            small_ava(films, clip=clip)


def test_films_are_read_by_number(films: Path) -> None:
    data = ready(small_ava(films), "test")
    (batch,) = list(data.test_dataloader())[1:]
    expected = read_clips(films / "val1.mkv", lambda info, rng: np.array([[47, 48, 50, 52]]), None).frames
    whole = crop_and_resize(expected, Box(0, 0, 64, 48), (32, 42))
    assert torch.equal(batch.stream("video").data[0, 0], whole)


def test_names_of_actions_in_both_spellings(tmp_path: Path) -> None:
    (tmp_path / "a.pbtxt").write_text(
        'item{id: 80 name: "watch"}\nlabel {\n label_id: 3 name: "dance"\n}\nitem {id: 99 name: "x"}'
    )
    assert read_actions(tmp_path / "a.pbtxt") == {2: "dance", 79: "watch"}

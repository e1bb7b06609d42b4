"""UCFRep: official annotations with their special cases, and the batches for counting."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import UCFRep
from datamodules.sets.ucfrep import Repetitions, draw_segment, letterbox, read_repetitions
from datamodules.settings import ReadSettings
from datamodules.video.samplers import Segments
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from tests.datamodules.sets.repetitions import swinging, write_annotation, write_ucfrep

SMALL: dict[str, Any] = {"clip": ClipSettings(frames=20, size=16), "batch_size": 4, "reading": ReadSettings(0), "seed": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ucfrep(tmp_path_factory.mktemp("ucfrep"))


def ready(root: Path, **more: Any) -> UCFRep:
    data = UCFRep(str(root), **{**SMALL, **more})
    data.setup("fit")
    return data


def batches(data: UCFRep, epoch: int = 0) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.batches.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return list(loader)


def number_of(path: str) -> int:
    """Index of the generated video."""
    return int(path.split("_g")[1][:2]) - 1


def by_index(data: UCFRep, epoch: int) -> dict[int, tuple[int, int]]:
    """Length and sum of all pixels of each sample."""
    return {
        int(row): (int(length), int(video.sum()))
        for batch in batches(data, epoch)
        for row, length, video in zip(batch.index, batch.stream("video").length, batch.stream("video").data, strict=True)
    }


def test_numbers_of_one_byte_do_not_overflow(tmp_path: Path) -> None:
    write_annotation(tmp_path / "long.mat", [100, 180, 255], 80)
    found = read_repetitions(tmp_path / "long.mat")
    assert (found.start, found.end, found.borders.tolist()) == (100, 255, [100, 180, 255])
    assert found.borders.dtype == found.next.dtype == np.int64
    # In uint8, 255 + 80 would be 79.
    assert (found.borders[-1] + found.next[0], len(found.next)) == (335, 156)


def test_wrong_annotations_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mat").write_bytes(b"MATLAB 5.0 MAT-file, or so")
    with pytest.raises(SettingError, match=r"broken\.mat is no UCFRep annotation"):
        read_repetitions(tmp_path / "broken.mat")
    write_annotation(tmp_path / "back.mat", [3, 9, 7, 20], 4)
    with pytest.raises(SettingError, match=r"back\.mat has borders or offsets that do not match its frames 3 to 20"):
        read_repetitions(tmp_path / "back.mat")
    with pytest.raises(SettingError, match=r"contains no annotations/train with \.mat files; set data\.lists"):
        ready(tmp_path)
    with pytest.raises(SettingError, match=r"set data\.segments instead"):
        UCFRep(str(tmp_path), clip=ClipSettings(clips=2))
    with pytest.raises(SettingError, match=r"leave out data\.clip\.sampler and data\.clip\.crop"):
        UCFRep(str(tmp_path), clip=ClipSettings(sampler=Segments()))


def test_segments_have_two_cycles_or_more_and_ends_within_border_cycles() -> None:
    borders = np.array([5, 15, 27, 38, 50])
    known = Repetitions(5, 50, borders, np.zeros(46), np.zeros(46))
    drawn = [draw_segment(known, 30, np.random.default_rng(seed)) for seed in range(400)]
    whole = [draw_segment(known, 999, np.random.default_rng(seed)) for seed in range(400)]
    assert {part.cycles for part in whole} == {2, 3, 4, 5}
    for part, uncut in zip(drawn, whole, strict=True):
        assert 5 <= part.first < part.last <= 50
        assert (part.first, part.cycles) == (uncut.first, uncut.cycles)
        assert part.last == min(uncut.last, part.first + 29)
        complete = ((borders >= uncut.first) & (borders <= uncut.last)).sum() - 1
        assert uncut.cycles - 1 <= complete <= uncut.cycles + 1
    assert {part.first for part in whole} > {5, 15, 27}


def test_pictures_are_fitted_into_a_black_square() -> None:
    frame = np.full((60, 90, 3), 200, np.uint8)
    found = letterbox([frame, frame], 32)
    assert found.shape == (2, 32, 32, 3)
    # 32 x 60 / 90 = 21.3 rows: 21, with 5 above and 6 below.
    assert found[:, 5:26].eq(200).all()
    assert not found[:, :5].any()
    assert not found[:, 26:].any()
    assert letterbox([frame.transpose(1, 0, 2)], 32)[0, :, 5:26].eq(200).all()


def test_training_batches(root: Path) -> None:
    data = ready(root, segments=4)
    assert data.train_manifest is not None
    assert len(data.train_manifest) == 24
    assert data.class_names == ["HandStandPushups", "YoYo"]
    first = batches(data)
    assert len(first) == 6
    for batch in first:
        longest = int(batch.stream("video").length.max())
        assert longest <= 20
        assert batch.stream("video").data.shape == (4, 1, longest, 16, 16, 3)
        assert batch.extra["next"].shape == batch.extra["previous"].shape == (4, longest)
        for row in range(4):
            length = int(batch.stream("video").length[row])
            period = 6 + number_of(data.train_manifest.paths[batch.index[row]]) % 3
            assert batch.extra["next"][row, :length].eq(period).all()
            assert batch.extra["next"][row, length:].eq(-1).all()
            assert not batch.stream("video").data[row, :, length:].any()
            assert batch.stream("video").data[row, :, :length].amax((2, 3, 4)).gt(150).all()
            borders = batch.extra["borders"][row]
            inside = borders[borders >= 0]
            assert (inside[1:] - inside[:-1]).eq(period).all()
            assert (inside < length).all()
    # The same parts in every epoch, or others; both are functions of the seed.
    assert by_index(data, 0) == by_index(data, 1) == by_index(ready(root, segments=4), 0)
    fresh = ready(root, segments=4, fresh_segments=True)
    assert by_index(fresh, 0) != by_index(fresh, 1)
    assert by_index(fresh, 1) == by_index(ready(root, segments=4, fresh_segments=True, reading=ReadSettings(1)), 1)


def test_test_videos_run_from_the_first_border_to_the_last_once(root: Path) -> None:
    data = ready(root)
    data.batch_size = 24
    data.test_manifest = data.val_manifest
    (batch,) = data.test_dataloader()
    assert batch.index.tolist() == [0, 1, 2]
    assert len(ready(root).val_dataloader()) == 3
    assert data.test_manifest is not None
    for row, path in enumerate(data.test_manifest.paths):
        number = number_of(path)
        period, cycles = 6 + number % 3, 3 + number % 2
        assert batch.extra["count"][row] == cycles
        assert batch.stream("video").length[row] == period * cycles + 1
        assert batch.extra["borders"][row, : cycles + 1].tolist() == [period * k for k in range(cycles + 1)]
    # The first border is frame 3, counted from 1: two frames after the first one.
    expected = letterbox(list(swinging(60, 6 + number_of(data.test_manifest.paths[0]) % 3)[2:4].numpy()), 16)
    assert (batch.stream("video").data[0, 0, :2].int() - expected.int()).abs().float().mean() < 5


def test_folders_of_pictures_equal_videos(root: Path, tmp_path: Path) -> None:
    pictures = write_ucfrep(tmp_path, train=5, val=1, pictures=True)
    (tmp_path / "imgs/train/YoYo/v_YoYo_g03_c01/image_00009.jpg").write_bytes(b"")
    for path in (tmp_path / "imgs/train/YoYo/v_YoYo_g01_c01").glob("image_0001*.jpg"):
        path.unlink()
    data = ready(pictures, segments=1, batch_size=1)
    seen = {int(batch.index): batch for batch in batches(data)}
    other = {int(batch.index): batch for batch in batches(ready(root, segments=1, batch_size=1))}
    # By name: HandStandPushups 2 and 4, then YoYo 1, 3 and 5.
    assert [int(seen[row].substituted) for row in range(5)] == [-1, -1, 2, 3, -1]
    assert len(data.faults.bad) == 2  # type: ignore[union-attr]
    assert data.train_manifest is not None
    assert data.train_manifest.paths[0] == "imgs/train/HandStandPushups/v_HandStandPushups_g02_c01/image_00001.jpg"
    assert seen[0].stream("video").length == other[0].stream("video").length
    assert (seen[0].stream("video").data.int() - other[0].stream("video").data.int()).abs().float().mean() < 5


def test_videos_with_one_cycle_are_left_out_and_short_files_are_bad(root: Path, tmp_path: Path) -> None:
    folder = write_ucfrep(tmp_path, train=4, val=2)
    write_annotation(folder / "annotations/train/v_YoYo_g01_c01.mat", [3, 9], 6)
    write_annotation(folder / "annotations/train/v_YoYo_g03_c01.mat", [40, 60, 120], 20)
    data = ready(folder, segments=1, batch_size=1)
    assert data.train_manifest is not None
    assert [Path(path).stem[-7:-4] for path in data.train_manifest.paths] == ["g02", "g04", "g03"]
    seen = {int(batch.index): int(batch.substituted) for batch in batches(data)}
    assert seen == {0: -1, 1: -1, 2: 2}

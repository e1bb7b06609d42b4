"""data.subset.validation: a fraction of the training samples is for validation and never used in training."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.folder import VideoFolder
from datamodules.lists.manifest import Manifest
from datamodules.settings import ListSettings, SubsetSettings
from modules.core.errors import SettingError

CLASSES = {"jump": 10, "run": 5, "sit": 1}


def folder(root: Path, *splits: str) -> Path:
    """Empty files, which nothing opens before the first batch."""
    for split in splits:
        for name, count in CLASSES.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                (root / split / name / f"{split}{number}.mp4").touch()
    return root


def data(root: Path, stage: str = "fit", lists: ListSettings | None = None, **subset: float) -> VideoFolder:
    module = VideoFolder(str(root), lists or ListSettings(), batch_size=2, subset=SubsetSettings(**subset))  # type: ignore[arg-type]
    module.setup(stage)
    return module


def files(manifest: Manifest | None) -> set[str]:
    assert manifest is not None
    return {str(manifest.file(row)) for row in range(len(manifest))}


def test_the_same_share_of_every_class_validates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path, "")
    module, again = data(root, validation=0.2), data(root, validation=0.2)
    train, val = module.train_manifest, module.val_manifest
    assert train is not None
    assert val is not None
    # The only file of a class is for training.
    assert Counter(val.labels.tolist()) == {0: 2, 1: 1}
    assert not files(train) & files(val)
    assert len(train) + len(val) == sum(CLASSES.values())
    assert files(again.val_manifest) == files(val)
    assert files(data(root, validation=0.2, seed=7).val_manifest) != files(val)
    assert module.split_record == {
        "validation": "0.2 of the training samples",
        "validation_samples": 3,
        "tested_on_validation": False,
    }
    assert module.manifest_hash != data(root).manifest_hash


def test_it_is_taken_away_before_few_are_chosen(tmp_path: Path) -> None:
    root = folder(tmp_path, "")
    whole = data(root, validation=0.2)
    for settings, count in (({"low_shot": 6}, 5), ({"fraction": 0.5}, math.ceil(8 * 0.5) + math.ceil(4 * 0.5) + 1)):
        module = data(root, validation=0.2, **settings)
        assert files(module.val_manifest) == files(whole.val_manifest)
        assert files(module.train_manifest) < files(whole.train_manifest)
        assert len(files(module.train_manifest)) == count


def test_the_sets_own_validation_videos_are_left_for_the_test(tmp_path: Path) -> None:
    root = folder(tmp_path / "both", "train", "val")
    module = data(root, "test", validation=0.2)
    assert all("/train/" in path for path in files(module.val_manifest))
    assert files(module.test_manifest) == files(data(root).val_manifest)
    with pytest.warns(UserWarning, match="its result is too good"):
        module = data(folder(tmp_path / "one", ""), "test", validation=0.2)
    assert module.split_record["tested_on_validation"]
    assert files(module.test_manifest) == files(module.val_manifest)


def test_all_parts_of_a_file_go_the_same_way() -> None:
    paths = [f"{number % 20}.mp4" for number in range(60)]
    spans = np.stack([np.arange(60.0), np.arange(60.0) + 1], 1)
    for labels in (np.arange(60) % 2, np.full(60, -1)):
        train, val = Manifest(Path("/"), paths, labels, spans=spans).hold_out(0.25, 1)  # type: ignore[arg-type]
        assert not set(train.paths) & set(val.paths)
        assert (len(train), len(val)) == ((45, 15) if labels[1] < 0 else (48, 12))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.lists\.val is .* and data\.subset\.validation 0\.2; validate either"):
        data(tmp_path, lists=ListSettings(val="val.txt"), validation=0.2)
    with pytest.raises(SettingError, match=r"data\.subset\.validation is 1; it must be"):
        SubsetSettings(validation=1)
    alone = Manifest(Path("/"), ["a", "b"], np.array([0, 1]))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="no class in / has more than one video"):
        alone.hold_out(0.5, 0)


def test_a_file_that_is_spelled_in_two_ways_is_on_one_side(tmp_path: Path) -> None:
    names = [name for number in range(8) for name in (f"{number}.mp4", f"./{number}.mp4", f"{tmp_path}/{number}.mp4")]
    train, val = Manifest(tmp_path, names, np.zeros(len(names), np.int64)).hold_out(0.3, 0)  # type: ignore[arg-type]
    sides = [{Path(file).resolve() for file in files(side)} for side in (train, val)]
    assert not sides[0] & sides[1]
    assert len(val) == 3 * len(sides[1])

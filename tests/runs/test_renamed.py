"""Renamed settings: messages for the command line, a file and the record of a run."""

from pathlib import Path

import pytest
import yaml

from datamodules import AVA, NTU60, PKUMMD, SyntheticMotion, SyntheticSkeleton, UCFRep, VideoFolder
from datamodules.base import VideoDataModule
from main import main
from modules import SIGMA, SMILE, Classification, LocoMotion, VideoMAE, VideoTextRetrieval
from modules.core.errors import SettingError
from modules.runs.cli import CLI
from modules.runs.explain import new_name
from modules.runs.renamed import RENAMED

ROOT = Path(__file__).parents[2]
FIT = ["fit", f"--config={ROOT / 'configs/moco.yaml'}", f"--config={ROOT / 'configs/debug/tiny_cnn.yaml'}"]


def test_every_new_name_of_a_setting_of_data_exists() -> None:
    kinds = (VideoFolder, AVA, UCFRep, NTU60, PKUMMD, SyntheticMotion, SyntheticSkeleton)
    for old in (name for name in RENAMED if name.startswith("data.") and name.count(".") == 1):
        assert any(new_name(old, kind) == RENAMED[old] for kind in kinds), old


def test_every_new_name_of_a_setting_of_a_method_exists() -> None:
    kinds = (VideoMAE, SMILE, SIGMA, LocoMotion, VideoTextRetrieval, Classification)
    for old in (name for name in RENAMED if name.startswith("model.")):
        assert any(new_name(old, kind) == RENAMED[old] for kind in kinds), old


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("quickstart", ["--model.objects_per_clip=2"], r"^model\.objects_per_clip has been renamed to model\.paste\.count"),
        # Settings of a group that has been moved.
        ("quickstart", ["--model.objects.root=a"], r"^model\.objects\.root has been renamed to model\.paste\.objects\.root"),
        (
            "locomotion",
            ["--model.captions.verbs=plain"],
            r"^model\.captions\.verbs has been renamed to model\.paste\.captions\.verbs",
        ),
        ("locomotion", ["--model.captions.verb=plain"], r"^There is no setting model\.captions\.verb"),
        ("sigma_mlp", ["--model.projection", "[8]"], r"^model\.projection has been renamed to model\.mlp\.widths"),
        ("retrieval/msrvtt", ["--model.best=3"], r"^model\.best has been renamed to model\.rerank\.best"),
        (
            "finetune/ucf101",
            ["--model.labels=several"],
            r"^model\.labels is 'several', .* renamed to model\.labels\.per_sample",
        ),
        ("finetune/ucf101", ["--model.labels.shape=several"], r"^There is no setting model\.labels\.shape"),
    ],
)
def test_an_old_name_of_a_method_is_told_the_new_one(recipe: str, words: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        main(["fit", f"--config={ROOT / 'configs'}/{recipe}.yaml", *words])
    assert "\n" not in str(caught.value)


def test_the_file_of_a_run_of_before_is_told_all_new_names_of_its_method(tmp_path: Path) -> None:
    old = {"paste_objects": False, "objects": {"class_path": "ObjectBank"}, "motion": {"path": "linear"}, "masks_per_clip": 2}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"model": {"class_path": "modules.SMILE", "init_args": old}}, sort_keys=False))
    with pytest.raises(SettingError) as caught:
        main(["fit", f"--config={ROOT / 'configs/smile.yaml'}", f"--config={file}"])
    assert str(caught.value) == (
        f"{file} uses settings that have been renamed: model.paste_objects (line 4) is model.paste, model.objects (line 5) is "
        "model.paste.objects, model.motion (line 7) is model.paste.motion; use the new names."
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data=VideoFolder", "--data.num_workers=1"], r"^data\.num_workers has been renamed to data\.reading\.num_workers"),
        (["--data=UCF101", "--data.subset_seed", "1"], r"^data\.subset_seed has been renamed to data\.subset\.seed"),
        (["--data=UCF101", "--data.lists=/lists"], r"^data\.lists is '/lists', but .* renamed to data\.lists\.folder"),
        (["--data=SyntheticMotion", "--data.ground=true"], r"^data\.ground has been renamed to data\.scene\.ground"),
        # Settings that never existed are not renamed.
        (["--data=SyntheticMotion", "--data.val_list=a"], r"^There is no setting data\.val_list"),
    ],
)
def test_an_old_name_on_the_command_line_is_told_the_new_one(words: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        main([*FIT, *words])
    assert "\n" not in str(caught.value)


def test_all_old_names_of_a_file_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    old = {"root": "videos", "lists": None, "train_list": "a.csv", "clip": {"frames": 4}, "num_workers": 3, "fraction": 0.5}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"data": {"class_path": "datamodules.VideoFolder", "init_args": old}}, sort_keys=False))
    with pytest.raises(SettingError) as caught:
        main([*FIT, f"--config={file}"])
    assert str(caught.value) == (
        f"{file} uses settings that have been renamed: data.lists (line 5) is data.lists.folder, data.train_list (line 6) is "
        "data.lists.train, data.num_workers (line 9) is data.reading.num_workers, data.fraction (line 10) is "
        "data.subset.fraction; use the new names."
    )
    # The settings of a dump are no file of the command line.
    with pytest.raises(SettingError, match=r"^data\.\w+ has been renamed to|but its content has been renamed to"):
        CLI({"data": {"class_path": "datamodules.VideoFolder", "init_args": old}}, run=False)
    # A layer without a class, and a group that has the name of what was one value.
    file.write_text("data: {init_args: {max_bad_fraction: 0.1}}\n")
    with pytest.raises(SettingError, match=r"data\.max_bad_fraction has been renamed to data\.reading\.max_bad_fraction"):
        main([*FIT, "--data=VideoFolder", f"--config={file}"])
    file.write_text(
        "data: {class_path: VideoFolder, init_args: {root: /nowhere, lists: {folder: a}, reading: {num_workers: 0}}}\n"
    )
    with pytest.raises(SettingError, match=r"data\.root is /nowhere"):
        main([*FIT, f"--config={file}", f"--trainer.default_root_dir={tmp_path / 'run'}"])


def test_a_class_of_ones_own_keeps_its_names() -> None:
    class Own(VideoDataModule):
        def __init__(self, root: str, num_workers: int = 2) -> None:
            super().__init__(root)

    assert new_name("data.num_workers", Own) is None

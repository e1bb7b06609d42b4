"""Settings that have another name now: what the command line, a file and the record of a run are told."""

from pathlib import Path

import pytest
import yaml

from datamodules import AVA, NTU60, PKUMMD, SyntheticMotion, SyntheticSkeleton, UCFRep, VideoFolder
from datamodules.base import VideoDataModule
from main import main
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data=VideoFolder", "--data.num_workers=1"], r"^data\.num_workers is called data\.reading\.num_workers now"),
        (["--data=UCF101", "--data.subset_seed", "1"], r"^data\.subset_seed is called data\.subset\.seed now"),
        (["--data=UCF101", "--data.lists=/lists"], r"^data\.lists is '/lists', but .* called data\.lists\.folder now"),
        (["--data=SyntheticMotion", "--data.ground=true"], r"^data\.ground is called data\.scene\.ground now"),
        # What a class has under no name is no matter of names.
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
        f"{file} has old names of settings: data.lists (line 5) is data.lists.folder, data.train_list (line 6) is "
        "data.lists.train, data.num_workers (line 9) is data.reading.num_workers, data.fraction (line 10) is "
        "data.subset.fraction; write the new ones."
    )
    # The settings of a dump are no file of the command line.
    with pytest.raises(SettingError, match=r"^data\.\w+ is called data\.\w+\.\w+ now|but what it held is called"):
        CLI({"data": {"class_path": "datamodules.VideoFolder", "init_args": old}}, run=False)
    # A layer without a class, and a group that has the name of what was one value.
    file.write_text("data: {init_args: {max_bad_fraction: 0.1}}\n")
    with pytest.raises(SettingError, match=r"data\.max_bad_fraction is called data\.reading\.max_bad_fraction now"):
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

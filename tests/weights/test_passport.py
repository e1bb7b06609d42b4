"""Passports of real runs, and files that have none."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules import SyntheticMotion
from main import main
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.weights.passport import passport_of, read_passport
from modules.weights.run_config import parse_config
from tests.convert.test_command import CONFIG, assert_equal
from tests.registry import METHODS

ROOT = Path(__file__).parents[2]


def test_checkpoint_of_a_real_run(tmp_path: Path) -> None:
    """The run's checkpoint alone, copied elsewhere, contains method, settings and metrics."""
    configs = ROOT / "configs"
    layers = [f"--config={configs / name}" for name in ("videomae.yaml", "trainer/laptop.yaml", "debug/tiny.yaml")]
    small = ["--data=SyntheticMotion", "--data.train_videos=8", "--data.val_videos=4", "--data.batch_size=4"]
    main(["fit", *layers, *small, f"--trainer.default_root_dir={tmp_path / 'run'}"])
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes((tmp_path / "run/checkpoints/last.ckpt").read_bytes())
    convert(checkpoint, tmp_path / "out.safetensors")
    passport = read_passport(tmp_path / "out.safetensors")
    assert passport["method"] == "modules.methods.videomae.VideoMAE"
    assert "train/loss" in passport["metrics"]
    settings = parse_config(passport["config"])
    assert passport["frames"] == settings["data"]["init_args"]["clip"]["frames"]
    assert passport["stride"] == settings["data"]["init_args"]["clip"]["sampler"]["init_args"]["stride"]
    names = SyntheticMotion().class_names
    assert torch.load(checkpoint, weights_only=True)["record"]["class_names"] == names
    assert passport["class_names"] is None
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert_equal(load_file(tmp_path / "out.safetensors"), trained)


@pytest.mark.parametrize("content", [None, "[]", "{", '{"format": "other"}'])
def test_no_passport(content: str | None, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors", {"passport": content or "null"})
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(SettingError, match=r"a\.safetensors has no passport"):
        read_passport(tmp_path / "a.safetensors")


def pretraining(path: Path) -> Path:
    """A checkpoint of a run with two heads on 4 frames of 32 px, stride 3."""
    torch.save({"state_dict": METHODS[0].build().state_dict(), "record": {"method": "a.B", "config": CONFIG}}, path)
    return path


def test_a_passport_beside_a_file_is_read_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A .pth contains no passport, so its facts are in the file next to it."""
    convert(pretraining(tmp_path / "last.ckpt"), tmp_path / "a.pth", to="official")
    assert (tmp_path / "a.pth.json").is_file()
    with caplog.at_level("INFO"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert "No file with the weights states" not in caplog.text
    first, second = read_passport(tmp_path / "a.pth"), read_passport(tmp_path / "b.safetensors")
    assert {**second, "source": None} == {**first, "source": None}
    assert (second["method"], second["stride"], second["architecture"]["num_frames"]) == ("a.B", 3, 4)
    assert second["source"]["made_from"] == first["source"]


def test_files_of_one_name_have_passports_of_their_own(tmp_path: Path) -> None:
    source = pretraining(tmp_path / "last.ckpt")
    convert(source, tmp_path / "x.safetensors")
    convert(source, tmp_path / "x.pth", to="official", part="backbone", stride=7)
    convert(source, tmp_path / "x", to="huggingface")
    kinds = [read_passport(tmp_path / name)["kind"] for name in ("x.safetensors", "x.pth", "x")]
    assert kinds == ["pretraining", "encoder", "pretraining"]
    assert [read_passport(tmp_path / name)["stride"] for name in ("x.safetensors", "x.pth")] == [3, 7]
    # The weights of a folder, named themselves, are what the folder is.
    assert read_passport(tmp_path / "x" / "model.safetensors") == read_passport(tmp_path / "x")


def test_passports_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """They were called x.json for x.pth and x.safetensors alike; that of the latter is not taken for the former's."""
    source = pretraining(tmp_path / "last.ckpt")
    convert(source, tmp_path / "x.pth", to="official", stride=7)
    (tmp_path / "x.pth.json").rename(tmp_path / "x.json")
    assert passport_of(tmp_path / "x.pth")["stride"] == 7
    convert(source, tmp_path / "x.safetensors")
    assert passport_of(tmp_path / "x.pth")["stride"] == 7
    (tmp_path / "x.safetensors.json").rename(tmp_path / "x.json")
    assert passport_of(tmp_path / "x.pth") is None
    assert passport_of(tmp_path / "x.safetensors")["stride"] == 3
    # But it is valid for the original file of those weights.
    source.rename(tmp_path / "x.ckpt")
    convert(tmp_path / "x.ckpt", tmp_path / "x.safetensors", overwrite=True)
    (tmp_path / "x.safetensors.json").rename(tmp_path / "x.json")
    assert passport_of(tmp_path / "x.ckpt")["stride"] == 3

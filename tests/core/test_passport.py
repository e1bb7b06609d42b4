"""Passports of real runs, and files that have none."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from main import main
from modules.core.convert import convert
from modules.core.errors import SettingError
from modules.core.passport import parse_config, read_passport
from tests.core.test_convert import assert_equal

ROOT = Path(__file__).parents[2]


def test_checkpoint_of_a_real_run(tmp_path: Path) -> None:
    """The run's checkpoint alone, copied elsewhere, says which method, settings and metrics it has."""
    configs = ROOT / "configs"
    layers = [f"--config={configs / name}" for name in ("videomae.yaml", "trainer/laptop.yaml", "debug/tiny.yaml")]
    small = ["--data=SyntheticMotion", "--data.train_videos=8", "--data.val_videos=4", "--data.batch_size=4"]
    main(["fit", *layers, *small, f"--trainer.default_root_dir={tmp_path / 'run'}"])
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes((tmp_path / "run/checkpoints/last.ckpt").read_bytes())
    convert(checkpoint, tmp_path / "out.safetensors")
    passport = read_passport(tmp_path / "out.safetensors")
    assert passport["method"] == "modules.videomae.VideoMAE"
    assert "train/loss" in passport["metrics"]
    settings = parse_config(passport["config"])
    assert passport["frames"] == settings["data"]["init_args"]["clip"]["frames"]
    assert passport["stride"] == settings["data"]["init_args"]["clip"]["stride"]
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert_equal(load_file(tmp_path / "out.safetensors"), trained)


@pytest.mark.parametrize("content", [None, "[]", "{", '{"format": "other"}'])
def test_no_passport(content: str | None, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors", {"passport": content or "null"})
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(SettingError, match=r"a\.safetensors has no passport"):
        read_passport(tmp_path / "a.safetensors")

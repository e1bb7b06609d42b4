"""Protocols on skeletons: each is one command, from an official pretraining file to a result file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from main import main
from modules.backbones.skeleton.gru import BiGRU
from modules.core.errors import SettingError
from modules.methods.skeleton_contrast import SkeletonContrast
from modules.weights.names.skeleton_contrast import to_official
from tests.convert.test_skeleton import SMALL, official_file

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/skeleton_downstream"
RECIPES = sorted(path.name for path in FOLDER.glob("*.yaml"))
QUICK = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]
QUICK += ["--model.backbone.hidden=4", "--model.backbone.layers=1"]
SHORT = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--trainer.enable_model_summary=false"]


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """The official checkpoint of two encoders."""
    path = tmp_path / "checkpoint_0450.pth.tar"
    official_file(SkeletonContrast(BiGRU(4, 1), BiGRU(4, 1), contrast=SMALL), path)
    return path


def run(command: str, recipe: str, pretrained: Path, folder: Path, *more: str) -> dict[str, Any]:
    """The last file of results."""
    inner = "data.data" if "cached" in recipe else "data"
    data = ["--data.data=SyntheticSkeleton"] if "cached" in recipe else ["--data=SyntheticSkeleton"]
    sizes = {"train_clips": 40, "val_clips": 9, "batch_size": 4, "reading.num_workers": 0}
    data += [f"--{inner}.{name}={value}" for name, value in sizes.items()]
    words = [command, "--config", str(FOLDER / recipe), *data, *QUICK, *(SHORT if command == "fit" else [])]
    main([*words, f"--model.backbone.checkpoint={pretrained}", f"--trainer.default_root_dir={folder}", *more])
    return json.loads(max((folder / "results").glob(f"{protocol_of(recipe)}-*.json")).read_text())


def protocol_of(recipe: str) -> str:
    return (
        "syntheticskeleton_"
        + yaml.safe_load((FOLDER / recipe).read_text())["trainer"]["callbacks"][-1]["init_args"]["protocol"]
    )


def check(result: dict[str, Any], recipe: str, pretrained: Path) -> None:
    assert result["protocol"] == protocol_of(recipe)
    assert result["selected_on_test"] is False
    assert (result["videos"], result["missed"]) == (9, [])
    assert [entry["file"] for entry in result["weights"].values()] == [str(pretrained)]
    assert result["config"]["data"]["class_path"].startswith("datamodules.")


def test_linear_evaluation_keeps_the_encoder_and_reports_the_last_epoch(pretrained: Path, tmp_path: Path) -> None:
    best = ["--trainer.callbacks+=BestOnTest", "--trainer.callbacks.protocol=linear"]
    result = run("fit", "linear.yaml", pretrained, tmp_path / "run", *best)
    check(result, "linear.yaml", pretrained)
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    official = torch.load(pretrained, weights_only=True)["state_dict"]
    kept = to_official({name: value for name, value in saved.items() if name.startswith("backbone.")})
    for name, value in kept.items():
        assert torch.equal(value, official[f"module.{name}"]), name
    (selected,) = (tmp_path / "run/results").glob("syntheticskeleton_linear_best_on_test-*.json")
    assert json.loads(selected.read_text())["selected_on_test"] is True
    # The same numbers from the checkpoint, and the config of the training is unchanged.
    config = (tmp_path / "run/config.yaml").read_bytes()
    again = run("test", "linear.yaml", pretrained, tmp_path / "run", "--ckpt_path=last")
    assert again["metrics"] == result["metrics"]
    assert "ckpt_path" in again["weights"]
    assert (tmp_path / "run/config.yaml").read_bytes() == config


def test_neighbours(pretrained: Path, tmp_path: Path) -> None:
    result = run("test", "knn.yaml", pretrained, tmp_path / "run")
    check(result, "knn.yaml", pretrained)
    assert result["metrics"].keys() == {"test/knn1", *(f"test/R@{k}" for k in (1, 5, 10, 20, 50))}
    assert result["bank"] == 40
    with pytest.raises(SettingError, match="--ckpt_path last: there is no"):
        run("test", "knn.yaml", pretrained, tmp_path / "run", "--ckpt_path=last")
    # One sentence, although the parser tries several kinds of encoder.
    with pytest.raises(SettingError, match=r"^the checkpoint of an encoder names \S+none\.pth, which does not exist"):
        run("test", "knn.yaml", tmp_path / "none.pth", tmp_path / "run")


@pytest.mark.parametrize(
    "recipe",
    [
        "linear_cached.yaml",
        "semi_supervised.yaml",
        # Like the previous one, except for the data.
        pytest.param("finetune.yaml", marks=pytest.mark.slow),
        pytest.param("transfer_pku.yaml", marks=pytest.mark.slow),
    ],
)
def test_other_protocols(recipe: str, pretrained: Path, tmp_path: Path) -> None:
    more = [f"--data.folder={tmp_path / 'features'}"] if "cached" in recipe else []
    result = run("fit", recipe, pretrained, tmp_path / "run", *more)
    check(result, recipe, pretrained)
    assert result["trained_steps"] == (2 if "semi" in recipe else 4)


def test_recipes_hold_the_numbers_of_their_sources() -> None:
    for recipe in RECIPES:
        text = (FOLDER / recipe).read_text()
        head = text.split("seed_everything")[0]
        assert "paper" in head, recipe
        assert "python main.py " in head, recipe
        settings = yaml.safe_load(text)
        data = settings["data"]["init_args"]
        clip = data.get("data", {"init_args": data})["init_args"]["clip"]
        assert (clip["frames"], clip["clips"], clip["centre_share"]) == (64, 1, 0.95), recipe
        if recipe == "knn.yaml":
            assert settings["model"]["init_args"]["k"] == [1]
            continue
        assert clip["share"] == [0.5, 1.0]
        model = settings["model"]["init_args"]
        assert (settings["trainer"]["max_epochs"], model["head"]["std"]) == (80, 0.01), recipe
        rate = 0.1 if "linear" in recipe else 0.01
        expected = {"base_lr": rate, "momentum": 0.9, "weight_decay": 0, "milestones": [50, 70], "scale_lr": False}
        assert model["optim"]["init_args"] == expected | {"warmup_epochs": 0}, recipe

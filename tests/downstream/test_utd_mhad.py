"""Recipes of UTD-MHAD on a miniature of it: each stream alone, all at once, nearest neighbours, online probes, resuming."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from main import main
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.depth import Depth
from modules.backbones.signal.cnn import SignalCNN
from modules.backbones.skeleton.hcn import HCN
from tests.datamodules.sets.utd_files import write_reduced

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/utd_mhad"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
SMALL = {
    "depth": ["--model.backbone.network.width=2", "--data.clip.frames=4"],
    "skeleton": ["--model.backbone.width=2", "--model.backbone.window=16", "--data.clip.frames=16"],
    "imu": ["--model.backbone.width=2"],
}
QUICK = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]
QUICK += ["--trainer.enable_model_summary=false", "--data.batch_size=4", "--data.reading.num_workers=0"]
ONLINE = ["--trainer.callbacks+=OnlineKNN", "--trainer.callbacks.k=1", "--trainer.check_val_every_n_epoch=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("utd_mhad")
    write_reduced(path, subjects=(1, 3, 2))
    return path


@pytest.fixture(scope="module")
def small_fusion(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A layer that makes the encoders of the recipe small."""
    path = tmp_path_factory.mktemp("layer") / "small.yaml"
    encoders = yaml.safe_load(RECIPES["fusion"].read_text())["model"]["init_args"]["encoders"]
    encoders["depth"]["init_args"]["network"]["init_args"]["width"] = 2
    for name in ("skeleton", "signal"):
        encoders[name]["init_args"]["width"] = 2
    path.write_text(yaml.safe_dump({"model": {"init_args": {"encoders": encoders}}}))
    return ["--config", str(path)]


def run(command: str, recipe: str, root: Path, folder: Path, *more: str) -> dict[str, Any]:
    """The last file of results."""
    size = ["--data.clip.size=16"] if recipe in ("depth", "fusion") else []
    words = [command, "--config", str(RECIPES[recipe]), *more, *QUICK, *SMALL.get(recipe, []), *size, f"--data.root={root}"]
    main([*words, f"--trainer.default_root_dir={folder}"])
    found: dict[str, Any] = json.loads(max((folder / "results").glob("*.json")).read_text())
    return found


@pytest.mark.parametrize("recipe", ["depth", "skeleton", "imu"])
def test_each_stream_trains_is_probed_and_finds_neighbours(recipe: str, root: Path, tmp_path: Path) -> None:
    result = run("fit", recipe, root, tmp_path / "run", "--trainer.max_epochs=2", *ONLINE)
    assert result["protocol"] == f"utdmhad_{recipe}"
    assert (result["videos"], result["missed"], result["trained_steps"]) == (2, [], 2)
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
    # As in the recipe.
    neighbours = ["--model", "NearestNeighbours", f"--model.backbone.checkpoint={checkpoint}"]
    found = run("test", recipe, root, tmp_path / "knn", *neighbours)
    assert found["metrics"].keys() == {"test/knn1", *(f"test/R@{k}" for k in (1, 5, 10, 20, 50))}
    assert found["bank"] == 4


def test_fusion_trains_resumes_and_hands_its_encoders_on(root: Path, small_fusion: list[str], tmp_path: Path) -> None:
    whole = run("fit", "fusion", root, tmp_path / "whole", *small_fusion, "--trainer.max_epochs=2", *ONLINE)
    names = ("loss", "top1", "top5", "per_class", "per_class_all")
    streams = ("", "depth_", "skeleton_", "signal_")
    assert whole["metrics"].keys() >= {f"test/{stream}{name}" for stream in streams for name in names}
    assert (whole["videos"], whole["missed"], whole["classes"]) == (2, [], 27)
    # Killed after the first epoch, and resumed.
    run("fit", "fusion", root, tmp_path / "parts", *small_fusion, "--trainer.max_epochs=1", "--model.optim.horizon_epochs=2")
    again = ["--trainer.max_epochs=2", "--model.optim.horizon_epochs=2", "--ckpt_path=last"]
    run("fit", "fusion", root, tmp_path / "parts", *small_fusion, *again)
    first, second = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in ("whole", "parts")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    tested = run("test", "fusion", root, tmp_path / "whole", *small_fusion, "--ckpt_path=last")
    assert tested["metrics"] == whole["metrics"]
    # Each encoder can be loaded from the file of all.
    checkpoint = str(tmp_path / "whole/checkpoints/last.ckpt")
    encoders: dict[str, Any] = {
        "depth": Depth(VideoResNet("r3d_18", 2, channels_last=False), checkpoint=checkpoint),
        "skeleton": HCN(2, 16, checkpoint=checkpoint),
        "signal": SignalCNN(6, 2, checkpoint=checkpoint),
    }
    for stream, encoder in encoders.items():
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, first[f"branches.{stream}.backbone.{name}"]), name


def test_recipes_say_where_their_numbers_come_from() -> None:
    for name, path in RECIPES.items():
        head = path.read_text().split("seed_everything")[0]
        assert f"python main.py fit --config configs/utd_mhad/{name}.yaml" in head
        assert "docs/learning.md" in head

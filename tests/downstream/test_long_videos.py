"""From videos to features, to LV-MAE, to features and classes of complete videos: commands and recipes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.prepare.synthesise import write_videos
from main import main
from modules.convert.command import convert
from modules.convert.load import load_backbone
from modules.downstream.classification import Classification
from modules.runs.cli import CLI
from modules.runs.last_checkpoint import LAST
from tests.registry import FRAMES, SIDE, tiny_vit

ROOT = Path(__file__).parents[2]
QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.precision=32-true",
]
SMALL = [f"--model.backbone.{name}" for name in ("embed_dim=32", "depth=2", "num_heads=2", "max_steps=16")]


def fit(recipe: str, features: Path, run: Path, *more: str, command: str = "fit") -> None:
    data = [f"--data.root={features}", "--data.batch_size=2", "--data.reading.num_workers=0"]
    words = [command, "--config", str(ROOT / "configs" / recipe), *data, *QUICK, *SMALL, f"--trainer.default_root_dir={run}"]
    main([*words, *more])


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences of features of two short videos each for training and validation, as the command `embed` writes them."""
    folder = tmp_path_factory.mktemp("features")
    write_videos(folder / "motion", 4, 2, 32, 48)
    torch.manual_seed(0)
    state = {f"backbone.{key}": value.contiguous() for key, value in tiny_vit().state_dict().items()}
    save_file(state, folder / "raw.safetensors")
    convert(folder / "raw.safetensors", folder / "vit.safetensors", heads=2, image_size=SIDE, num_frames=FRAMES, stride=2)
    for split in ("train", "val"):
        words = ["embed", f"--checkpoint={folder / 'vit.safetensors'}", f"--source={folder / 'motion' / split}", "--every=0.3"]
        main([*words, f"--out={folder / split}", "--num_workers=0"])
    return folder


@pytest.fixture(scope="module")
def trained(features: Path) -> Path:
    """The folder of a run of the recipe on these features, with a small network."""
    small = ["--model.decoder.depth=1", "--model.decoder.dim=16", "--model.decoder.heads=2", "--trainer.max_epochs=1"]
    fit("lvmae.yaml", features, features / "run", *small, "--model.optim.warmup_epochs=0")
    return features / "run"


def test_from_videos_to_sequences_to_a_trained_encoder(features: Path, trained: Path) -> None:
    found = load_file(features / "train.safetensors")
    assert found["feature"].shape[1:] == (9, 32)
    assert torch.load(trained / LAST, weights_only=True)["global_step"] == 2
    assert (trained / "pictures/0000001_segments.png").is_file()
    # The features of complete sequences.
    words = ["embed", f"--checkpoint={trained / LAST}", "--data=FeatureSequences", f"--data.root={features}", "--num_workers=0"]
    main([*words, f"--out={features / 'pooled'}", "--split=val"])
    network, sequence = load_backbone(trained / LAST), load_file(features / "val.safetensors")["feature"].float()
    with torch.no_grad():
        expected = network(network.preprocess(sequence))
    pooled = load_file(features / "pooled.safetensors")["feature"]
    assert torch.allclose(pooled.float(), expected, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["linear", "attentive"])
def test_recipes_train_a_classifier_on_the_frozen_encoder(mode: str, features: Path, trained: Path, tmp_path: Path) -> None:
    start = f"--model.backbone.checkpoint={trained / LAST}"
    fit(f"{mode}/long_videos.yaml", features, tmp_path, start, "--trainer.max_epochs=1")
    saved, before = (torch.load(run / LAST, weights_only=True)["state_dict"] for run in (tmp_path, trained))
    kept = {name: value for name, value in saved.items() if name.startswith("backbone.")}
    assert kept
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    (result,) = (tmp_path / "results").glob("*.json")
    content: dict[str, Any] = json.loads(result.read_text())
    assert "test/top1" in content["metrics"]


@pytest.mark.parametrize("mode", ["linear", "attentive"])
def test_recipes_build_and_state_their_source(mode: str) -> None:
    path = ROOT / f"configs/{mode}/long_videos.yaml"
    method = CLI(["--config", str(path), *SMALL], run=False).model
    assert isinstance(method, Classification)
    assert method.mode == mode
    head = path.read_text().split("seed_everything")[0]
    assert "paper" in head
    assert f"python main.py fit --config configs/{mode}/long_videos.yaml" in head


@pytest.mark.slow
def test_the_small_layer_trains_and_reports(tmp_path: Path) -> None:
    layers = ["--config", str(ROOT / "configs/lvmae.yaml"), "--config", str(ROOT / "configs/debug/small_lvmae.yaml")]
    data = ["--data.train_videos=64", "--data.val_videos=32", "--data.probe_samples=64", "--trainer.max_epochs=2"]
    main(["fit", *layers, *data, f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"])
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2

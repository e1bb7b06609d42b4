"""The arrow of time: what it can learn, and that videos count both ways."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from callbacks import ResultFile
from datamodules import SyntheticMotion
from main import main
from modules.augment.clips import ClipAugmentation
from modules.core.batch import Batch, Stream
from modules.downstream.arrow_of_time import ArrowOfTime
from modules.training.optim import AdamSettings
from tests.registry import tiny_cnn, tiny_vit, video_batch

ROOT = Path(__file__).parents[2]


def brightening(videos: int = 8) -> Batch:
    """Clips that get brighter, so that one can tell which way they run."""
    batch = video_batch(videos)
    ramp = torch.linspace(0.1, 1, batch.stream("video").data.shape[2])[:, None, None, None]
    return replace(batch, streams={"video": Stream("video", (batch.stream("video").data * ramp).byte())})


@pytest.mark.parametrize("backbone", [pytest.param(tiny_cnn, marks=pytest.mark.slow), tiny_vit])
def test_learns_which_way_clips_run(backbone: Any) -> None:
    torch.manual_seed(0)
    method = ArrowOfTime(backbone(), augmentation=ClipAugmentation(None, jitter=0, hue=0, erase=0))
    optimiser = torch.optim.Adam(method.parameters(), 3e-3)
    batch, generator = brightening(), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(30):
        output = method.step(batch, generator)
        optimiser.zero_grad()
        output["loss"].backward()
        optimiser.step()
        losses.append(output["loss"].item())
    assert sum(losses[-5:]) / 5 < 0.3 < 0.5 < losses[0]


def test_frozen_encoder_stays_as_it_is() -> None:
    method = ArrowOfTime(tiny_cnn(), frozen=True).train()
    before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    method.step(video_batch(), torch.Generator().manual_seed(0))["loss"].backward()
    assert [name for name, value in method.named_parameters() if value.grad is not None] == ["head.weight", "head.bias"]
    assert all(torch.equal(value, before[name]) for name, value in method.backbone.state_dict().items())


def test_test_counts_every_video_both_ways(tmp_path: Path) -> None:
    method = ArrowOfTime(tiny_cnn(), optim=AdamSettings(1e-4))
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.fill_(3)
    data = SyntheticMotion(batch_size=4, train_videos=8, val_videos=7)
    settings: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(default_root_dir=tmp_path, callbacks=[ResultFile("arrow")], **settings)
    trainer.test(method, data)
    (path,) = (tmp_path / "results").glob("*.json")
    result = json.loads(path.read_text())
    # It says 'backwards' of everything, which is right of one way of each video.
    assert result["metrics"]["test/top1"] == 50
    assert (result["videos"], result["missed"]) == (7, [])


def test_recipe_runs(tmp_path: Path) -> None:
    layers = ["configs/severe/cnn/arrow_of_time.yaml", "configs/debug/tiny_classifier.yaml"]
    words = [word for name in layers for word in ("--config", str(ROOT / name))]
    words += ["--model.backbone.width=4", "--data", "SyntheticMotion", "--data.train_videos=8", "--data.val_videos=4"]
    words += ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    main(["fit", *words])
    assert list((tmp_path / "results").glob("*severe_arrow_unverified-000.json"))

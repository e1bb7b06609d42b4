"""Every way to measure an encoder, each one command, on generated videos (configs/debug/motion_videos.yaml)."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from main import main

ROOT = Path(__file__).parents[1]
LAYER = ROOT / "configs/debug/motion_videos.yaml"
PROTOCOLS = ("finetune", "linear", "attentive", "knn")


def commands() -> list[list[str]]:
    """The commands that stand in the layer, in their order: the videos, then one per protocol."""
    text = "".join(line.removeprefix("#") for line in LAYER.read_text().splitlines(keepends=True) if line.startswith("#"))
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line.strip())[2:] for line in lines if line.strip().startswith("python main.py")]


def measure(
    folder: Path, protocols: tuple[str, ...], videos: tuple[int, int], width: int = 16, *fit: str
) -> dict[str, dict[str, Any]]:
    """Run the layer's commands in a folder; gives the files of results by protocol."""
    found = {}
    for words in commands():
        if words[0] == "synthesise":
            main([*words, f"--out={folder / 'motion'}", f"--train_videos={videos[0]}", f"--val_videos={videos[1]}"])
            continue
        protocol = words[2].split("/")[1]
        if protocol not in protocols:
            continue
        run = folder / protocol
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
        words = [str(folder / "finetune/checkpoints/last.ckpt") if word.endswith("last.ckpt") else word for word in words]
        own = [f"--data.root={folder / 'motion'}", f"--trainer.default_root_dir={run}", f"--model.backbone.width={width}"]
        main([*words, *own, *(fit if words[0] == "fit" else ())])
        (result,) = (run / "results").iterdir()
        found[protocol] = json.loads(result.read_text())["metrics"]
    return found


def test_commands_run(tmp_path: Path) -> None:
    assert [words[0] for words in commands()] == ["synthesise", "fit", "fit", "fit", "test"]
    short = ("--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--model.optim.warmup_epochs=0")
    found = measure(tmp_path, ("finetune", "knn"), (39, 13), 4, *short)
    assert {"test/top1", "test/per_class"} <= found["finetune"].keys()
    assert {"test/knn20", "test/R@1", "test/R@50"} <= found["knn"].keys()


@pytest.mark.slow
def test_all_protocols_at_their_size(tmp_path: Path) -> None:
    """Fine-tuning learns the motion; what was learned is found again by the other protocols."""
    found = measure(tmp_path, PROTOCOLS, (2600, 520))
    assert found["finetune"]["test/top1"] > 90
    for protocol, metric in (("linear", "test/top1"), ("attentive", "test/top1"), ("knn", "test/knn20")):
        assert found[protocol][metric] > 80, protocol

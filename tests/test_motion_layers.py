"""The layers of generated data that networks can learn from in minutes: the commands in their comments, unchanged."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from main import main

ROOT = Path(__file__).parents[1]


def commands(layer: str) -> list[list[str]]:
    """The commands in the comments of a layer, in their order."""
    lines = (ROOT / "configs/debug" / layer).read_text().splitlines()
    text = "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#")).replace("\\\n", " ")
    return [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("python main.py")]


def run(words: list[str], folder: Path, checkpoint: Path, *more: str) -> dict[str, Any]:
    """Run a command in a folder; gives the metrics of its file of results, if it writes one."""
    words = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
    words = [str(checkpoint) if word.endswith("last.ckpt") else word for word in words]
    main([*words, f"--trainer.default_root_dir={folder}", *more])
    found = list((folder / "results").glob("*.json"))
    return json.loads(found[0].read_text())["metrics"] if found else {}


def measure(folder: Path, protocols: tuple[str, ...], videos: tuple[int, int], width: int = 16, *fit: str) -> dict[str, Any]:
    """Write videos and measure encoders; gives the metrics by protocol."""
    written, *others = commands("motion_videos.yaml")
    main([*written, f"--out={folder / 'motion'}", f"--train_videos={videos[0]}", f"--val_videos={videos[1]}"])
    found = {}
    for words in others:
        protocol = words[2].split("/")[1]
        if protocol in protocols:
            own = [f"--data.root={folder / 'motion'}", f"--model.backbone.width={width}", *(fit if words[0] == "fit" else ())]
            found[protocol] = run(words, folder / protocol, folder / "finetune/checkpoints/last.ckpt", *own)
    return found


def test_encoders_are_measured(tmp_path: Path) -> None:
    short = ("--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--model.optim.warmup_epochs=0")
    found = measure(tmp_path, ("finetune", "knn"), (39, 13), 4, *short)
    assert {"test/top1", "test/per_class"} <= found["finetune"].keys()
    assert {"test/knn20", "test/R@1", "test/R@50"} <= found["knn"].keys()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_motion_is_learned_and_found_again(tmp_path: Path) -> None:
    found = measure(tmp_path, ("finetune", "linear", "attentive", "knn"), (2600, 520))
    assert found["finetune"]["test/top1"] > 90
    for protocol, metric in (("linear", "test/top1"), ("attentive", "test/top1"), ("knn", "test/knn20")):
        assert found[protocol][metric] > 80, protocol


def learned_of_grounds(words: list[str], folder: Path, *more: str) -> dict[str, dict[str, float]]:
    """The table of the run, before and after: scores by readout."""
    run(words, folder, folder / "checkpoints/last.ckpt", *more)
    return json.loads((folder / "probe_report.json").read_text())


@pytest.mark.parametrize("number", [0, 1])
def test_a_ground_that_moves(number: int, tmp_path: Path) -> None:
    small = ("--data.train_videos=64", "--data.val_videos=26", "--trainer.max_epochs=1", "--model.optim.warmup_epochs=0")
    report = learned_of_grounds(commands("motion_ground.yaml")[number], tmp_path, *small, "--data.batch_size=16")
    assert report["before"].keys() == report["after"].keys()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_features_of_moving_grounds_tell_the_motion(tmp_path: Path) -> None:
    report = learned_of_grounds(commands("motion_ground.yaml")[0], tmp_path)
    for readout, gain in (("tokens per time slice, linear", 10), ("tokens per time slice, kNN", 20)):
        assert report["after"][readout] > report["before"][readout] + gain, readout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sentences_find_motion(tmp_path: Path) -> None:
    """Most sentences find their clip among 100 clips, in pairs that only differ in motion."""
    contrast, tested, everything, *tests = commands("motion_text.yaml")
    first, last = (tmp_path / stage / "checkpoints/last.ckpt" for stage in ("contrast", "all"))
    run(contrast, tmp_path / "contrast", first)
    found = run(tested, tmp_path / "dual", first)
    assert min(found["test/dual_t2v_r1"], found["test/dual_v2t_r1"]) > 40
    run(everything, tmp_path / "all", first)
    for number, (words, least) in enumerate(zip(tests, (40, 30), strict=True)):
        found = run(words, tmp_path / str(number), last)
        for way in ("dual_t2v", "dual_v2t", "rerank_t2v", "rerank_v2t"):
            assert found[f"test/{way}_r1"] > least, way

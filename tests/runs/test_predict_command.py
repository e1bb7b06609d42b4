"""`python main.py predict`: with a checkpoint or a file of weights, and not without."""

import csv
import json
from pathlib import Path

import pytest
import torch

from datamodules.prepare.synthesise import write_video
from main import main
from modules.core.errors import SettingError
from tests.registry import video_batch

ROOT = Path(__file__).parents[2]
SIZES = ["image_size=32", "num_frames=4", "embed_dim=32", "depth=1", "num_heads=2"]


def command(name: str, recipe: str, layer: str, root: Path, run: Path, *more: str) -> None:
    layers = [f"--config={ROOT / 'configs' / name}" for name in (recipe, layer)]
    sizes = [f"--model.backbone.{size}" for size in SIZES] if "classifier" in layer else []
    data = ["--data=VideoFolder", f"--data.root={root}", "--data.views.segments=1", "--data.views.crops=2"]
    main([name, *layers, *sizes, *data, f"--trainer.default_root_dir={run}", "--trainer.enable_progress_bar=false", *more])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of videos to train on, and a flat folder of others, one of which is broken."""
    root = tmp_path_factory.mktemp("videos")
    names = [f"known/train/{'ab'[number % 2]}/{number}.mp4" for number in range(8)]
    for number, name in enumerate([*names, "known/val/a/8.mp4", "known/val/b/9.mp4", "new/x.mp4", "new/y.mp4"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / name, video_batch(1, seed=number).stream("video").data[0, 0].repeat(2, 1, 1, 1), fps=8)
    (root / "new/broken.mp4").write_bytes(b"no video")
    return root


def test_from_training_to_the_classes_of_new_videos(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe, run = ("finetune/kinetics400.yaml", "debug/tiny_classifier.yaml"), tmp_path / "run"
    command("fit", *recipe, root / "known", run)
    folders = {path.name for path in run.iterdir()}
    (table,) = (run / "results").glob("videofolder_finetune-000_classes.csv")
    assert table.read_text().startswith("class,videos,correct,accuracy")
    command("predict", *recipe, root / "new", run, "--ckpt_path=last")
    where = "predictions/videofolder.csv and videofolder.json; 1 could not be read, see the column reason."
    assert any(where in message for message in caplog.messages)
    assert {path.name for path in run.iterdir()} == folders | {"predictions"}
    first = (run / "predictions/videofolder.csv").read_text()
    rows = list(csv.DictReader(first.splitlines()))
    assert [(row["path"], bool(row["class"]), bool(row["reason"])) for row in rows] == [
        ("broken.mp4", False, True),
        ("x.mp4", True, False),
        ("y.mp4", True, False),
    ]
    content = json.loads((run / "predictions/videofolder.json").read_text())
    assert content["class_names"] == ["a", "b"]
    last = run / "checkpoints/last.ckpt"
    assert content["weights"]["ckpt_path"]["file"] == str(last)
    assert content["config"]["data"]["init_args"]["root"] == str(root / "new")
    # A file of weights gives the same, and the number of classes.
    command("predict", *recipe, root / "new", run, f"--model.init_from={last}")
    assert (run / "predictions/videofolder.csv").read_text() == first
    with pytest.raises(
        SettingError, match=r"which weights Classification is to use; pass --ckpt_path .* or --model\.init_from"
    ):
        command("predict", *recipe, root / "new", run)
    # Tests of a recipe without a result file still write one.
    command("test", *recipe, root / "known", run, "--ckpt_path=last", "--trainer.callbacks=null")
    assert (run / "results/videofolder_test-000.json").is_file()
    assert (run / "results/videofolder_test-000_confusion.csv").is_file()


PRETRAINING = ("videomae.yaml", "debug/tiny.yaml")


def test_features_of_nothing_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"which weights VideoMAE is to use; pass .*, or --model\.backbone\.checkpoint"):
        command("predict", *PRETRAINING, root / "new", tmp_path)


@pytest.mark.slow
def test_features_of_a_pretraining_method(root: Path, tmp_path: Path) -> None:
    recipe = PRETRAINING
    command("fit", *recipe, root / "known", tmp_path, "--trainer.max_epochs=1", "--data.batch_size=4")
    command("predict", *recipe, root / "known", tmp_path, "--ckpt_path=last")
    lines = (tmp_path / "predictions/videofolder.csv").read_text().splitlines()
    assert lines == ["path,label", "a/8.mp4,a", "b/9.mp4,b"]
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 0

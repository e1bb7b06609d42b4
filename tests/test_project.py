"""The project as a whole: every YAML runs, and files follow the project's rules."""

import ast
import inspect
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import datamodules
from datamodules.prepare.synthesise import write_video
from main import main
from modules.downstream.classification import Classification
from modules.runs.cli import CLI
from modules.training.method import Method
from tests.layers.test_targets import write_clip_file
from tests.registry import video_batch

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.name for path in (ROOT / "configs").glob("*.yaml") if path.name != "quickstart.yaml")
BELOW = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "configs").glob("*/*.yaml"))}
# Recipes name a model; layers are for any. Those for tiny networks are tested with the recipes, that for ordered clips in
# tests/methods, that for shards in tests/test_readme.py, those for long generated videos and for mixed data next to their
# tests, that for the best checkpoint of classifiers in tests/runs.
OWN_TESTS = (
    "trainer/best",
    "debug/tiny",
    "debug/motion_videos",
    "debug/motion_ground",
    "debug/ordered_clips",
    "debug/small_speed",
    "debug/small_stmae",
    "debug/small_lvmae",
    "debug/small_vjepa",
    "debug/small_crossvideomae",
    "debug/motion_frames",
    "debug/motion_images",
    "debug/tiny_propagation",
    "data/shards",
    "data/synthetic_long",
    "data/mixed",
)
# Of videos: those of skeletons, of UTD-MHAD and of feature sequences are tested in tests/downstream.
OTHER_STREAMS = ("configs/skeleton_downstream/", "configs/utd_mhad/", "configs/linear/long", "configs/attentive/long")
CLASSIFIERS = [name for name, text in BELOW.items() if "class_path: Classification" in text]
# The experiments of mini-SEVERE, which are layers on it, are tested in tests/severe.
DOWNSTREAM = [name for name in CLASSIFIERS if not name.startswith((*OTHER_STREAMS, "configs/severe/mini"))]
KNN = [name for name in BELOW if name.startswith("configs/knn/")]
RETRIEVAL = [name for name, text in BELOW.items() if "class_path: VideoTextRetrieval" in text]
LAYERS = [
    name for name, text in BELOW.items() if "\nmodel:\n  class_path" not in text and not any(part in name for part in OWN_TESTS)
]
SOURCES = [
    path
    for folder in ("modules", "datamodules", "callbacks", "benchmarks", "tests", "configs", "docs", ".ci", ".github")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".yaml", ".yml", ".md", ""} and path.is_file()
] + [ROOT / name for name in ("main.py", "pyproject.toml", "README.md", ".gitignore")]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two short videos, as train and val."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(8):
        folder = root / ("train" if number < 4 else "val") / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        clip = video_batch(1, seed=number).stream("video").data[0, 0].repeat(5, 1, 1, 1)
        write_video(folder / f"{number}.mp4", clip, fps=8)
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP image tower in OpenAI's format, with random weights."""
    path = tmp_path_factory.mktemp("teacher") / "clip.pt"
    write_clip_file(path, patch=16, side=32)
    return path


def tiny_run(recipe: str, videos: Path, teacher: Path, run: Path, *more: str) -> None:
    text = (ROOT / "configs" / recipe).read_text()
    skeletons = "SkeletonContrast" in text
    names = {"VideoViT": "tiny.yaml", "BEiTVideo": "tiny_text.yaml", "SkeletonContrast": "tiny_skeleton.yaml"}
    names |= {"class_path: VCOP": "tiny_order.yaml", "class_path: CVRL": "tiny_cvrl.yaml", "SpacetimeViT": "tiny.yaml"}
    names |= {"class_path: PRP": "tiny_prp.yaml", "class_path: RotNet": "tiny_rotnet.yaml"}
    names |= {"VJEPAViT": "tiny_vjepa.yaml"}
    names |= {"CaffeNet": "tiny_frames.yaml", "FrameTower": "tiny_images.yaml"}
    tiny = next((layer for name, layer in names.items() if name in text), "tiny_cnn.yaml")
    layers = ["--config", str(ROOT / "configs" / recipe), "--config", str(ROOT / "configs/debug" / tiny)]
    narrow = ["--model.backbone.width_factor=0.1"] if "I3D" in text else ["--model.backbone.width=4"]
    layers += narrow if tiny == "tiny_cnn.yaml" else []
    # At the higher speed, half of the frames remain.
    layers += ["--data.clip.frames=16"] if "RSPNet" in text else []
    # Of eight tokens, none would be visible.
    layers += ["--model.mask.ratio=0.5"] if "STMAE" in text else []
    if "CrossVideoMAE" in text:
        image = {"image_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "checkpoint": "null"}
        layers += [f"--model.image_backbone.{name}={value}" for name, value in image.items()]
        layers += ["--model.mask.ratio=0.5", "--model.image.mask_ratio=0.5", "--model.image.decoder_depth=1"]
    data = ["--data", "VideoFolder", f"--data.root={videos}", "--data.batch_size=4"]
    layers += narrow if tiny in ("tiny_prp.yaml", "tiny_rotnet.yaml") else []
    # The videos are shorter than the window of more rates.
    layers += ["--model.rates=[1,2]", "--data.clip.frames=16"] if tiny == "tiny_prp.yaml" else []
    if skeletons:
        layers += ["--model.backbone.hidden=8"] if "BiGRU" in text else ["--model.backbone.width=4"]
        layers += ["--model.partner.width=4"] if "partner: null" not in text else []
        data = ["--data", "SyntheticSkeleton", "--data.train_clips=4", "--data.val_clips=4", "--data.probe_samples=4"]
    if "LVMAE" in text:
        layers[3] = str(ROOT / "configs/debug/small_lvmae.yaml")
        layers[4:] = ["--model.backbone.embed_dim=64", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
        data = ["--data", "SyntheticLongVideos", "--data.batch_size=4", "--data.train_videos=4", "--data.val_videos=4"]
    target = [f"--model.target.checkpoint={teacher}"] if "ClipTarget" in text else []
    # DINO's tower has one size; CLIP's is read from the file.
    target = ["--model.target", "ClipTarget", f"--model.target.checkpoint={teacher}"] if "TimmTarget" in text else target
    folder = f"--trainer.default_root_dir={run}"
    main(["fit", *layers, *data, *target, folder, "--trainer.enable_progress_bar=false", *more])


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connections except between processes of this machine."""
    connect = socket.socket.connect

    def only_here(own: socket.socket, address: Any) -> None:
        assert own.family == socket.AF_UNIX, f"asks {address} over the network"
        connect(own, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("offline")
def test_every_recipe_builds_and_trains_offline(recipe: str, videos: Path, teacher: Path, tmp_path: Path) -> None:
    more = []
    text = (ROOT / "configs" / recipe).read_text()
    if "init_from" in text:
        first = ["vjepa2.yaml"] if "VJEPA" in text else ["smile.yaml", "--data.clip.sampler.stride=1"]
        tiny_run(first[0], videos, teacher, tmp_path / "first", *first[1:])
        more = [f"--model.init_from={tmp_path / 'first/checkpoints/last.ckpt'}"]
    tiny_run(recipe, videos, teacher, tmp_path / "run", "--trainer.max_epochs=2", *more)
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    # The initial weight files of the run may no longer exist.
    shutil.rmtree(tmp_path / "first", ignore_errors=True)
    again = Method.load_from_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert again.state_dict().keys() == checkpoint["state_dict"].keys()
    assert all(torch.equal(value, checkpoint["state_dict"][name]) for name, value in again.state_dict().items())
    if recipe == "locomotion.yaml":
        # What was told of the clips is in the pictures of the first step.
        assert (tmp_path / "run/pictures/0000001_captioned.png").is_file()


def test_frames_and_boxes_are_chosen_by_name(videos: Path, teacher: Path, tmp_path: Path) -> None:
    chosen = ["--data.clip.sampler=DecreasingGap", "--data.clip.sampler.stride=3"]
    chosen += ["--data.clip.crop=Shared", "--data.clip.crop.crop=Square", "--data.clip.crop.crop.scale=[0.5,0.9]"]
    tiny_run("moco.yaml", videos, teacher, tmp_path / "run", *chosen)
    clip = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["data"]["init_args"]["clip"]
    assert clip["sampler"] == {"class_path": "datamodules.DecreasingGap", "init_args": {"stride": 3}}
    assert clip["crop"]["class_path"] == "datamodules.Shared"
    assert clip["crop"]["init_args"]["crop"]["init_args"]["scale"] == [0.5, 0.9]


def test_second_stage_starts_from_the_weights_and_with_a_fresh_schedule(
    videos: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run("smile.yaml", videos, teacher, tmp_path / "first")
    first = torch.load(tmp_path / "first/checkpoints/last.ckpt", weights_only=True)
    start = f"--model.init_from={tmp_path / 'first/checkpoints/last.ckpt'}"
    still = ["--model.optim.base_lr=0", "--model.optim.min_lr=0"]
    tiny_run("smile_stage2.yaml", videos, teacher, tmp_path / "second", start, *still)
    second = torch.load(tmp_path / "second/checkpoints/last.ckpt", weights_only=True)
    # With a learning rate of zero, the second stage ends with its initial weights.
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    assert second["global_step"] == 1
    assert second["lr_schedulers"][0]["last_epoch"] == 1


def tiny_classifier(recipe: str, folder: Path) -> list[str]:
    is_cnn = "cnn" in recipe or "cvrl" in recipe
    sizes = (
        ["width=4"] if is_cnn else ["image_size=32", "num_frames=4", "patch_size=16", "embed_dim=32", "depth=2", "num_heads=2"]
    )
    layers = ["--config", str(ROOT / recipe), "--config", str(ROOT / "configs/debug/tiny_classifier.yaml")]
    layers += ["--data.clip.frames=8"] if "rspnet" in recipe else []
    data = ["--data=SyntheticMotion", "--data.train_videos=8", "--data.val_videos=4", "--trainer.enable_progress_bar=false"]
    return [*layers, *data, *(f"--model.backbone.{size}" for size in sizes), f"--trainer.default_root_dir={folder}"]


@pytest.mark.parametrize("recipe", DOWNSTREAM)
def test_every_recipe_of_classification_builds(recipe: str, tmp_path: Path) -> None:
    method = CLI(tiny_classifier(recipe, tmp_path), run=False).model
    assert isinstance(method, Classification)
    assert method.mode == {"severe": "finetune"}.get(folder := recipe.split("/")[1], folder)
    head = BELOW[recipe].split("seed_everything")[0]
    assert "paper" in head
    assert "python main.py fit" in head


FITTED = ("configs/finetune/kinetics400.yaml", "configs/linear/ucf101_cnn.yaml")


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[] if name in FITTED else [pytest.mark.slow]) for name in DOWNSTREAM]
)
def test_every_recipe_of_classification_trains_and_tests(recipe: str, tmp_path: Path) -> None:
    main(["fit", *tiny_classifier(recipe, tmp_path)])
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    if "after_fit: false" in BELOW[recipe]:
        main(["test", *tiny_classifier(recipe, tmp_path), "--ckpt_path=last"])
    (result,) = (tmp_path / "results").glob("*.json")
    score = "map" if "charades" in recipe else "top1"
    assert f"test/{score}" in json.loads(result.read_text())["metrics"]


@pytest.mark.parametrize("recipe", [pytest.param(name, marks=[] if "vcop" in name else [pytest.mark.slow]) for name in KNN])
def test_every_recipe_of_nearest_neighbours_tests(recipe: str, tmp_path: Path) -> None:
    data = ["--data=SyntheticMotion", "--data.train_videos=8", "--data.val_videos=4", "--data.batch_size=4"]
    data += ["--data.reading.num_workers=0", "--data.clip.frames=4", "--data.clip.size=32"]
    small = ["--model.backbone.width=4", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    main(["test", f"--config={ROOT / recipe}", *data, *small, f"--trainer.default_root_dir={tmp_path}"])
    (result,) = (tmp_path / "results").glob("*.json")
    content = json.loads(result.read_text())
    assert (content["videos"], content["bank"]) == (4, 8)
    assert {f"test/R@{number}" for number in (1, 5, 10, 20, 50)} <= set(content["metrics"])
    head = BELOW[recipe].split("seed_everything")[0]
    assert "official code" in head or "reported by" in head
    assert f"python main.py test --config {recipe}" in head


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[] if "didemo" in name else [pytest.mark.slow]) for name in RETRIEVAL]
)
def test_every_recipe_of_retrieval_trains_and_tests(recipe: str, videos: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        found = sorted(path.relative_to(videos).as_posix() for path in (videos / split).rglob("*.mp4"))
        entries = [{"video": name, "caption": [f"a {number}", "it moves"]} for number, name in enumerate(found)]
        tests = ("didemo_ret_test", "msrvtt_ret_test1k", "ssv2_ret_template_val_small", "ssv2_ret_label_val_small")
        names = {"train": ("ssv2_ret_template_train", "ssv2_ret_label_train", "msrvtt_ret_train9k"), "val": tests}
        for name in (*names[split], f"didemo_ret_{split}"):
            (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    layers = ["--config", str(ROOT / recipe), "--config", str(ROOT / "configs/debug/tiny_text.yaml")]
    layers += ["--model.text.positions=64", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"]
    main(["fit", *layers, f"--data.root={videos}", f"--data.lists.folder={tmp_path}", "--trainer.max_epochs=1"])
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 0
    (result,) = (tmp_path / "results").iterdir()
    content = json.loads(result.read_text())
    assert {"test/dual_t2v_r1", "test/rerank_t2v_r1", "test/rerank_mean"} <= set(content["metrics"])
    # Joined, the sentences of each video are its own; else all share one.
    assert (content["videos"], content["sentences"]) == (4, 4 if "didemo" in recipe else 5)
    assert len(list((tmp_path / "pictures").glob("*found*.png"))) == 2


@pytest.mark.parametrize("recipe", RETRIEVAL)
def test_every_recipe_of_retrieval_states_its_source(recipe: str) -> None:
    head = BELOW[recipe].split("seed_everything")[0]
    assert "paper" in head
    assert "ot verified" in head
    assert f"python main.py fit --config {recipe}" in head


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_runs(layer: str, tmp_path: Path) -> None:
    # Written for GPUs: here they get one CPU process. SLURM's variables are those of a job with one task.
    recipe, tiny, data = "videomae", "tiny", ["SyntheticMotion", "--data.train_videos=8", "--data.val_videos=4"]
    if "cnn" in layer:
        recipe, tiny = "moco", "tiny_cnn"
    elif "text" in layer:
        recipe, tiny = "locomotion", "tiny_text"
        data += ["--data.batch_size=4", "--trainer.max_epochs=1", "--model.optim.warmup_epochs=0"]
    elif "skeleton" in layer:
        recipe, tiny = "skeleton_contrast", "tiny_skeleton"
        data = ["SyntheticSkeleton", "--data.train_clips=8", "--data.val_clips=4"]
        data += ["--model.backbone.hidden=8", "--model.partner.width=4"]
    command = [sys.executable, "main.py", "fit", "--config", f"configs/{recipe}.yaml", "--config", f"configs/debug/{tiny}.yaml"]
    command += ["--config", layer, "--data", *data]
    command += ["--trainer.accelerator=cpu", "--trainer.devices=1", f"--trainer.default_root_dir={tmp_path}"]
    command += ["--trainer.num_nodes=1", "--data.probe_samples=8"]
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    slurm |= {"SLURM_NODELIST": "localhost", "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "1"}
    environment = os.environ | (slurm if "slurm" in layer else {})
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "checkpoints/last.ckpt").is_file()


def test_recipes_state_their_source() -> None:
    for recipe in RECIPES:
        head = (ROOT / "configs" / recipe).read_text().split("seed_everything")[0]
        assert "paper" in head, recipe
        assert "python main.py fit" in head, recipe


def test_yaml_names_only_what_it_sets() -> None:
    # A recipe is complete: it contains backbone, mask, target and data.
    for recipe in RECIPES:
        config = yaml.safe_load((ROOT / "configs" / recipe).read_text())
        assert {"backbone", "optim"} <= set(config["model"]["init_args"]), recipe
        assert "clip" in config["data"]["init_args"], recipe


def test_samplers_in_yaml_state_their_stride() -> None:
    """A sampler without a stride in YAML would take that of the default sampler, `Dense`, not its own."""
    for path in (ROOT / "configs").rglob("*.yaml"):
        init = (yaml.safe_load(path.read_text()).get("data") or {}).get("init_args") or {}
        sampler = (init.get("clip") or {}).get("sampler")
        if isinstance(sampler, dict) and "class_path" in sampler:
            names = inspect.signature(getattr(datamodules, sampler["class_path"])).parameters
            assert "stride" not in names or "stride" in sampler.get("init_args", {}), path


def test_no_pass_through_keywords_in_public_constructors() -> None:
    for path in (ROOT / "modules").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                assert node.args.kwarg is None, f"{path}: line {node.lineno}"


def test_every_public_function_says_what_it_does() -> None:
    for folder in ("modules", "datamodules", "callbacks"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), path
            public = list(tree.body)
            for node in public:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{path}: {node.name}"
                    public += node.body if isinstance(node, ast.ClassDef) else []


def test_nothing_points_to_one_machine() -> None:
    home = re.compile(r"/(home|root|Users|work|opt)/\w|pypi\.org|files\.pythonhosted|localhost:\d")
    for path in SOURCES:
        if path != Path(__file__):
            assert not home.search(path.read_text()), path

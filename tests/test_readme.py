"""Commands in README and docs work as pasted (at small size), and their code examples run."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.prepare import write_data_set
from datamodules.sets.feature_sequences import FeatureSequences
from datamodules.settings import ReadSettings
from main import main
from modules.backbones.skeleton.gru import BiGRU
from modules.core.errors import SettingError
from modules.weights.passport import read_passport
from tests.layers.test_targets import write_clip_file
from tests.pages import PAGES, ROOT, arguments, commands, python
from tests.registry import OPTIM, tiny_vit, video_batch

README = PAGES["README.md"]
COMMANDS = list(dict.fromkeys(line for text in PAGES.values() for line in commands(text)))
TINY = ["--config", str(ROOT / "configs/debug/tiny.yaml")]
# No process group in the process that runs the tests; tests/test_project.py runs the layers as they are.
ON_CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.precision=32-true"]
SHORT = ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false"]
SKELETON = [
    *ON_CPU,
    "--model.backbone.hidden=8",
    "--model.backbone.layers=1",
    "--data.batch_size=4",
    "--data.reading.num_workers=0",
]
SMALL = [*SHORT, "--data.batch_size=4", "--data.train_videos=16", "--data.val_videos=8", "--data.probe_samples=16"]


def words(start: str) -> list[list[str]]:
    """Arguments of commands with this beginning, of all pages, each once."""
    lines = (line.split("&&")[-1].strip() for line in COMMANDS)
    found = [arguments(line) for line in dict.fromkeys(lines) if line.startswith(start)]
    assert found, f"no page has a command {start}"
    return found


VIDEOS = min(words("python main.py synthesise --out data/motion"), key=len)


def test_quickstart_runs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    first, again, averaged = sorted(words("python main.py fit --config configs/quickstart.yaml"), key=len)
    assert again[-2:] == ["--ckpt_path", "last"]
    main([*first, *SMALL, "--trainer.max_epochs=1", "--model.optim.warmup_epochs=0"])
    assert "of the best constant prediction" in capsys.readouterr().out
    assert list((tmp_path / "runs/quickstart/pictures").iterdir())
    assert list((tmp_path / "runs/quickstart").glob("events.out.tfevents.*"))
    main([*again, *SMALL, "--trainer.max_epochs=2", "--model.optim.warmup_epochs=0"])
    assert torch.load(tmp_path / "runs/quickstart/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    main([*averaged, *SMALL, "--trainer.max_epochs=1", "--model.optim.warmup_epochs=0", "--trainer.default_root_dir=averaged"])
    for command in words("python main.py convert --source runs/quickstart") + words("python main.py convert --source smile"):
        main(command)
    assert read_passport(tmp_path / "smile.safetensors")["method"] == "modules.methods.smile.SMILE"
    assert {path.name for path in (tmp_path / "encoder").iterdir()} >= {"config.json", "model.safetensors"}
    (code,) = python(PAGES["docs/weights.md"])
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["features"].shape == (2, names["encoder"].embed_dim)
    assert type(names["method"]).__name__ == "SMILE"
    main([*VIDEOS, "--train_videos=3", "--val_videos=1", "--frames=16", "--size=32"])
    for command in words("python main.py embed --checkpoint runs/quickstart"):
        main([*command, "--num_workers=0"])
    data = FeatureSequences(str(tmp_path / "features"), batch_size=3, reading=ReadSettings(num_workers=0), seed=0)
    data.setup("fit")
    assert [len(batch.index) for batch in (*data.train_dataloader(), *data.val_dataloader())] == [3, 1]
    with pytest.raises(SettingError, match=r"python main\.py replay"):
        main([*first, *SMALL, "--model.optim.warmup_epochs=0", "--model.optim.base_lr=1e25", "--trainer.default_root_dir=run"])
    for command in words("python main.py replay"):
        main([word if word.startswith(("--dump", "replay")) else "run/nonfinite/step_00000001" for word in command])
    assert "first output that is not finite: backbone.blocks.0" in capsys.readouterr().out


def test_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (command,) = words("python main.py bench")
    main([*command, *SMALL[len(SHORT) :], "--seconds=0.5"])
    assert "What limits this run" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_written_videos_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    main([*VIDEOS, "--train_videos=6", "--val_videos=2", "--frames=8", "--size=32"])
    (command,) = words("python main.py fit --config configs/videomae.yaml --config configs/trainer/laptop.yaml")
    sizes = ["--model.backbone.image_size=32", "--model.backbone.num_frames=4", "--model.backbone.depth=1"]
    clip = ["--data.clip.size=32", "--data.clip.frames=4", "--data.clip.sampler.stride=2", "--data.batch_size=3"]
    main([*command, *SHORT, *sizes, *clip])
    assert (tmp_path / "runs/videomae/checkpoints/last.ckpt").is_file()
    main([*words("python main.py prepare videos")[0], "--short_side=32", "--workers=1"])
    assert len((tmp_path / "data/small/manifest.tsv").read_text().splitlines()) >= 8
    (captions,) = words("python main.py synthesise --out data/told")
    main([*captions, "--train_videos=2", "--val_videos=1", "--frames=16", "--size=32"])
    assert len((tmp_path / "data/told/captions.jsonl").read_text().splitlines()) == 3


def test_shards_train_as_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litdata", reason="litdata is not installed: pip install -e '.[streaming]'")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    main([*VIDEOS, "--train_videos=10", "--val_videos=2", "--frames=8", "--size=32"])
    main(words("python main.py prepare shards")[0])
    (command,) = words("python main.py fit --config configs/videomae.yaml --config configs/data/shards.yaml")
    small = [*TINY, *ON_CPU, "--data.clip.sampler.stride=2", "--trainer.enable_progress_bar=false"]
    main([*command, *small, "--data=VideoFolder", "--data.root=data/motion", "--trainer.default_root_dir=files"])
    main([*command, *small, "--trainer.max_steps=1", "--trainer.default_root_dir=shards"])
    main([*command, *small, "--trainer.max_steps=2", "--trainer.default_root_dir=shards", "--ckpt_path=last"])
    files, shards = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("files", "shards"))
    assert files["global_step"] == shards["global_step"] == 2
    assert files["state_dict"].keys() == shards["state_dict"].keys()
    assert all(torch.equal(value, shards["state_dict"][name]) for name, value in files["state_dict"].items())


OWN = [
    "python main.py synthesise --out data/motion --train_videos",
    "python main.py fit --config configs/own_videos.yaml --data.root data/motion",
    "python main.py embed --checkpoint runs/own_videos",
    "python main.py fit --config configs/finetune/own_videos.yaml --data.root data/motion --model.backbone",
    "python main.py test --config configs/finetune/own_videos.yaml --data.root data/motion --ckpt_path",
    "python main.py map --features features/val",
    "python main.py predict --config configs/finetune/own_videos.yaml",
    "python main.py convert --source runs/own_videos",
]
"""Beginnings of the steps from videos to predictions."""
TINY_OWN = {
    "synthesise": ["--train_videos=24", "--val_videos=4", "--frames=16"],
    "fit": [*SHORT, "--data.batch_size=4", "--data.reading.num_workers=0", "--trainer.max_epochs=1"],
    "test": ["--data.reading.num_workers=0", "--trainer.enable_progress_bar=false"],
    "predict": ["--data.reading.num_workers=0", "--trainer.enable_progress_bar=false"],
    "embed": ["--num_workers=0"],
    "map": ["--num_workers=0"],
    "convert": [],
}


def test_from_ones_own_videos_to_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for start in OWN:
        for command in words(start):
            more = TINY_OWN[command[0]]
            if start.endswith("--model.backbone"):
                more = [*more, "--trainer.check_val_every_n_epoch=1", "--trainer.limit_val_batches=1.0"]
            main([*command, *more])
    run = tmp_path / "runs/finetune_own_videos"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    (result,) = [json.loads(path.read_text()) for path in (run / "results").glob("*.json")]
    # The checkpoint was chosen on a fifth of the training videos; the test uses other videos.
    splits = result["splits"]
    assert (splits["validation"], splits["tested_on_validation"]) == ("0.2 of the training samples", False)
    assert result["metrics"]["test/top1"] in (0, 25, 50, 75, 100)
    with (run / "predictions/videofolder.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 4
    assert {row["class"] for row in rows} <= {"right", "left", "up", "down"}
    assert all(tmp_path.joinpath(f"features/val_map{end}").exists() for end in (".png", ".html", ".projector"))
    assert (tmp_path / "encoder_hf/config.json").is_file()
    names: dict[str, Any] = {}
    exec(next(block for block in python(README) if "load_backbone" in block), names)
    assert names["features"].shape == (2, 96)
    torch.testing.assert_close(torch.from_numpy(names["same"]), names["features"].detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", ["one_gpu", "ddp_node"])
def test_hardware_layers(layer: str, tmp_path: Path) -> None:
    main(["synthesise", f"--out={tmp_path / 'DIR'}", "--train_videos=6", "--val_videos=2", "--frames=20", "--size=32"])
    write_clip_file(tmp_path / "clip.pt", patch=16, side=32)
    command = words(f"python main.py fit --config configs/smile.yaml --config configs/trainer/{layer}.yaml")[0]
    command = [str(tmp_path / "DIR") if word == "DIR" else word.replace("configs/", f"{ROOT}/configs/") for word in command]
    main(
        [
            *command,
            *TINY,
            *ON_CPU,
            f"--trainer.default_root_dir={tmp_path / 'run'}",
            f"--model.target.checkpoint={tmp_path / 'clip.pt'}",
        ]
    )
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


MEASURING = [
    ["python", "main.py", command, "--config", f"configs/{recipe}.yaml"]
    for command, recipe in (
        ("fit", "finetune/kinetics400"),
        ("test", "finetune/kinetics400"),
        ("fit", "skeleton_downstream/linear"),
        ("test", "skeleton_downstream/knn"),
    )
]


def test_measuring_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    main(["synthesise", "--out=videos", "--train_videos=6", "--val_videos=3", "--frames=20", "--size=32"])
    write_data_set(tmp_path / "raw", 40)
    for path in (tmp_path / "raw").iterdir():
        # The actions of NTU60 are 1 to 60.
        path.rename(path.with_stem(f"{path.stem[:-3]}{int(path.stem[-3:]) - 60:03d}"))
    main(["prepare", "ntu", "--raw=raw", "--out=skeletons", "--workers=0"])
    vit, gru = tiny_vit(), BiGRU(8, 1)
    save_file({key: value.contiguous() for key, value in vit.state_dict().items()}, "encoder.safetensors")
    save_file(gru.state_dict(), "gru.safetensors")
    sizes = ["--model.backbone.patch_size=8", "--model.backbone.embed_dim=32", "--model.backbone.depth=2"]
    sizes += ["--model.backbone.num_heads=2", "--model.backbone.image_size=32", "--model.backbone.num_frames=4"]
    for command in MEASURING:
        given = words(" ".join(command))[0]
        videos = "finetune" in command[-1]
        layer = ["--config", "configs/debug/tiny_classifier.yaml", *sizes] if videos else SKELETON
        layer += ["--trainer.max_epochs=1"] if command[2] == "fit" else []
        folder = [f"--trainer.default_root_dir={'video' if videos else command[2]}"]
        files = {"DIR": "videos" if videos else "skeletons", "FILE": "gru.safetensors"}
        main([files.get(word, word) for word in given] + layer + folder)
    assert len(list((tmp_path / "video/results").glob("*.json"))) == 2
    for command in ("fit", "test"):
        assert len(list((tmp_path / command / "results").glob("*.json"))) == 1


def test_retrieval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for start in ("python main.py fit --config configs/retrieval", "python main.py test --config configs/retrieval"):
        (command,) = words(start)
        main([*command, "--trainer.enable_progress_bar=false"])
    assert len(list((tmp_path / "runs/tiny_retrieval/results").iterdir())) == 2
    # Of the network after two steps, which both runs tested; each picture as a still and moving.
    assert len(list((tmp_path / "runs/tiny_retrieval/pictures").iterdir())) == 8


def test_skeletons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    train = words("python main.py fit --config configs/skeleton_contrast.yaml")[0]
    small = ["--config", "configs/debug/tiny_skeleton.yaml", "--model.backbone.hidden=8", "--model.partner.width=4"]
    main([*train, *small, "--data.train_clips=8", "--data.val_clips=4", "--data.probe_samples=4", *ON_CPU])
    assert (tmp_path / "runs/tiny/checkpoints/last.ckpt").is_file()
    write_data_set(tmp_path / "nturgb+d_skeletons", 2)
    prepare, asking = words("python main.py prepare ntu") + words("python main.py prepare pku")
    main([*prepare, "--workers=0"])
    assert (tmp_path / "data/ntu/header.json").is_file()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(asking)
    assert stopped.value.code == 0
    assert "--raw" in capsys.readouterr().out


def test_help_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    asking = words("python main.py fit --model.help") + words("python main.py fit --data.help")
    asking += words("python main.py fit --config configs/smile.yaml --print_config")
    # What needs files of flow beside the videos is in tests/datamodules/streams.
    flow = words("python main.py fit --config configs/videomae.yaml --data VideoFolder")
    asking += [[*command, "--print_config"] for command in flow]
    for command in asking:
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 0
        assert len(capsys.readouterr().out.splitlines()) > 20


def test_no_command_is_left_out() -> None:
    tested = ("pip install", "tensorboard", "python benchmarks/", "bash benchmarks/gpu.sh")
    own = ("bench", "convert", "embed", "map", "predict", "prepare", "replay", "synthesise")
    tested += tuple(f"python main.py {name}" for name in own)
    tested += ("python main.py fit --model.help", "python main.py fit --data.help")
    tested += ("python main.py fit --config configs/quickstart",)
    tested += tuple(f"python main.py fit --config configs/{name}.yaml" for name in ("own_videos", "videomae", "smile"))
    tested += tuple(f"python main.py {command} --config configs/finetune/own_videos.yaml" for command in ("fit", "test"))
    tested += ("python main.py fit --config configs/skeleton_contrast.yaml --config configs/data/synthetic_skeleton.yaml",)
    tested += tuple(" ".join(command) for command in MEASURING)
    tested += tuple(f"python main.py {command} --config configs/retrieval/ssv2_template.yaml" for command in ("fit", "test"))
    # Those of label propagation, long videos and attentive probes are run in tests/downstream.
    tested += ("python main.py test --config configs/propagation/davis2017.yaml",)
    tested += tuple(f"python main.py fit --config configs/{name}" for name in ("lvmae.yaml", "attentive/"))
    assert [line for line in COMMANDS if not line.startswith(tested)] == []


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 200
    for name, text in PAGES.items():
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / name).parent.joinpath(link).exists(), f"{name}: {link}"


def test_table_of_methods_names_what_exists() -> None:
    rows = re.findall(r"^\| .*`(modules/methods/\w+\.py)` \| (.*) \|$", README, re.MULTILINE)
    assert {row[0] for row in rows} == {f"modules/methods/{path.name}" for path in (ROOT / "modules/methods").glob("*.py")} - {
        "modules/methods/__init__.py"
    }
    recipes = {name for row in rows for name in re.findall(r"`(\w+\.yaml)`", row[1])}
    assert recipes == {path.name for path in (ROOT / "configs").glob("*.yaml")}


def test_the_example_of_a_method_learns() -> None:
    (code,) = [block for block in python(README) if "class Backwards" in block]
    imports = """
import torch
import torch.nn.functional as F
from torch import nn
from modules.backbones.vit.video_vit import VideoViT
from modules.training.method import Method
from modules.core.batch import Batch
from modules.core.output import StepOutput
from modules.training.optim import AdamWSettings
"""
    names: dict[str, type] = {}
    exec(imports + code, names)
    method = names["Backwards"](tiny_vit(), OPTIM)
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3)
    batch = video_batch(8)
    losses = []
    for _ in range(60):
        loss = method.step(batch, torch.Generator().manual_seed(len(losses) % 4))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])

"""Terminal output of a run: few lines, no advertisements, and at the end the written files."""

import logging
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from main import main
from modules.core.errors import SettingError
from modules.runs.terminal.ending import Ending, place_of
from modules.runs.terminal.messages import plain_messages
from modules.runs.terminal.parts import describe_parts
from tests.callbacks.runs import make_trainer
from tests.callbacks.test_pictures import NoWandb
from tests.runs.test_cli import ROOT, quick

TINY_CLASSIFIER = [
    *(f"--config={ROOT / 'configs' / name}" for name in ("finetune/ucf101.yaml", "debug/tiny_classifier.yaml")),
    *("--data=SyntheticMotion", "--data.train_videos=16", "--data.val_videos=8", "--trainer.enable_progress_bar=false"),
    *("--model.backbone.image_size=32", "--model.backbone.num_frames=4", "--model.backbone.depth=1"),
    *("--model.backbone.embed_dim=32", "--model.backbone.num_heads=2"),
]


def test_training_says_what_runs_and_what_it_wrote(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    quick(run, "--trainer.enable_progress_bar=true", "--trainer.log_every_n_steps=1")
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert [line.split(" ")[0] for line in lines[:6]] == ["SMILE", "Learning", "SMILE:", "", "", "ProbeReport:"]
    assert lines[0] == f"SMILE on SyntheticMotion: 1 x cpu, precision 32-true, seed 0, folder {run}"
    assert lines[2:5] == [
        "SMILE: 536 K parameters, trained",
        "  backbone  VideoViT       485 K parameters, trained",
        "  decoder   MaskedDecoder  51.8 K parameters, trained",
    ]
    assert lines[5:7] == [f"ProbeReport: what can be read from the features {when} training." for when in ("before", "after")]
    assert lines[7:] == [
        f"Written to {run}: checkpoints/last.ckpt, probe_report.md, 13 pictures in pictures",
        f"Metrics: tensorboard --logdir {run}",
        f"Next: python main.py embed --checkpoint {run}/checkpoints/last.ckpt --source DIR --out features",
    ]
    # A bar shows the progress of probes, and no bar appears after the table.
    assert "Features of training samples: " in out
    assert "Epoch" not in out[out.index("| accuracy on") :]


def test_nothing_is_said_twice_when_a_test_follows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, best = tmp_path / "run", f"--config={ROOT / 'configs/trainer/best.yaml'}"
    main(["fit", *TINY_CLASSIFIER, best, f"--trainer.default_root_dir={run}", "--trainer.max_epochs=2"])
    lines = capfd.readouterr().err.splitlines()
    assert len(set(lines)) == len(lines)
    (written,) = (line for line in lines if line.startswith("Written"))
    assert "checkpoints/best-" in written
    assert "results/syntheticmotion_finetune-000.json" in written
    main(["test", *TINY_CLASSIFIER, f"--trainer.default_root_dir={run}", "--ckpt_path=best"])
    lines = capfd.readouterr().err.splitlines()
    (loaded,) = (line for line in lines if line.startswith("Loaded model weights"))
    assert "checkpoints/best-" in loaded
    results = ", ".join(f"results/syntheticmotion_finetune-001{end}" for end in (".json", "_classes.csv", "_confusion.csv"))
    assert lines[-2] == f"Written to {run}: {results}, 1 picture in pictures"
    for path in (run / "checkpoints").glob("best-*"):
        path.unlink()
    with pytest.raises(SettingError, match=r"knows of .*best-\d\.ckpt, which is gone"):
        main(["test", *TINY_CLASSIFIER, f"--trainer.default_root_dir={run}", "--ckpt_path=best"])


OFF = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.overfit_batches=1"]


def test_without_logger_and_checkpoints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Callbacks of the recipe that save or need a logger are left out; those that look at metrics stay."""
    run, best = tmp_path / "run", f"--config={ROOT / 'configs/trainer/best.yaml'}"
    folder = f"--trainer.default_root_dir={run}"
    main(["fit", *TINY_CLASSIFIER, best, folder, *OFF, "--trainer.max_epochs=2"])
    assert "Metrics" not in capfd.readouterr().err
    main(["validate", *TINY_CLASSIFIER, best, folder, *OFF])
    main(["test", *TINY_CLASSIFIER, best, folder, *OFF])
    assert f"Written to {run}: results/syntheticmotion_finetune-001.json" in capfd.readouterr().err
    quick(tmp_path / "ssl", *OFF, "--trainer.callbacks+=OnlineKNN", "--trainer.callbacks+=CollapseAlarm")
    assert not (run / "checkpoints").exists()
    assert not (tmp_path / "ssl/checkpoints").exists()
    assert list(tmp_path.rglob("*tfevents*")) == []


def test_an_interrupted_run_says_where_to_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("callbacks.pictures.Pictures.on_train_end", stop)
    with pytest.raises(SystemExit):
        quick(tmp_path)
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"Interrupted; --ckpt_path last goes on from {tmp_path / 'checkpoints/last.ckpt'}."
    )


def test_messages(capfd: pytest.CaptureFixture[str]) -> None:
    with plain_messages():
        for text in ("💡 Tip: buy this", "GPU available: False, used: False", "ours", "ours", "theirs"):
            rank_zero_info(text)
        warnings.warn_explicit("do this", UserWarning, str(ROOT / "callbacks/features.py"), 1)
        warnings.warn_explicit("old", DeprecationWarning, str(ROOT / "callbacks/features.py"), 2)
        warnings.warn_explicit("a LeafSpec is old", UserWarning, "/torch.py", 3)
        warnings.warn_explicit("of others", UserWarning, "/others.py", 4)
        shown = warnings.formatwarning("do this", UserWarning, str(ROOT / "callbacks/features.py"), 1)
        other = warnings.formatwarning("of others", UserWarning, "/others.py", 4, "")
    assert [line for line in capfd.readouterr().err.splitlines() if "s" in line and "arn" not in line] == ["ours", "theirs"]
    assert shown == "warning: do this\n"
    assert other.startswith("/others.py:4: UserWarning: of others")
    assert not any(handler.filters for handler in logging.getLogger("lightning.pytorch").handlers)


def test_parts() -> None:
    module = nn.ModuleDict({"encoder": nn.Linear(1000, 1000), "act": nn.ReLU(), "tower": nn.Linear(3, 1)})
    module["tower"].requires_grad_(False)
    module.register_parameter("scale", nn.Parameter(torch.ones(2)))
    assert describe_parts(module) == [
        "ModuleDict: 1 M parameters, 1 M of them trained",
        "  encoder  Linear  1 M parameters, trained",
        "  tower    Linear  4 parameters, frozen",
        "  itself           2 parameters, trained",
    ]


def test_only_what_is_new_is_named(tmp_path: Path) -> None:
    for name in ("results/old.json", "pictures/old.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    ending, trainer = Ending(tmp_path), make_trainer(tmp_path, [])
    assert ending.lines(trainer, None) == []
    (tmp_path / "results/new.json").touch()
    assert ending.lines(trainer, "embed") == [f"Written to {tmp_path}: results/new.json", "Next: python main.py embed"]


def test_where_loggers_write(tmp_path: Path) -> None:
    assert place_of(CSVLogger(tmp_path, name="csv", version=1)) == f"{tmp_path}/csv/version_1/metrics.csv"
    assert place_of(TensorBoardLogger(tmp_path, name="", version="")) == f"tensorboard --logdir {tmp_path}"
    assert place_of(NoWandb()) == "W&B, run fake, kept in wandb"

"""Wrong commands: each ends with one sentence about what to change, before costly work. Also files that a run leaves."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from main import main
from modules.core.errors import SettingError
from modules.runs.explain import explain
from modules.runs.run_folder import LOCK, RunLock

ROOT = Path(__file__).parents[2]
TINY = [
    f"--config={ROOT / 'configs/quickstart.yaml'}",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.callbacks=null",
    "--data.batch_size=4",
    "--data.train_videos=4",
    "--data.val_videos=4",
    "--data.probe_samples=4",
    "--model.optim.warmup_epochs=0",
]
CONTRAST = [f"--config={ROOT / 'configs/moco.yaml'}", f"--config={ROOT / 'configs/debug/tiny_cnn.yaml'}"]
SINGLE = [*CONTRAST, "--data=SyntheticMotion", "--model.backbone=VideoResNet", "--model.backbone.width=4"]


def run(folder: Path, *more: str, command: str = "fit") -> None:
    main([command, *TINY, f"--trainer.default_root_dir={folder}", *more])


# name: (command, wrong settings, expected sentence)
REFUSED = {
    "class of another kind": (
        "fit",
        ["--model.backbone=BEiTVideo"],
        r"model\.backbone: BEiTVideo cannot be used here; it takes ",
    ),
    "optimiser of another kind": (
        "fit",
        ["--model.optim=SGDSettings"],
        r"model\.optim: SGDSettings cannot be used here.* AdamWSettings",
    ),
    "no package": ("fit", ["--trainer.logger=CometLogger"], r"^trainer\.logger: .*comet-ml.*pip install"),
    "predict": ("predict", [], r"^predict: nothing says which weights SMILE is to use; pass --ckpt_path last"),
    "test of pretraining": ("test", [], r"^test: SMILE is not tested itself: test its encoder"),
    "no GPU": ("fit", ["--trainer.accelerator=gpu"], r"trainer\.accelerator is gpu, but PyTorch sees no GPU"),
    "no such accelerator": ("fit", ["--trainer.accelerator=npu"], r"trainer\.accelerator is npu: "),
    "devices 0": ("fit", ["--trainer.devices=0"], r"trainer\.devices is 0; it must be at least 1"),
    "devices in words": ("fit", ["--trainer.devices=two"], r"trainer\.devices is two: "),
    "seed": ("fit", ["--seed_everything=-1"], r"seed_everything is -1; it must be from 0"),
    "precision": (
        "fit",
        ["--trainer.precision=bf16-mxed"],
        r"trainer\.precision is 'bf16-mxed'; it must be one of 64, .*'bf16-mixed'",
    ),
    "no epochs": ("fit", ["--trainer.max_epochs=0"], r"trainer\.max_epochs is 0, so nothing would be trained"),
    "negative epochs": ("fit", ["--trainer.max_epochs=-2"], r"trainer\.max_epochs is -2: "),
    "half an epoch": ("fit", ["--trainer.max_epochs=1.5"], r"trainer\.max_epochs is '1\.5'; it must be of type int or null"),
    "accumulation": (
        "fit",
        ["--trainer.accumulate_grad_batches=0"],
        r"trainer\.accumulate_grad_batches is 0; it must be a number above",
    ),
    "strategy": ("fit", ["--trainer.strategy=dpp"], r"trainer\.strategy is dpp: "),
    "null depth": ("fit", ["--model.decoder.depth=null"], r"model\.decoder\.depth must be of type int, not 'null'"),
    "null masks": ("fit", ["--model.masks_per_clip=null"], r"model\.masks_per_clip is null, but SMILE needs a value"),
    "null optimiser": ("fit", ["--model.optim=null"], r"model\.optim is null, but SMILE needs a value"),
    "null backbone": ("fit", ["--model.backbone=null"], r"model\.backbone is not set; SMILE needs it"),
    "depth 0": ("fit", ["--model.backbone.depth=0"], r"model\.backbone\.depth is 0; it must be a number above 0"),
    "patch 0": ("fit", ["--model.backbone.patch_size=0"], r"model\.backbone\.patch_size is 0; it must be"),
    "mask ratio 1.5": ("fit", ["--model.mask.ratio=1.5"], r"model\.mask\.ratio 1\.5 masks 96 of 64 tokens"),
    "rate": ("fit", ["--model.optim.base_lr=-1"], r"model\.optim\.base_lr is -1\.0; it must be a number of at least 0"),
    "betas": ("fit", ["--model.optim.betas=[2,0.5]"], r"model\.optim\.betas is \(2\.0, 0\.5\); both must be"),
    "temperature": ("fit", [*SINGLE, "--model.contrast.temperature=0"], r"model\.contrast\.temperature is 0\.0; it must be"),
    "callback": (
        "fit",
        ["--trainer.callbacks+=Pictures", "--trainer.callbacks.every_n_steps=0"],
        r"Pictures\.every_n_steps is 0",
    ),
    "short nested name": ("fit", ["--data.clip.siz=9"], r"no setting data\.clip\.siz; did you mean data\.clip\.size\?"),
    "class under its earlier name": (
        "fit",
        ["--data.clip.sampler=segment"],
        r"data\.clip\.sampler: there is no class segment; did you mean Segments\?",
    ),
    "switch in the place of a class": (
        "fit",
        ["--data.clip.sampler=true"],
        r"data\.clip\.sampler is true; it takes .*\bDense\b",
    ),
    "switch in the place of settings": (
        "fit",
        ["--data.streams.sound=true"],
        r"data\.streams\.sound is true; it takes GeneratedSound",
    ),
    "short name": ("fit", ["--trainer.max_e=2"], r"no setting trainer\.max_e; did you mean trainer\.max_epochs\?"),
    "short name at the top": ("fit", ["--seed=3"], r"no setting seed; did you mean seed_everything\?"),
    "checkpoint is a folder": ("fit", [f"--ckpt_path={ROOT}"], r"--ckpt_path names .*, which is a folder; pass a file of"),
    "checkpoint is a text": (
        "fit",
        [f"--ckpt_path={ROOT / 'README.md'}"],
        r"--ckpt_path names .*README\.md, which cannot be read",
    ),
    "best": ("fit", ["--ckpt_path=best"], r"--ckpt_path best: there is no .*last\.ckpt"),
    "address": ("fit", ["--trainer.default_root_dir=s3://bucket/run"], r"default_root_dir is s3://bucket/run, a URL"),
    "folder in a file": (
        "fit",
        [f"--trainer.default_root_dir={ROOT / 'README.md' / 'run'}"],
        r"default_root_dir is .*run, which cannot be the folder of a run",
    ),
}

MORE_REFUSED = {
    **{
        f"trainer.{name} {value}": ("fit", [f"--trainer.{name}={value}"], rf"trainer\.{name}")
        for name, value in (
            ("devices", "-1"),
            ("devices", "null"),
            ("num_nodes", "0"),
            ("max_steps", "0"),
            ("max_steps", "-3"),
            ("limit_train_batches", "-1"),
            ("limit_train_batches", "1.5"),
            ("limit_val_batches", "-1"),
            ("val_check_interval", "0"),
            ("val_check_interval", "100"),
            ("check_val_every_n_epoch", "0"),
            ("log_every_n_steps", "-1"),
            ("gradient_clip_val", "-1"),
            ("gradient_clip_algorithm", "foo"),
            ("deterministic", "maybe"),
            ("profiler", "foo"),
            ("reload_dataloaders_every_n_epochs", "-1"),
            ("callbacks", "EarlyStopping"),
            ("logger", "WandbLogger"),
            ("logger", "MLFlowLogger"),
        )
    },
    **{
        f"model.{name} {value}": ("fit", [f"--model.{name}={value}"], rf"model\.{re.escape(name)}")
        for name, value in (
            ("target", "null"),
            ("mask", "null"),
            ("masks_per_clip", "null"),
            ("masks_per_clip", "0"),
            ("paste.count", "-1"),
            ("background", "null"),
            ("decoder.depth", "0"),
            ("decoder.dim", "-8"),
            ("decoder.heads", "0"),
            ("backbone.image_size", "0"),
            ("backbone.num_frames", "-8"),
            ("backbone.tubelet_size", "0"),
            ("backbone.embed_dim", "0"),
            ("backbone.num_heads", "0"),
            ("backbone.mlp_ratio", "-1"),
            ("backbone.drop_path", "2"),
            ("mask.ratio", "0"),
            ("mask.ratio", "1"),
            ("mask.ratio", ".nan"),
            ("paste.objects.side", "0"),
            ("optim.base_lr", ".nan"),
            ("optim.base_lr", ".inf"),
            ("optim.warmup_epochs", "-1"),
            ("optim.horizon_epochs", "0"),
            ("optim.betas", "[0.9]"),
            ("optim.weight_decay", "-1"),
            ("optim.layer_decay", "0"),
        )
    },
    **{
        f"contrast {name} {value}": ("fit", [*SINGLE, f"--model.{name}={value}"], rf"model\.{re.escape(name)}")
        for name, value in (
            ("contrast.momentum", "2"),
            ("contrast.out_dim", "0"),
            ("contrast.queue_size", "-8"),
            ("contrast", "null"),
            ("optim.momentum", "2"),
        )
    },
    "scales": ("fit", ["--model.paste.motion.scales=[]"], r"Motion\.scales is \(\); it needs at least one number"),
    "no model": ("fit", ["--model=null"], r"^model is not set; name a class with --model"),
    "base class": ("fit", ["--model=Method"], r"^model names an abstract base class; it takes .*VideoMAE"),
    "timer": ("fit", ["--trainer.max_time=soon"], r"not a valid duration"),
}


def refuse(command: str, more: list[str], expected: str, folder: Path) -> None:
    with pytest.raises(SettingError, match=expected) as raised:
        run(folder, *more, command=command)
    assert "\n" not in str(raised.value)
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_commands_are_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    if case == "no GPU" and (torch.cuda.is_available() or torch.backends.mps.is_available()):
        pytest.skip("there is a GPU")
    refuse(*REFUSED[case], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE_REFUSED)
def test_more_wrong_commands_are_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    refuse(*MORE_REFUSED[case], tmp_path / "run")


def test_more_devices_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refuse("fit", ["--trainer.accelerator=gpu", "--trainer.devices=3"], r"devices is 3, but this machine has 2 GPU", tmp_path)


FILES = {
    "empty": ("", r"is empty"),
    "comment": ("# nothing\n", r"is empty"),
    "text": ("hello\n", r"contains no settings"),
    "list": ("- trainer\n", r"contains no settings"),
    "tab": ("trainer:\n\tmax_epochs: 1\n", r"line 2: invalid YAML .*with spaces, not with tabs"),
    "open bracket": ("trainer: {max_epochs: 1\n", r"line 2: invalid YAML"),
    "twice": ("trainer: {max_epochs: 1}\nmodel: {}\ntrainer: {max_epochs: 3}\n", r"line 3: trainer was already set in line 1"),
    "twice inside": ("trainer:\n  max_epochs: 1\n  max_epochs: 3\n", r"line 3: trainer\.max_epochs was already set in line 2"),
    "value for a group": ("trainer: 3\n", r"trainer must be a mapping of settings"),
    "unknown": ("foo: 1\n", r"no setting foo"),
    "unknown inside": ("trainer:\n  max_epoch: 1\n", r"no setting trainer\.max_epoch; did you mean trainer\.max_epochs\?"),
    "unknown deep inside": (
        "data: {init_args: {clip: {siz: 3}}}\n",
        r"no setting data\.clip\.siz; did you mean data\.clip\.size\?",
    ),
    "class under its earlier name": (
        "data: {init_args: {clip: {crop: multi_scale}}}\n",
        r"data\.clip\.crop: there is no class multi_scale; did you mean MultiScale\?",
    ),
    "rule that is not for these data": (
        "data: {init_args: {clip: {clips: 2, crop: Shared}}}\n",
        r"data\.clip\.crop is Shared, but generated clips are not parts of one video",
    ),
    "wrong type": ("data: {init_args: {batch_size: many}}\n", r"data\.batch_size must be of type int, not 'many'"),
}


@pytest.mark.parametrize("case", FILES)
def test_wrong_yaml_files(case: str, tmp_path: Path) -> None:
    text, expected = FILES[case]
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    refuse("fit", [f"--config={file}"], expected, tmp_path / "run")


def test_files_that_are_no_yaml_files(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    refuse("fit", [f"--config={binary}"], r"binary\.yaml, which cannot be read as text", tmp_path / "run")
    refuse("fit", [f"--config={tmp_path}"], r"it is a folder", tmp_path / "run")
    refuse("fit", ["--config", str(tmp_path / "missing.yaml")], r"missing\.yaml: File does not exist", tmp_path / "run")


def test_no_command_names_those_there_are() -> None:
    with pytest.raises(SettingError, match=r"Name a command: one of fit, .*convert"):
        main([])


def test_help_says_what_a_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: main.py convert ")
    assert "Convert weights to another format" in said


def test_null_reaches_settings_within_settings(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.augmentation.flip=0.2", "--model.augmentation.flip", "null", "--model.augmentation.rand_augment=null"]
    with pytest.raises(SystemExit):
        main(["fit", f"--config={ROOT / 'configs/finetune/kinetics400.yaml'}", *words, "--print_config"])
    augmentation = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["augmentation"]
    assert augmentation["flip"] is None
    assert augmentation["rand_augment"] is None


def test_null_within_settings_that_take_none(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"model\.paste\.count is null, but PasteSettings needs a value"):
        run(tmp_path, "--model.paste.count=null")
    with pytest.raises(SettingError, match=r"model\.paste\.motion\.path is 'null'; it must be one of 'smooth'"):
        run(tmp_path, "--model.paste.motion.path=null")


def test_a_short_name_of_a_class_that_fits_is_proposed() -> None:
    message = (
        "Parser key \"model\":\n  Errors:\n    - Expected a dot import path string: SMLE\n    - Expected a <class 'NoneType'>"
    )
    assert explain(message) == "model: there is no class SMLE; did you mean SMILE?"


def test_bugs_in_training_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object) -> None:
        raise ValueError("max_epochs is not what is wrong")

    monkeypatch.setattr("modules.methods.smile.SMILE.step", step)
    with pytest.raises(ValueError, match="not what is wrong"):
        run(tmp_path, "--trainer.num_sanity_val_steps=0")


# --- Files of a run ---


def test_a_trial_run_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, "--trainer.fast_dev_run=2", "--trainer.callbacks=[LastCheckpoint,Pictures,ProbeReport]")
    assert not folder.exists()
    # Nor of a failed step.
    with pytest.raises(SettingError, match="gradient that is not finite"):
        run(folder, "--trainer.fast_dev_run=2", "--data.train_videos=8", "--model.optim.eps=0")
    assert not folder.exists()


def test_without_logger_and_checkpoints(tmp_path: Path) -> None:
    idle = "--trainer.callbacks=[LastCheckpoint,LearningRateMonitor,ModelCheckpoint]"
    run(tmp_path, "--trainer.logger=false", "--trainer.enable_checkpointing=false", idle)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "provenance.json", LOCK}


def test_all_of_a_run_is_in_its_folder_whatever_the_logger(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run(folder, "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={elsewhere}")
    assert {"config.yaml", "provenance.json", "checkpoints"} <= {path.name for path in folder.iterdir()}
    assert len(list((folder / "checkpoints").iterdir())) == 2
    assert not list(elsewhere.rglob("*.ckpt"))


def test_logger_true_is_that_of_the_run(tmp_path: Path) -> None:
    run(tmp_path, "--trainer.logger=true")
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert not (tmp_path / "lightning_logs").exists()


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run(Path("~/run"))
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_an_attempt_without_checkpoint_is_set_aside(tmp_path: Path) -> None:
    for name in ("config.yaml", "events.out.tfevents.1", "bad_videos.tsv"):
        (tmp_path / name).write_text(name)
    run(tmp_path)
    assert (tmp_path / "attempt_0/config.yaml").read_text() == "config.yaml"
    assert (tmp_path / "attempt_0/events.out.tfevents.1").is_file()
    assert (tmp_path / "bad_videos.tsv").is_file()
    assert (tmp_path / "config.yaml").read_text() != "config.yaml"


# --- One run at a time ---


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a folder until it is killed, and leaves a child process that inherits what it can."""
    pytest.importorskip("fcntl")
    code = (
        "import fcntl, os, sys, time; file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "if os.fork() == 0: time.sleep(5); os._exit(0)\n"
        "file.write('process 1 on there'); file.flush(); print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / LOCK)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_until_the_first_has_died(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    refuse("fit", [], r"is in use by an active run \(process 1 on there\)", tmp_path)
    # Validation or a test may run at the same time.
    run(tmp_path, command="validate")
    holder.kill()
    holder.wait()
    run(tmp_path)
    assert (tmp_path / "checkpoints/last.ckpt").is_file()


def test_a_requeued_job_waits_for_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(SettingError, match="in use by an active run"):
        RunLock(tmp_path, wait=0.05)
    holder.send_signal(signal.SIGKILL)
    RunLock(tmp_path, wait=60).release()


def test_only_the_first_process_of_a_run_locks(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning.pytorch.Trainer.is_global_zero", False)
    run(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["start", "training", "test"])
def test_ctrl_c_leaves_no_page(moment: str, tmp_path: Path) -> None:
    more = ["--trainer.max_epochs=10000", "--trainer.limit_val_batches=1", f"--trainer.default_root_dir={tmp_path}"]
    command = "fit" if moment != "test" else "validate"
    if moment == "test":
        more[1] = "--trainer.limit_val_batches=null"
        more += ["--data.val_videos=20000"]
    process = subprocess.Popen(
        [sys.executable, "main.py", command, *TINY, *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    if moment == "start":
        time.sleep(1)
    else:
        until = time.monotonic() + 120
        wanted = "events.out.tfevents.*"
        while not list(tmp_path.glob(wanted)) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(2)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert "Traceback" not in said, said
    assert process.returncode != 0


@pytest.mark.parametrize(("now", "refused"), [("0.2", False), ("0.3", True), ("0", True)])
def test_videos_that_validated_are_not_trained_on(tmp_path: Path, now: str, refused: bool) -> None:
    settings = yaml.safe_dump({"data": {"init_args": {"subset": {"validation": 0.2, "seed": 12345}}}})
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.6", "record": {"config": settings}}
    torch.save(content, tmp_path / "a.ckpt")
    words = ["fit", f"--config={ROOT / 'configs/finetune/own_videos.yaml'}", f"--data.root={tmp_path}"]
    words += [f"--ckpt_path={tmp_path / 'a.ckpt'}", f"--data.subset.validation={now}", f"--trainer.default_root_dir={tmp_path}"]
    # Without videos, the next error is that of the data.
    with pytest.raises(SettingError) as error:
        main(words)
    assert ("videos that validated would be trained on" in str(error.value)) is refused

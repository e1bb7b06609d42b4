"""The command line: short names, layers, records of a run, and one sentence for every wrong input."""

import json
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Union

import pytest
import torch
import yaml

from datamodules.prepare.synthesise import write_video
from main import COMMANDS, main
from modules.core.errors import SettingError
from modules.core.run import run_of
from modules.runs.cli import CLI
from tests.registry import video_batch

ROOT = Path(__file__).parents[2]
QUICK = str(ROOT / "configs/quickstart.yaml")
SMALL = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false",
    "--data.batch_size=4",
    "--data.train_videos=16",
    "--data.val_videos=4",
    "--data.probe_samples=16",
    "--model.optim.warmup_epochs=0",
]


def quick(folder: Path, *more: str, command: str = "fit") -> None:
    main([command, "--config", QUICK, f"--trainer.default_root_dir={folder}", *SMALL, *more])


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Three short videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"{number}.mp4", video_batch(1, seed=number).stream("video").data[0, 0].repeat(3, 1, 1, 1), fps=8)
    return folder


def test_a_run_leaves_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick(tmp_path / "run")
    run = tmp_path / "run"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["class_path"] == "modules.SMILE"
    assert config["data"]["init_args"]["batch_size"] == 4
    for name in ("provenance.json", "probe_report.md", "probe_report.json", "checkpoints/last.ckpt"):
        assert (run / name).is_file(), name
    assert list(run.glob("pictures/*.png"))
    assert list(run.glob("events.out.tfevents.*"))
    assert "tokens per time slice, linear" in capsys.readouterr().out


def test_going_on_from_last(tmp_path: Path) -> None:
    run = tmp_path / "run"
    quick(run)
    first = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    with pytest.raises(SettingError, match="already contains a run; resume it with --ckpt_path last"):
        quick(run)
    quick(run, "--trainer.max_epochs=2", "--ckpt_path=last")
    second = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert (first["global_step"], second["global_step"]) == (2, 4)
    assert (run / "config.before_resume_0.yaml").is_file()


def test_a_requeued_job_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    # Requeued before it wrote anything, it starts from the beginning.
    quick(run)
    quick(run, "--trainer.max_epochs=2")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


def test_record_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    quick(run)
    quick(run, "--trainer.max_epochs=2", "--ckpt_path=last")
    starts = json.loads((run / "provenance.json").read_text())["starts"]
    assert [start["from_step"] for start in starts] == [0, 2]
    assert {"command", "git_commit", "git_changed_files", "packages", "seed", "data_sha256", "precision"} <= starts[0].keys()
    assert starts[0]["packages"]["torch"] == torch.__version__
    record = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["record"]
    assert record["method"] == "modules.methods.smile.SMILE"
    assert yaml.safe_load(record["config"])["data"]["init_args"]["batch_size"] == 4
    assert 0 < record["metrics"]["val/loss"] < 10
    assert not any(name.startswith("speed/") for name in record["metrics"])


def test_the_saved_config_runs_again(tmp_path: Path) -> None:
    quick(tmp_path / "first")
    again = tmp_path / "again"
    saved = tmp_path / "first/checkpoints/last.ckpt"
    written = saved.stat().st_mtime_ns
    main(["fit", "--config", str(tmp_path / "first/config.yaml"), f"--trainer.default_root_dir={again}"])
    assert saved.stat().st_mtime_ns == written
    weights = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (tmp_path / "first", again)]
    for name, value in weights[0]["state_dict"].items():
        assert torch.equal(value, weights[1]["state_dict"][name]), name


def test_average_of_the_weights(tmp_path: Path) -> None:
    average = ["--trainer.callbacks+=ModelEMA", "--trainer.callbacks.decay=0.5"]
    weights = []
    for name, more in (("plain", []), ("average", average)):
        quick(tmp_path / name, *more)
        saved = torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)
        weights.append(saved["state_dict"]["backbone.norm.bias"])
    # After the last step, the averaged weights are kept.
    assert not torch.equal(*weights)


def test_method_and_data_are_swapped_by_short_names(tmp_path: Path, videos: Path) -> None:
    layers = ["--config", str(ROOT / "configs/smile.yaml"), "--config", str(ROOT / "configs/debug/tiny.yaml")]
    swap = ["--model", "VideoMAE", "--model.target", "PixelTarget", "--model.mask", "TubeMask"]
    data = ["--data", "VideoFolder", f"--data.root={videos}", "--data.batch_size=3"]
    main(["fit", *layers, *swap, *data, f"--trainer.default_root_dir={tmp_path / 'run'}"])
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["model"]["class_path"] == "modules.VideoMAE"
    assert config["data"]["class_path"] == "datamodules.VideoFolder"
    # The size comes from the last layer, the number of frames per second from the first.
    assert config["data"]["init_args"]["clip"]["size"] == 32
    assert config["data"]["init_args"]["clip"]["sampler"]["init_args"]["stride"] == 4


WRONG = {
    "missing data root": (["--data", "VideoFolder", "--data.root=/nowhere"], r"data\.root is /nowhere, which is not a folder"),
    "typo on the command line": (["--model.mask.rato=0.5"], r"no setting model\.mask\.rato; did you mean model\.mask\.ratio\?"),
    "unknown data": (["--data", "Kinetic400"], r"no class Kinetic400; did you mean Kinetics400\?"),
    "wrong type": (["--model.masks_per_clip=two"], r"model\.masks_per_clip must be of type int, not 'two'"),
    "17 frames": (
        ["--model.backbone.num_frames=17", "--data.clip.frames=17"],
        r"model\.backbone\.num_frames 17 is not a multiple of model\.backbone\.tubelet_size 2",
    ),
    "patch": (["--model.backbone.patch_size=7"], r"image_size 32 is not a multiple of model\.backbone\.patch_size 7"),
    "batch": (["--data.batch_size=17"], r"data\.batch_size is 17 but data\.train_videos is 16"),
    "frames disagree": (["--data.clip.frames=16"], r"data\.clip\.frames is 16 but model\.backbone\.num_frames is 8"),
    "teacher": (
        ["--model.target", "ClipTarget", "--model.target.checkpoint=/no.pt"],
        r"model\.target\.checkpoint names /no\.pt, which does not exist",
    ),
    "objects": (["--model.paste.objects.root=/nowhere"], r"model\.paste\.objects\.root /nowhere contains no"),
    "nothing to go on from": (["--ckpt_path=last"], r"there is no .*last\.ckpt"),
    "no such checkpoint": (["--ckpt_path=nowhere.ckpt"], r"--ckpt_path is nowhere\.ckpt, which does not exist"),
    "mask": (["--model.mask.ratio=0.01"], r"model\.mask\.ratio 0\.01 masks 0 of 64 tokens"),
    "one of several": (
        ["--model.background=blck"],
        r"model\.background is 'blck'; it must be one of 'video', 'first_frame', 'black'",
    ),
    "motion": (
        ["--model.paste.motion.path=curvy"],
        r"model\.paste\.motion\.path is 'curvy'; it must be one of 'smooth', 'linear', 'static'",
    ),
    "bad yaml": (["--config=/nowhere.yaml"], "File does not exist"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gives_one_sentence_before_training(case: str, tmp_path: Path) -> None:
    more, expected = WRONG[case]
    with pytest.raises(SettingError, match=expected) as raised:
        quick(tmp_path / "run", *more)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["convert", "--source=a", "--out=b", "--to=pickle"], "^to is 'pickle'; it must be one of 'safetensors'"),
        (["convert", "--sorce=a", "--out=b"], "no setting sorce"),
        (["replay"], "^dump is not set; pass --dump"),
        (["synthesise", "--out=x", "--train_videos=-1"], "^--train_videos is -1; it must be a whole number of at least 1"),
        (["synthesise", f"--out={QUICK}"], "^--out .*quickstart.yaml cannot be written .* is not a folder"),
        (["ft"], "no command 'ft'; choose one of fit, validate, .*convert"),
        (["fit", "--model.help", "SMLE"], "no class SMLE; did you mean SMILE"),
    ],
)
def test_wrong_input_of_other_commands(words: list[str], expected: str) -> None:
    with pytest.raises(SettingError, match=expected) as raised:
        main(words)
    assert "\n" not in str(raised.value)


OF_A_RUN: dict[str, Any] = {"state_dict": {}, "pytorch-lightning_version": "2.6.0"}
CHECKPOINTS = {
    "another method": (
        {**OF_A_RUN, "record": {"method": "modules.methods.moco.MoCo"}},
        r"--ckpt_path names .*\.ckpt, a checkpoint of modules\.methods\.moco\.MoCo, but --model is SMILE; pass another, or "
        r"start from its encoder with --model\.backbone\.checkpoint",
    ),
    "weights alone": ({"model": {}}, r"\.ckpt, which is not a checkpoint of a run: it has no state_dict"),
    "text": (b"no checkpoint", r"\.ckpt, which cannot be read as a checkpoint \(it is a text file\)"),
    "empty": (b"", r"\.ckpt, which cannot be read as a checkpoint \(it is empty\)"),
    "cut": (b"PK\3\4\0 and no more", r"\.ckpt, which cannot be read as a checkpoint \(it is cut short or damaged\)"),
    "folder": (None, r"\.ckpt, which is a folder; pass a file of a run's folder checkpoints"),
    "weights under their usual name": (
        {"state_dict": {}},
        r"is not a checkpoint of a run: it has no pytorch-lightning_version",
    ),
    "the same method": ({**OF_A_RUN, "record": {"method": "modules.methods.smile.SMILE"}}, "^built$"),
    "before records": (OF_A_RUN, "^built$"),
}


@pytest.mark.parametrize("command", ["fit", "validate"])
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_are_looked_at_before_anything_is_built(
    case: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(self: CLI, command: str) -> None:
        raise SettingError("built")

    monkeypatch.setattr(CLI, "_build", build)
    content, expected = CHECKPOINTS[case]
    path = tmp_path / "a.ckpt"
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(SettingError, match=expected) as raised:
        quick(tmp_path / "run", f"--ckpt_path={path}", command=command)
    assert "\n" not in str(raised.value)


def test_typo_in_yaml_names_the_nearest_setting(tmp_path: Path) -> None:
    typo = tmp_path / "typo.yaml"
    typo.write_text(Path(QUICK).read_text().replace("masks_per_clip", "masks_per_clp"))
    with pytest.raises(SettingError, match=r"no setting model\.masks_per_clp; did you mean model\.masks_per_clip\?"):
        main(["fit", "--config", str(typo)])


def test_wrong_folders_of_videos(tmp_path: Path, videos: Path) -> None:
    def fit(root: Path, batch: int) -> None:
        layers = ["--config", str(ROOT / "configs/videomae.yaml"), "--config", str(ROOT / "configs/debug/tiny.yaml")]
        data = ["--data", "VideoFolder", f"--data.root={root}", f"--data.batch_size={batch}"]
        main(["fit", *layers, *data, f"--trainer.default_root_dir={tmp_path / 'run'}"])

    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=r"data\.root is .*empty, which contains no video"):
        fit(tmp_path / "empty", 2)
    with pytest.raises(SettingError, match=r"data\.batch_size 4 on 1 device\(s\) is more than the 3 training videos"):
        fit(videos, 4)


def test_errors_are_printed_without_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "main.py",
        "fit",
        f"--config={QUICK}",
        f"--trainer.default_root_dir={tmp_path}",
        "--model.mask.ratio=2",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: model.mask.ratio 2")


def test_help_names_every_command_in_a_line_and_each_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert {
        *CLI.subcommands(),
        "bench",
        "convert",
        "embed",
        "map",
        "prepare",
        "replay",
        "severe",
        "synthesise",
    } == COMMANDS.keys()
    for name, command in COMMANDS.items():
        assert f"  {name:<12}{command.does}" in lines
        with pytest.raises(SystemExit):
            main([name, "--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert f"Example: python main.py {name} {command.example}" in told
        assert told.startswith("usage: ")
        assert name in told.partition("options:")[0]


def test_help_explains_the_settings_of_methods_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        (["fit", "--model.help", "SMILE"], "masks per clip and step; further masks are the first ones permuted"),
        (["fit", "--data.help", "Kinetics400"], "Decoding worker processes per device"),
        (["synthesise", "--help"], "number of training videos"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0
        assert expected in " ".join(capsys.readouterr().out.split())


def test_print_config_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", QUICK, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["optim"]["init_args"]["betas"] == [0.9, 0.95]
    assert config["data"]["init_args"]["clip"]["size"] == 32


@pytest.fixture
def float_before_int() -> Iterator[None]:
    """The parser's view if another package has used "float or int" first: typing keeps that order."""

    def forget() -> None:
        for clear in typing._cleanups:  # type: ignore[attr-defined]
            clear()

    forget()
    assert str(Optional[Union[float, int, None]]) == str(Optional[Union[int, float, None]])  # noqa: UP007, UP045
    yield
    forget()


@pytest.mark.usefixtures("float_before_int")
def test_one_batch_is_not_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1.0"]
    with pytest.raises(SystemExit):
        main(["fit", f"--config={QUICK}", *limits, "--print_config"])
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    for name, expected in (("limit_val_batches", 1), ("limit_test_batches", 1.0)):
        assert (type(trainer[name]), trainer[name]) == (type(expected), expected)


def test_synthesise_writes_a_folder_to_train_on(tmp_path: Path) -> None:
    out = tmp_path / "motion"
    main(["synthesise", f"--out={out}", "--train_videos=14", "--val_videos=13", "--frames=8", "--size=32"])
    assert len(list(out.glob("train/*/*.mp4"))) == 14
    layers = ["--config", str(ROOT / "configs/videomae.yaml"), "--config", str(ROOT / "configs/debug/tiny.yaml")]
    data = ["--data", "VideoFolder", f"--data.root={out}", "--data.clip.sampler.stride=2"]
    main(["fit", *layers, *data, f"--trainer.default_root_dir={tmp_path / 'run'}"])
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_every_run_has_what_keeps_it_safe(tmp_path: Path) -> None:
    def built(*more: str) -> tuple[list[str], str]:
        words = ["fit", "--config", QUICK, "--config", str(ROOT / "configs/debug/tiny.yaml"), *SMALL]
        words += ["--trainer.callbacks=null"]
        found = main([*words, f"--trainer.default_root_dir={tmp_path}", "--trainer.fast_dev_run=1", *more])
        assert found is not None
        trainer = run_of(found.trainer)
        names = [type(one).__name__ for one in trainer.callbacks]
        saved = [name for name in names if name not in ("PartsSummary", "LossProgressBar")]
        return saved, type(found.trainer.strategy.checkpoint_io).__name__

    # Callbacks that must finish before a checkpoint is written come first; the last checkpoint is the last callback.
    front, end = ["Provenance", "NonFiniteGuard"], ["ModelCheckpoint", "LastCheckpoint"]
    callbacks, io = built()
    assert (callbacks[:2], callbacks[-2:], io) == (front, end, "WholeCheckpointIO")
    given = "[NonFiniteGuard, LastCheckpoint, Throughput]"
    callbacks, io = built(f"--trainer.callbacks={given}", "--trainer.plugins=AsyncCheckpointIO")
    assert (callbacks[:3], callbacks[-1], io) == ([*front, "Throughput"], "LastCheckpoint", "AsyncCheckpointIO")
    assert not {"LastCheckpoint", "ModelCheckpoint"} & set(built("--trainer.enable_checkpointing=false")[0])

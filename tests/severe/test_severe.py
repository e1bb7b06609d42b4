"""The command: results, resuming, shards, and the report."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from datamodules.prepare.synthesise import write_video
from main import main
from modules.core.errors import SettingError
from modules.core.files import write_whole
from modules.severe import command
from modules.severe.experiments import ALL, SUBSET, Experiment, Preset
from modules.severe.published import COLUMNS, PUBLISHED
from modules.severe.report import as_markdown, read_report, write_report
from modules.severe.results import all_results, make_result, result_path, write_result
from tests.registry import tiny_cnn, video_batch

ROOT = Path(__file__).parents[2]
LAYER = """
trainer: {accelerator: cpu, devices: 1, precision: 32-true, max_epochs: 1, enable_progress_bar: false, log_every_n_steps: 1}
data:
  init_args:
    batch_size: 2
    reading: {num_workers: 0}
    clip: {frames: 4, size: 32}
    views: {segments: 1}
"""
GYM = {6: "a", 8: "b", 74: "c", 80: "d"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, a small FineGym and a layer for short runs."""
    folder = tmp_path_factory.mktemp("severe")
    torch.manual_seed(0)
    network = tiny_cnn()
    save_file(
        {f"backbone.{name}": value.contiguous() for name, value in network.state_dict().items()}, folder / "encoder.safetensors"
    )
    (folder / "tiny.yaml").write_text(LAYER)
    for part in ("train", "val"):
        lines = []
        for label, letter in GYM.items():
            name = f"{part[0]}{letter}CdEfGhIjK_E_000001_000002_A_0000_0001"
            clip = video_batch(1, seed=label).stream("video").data[0, 0].repeat(5, 1, 1, 1)
            (folder / "data/finegym").mkdir(parents=True, exist_ok=True)
            write_video(folder / f"data/finegym/{name}.mp4", clip, fps=16)
            lines.append(f"{name} {label}\n")
        (folder / f"data/finegym/gym99_{part}.txt").write_text("".join(lines))
    (folder / "data/finegym/tcCdEfGhIjK_E_000001_000002_A_0000_0001.mp4").write_bytes(b"broken")
    return folder


def words(folder: Path, out: str, *more: str) -> list[str]:
    common = [f"--checkpoint={folder}/encoder.safetensors", f"--root={folder}/data", f"--layers=[{folder}/tiny.yaml]"]
    return ["severe", *common, f"--out={folder / out}", *more]


def pretend(monkeypatch: pytest.MonkeyPatch, fails: str = "") -> list[list[str]]:
    """Experiments that end at once with a number; gives their commands."""
    calls: list[list[str]] = []

    def call(started: list[str]) -> int:
        calls.append(started)
        folder = next(word.partition("=")[2] for word in started if word.startswith("--trainer.default_root_dir="))
        if fails and fails in folder:
            return 1
        content = {
            "metrics": {"test/top1": float(len(calls))},
            "seed": 100,
            "videos": 2,
            "missed": [],
            "time": str(time.time()),
        }
        write_whole(Path(folder) / "results" / "x-000.json", lambda path: path.write_text(json.dumps(content)))
        return 0

    monkeypatch.setattr(command, "call", call)
    return calls


def test_fine_tunes_and_reports(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "call", lambda started: int(main(started[2:]) is None))
    main(words(folder, "real", "--only=[ub_s1, ssv2]"))
    text = (folder / "real/report.md").read_text()
    assert "SSv2: no result" in text
    assert "There is no mean" in text
    assert "* UB-S1: 1 of 2 training videos could not be read." in text
    (found,) = all_results(folder / "real")
    good = {"used": 2, "missed": 0}
    assert found["videos"] == {"train": {"used": 1, "missed": 1}, "val": good, "test": good}
    assert {
        "experiment": "ub_s1",
        "seed": 100,
        "protocol": "finegym_severe_cnn",
        "classes": 15,
        "trained_steps": 1,
    }.items() <= found.items()
    assert found["job"]["encoder"]["init_args"] == {"name": "r3d_18", "width": 4}
    assert f"{found['value']:.1f}" in text


def test_finished_experiments_are_not_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(monkeypatch)
    main(words(folder, "once", "--only=[fx_s1, ub_s1]"))
    before = {path: path.read_bytes() for path in (folder / "once/results").iterdir()}
    main(words(folder, "once", "--only=[fx_s1, ub_s1]"))
    assert len(calls) == 2
    assert before == {path: path.read_bytes() for path in (folder / "once/results").iterdir()}
    # Killed after the test, and before its result was taken over.
    result_path(folder / "once", ALL["fx_s1"], 100).unlink()
    main(words(folder, "once", "--only=[fx_s1, ub_s1]"))
    assert len(calls) == 2
    assert before == {path: path.read_bytes() for path in (folder / "once/results").iterdir()}
    with pytest.raises(SettingError, match=r"fx_s1-seed100.json was made with another settings"):
        main([*words(folder, "once", "--only=[fx_s1]"), "--layers=[]"])


def test_shards_join_to_the_same_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(monkeypatch)
    for shard in ("1/2", "2/2"):
        main(words(folder, "shards", "--only=[fx_s1, ub_s1]", f"--shard={shard}"))
    assert len(calls) == 2
    calls.clear()
    main(words(folder, "whole", "--only=[fx_s1, ub_s1]"))
    for name in (
        "report.md",
        "report.html",
        "report.png",
        "report.json",
        "results/fx_s1-seed100.json",
        "results/ub_s1-seed100.json",
    ):
        assert (folder / "shards" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name


def test_a_failed_experiment_does_not_stop_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(monkeypatch, fails="fx_s1")
    with pytest.raises(SettingError, match=r"fx_s1 \(seed 100\) failed"):
        main(words(folder, "failed", "--only=[fx_s1, ub_s1]"))
    assert len(calls) == 2
    assert (folder / "failed/results/ub_s1-seed100.json").is_file()
    (folder / "failed/runs/fx_s1/seed100/checkpoints").mkdir()
    (folder / "failed/runs/fx_s1/seed100/checkpoints/last.ckpt").touch()
    calls = pretend(monkeypatch)
    main(words(folder, "failed", "--only=[fx_s1, ub_s1]"))
    assert [call[-1] for call in calls] == ["--ckpt_path=last"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--root=/nowhere"], "--root is /nowhere"),
        (["--only=[ssv2, charades]"], "contains none of the folders charades, ssv2; pass the folder"),
        (["--preset=vit"], "holds a VideoResNet; leave --preset out"),
        (["--roots={ucf: /data}"], "--roots names ucf; it takes .*ucf101"),
        (["--shard=3/2"], "--shard is 3/2"),
        (["--only=[fx]"], "--only names fx; with the preset cnn, choose from"),
        (["--layers=[none.yaml]"], "--layers names none.yaml"),
    ],
)
def test_wrong_settings(folder: Path, more: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        main([*words(folder, "wrong"), *more])


def fill(out: Path, preset: Preset, rows: dict[str, float], seed: int = 1) -> None:
    """Results as if they had been measured."""
    for name, value in rows.items():
        one: Experiment = ALL[name]
        content = {"metrics": {one.metric: value}, "seed": seed, "videos": 3, "missed": []}
        write_result(result_path(out, one, seed), make_result(content, one, preset, {"encoder": {"sha256": "0"}}))


@pytest.mark.parametrize("method", ["SVT", "SMILE"])
def test_published_rows_come_back_through_the_report(tmp_path: Path, method: str) -> None:
    fill(tmp_path, "vit", dict(zip(COLUMNS, PUBLISHED["vit"][method], strict=True)))
    write_report(tmp_path, "mine", "vit", list(SUBSET), [1])
    lines = (tmp_path / "report.md").read_text().replace("*", "").splitlines()
    own, published = (next(line for line in lines if line.startswith(f"| {name} |")) for name in ("mine", method))
    assert own.replace("mine", method) == published
    assert "There is no mean" not in (tmp_path / "report.md").read_text()


def test_seeds_and_names_in_the_report(tmp_path: Path) -> None:
    for seed, value in ((1, 60.0), (2, 64.0)):
        fill(tmp_path, "cnn", {"ssv2": value, "vault": 50.0}, seed)
    report = read_report(tmp_path, "<script>alert(1)</script>", "cnn", [*SUBSET, ALL["vault"]], [1, 2, 3])
    text = as_markdown(report)
    assert "62.0 ± 2.8" in text
    assert "SSv2: 2 of 3 seeds" in text
    assert "| Vault | actions | - | 50.0 ± 0.0 |" in text
    write_report(tmp_path, "<script>alert(1)</script>", "cnn", list(SUBSET), [1, 2])
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_the_mean_has_a_spread_where_every_seed_has_all_eight(tmp_path: Path) -> None:
    row = dict(zip(COLUMNS, PUBLISHED["cnn"]["CtP"], strict=True))
    for seed, more in ((1, 0.0), (2, 8.0)):
        fill(tmp_path, "cnn", row | {"ssv2": row["ssv2"] + more}, seed)
    fill(tmp_path, "cnn", {"floor": 30.0}, 1)
    assert write_report(tmp_path, "mine", "cnn", list(SUBSET), [1, 2])["score"] == pytest.approx(63.375 + 0.5, abs=0.06)
    text = (tmp_path / "report.md").read_text()
    # Means of 63.4 and 64.4; what another call of the command has measured is there, too.
    assert " ± 0.7** |" in text
    assert "| Floor | actions | - | 30.0 |" in text
    joined = json.loads((tmp_path / "report.json").read_text())
    assert len(joined["results"]) == 17
    assert joined["results"] == all_results(tmp_path)
    result_path(tmp_path, ALL["ub_s1"], 2).unlink()
    assert read_report(tmp_path, "mine", "cnn", list(SUBSET), [1, 2]).spread == 0


def start(folder: Path, out: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "main.py"), *words(folder, out, "--only=[fx_s1, ub_s1]", "--seeds=[1, 2]")]
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)


@pytest.mark.slow
def test_killed_at_random_and_resumed(folder: Path) -> None:
    assert start(folder, "calm").wait() == 0
    rng = random.Random(0)
    for _ in range(6):
        process = start(folder, "killed")
        time.sleep(rng.uniform(5, 30))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(folder, "killed").wait() == 0
    for path in sorted((folder / "calm/results").iterdir()):
        calm, killed = (json.loads((folder / name / "results" / path.name).read_text()) for name in ("calm", "killed"))
        assert calm == killed, path.name
    assert (folder / "calm/report.md").read_bytes() == (folder / "killed/report.md").read_bytes()


def test_results_of_two_encoders_are_not_mixed(tmp_path: Path) -> None:
    fill(tmp_path, "cnn", {"ssv2": 1.0})
    content: dict[str, Any] = json.loads(result_path(tmp_path, ALL["ssv2"], 1).read_text())
    content["job"]["encoder"]["sha256"] = "1"
    write_result(result_path(tmp_path, ALL["gym99"], 1), content)
    with pytest.raises(SettingError, match=r"results of 1 other encoder\(s\)"):
        all_results(tmp_path)


def test_results_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(monkeypatch)
    fill(folder / "foreign", "cnn", {"ssv2": 1.0})
    with pytest.raises(SettingError, match=r"results of 1 other encoder\(s\)"):
        main(words(folder, "foreign", "--only=[fx_s1]"))
    assert not calls
    fill(tmp_path, "cnn", {"ssv2": 1.0}, 1)
    fill(tmp_path, "vit", {"ssv2": 2.0}, 2)
    with pytest.raises(SettingError, match="results of ssv2 with different settings"):
        all_results(tmp_path)
    with pytest.raises(SettingError, match="test/top1 is nan"):
        make_result({"metrics": {"test/top1": float("nan")}}, ALL["ssv2"], "cnn", {})

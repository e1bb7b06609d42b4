"""The comparison of all methods: its rows and settings, what is not repeated, and its page."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.compare import compare
from benchmarks.studies import compare_rows
from benchmarks.studies.compare_page import END, START, read_results, table, verdicts, write_page
from benchmarks.studies.compare_rows import COMMON, ROWS, SETTINGS, UNTRAINED, FailedError, Processes, jobs_of
from benchmarks.studies.compare_utd import clips_of, few, utd_mhad
from main import main
from modules.core.errors import SettingError
from modules.core.files import write_json, write_whole
from tests.datamodules.sets.utd_files import write_reduced
from tests.registry import DOWNSTREAM, METHODS

ROOT = Path(__file__).parents[1]
MEASURED = [row for row in ROWS if not row.impossible]
FITTED = ("moco",)


def merged(key: str) -> dict[str, Any]:
    """Settings of the trainer and of the data of a row."""
    content: dict[str, Any] = {}
    for path in (COMMON, SETTINGS / f"{key}.yaml"):
        layer = yaml.safe_load(path.read_text())
        content |= layer.get("trainer", {}) | layer.get("data", {}).get("init_args", {})
    return content


def test_every_method_has_a_row() -> None:
    files = {path.stem for path in (ROOT / "modules/methods").glob("*.py")} - {"__init__"}
    assert files == {row.module for row in ROWS if row.module}
    assert {path.stem for path in SETTINGS.glob("*.yaml")} == {"common"} | {row.key for row in MEASURED}
    # As many rows as there are variants under test, and those that need a published tower.
    assert len([row for row in ROWS if row.module]) == len(METHODS) + 2
    assert DOWNSTREAM


def test_budgets_are_equal() -> None:
    for row in MEASURED:
        settings = merged(row.key)
        clips = settings["clip"].get("clips", 1)
        if row not in UNTRAINED.values():
            steps = settings["max_epochs"] * (settings["train_videos"] // settings["batch_size"])
            assert (settings["train_videos"], steps, settings["batch_size"] * clips) == (4096, 384, 64), row.key
        else:
            assert (settings["max_epochs"], settings["limit_train_batches"]) == (1, 1)


def test_networks_are_those_of_their_baselines() -> None:
    backbones = {
        row.key: yaml.safe_load((SETTINGS / f"{row.key}.yaml").read_text())["model"]["init_args"]["backbone"]
        for row in MEASURED
    }
    for row in MEASURED:
        assert backbones[row.key] == backbones[UNTRAINED[row.network].key], row.key
        assert backbones[row.key]["class_path"] == row.network


@pytest.mark.parametrize(
    "key", [pytest.param(row.key, marks=[] if row.key in FITTED else [pytest.mark.slow]) for row in MEASURED]
)
def test_settings_build_and_train(key: str, tmp_path: Path) -> None:
    layers = ["--config", str(COMMON), "--config", str(SETTINGS / f"{key}.yaml")]
    tiny = [
        "--data.train_videos=8",
        "--data.val_videos=4",
        "--data.batch_size=4",
        "--trainer.max_epochs=1",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    tiny += ["--model.contrast.queue_size=0"] if "contrast: {queue_size" in (SETTINGS / f"{key}.yaml").read_text() else []
    main(["fit", *layers, *tiny])
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == (1 if key.startswith("untrained") else 2)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    losses = compare_rows.losses(tmp_path)
    assert len(losses) in (0, 2)


def pretend(monkeypatch: pytest.MonkeyPatch, fails: str = "") -> list[str]:
    """Commands that end at once; gives what they were, with the names of their rows."""
    calls: list[str] = []

    def call(_: Processes, words: list[str], log: Path) -> None:
        key = log.parent.parent.name
        calls.append(f"{words[0]} {key} {log.parent.name}")
        if key == fails:
            raise FailedError(f"{words[0]} failed")
        if words[0] == "fit":
            checkpoint = log.parent / "pretraining/checkpoints/last.ckpt"
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"global_step": 384}, checkpoint)

    monkeypatch.setattr(Processes, "call", call)
    monkeypatch.setattr(compare_rows, "losses", lambda _: [2.0, 1.0])
    monkeypatch.setattr(compare_rows, "all_results", lambda _: [{"experiment": "ssv2", "value": 50.0}])
    return calls


def test_nothing_finished_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.md"
    page.write_text(START + END)
    calls = pretend(monkeypatch, fails="smile")
    keys = ["videomae", "smile", "untrained_cnn"]
    with pytest.raises(SettingError, match=r"SMILE \(pixels\), seed 0 failed"):
        compare(out, methods=keys, page=page)
    assert sorted(calls) == [
        "fit smile seed0",
        *(f"fit untrained_cnn seed{seed}" for seed in range(3)),
        "fit videomae seed0",
        *(f"severe untrained_cnn seed{seed}" for seed in range(3)),
        "severe videomae seed0",
    ]
    assert "left out, because --utd is not set" in capsys.readouterr().out
    # What failed is done now, and nothing else.
    calls = pretend(monkeypatch)
    compare(out, methods=keys, page=page)
    assert calls == ["fit smile seed0", "severe smile seed0"]
    once = page.read_text()
    calls.clear()
    compare(out, methods=keys, page=page)
    assert calls == []
    # But for the minutes of it all.
    assert page.read_text().partition("| |")[2] == once.partition("| |")[2]
    with pytest.raises(SettingError, match=r"failed"):
        compare(out, methods=keys, page=None, settings=["--trainer.max_epochs=1"])
    assert "made with other settings; pass another --out" in capsys.readouterr().out
    with pytest.raises(SettingError, match="--methods names skeleton_contrast; choose from videomae,"):
        compare(out, methods=["skeleton_contrast"])


def write(out: Path, key: str, seed: int, values: dict[str, float], utd: dict[str, float] | None = None) -> None:
    folder = out / key / f"seed{seed}"
    results = [{"experiment": name, "value": value, "classes": 20} for name, value in values.items()]
    content: dict[str, dict[str, Any]] = {"pretraining": {"steps": 384, "loss": [2.0, 0.5], "seconds": 90.0}}
    content["severe"] = {"seconds": 60.0, "results": results}
    if utd is not None:
        content["utd_mhad"] = utd | {"recordings": [431, 430, 43], "seconds": 2.0}
    for name, part in content.items():
        write_whole(folder / f"{name}.json", partial(write_json, content=part))


def test_table_is_that_of_the_files(tmp_path: Path) -> None:
    on_depth = {"linear": 30.0, "knn": 20.0, "linear_few": 10.0}
    write(tmp_path, "videomae", 0, {"ssv2": 40.0, "gym99": 60.0, "ucf_1000": 30.0, "fx_s1": 30.0, "ucf_rc": 0.4}, on_depth)
    write(tmp_path, "moco", 0, {"ssv2": 40.0, "ucf_1000": 30.0, "fx_s1": 30.0, "ucf_rc": 0.4})
    for seed, shift in enumerate((0.0, 4.0)):
        write(
            tmp_path,
            "untrained_vit",
            seed,
            {"ssv2": 40.0 + shift, "gym99": 50.0, "ucf_1000": 20.0, "fx_s1": 31.0, "ucf_rc": 0.5},
        )
    comparison = read_results(tmp_path)
    lines = table(comparison, {name: name for name in ("domain", "samples", "actions", "task", "all", "linear")})
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["VideoMAE"] == ["50.0", "30.0", "30.0", "60.0", "44.0", "30.0"]
    # One experiment is missing: no mean of its axis, and none of all.
    assert cells["MoCo over time"] == ["", "30.0", "30.0", "60.0", "", ""]
    assert cells["untrained VideoViT"] == ["46.0 (2.0)", "20.0 (0.0)", "31.0 (0.0)", "50.0 (0.0)", "38.6 (0.8)", ""]
    assert cells["Skeleton contrast: cannot be measured on videos, takes skeletons"] == [""] * 6
    assert cells["SMILE (pixels)"] == [""] * 6
    assert cells["chance"] == ["5.0", "5.0", "5.0", "", "", "3.7"]
    assert len(lines) == 2 + len(ROWS) + 1
    said = verdicts(comparison)
    assert said[0] == "* **domain**. Above: VideoMAE (+4.0)."
    assert said[2] == "* **actions**. Below: VideoMAE (-1.0)."
    write(tmp_path, "untrained_vit", 2, {"ssv2": 60.0, "gym99": 50.0, "ucf_1000": 20.0, "fx_s1": 31.0, "ucf_rc": 0.5})
    assert verdicts(read_results(tmp_path))[0] == "* **domain**. Within the spread: VideoMAE (+1.0)."
    # The seeds of the trained row count as well.
    write(tmp_path, "videomae", 1, {"ssv2": 50.0, "gym99": 50.0, "ucf_1000": 30.0, "fx_s1": 34.0, "ucf_rc": 0.4})
    assert verdicts(read_results(tmp_path))[2] == "* **actions**. Within the spread: VideoMAE (+1.0)."


def test_page_keeps_what_stands_around(tmp_path: Path) -> None:
    write(tmp_path, "videomae", 0, {"ssv2": 40.0})
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}old\n{END}after\n")
    write_page(page, read_results(tmp_path))
    text = page.read_text()
    assert text.startswith(f"before\n{START}\nTrained rows: 1 with 1 seed.")
    assert text.endswith(f"{END}after\n")
    assert "old" not in text
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    page.write_text("no markers")
    with pytest.raises(SettingError, match="has no lines"):
        write_page(page, read_results(tmp_path))


def test_few_labels_are_balanced() -> None:
    label = torch.arange(27).repeat_interleave(16)
    rows = few(label, 0.1)
    count = label[rows].bincount(minlength=27)
    assert len(rows) == 43
    assert (int(count.min()), int(count.max())) == (1, 2)
    assert torch.equal(rows, few(label, 0.1))
    assert not torch.equal(rows, few(label, 0.1, seed=1))


def test_depth_is_decoded_once_and_measured(tmp_path: Path) -> None:
    job = jobs_of(["untrained_vit"], 1, tmp_path)[0]
    layers = ["--config", str(COMMON), "--config", str(SETTINGS / "untrained_vit.yaml"), "--data.batch_size=4"]
    main(["fit", *layers, "--data.train_videos=8", f"--trainer.default_root_dir={job.folder / 'pretraining'}"])
    write_reduced(tmp_path / "data")
    clips = clips_of(tmp_path / "data", tmp_path / "utd_mhad.pt")
    assert clips["train"].shape == (4, 16, 32, 32, 1)
    assert clips["test_label"].tolist() == [0, 0, 1, 1]
    shutil.rmtree(tmp_path / "data")
    clips = clips_of(tmp_path / "data", tmp_path / "utd_mhad.pt")
    utd_mhad(job, clips)
    found = json.loads((job.folder / "utd_mhad.json").read_text())
    assert found["recordings"] == [4, 4, 1]
    assert all(0 <= found[name] <= 100 for name in ("linear", "knn"))
    # One recording has one class, which half of the others have.
    assert found["linear_few"] == 50

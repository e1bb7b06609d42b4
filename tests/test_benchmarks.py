"""The benchmarks run, at a size that measures nothing."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.datamodules.video_files import write_video

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(monkeypatch: pytest.MonkeyPatch, script: str, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")


def test_learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "learning.json"
    size = ["--size.steps=2", "--size.batch=8", "--size.pool=16", "--size.probe_clips=52", "--size.test_clips=26"]
    run(monkeypatch, "learning.py", "smile", "--seeds=2", f"--out={out}", "--size.embed_dim=24", "--size.depth=1", *size)
    rows = {row["name"]: row["scores"] for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 7
    for name, scores in rows.items():
        # Chance is known; everything else is measured once for each seed.
        assert {len(values) for values in scores.values()} == {1 if name == "chance" else 2}, name
        assert set(scores) == set(rows["untrained network"])
    assert "| motion linear |" in capsys.readouterr().out


def test_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="the peer of benchmarks/step.py is in the extra 'benchmarks'")
    run(monkeypatch, "step.py", "--size=micro", "--batch=1", "--pairs=1")
    assert "median of 1 pairs" in capsys.readouterr().out


def test_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("decord", reason="the peer of benchmarks/loader.py is in the extra 'benchmarks'")
    write_video(tmp_path / "one.mp4", size=(128, 96))
    run(monkeypatch, "loader.py", f"--videos={tmp_path}", "--pairs=1", "--frames=4", "--stride=2", "--size=32")
    assert "one.mp4" in capsys.readouterr().out

"""The benchmarks run, at a size that measures nothing."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest

from tests.datamodules.video_files import X264, write_video, write_with_sound

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
VIDEOS_DIR = Path(os.environ.get("VIDEOS_DIR", Path(__file__).parents[2] / "shared" / "videos"))


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


def check_faults(monkeypatch: pytest.MonkeyPatch, videos: Path, count: int, out: Path) -> None:
    # Exits if a promise is broken, which fails the test.
    run(monkeypatch, "faults.py", f"--videos={videos}", f"--count={count}", f"--out={out}")
    result = json.loads(out.read_text())
    assert sum(result["reasons"].values()) == result["count"] == count
    assert len(result["kinds"]) == 9
    # Some damage can be read over, some cannot.
    assert count > result["reasons"]["read"] > 0
    assert len(result["reasons"]) >= 3


def test_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    plain = write_video(videos / "plain.mp4", options={X264: "keyint=24"})
    write_video(videos / "mpeg4.avi", "mpeg4")
    write_with_sound(videos / "sound.mkv", plain)
    for path in VIDEOS_DIR.glob("*"):
        if path.suffix in (".mp4", ".mkv", ".mov") and path.stat().st_size < 700_000:
            (videos / path.name).symlink_to(path.absolute())
    check_faults(monkeypatch, videos, 40, tmp_path / "faults.json")
    assert "40 damaged and 80 whole files" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not VIDEOS_DIR.is_dir():
        pytest.skip(f"no videos at {VIDEOS_DIR}; set VIDEOS_DIR to a folder of real video files")
    check_faults(monkeypatch, VIDEOS_DIR, 1000, tmp_path / "faults.json")


def test_a_broken_promise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", frames=12)
    monkeypatch.setattr("datamodules.video.faults.FaultLog._write", lambda self: None)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "faults.py", f"--videos={tmp_path}", "--count=9", "--workers=1")
    assert caught.value.code == 1


def test_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.json"
    size = ["--pairs=2", "--frames=4", "--side=32", "--width=4", "--repeats=1"]
    run(monkeypatch, "pairs.py", *size, f"--out={out}")
    result = json.loads(out.read_text())
    assert result["share_percent"] == pytest.approx(100 * result["pairs_s"][0] / result["step_s"][0])
    assert "2 pairs of 4 x 32 x 32" in capsys.readouterr().out

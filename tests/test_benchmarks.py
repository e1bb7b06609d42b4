"""The benchmarks run, at a size that measures nothing."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.datamodules.video_files import X264, write_video, write_with_sound

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
VIDEOS_DIR = Path(os.environ.get("VIDEOS_DIR", Path(__file__).parents[2] / "shared" / "videos"))


def run(monkeypatch: pytest.MonkeyPatch, script: str, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")


SMALL = ["--size.steps=2", "--size.batch=8", "--size.pool=32", "--size.probe_clips=52", "--size.test_clips=26"]


@pytest.mark.parametrize(
    ("study", "size", "rows"),
    [
        ("smile", ["--size.embed_dim=24", "--size.depth=1", "--size.side=16"], 7),
        ("sigma", ["--size.embed_dim=24", "--size.depth=1", "--size.side=16", "--size.prototypes=8"], 9),
        ("tubelet_contrast", ["--size.width=4", "--size.frames=4"], 8),
        pytest.param(
            "skeleton_contrast",
            ["--size.hidden=8", "--size.layers=1", "--size.width=4", "--size.frames=8"],
            9,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "locomotion",
            ["--size.embed_dim=24", "--size.depth=2", "--size.frames=4", "--size.test_pairs=4"],
            5,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_learning(
    study: str, size: list[str], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "learning.json"
    run(monkeypatch, "learning.py", study, "--seeds=2", f"--out={out}", *SMALL, *size)
    scores_of = {row["name"]: row["scores"] for row in json.loads(out.read_text())["rows"]}
    assert len(scores_of) == rows
    for name, scores in scores_of.items():
        # Chance is known; everything else is measured once for each seed.
        assert {len(values) for values in scores.values()} == {1 if name == "chance" else 2}, name
        assert set(scores) == set(scores_of["chance"])
    assert f"| row | {next(iter(scores_of['chance']))} |" in capsys.readouterr().out


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
    monkeypatch.setattr("datamodules.loading.faults.FaultLog._write", lambda self: None)
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


def test_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "masks.json"
    run(monkeypatch, "masks.py", "--size=micro", "--batch=1", "--repeats=1", f"--out={out}")
    result = json.loads(out.read_text())
    for name, share in result["share_percent"].items():
        assert share == pytest.approx(100 * result["seconds"][name][1] / result["seconds"]["step"][1])
    assert "Green3D" in result["share_percent"]
    assert "a step of ViT-micro, 1 clips" in capsys.readouterr().out


def test_page_about_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its command draws its picture, and its table is what is measured."""
    page = (BENCHMARKS.parent / "docs/masks.md").read_text()
    command = shlex.split(next(line for line in page.splitlines() if line.startswith("    python benchmarks/")))
    assert command[1:] == ["benchmarks/mask_pictures.py", "--out", "docs/masks.gif"]
    out = tmp_path / "masks.gif"
    run(monkeypatch, "mask_pictures.py", "--out", str(out), "--draws=100")

    def table(text: str) -> dict[str, list[float]]:
        rows = re.findall(r"^\| (.+?) \| (\d\.\d\d) \| (\d\.\d\d) \|", text, re.MULTILINE)
        return {row[0]: [float(value) for value in row[1:]] for row in rows}

    written, measured = table(page), table(capsys.readouterr().out)
    assert written.keys() == measured.keys()
    for name, values in written.items():
        assert measured[name] == pytest.approx(values, abs=0.03), name
    with Image.open(out) as drawn, Image.open(BENCHMARKS.parent / "docs/masks.gif") as kept:
        assert (drawn.size, drawn.n_frames) == (kept.size, kept.n_frames)
        assert kept.n_frames == 16
    assert (BENCHMARKS.parent / "docs/masks.gif").stat().st_size < 400_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="benchmarks/sinkhorn.py measures memory as Linux tells it")
def test_sinkhorn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sinkhorn.json"
    run(monkeypatch, "sinkhorn.py", "--n=8192", "--k=1500", "--dim=8", "--repeats=1", f"--out={out}")
    result = json.loads(out.read_text())
    assert result["equal"] > 0.999
    assert result["ratio"]["ours"] == pytest.approx(result["seconds"]["plain"][0] / result["seconds"]["ours"][0])
    # Upper bounds only: here, unlike in a fresh process, memory that earlier tests gave back is used again and does not count.
    assert result["memory"]["ours"] < 1.3
    assert result["memory"]["side_by_side"] < 2.3
    assert result["memory"]["plain"] < 2.6
    run(monkeypatch, "sinkhorn.py", "--n=64", "--k=30", "--dim=8", "--losses=true", "--repeats=1")
    said = capsys.readouterr().out
    assert "8192 rows of each branch, 1500 prototypes" in said
    assert "64 rows of each branch, 30 prototypes" in said


def test_gru(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gru.json"
    run(monkeypatch, "gru.py", "--batch=2", "--frames=5", "--hidden=4", "--layers=2", "--pairs=1", f"--out={out}")
    result = json.loads(out.read_text())
    assert result["difference"] < 1e-6
    assert result["ratios"] == [result["seconds"]["theirs"][1] / result["seconds"]["ours"][1]]
    assert "2 clips of 5 frames, 2 layers of 2 x 4" in capsys.readouterr().out


def test_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prepare.json"
    run(monkeypatch, "prepare.py", "--files=4", "--slow_files=1", "--memory=false", f"--out={out}")
    result = json.loads(out.read_text())
    # Both ways come to the same clips.
    assert result["largest_difference_m"] < 1e-5
    assert result["ratio"] == pytest.approx(result["ms_per_clip"]["line by line"] / result["ms_per_clip"]["prepare"])
    assert "4 files" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="benchmarks/manifest.py measures memory as Linux tells it")
def test_manifest(tmp_path: Path) -> None:
    out = tmp_path / "manifest.json"
    # In a process of its own: what this one holds would count as soon as it is touched.
    command = [sys.executable, str(BENCHMARKS / "manifest.py"), "--rows=20000", "--workers=1", "--reads=20000", f"--out={out}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(out.read_text())
    assert result["manifest"]["held_mb"] < result["strings"]["held_mb"]
    assert result["manifest"]["worker_mb"] < 1 < result["strings"]["worker_mb"]
    assert "20000 rows; 1 workers" in said

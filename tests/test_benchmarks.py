"""The benchmarks run at tiny size."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import startup
from benchmarks.methods import BUILD, job
from benchmarks.peers import PlainMAE, plain_smile, plain_videomae
from benchmarks.studies import masks_and_pairs, prediction, prediction_long
from benchmarks.studies.order_and_contrast import TITLES
from benchmarks.studies.order_tasks import PRETEXTS, SIDE, Size, ask, batch_of, encoder, seeing, shuffled, still
from benchmarks.studies.prediction_rows import DEVIATIONS, DIFFERENCES
from modules.core.randomness import device_generator
from modules.core.tokens import Grid
from modules.downstream.cycles import Counted
from tests.datamodules.sets.utd_files import write_reduced
from tests.datamodules.video_files import X264, write_video, write_with_sound

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WAITS_BY_DEFAULT = ("VideoMAE", "SMILE", "SIGMA-MLP", "SIGMA-DINO", "MoCo", "TubeletContrast", "LocoMotion", "SkeletonContrast")
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


TINY = [
    "--processes=0",
    "--size.steps=2",
    "--size.recorded_steps=1",
    "--size.batch=4",
    "--size.pool=26",
    "--size.probe_clips=26",
    "--size.test_clips=13",
]
TINY += ["--size.width=4", "--size.hidden=8"]


@pytest.mark.parametrize("rows", [["untrained", "vcop", "cvrl"], pytest.param(list(TITLES), marks=pytest.mark.slow)])
def test_order_and_contrast(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = 2 if len(rows) == len(TITLES) else 1
    words = ["order_and_contrast", f"--seeds={seeds}", f"--out={tmp_path / 'out'}", f"--rows=[{','.join(rows)}]", *TINY]
    worlds = ["generated"]
    if len(rows) == len(TITLES):
        write_reduced(tmp_path / "utd", subjects=(1, 3, 7, 2))
        words, worlds = [*words, f"--utd={tmp_path / 'utd'}"], [*worlds, "utd"]
    run(monkeypatch, "learning.py", *words)
    files = sorted((tmp_path / "out").glob("*/*/seed*.json"))
    # Raw values of recordings do not depend on the seed.
    assert len(files) == seeds * len(rows) * len(worlds) - (len(worlds) > 1)
    for path in files:
        result = json.loads(path.read_text())
        asked = PRETEXTS[path.parent.name].ways if path.parent.name in PRETEXTS else ()
        assert tuple(result.get("pretext", {})) == asked
        assert all(0 <= score <= 100 for found in result.get("pretext", {}).values() for score in found.values())
    said = capsys.readouterr().out
    assert f"| chance | {100 / 13:.1f} |" in said
    assert "| VCOP: order of 3 clips, generated | 16.7 |" in said

    # Nothing is done twice, and results of other settings are not mixed.
    times = [path.stat().st_mtime_ns for path in files]
    run(monkeypatch, "learning.py", *words)
    assert [path.stat().st_mtime_ns for path in files] == times
    with pytest.raises(SystemExit, match="other settings"):
        run(monkeypatch, "learning.py", *words, "--size.steps=3")


def write_davis(root: Path, names: list[str]) -> Path:
    """DAVIS-2016 with short sequences, of a square that moves to the right."""
    for name in names:
        for number in range(4):
            frame, mask = np.full((80, 120, 3), 90, np.uint8), np.zeros((80, 120), np.uint8)
            frame[20:60, 20 + 8 * number : 60 + 8 * number] = np.arange(0, 240, 6)[:, None, None]
            mask[20:60, 20 + 8 * number : 60 + 8 * number] = 255
            for folder, values, suffix in (("JPEGImages", frame, "jpg"), ("Annotations", mask, "png")):
                path = root / folder / "80p" / name / f"{number:05d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    (root / "ImageSets/2016").mkdir(parents=True)
    (root / "ImageSets/2016/val.txt").write_text("\n".join(names))
    return root


FEW = ["--size.steps=2", "--size.batch=4", "--size.clip_steps=2", "--size.clip_batch=4", "--size.tuning_steps=1"]
FEW += ["--size.width=12", "--size.depth=1", "--processes=0", "--seeds=1"]


@pytest.mark.parametrize(
    "rows", [["copy", "siammae", "center"], pytest.param(list(masks_and_pairs.TITLES), marks=pytest.mark.slow)]
)
def test_masks_and_pairs(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.studies.pairs_data.GENERATED", 26)
    monkeypatch.setattr("benchmarks.studies.pairs_data.UNSEEN", 13)
    monkeypatch.setattr(masks_and_pairs, "QUESTIONS", 4)
    root = write_davis(tmp_path / "davis", ["one", "two", "three"])
    words = ["masks_and_pairs", f"--davis={root}", f"--out={tmp_path / 'out'}", f"--rows=[{','.join(rows)}]", *FEW]
    if len(rows) == len(masks_and_pairs.TITLES):
        write_reduced(tmp_path / "utd", subjects=(1, 3, 7, 2))
        words.append(f"--utd={tmp_path / 'utd'}")
    run(monkeypatch, "learning.py", *words)
    files = sorted((tmp_path / "out").glob("*/seed0.json"))
    assert [path.parent.name for path in files] == sorted(rows)
    # The only sequence that does not train is the second; its mask moves by a fifth of its width per frame.
    copied = json.loads((tmp_path / "out/copy/seed0.json").read_text())
    expected = 100 * (32 / 48 + 24 / 56) / 2
    assert copied["sequences"] == {"two": pytest.approx(expected, abs=0.1)}
    said = capsys.readouterr().out
    assert f"| the first mask, copied | {expected:.1f} |" in said
    assert "| both ends, blended |" in said
    times = [path.stat().st_mtime_ns for path in files]
    run(monkeypatch, "learning.py", *words)
    assert [path.stat().st_mtime_ns for path in files] == times
    with pytest.raises(SystemExit, match="other settings"):
        run(monkeypatch, "learning.py", *words, "--size.steps=3")


def test_pairs_are_in_order_and_share_a_crop() -> None:
    size = masks_and_pairs.Size()
    # The brightness of a frame is its number; the top half of each is 100 brighter.
    clips = 10 * torch.arange(8, dtype=torch.uint8)[None, :, None, None, None].repeat(5, 1, 128, 128, 3)
    clips[:, :, :64] += 100
    pair = masks_and_pairs.pairs([clips, clips], size, 16, torch.Generator().manual_seed(0))
    assert pair.shape == (16, 2, 1, size.side, size.side, 3)
    first, second = pair[:, :, 0, -1, 0, 0].int().unbind(1)
    assert (second % 100 > first % 100).all()
    # The same rows of both are in the top half.
    bright = pair[..., 0] >= 100
    assert (bright[:, 0] == bright[:, 1]).float().mean() > 0.99


def test_order_and_contrast_changes_what_encoders_see() -> None:
    size = Size(batch=2, width=4, hidden=8)
    videos = torch.randint(0, 256, (3, 32, SIDE + size.margin, SIDE + size.margin, 3), dtype=torch.uint8)
    for key, pretext in PRETEXTS.items():
        torch.manual_seed(0)
        method = pretext.build(encoder(size, 0, pretext.tuples), size)
        assert batch_of(pretext, videos, size, torch.Generator().manual_seed(0)).stream("video").data.dtype == torch.uint8
        first, again = (ask(pretext, method, videos, size, 0, "normal") for _ in range(2))
        assert first == again, key
        assert first.keys() == {column for column, _ in pretext.measures.values()}
    backbone = encoder(size, 0).eval()
    clips = torch.randn(2, 3, 4, 32, 32)
    plain = backbone(clips)
    with seeing(PRETEXTS["cvrl"].build(backbone, size), still, torch.Generator()):
        assert torch.equal(backbone(clips), backbone(clips[:, :, [2]].expand_as(clips)))
        assert not torch.equal(backbone(clips), plain)
    assert torch.equal(backbone(clips), plain)
    mixed = shuffled(clips, device_generator("cpu", 0))
    assert not torch.equal(mixed, clips)
    assert torch.equal(mixed.sort(2).values, clips.sort(2).values)


SMALLEST = [
    "--processes=0",
    "--size.steps=2",
    "--size.recorded_steps=2",
    "--size.batch=4",
    "--size.pool=26",
    "--size.probe_clips=26",
    "--size.test_clips=13",
    "--size.embed_dim=24",
    "--size.depth=1",
    "--size.prototypes=8",
    "--size.long_videos=6",
    "--size.long_tests=6",
    "--size.long_steps=2",
    "--size.long_batch=4",
]


@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_prediction(
    everything: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prediction", "--seeds=1", f"--out={tmp_path / 'out'}", *SMALLEST]
    expected = {"generated": {"untrained", "vjepa"}}
    if everything:
        write_reduced(tmp_path / "utd", subjects=(1, 3, 7, 2))
        words += [f"--utd={tmp_path / 'utd'}", "--keep=2"]
        expected = {world: set(titles) for world, titles in prediction.TITLES.items()}
    else:
        words += ["--rows=[untrained,vjepa]", "--worlds=[generated]"]
    run(monkeypatch, "learning.py", *words)
    files = sorted((tmp_path / "out").glob("*/*/seed*.json"))
    found = {world: {path.parent.name for path in files if path.parent.parent.name == world} for world in expected}
    chosen, allowed = found.pop("chosen", set()), expected.pop("chosen", set())
    assert found == expected
    assert len(chosen) == (2 if everything else 0)
    assert chosen <= allowed
    for path in files:
        result = json.loads(path.read_text())
        assert all(0 <= score <= 100 for score in result["probe"].values())
        trained = path.parent.parent.name != "long" and path.parent.name not in prediction.BASELINES
        assert ("ranks" in result) == trained
    said = capsys.readouterr().out
    assert "| V-JEPA, generated |" in said
    assert f"| chance | {100 / 13:.1f} |" in said

    # Nothing is done twice, and results of other settings are not mixed.
    times = [path.stat().st_mtime_ns for path in files]
    run(monkeypatch, "learning.py", *words)
    assert [path.stat().st_mtime_ns for path in files] == times
    with pytest.raises(SystemExit, match="other settings"):
        run(monkeypatch, "learning.py", *words, "--size.batch=3")


def test_prediction_targets_only_show_what_moves() -> None:
    grid, places = Grid(2, 2, 2, 2, 4), torch.arange(8)[None]
    clip = torch.full((1, 4, 8, 8, 3), 50, dtype=torch.uint8)
    clip[:, 3, :4, :4] = 101
    moved = DIFFERENCES.of_tokens(clip, places, grid)[0].view(8, 2, 16, 3)
    # Token 4 is the second slice, top left; its second frame changes by 51 of 255.
    assert torch.allclose(moved[4, 1], torch.tensor(0.2))
    moved[4, 1] = 0
    assert not moved.any()
    rest = DEVIATIONS.of_tokens(clip, places, grid)[0].view(8, 2, 16, 3)
    assert torch.allclose(rest[[0, 4]].mean((0, 1)), torch.tensor(0.0), atol=1e-6)
    assert rest[[1, 2, 3, 5, 6, 7]].abs().max() < 1e-6
    assert rest[4, 1].mean() > 0.1


def test_phases_of_long_videos() -> None:
    videos, label = prediction_long.videos_of(torch.arange(12), "train", 0)
    assert label.tolist() == [*range(6), *range(6)]
    for motion, there, order in zip(videos.motion, videos.there, label, strict=True):
        shown = motion[there]
        assert shown.unique_consecutive().tolist() == prediction_long.PHASES[prediction_long.ORDERS[order]].tolist()
        assert (motion[~there] == -1).all()


def test_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "step.json"
    peers = ["VideoMAE / plain loop", "SMILE / itself, a pass per mask", "SMILE / plain loop, a pass per mask"]
    smallest = ["--size=micro", "--batch=1", "--pairs=1", f"--out={out}"]
    run(monkeypatch, "step.py", *smallest, "--methods=[MoCo, SkeletonContrast]", f"--compare={json.dumps(peers)}")
    result = json.loads(out.read_text())
    # Two clips of each of two videos.
    for row in result["methods"].values():
        assert row["clips_per_second"] == pytest.approx(4 / row["median_s"])
    assert list(result["comparisons"]) == peers
    for row in result["comparisons"].values():
        (ours,), (theirs,) = row["seconds"]["ours_step"], row["seconds"]["theirs_step"]
        assert row["ratio"] == pytest.approx(ours / theirs)
    assert "medians of 1 pairs" in capsys.readouterr().out


def test_step_against_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="the peer of benchmarks/step.py is in the extra 'benchmarks'")
    out = tmp_path / "step.json"
    peers = ["VideoMAE / transformers", "SMILE / transformers"]
    smallest = ["--size=micro", "--batch=1", "--pairs=1", f"--out={out}"]
    run(monkeypatch, "step.py", *smallest, "--methods=[]", f"--compare={json.dumps(peers)}")
    assert list(json.loads(out.read_text())["comparisons"]) == peers


def test_peers_do_the_same_work() -> None:
    """The same number of hidden tokens, predictions of the same shape, and a similar number of weights as ours."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (16, 256, 340, 3), dtype=np.uint8) for _ in range(2)]
    for make, ratio, hidden in ((plain_videomae, 0.9, 1408), (plain_smile, 0.8, 1248)):
        peer = make("micro", torch.device("cpu"), ratio, frames, nullcontext)
        loaded = peer.load()
        for clips, masks in loaded if make is plain_smile else [loaded]:
            assert clips.shape == (2, 3, 16, 224, 224)
            assert masks.sum(1).tolist() == [hidden, hidden]
    ours = job("VideoMAE", "micro", 1, torch.device("cpu")).method
    plain = PlainMAE("micro", 1536)
    assert plain(torch.randn(2, 3, 16, 224, 224), masks_of(hidden=1408)).shape == (2, 1408, 1536)
    sizes = [sum(value.numel() for value in network.parameters()) for network in (ours, plain)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.03)


def test_clip_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clip_step.json"
    # Ends with an error if the losses of ours and of the peer differ.
    run(monkeypatch, "clip_step.py", "--share=0.0625", "--side=32", "--pairs=1", f"--out={out}")
    result = json.loads(out.read_text())["methods"]
    assert list(result) == ["VCOP", "RSPNet", "CVRL"]
    for row in result.values():
        (ours,), (plain,) = row["seconds"]["ours"], row["seconds"]["plain"]
        assert row["ratio"] == pytest.approx(ours / plain)
    assert "medians of 1 pairs" in capsys.readouterr().out


def test_clip_step_refuses_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer without a change of the clips has another loss."""
    monkeypatch.setattr("benchmarks.clip_peers.tv.hflip", lambda picture: picture)
    with pytest.raises(SystemExit, match=r"RSPNet: the loss of ours is .* they do not do the same"):
        run(monkeypatch, "clip_step.py", "--share=0.0625", "--side=32", "--pairs=1", "--methods=[RSPNet]", "--batch=4")


def masks_of(hidden: int) -> Tensor:
    """bool [2, 1568] with the first tokens hidden."""
    return (torch.arange(1568) < hidden).expand(2, -1)


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.json"
    run(monkeypatch, "memory.py", "--size=micro", "--batch=1", "--methods=[VideoMAE]", f"--out={out}")
    rows = json.loads(out.read_text())["methods"]
    plain, recomputing = rows["VideoMAE"]["plain"], rows["VideoMAE"]["recomputing"]
    # Weights, gradients and the optimiser's two moments, 4 bytes each.
    weights = sum(value.numel() for value in job("VideoMAE", "micro", 1, torch.device("cpu")).method.parameters())
    assert plain["lasting"] >= 16 * weights / 2**20
    assert recomputing["lasting"] == plain["lasting"]
    assert recomputing["kept"] < plain["kept"]
    assert "VideoMAE" in capsys.readouterr().out


def test_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cost.json"
    run(monkeypatch, "cost.py", "--method=VideoMAE", "--size=micro", "--batch=2", "--lines=3", f"--out={out}")
    (row,) = json.loads(out.read_text())
    assert (row["copies"], row["waits"]) == (0, 0)
    # Encoder of 160 and decoder of 1568 tokens: products with weights and of attention, with gradients three times as many.
    width, depth, seen, decoded = 96, 4, 160, 1568
    forward = sum(
        layers * (24 * tokens * wide**2 + 4 * tokens**2 * wide)
        for layers, tokens, wide in ((depth, seen, width), (4, decoded, width // 2))
    )
    # Cubes of 2 x 16 x 16 pixels come in and go out.
    forward += 2 * 1536 * (seen * width + (decoded - seen) * width // 2)
    assert row["gflop_per_sample"] * 1e9 == pytest.approx(3 * forward, rel=0.03)
    assert row["operations"] > 12 * depth
    assert "modules/backbones/vit/video_vit.py" in capsys.readouterr().out


def test_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("decord", reason="benchmarks/loader.py, of which this one has its parts, compares with decord")
    write_video(tmp_path / "a.mp4", frames=100)
    out = tmp_path / "prepared.json"
    run(monkeypatch, "prepared.py", f"--videos={tmp_path}", "--clips=1", f"--out={out}")
    (row,) = json.loads(out.read_text())["rows"]
    assert row["file"] == "a.mp4"
    assert row["megabytes"][0] > row["megabytes"][1]
    assert "prepared files are" in capsys.readouterr().out


def test_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "waits.json"
    run(monkeypatch, "waits.py", "--size=micro", "--batch=1", f"--methods=[{', '.join(WAITS_BY_DEFAULT)}]", f"--out={out}")
    assert json.loads(out.read_text())["waits"] == dict.fromkeys(WAITS_BY_DEFAULT)
    assert "SIGMA-DINO" in capsys.readouterr().out


@pytest.mark.slow
def test_waits_of_other_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others, out = [name for name in BUILD if name not in WAITS_BY_DEFAULT], tmp_path / "waits.json"
    run(monkeypatch, "waits.py", "--size=micro", "--batch=1", f"--methods=[{', '.join(others)}]", f"--out={out}")
    assert json.loads(out.read_text())["waits"] == dict.fromkeys(others)


def test_every_method_has_a_benchmark() -> None:
    source = (BENCHMARKS / "methods.py").read_text()
    for path in (BENCHMARKS.parent / "modules/methods").glob("[a-z]*.py"):
        assert f"from modules.methods.{path.stem} import" in source, path


def test_utilisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "utilisation.json"
    small = ["--size=micro", "--batch=1", "--steps=1", "--peak=2", "--backend=eager", f"--out={out}"]
    run(monkeypatch, "utilisation.py", *small, "--methods=[VideoMAE]", "--compile=[none, blocks]")
    rows = json.loads(out.read_text())["rows"]
    row = rows["VideoMAE, none"]
    assert row["mfu"] == pytest.approx(row["tflop"] / row["running_s"] / 2)
    assert ("VideoMAE, blocks" in rows) == (find_spec("modules.training.compilation") is not None)
    assert "VideoMAE" in capsys.readouterr().out


def test_startup(tmp_path: Path) -> None:
    """The run ends at its first step, and not before."""
    taken, _ = startup.seconds(startup.command(str(tmp_path / "run"), 64))
    assert taken > 0
    assert (tmp_path / "run/config.yaml").is_file()
    with pytest.raises(SystemExit, match="failed"):
        startup.seconds([sys.executable, "-c", "raise SystemExit(1)"])


def test_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"memory": ["--size=micro", "--batch=1", "--methods=[SkeletonContrast]"]}
    wanted = ["--parts=[loader, memory]", "--quick=true", f"--words={json.dumps(words)}", f"--out={tmp_path}"]
    run(monkeypatch, "all.py", *wanted)
    result = json.loads((tmp_path / "benchmarks.json").read_text())
    assert result["figures"]["memory of a step, MiB"]["SkeletonContrast"] > 0
    assert list(result["left_out"]) == ["loader"]
    with Image.open(tmp_path / "benchmarks.png") as picture:
        assert len(picture.getcolors(1 << 20) or []) > 2
    assert "left out: loader" in capsys.readouterr().out
    # A failing benchmark is not ignored.
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(SystemExit, match="failed: memory"):
        run(monkeypatch, "all.py", "--parts=[memory]", f"--out={tmp_path}")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(torch.cuda.is_available(), reason="dry mode is for machines without a GPU")
def test_gpu_script_runs_to_its_end(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the peer of benchmarks/step.py is in the extra 'benchmarks'")
    environment = os.environ | {"DRY": "1", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["bash", str(BENCHMARKS / "gpu.sh"), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = {path.name for path in tmp_path.glob("*.json")}
    assert written == {"step.json", "waits.json", "videomae.json", "smile.json", "others.json", "memory.json"}
    assert "of the time is spent waiting for data" in (tmp_path / "waiting_for_data.txt").read_text()


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
    """Its command draws its picture, and its table has the measured values."""
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


def test_pictures_of_all_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of docs/data.md draws its picture."""
    (command,) = re.findall(r"`(python benchmarks/world_pictures.py .*?)`", (BENCHMARKS.parent / "docs/data.md").read_text())
    assert shlex.split(command)[2:] == ["--out", "docs/streams"]
    pytest.importorskip("modules.scenes.streams", reason="there are no generated streams")
    run(monkeypatch, "world_pictures.py", f"--out={tmp_path / 'streams'}")
    assert "streams.gif: " in capsys.readouterr().out
    for suffix in ("png", "gif"):
        path = BENCHMARKS.parent / f"docs/streams.{suffix}"
        with Image.open(tmp_path / f"streams.{suffix}") as drawn, Image.open(path) as kept:
            assert (drawn.size, getattr(drawn, "n_frames", 1)) == (kept.size, getattr(kept, "n_frames", 1))
        assert path.stat().st_size < 800_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="benchmarks/sinkhorn.py measures memory as Linux tells it")
def test_sinkhorn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sinkhorn.json"
    run(monkeypatch, "sinkhorn.py", "--n=8192", "--k=1500", "--dim=8", "--repeats=1", f"--out={out}")
    result = json.loads(out.read_text())
    assert result["equal"] > 0.999
    assert result["ratio"]["ours"] == pytest.approx(result["seconds"]["plain"][0] / result["seconds"]["ours"][0])
    # Upper bounds only: here, unlike in a fresh process, memory freed by earlier tests is reused and not counted.
    assert result["memory"]["ours"] < 1.3
    assert result["memory"]["side_by_side"] < 2.3
    assert result["memory"]["plain"] < 2.6
    run(monkeypatch, "sinkhorn.py", "--n=64", "--k=30", "--dim=8", "--losses=true", "--repeats=1")
    said = capsys.readouterr().out
    assert "8192 rows of each branch, 1500 prototypes" in said
    assert "64 rows of each branch, 30 prototypes" in said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="benchmarks/propagation.py measures memory as Linux tells it")
def test_propagation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "propagation.json"
    small = ["--height=48", "--width=64", "--channels=8", "--rule.context=2", "--rule.radius=3"]
    run(monkeypatch, "propagation.py", *small, f"--out={out}")
    result = json.loads(out.read_text())
    assert result["largest_difference"] < 1e-5
    assert result["ratio"] == pytest.approx(result["seconds_per_frame"]["plain"] / result["seconds_per_frame"]["ours"])
    run(monkeypatch, "propagation.py", *small, "--rule.variant=dino", "--plain=false")
    assert "6 x 8 tokens of 8, dino" in capsys.readouterr().out


@pytest.mark.usefixtures("one_thread")
def test_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "counting.json"
    run(monkeypatch, "counting.py", "--videos=3", "--frames=200", "--clips=1", "--repeats=1", f"--out={out}")
    result = json.loads(out.read_text())
    assert {name: row["videos"] for name, row in result.items()} == {"walk": 3, "ViT": 1}
    for row in result.values():
        assert row["ratio"] == row["seconds"]["slow"][0] / row["seconds"]["ours"][0]
    # A count that only one of the ways has is not passed over.
    wrong = Counted(torch.zeros(2), torch.zeros(2), torch.zeros(2))
    monkeypatch.setattr("modules.downstream.cycles.count_cycles", lambda answer, length: wrong)
    with pytest.raises(SystemExit, match="walk: the counts are not equal"):
        run(monkeypatch, "counting.py", "--videos=2", "--clips=0")
    assert "slow / ours" in capsys.readouterr().out


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
    # Both ways give the same clips.
    assert result["largest_difference_m"] < 1e-5
    assert result["ratio"] == pytest.approx(result["ms_per_clip"]["line by line"] / result["ms_per_clip"]["prepare"])
    assert "4 files" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="benchmarks/manifest.py measures memory as Linux tells it")
def test_manifest(tmp_path: Path) -> None:
    out = tmp_path / "manifest.json"
    # In a separate process: the memory of this one would count as soon as it is touched.
    command = [sys.executable, str(BENCHMARKS / "manifest.py"), "--rows=20000", "--workers=1", "--reads=20000", f"--out={out}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(out.read_text())
    assert result["manifest"]["held_mb"] < result["strings"]["held_mb"]
    assert result["manifest"]["worker_mb"] < 1 < result["strings"]["worker_mb"]
    assert "20000 rows; 1 workers" in said


def test_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "world.json"
    before = torch.get_num_threads()
    run(monkeypatch, "world.py", "--frames=4", "--size=8", "--batch=2", "--objects=2", "--rounds=1", f"--out={out}")
    torch.set_num_threads(before)
    result = json.loads(out.read_text())
    assert result["ratio"]["make_clips"] == 1
    for name, times in result["seconds"].items():
        assert result["ms_per_clip"][name] == pytest.approx(1e3 * times[1] / 2)
    assert {"video", "flow", "sound", "all streams"} < result["ratio"].keys()
    assert "clips of 4 x 8 x 8, 2 object(s)" in capsys.readouterr().out


@pytest.mark.slow
def test_study_of_utd_mhad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_reduced(tmp_path / "data", subjects=(1, 3, 7, 2))
    small = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--data.batch_size=4", "--data.reading.num_workers=0"]
    words = ["--seeds=1", "--size.streams=[depth,signal]", "--size.fused=false", f"--size.more={json.dumps(small)}"]
    out = tmp_path / "utd_mhad.json"
    run(monkeypatch, "learning.py", "utd_mhad", f"--root={tmp_path / 'data'}", *words, f"--out={out}")
    rows = {row["name"]: row["scores"] for row in json.loads(out.read_text())["rows"]}
    assert rows.keys() == {"chance", "ridge, the middle alone", "ridge, all in order", "network"}
    # The action is in every value of the miniature.
    assert rows["ridge, all in order"]["signal"] == [100.0]
    assert rows["ridge, the middle alone"].keys() == {"depth", "signal"}
    assert "| row | depth | signal |" in capsys.readouterr().out

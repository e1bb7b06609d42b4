"""The report of the study of real motion: its tables are those of the two files, and its plots show them."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.real.measured import Result, Trial, by_method, ordered, ranked, read_results, read_trials
from benchmarks.real.plots import OWN, curves, draw_labels, draw_trials
from benchmarks.real.report import EMPTY, Study, blocks, compared, table, verdicts, write_report
from benchmarks.studies.blocks import marks
from modules.core.errors import SettingError

ROOT = Path(__file__).parents[1]
TITLES = {
    "videomae": ("VideoMAE", "ViT"),
    "sigma": ("SIGMA", "ViT"),
    "moco": ("MoCo", "R3D"),
    "scratch_vit": ("ViT from scratch", "ViT"),
    "untrained_vit": ("untrained ViT", "ViT"),
    "scratch_cnn": ("R3D from scratch", "R3D"),
    "raw": ("raw pixels", ""),
}
SETTINGS = {"mask": "tube", "ratio": 0.9, "extra": ["drones"]}
TRIALS: list[tuple[object, ...]] = [
    ("untrained_vit", "random", "{}", 1000, "ViT", 0, 20.0, 30.0, 10.0, "", "", 50.0, 6.0),
    ("videomae", "base", "{}", 1000, "ViT", 500, 30.0, 20.0, 12.0, 0.5, 0.25, 8.0, 120.0),
    ("videomae", "tube", json.dumps(SETTINGS), 1000, "ViT", 2000, 31.0, 29.5, 11.0, 0.5, 0.00123, 9.0, 480.0),
    ("videomae", "fast", '{"rate": 4}', 1000, "ViT", 500, 50.0, "", "", 0.5, "nan", "", 60.0),
    ("scratch_vit", "rate", '{"rate": 1}', 1000, "ViT", 250, 14.0, "", "", "", "", "", 60.0),
]
RESULTS: list[tuple[object, ...]] = [
    *(("videomae", seed, "linear", value, 60.0) for seed, value in enumerate((40.0, 44.0, 45.0))),
    *(("videomae", seed, "linear shuffled", value, 0.0) for seed, value in enumerate((30.0, 31.0, 32.0))),
    *(("videomae", seed, "finetune 10", value, 60.0) for seed, value in enumerate((20.0, 21.0, 22.0))),
    *(("sigma", seed, "finetune 10", value, 60.0) for seed, value in enumerate((15.0, 16.0, 20.0))),
    *(("scratch_vit", seed, "finetune 10", value, 60.0) for seed, value in enumerate((14.0, 15.0, 16.0))),
    *(("scratch_vit", seed, "finetune 100", value, 60.0) for seed, value in enumerate((50.0, 52.0, 54.0))),
    ("moco", 0, "finetune 10", 60.0, 60.0),
    ("moco", 0, "attentive", 61.5, 30.0),
    ("moco", 1, "attentive", 62.5, 30.0),
    *(("scratch_cnn", seed, "finetune 10", 50.0, 60.0) for seed in range(3)),
    ("raw", 0, "linear", 51.0, 6.0),
]


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a result file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_both(folder: Path) -> None:
    """Write the made-up results."""
    write(folder / "trials.csv", Trial._fields, TRIALS)
    write(folder / "results.csv", Result._fields, RESULTS)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    write_both(tmp_path)
    scores = by_method(read_results(tmp_path / "results.csv"))
    return Study(TITLES, read_trials(tmp_path / "trials.csv"), scores, 50.0)


def cells(text: str) -> dict[str, list[str]]:
    """Cells of each line of a table by its first one."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in lines}


def test_files_are_read(study: Study) -> None:
    assert study.trials[2].settings == SETTINGS
    assert study.trials[3][6:12] == (50.0, None, None, 0.5, None, None)
    assert [trial.score for trial in study.trials] == [25.0, 25.0, 30.25, None, None]
    assert study.scores["videomae"][1] == {
        "linear": 44.0,
        "linear shuffled": 31.0,
        "linear difference": 13.0,
        "finetune 10": 21.0,
        "minutes": 2.0,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("videomae", 0, "linear", 1.0, 1.0), ("videomae", 0, "linear", 2.0, 1.0)], "Line 3 .* repeats videomae, 0, linear;"),
        ([("videomae", 0, "linear", "nan", 1.0)], "nan is not a finite number"),
        ([("videomae", "first", "linear", 1.0, 1.0)], "Line 2 .* cannot be read"),
        ([("videomae", 0, "linear", 1.0)], "4 cells instead of 5"),
    ],
)
def test_broken_results_are_refused(tmp_path: Path, rows: list[tuple[object, ...]], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read_results(write(tmp_path / "results.csv", Result._fields, rows))


def test_broken_trials_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    with pytest.raises(SettingError, match="has no file"):
        read_trials(path)
    with pytest.raises(SettingError, match=r"columns method,seed instead of method,trial,settings.*; correct --results"):
        read_trials(write(path, ("method", "seed"), []))
    with pytest.raises(SettingError, match="not a JSON object"):
        read_trials(write(path, Trial._fields, [(*TRIALS[0][:2], "[]", *TRIALS[0][3:])]))
    with pytest.raises(SettingError, match="repeats videomae, base, 1000"):
        read_trials(write(path, Trial._fields, [TRIALS[1], TRIALS[1]]))


def test_baselines_come_first() -> None:
    order = ["raw", "untrained_vit", "scratch_vit", "videomae", "sigma", "scratch_cnn", "moco"]
    assert ordered(TITLES) == order


def test_main_table_is_that_of_the_file(study: Study) -> None:
    tables = blocks(study)
    found = cells(tables["results"])
    assert list(found) == [
        "",
        "---",
        "raw pixels, 1 seed",
        "untrained ViT",
        "ViT from scratch",
        "VideoMAE",
        "SIGMA",
        "R3D from scratch",
        "MoCo, 1 or 2 seeds",
    ]
    assert found["VideoMAE"] == ["ViT", "43.0 (5.0)", "", "", "", "21.0 (2.0)", "", ""]
    assert found["ViT from scratch"] == ["ViT", "", "", "", "", "15.0 (2.0)", "", "52.0 (4.0)"]
    assert found["MoCo, 1 or 2 seeds"] == ["R3D", "", "62.0 (1.0)", "", "", "60.0", "", ""]
    assert found["untrained ViT"] == ["ViT", *[""] * 7]
    assert tables["pairs"] == EMPTY
    motion = cells(tables["motion"])
    assert motion["VideoMAE"] == ["ViT", "43.0 (5.0)", "31.0 (2.0)", "", "12.0 (3.0)"]
    assert "untrained ViT" not in motion
    assert cells(tables["analysis"])["ViT from scratch"][-1] == "2.0 (0.0)"
    few = table(study, {"attentive": "attentive"})
    assert cells(few)["MoCo, 2 seeds"] == ["R3D", "62.0 (1.0)"]


def test_search_is_ordered_by_the_mean_of_both_probes(study: Study) -> None:
    assert [trial.trial for trial in ranked(study.trials, "videomae")] == ["tube", "base", "fast"]
    text = blocks(study)["search"]
    assert text.startswith("All searches: 5 trials, 0.2 hours of a process with one thread.")
    assert "<summary>VideoMAE (ViT): 3 trials, 11.0 of 50 minutes</summary>" in text
    part = cells(text[text.index("VideoMAE (ViT)") :])
    assert list(part)[2:] == ["**tube** (best)", "base", "fast"]
    expected = ["30.2", "31.0", "29.5", "11.0", "9.0", "0.5", "0.00123", "2000", "8.0"]
    assert part["**tube** (best)"] == ['mask tube, ratio 0.9, extra ["drones"]', *expected]
    assert part["base"][:2] == ["as in the code", "25.0"]
    assert part["fast"] == ["rate 4", "", "50.0", "", "", "", "0.5", "", "500", "1.0"]
    # Without a score, nothing is chosen.
    assert "**rate**" not in text


def test_verdicts_need_more_than_the_spread_and_three_seeds(study: Study) -> None:
    assert compared(study, "finetune 10", "scratch") == {
        "above": ["VideoMAE (+6.0, spread 2.0)"],
        "within the spread": ["SIGMA (+2.0, spread 5.0)"],
        "below": [],
        "too few seeds": ["MoCo (+10.0, spread 0.0)"],
    }
    said = verdicts(study).splitlines()
    assert len(said) == 2
    assert "1 of 3 above by more than the spread. Above: VideoMAE (+6.0, spread 2.0); within" in said[0]
    assert "MoCo, attentive, 62.0 (1.0), 2 seeds: +10.0 points against the aim of 52 %" in said[1]
    worse = study._replace(scores={**study.scores, "scratch_vit": [{"finetune 10": 30.0}] * 3})
    assert compared(worse, "finetune 10", "scratch")["below"] == ["VideoMAE (-9.0, spread 2.0)", "SIGMA (-13.0, spread 5.0)"]
    assert verdicts(study._replace(scores={})) == EMPTY


def test_page_keeps_what_stands_around(tmp_path: Path, study: Study) -> None:
    names = [*blocks(study), "labels plot", "trials plot"]
    page = tmp_path / "page.md"
    page.write_text("before\n" + "".join(f"{''.join(marks(name))}after {name}\n" for name in names))
    write_report(page, tmp_path, TITLES, 50.0)
    text = page.read_text()
    assert text.startswith("before\n<!-- verdicts -->\n\n* **Fine-tuning")
    assert all(f"\n\n<!-- end of {name} -->\nafter {name}\n" in text for name in names)
    for name in ("labels", "trials"):
        assert f"](page_{name}.png)\n" in text
        assert (tmp_path / f"page_{name}.png").read_bytes().startswith(b"\x89PNG")
    write_report(page, tmp_path, TITLES, 50.0)
    assert page.read_text() == text
    # During the search there is no other file yet.
    (tmp_path / "results.csv").unlink()
    write_report(page, tmp_path, TITLES, 50.0)
    assert f"<!-- labels plot -->\n\n{EMPTY}\n\n<!--" in page.read_text()
    page.write_text(text.replace("<!-- end of pairs -->\n", ""))
    with pytest.raises(SettingError, match="has no lines <!-- pairs --> and <!-- end of pairs -->"):
        write_report(page, tmp_path, TITLES, 50.0)


def test_rows_without_a_title_are_refused(tmp_path: Path) -> None:
    write_both(tmp_path)
    known = {key: title for key, title in TITLES.items() if key not in ("moco", "videomae")}
    with pytest.raises(SettingError, match="rows of moco, videomae, unknown to this study"):
        write_report(tmp_path / "page.md", tmp_path, known, 50.0)


def test_the_page_has_all_blocks(tmp_path: Path) -> None:
    write_both(tmp_path)
    page = tmp_path / "real_motion.md"
    page.write_text((ROOT / "benchmarks/real_motion/page.md").read_text())
    write_report(page, tmp_path, TITLES, 50.0)
    text = page.read_text()
    assert text.count("<!-- end of ") == 8
    assert "| VideoMAE | ViT | 43.0 (5.0) |" in text


def test_curves_are_those_of_a_network(study: Study) -> None:
    found = {curve.title: curve for curve in curves(TITLES, study.scores, "ViT")}
    assert list(found) == ["ViT from scratch", "VideoMAE", "SIGMA"]
    assert found["ViT from scratch"].points == {10.0: [14.0, 15.0, 16.0], 100.0: [50.0, 52.0, 54.0]}
    assert [curve.dashed for curve in found.values()] == [True, False, False]
    assert found["VideoMAE"].colour != found["SIGMA"].colour
    assert draw_labels(TITLES, {}) is None


def columns_of(png: bytes, colour: tuple[int, int, int]) -> list[int]:
    """Columns of a picture with pixels that are close to a colour."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return np.flatnonzero((abs(pixels - np.array(colour)).sum(2) < 30).any(0)).tolist()


def test_plots_show_the_numbers(study: Study) -> None:
    labels = draw_labels(TITLES, study.scores)
    assert labels is not None
    # Two panels, each with the blue of its first method.
    first, half = columns_of(labels, OWN), Image.open(io.BytesIO(labels)).width / 2
    assert min(first) < half < max(first)
    one = draw_labels(TITLES, {key: study.scores[key] for key in ("videomae", "scratch_vit")})
    assert one is not None
    assert Image.open(io.BytesIO(one)).width == half
    trials = draw_trials(TITLES, study.trials)
    assert trials is not None
    # The chosen trial has 30.25 on an axis from 25 to 35, which begins at 190 and is 460 wide, at 1.5 pixels.
    middle = round(1.5 * (190 + 460 * (30.25 - 25) / 10))
    row = [x for x in columns_of(trials, OWN) if x > 1.5 * 190 and x < 1.5 * 645]
    assert (min(row) + max(row)) / 2 == pytest.approx(middle, abs=1)
    assert draw_trials(TITLES, study.trials[3:]) is None

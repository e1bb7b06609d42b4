"""Published rows and their mean."""

import json

import pytest

from modules.severe.experiments import ALL, SUBSET
from modules.severe.published import COLUMNS, PUBLISHED, PUBLISHED_MEANS, severe_score
from tests.parity.cases import PARITY_DIR

OFFICIAL = ("SSv2", "Gym99", "UCF_1000", "Gym99_1000", "FX_S1", "UB_S1", "UCF_RC_MAE", "Charades_mAP")


def test_mean_of_official_rows() -> None:
    path = PARITY_DIR / "severe" / "severe_score.json"
    if not path.is_file():
        pytest.skip(f"no official numbers at {path}; set PARITY_DIR to the folder that holds them")
    info = json.loads(path.read_text())
    for case in info["cases"]:
        numbers = dict(zip(COLUMNS, (case[name] for name in OFFICIAL), strict=True))
        assert severe_score(numbers) == pytest.approx(case["expected"], abs=info["meta"]["tolerance"])
    assert len(info["cases"]) >= 3


@pytest.mark.parametrize("name", PUBLISHED_MEANS)
def test_published_means_follow_from_published_rows(name: str) -> None:
    score = severe_score(dict(zip(COLUMNS, PUBLISHED["vit"][name], strict=True)))
    # Means and rows are rounded to one digit.
    assert score == pytest.approx(PUBLISHED_MEANS[name], abs=0.0501)


def test_no_mean_over_seven() -> None:
    numbers = dict(zip(COLUMNS, PUBLISHED["vit"]["SVT"], strict=True))
    for name in COLUMNS:
        assert severe_score({other: value for other, value in numbers.items() if other != name}) is None


def test_every_row_is_whole() -> None:
    assert [one.name for one in SUBSET] == list(COLUMNS)
    assert len(COLUMNS) == 8
    assert [one.factor for one in SUBSET] == ["domain"] * 2 + ["samples"] * 2 + ["actions"] * 2 + ["task"] * 2
    for rows in PUBLISHED.values():
        for row in rows.values():
            assert len(row) == 8
            assert 0 < row[6] < 1 < min(row[:6])
    assert set(COLUMNS) <= ALL.keys()

"""Subsets drawn class by class against the official code of SEVERE."""

import json
import math

import numpy as np
import pytest

from datamodules.video.manifest import pick_per_class
from tests.parity.cases import PARITY_DIR


def test_low_shot_subsets() -> None:
    path = PARITY_DIR / "severe" / "low_shot_subset.json"
    if not path.is_file():
        pytest.skip(f"no official subsets at {path}; set PARITY_DIR to the folder that holds them")
    cases = json.loads(path.read_text())["cases"]
    assert cases
    for case in cases:
        labels = np.array(case["labels"])
        per_class = math.ceil(case["num_examples"] / len(np.unique(labels)))
        picked = pick_per_class(labels, lambda count, most=per_class: most, case["seed"])
        assert picked.tolist() == case["expected"]["indices"]

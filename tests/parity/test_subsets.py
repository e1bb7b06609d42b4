"""Subsets drawn class by class against the official code of SEVERE."""

import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.lists.manifest import Manifest
from tests.parity.cases import PARITY_DIR


def test_low_shot_subsets() -> None:
    path = PARITY_DIR / "severe" / "low_shot_subset.json"
    if not path.is_file():
        pytest.skip(f"no official subsets at {path}; set PARITY_DIR to the folder that holds them")
    cases = json.loads(path.read_text())["cases"]
    assert cases
    for case in cases:
        labels = np.array(case["labels"])
        manifest = Manifest(Path(), [str(row) for row in range(len(labels))], labels)
        picked = [int(path) for path in manifest.few(case["num_examples"], case["seed"]).paths]
        assert picked == sorted(case["expected"]["indices"])

"""Frames of TubeletContrast's clips against the official code."""

import numpy as np

from datamodules.video.samplers import jittered_indices
from tests.parity.cases import load_case


def test_recorded_draws_give_the_official_frames() -> None:
    tensors, about = load_case("tubelet_contrast", "frame_sampler")
    checked = 0
    for number, case in enumerate(about["cases"]):
        if "draws" not in case:
            continue
        expected = tensors[f"case{number}.output.frame_inds"][0].numpy()
        values = [draw["value"] for draw in case["draws"]]
        stride, rest = values[0], values[1:]
        # No jitter is drawn for a stride of 1, and no start where the clip does not fit.
        jitter = np.array(rest[: len(expected)] if stride > 1 else [0] * len(expected))
        drawn = len(expected) if stride > 1 else 0
        start = rest[drawn] if len(rest) > drawn else 0
        np.testing.assert_array_equal(jittered_indices(case["num_frames"], stride, jitter, start), expected)
        checked += 1
    assert checked

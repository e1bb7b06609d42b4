"""Flow in 8-bit pictures has the same meaning as in the official code of STS."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve

from datamodules.streams.planes import FlowReader
from datamodules.streams.settings import FlowSettings
from datamodules.video.crops import Box
from datamodules.video.sampling import Plan
from tests.parity.cases import assert_close, load_case

READER = FlowReader(FlowSettings(), None)
SIDE, BLOCKS, BINS = 112, 4, 8


def directions(flow: np.ndarray) -> np.ndarray:
    """Magnitudes of the motion boundary by direction, in the block of the grid that has most of them (pattern 1).

    Args:
        flow: float [T, H, W], one direction.

    Returns:
        float [8]
    """
    across = np.array([[-1.0, 0.0, 1.0]] * 3)
    dx, dy = (sum(convolve(frame, kernel, mode="reflect") for frame in flow) for kernel in (across, across.T))
    magnitude, angle = np.hypot(dx, dy), np.degrees(np.arctan2(dy, dx)) % 360
    side = SIDE // BLOCKS
    parts = [
        np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        for row in range(BLOCKS)
        for column in range(BLOCKS)
    ]
    part = max(parts, key=lambda one: magnitude[one].sum())
    lower, share = np.divmod(angle[part] / 45, 1)
    found = np.zeros(BINS)
    np.add.at(found, lower.astype(int) % BINS, magnitude[part] * (1 - share))
    np.add.at(found, (lower.astype(int) + 1) % BINS, magnitude[part] * share)
    return found


@pytest.mark.parametrize("kind", ["full", "coarse"])
def test_histograms_of_the_official_code_come_out_of_stored_pictures(kind: str, tmp_path: Path) -> None:
    """The histogram grows with the scale of flow, and differences of neighbours leave its offset out."""
    tensors, about = load_case("sts", "motion_labels")
    codes = np.stack([tensors[f"input.{kind}.{axis}_code"].numpy() for axis in "uv"], -1)
    codes = codes.repeat(SIDE // codes.shape[2], 2).repeat(SIDE // codes.shape[3], 3)[:3]
    for clip, planes in enumerate(codes):
        folder = tmp_path / str(clip)
        folder.mkdir()
        for number, plane in enumerate(planes, 1):
            for axis, name in enumerate("xy"):
                # Without loss: this is about the scale.
                Image.fromarray(plane[..., axis]).save(folder / f"flow_{name}_{number:05d}.png", compress_level=1)
        numbers = np.arange(len(planes))[None]
        plan = Plan(numbers, numbers * 1.0, np.zeros((1, 2)), [Box(0, 0, SIDE, SIDE)], (SIDE, SIDE), len(planes))
        flow = READER.read(folder, plan, SIDE).data[0].double().numpy()
        found = np.stack([directions(flow[..., axis]) for axis in range(2)])
        expected = tensors[f"output.{kind}.direction_hist"][clip, :2]
        assert_close(torch.from_numpy(found), expected, f"{kind} {clip}", about["tolerance"]["direction_hist_rel_to_max"])


def test_every_code_means_what_the_formula_says() -> None:
    codes = torch.arange(256.0)
    torch.testing.assert_close(READER.pixels(codes), codes * 40 / 255 - 20, atol=4e-6, rtol=0)

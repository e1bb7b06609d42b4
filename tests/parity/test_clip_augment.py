"""Colour changes of TubeletContrast against the official code."""

import torch

from modules.augment.colour import change_hue, scale_contrast, shift_brightness
from modules.core.preprocessing import normalise
from tests.parity.cases import load_case


def test_colour_changes() -> None:
    tensors, about = load_case("tubelet_contrast", "clip_augment")
    steps = about["steps"]

    def rgb(name: str) -> torch.Tensor:
        return tensors[f"output.{name}"].float().flip(-1)[None]

    def parameter(step: str, name: str) -> torch.Tensor:
        return torch.tensor([steps[step]["param"][name]])

    bright = shift_brightness(rgb("crop"), parameter("brightness", "delta"))
    assert torch.allclose(bright, rgb("brightness"), atol=1e-3)
    contrast = scale_contrast(rgb("brightness"), parameter("contrast", "delta"))
    assert torch.allclose(contrast, rgb("contrast"), atol=1e-3)
    hue = steps["hue_saturation"]["param"]
    changed = change_hue(rgb("contrast"), torch.tensor([hue["hue_delta"]]), torch.tensor([hue["saturation_delta"]]))
    difference = (changed - rgb("hue_saturation")).abs()
    assert difference.max() <= 3
    assert difference.mean() < 0.1
    assert torch.allclose(normalise(rgb("hue_saturation"))[0], tensors["output.tensor"].transpose(0, 1), atol=1e-5)

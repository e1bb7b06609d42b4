"""SiamMAE against CropMAE's official re-implementation: pairs of frames with one crop and flip, and a pretraining step."""

import torch

from datamodules.video.crops import Box
from datamodules.video.transforms import crop_and_resize
from modules.core.preprocessing import Normalisation
from modules.methods.siammae import SiamMAE
from tests.parity.cases import load_case
from tests.parity.siamese import assert_pretraining


def test_pixels_of_the_views() -> None:
    """Both frames within one grey level, given the box and the flip. tests/parity/test_clip_sampling.py has pairs and boxes."""
    tensors, about = load_case("siammae", "pair_views")
    settings = about["settings"]
    normalisation = Normalisation(tuple(settings["mean"]), tuple(settings["std"]))
    frames = [tensors[f"input.frame{number}"].permute(1, 2, 0).numpy() for number in (0, 1)]
    flips = tensors["output.flip"]
    assert flips.tolist() == [u < settings["flip_p"] for u in about["flip_uniforms"]]
    for (y, x, height, width), flip, views in zip(tensors["output.box"].tolist(), flips, tensors["output.views"], strict=False):
        clip = crop_and_resize(frames, Box(x, y, width, height), settings["size"])
        clip = torch.where(flip, clip.flip(2), clip)
        pixels = 255 * normalisation.restore(views[:, :, None])[:, :, 0].permute(0, 2, 3, 1)
        assert (clip.float() - pixels).abs().max() <= 1 + 1e-3


def test_pretraining_step() -> None:
    assert_pretraining("siammae", lambda encoder, **settings: SiamMAE(encoder, **settings))

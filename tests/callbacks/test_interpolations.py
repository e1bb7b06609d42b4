"""Interpolations are drawn and measured, without any effect on training."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import Interpolations
from callbacks.films.interpolations import interpolated
from modules.backbones.vit.decoder import DecoderSettings
from modules.core.errors import SettingError
from modules.layers.targets import InputPixelTarget, PixelTarget
from modules.masks.clip import CenterMask, UniformMask
from modules.masks.tokens import TubeMask
from modules.methods.stmae import STMAE
from modules.methods.videomae import VideoMAE
from tests.callbacks.runs import STEPS, data, fit, videomae
from tests.registry import METHODS, OPTIM, tiny_spacetime, tiny_vit, video_batch


def stmae() -> STMAE:
    torch.manual_seed(0)
    return STMAE(tiny_spacetime(), InputPixelTarget(), UniformMask(0.5), DecoderSettings(1), optim=OPTIM)


def test_pictures_and_errors_and_equal_weights(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name=None, version="tb")
    watched, alone = stmae(), stmae()
    fit(watched, tmp_path, [Interpolations(every_n_steps=2, clips=2)], data(), epochs=1, logger=logger)
    fit(alone, tmp_path / "alone", [], data(), epochs=1)
    for name, value in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name
    drawn = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert drawn == {f"{step:07d}_interpolation{end}" for step in (1, 2, STEPS) for end in (".png", "_video.gif")}
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert {"pictures/interpolation", "pictures/interpolation_video"} <= set(events.Tags()["images"])
    errors = {name: events.Scalars(f"interpolation/{name}") for name in ("network", "repeated", "blended")}
    assert all([one.step for one in values] == [1, 2, STEPS] for values in errors.values())
    # The guesses do not depend on the network.
    for name in ("repeated", "blended"):
        assert len({one.value for one in errors[name]}) == 1
    assert errors["network"][0].value != errors["network"][-1].value


@pytest.mark.parametrize("kind", ["STMAE", "VideoMAE"])
def test_what_is_imagined_is_the_prediction(kind: str) -> None:
    method = stmae() if kind == "STMAE" else VideoMAE(tiny_vit(), PixelTarget(False), TubeMask(0.5), DecoderSettings(1))
    method.eval()
    clip = video_batch(2).stream("video").data[:, 0]
    mask = CenterMask(0.5)
    with torch.no_grad():
        films, errors = interpolated(method, clip, mask)
        drawn = mask.draw(2, method.backbone.grid, torch.Generator())
        values = method.predict(clip, drawn.visible, drawn.targets)
    # Values in the order of pixels and channels, of the clip's scale.
    norm = method.backbone.normalisation
    pixels = values.unflatten(2, (-1, 3))
    if kind == "STMAE":
        pixels = pixels * torch.tensor(norm.std) + torch.tensor(norm.mean)
    true = PixelTarget(False)(method.normalise(clip), method.backbone.grid, norm)
    true = true.gather(1, drawn.targets[..., None].expand(-1, -1, true.shape[2])).unflatten(2, (-1, 3))
    expected = (pixels.clamp(0, 1) - true).square().mean()
    assert errors["network"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert {name: film.shape for name, film in films.items()} == dict.fromkeys(films, clip.shape)
    assert torch.equal(films["clip"], clip)


def test_normalised_pixels_are_drawn_and_not_measured() -> None:
    method = videomae().eval()
    clip = video_batch(2).stream("video").data[:, 0]
    with torch.no_grad():
        films, errors = interpolated(method, clip, CenterMask(0.5))
    assert errors == {}
    assert films["imagined"].shape == clip.shape


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    sigma = next(case for case in METHODS if case.name == "SIGMA").build()
    with pytest.raises(SettingError, match=r"Interpolations is for STMAE or VideoMAE with pixels as a target"):
        fit(sigma, tmp_path, [Interpolations()])
    with pytest.raises(SettingError, match=r"ratio 0\.6, which leaves 12 of 32 tokens; at least the 16 of a slice"):
        fit(stmae(), tmp_path, [Interpolations(ratio=0.6)])

"""VideoMAE: what the encoder may know, sizes of the paper, starting weights."""

from pathlib import Path

import pytest
import torch

from modules.backbones.video_vit import VideoViT, gather_tokens, patchify, to_official, unpatchify
from modules.core.errors import SettingError
from modules.layers.masking import TubeMask
from modules.layers.targets import PixelTarget
from modules.videomae import VideoMAE
from tests.methods import tiny_vit, video_batch


def tiny(ratio: float = 0.5, **settings: object) -> VideoMAE:
    torch.manual_seed(0)
    return VideoMAE(tiny_vit(), PixelTarget(), TubeMask(ratio), 1, **settings).eval()


def test_shapes_of_the_paper() -> None:
    method = VideoMAE(VideoViT("micro", depth=1), PixelTarget(), TubeMask(0.9), 1)
    clip = torch.randint(0, 256, (1, 1, 16, 224, 224, 3), dtype=torch.uint8)
    output = method.step({"video": clip}, torch.Generator().manual_seed(0))
    assert method.backbone.grid.tokens == 1568
    assert output["masked"].shape == (1, 1408)
    assert output["prediction"].shape == (1, 1408, 1536)


def test_prediction_does_not_know_hidden_pixels() -> None:
    """Hidden pixels change the target, never the prediction."""
    method = tiny()
    batch = video_batch(2)
    output = method.step(batch, torch.Generator().manual_seed(0))
    grid = method.backbone.grid
    cubes = patchify(batch["video"][:, 0].permute(0, 4, 1, 2, 3), grid)
    index = output["masked"][..., None, None].expand(-1, -1, *cubes.shape[2:])
    noise = torch.randint(0, 256, index.shape, dtype=torch.uint8)
    changed = unpatchify(cubes.scatter(1, index, noise), grid).permute(0, 2, 3, 4, 1)[:, None]
    other = method.step(batch | {"video": changed}, torch.Generator().manual_seed(0))
    assert torch.equal(other["prediction"], output["prediction"])
    assert not torch.allclose(other["target"], output["target"])


def test_loss_is_the_mean_over_masked_values_alone() -> None:
    method = tiny()
    batch = video_batch(3)
    output = method.step(batch, torch.Generator().manual_seed(0))
    target = gather_tokens(method.target(method.normalise(batch["video"][:, 0]), method.backbone.grid), output["masked"])
    expected = (output["prediction"].double() - target.double()).square().mean()
    assert output["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_loss_stays_in_float32_under_bf16() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = tiny().step(video_batch(2), torch.Generator().manual_seed(0))
    assert output["loss"].dtype == torch.float32
    assert output["target"].dtype == torch.float32


@pytest.mark.parametrize("form", ["ours", "official"])
def test_init_from_restores_the_whole_method(form: str, tmp_path: Path) -> None:
    source = tiny()
    state = dict(source.state_dict())
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": state} if form == "ours" else {"model": to_official(state, source.backbone.grid)}, path)
    torch.manual_seed(1)
    loaded = VideoMAE(tiny_vit(), PixelTarget(), TubeMask(0.5), 1, init_from=str(path)).eval()
    batch = video_batch(2)
    losses = [method.step(batch, torch.Generator().manual_seed(0))["loss"] for method in (source, loaded)]
    assert torch.allclose(*losses, rtol=1e-6)


def test_init_from_refuses_an_encoder_alone(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({f"backbone.{key}": value for key, value in tiny().backbone.state_dict().items()}, path)
    with pytest.raises(SettingError, match=r"missing \(decoder\.mask_token"):
        tiny(init_from=str(path))


def test_pooling_per_time_slice_keeps_the_order_of_time() -> None:
    method = tiny()
    method.backbone.pooling = "time"
    features = method.embed(video_batch(2))
    assert features.shape == (2, 2 * 32)
    slices = features.view(2, 2, 32)
    assert torch.allclose(slices.mean(1), tiny().embed(video_batch(2)), atol=1e-5)
    assert not torch.allclose(slices[:, 0], slices[:, 1], atol=1e-2)

"""VideoMAE: information that the encoder may use, sizes of the paper, initial weights."""

from pathlib import Path

import pytest
import torch

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import unlabelled
from modules.core.errors import SettingError
from modules.core.tokens import Grid, gather_tokens, patchify, unpatchify
from modules.layers.drawing.clips import HIDDEN_GREY
from modules.layers.targets import PixelTarget
from modules.masks.base import Mask, MaskGenerator
from modules.masks.noise import Green3D
from modules.masks.tokens import RandomMask, RunningCellMask, TubeMask
from modules.methods.videomae import VideoMAE
from modules.weights.names.videomae import to_official
from tests.registry import tiny_vit, video_batch


def tiny(ratio: float = 0.5, **settings: object) -> VideoMAE:
    torch.manual_seed(0)
    return VideoMAE(tiny_vit(), PixelTarget(), TubeMask(ratio), DecoderSettings(1), **settings).eval()


def test_shapes_of_the_paper() -> None:
    method = VideoMAE(VideoViT("micro", depth=1), PixelTarget(), TubeMask(0.9), DecoderSettings(1))
    clip = torch.randint(0, 256, (1, 1, 16, 224, 224, 3), dtype=torch.uint8)
    output = method.step(unlabelled(clip), torch.Generator().manual_seed(0))
    assert method.backbone.grid.tokens == 1568
    assert output["show"]["masked"].shape == (1, 1408)
    assert output["show"]["prediction"].shape == (1, 1408, 1536)


def test_green3d_in_place_of_tubes_changes_no_shape() -> None:
    method = VideoMAE(VideoViT("micro", depth=1), PixelTarget(), Green3D(), DecoderSettings(1))
    order: list[torch.Tensor] = []
    method.backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: order.append(inputs[0]))
    clip = torch.randint(0, 256, (1, 1, 16, 224, 224, 3), dtype=torch.uint8)
    output = method.step(unlabelled(clip), torch.Generator().manual_seed(0))
    assert output["loss"].isfinite()
    assert output["show"]["masked"].shape == (1, 1408)
    assert output["show"]["prediction"].shape == (1, 1408, 1536)
    assert order[0].shape == (1, 160, 96)
    # The encoder still sees tokens in raster order.
    visible = method.mask.draw(1, method.backbone.grid, torch.Generator().manual_seed(0)).visible
    tokens = method.backbone.patch_embed(patchify(method.normalise(clip[:, 0]), method.backbone.grid).flatten(2))
    assert torch.allclose(order[0], gather_tokens(tokens + method.backbone.positions, visible), atol=1e-5)


@pytest.mark.parametrize("decoder_mask", [None, RunningCellMask()])
def test_prediction_does_not_know_hidden_pixels(decoder_mask: MaskGenerator | None) -> None:
    """Hidden pixels change the target, never the prediction."""
    method = tiny(decoder_mask=decoder_mask)
    batch = video_batch(2)
    output = method.step(batch, torch.Generator().manual_seed(0))
    grid = method.backbone.grid
    cubes = patchify(batch.stream("video").data[:, 0].permute(0, 4, 1, 2, 3), grid)
    index = output["show"]["masked"][..., None, None].expand(-1, -1, *cubes.shape[2:])
    noise = torch.randint(0, 256, index.shape, dtype=torch.uint8)
    changed = unpatchify(cubes.scatter(1, index, noise), grid).permute(0, 2, 3, 4, 1)[:, None]
    other = method.step(unlabelled(changed), torch.Generator().manual_seed(0))
    assert torch.equal(other["show"]["prediction"], output["show"]["prediction"])
    assert not torch.allclose(other["show"]["target"], output["show"]["target"])


def test_loss_is_the_mean_over_masked_values_alone() -> None:
    method = tiny()
    batch = video_batch(3)
    output = method.step(batch, torch.Generator().manual_seed(0))
    target = gather_tokens(
        method.target(method.normalise(batch.stream("video").data[:, 0]), method.backbone.grid), output["show"]["masked"]
    )
    expected = (output["show"]["prediction"].double() - target.double()).square().mean()
    assert output["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_loss_stays_in_float32_under_bf16() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = tiny().step(video_batch(2), torch.Generator().manual_seed(0))
    assert output["loss"].dtype == torch.float32
    assert output["show"]["target"].dtype == torch.float32


@pytest.mark.parametrize("form", ["ours", "official"])
def test_init_from_restores_the_whole_method(form: str, tmp_path: Path) -> None:
    source = tiny()
    state = dict(source.state_dict())
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": state} if form == "ours" else {"model": to_official(state, source.backbone.grid)}, path)
    torch.manual_seed(1)
    loaded = VideoMAE(tiny_vit(), PixelTarget(), TubeMask(0.5), DecoderSettings(1), init_from=str(path)).eval()
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


def test_dual_masking_has_the_shapes_of_the_paper() -> None:
    method = VideoMAE(
        VideoViT("micro", depth=1), PixelTarget(), TubeMask(0.9), DecoderSettings(1), decoder_mask=RunningCellMask()
    )
    clip = torch.randint(0, 256, (1, 1, 16, 224, 224, 3), dtype=torch.uint8)
    lengths: list[int] = []
    method.decoder.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    output = method.step(unlabelled(clip), torch.Generator().manual_seed(0))
    assert output["show"]["masked"].shape == (1, 1408)
    assert output["show"]["prediction"].shape == output["show"]["target"].shape == (1, 784, 1536)
    assert lengths == [160 + 784]
    assert torch.isin(output["show"]["decoded"][0], output["show"]["masked"][0]).sum() == 704


def test_dual_masking_counts_what_is_masked_and_decoded() -> None:
    method = tiny(0.75, decoder_mask=RandomMask(0.5))
    batch = video_batch(3)
    output = method.step(batch, torch.Generator().manual_seed(0))
    target = method.target(method.normalise(batch.stream("video").data[:, 0]), method.backbone.grid)
    errors, counted = [], []
    for clip in range(3):
        for place, token in enumerate(output["show"]["decoded"][clip].tolist()):
            assert torch.allclose(output["show"]["target"][clip, place], target[clip, token], atol=1e-5)
            if token in output["show"]["masked"][clip]:
                counted.append(target[clip, token].double())
                errors.append((output["show"]["prediction"][clip, place].double() - counted[-1]).square().mean())
    assert 0 < len(errors) < output["show"]["decoded"].numel()
    assert output["loss"].item() == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)
    # The target is of the same tokens.
    variance = torch.stack(counted).var(dim=0, correction=0).mean()
    assert output["log"]["constant_loss"].item() == pytest.approx(float(variance), rel=1e-5)


class Fixed(MaskGenerator):
    """The first tokens are visible."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: torch.Tensor | None = None) -> Mask:
        order = torch.arange(grid.tokens).expand(count, -1)
        return Mask(*order.split([grid.tokens - self.masked_count(grid), self.masked_count(grid)], dim=1))


def test_dual_masking_with_nothing_to_count_has_no_loss() -> None:
    torch.manual_seed(0)
    method = VideoMAE(tiny_vit(), PixelTarget(), Fixed(0.5), DecoderSettings(1), decoder_mask=Fixed(0.75))
    loss = method.step(video_batch(2), torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    assert loss == 0
    assert all(value.grad is None or not value.grad.any() for value in method.parameters())


def test_pictures_of_dual_masking_show_what_was_decoded() -> None:
    """Half of the tokens are decoded, a quarter seen: the others are unknown."""
    method = tiny(0.75, decoder_mask=RandomMask(0.5))
    batch = video_batch(2)
    output = method.step(batch, torch.Generator().manual_seed(0))
    grid = method.backbone.grid
    before, after = (
        patchify(video.permute(0, 4, 1, 2, 3), grid).flatten(2)
        for video in (output["show"]["clip"], method.pictures(output)["reconstruction"])
    )
    for clip in range(2):
        masked, decoded = (set(output["show"][name][clip].tolist()) for name in ("masked", "decoded"))
        assert masked & decoded
        assert masked - decoded
        for token in range(grid.tokens):
            if token not in masked:
                assert torch.equal(after[clip, token], before[clip, token])
            elif token not in decoded:
                assert (after[clip, token] == HIDDEN_GREY).all()
            else:
                assert after[clip, token].unique().numel() > 10
                assert not torch.equal(after[clip, token], before[clip, token])


class Partial(Fixed):
    """Half of what is hidden is predicted."""

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: torch.Tensor | None = None) -> Mask:
        mask = super().draw(count, grid, generator, boxes)
        return mask._replace(targets=mask.targets[:, ::2])


class Blocks(Fixed):
    """What is hidden comes in two blocks."""

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: torch.Tensor | None = None) -> Mask:
        mask = super().draw(count, grid, generator, boxes)
        return mask._replace(targets=mask.targets.unflatten(1, (2, -1)))


@pytest.mark.parametrize("kind", [Partial, Blocks])
def test_masks_that_it_cannot_take_are_refused(kind: type[MaskGenerator]) -> None:
    method = VideoMAE(tiny_vit(), PixelTarget(), kind(0.5), DecoderSettings(1))
    with pytest.raises(SettingError, match=rf"model\.mask is {kind.__name__}, whose .* choose another mask for VideoMAE\."):
        method.step(video_batch(2), torch.Generator().manual_seed(0))


def test_wrong_decoder_mask_is_named() -> None:
    with pytest.raises(SettingError, match=r"model\.decoder_mask\.ratio 1\.0 masks 32 of 32"):
        tiny(decoder_mask=TubeMask(1.0))

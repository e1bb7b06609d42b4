"""The transformer with learned positions and a class token: sizes, initial weights, other grids, weights."""

from pathlib import Path

import pytest
import torch

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.spacetime_vit import GREY, SpacetimeDecoder, SpacetimeViT
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.downstream.classification import Classification
from modules.weights.names.spacetime import from_spacetime, to_spacetime


def tiny(**settings: object) -> SpacetimeViT:
    defaults = {"image_size": 32, "num_frames": 4, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return SpacetimeViT("micro", **(defaults | settings))


def test_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        backbone = SpacetimeViT("huge", patch_size=14)
        decoder = SpacetimeDecoder(backbone, 1176, DecoderSettings(4, 512, 16))
    official = to_spacetime(
        {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
        | {f"decoder.{name}": value for name, value in decoder.state_dict().items()},
        backbone.grid,
    )
    shapes = {
        "pos_embed_spatial": (1, 256, 1280),
        "pos_embed_temporal": (1, 8, 1280),
        "pos_embed_class": (1, 1, 1280),
        "decoder_pos_embed_spatial": (1, 256, 512),
        "decoder_pred.weight": (1176, 512),
        "patch_embed.proj.weight": (1280, 3, 2, 14, 14),
        "blocks.31.attn.k.bias": (1280,),
        "decoder_blocks.3.attn.q.weight": (512, 512),
    }
    assert {name: tuple(official[name].shape) for name in shapes} == shapes
    assert backbone.grid.tokens == 2048


def test_initial_weights_are_those_of_separate_matrices() -> None:
    torch.manual_seed(0)
    backbone = tiny(embed_dim=96, num_heads=4)
    # Uniform within sqrt(6 / (inputs + outputs)).
    bound = (6 / (2 * 96)) ** 0.5
    for matrix in backbone.blocks[0].attn.qkv.weight.chunk(3):
        assert 0.98 * bound < matrix.abs().max() <= bound
    assert VideoViT("micro", 32, 4, patch_size=8).blocks[0].attn.qkv.weight.abs().max() <= (6 / (4 * 96)) ** 0.5
    assert backbone.patch_embed.weight.abs().max() <= (6 / (96 + 384)) ** 0.5
    for name, value in backbone.pos_embed.named_parameters():
        assert 0 < value.std() < 0.03, name


def test_the_class_token_sees_the_clip_and_is_not_among_the_tokens() -> None:
    backbone = tiny(pooling="class").eval()
    video = torch.randn(2, 3, 4, 32, 32)
    assert backbone.forward_features(video).shape == (2, 32, 32)
    pooled = backbone(video)
    whole = backbone.transform(backbone.embed_tokens(torch.randn(2, 32, 384), backbone.grid))
    assert whole.shape == (2, 33, 32)
    assert pooled.shape == (2, 32)
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-4)
    features, grids = backbone.forward_intermediates(video, norm=True)
    assert torch.allclose(features, backbone.forward_features(video), atol=1e-6)
    assert torch.allclose(grids[-1].flatten(2).transpose(1, 2), features, atol=1e-6)


@pytest.mark.parametrize("learned", ["separable", "joint"])
def test_clips_of_another_size_get_interpolated_positions(learned: str) -> None:
    backbone = tiny(learned=learned)
    assert backbone(torch.randn(1, 3, 8, 48, 32)).shape == (1, 32)
    same = backbone.positions_of(backbone.grid)
    assert same.shape == (1, 32, 32)
    # A table that is constant stays constant, and gradients reach it.
    for table in backbone.pos_embed.parameters():
        torch.nn.init.ones_(table)
    other = backbone.positions_of(backbone.grid._replace(t=4, h=6, w=4))
    assert torch.allclose(other, torch.full((1, 96, 32), 2.0 if learned == "separable" else 1.0))
    other.sum().backward()
    assert all(value.grad is not None for name, value in backbone.pos_embed.named_parameters() if "class" not in name)


def test_separable_positions_are_resized_on_loading(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tiny()
    torch.save(
        to_spacetime({f"backbone.{name}": value for name, value in source.state_dict().items()}, source.grid),
        tmp_path / "a.pth",
    )
    with caplog.at_level("INFO"):
        loaded = tiny(image_size=48, num_frames=8, checkpoint=str(tmp_path / "a.pth"))
    assert "are interpolated from 2 x 4 x 4 to 4 x 6 x 6 tokens" in caplog.text
    assert loaded.normalisation == GREY
    expected = source.positions_of(loaded.grid)
    # Interpolating the two tables is interpolating their sum.
    assert torch.allclose(loaded.positions_of(loaded.grid), expected, atol=1e-5)
    exact = tiny(checkpoint=str(tmp_path / "a.pth"))
    video = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(exact.eval()(video), source.eval()(video))


def test_files_of_the_other_network_are_refused(tmp_path: Path) -> None:
    source = tiny()
    torch.save({f"backbone.{name}": value for name, value in source.state_dict().items()}, tmp_path / "a.pth")
    with pytest.raises(SettingError, match=r"does not fit this VideoViT: .*left over \(pos_embed"):
        VideoViT("micro", 32, 4, patch_size=8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(tmp_path / "a.pth"))
    with pytest.raises(SettingError, match=r"pooling is class, but model\.backbone\.class_token is false"):
        tiny(pooling="class", class_token=False)


def test_names_go_both_ways_without_a_class_token() -> None:
    backbone = tiny(learned="joint", class_token=False)
    own = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    official = to_spacetime(own, backbone.grid)
    assert "pos_embed" in official
    assert "cls_token" not in official
    back = from_spacetime(official)
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], value) for name, value in own.items())


def test_a_classifier_takes_the_class_token_or_the_mean() -> None:
    """The class token keeps the encoder's norm; the mean gets a new one, as of other transformers."""
    video = torch.randn(2, 3, 4, 32, 32)
    of_class = Classification(tiny(pooling="class"), 5).eval()
    assert torch.allclose(of_class.features(video), of_class.backbone(video))
    assert not any(name.startswith("fc_norm") for name in of_class.state_dict())
    of_mean = Classification(tiny(), 5).eval()
    assert {"fc_norm.weight", "fc_norm.bias"} <= of_mean.state_dict().keys()
    assert not any("backbone.norm" in name for name in of_mean.state_dict())
    # Class token and positions have no weight decay in fine-tuning, and the rate of the embedding.
    names = {id(value): name for name, value in of_class.named_parameters()}
    first = {names[id(value)] for value in of_class.backbone.layer_groups()[0]}
    assert {f"backbone.pos_embed.{table}" for table in ("spatial", "temporal", "class_token", "class_position")} <= first
    assert {f"pos_embed.{table}" for table in ("spatial", "class_token")} <= of_class.backbone.no_weight_decay()

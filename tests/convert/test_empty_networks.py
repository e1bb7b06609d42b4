"""Sizes read from weights and the files next to them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from main import main
from modules.backbones.vit.decoder import DecoderSettings, MaskedDecoder
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.empty_networks import empty_network
from modules.weights.run_config import facts_of_run, parse_config
from modules.weights.sizes import PRESETS, Architecture, infer_architecture

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("width", "patch", "ratio", "decoder", "heads", "decoder_heads"),
    [
        (384, 16, 4.0, 192, 6, 3),
        (768, 16, 4.0, 384, 12, 6),
        (1024, 16, 4.0, 512, 16, 8),
        (1280, 16, 4.0, 512, 16, 8),
        (1408, 14, 48 / 11, 512, 16, 8),
    ],
)
def test_heads_of_published_networks(
    width: int, patch: int, ratio: float, decoder: int, heads: int, decoder_heads: int
) -> None:
    """ViT-S, B, L, H of VideoMAE and ViT-g of VideoMAE V2 (official code), from their tensors only."""
    given = Architecture(width, 1, heads, patch, 2, ratio, 224, 16, decoder, 1, decoder_heads, 6 * patch**2)
    weights = dict(empty_network(given).state_dict())
    found = infer_architecture(weights, {"patch_size": patch}, "test")
    assert (found.num_heads, found.decoder_heads, found.decoder_out) == (heads, decoder_heads, 6 * patch**2)
    again = empty_network(found).state_dict()
    assert {name: value.shape for name, value in again.items()} == {name: value.shape for name, value in weights.items()}


def test_every_preset_is_known() -> None:
    for preset in PRESETS.values():
        with torch.device("meta"):
            network = nn.ModuleDict({"backbone": VideoViT(embed_dim=preset.embed_dim, depth=1, num_heads=preset.num_heads)})
            network["decoder"] = MaskedDecoder(network["backbone"], 8, DecoderSettings(1))
        found = infer_architecture(dict(network.state_dict()), {}, "test")
        assert found.num_heads == preset.num_heads
        assert found.decoder_heads == network["decoder"].blocks[0].attn.num_heads


def test_a_recipe_says_its_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """The saved config of a run contains the facts where `facts_of_run` expects them."""
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(ROOT / "configs/videomae.yaml"), "--print_config"])
    facts = facts_of_run(parse_config(capsys.readouterr().out))
    expected = {"num_heads": 12, "image_size": 224, "num_frames": 16, "patch_size": 16, "tubelet_size": 2, "stride": 4}
    assert facts == expected

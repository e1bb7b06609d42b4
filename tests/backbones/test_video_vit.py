"""The video transformer: sizes, positions, invariances, loading and saving weights."""

from pathlib import Path

import pytest
import torch

from modules.backbones.vit.decoder import DecoderSettings, MaskedDecoder
from modules.backbones.vit.positions import sincos_positions
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.tokens import gather_tokens, patchify, unpatchify
from modules.layers.heads import VideoClassifier
from modules.weights.names.videomae import from_official, to_official


def tiny(**settings: object) -> VideoViT:
    return VideoViT("micro", **({"image_size": 32, "num_frames": 4, "patch_size": 8, "depth": 2} | settings))


def key_biases(module: torch.nn.Module) -> int:
    """Number of parameters in timm's fused bias that the official network does not have."""
    return sum(value.numel() // 3 for name, value in module.named_parameters() if name.endswith("qkv.bias"))


def parameters(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters()) - key_biases(module)


@pytest.mark.parametrize(
    ("size", "encoder", "whole", "depth", "out_dim"),
    [
        ("small", 21_880_000, 24_029_000, 4, 1536),
        ("base", 86_227_200, 94_210_944, 4, 1536),
        ("base", 86_227_200, 93_915_264, 4, 768),
        ("small", 21_880_000, 23_881_152, 4, 768),
        ("large", 303_861_000, 342_997_000, 12, 1536),
        ("huge", 631_607_000, 692_487_000, 12, 1536),
        ("giant", 1_011_610_752, 1_038_699_352, 4, 1176),
    ],
)
def test_parameter_counts(size: str, encoder: int, whole: int, depth: int, out_dim: int) -> None:
    """Counts of the official networks (to the last one where they are stated exactly)."""
    with torch.device("meta"):
        backbone = VideoViT(size)
        decoder = MaskedDecoder(backbone, out_dim, DecoderSettings(depth))
    for count, expected in ((parameters(backbone), encoder), (parameters(backbone) + parameters(decoder), whole)):
        assert count == expected if expected % 1000 else round(count, -3) == expected


def test_official_state_dict_has_218_entries_and_no_positions_or_key_bias() -> None:
    with torch.device("meta"):
        backbone = VideoViT("base")
        method = torch.nn.ModuleDict({"backbone": backbone, "decoder": MaskedDecoder(backbone, 1536, DecoderSettings())})
    official = to_official(dict(method.state_dict()), backbone.grid)
    assert len(official) == 218
    assert not any("position" in key or "pos_embed" in key or "qkv.bias" in key for key in official)
    assert official["encoder.patch_embed.proj.weight"].shape == (768, 3, 2, 16, 16)
    assert official["encoder.blocks.0.attn.q_bias"].shape == (768,)


def test_finetune_network_size() -> None:
    with torch.device("meta"):
        network = VideoClassifier(VideoViT("base"), 400)
    unused_norm = parameters(network.backbone.norm)
    assert parameters(network) - unused_norm == 86_534_800


def test_positions() -> None:
    table = sincos_positions(1568, 768)[0]
    assert torch.equal(table[0], torch.tensor([0.0, 1.0]).repeat(384))
    assert torch.allclose(table[:, 0], torch.arange(1568, dtype=torch.float64).sin().float())
    assert table.dtype == torch.float32


def test_patchify_order_and_inverse() -> None:
    backbone = tiny()
    video = torch.arange(2 * 3 * 4 * 32 * 32).view(2, 3, 4, 32, 32)
    cubes = patchify(video, backbone.grid)
    assert torch.equal(unpatchify(cubes, backbone.grid), video)
    t, h, w = 1, 2, 3
    cube = video[1, 2, 2 * t : 2 * t + 2, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8]
    assert torch.equal(cubes[1, t * 16 + h * 4 + w, 2], cube.flatten())


def test_embedding_equals_a_3d_convolution() -> None:
    backbone = tiny()
    weight = backbone.patch_embed.weight.view(-1, 3, 2, 8, 8)
    video = torch.randn(2, 3, 4, 32, 32)
    expected = torch.nn.functional.conv3d(video, weight, backbone.patch_embed.bias, stride=(2, 8, 8))
    ours = backbone.patch_embed(patchify(video, backbone.grid).flatten(2))
    assert torch.allclose(ours, expected.flatten(2).transpose(1, 2), atol=1e-5)


def test_visible_tokens_are_encoded_as_if_alone() -> None:
    """Pixels of hidden cubes change nothing; several masks in one pass equal single passes."""
    backbone = tiny().eval()
    video = torch.randn(2, 3, 4, 32, 32)
    visible = torch.tensor([[0, 5, 17], [3, 4, 31], [1, 2, 3], [9, 20, 30]])
    together = backbone.forward_features(video, visible)
    assert together.shape == (4, 3, 96)
    for row in range(4):
        alone = backbone.forward_features(video[row % 2, None], visible[row, None])
        assert torch.allclose(together[row], alone[0], atol=1e-5)
    cubes = patchify(video, backbone.grid)
    hidden = torch.ones(2, 32, dtype=torch.bool)
    hidden[torch.arange(2)[:, None], visible[:2]] = False
    noisy = unpatchify(torch.where(hidden[..., None, None], torch.randn_like(cubes), cubes), backbone.grid)
    assert torch.equal(backbone.forward_features(noisy, visible[:2]), backbone.forward_features(video, visible[:2]))


def test_batch_order_goes_through() -> None:
    backbone = tiny().eval()
    video = torch.randn(3, 3, 4, 32, 32)
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(backbone(video)[order], backbone(video[order]), atol=1e-5)


def test_key_bias_has_no_effect() -> None:
    backbone = tiny().eval()
    video = torch.randn(1, 3, 4, 32, 32)
    before = backbone(video)
    with torch.no_grad():
        for block in backbone.blocks:
            block.attn.qkv.bias[96:192] += torch.randn(96)
    assert torch.allclose(backbone(video), before, atol=1e-4)


def test_decoder_ignores_order_of_visible_tokens() -> None:
    """Positions are added to their tokens, so the order of visible tokens cannot matter."""
    backbone = tiny()
    decoder = MaskedDecoder(backbone, 10, DecoderSettings(2)).eval()
    tokens, visible, masked = torch.randn(1, 4, 96), torch.tensor([[1, 5, 9, 30]]), torch.tensor([[0, 2, 31]])
    order = torch.tensor([2, 0, 3, 1])
    first = decoder(tokens, visible, masked)
    assert torch.allclose(first, decoder(tokens[:, order], visible[:, order], masked), atol=1e-5)
    turned = decoder(tokens, visible, masked.flip(1))
    assert torch.allclose(first, turned.flip(1), atol=1e-5)


def test_initial_values() -> None:
    backbone = tiny()
    decoder = MaskedDecoder(backbone, 10, DecoderSettings())
    assert decoder.mask_token.abs().max() <= 0.02
    for block in [*backbone.blocks, *decoder.blocks]:
        bound = (6 / (4 * block.attn.qkv.in_features)) ** 0.5
        assert block.attn.qkv.weight.abs().max() <= bound
        assert block.attn.qkv.weight.abs().max() > 0.95 * bound
        assert block.mlp.fc1.bias.abs().max() == 0
        assert block.norm1.eps == 1e-6
    assert decoder.embed.bias is None


def test_recomputed_blocks_give_the_same_gradients() -> None:
    video = torch.randn(1, 3, 4, 32, 32)
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        backbone = tiny(recompute_blocks=recompute).train()
        backbone(video).square().sum().backward()
        grads.append(backbone.patch_embed.weight.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_layer_groups_cover_each_parameter_once() -> None:
    backbone = tiny()
    grouped = [id(value) for group in backbone.layer_groups() for value in group]
    assert sorted(grouped) == sorted(id(value) for value in backbone.parameters())
    assert len(backbone.layer_groups()) == len(backbone.blocks) + 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_frames": 17}, "model.backbone.num_frames 17"),
        ({"patch_size": 9}, "model.backbone.patch_size 9"),
        ({"num_heads": 7}, "model.backbone.num_heads"),
    ],
)
def test_impossible_sizes_are_named(settings: dict, named: str) -> None:
    with pytest.raises(SettingError, match=named.replace(".", r"\.")):
        tiny(**settings)


@pytest.mark.parametrize("form", ["method", "official", "bare"])
def test_checkpoint_setting_reads_every_form(form: str, tmp_path: Path) -> None:
    source = tiny()
    method = torch.nn.ModuleDict({"backbone": source, "decoder": MaskedDecoder(source, 6, DecoderSettings())})
    state = dict(method.state_dict())
    content = {
        "method": {"state_dict": state},
        "official": {"model": to_official(state, source.grid)},
        "bare": source.state_dict(),
    }[form]
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    loaded = tiny(checkpoint=str(path)).eval()
    video = torch.randn(1, 3, 4, 32, 32)
    assert torch.allclose(loaded(video), source.eval()(video), atol=1e-5)


def test_foreign_checkpoint_is_refused_with_a_report(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(tiny(embed_dim=48).state_dict(), path)
    with pytest.raises(SettingError, match=r"other shape \(patch_embed\.weight \[48, 384\] for \[96, 384\]"):
        tiny(checkpoint=str(path))


def test_names_round_trip() -> None:
    backbone = tiny()
    method = torch.nn.ModuleDict({"backbone": backbone, "decoder": MaskedDecoder(backbone, 6, DecoderSettings())})
    with torch.no_grad():
        for name, value in method.named_parameters():
            value.copy_(torch.randn_like(value))
            if name.endswith("qkv.bias"):
                third = len(value) // 3
                value[third : 2 * third] = 0
    state = dict(method.state_dict())
    back = from_official(to_official(state, backbone.grid))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    load_strictly(method, back, "round trip")


def test_gather_tokens() -> None:
    tokens = torch.arange(24).view(2, 4, 3)
    index = torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(gather_tokens(tokens, index)[0], tokens[0, [3, 0]])
    assert torch.equal(gather_tokens(tokens, index)[1], tokens[1, [1, 1]])

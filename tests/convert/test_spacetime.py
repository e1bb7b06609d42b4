"""Conversion of MAE-ST's official files, and of VideoMAE V2's with cosine attention."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.spacetime_vit import GREY, SpacetimeViT
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.convert.load import describe_backbone
from modules.core.errors import SettingError
from modules.downstream.classification import Classification
from modules.layers.targets import InputPixelTarget, PixelTarget
from modules.masks.clip import UniformMask
from modules.masks.tokens import TubeMask
from modules.methods.stmae import STMAE
from modules.methods.videomae import VideoMAE
from modules.weights.files import read_weights
from modules.weights.names.spacetime import to_spacetime
from modules.weights.names.videomae import to_official
from modules.weights.passport import read_passport

HEADS: dict[str, Any] = {"heads": 2}
CLIP: dict[str, Any] = {"image_size": 32, "num_frames": 4}


def encoder(**settings: Any) -> SpacetimeViT:
    return SpacetimeViT("micro", 32, 4, patch_size=8, embed_dim=64, depth=2, num_heads=2, **settings)


def written(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"model": state, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("learned", ["separable", "joint"])
@pytest.mark.parametrize("class_token", [True, False])
def test_pretraining_files_go_both_ways(learned: Any, class_token: bool, tmp_path: Path) -> None:
    backbone = encoder(learned=learned, class_token=class_token)
    # Sixteen heads, as in all official decoders.
    method = STMAE(backbone, InputPixelTarget(), UniformMask(0.5), DecoderSettings(1, 32, 16)).eval()
    state = to_spacetime(dict(method.state_dict()), backbone.grid)
    source = written(state, tmp_path / "official.pth")
    sizes = HEADS | (CLIP if learned == "joint" else {})
    convert(source, tmp_path / "ours.safetensors", **sizes)
    passport = read_passport(tmp_path / "ours.safetensors")
    assert passport["kind"] == "pretraining"
    assert passport["architecture"]["learned"] == learned
    assert passport["architecture"]["decoder_heads"] == 16
    assert (passport["architecture"]["image_size"], passport["frames"]) == (32, 4)
    assert passport["normalisation"] == GREY.as_record()
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="official")
    back = read_weights(tmp_path / "back.pth", "--source")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    found = describe_backbone(tmp_path / "ours.safetensors")
    clip = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        ours, own = (one(one.preprocess(clip)) for one in (found.network, backbone.eval()))
    assert isinstance(found.network, SpacetimeViT)
    assert torch.equal(ours, own)
    if (learned, class_token) == ("separable", True):
        with pytest.raises(SettingError, match=r"neither learned positions nor cosine attention"):
            convert(source, tmp_path / "hf", to="huggingface", **sizes)
        with pytest.raises(SettingError, match=r"learned for num_frames 4, not 8; leave out --num_frames"):
            convert(source, tmp_path / "other.safetensors", num_frames=8, **sizes)


def test_finetuned_files_keep_their_class_token(tmp_path: Path) -> None:
    method = Classification(encoder(pooling="class"), 5).eval()
    torch.nn.init.normal_(method.classifier.weight)
    state = to_spacetime(dict(method.state_dict()), method.backbone.grid)
    source = written(state, tmp_path / "official.pth")
    convert(source, tmp_path / "ours.safetensors", **HEADS)
    assert read_passport(tmp_path / "ours.safetensors")["kind"] == "classifier"
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="official")
    assert all(torch.equal(value, state[name]) for name, value in read_weights(tmp_path / "back.pth", "--source").items())
    found = describe_backbone(source.parent / "ours.safetensors").network
    assert found.pools_class
    clip = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    again = Classification(encoder(pooling="class"), init_from=str(source), num_classes=5).eval()
    with torch.no_grad():
        video = method.backbone.preprocess(clip)
        assert torch.equal(again.logits(again.features(video)), method.logits(method.features(video)))
        assert torch.equal(found(video), method.features(video))


def test_cosine_attention_is_read_from_the_weights(tmp_path: Path) -> None:
    backbone = VideoViT("micro", 32, 4, patch_size=8, embed_dim=64, depth=2, num_heads=2, cosine_attention=True)
    method = VideoMAE(backbone, PixelTarget(), TubeMask(0.5), DecoderSettings(1)).eval()
    state = to_official(dict(method.state_dict()), backbone.grid)
    assert state["encoder.blocks.0.attn.scale"].shape == (2, 1, 1)
    source = written(state, tmp_path / "official.pth")
    convert(source, tmp_path / "ours.safetensors", **HEADS, **CLIP)
    assert read_passport(tmp_path / "ours.safetensors")["architecture"]["cosine_attention"]
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="official")
    assert all(torch.equal(value, state[name]) for name, value in read_weights(tmp_path / "back.pth", "--source").items())
    found = describe_backbone(tmp_path / "ours.safetensors").network
    video = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(video), backbone.eval()(video))
    # Without weight decay, as in the official code.
    assert "backbone.blocks.1.attn.scale" in method.no_weight_decay()
    assert "decoder.blocks.0.attn.scale" in method.no_weight_decay()

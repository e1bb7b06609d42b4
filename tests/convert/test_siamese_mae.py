"""Weights of CropMAE and SiamMAE: official names and ours, both ways, complete and the encoder alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.backbones.frame_tower import FrameTower
from modules.convert.command import convert
from modules.convert.frame_tower import MAE
from modules.convert.load import load_backbone
from modules.core.errors import SettingError
from modules.methods.cropmae import CropMAE
from modules.weights.files import read_weights
from modules.weights.names.siamese_mae import to_official
from modules.weights.passport import read_passport
from tests.registry import CROSS, FRAMES, OPTIM, SIDE, video_batch

SIZES: dict[str, Any] = {"image_size": SIDE, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
"""One head per 64 channels, as files are taken to have that do not say so."""


def tower(checkpoint: str | None = None, name: str = MAE) -> FrameTower:
    return FrameTower(name, FRAMES, **SIZES, checkpoint=checkpoint)


def method(seed: int = 0, init_from: str | None = None) -> CropMAE:
    torch.manual_seed(seed)
    return CropMAE(tower(), mask_ratio=0.75, decoder=CROSS, optim=OPTIM, init_from=init_from).eval()


def write_official(path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"model": to_official(weights), "epoch": 399}, path)


def mae(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with a decoder of MAE's names."""
    cross = ("multihead_attn", "self_attn", "linear1", "linear2", "norm3")
    kept = {name: value for name, value in state.items() if not any(part in name for part in cross)}
    return kept | {"decoder_blocks.0.attn.qkv.weight": torch.zeros(48, 16)}


@torch.no_grad()
def features(network: Any) -> Tensor:
    clip = video_batch(2).stream("video").data[:, 0]
    result: Tensor = network.eval()(network.preprocess(clip))
    return result


def test_official_weights_both_ways(tmp_path: Path) -> None:
    known = method()
    write_official(tmp_path / "official.pth", known.state_dict())
    names = read_weights(tmp_path / "official.pth", "x").keys()
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.attn.qkv.bias", "norm.weight"} <= names
    assert {"mask_token", "decoder_pos_embed", "decoder_embed.bias", "decoder_norm.weight", "decoder_pred.weight"} <= names
    assert {"decoder_blocks.1.self_attn.in_proj_weight", "decoder_blocks.0.multihead_attn.out_proj.bias"} <= names
    convert(tmp_path / "official.pth", tmp_path / "ours.safetensors", decoder_heads=1)
    ours = read_weights(tmp_path / "ours.safetensors", "x")
    assert ours.keys() == known.state_dict().keys()
    passport = read_passport(tmp_path / "ours.safetensors")
    sizes = {"name": MAE, "embed_dim": 64, "decoder_depth": 2, "decoder_dim": 16, "decoder_heads": 1, "image_size": SIDE}
    assert passport["architecture"].items() >= sizes.items()
    assert passport["kind"] == "pretraining"
    convert(tmp_path / "ours.safetensors", tmp_path / "again.pth", to="official")
    again = read_weights(tmp_path / "again.pth", "x")
    for name, value in to_official(known.state_dict()).items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize("name", ["official.pth", "ours.safetensors", "encoder.safetensors", "encoder.pth", "mae.pth"])
def test_the_encoder_of_every_file(name: str, tmp_path: Path) -> None:
    known, path = method(), tmp_path / name
    write_official(tmp_path / "official.pth", known.state_dict())
    if name.endswith("safetensors"):
        convert(tmp_path / "official.pth", path, part="backbone" if "encoder" in name else "all")
    elif name == "encoder.pth":
        torch.save(known.backbone.vit.state_dict(), path)
    elif name == "mae.pth":
        torch.save({"model": mae(to_official(known.state_dict()))}, path)
    loaded = load_backbone(path, FRAMES)
    assert isinstance(loaded, FrameTower)
    assert loaded.num_frames == FRAMES
    convert(path, tmp_path / "converted.safetensors")
    for network in (loaded, tower(str(path), loaded.name), tower(str(tmp_path / "converted.safetensors"), loaded.name)):
        state = network.vit.state_dict()
        assert all(torch.equal(state[key], value) for key, value in known.backbone.vit.state_dict().items())
        assert torch.allclose(features(network), features(known.backbone), atol=1e-6)
    wide = torch.randint(0, 256, (1, 2, 24, 56, 3), dtype=torch.uint8)
    assert loaded.forward_features(loaded.preprocess(wide)).shape == (1, 2 * 3 * 7, 64)


def test_the_whole_method_starts_from_a_file(tmp_path: Path) -> None:
    known = method()
    write_official(tmp_path / "official.pth", known.state_dict())
    torch.save({"state_dict": known.state_dict()}, tmp_path / "ours.ckpt")
    for name in ("official.pth", "ours.ckpt"):
        again = method(1, str(tmp_path / name))
        assert all(torch.equal(again.state_dict()[key], value) for key, value in known.state_dict().items())
    state = to_official(known.state_dict())
    del state["decoder_blocks.1.norm3.bias"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(SettingError, match=r"1 missing \(decoder\.blocks\.1\.norm3\.bias\)"):
        method(1, str(tmp_path / "less.pth"))
    with pytest.raises(SettingError, match="does not fit this FrameTower"):
        convert(tmp_path / "less.pth", tmp_path / "less.safetensors")
    with pytest.raises(SettingError, match=r"--to huggingface is for networks of the VideoMAE family"):
        convert(tmp_path / "official.pth", tmp_path / "folder", to="huggingface")

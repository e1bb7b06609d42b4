"""An encoder from a single file: sizes, preprocessing and position codes are those of the saved network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.convert.load import describe_backbone, load_backbone
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation
from tests.registry import FRAMES, METHODS, SIDE, tiny_cnn, tiny_locomotion, tiny_vit
from tests.weights.test_earlier import EARLIER, FEATURES, pattern

SIZES = {"heads": 2, "image_size": SIDE, "num_frames": FRAMES}


def clips() -> torch.Tensor:
    return pattern(2, FRAMES, SIDE, SIDE, 3).to(torch.uint8)


@torch.no_grad()
def features(network: Any, clip: torch.Tensor) -> torch.Tensor:
    return network.eval()(network.preprocess(clip))


@pytest.mark.parametrize("name", FEATURES)
def test_files_of_before_load_without_a_word_about_their_sizes(name: str) -> None:
    clip = pattern(2, 3, 4, 25, 2) / 251 - 0.5 if name.startswith("skeleton") else clips()
    found = load_backbone(EARLIER / name)
    assert not found.training
    assert features(found, clip)[0, :8].tolist() == pytest.approx(FEATURES[name], abs=2e-5)


@pytest.mark.parametrize(
    ("kind", "to"),
    [("vit", "safetensors"), ("vit", "huggingface"), ("cnn", "safetensors"), ("video_text", "safetensors")],
)
def test_what_was_converted_gives_equal_features(kind: str, to: Any, tmp_path: Path) -> None:
    networks: dict[str, nn.Module] = {"vit": tiny_vit(), "cnn": tiny_cnn(), "video_text": tiny_locomotion()}
    network = networks[kind].eval()
    if to == "huggingface":
        # It has no bias of keys.
        for block in network.blocks:  # type: ignore[union-attr]
            block.attn.qkv.bias.data[32:64] = 0
    prefix = "" if kind == "video_text" else "backbone."
    source, out = tmp_path / "source.safetensors", tmp_path / ("out" if to == "huggingface" else "out.safetensors")
    save_file({prefix + name: value.contiguous() for name, value in network.state_dict().items()}, source)
    part = "backbone" if kind == "video_text" else "all"
    convert(source, out, to=to, part=part, **({} if kind == "cnn" else SIZES))  # type: ignore[arg-type]
    found = describe_backbone(out)
    own = network.backbone if kind == "video_text" else network
    assert torch.allclose(features(found.network, clips()), features(own, clips()), atol=1e-6)
    assert found.frames == (16 if kind == "cnn" else FRAMES)
    assert found.size == (None if kind == "cnn" else SIDE)


def test_preprocessing_heads_and_stride_come_from_the_passport(tmp_path: Path) -> None:
    network = VideoViT("micro", SIDE, FRAMES, patch_size=8, embed_dim=48, depth=2, num_heads=4)
    network.feed(Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "BGR"))
    method = METHODS[0].build()
    method.backbone = network
    state = {"state_dict": {f"backbone.{name}": value for name, value in network.state_dict().items()}}
    torch.save(state | {"record": {"backbone": network.facts()}}, tmp_path / "run.ckpt")
    convert(tmp_path / "run.ckpt", tmp_path / "out.safetensors", heads=4, stride=3)
    found = describe_backbone(tmp_path / "out.safetensors")
    assert (found.network.normalisation, found.network.num_heads, found.stride) == (network.normalisation, 4, 3)
    assert torch.allclose(features(found.network, clips()), features(network, clips()), atol=1e-6)


def test_other_clips_interpolate_positions(tmp_path: Path) -> None:
    save_file({f"backbone.{name}": value for name, value in tiny_vit().state_dict().items()}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", **SIZES)
    found = load_backbone(tmp_path / "b.safetensors", num_frames=8, image_size=48)
    assert isinstance(found, VideoViT)
    assert (found.grid[:3], found.trained_grid[:3]) == ((4, 6, 6), (2, 4, 4))
    with pytest.raises(SettingError, match="not a multiple of"):
        load_backbone(tmp_path / "b.safetensors", image_size=50)


def test_what_is_no_encoder_of_clips_is_refused(tmp_path: Path) -> None:
    save_file({"words.weight": torch.zeros(4, 3)}, tmp_path / "text.safetensors")
    with pytest.raises(SettingError, match="holds no encoder of clips"):
        load_backbone(tmp_path / "text.safetensors")
    save_file({"patch_embed.proj.weight": torch.zeros(4, 3, 2, 2)}, tmp_path / "tower.safetensors")
    with pytest.raises(SettingError, match="contains no complete network of a known type: pos_embed is missing"):
        load_backbone(tmp_path / "tower.safetensors")
    with pytest.raises(SettingError, match="names"):
        load_backbone(tmp_path / "none.safetensors")


def test_the_direction_of_a_gru_travels(tmp_path: Path) -> None:
    network = BiGRU(4, 2)
    save_file({f"backbone.{name}": value for name, value in network.state_dict().items()}, tmp_path / "gru.safetensors")
    clip = pattern(2, 3, 4, 25, 2) / 251 - 0.5
    assert torch.equal(features(load_backbone(tmp_path / "gru.safetensors"), clip), features(network, clip))

"""Conversion of official SIGMA files: prototypes and MLP have the sizes of the file."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.convert.empty_networks import empty_network
from modules.core.errors import SettingError
from modules.core.loading import compare
from modules.layers.heads import VideoClassifier
from modules.layers.targets import PixelTarget
from modules.masks.tokens import TubeMask
from modules.methods.sigma import SIGMA
from modules.weights.names.videomae import encoder_weights, from_official, is_official
from modules.weights.passport import read_passport
from modules.weights.sizes import infer_architecture
from tests.convert.test_command import assert_equal
from tests.registry import tiny_vit

SIZES = {"heads": 2, "image_size": 32, "num_frames": 4}


def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return shapes | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def blocks(name: str, depth: int, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for block in (f"{name}.blocks.{number}" for number in range(depth)):
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= {f"{block}.attn.q_bias": (width,), f"{block}.attn.v_bias": (width,)}
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width, bias=False) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
    return shapes


def names_and_shapes(
    width: int, depth: int, decoder_depth: int, patch: int, out: int, prototypes: int, mlp: tuple[int, ...] = ()
) -> dict[str, tuple[int, ...]]:
    """Those of a pretraining file of the official code."""
    narrow = width // 2
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.patch_embed.proj.weight": (width, 3, 2, patch, patch),
        "encoder.patch_embed.proj.bias": (width,),
        "encoder_to_decoder.weight": (narrow, width),
        "mask_token": (1, 1, narrow),
        "prototypes": (prototypes, out),
    }
    shapes |= blocks("encoder", depth, width) | norm("encoder.norm", width)
    shapes |= blocks("decoder", decoder_depth, narrow) | norm("decoder.norm", narrow) | linear("decoder.head", out, narrow)
    for layer, (inputs, outputs) in enumerate(zip(mlp, (*mlp[1:], out), strict=False)):
        shapes |= linear(f"head.{2 * layer}", outputs, inputs)
    return shapes


SMALL = {
    "dino": names_and_shapes(32, 2, 1, 8, out=20, prototypes=7),
    "mlp": names_and_shapes(32, 2, 1, 8, out=6, prototypes=11, mlp=(384, 24, 16, 12)),
}


def official_file(kind: str, path: Path, **changed: Tensor) -> dict[str, Tensor]:
    """Write the checkpoint of the official trainer; returns its tensors."""
    state = {name: torch.randn(shape) for name, shape in SMALL[kind].items()} | changed
    args = argparse.Namespace(loss_func="SWAV", num_prototypes=3000, input_size=224)
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 800, "scaler": {"scale": 1.0}, "args": args}, path)
    return state


@pytest.mark.parametrize(
    ("width", "out", "prototypes", "mlp", "tensors", "parameters"),
    [
        (768, 768, 3000, (), 219, 96_219_264),
        (768, 256, 3000, (1536, 1024, 1024, 512), 227, 97_765_760),
        (768, 256, 4000, (1536, 1024, 1024, 512), 227, 98_021_760),
        (384, 768, 3000, (), 219, 26_185_152),
    ],
)
def test_sizes_of_published_networks(
    width: int, out: int, prototypes: int, mlp: tuple[int, ...], tensors: int, parameters: int
) -> None:
    shapes = names_and_shapes(width, 12, 4, 16, out, prototypes, mlp)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert len(state) == tensors
    assert sum(value.numel() for value in state.values()) == parameters
    weights = from_official(state)
    found = infer_architecture(weights, {"patch_size": 16, "tubelet_size": 2}, "test")
    assert (found.num_prototypes, found.decoder_out, found.projection_inputs) == (prototypes, out, mlp or None)
    compare(dict(empty_network(found).state_dict()), weights, "test", "network")


@pytest.mark.parametrize("kind", SMALL)
def test_around_changes_no_bit(kind: str, tmp_path: Path) -> None:
    expected = official_file(kind, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", **SIZES)
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    convert(tmp_path / "c.safetensors", tmp_path / "d.pth", to="official")
    assert_equal(torch.load(tmp_path / "d.pth", weights_only=True)["model"], expected)
    ours = load_file(tmp_path / "b.safetensors")
    assert torch.equal(ours["prototypes"], expected["prototypes"])
    assert {name.replace("head.", "projection.") for name in expected if name.startswith("head.")} <= ours.keys()
    passport = read_passport(tmp_path / "d.pth")
    assert passport["kind"] == "pretraining"
    assert passport["architecture"] == read_passport(tmp_path / "b.safetensors")["architecture"]
    assert passport["architecture"]["num_prototypes"] == len(expected["prototypes"])


@pytest.mark.parametrize("kind", SMALL)
def test_encoder_alone(kind: str, tmp_path: Path) -> None:
    expected = encoder_weights(official_file(kind, tmp_path / "a.pth"))
    expected = {name: value for name, value in expected.items() if name in tiny_vit().state_dict()}
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", part="backbone", **SIZES)
    convert(tmp_path / "a.pth", tmp_path / "folder", part="backbone", to="huggingface", **SIZES)
    convert(tmp_path / "folder", tmp_path / "c.safetensors")
    for name in ("b", "c"):
        assert_equal(encoder_weights(load_file(tmp_path / f"{name}.safetensors")), expected)
    loaded = VideoViT("micro", 32, 4, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(tmp_path / "b.safetensors"))
    assert_equal(dict(loaded.state_dict()), expected)
    with pytest.raises(SettingError, match="does not support SIGMA's prototypes; pass --part backbone"):
        convert(tmp_path / "a.pth", tmp_path / "other", to="huggingface", **SIZES)


def test_strict_into_the_method_and_into_a_classifier(tmp_path: Path) -> None:
    state = official_file("mlp", tmp_path / "a.pth")
    assert is_official(state)
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", **SIZES)
    for name in ("a.pth", "b.safetensors"):
        path = str(tmp_path / name)
        method = SIGMA(tiny_vit(), PixelTarget(), TubeMask(0.5), decoder=DecoderSettings(1), init_from=path)
        assert_equal(dict(method.state_dict()), load_file(tmp_path / "b.safetensors"))
    convert(tmp_path / "a.pth", tmp_path / "c.safetensors", part="backbone", **SIZES)
    classifier, encoder = VideoClassifier(tiny_vit(), 5), load_file(tmp_path / "c.safetensors")
    report = compare(classifier.state_dict(), encoder, "file", "classifier", may_miss=("fc_norm.", "head."))
    assert report.missing == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]


def test_fine_tuned_files_are_those_of_videomae(tmp_path: Path) -> None:
    encoder = {name.removeprefix("encoder."): shape for name, shape in SMALL["dino"].items() if name.startswith("encoder.")}
    shapes = {name: shape for name, shape in encoder.items() if not name.startswith("norm.")}
    shapes |= norm("fc_norm", 32) | linear("head", 5, 32)
    expected = {name: torch.randn(shape) for name, shape in shapes.items()}
    torch.save({"model": expected, "args": argparse.Namespace(linear_probing=False)}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", **SIZES)
    convert(tmp_path / "b.safetensors", tmp_path / "c.pth", to="official")
    assert_equal(torch.load(tmp_path / "c.pth", weights_only=True)["model"], expected)
    assert read_passport(tmp_path / "b.safetensors")["kind"] == "classifier"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prototypes", "prototype", r"prototypes is missing"),
        ("head.2.bias", "head.2.shift", r"1 missing \(projection\.2\.bias\), 1 left over \(projection\.2\.shift\)"),
        ("head.4.weight", "head.5.weight", r"left over \(.*projection\.5\.weight"),
        ("mask_token", "mask", r"1 missing \(decoder\.mask_token\), 1 left over \(mask\)"),
    ],
)
def test_wrong_names_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    state = official_file("mlp", tmp_path / "a.pth")
    state[new] = state.pop(old)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(SettingError, match=message):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", **SIZES)
    assert not (tmp_path / "b.safetensors").exists()


def test_prototypes_of_another_width_are_refused(tmp_path: Path) -> None:
    official_file("mlp", tmp_path / "a.pth", prototypes=torch.randn(11, 5))
    with pytest.raises(SettingError, match=r"other shape \(prototypes \[11, 5\] for \[11, 6\]\)"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", **SIZES)
    official_file("mlp", tmp_path / "a.pth", **{"head.2.weight": torch.randn(16, 23)})
    with pytest.raises(SettingError, match=r"projection\.0\.weight \[24, 384\] for \[23, 384\]"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", **SIZES)

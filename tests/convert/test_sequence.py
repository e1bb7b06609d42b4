"""Encoders of feature sequences: conversion from and to LV-MAE's official names, loading by every path, and export."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.backbones.sequence.transformer import SequenceTransformer
from modules.backbones.vit.decoder import DecoderSettings
from modules.convert.command import convert
from modules.convert.load import load_backbone
from modules.core.errors import SettingError
from modules.downstream.classification import Classification
from modules.masks.sequences import RandomSteps
from modules.methods.lvmae import LVMAE
from modules.weights.names.lvmae import to_official
from modules.weights.passport import read_passport

WIDTH, STEPS, HEADS = 16, 12, 4


def build(**settings: object) -> LVMAE:
    torch.manual_seed(0)
    return LVMAE(SequenceTransformer(WIDTH, 2, HEADS, max_steps=STEPS), RandomSteps(), DecoderSettings(1, 8, 2), **settings)


def official_state(method: LVMAE) -> dict[str, Tensor]:
    positions = {"pos_embed": method.backbone.positions, "decoder_pos_embed": method.decoder.positions}
    return to_official(dict(method.state_dict()), positions)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A file of the form of the official code."""
    path = tmp_path / "official.pth"
    torch.save({"model": official_state(build()), "epoch": 149}, path)
    return path


def test_official_file_to_ours_and_back(official: Path, tmp_path: Path) -> None:
    method = build()
    convert(official, tmp_path / "ours.safetensors", heads=HEADS, decoder_heads=2)
    ours = load_file(tmp_path / "ours.safetensors")
    assert ours.keys() == method.state_dict().keys()
    passport = read_passport(tmp_path / "ours.safetensors")
    assert (passport["kind"], passport["frames"]) == ("pretraining", STEPS)
    sizes = {"stream": "feature", "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS, "max_steps": STEPS, "decoder_heads": 2}
    assert sizes.items() <= passport["architecture"].items()
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="official")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    expected = official_state(method)
    assert back.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in back.items())
    convert(official, tmp_path / "encoder.safetensors", part="backbone", heads=HEADS)
    assert all(name.startswith("backbone.") for name in load_file(tmp_path / "encoder.safetensors"))


def test_every_path_loads_the_same_encoder(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = build().eval()
    convert(official, tmp_path / "ours.safetensors", heads=HEADS, decoder_heads=2)
    sequence = torch.randn(2, 9, WIDTH)
    sequence[1, 5:] = 0
    expected = method.backbone(method.normalise(sequence))
    # At this width, an official file does not tell its heads.
    network = load_backbone(tmp_path / "ours.safetensors")
    assert torch.equal(network(network.preprocess(sequence)), expected)
    for path in (official, tmp_path / "ours.safetensors"):
        loaded = SequenceTransformer(WIDTH, 2, HEADS, max_steps=STEPS, checkpoint=str(path)).eval()
        assert torch.equal(loaded(loaded.preprocess(sequence)), expected)
        again = build(init_from=str(path))
        assert all(torch.equal(value, method.state_dict()[name]) for name, value in again.state_dict().items())
    with pytest.raises(SettingError, match=r"num_heads 4, but model\.backbone\.num_heads is 2"):
        SequenceTransformer(WIDTH, 2, 2, max_steps=STEPS, checkpoint=str(tmp_path / "ours.safetensors"))
    with pytest.raises(SettingError, match="does not fit this SequenceTransformer"):
        SequenceTransformer(WIDTH, 3, HEADS, max_steps=STEPS, checkpoint=str(official))


@pytest.mark.parametrize("mode", ["linear", "attentive"])
def test_classifiers_are_converted_and_keep_their_scores(mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = SequenceTransformer(WIDTH, 1, HEADS, max_steps=STEPS)
    method = Classification(backbone, 5, mode).eval()  # type: ignore[arg-type]
    torch.save({"state_dict": method.state_dict(), "record": {}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "classifier.safetensors", heads=HEADS)
    passport = read_passport(tmp_path / "classifier.safetensors")
    assert (passport["kind"], passport["architecture"]["num_classes"]) == ("classifier", 5)
    again = Classification(
        SequenceTransformer(WIDTH, 1, HEADS, max_steps=STEPS), 5, mode, init_from=str(tmp_path / "classifier.safetensors")
    ).eval()
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    with pytest.raises(SettingError, match="which has no"):
        convert(tmp_path / "classifier.safetensors", tmp_path / "official.pth", to="official")


@pytest.mark.slow
@pytest.mark.parametrize("to", ["export", "onnx"])
def test_exported_encoders_and_classifiers(official: Path, tmp_path: Path, to: str) -> None:
    if to == "onnx":
        pytest.importorskip("onnxscript", reason="needs the extra export")
    convert(official, tmp_path / "ours.safetensors", heads=HEADS, decoder_heads=2)
    suffix = {"export": "pt2", "onnx": "onnx"}[to]
    convert(tmp_path / "ours.safetensors", tmp_path / f"encoder.{suffix}", to=to, part="backbone")  # type: ignore[arg-type]
    assert (tmp_path / f"encoder.{suffix}").is_file()
    method = Classification(SequenceTransformer(WIDTH, 1, HEADS, max_steps=STEPS), 5, "attentive")
    torch.save({"state_dict": method.state_dict(), "record": {}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "classifier.safetensors", heads=HEADS)
    convert(tmp_path / "classifier.safetensors", tmp_path / f"classifier.{suffix}", to=to)  # type: ignore[arg-type]
    assert (tmp_path / f"classifier.{suffix}").is_file()

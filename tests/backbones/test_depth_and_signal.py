"""Encoders of depth and sensors: input, interface, and weights from all kinds of files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.depth import Depth
from modules.backbones.encoder import Encoder
from modules.backbones.loading import prefixes_of
from modules.backbones.signal.cnn import SignalCNN
from modules.convert.command import convert
from modules.convert.load import load_backbone
from modules.core.errors import SettingError
from modules.core.preprocessing import IMAGENET, Normalisation
from modules.downstream.classification import Classification
from modules.training.method import Method
from modules.training.optim import AdamWSettings
from modules.weights.passport import read_passport
from tests.registry import FRAMES, OPTIM, SIDE, tiny_cnn, tiny_locomotion, tiny_vit


def depth_clip(samples: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 6000, (samples, FRAMES, SIDE, SIDE, 1), generator=g).to(torch.uint16)


def test_millimetres_become_shades_and_what_was_not_measured_is_black() -> None:
    encoder = Depth(tiny_cnn(), near=1000, far=3000)
    depth = torch.tensor([0, 500, 1000, 2000, 3000, 9000], dtype=torch.uint16).view(1, 1, 1, 6, 1)
    shades = IMAGENET.restore(encoder.preprocess(depth))
    assert torch.allclose(shades[0, :, 0, 0], torch.tensor([0, 0, 0, 0.5, 1, 1]).expand(3, 6), atol=1e-6)
    # From 0 on, the nearest measured depth is not darker than missing depth.
    plain = IMAGENET.restore(Depth(tiny_cnn()).preprocess(depth))
    assert torch.allclose(plain[0, 1, 0, 0], torch.tensor([0, 500, 1000, 2000, 3000, 4500]) / 4500, atol=1e-6)
    # The network's own clips decide what follows.
    half = fed_with(Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    assert half.preprocess(depth).min() == -1
    with pytest.raises(SettingError, match="far must be above near"):
        Depth(tiny_cnn(), near=10, far=10)


def fed_with(normalisation: Normalisation) -> Depth:
    network = tiny_cnn()
    network.feed(normalisation)
    return Depth(network)


@pytest.mark.parametrize("encoder", [Depth(tiny_cnn()), Depth(tiny_vit()), SignalCNN(6, 4, 2)], ids=["cnn", "vit", "signal"])
def test_interface(encoder: Any) -> None:
    assert isinstance(encoder, Encoder)
    clip = depth_clip() if encoder.kind == "depth" else torch.randn(2, 6, 24)
    fed = encoder.preprocess(clip)
    features = encoder.eval()(fed)
    assert (features.shape, features.dtype) == ((2, encoder.embed_dim), torch.float32)
    assert encoder.embed_dim in encoder.forward_features(fed).shape
    layers = [value for group in encoder.layer_groups() for value in group]
    assert {id(value) for value in layers} == {id(value) for value in encoder.parameters()}
    assert encoder.no_weight_decay() <= {name for name, _ in encoder.named_parameters()}


def test_standardised_signals_have_no_scale_and_others_do() -> None:
    clip = torch.randn(3, 6, 24)
    plain, standardised = SignalCNN(6, 4), SignalCNN(6, 4, standardise=True)
    fed = standardised.preprocess(7 * clip + 3)
    assert torch.allclose(fed, standardised.preprocess(clip), atol=1e-4)
    assert torch.allclose(fed.square().mean(2), torch.ones(3, 6), atol=1e-4)
    assert torch.equal(plain.preprocess(clip), clip)
    # A constant channel stays 0.
    assert not standardised.preprocess(torch.ones(1, 6, 24)).any()
    # A quarter of the steps is used, and the scale of the data is learned.
    assert plain.forward_features(clip).shape == (3, 16, 6)
    assert plain.scale.running_mean is not None
    assert plain.scale.running_mean.any()
    with pytest.raises(SettingError, match=r"SignalCNN takes 6 channels, but the data have 3; set model\.backbone\.channels"):
        plain(torch.randn(1, 3, 24))
    with pytest.raises(SettingError, match="must be an odd number"):
        SignalCNN(kernel=4)


class Two(Method):
    """Contains two encoders, only for saving."""

    def __init__(self) -> None:
        super().__init__(AdamWSettings())
        self.branches = nn.ModuleDict({"depth": Classification(Depth(tiny_cnn()), 2, optim=OPTIM)})
        self.branches["signal"] = Classification(SignalCNN(6, 4), 2, optim=OPTIM)

    def step(self, batch: Any, generator: torch.Generator) -> Any:
        raise NotImplementedError


def test_depth_is_fed_as_in_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    normalisation = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    network = VideoResNet("r3d_18", 4, bn_eps=1e-5, normalisation=normalisation)
    method = Classification(Depth(network, 1000, 3000), 2, optim=OPTIM)
    kept: dict[str, Any] = {"state_dict": method.state_dict(), "pytorch-lightning_version": "2.6", "epoch": 0}
    method.on_save_checkpoint(kept)
    torch.save(kept, tmp_path / "last.ckpt")
    with caplog.at_level("INFO"):
        loaded = Depth(tiny_cnn(), 1000, 4000, checkpoint=str(tmp_path / "last.ckpt"))
    assert loaded.network.normalisation == normalisation
    assert loaded.network.bn_eps == 1e-5  # type: ignore[union-attr]
    assert "near and far are 1000 and 4000, though" in caplog.text


def test_weights_come_from_every_file_that_holds_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    single, two, alone = Classification(SignalCNN(6, 4), 2, optim=OPTIM), Two(), Depth(tiny_cnn())
    for name, module in (("single", single), ("two", two), ("alone", alone)):
        torch.save(module.state_dict(), tmp_path / f"{name}.pt")
    found = SignalCNN(6, 4, checkpoint=str(tmp_path / "single.pt")).state_dict()
    assert all(torch.equal(value, single.backbone.state_dict()[name]) for name, value in found.items())
    for name, path in (("depth", "two.pt"), ("signal", "two.pt"), ("depth", "alone.pt")):
        checkpoint = str(tmp_path / path)
        new: Any = Depth(tiny_cnn(), checkpoint=checkpoint) if name == "depth" else SignalCNN(6, 4, checkpoint=checkpoint)
        source: Any = alone if path == "alone.pt" else two.branches[name].backbone
        assert all(torch.equal(value, source.state_dict()[key]) for key, value in new.state_dict().items())
    with pytest.raises(SettingError, match=r"should contain one Depth but has none"):
        Depth(tiny_cnn(), checkpoint=str(tmp_path / "single.pt"))
    with pytest.raises(SettingError, match="other shape"):
        SignalCNN(6, 8, checkpoint=str(tmp_path / "single.pt"))
    weights = {f"branches.{name}.backbone.{key}": value for name in "ab" for key, value in SignalCNN(6, 4).state_dict().items()}
    torch.save(weights, tmp_path / "twice.pt")
    with pytest.raises(SettingError, match=r"has several \(branches\.a\.backbone\., branches\.b\.backbone\.\)"):
        SignalCNN(6, 4, checkpoint=str(tmp_path / "twice.pt"))
    assert prefixes_of(["stem.weight"]) == [""]
    for command in (convert, lambda source, out: load_backbone(source)):
        with pytest.raises(SettingError, match=r"two\.pt contains several encoders \(depth, signal\); .*\.encoder\(name\)"):
            command(tmp_path / "two.pt", tmp_path / "out.safetensors")


STANDARDISED = """
model:
  class_path: modules.downstream.classification.Classification
  init_args:
    backbone: {class_path: modules.backbones.signal.cnn.SignalCNN, init_args: {standardise: true}}
data:
  class_path: datamodules.UTDMHAD
  init_args: {streams: {names: [signal], signal: {steps: 24}}}
"""


TWO_HEADS = """
model:
  class_path: modules.downstream.classification.Classification
  init_args:
    backbone:
      class_path: modules.backbones.depth.Depth
      init_args: {network: {class_path: modules.backbones.vit.video_vit.VideoViT, init_args: {num_heads: 2, patch_size: 8}}}
"""


@pytest.mark.parametrize("form", ["cnn", "vit", "beit", "signal"])
def test_converted_files_and_checkpoints_give_equal_features(form: str, tmp_path: Path) -> None:
    """Range of depth, standardised signals and sizes are those of the run, from its checkpoint and from converted files."""
    torch.manual_seed(0)
    encoder: Any = {
        "cnn": lambda: Depth(VideoResNet("r3d_18", 4, bn_eps=1e-5), 1000, 3000),
        "vit": lambda: Depth(tiny_vit(), 500, 3500),
        "beit": lambda: Depth(tiny_locomotion().backbone),
        "signal": lambda: SignalCNN(6, 4, standardise=True),
    }[form]()
    method = Classification(encoder, 3, optim=OPTIM).eval()
    kept: dict[str, Any] = {"state_dict": method.state_dict()}
    if form == "vit":
        encoder.network.norm = tiny_vit().norm  # which a fine-tuned network does not have
    method.on_save_checkpoint(kept)
    kept.setdefault("record", {})["class_names"] = ["a", "b", "c"]
    kept["record"]["config"] = {"signal": STANDARDISED, "vit": TWO_HEADS}.get(form)
    torch.save(kept, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "whole.safetensors")
    convert(tmp_path / "whole.safetensors", tmp_path / "encoder.safetensors", part="backbone")
    clip = depth_clip() if encoder.kind == "depth" else 3 * torch.randn(2, 6, 24) + 1
    with torch.no_grad():
        expected = encoder.eval()(encoder.preprocess(clip))
        for name in ("last.ckpt", "whole.safetensors", "encoder.safetensors"):
            found: Any = load_backbone(tmp_path / name)
            assert torch.allclose(found(found.preprocess(clip)), expected, atol=1e-6), name
    passport = read_passport(tmp_path / "whole.safetensors")
    assert (passport["kind"], passport["class_names"]) == ("classifier", ["a", "b", "c"])
    assert read_passport(tmp_path / "encoder.safetensors")["kind"] == "encoder"
    with pytest.raises(SettingError, match=r"--to huggingface does not support encoders of|--to huggingface is for"):
        convert(tmp_path / "last.ckpt", tmp_path / "folder", to="huggingface")

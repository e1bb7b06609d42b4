"""CVRL through `convert`: arrays exported from TensorFlow, both ways, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.cnn.slow_only import SlowOnly
from modules.convert.command import convert
from modules.convert.load import describe_backbone
from modules.core.errors import SettingError
from modules.core.preprocessing import IMAGENET, TO_ONE
from modules.methods.cvrl import CVRL
from modules.weights.files import read_weights
from modules.weights.names.cnn.cvrl import SUFFIX, to_tensorflow
from modules.weights.passport import read_passport

CLIPS = torch.randint(0, 256, (2, 4, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def build(padding: str | None = None) -> CVRL:
    torch.manual_seed(0)
    return CVRL(SlowOnly(2, (2, 1, 1, 1), padding=padding), 6, 4)  # type: ignore[arg-type]


def named(method: CVRL) -> dict[str, Tensor]:
    """The weights under TensorFlow's names."""
    return to_tensorflow(dict(method.state_dict()))


def exported(method: CVRL, path: Path) -> Path:
    """The arrays of a TensorFlow checkpoint, in one of the three forms that are read."""
    state = named(method)
    if path.suffix == ".npz":
        np.savez(path, **{f"{name}{SUFFIX}": value.numpy() for name, value in state.items()})
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("name", ["cvrl.npz", "cvrl.safetensors"])
def test_exported_arrays_become_ours_and_theirs_again(name: str, tmp_path: Path) -> None:
    method, ours, theirs = build(), tmp_path / "ours.safetensors", tmp_path / "theirs.pth"
    convert(exported(method, tmp_path / name), ours)
    passport = read_passport(ours)
    assert passport["kind"] == "contrast"
    sizes = {"backbone": "SlowOnly", "width": 2, "blocks": [2, 1, 1, 1], "hidden": 6, "out_dim": 4, "padding": "same"}
    assert passport["architecture"] == sizes | {"bn_eps": 1e-5}
    assert passport["normalisation"] == TO_ONE.as_record()
    for key, value in read_weights(ours, "x").items():
        assert torch.equal(method.state_dict()[key], value), key
    convert(ours, theirs, to="official")
    again = read_weights(theirs, "x")
    assert again.keys() == named(method).keys()
    assert all(torch.equal(again[key], value) for key, value in named(method).items())


def test_the_encoder_of_exported_arrays(tmp_path: Path) -> None:
    method = build().eval()
    path = exported(method, tmp_path / "cvrl.npz")
    found = describe_backbone(path)
    network = found.network
    assert isinstance(network, SlowOnly)
    with torch.no_grad():
        expected = method.backbone(method.normalise(CLIPS))
        assert torch.allclose(network(network.preprocess(CLIPS)), expected, atol=1e-6)


def test_padding_and_normalisation_of_a_run_are_kept(tmp_path: Path) -> None:
    """With even sides, the other padding would give other features without a message."""
    method = build("symmetric").eval()
    method.backbone.feed(IMAGENET)
    record = {"method": "a.Method", "backbone": method.backbone.facts()}  # type: ignore[operator]
    torch.save({"state_dict": method.state_dict(), "record": record}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "ours.safetensors")
    for path in (tmp_path / "last.ckpt", tmp_path / "ours.safetensors"):
        network = describe_backbone(path).network
        assert isinstance(network, SlowOnly)
        assert (network.padding, network.normalisation) == ("symmetric", IMAGENET)
        with torch.no_grad():
            expected = method.backbone(method.normalise(CLIPS))
            assert torch.allclose(network(network.preprocess(CLIPS)), expected, atol=1e-6)
    with pytest.raises(SettingError, match="trained with padding symmetric"):
        convert(tmp_path / "ours.safetensors", tmp_path / "theirs.pth", to="official")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = named(build())
    np.savez(tmp_path / "a.npz", **{name: value.numpy() for name, value in state.items()}, surprise=np.ones(1))
    with pytest.raises(SettingError, match=r"1 left over \(surprise\)"):
        convert(tmp_path / "a.npz", tmp_path / "a.safetensors")
    classifier = {name: value for name, value in state.items() if not name.startswith("model/")}
    classifier["model/layer_with_weights-1/kernel"] = torch.ones(64, 5)
    save_file({name: value.contiguous() for name, value in classifier.items()}, tmp_path / "b.safetensors")
    with pytest.raises(SettingError, match=r"left over \(model/layer_with_weights-1/kernel\)"):
        convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", part="backbone")
    torch.save({"state_dict": CVRL(VideoResNet("r3d_18", 4), 6, 4).state_dict()}, tmp_path / "d.ckpt")
    with pytest.raises(SettingError, match="--to official is not for VideoResNet"):
        convert(tmp_path / "d.ckpt", tmp_path / "d.pth", to="official")
    (tmp_path / "e.npz").write_text("no arrays")
    with pytest.raises(SettingError, match=r"e\.npz, which cannot be read as weights"):
        convert(tmp_path / "e.npz", tmp_path / "e.safetensors")

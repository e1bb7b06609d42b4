"""Video CNNs and momentum contrast through `convert`: official files of TubeletContrast, and refusals."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import VideoResNet
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.preprocessing import BGR_TO_ONE, IMAGENET
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.methods.moco import MoCo
from modules.methods.tubelet_contrast import TubeletContrast
from modules.weights.names.cnn.video_cnn import to_official
from modules.weights.passport import read_passport

SMALL = ContrastSettings(out_dim=16, queue_size=24)


def build(kind: str) -> VideoCNN:
    return I3D(0.125) if kind == "i3d" else VideoResNet(kind, width=4)


def official_file(method: TubeletContrast, kind: str, path: Path) -> dict[str, Tensor]:
    """The checkpoint that the official trainer would write for this method."""
    first, second = ("2", "4") if kind == "i3d" else ("0", "2")
    state: dict[str, Tensor] = {}
    contrast = method.contrast
    for prefix, backbone in (("backbone.", method.backbone), ("key_encoder.", contrast.key_backbone)):
        own = {prefix + key: value for key, value in backbone.state_dict().items()}
        state |= own if kind == "i3d" else to_official(own)
    for prefix, head in (("fc.", contrast.head), ("key_fc.", contrast.key_head)):
        for key, value in head.state_dict().items():
            layer, name = key.split(".")
            state[f"{prefix}{first if layer == '0' else second}.{name}"] = value
    state |= {"queue": contrast.queue.keys.T.clone(), "queue_ptr": contrast.queue.pointer.reshape(1).clone()}
    torch.save({"meta": {"epoch": 100}, "state_dict": state, "optimizer": {}}, path)
    return state


@pytest.mark.parametrize("kind", ["r3d_18", "r2plus1d_18", "i3d"])
def test_official_file_becomes_ours(kind: str, tmp_path: Path) -> None:
    method = TubeletContrast(build(kind), contrast=SMALL)
    method.contrast.queue.pointer += 8
    official_file(method, kind, tmp_path / "epoch_100.pth")
    convert(tmp_path / "epoch_100.pth", tmp_path / "ours.safetensors")
    again = TubeletContrast(build(kind), contrast=SMALL)
    load_strictly(again, load_file(tmp_path / "ours.safetensors"), "file")
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    passport = read_passport(tmp_path / "ours.safetensors")
    assert passport["kind"] == "contrast"
    assert passport["architecture"]["queue_size"] == 24


@pytest.mark.parametrize("kind", ["r3d_18", "i3d"])
def test_backbone_alone_starts_another_method(kind: str, tmp_path: Path) -> None:
    method = TubeletContrast(build(kind), contrast=SMALL)
    official_file(method, kind, tmp_path / "epoch_100.pth")
    convert(tmp_path / "epoch_100.pth", tmp_path / "backbone.safetensors", part="backbone")
    other = build(kind)
    other.load(str(tmp_path / "backbone.safetensors"))
    for name, value in method.backbone.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert MoCo(other, ContrastSettings(queue_size=8)).contrast.key_backbone is not other


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = official_file(TubeletContrast(build("r3d_18"), contrast=SMALL), "r3d_18", tmp_path / "a.pth")
    with pytest.raises(SettingError, match="--to huggingface is for video transformers"):
        convert(tmp_path / "a.pth", tmp_path / "folder", to="huggingface")
    del state["key_fc.0.weight"]
    torch.save({"state_dict": state}, tmp_path / "b.pth")
    with pytest.raises(SettingError, match=r"1 missing \(contrast\.key_head\.0\.weight\)"):
        convert(tmp_path / "b.pth", tmp_path / "b.safetensors")
    torch.save({"state_dict": state | {"surprise": torch.ones(1)}}, tmp_path / "c.pth")
    with pytest.raises(SettingError, match=r"1 left over \(surprise\)"):
        convert(tmp_path / "c.pth", tmp_path / "c.safetensors")


def numbered(key: str) -> str:
    """Stem and stages by number."""
    return key.replace("stem.", "0.") if key.startswith("stem.") else key.removeprefix("layer")


# Method -> entry of the file, prefix of the encoder, its names, other parts (official code of SEVERE).
PUBLISHED = {
    "Supervised": (None, "", str, ["fc.weight", "fc.bias"]),
    "MoCo": ("state_dict", "module.encoder_q.", str, ["module.encoder_k.stem.0.weight", "module.encoder_q.fc.0.weight"]),
    "VideoMoCo": ("state_dict", "module.encoder_q.", str, ["module.encoder_k.stem.0.weight", "module.queue"]),
    "SeLaVi": ("model", "module.video_network.base.", str, ["module.audio_network.base.conv1.weight", "module.mlp_v.0.weight"]),
    "GDT": ("model", "video_network.base.", str, ["audio_network.base.conv1.weight", "mlp_a.0.weight"]),
    "AVID-CMA": ("model", "module.video_model.", str, ["module.audio_model.conv1.weight", "module.video_proj.weight"]),
    "Pretext-Contrast": (None, "module.base_network.", numbered, ["module.contrast_head.0.weight"]),
    "RSPNet": ("model", "encoder_q.encoder.base_network.", numbered, ["encoder_q.fc.weight", "encoder_k.fc.weight", "queue"]),
    "TCLR": ("state_dict", "module.0.", str, ["module.1.fc1.weight"]),
    "CtP": ("state_dict", "backbone.", None, ["head.fc.weight"]),
}


def published_file(method: str, own: dict[str, Tensor], path: Path) -> None:
    """The file that the method's authors would publish for these weights."""
    entry, prefix, names, others = PUBLISHED[method]
    state = to_official(own) if names is None else {names(key): value for key, value in own.items()}
    content = {prefix + key: value for key, value in state.items()} | {key: torch.ones(3, 3) for key in others}
    torch.save(content if entry is None else {entry: content, "epoch": 200}, path)


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_encoders_load_and_convert(method: str, tmp_path: Path) -> None:
    file, out = tmp_path / "file.pth.tar", tmp_path / "encoder.safetensors"
    name = "r2plus1d_18_tclr" if method == "TCLR" else "r2plus1d_18"
    own = build(name).state_dict()
    published_file(method, own, file)
    other = VideoResNet(name, width=4, checkpoint=str(file))
    convert(file, out, part="backbone")
    converted = load_file(out)
    assert len(converted) == len(own)
    for key, value in own.items():
        assert torch.equal(value, other.state_dict()[key]), key
        assert torch.equal(value, converted[f"backbone.{key}"]), key
    eps = 1e-3 if method == "CtP" else 1e-5
    assert read_passport(out)["architecture"] == {"backbone": "VideoResNet", "name": name, "width": 4, "bn_eps": eps}
    # Weights, their converted form and its passport agree.
    again = VideoResNet(name, width=4, checkpoint=str(out))
    assert (again.bn_eps, again.normalisation) == (other.bn_eps, other.normalisation) == (eps, again.normalisation)
    assert again.normalisation == (BGR_TO_ONE if method == "TCLR" else IMAGENET)
    with pytest.raises(SettingError, match="--part backbone reads only the encoder"):
        convert(file, tmp_path / "whole.safetensors")
    published_file(method, {key: value for key, value in own.items() if key != "layer3.0.conv1.1.bias"}, file)
    for load in (other.load, lambda path: convert(Path(path), out, part="backbone", overwrite=True)):
        with pytest.raises(SettingError, match=r"1 missing \((backbone\.)?layer3\.0\.conv1\.1\.bias\)"):
            load(str(file))


def test_colours_of_tclr_stay_known(tmp_path: Path) -> None:
    """Its network, unlike the others, was trained with blue, green and red from 0 to 1."""
    published_file("TCLR", build("r2plus1d_18_tclr").state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", part="backbone")
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    for name in ("b", "c"):
        known = read_passport(tmp_path / f"{name}.safetensors")["normalisation"]
        assert known == {"mean": [0, 0, 0], "std": [1, 1, 1], "channels": "BGR"}


def test_tclr_is_another_network(tmp_path: Path) -> None:
    published_file("TCLR", build("r2plus1d_18_tclr").state_dict(), tmp_path / "a.pth")
    with pytest.raises(SettingError, match=r"left over \(1\.fc1\.weight, layer4\.0\.conv1\.0\.weight\)"):
        VideoResNet("r2plus1d_18", width=4, checkpoint=str(tmp_path / "a.pth"))

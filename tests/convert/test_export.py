"""Networks for other runtimes: for decoded clips, an exported network gives the same outputs for any batch size."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modules.backbones.cnn.i3d import I3D
from modules.backbones.depth import Depth
from modules.backbones.signal.cnn import SignalCNN
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.skeleton.hcn import HCN
from modules.convert import export
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.core.preprocessing import Normalisation
from modules.downstream.classification import Classification
from modules.layers.attentive import AttentiveSettings
from modules.weights.passport import read_passport
from tests.registry import FRAMES, METHODS, OPTIM, SIDE, tiny_cnn, tiny_locomotion, tiny_vit

NAMES = ["wave", "jump", "fall"]
SIZES: dict[str, Any] = {"heads": 2, "image_size": SIDE, "num_frames": FRAMES}


def saved(method: nn.Module, path: Path, **record: Any) -> Path:
    """A checkpoint as runs write it."""
    kept: dict[str, Any] = {"state_dict": method.state_dict()}
    if hasattr(method, "on_save_checkpoint"):
        method.on_save_checkpoint(kept)
    kept.setdefault("record", {}).update(record)
    torch.save(kept, path)
    return path


def video(samples: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (samples, FRAMES, SIDE, SIDE, 3), generator=g).to(torch.uint8)


def run_onnx(path: Path, clips: Tensor) -> Tensor:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"clip": clips.numpy()})[0])


def run_program(path: Path, clips: Tensor) -> Tensor:
    result: Tensor = torch.export.load(path).module()(clips)
    return result


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@torch.no_grad()
def test_a_classifier_in_onnx(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Scores of uint8 pixels, also with unusual colour normalisation, with class names."""
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    network = tiny_vit()
    network.feed(Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "BGR"))
    method = Classification(network, 3, optim=OPTIM).eval()
    torch.nn.init.normal_(method.classifier.weight)
    source = saved(method, tmp_path / "last.ckpt", class_names=NAMES)
    convert(source, tmp_path / "model.onnx", to="onnx", heads=2, license="cc-by-4.0")
    told = capfd.readouterr()
    assert "[torch.onnx]" not in told.out + told.err
    for samples in (1, 5):
        clips = video(samples)
        expected = method.logits(method.features(network.preprocess(clips)))
        assert_close(run_onnx(tmp_path / "model.onnx", clips), expected)
    held = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    passport = read_passport(tmp_path / "model.onnx")
    assert held["passport"] == passport
    assert (held["class_names"], passport["class_names"], passport["license"]) == (NAMES, NAMES, "cc-by-4.0")
    assert passport["input"]["shape"] == ["batch", FRAMES, SIDE, SIDE, 3]
    assert passport["output"] == {"name": "logits", "type": "float32", "shape": ["batch", 3]}


@torch.no_grad()
def test_an_encoder_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = tiny_cnn().eval()
    source = saved(nn.ModuleDict({"backbone": network}), tmp_path / "last.ckpt", backbone=network.facts())
    convert(source, tmp_path / "model.pt2", to="export", num_frames=FRAMES, image_size=SIDE)
    for samples in (1, 5):
        assert_close(run_program(tmp_path / "model.pt2", video(samples)), network(network.preprocess(video(samples))))
    extra = {"passport.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    passport = read_passport(tmp_path / "model.pt2")
    assert json.loads(extra["passport.json"]) == passport
    assert (passport["kind"], passport["output"]["shape"], passport["class_names"]) == ("encoder", ["batch", 32], None)
    with pytest.raises(SettingError, match=r"--out: .*model\.pt2 exists"):
        convert(source, tmp_path / "model.pt2", to="export", num_frames=FRAMES, image_size=SIDE)

    # Exports with different outputs are not kept, and neither are failed ones.
    monkeypatch.setattr(export, "_program", lambda built: None)
    monkeypatch.setattr(export, "_write_program", lambda *_: lambda clips: network(network.preprocess(clips)) + 1e-3)
    with pytest.raises(SettingError, match=r"would differ from the network's by .* above 1e-05, so it is not kept"):
        convert(source, tmp_path / "other.pt2", to="export", num_frames=FRAMES, image_size=SIDE)

    def refuse(*_: Any) -> None:
        raise RuntimeError("no operator of this name\nand more")

    monkeypatch.setattr(export, "_write_program", refuse)
    with pytest.raises(SettingError, match=r"cannot export this VideoResNet \(RuntimeError: no operator of this name\); pass"):
        convert(source, tmp_path / "other.pt2", to="export", num_frames=FRAMES, image_size=SIDE)
    assert not list(tmp_path.glob("*other*"))


def test_what_cannot_be_exported_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(nn.ModuleDict({"backbone": tiny_cnn()}), tmp_path / "cnn.ckpt")
    with pytest.raises(SettingError, match=r"does not end in \.onnx, as --to onnx writes"):
        convert(source, tmp_path / "model.pt2", to="onnx")
    with pytest.raises(SettingError, match=r"states the side of its clips; pass it with --image_size"):
        convert(source, tmp_path / "model.pt2", to="export")
    with pytest.raises(SettingError, match=r"--part partner cannot be written"):
        convert(source, tmp_path / "model.pt2", to="export", part="partner")
    saved(nn.ModuleDict({"backbone": AGCN(4)}), tmp_path / "gcn.ckpt")
    with pytest.raises(SettingError, match=r"states the frames of its clips; pass them with --num_frames"):
        convert(tmp_path / "gcn.ckpt", tmp_path / "model.pt2", to="export")
    save_file({"words.weight": torch.zeros(4, 3)}, tmp_path / "text.safetensors")
    with pytest.raises(SettingError, match="holds no encoder of clips"):
        convert(tmp_path / "text.safetensors", tmp_path / "model.pt2", to="export")
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(SettingError, match=r"cannot store .* GB of weights in one file; pass --to export"):
        convert(source, tmp_path / "model.onnx", to="onnx", num_frames=FRAMES, image_size=SIDE)
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(
        SettingError, match=r'needs onnx, onnxscript, onnxruntime; install them with pip install -e "\.\[export\]"'
    ):
        convert(source, tmp_path / "model.onnx", to="onnx")
    assert not list(tmp_path.glob("model*"))


OTHERS = {
    "vit": lambda: tiny_vit(),
    "beit": lambda: tiny_locomotion().backbone,
    "i3d": lambda: I3D(0.0625),
    "depth": lambda: Depth(tiny_cnn()),
    "signal": lambda: SignalCNN(6, 4),
    "gru": lambda: BiGRU(8, 2),
    "gcn": lambda: AGCN(4),
    "hcn": lambda: HCN(4, 16),
}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("to", ["onnx", "export"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_encoder_can_be_exported(name: str, to: Any, tmp_path: Path) -> None:
    encoder: Any = OTHERS[name]().eval()
    source = saved(nn.ModuleDict({"backbone": encoder}), tmp_path / "last.ckpt")
    out = tmp_path / ("model.onnx" if to == "onnx" else "model.pt2")
    sizes = {"num_frames": {"signal": 24}.get(name, FRAMES if encoder.kind in ("video", "depth") else 16)}
    if encoder.kind in ("video", "depth"):
        sizes |= {"image_size": SIDE}
    convert(source, out, to=to, **sizes, **({"heads": 2} if name == "vit" else {}))  # type: ignore[arg-type]
    shape = [5, *read_passport(out)["input"]["shape"][1:]]
    whole = encoder.kind in ("video", "depth")
    types = {"video": np.uint8, "depth": np.uint16}
    drawn = np.random.default_rng(0).integers(0, 256, shape).astype(types.get(encoder.kind, np.int64))
    clips = torch.from_numpy(drawn) if whole else torch.randn(shape)
    found = (run_onnx if to == "onnx" else run_program)(out, clips)
    assert_close(found, encoder(encoder.preprocess(clips)))


def config_of(form: str, clips: int) -> str:
    """The part of a run's config that states the heads of an attention."""
    return f"model: {{init_args: {{attention: {{form: {form}, blocks: 2, heads: 4, clips: {clips}}}}}}}"


def test_attentions_of_unknown_heads_or_of_several_clips_are_refused(tmp_path: Path) -> None:
    method = Classification(tiny_vit(), 3, "attentive", attention=AttentiveSettings("vjepa2", 2, 4), optim=OPTIM)
    source = saved(method, tmp_path / "unknown.ckpt")
    with pytest.raises(SettingError, match=r"states the heads of its attention; pass the run's config\.yaml with --run_config"):
        convert(source, tmp_path / "model.pt2", to="export", **SIZES)
    source = saved(method, tmp_path / "joined.ckpt", config=config_of("vjepa2", 8))
    with pytest.raises(SettingError, match=r"takes one clip, but the attention in .* sees 8 together; pass --part backbone"):
        convert(source, tmp_path / "model.pt2", to="export", **SIZES)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", ["attentive", "vjepa", "vjepa2", "depth", "skeleton", "cnn", "time", "pretraining"])
def test_classifiers_and_methods_as_programs(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "pretraining":
        method: Any = METHODS[0].build().eval()
    else:
        network: Any = {"depth": lambda: Depth(tiny_vit()), "skeleton": lambda: HCN(4, 16), "cnn": tiny_cnn}.get(
            kind, tiny_vit
        )()
        if kind == "time":
            network.pooling = "time"
        attention = (
            AttentiveSettings("vjepa2" if kind == "vjepa2" else "vjepa", 2, 4) if "vjepa" in kind else AttentiveSettings()
        )
        mode: Any = "attentive" if kind == "attentive" or "vjepa" in kind else "finetune"
        method = Classification(network, 3, mode, attention=attention, optim=OPTIM).eval()
        torch.nn.init.normal_(method.classifier.weight)
    source = saved(method, tmp_path / "last.ckpt", **({"config": config_of(kind, 1)} if "vjepa" in kind else {}))
    sizes = {"num_frames": 16} if kind == "skeleton" else SIZES
    convert(source, tmp_path / "model.pt2", to="export", **sizes)
    given = read_passport(tmp_path / "model.pt2")["input"]
    g = torch.Generator().manual_seed(0)
    shape = [2, *given["shape"][1:]]
    clips = torch.randn(shape, generator=g)
    if kind != "skeleton":
        clips = torch.randint(0, 256, shape, generator=g).to(getattr(torch, given["type"]))
    fed = method.backbone.preprocess(clips)
    expected = method.backbone(fed) if kind == "pretraining" else method.logits(method.features(fed))
    assert_close(run_program(tmp_path / "model.pt2", clips), expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "onnx", "export"])
def test_the_snippet_of_the_card_runs_as_pasted(form: Any, tmp_path: Path) -> None:
    method = Classification(tiny_vit(), 3, optim=OPTIM)
    source = saved(method, tmp_path / "last.ckpt", class_names=NAMES)
    out = tmp_path / {"safetensors": "a.safetensors", "onnx": "a.onnx", "export": "a.pt2"}[form]
    convert(source, out, to=form, heads=2)
    snippet = out.with_name(f"{out.name}.md").read_text().split("```python\n")[1].split("```")[0]
    command = [sys.executable, "-c", snippet]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ("[2, 32]" if form == "safetensors" else "2, 3") in ran.stdout

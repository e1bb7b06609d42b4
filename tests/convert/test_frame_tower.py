"""Towers of CLIP, DINO and DINOv2 as encoders of clips: from their files, and from files of runs that trained them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from datamodules.prepare.synthesise import write_video
from main import main
from modules.backbones.depth import Depth
from modules.backbones.frame_tower import FrameTower
from modules.convert.command import convert
from modules.convert.frame_tower import CLIP, DINO, DINOV2, DINOV2_REGISTERS
from modules.convert.load import describe_backbone, load_backbone
from modules.core.errors import SettingError
from modules.core.preprocessing import HALF, IMAGENET
from modules.downstream.classification import Classification
from modules.downstream.detection import ActionDetection
from modules.severe.command import backbone_settings
from modules.severe.experiments import ALL
from modules.training.method import Method
from modules.weights.passport import read_passport
from tests.backbones.test_frame_tower import CLIP_PIXELS, TINY, tiny, write_dino
from tests.layers.test_targets import write_clip_file
from tests.registry import FRAMES, OPTIM, SIDE, video_batch
from tests.severe.test_experiments import ROOT, parser

# A CLIP with GELU in place of OpenAI's QuickGELU: its tensors have the same names and shapes.
OTHER = "vit_base_patch16_clip_224.laion2b"


def pixels() -> Tensor:
    return video_batch(2).stream("video").data[:, 0]


@torch.no_grad()
def features(network: Any) -> Tensor:
    result: Tensor = network.eval()(network.preprocess(pixels()))
    return result


def write_official_dinov2(path: Path, registers: int) -> None:
    """A file of the form of Meta's, whose class token has a position also where registers have none."""
    more = {"reg_tokens": registers, "no_embed_class": True} if registers else {}
    state = write_dino(path, init_values=1.0, **more).state_dict()
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.zeros(1, 1, 64), state["pos_embed"]], 1)
    torch.save(state | {"mask_token": torch.zeros(1, 64)}, path)


def run_file(method: Method, backbone: dict[str, Any], path: Path, **settings: Any) -> Path:
    """A checkpoint as a run of the command line saves it; its file of pretrained weights is no longer there."""
    kind = type(method)
    tower = {"class_path": "modules.backbones.frame_tower.FrameTower", "init_args": backbone | {"checkpoint": "not/here.pt"}}
    config = {"model": {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": {"backbone": tower, **settings}}}
    kept: dict[str, Any] = {"state_dict": method.state_dict(), "pytorch-lightning_version": "2.6.0", "epoch": 3}
    method.on_save_checkpoint(kept)
    kept["record"] |= {"config": yaml.safe_dump(config, sort_keys=False), "method": config["model"]["class_path"]}
    torch.save(kept, path)
    return path


# --- Published files ---


def test_openais_clip(tmp_path: Path) -> None:
    write_clip_file(tmp_path / "clip.pt", prefix="visual.")
    found = describe_backbone(tmp_path / "clip.pt", num_frames=FRAMES)
    assert isinstance(found.network, FrameTower)
    assert (found.network.name, found.network.normalisation, found.size, found.frames) == (CLIP, CLIP_PIXELS, SIDE, FRAMES)
    expected = FrameTower(CLIP, **TINY, checkpoint=str(tmp_path / "clip.pt"))
    assert torch.equal(features(found.network), features(expected))
    # As it is converted for targets of masked methods, it is read, too.
    convert(tmp_path / "clip.pt", tmp_path / "tower.safetensors")
    again = load_backbone(tmp_path / "tower.safetensors", FRAMES)
    assert torch.equal(features(again), features(expected))
    assert again.normalisation == CLIP_PIXELS
    larger = load_backbone(tmp_path / "clip.pt", image_size=48, pooling="time")
    assert isinstance(larger, FrameTower)
    assert (larger.grid, larger.feature_dim) == ((16, 6, 6, 1, 8), 16 * 64)


@pytest.mark.parametrize(
    ("form", "name"), [("dino", DINO), ("dinov2", DINOV2), ("registers", DINOV2_REGISTERS), ("timm", DINOV2_REGISTERS)]
)
def test_dino(form: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "dino.pth"
    if form == "dino":
        write_dino(path)
    elif form == "timm":
        write_dino(path, init_values=1.0, reg_tokens=4, no_embed_class=True)
    else:
        write_official_dinov2(path, 4 if form == "registers" else 0)
    found = load_backbone(path, FRAMES)
    assert isinstance(found, FrameTower)
    assert (found.name, found.normalisation, found.embed_dim, found.num_heads) == (name, IMAGENET, 64, 1)
    more: dict[str, Any] = {"dino": {}, "dinov2": {"init_values": 1.0}}.get(
        form, {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True}
    )
    known = write_dino(tmp_path / "same.pth", **more)  # drawn alike
    with torch.no_grad():
        frames = IMAGENET.apply(pixels()).transpose(1, 2).flatten(0, 1)
        expected = known(frames).unflatten(0, (2, FRAMES)).mean(1)
    assert torch.allclose(features(found), expected, atol=1e-5)


def test_what_is_no_tower_of_these_is_refused(tmp_path: Path) -> None:
    state = write_dino(tmp_path / "a.pth").state_dict()
    torch.save({name: value for name, value in state.items() if name != "blocks.1.norm2.bias"}, tmp_path / "a.pth")
    with pytest.raises(SettingError, match=r"does not fit this FrameTower .*1 missing \(backbone\.vit\.blocks\.1\.norm2\.bias"):
        load_backbone(tmp_path / "a.pth")
    write_dino(tmp_path / "b.pth", class_token=False, global_pool="avg")
    with pytest.raises(SettingError, match=r"b\.pth has position codes \[1, 16, 64\], which cannot be resampled for this"):
        load_backbone(tmp_path / "b.pth")


# --- Files of runs ---


@pytest.mark.parametrize("pooling", ["time", pytest.param("mean", marks=pytest.mark.slow)])
def test_a_fine_tuned_tower_comes_back(pooling: Any, tmp_path: Path) -> None:
    tower = tiny(OTHER, pooling=pooling, normalisation=HALF)
    method = Classification(tower, 3, optim=OPTIM).eval()
    torch.nn.init.normal_(method.classifier.weight)
    run = run_file(method, TINY | {"name": OTHER, "pooling": pooling}, tmp_path / "run.ckpt")
    again: Any = Method.load_from_checkpoint(run).eval()
    assert torch.equal(again.clip_logits(video_batch()), method.clip_logits(video_batch()))
    convert(run, tmp_path / "out.safetensors")
    for source in (run, tmp_path / "out.safetensors"):
        found = load_backbone(source, pooling=pooling)
        assert isinstance(found, FrameTower)
        assert (found.name, found.normalisation, found.num_frames, found.image_size) == (OTHER, HALF, FRAMES, SIDE)
        assert torch.equal(features(found), features(tower))
        fitted = FrameTower(OTHER, **TINY, pooling=pooling, checkpoint=str(source))
        assert torch.equal(features(fitted), features(tower))
        with pytest.raises(SettingError, match=rf"a {OTHER}, but model\.backbone\.name is {CLIP}; make them equal"):
            FrameTower(CLIP, **TINY, checkpoint=str(source))
    passport = read_passport(tmp_path / "out.safetensors")
    assert passport["kind"] == "classifier"
    assert passport["architecture"] == {
        "backbone": "FrameTower", "name": OTHER, **TINY, "every": 1, "num_classes": 3,
    }  # fmt: skip
    assert "head.weight" in load_file(tmp_path / "out.safetensors")
    started = Classification(tiny(OTHER, pooling=pooling), 3, init_from=str(tmp_path / "out.safetensors"), optim=OPTIM).eval()
    assert torch.equal(started.clip_logits(video_batch()), method.clip_logits(video_batch()))
    with pytest.raises(SettingError, match="has position codes for frames of 32 px, not 48; leave out --image_size"):
        convert(run, tmp_path / "other.safetensors", image_size=48)
    card = (tmp_path / "out.safetensors.md").read_text()
    assert 'load_backbone("out.safetensors")' in card
    assert "torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)" in card
    convert(tmp_path / "out.safetensors", tmp_path / "encoder.safetensors", part="backbone")
    assert torch.equal(features(load_backbone(tmp_path / "encoder.safetensors", pooling=pooling)), features(tower))


def test_other_methods_leave_their_encoder(tmp_path: Path) -> None:
    tower = tiny(every=2)
    run = run_file(ActionDetection(tower, 5, optim=OPTIM), TINY | {"every": 2}, tmp_path / "run.ckpt", num_classes=5)
    assert isinstance(Method.load_from_checkpoint(run), ActionDetection)
    convert(run, tmp_path / "out.safetensors", part="backbone")
    found = load_backbone(tmp_path / "out.safetensors")
    assert isinstance(found, FrameTower)
    assert found.grid == tower.grid
    assert torch.equal(features(found), features(tower))
    for to in ("official", "huggingface"):
        with pytest.raises(SettingError, match=rf"--to {to} .*run\.ckpt holds a tower"):
            convert(run, tmp_path / ("x.pth" if to == "official" else "x"), to=to, part="backbone")  # type: ignore[arg-type]


@torch.no_grad()
def test_of_depth(tmp_path: Path) -> None:
    depth = Depth(tiny(), 500, 3000).eval()
    state: dict[str, Any] = {"state_dict": {f"backbone.{name}": value for name, value in depth.state_dict().items()}}
    torch.save(state | {"record": {"backbone": depth.facts()}}, tmp_path / "run.ckpt")
    convert(tmp_path / "run.ckpt", tmp_path / "out.safetensors")
    found: Any = load_backbone(tmp_path / "out.safetensors")
    far = torch.randint(0, 4000, (1, FRAMES, SIDE, SIDE, 1)).to(torch.uint16)
    assert (found.near, found.far, found.network.name) == (500, 3000, DINO)
    assert torch.equal(found(found.preprocess(far)), depth(depth.preprocess(far)))


# --- Commands ---


def test_embed(tmp_path: Path) -> None:
    write_clip_file(tmp_path / "clip.pt")
    (tmp_path / "films").mkdir()
    write_video(tmp_path / "films/a.mp4", pixels()[0].repeat(5, 1, 1, 1), fps=8)
    words = [f"--checkpoint={tmp_path}/clip.pt", f"--source={tmp_path}/films", f"--out={tmp_path}/out", "--num_workers=0"]
    main(["embed", *words, "--frames=4", "--what=slices", "--store=float32"])
    assert load_file(tmp_path / "out.safetensors")["feature"].shape == (1, 4, 64)


def test_settings_for_severe(tmp_path: Path) -> None:
    write_clip_file(tmp_path / "clip.pt")
    preset, backbone = backbone_settings(describe_backbone(tmp_path / "clip.pt"), tmp_path / "clip.pt")
    assert (preset, backbone["class_path"]) == ("vit", "FrameTower")
    sizes = backbone["init_args"]
    assert (sizes["num_frames"], sizes["image_size"], sizes["pooling"]) == (16, 224, "time")
    network = FrameTower(**sizes, checkpoint=str(tmp_path / "clip.pt"))
    assert (network.name, network.grid, network.feature_dim) == (CLIP, (16, 28, 28, 1, 8), 16 * 64)
    layer = tmp_path / "encoder.yaml"
    layer.write_text(yaml.safe_dump({"model": {"init_args": {"backbone": backbone}}}))
    for name in ("ssv2", "ucf_rc", "charades", "arrow_of_time", "ava"):
        files = [f"{ROOT}/configs/{file}.yaml" for file in ALL[name].files["vit"]]
        words = [word for file in (*files, layer) for word in ("--config", str(file))]
        given = parser().parse_args([*words, "--model.backbone.checkpoint=clip.pt"]).model.init_args.backbone
        assert given.class_path.rpartition(".")[2] == "FrameTower"
        assert {key: given.init_args[key] for key in sizes} == sizes
        assert given.init_args.checkpoint == "clip.pt"

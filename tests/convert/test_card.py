"""Model cards, and the licence of weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modules.backbones.skeleton.gru import BiGRU
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.downstream.classification import Classification
from modules.weights.licence import front_matter
from modules.weights.names.videomae import to_official
from modules.weights.passport import read_passport
from tests.registry import FRAMES, METHODS, OPTIM, SIDE, tiny_cnn, tiny_vit

SIZES: dict[str, Any] = {"heads": 2, "image_size": SIDE, "num_frames": FRAMES}
CONFIG = """
seed_everything: 7
trainer: {{max_epochs: 30, default_root_dir: /data/somebody/runs}}
model:
  class_path: modules.downstream.classification.Classification
  init_args:
    backbone:
      class_path: modules.backbones.vit.video_vit.VideoViT
      init_args: {{num_heads: 2, image_size: 32, num_frames: 4, patch_size: 8, checkpoint: {start}}}
data:
  class_path: datamodules.sets.ucf101.UCF101
  init_args: {{root: /data/somebody/data, batch_size: 16, clip: {{frames: 4, size: 32, sampler: {{init_args: {{stride: 4}}}}}}}}
"""


def fine_tuned(folder: Path, start: str = "null") -> Path:
    method = Classification(tiny_vit(), 3, optim=OPTIM)
    kept: dict[str, Any] = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(kept)
    kept["record"] |= {
        "method": "modules.downstream.classification.Classification",
        "config": CONFIG.format(start=start),
        "metrics": {"test/top1": 61.25},
        "class_names": ["wave", "jump", "fall"],
    }
    torch.save(kept, folder / "best.ckpt")
    return folder / "best.ckpt"


def official(folder: Path) -> Path:
    weights = {f"backbone.{name}": value for name, value in tiny_vit().state_dict().items()}
    torch.save({"model": to_official(weights, tiny_vit().grid)}, folder / "official.pth")
    return folder / "official.pth"


def test_the_card_of_a_classifier(tmp_path: Path) -> None:
    convert(fine_tuned(tmp_path), tmp_path / "out.safetensors")
    card = (tmp_path / "out.safetensors.md").read_text()
    assert front_matter(tmp_path / "out.safetensors.md") == {
        "license": "unknown",
        "library_name": "pytorch",
        "pipeline_tag": "video-classification",
        "tags": ["video", "self-supervised-learning", "classification"],
    }
    passport = read_passport(tmp_path / "out.safetensors")
    count = sum(value.numel() for value in Classification(tiny_vit(), 3, optim=OPTIM).parameters())
    for line in (
        f"Classification: classifier, {count:,} parameters.",
        "* embed_dim: 32",
        'network = load_backbone("out.safetensors")',
        "* frames: 4",
        "* side in pixels: 32",
        "* stride: 4",
        "* normalisation: mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225), RGB, of pixels from 0 to 1",
        "* data: UCF101",
        "* epochs: 30",
        "* seed: 7",
        "* started from: random weights",
        "* test/top1: 61.25",
        "0. wave\n1. jump\n2. fall",
        f"* made from `best.ckpt`, sha256 `{passport['source']['sha256']}`",
        "* licence: unknown; none is stated with the weights (`convert --license NAME` sets one).",
    ):
        assert line in card, line
    assert "somebody" not in card


def test_licence_and_source_travel(tmp_path: Path) -> None:
    """A licence that was stated once is in every passport and card of the file, and of weights trained from it."""
    source = official(tmp_path)
    convert(source, tmp_path / "plain.safetensors", **SIZES)
    assert read_passport(tmp_path / "plain.safetensors")["license"] is None
    said = (tmp_path / "plain.safetensors.md").read_text()
    assert "licence: unknown" in said
    assert "The code of VideoMAE is under CC BY-NC 4.0 and that of SMILE under MIT; the file does not record which" in said
    convert(source, tmp_path / "a.safetensors", license="cc-by-nc-4.0", **SIZES)
    way = [("b.pth", "official"), ("c", "huggingface"), ("d.safetensors", "safetensors")]
    before = tmp_path / "a.safetensors"
    for name, to in way:
        out = tmp_path / name
        convert(before, out, to=to)  # type: ignore[arg-type]
        card = out / "README.md" if to == "huggingface" else out.with_name(f"{name}.md")
        assert read_passport(out)["license"] == front_matter(card)["license"] == "cc-by-nc-4.0"
        assert "* made from `official.pth`" in card.read_text()
        before = out
    (tmp_path / "c" / "passport.json").unlink()  # as on a hub
    convert(tmp_path / "c", tmp_path / "e.safetensors")
    assert read_passport(tmp_path / "e.safetensors")["license"] == "cc-by-nc-4.0"
    convert(fine_tuned(tmp_path, str(tmp_path / "d.safetensors")), tmp_path / "f.safetensors")
    assert read_passport(tmp_path / "f.safetensors")["license"] == "cc-by-nc-4.0"
    assert "* started from: d.safetensors" in (tmp_path / "f.safetensors.md").read_text()
    convert(fine_tuned(tmp_path, "gone.pth"), tmp_path / "g.safetensors")
    assert (
        "The licence of gone.pth, which it was initialised from, also applies." in (tmp_path / "g.safetensors.md").read_text()
    )
    with pytest.raises(SettingError, match=r"--license is ' '; pass a name on one line"):
        convert(source, tmp_path / "h.safetensors", license=" ", **SIZES)


@pytest.mark.parametrize("kind", ["pretraining", "cnn", "skeleton", "tower"])
def test_cards_of_other_networks(kind: str, tmp_path: Path) -> None:
    networks: dict[str, Any] = {
        "pretraining": lambda: METHODS[0].build(),
        "cnn": lambda: nn.ModuleDict({"backbone": tiny_cnn()}),
        "skeleton": lambda: nn.ModuleDict({"backbone": BiGRU(4, 2)}),
    }
    if kind == "tower":
        import timm

        tower = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=0)
        torch.save(tower.state_dict(), tmp_path / "a.pth")
    else:
        torch.save(networks[kind]().state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", **({} if kind in ("cnn", "skeleton", "tower") else SIZES))
    card = (tmp_path / "b.safetensors.md").read_text()
    assert front_matter(tmp_path / "b.safetensors.md")["pipeline_tag"] == "feature-extraction"
    expected = {
        "pretraining": ["encoder and decoder", "torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)"],
        "cnn": ["* stride: not recorded", "torch.randint(0, 256, (2, 16, 112, 112, 3), dtype=torch.uint8)"],
        "skeleton": ["torch.randn(2, 3, 16, 25, 2)", "* backbone: class BiGRU, hidden 4, layers 2"],
        "tower": ['weights = load_file("b.safetensors")', "--model.target.checkpoint"],
    }[kind]
    assert all(line in card for line in expected)
    if kind != "tower":
        snippet = (
            card.split("```python\n")[1].split("```")[0].replace('"b.safetensors"', json.dumps(str(tmp_path / "b.safetensors")))
        )
        exec(compile(snippet, "card", "exec"), {})

"""Image towers of CLIP, DINO and timm become files that our towers read."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from modules.backbones.image_towers import clip_tower
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.weights.passport import read_passport
from tests.convert.test_command import assert_equal
from tests.layers.test_targets import write_clip_file


@torch.no_grad()
@pytest.mark.parametrize("form", ["dictionary", "torchscript"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_clip_tower(form: str, tmp_path: Path) -> None:
    source, out = tmp_path / "clip.pt", tmp_path / "tower.safetensors"
    write_clip_file(source, prefix="visual.")
    expected = clip_tower(str(source), heads=None).eval()
    if form == "torchscript":
        torch.jit.script(Tree(torch.load(source, weights_only=True))).save(str(source))
    convert(source, out)
    frames = torch.randn(2, 3, 32, 32)
    assert torch.equal(clip_tower(str(out), heads=None).eval()(frames), expected(frames))
    passport = read_passport(out)
    sizes = passport["architecture"]
    assert (passport["kind"], sizes["num_heads"], sizes["image_size"], sizes["patch_size"]) == ("clip_tower", 1, 32, 8)
    assert passport["normalisation"]["mean"][0] == 0.48145466
    convert(out, tmp_path / "again.safetensors")
    again = read_passport(tmp_path / "again.safetensors")
    assert {**again, "source": None} == {**passport, "source": None}
    assert_equal(load_file(tmp_path / "again.safetensors"), load_file(out))


class Tree(nn.Module):
    """Modules with these tensors under these dotted names."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = value
            else:
                self.register_buffer(first, value)
        for name, values in inner.items():
            self.add_module(name, Tree(values))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reg_tokens": 4, "no_embed_class": True, "init_values": 1.0},
        {"class_token": False, "global_pool": "avg"},
        {"qkv_bias": False, "mlp_ratio": 3.0},
    ],
    ids=["dino", "registers", "no_class_token", "no_bias"],
)
def test_timm_towers(settings: dict, tmp_path: Path) -> None:
    tower = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=3, **settings)
    torch.save(tower.state_dict(), tmp_path / "dino.pth")
    convert(tmp_path / "dino.pth", tmp_path / "out.safetensors")
    expected = {name: value for name, value in tower.state_dict().items() if not name.startswith("head.")}
    assert_equal(load_file(tmp_path / "out.safetensors"), expected)
    passport = read_passport(tmp_path / "out.safetensors")
    assert (passport["kind"], passport["architecture"]["image_size"]) == ("timm_tower", 32)
    assert passport["architecture"]["prefix_tokens"] == tower.num_prefix_tokens
    for to, name in (("huggingface", "folder"), ("official", "other.pth")):
        with pytest.raises(SettingError, match=f"--to {to} is for video networks"):
            convert(tmp_path / "dino.pth", tmp_path / name, to=to)

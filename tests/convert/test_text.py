"""Networks of videos and sentences: VindLU's official files become ours."""

from pathlib import Path

import pytest
import torch

from modules.backbones.vit.beit_video import BEiTVideo, fit_frames
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.weights.files import read_weights
from modules.weights.passport import read_passport
from tests.parity.cases import load_case, part


def test_vindlu(tmp_path: Path) -> None:
    tensors, info = load_case("locomotion", "vindlu_forward")
    sizes = info["constructor"]["tiny"]
    torch.save({"model": part(tensors, "state.")}, tmp_path / "vindlu.pth")
    convert(tmp_path / "vindlu.pth", tmp_path / "all.safetensors", image_size=sizes["img"])
    passport = read_passport(tmp_path / "all.safetensors")
    assert passport["kind"] == "video_text"
    found = passport["architecture"]
    expected = {
        "embed_dim": "vw",
        "depth": "vl",
        "num_heads": "vh",
        "num_frames": "T",
        "text_depth": "tl",
        "vocabulary": "vocab",
    }
    assert {name: found[name] for name in expected} == {name: sizes[short] for name, short in expected.items()}
    convert(tmp_path / "vindlu.pth", tmp_path / "video.safetensors", part="backbone", image_size=sizes["img"])
    shape = (sizes["img"], sizes["T"], sizes["patch"], sizes["vw"], sizes["vl"], sizes["vh"], sizes["vi"] / sizes["vw"])
    towers = [
        BEiTVideo("micro", *shape, checkpoint=str(tmp_path / name)).eval() for name in ("vindlu.pth", "video.safetensors")
    ]
    video = tensors["input.image"].transpose(1, 2)
    with torch.no_grad():
        for tower in towers:
            assert torch.allclose(tower.encode(video)[1], tensors["output.pooled_vision_embeds"], atol=2e-5)
    with pytest.raises(SettingError, match="has a text encoder: pass --to safetensors"):
        convert(tmp_path / "vindlu.pth", tmp_path / "official.pth", to="official", image_size=sizes["img"])
    assert len(read_weights(tmp_path / "video.safetensors", "x")) < len(read_weights(tmp_path / "all.safetensors", "x"))


def test_positions_of_frames_are_cut_or_filled_with_zeros() -> None:
    weights = {"frame_positions": torch.rand(1, 4, 1, 8), "other": torch.rand(2)}
    assert torch.equal(fit_frames(weights, 2)["frame_positions"], weights["frame_positions"][:, :2])
    longer = fit_frames(weights, 6)["frame_positions"]
    assert torch.equal(longer[:, :4], weights["frame_positions"])
    assert not longer[:, 4:].any()
    assert fit_frames({"other": weights["other"]}, 6).keys() == {"other"}

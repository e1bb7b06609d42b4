"""Networks of skeletons through `convert`: official files of skeleton contrast and back, one encoder of two, refusals."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.backbones.skeleton.base import SkeletonEncoder
from modules.backbones.skeleton.gcn import AGCN
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.skeleton.hcn import HCN
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.methods.skeleton_contrast import SkeletonContrast
from modules.weights.names.skeleton_contrast import gru_to_official, to_official
from modules.weights.passport import read_passport
from tests.parity.cases import load_case, part

SMALL = ContrastSettings(out_dim=6, queue_size=24)
ENCODERS = {"BiGRU": lambda: BiGRU(6, 2), "AGCN": lambda: AGCN(4), "HCN": lambda: HCN(4, 16)}
SIZES = {
    "BiGRU": {"class": "BiGRU", "hidden": 6, "layers": 2, "direction": "forward_twice"},
    "AGCN": {"class": "AGCN", "width": 4},
    "HCN": {"class": "HCN", "width": 4, "window": 16},
}
PAIRS = [("BiGRU", "AGCN"), ("BiGRU", "HCN"), ("AGCN", "HCN"), ("BiGRU", None), ("AGCN", None), ("HCN", None)]


def build(first: str, second: str | None, seed: int = 0) -> SkeletonContrast:
    torch.manual_seed(seed)
    return SkeletonContrast(ENCODERS[first](), ENCODERS[second]() if second else None, contrast=SMALL)


def official_file(method: SkeletonContrast, path: Path) -> dict[str, Tensor]:
    """The checkpoint that the official trainer would write for this method."""
    state = {f"module.{key}": value for key, value in to_official(method.state_dict()).items()}
    torch.save({"epoch": 451, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, path)
    return state


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_official_file_becomes_ours_and_official_again(first: str, second: str | None, tmp_path: Path) -> None:
    method = build(first, second)
    method.contrast.queue.pointer += 8
    source, ours, back = tmp_path / "checkpoint_0450.pth.tar", tmp_path / "ours.safetensors", tmp_path / "back.pth"
    state = official_file(method, source)
    convert(source, ours)
    again = build(first, second, seed=1)
    load_strictly(again, load_file(ours), "file")
    assert_equal(method.state_dict(), again.state_dict())
    passport = read_passport(ours)
    assert (passport["kind"], passport["normalisation"]) == ("contrast", None)
    sizes = passport["architecture"]
    assert (sizes["backbone"], sizes["out_dim"], sizes["queue_size"]) == (SIZES[first], 6, 24)
    assert sizes.get("partner") == (SIZES[second] if second else None)
    convert(ours, back, to="official")
    assert_equal(torch.load(back, weights_only=True)["state_dict"], state)


@pytest.mark.parametrize("wanted", ["backbone", "partner"])
def test_either_encoder_alone(wanted: str, tmp_path: Path) -> None:
    """An encoder from such a file is accepted directly and converted; only the classifier is missing."""
    method = build("BiGRU", "AGCN")
    source, ours, back = tmp_path / "file.pth.tar", tmp_path / "encoder.safetensors", tmp_path / "official.pth"
    official_file(method, source)
    convert(source, ours, part=wanted)
    convert(ours, back, to="official")
    expected: SkeletonEncoder = getattr(method, wanted)
    name = type(expected).__name__
    assert read_passport(ours)["architecture"] == {"backbone": SIZES[name]}
    for file in (source, ours, back):
        encoder = ENCODERS[name]()
        encoder.load(str(file))
        assert_equal(expected.state_dict(), encoder.state_dict())
    written = {key.removeprefix("module.encoder_q.") for key in torch.load(back, weights_only=True)["state_dict"]}
    official = {*gru_to_official(expected.state_dict()), "fc.weight", "fc.bias"}
    assert official - written == {"fc.weight", "fc.bias"}
    assert not written - official


@pytest.mark.parametrize("name", ["bigru", "agcn", "hcn"])
def test_tensors_of_the_official_code(name: str, tmp_path: Path) -> None:
    """Encoder and classifier under the official names, there and back."""
    tensors, _ = load_case("skeleton_contrast", name)
    state = part(tensors, "state.")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.pth.tar")
    convert(tmp_path / "a.pth.tar", tmp_path / "b.safetensors")
    passport = read_passport(tmp_path / "b.safetensors")
    assert passport["kind"] == "classifier"
    assert passport["architecture"]["num_classes"] == len(state["fc.bias"])
    convert(tmp_path / "b.safetensors", tmp_path / "c.pth", to="official")
    written = torch.load(tmp_path / "c.pth", weights_only=True)["state_dict"]
    assert_equal({key.removeprefix("module."): value for key, value in written.items()}, state)


def test_direction_is_that_of_the_run(tmp_path: Path) -> None:
    config = (
        "model: {init_args: {backbone: {init_args: {direction: true_bidirectional}}}}\ndata: {init_args: {clip: {frames: 48}}}"
    )
    torch.save({"state_dict": build("BiGRU", None).state_dict(), "record": {"config": config}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", part="backbone")
    for name in "ab":
        passport = read_passport(tmp_path / f"{name}.safetensors")
        assert passport["architecture"]["backbone"]["direction"] == "true_bidirectional"
        assert passport["frames"] == 48


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pth", tmp_path / "out.safetensors"
    state = official_file(build("BiGRU", None), source)
    with pytest.raises(SettingError, match=r"--part partner: .* contains only one encoder"):
        convert(source, out, part="partner")
    with pytest.raises(SettingError, match="--to huggingface is for video transformers"):
        convert(source, tmp_path / "folder", to="huggingface")
    torch.save({"state_dict": state | {"module.surprise": torch.ones(1)}}, source)
    with pytest.raises(SettingError, match=r"1 left over \(surprise\)"):
        convert(source, out)
    del state["module.encoder_q.encoder.gru.bias_hh_l1_reverse"]
    torch.save({"state_dict": state}, source)
    with pytest.raises(SettingError, match=r"1 missing \(backbone\.second\.1\.bias_hh_l0\)"):
        convert(source, out)
    assert not out.exists()


def test_other_networks_have_no_partner(tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": torch.ones(4, 3, 2, 2)}, tmp_path / "a.pth")
    with pytest.raises(SettingError, match="--part partner is for skeleton contrast"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", part="partner")

"""CaffeNet: sizes of Caffe's maps, a slow 2-D reference, differences of frames, weights and settings."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.cnn.caffenet import CaffeNet
from modules.convert.command import convert
from modules.convert.load import describe_backbone
from modules.core.errors import SettingError
from modules.methods.opn import OPN
from modules.severe.command import backbone_settings


def frames(count: int = 2, length: int = 2, side: int = 44) -> Tensor:
    return torch.randn(count, 3, length, side, side, generator=torch.Generator().manual_seed(0))


def slow_caffenet(net: CaffeNet, picture: Tensor) -> Tensor:
    """The network layer by layer on pictures [N, C, H, W], in evaluation mode."""

    def conv(hidden: Tensor, layer: Any, stride: int, padding: int, groups: int) -> Tensor:
        return F.conv2d(hidden, layer.weight[:, :, 0], layer.bias, stride, padding, 1, groups)

    def lrn(hidden: Tensor) -> Tensor:
        """Caffe's, within five neighbouring channels."""
        square = F.pad(hidden**2, (0, 0, 0, 0, 2, 2))
        total = sum(square[:, shift : shift + hidden.shape[1]] for shift in range(5))
        return hidden / (1 + 1e-4 / 5 * total) ** 0.75

    def norm(hidden: Tensor, layer: Any) -> Tensor:
        if net.norm == "none":
            return hidden
        return F.batch_norm(hidden, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=1e-5)

    def pool(hidden: Tensor) -> Tensor:
        return F.max_pool2d(hidden, 3, 2, ceil_mode=True)

    hidden = lrn(pool(conv(picture, net.conv1, 4, 0, 1).relu()))
    hidden = lrn(pool(conv(hidden, net.conv2, 1, 2, 2).relu()))
    hidden = norm(conv(hidden, net.conv3, 1, 1, 1), net.bn3).relu()
    hidden = norm(conv(hidden, net.conv4, 1, 1, 2), net.bn4).relu()
    return pool(norm(conv(hidden, net.conv5, 1, 1, 2), net.bn5).relu())


@pytest.mark.parametrize("norm", ["scaled", "plain", "none"])
def test_slow_reference(norm: Any) -> None:
    torch.manual_seed(0)
    net = CaffeNet(6, norm=norm)
    net(frames(4))  # moves the statistics of batch norm
    net.eval()
    video = frames()
    with torch.no_grad():
        expected = torch.stack([slow_caffenet(net, video[:, :, frame]) for frame in range(2)], dim=2)
        assert torch.allclose(net.forward_features(video), expected, atol=1e-5)
        assert torch.allclose(net(video), expected.mean((2, 3, 4)), atol=1e-5)


def test_differences_of_frames_are_the_input() -> None:
    torch.manual_seed(0)
    video = frames(2, 7)
    stack, total = (CaffeNet(6, encoding=name, window=3).eval() for name in ("stack_of_differences", "sum_of_differences"))  # type: ignore[arg-type]
    with torch.no_grad():
        for start, place in ((0, 0), (3, 1)):
            steps = [video[:, :, start + t + 1] - video[:, :, start + t] for t in range(2)]
            found = stack.forward_features(video)
            assert found.shape[2] == 2, "two complete runs of three frames"
            assert torch.allclose(found[:, :, place], slow_caffenet(stack, torch.cat(steps, dim=1)), atol=1e-5)
            found = total.forward_features(video)
            assert torch.allclose(found[:, :, place], slow_caffenet(total, steps[0] + steps[1]), atol=1e-5)
    assert stack.conv1.weight.shape[1] == 6


@pytest.mark.parametrize(("size", "sides"), [(227, (27, 13, 13, 13, 6)), (80, (9, 4, 4, 4, 2))])
def test_maps_have_the_sizes_of_caffe(size: int, sides: tuple[int, ...]) -> None:
    with torch.device("meta"):
        net = CaffeNet(image_size=size)
        _, maps = net.forward_intermediates(torch.empty(1, 3, 1, size, size))  # type: ignore[misc]
        assert [one.shape[-1] for one in maps] == list(sides)
        assert net(torch.empty(1, 3, 1, size, size)).shape == (1, net.feature_dim)
    assert net.feature_dim == 256 * sides[-1] ** 2
    assert [one.shape[1] for one in maps] == [96, 256, 384, 384, 256]
    assert sum(value.numel() for value in net.parameters() if value.ndim == 5) == 2_332_704


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 6},
        {"width": 4, "norm": "plain", "stem": "small"},
        {"width": 4, "norm": "none", "encoding": "stack_of_differences", "window": 3},
    ],
)
def test_weights_are_converted_with_their_sizes(settings: dict[str, Any], tmp_path: Path) -> None:
    net = CaffeNet(**settings).eval()
    state = {f"backbone.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "record": {}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "net.safetensors", part="backbone")
    for path in (tmp_path / "last.ckpt", tmp_path / "net.safetensors"):
        found = describe_backbone(path, num_frames=6, image_size=44)
        assert isinstance(found.network, CaffeNet)
        video = frames(1, 6)
        with torch.no_grad():
            assert torch.equal(found.network(video), net(video))
    preset, sizes = backbone_settings(found, tmp_path / "net.safetensors")
    assert preset == "cnn"
    assert CaffeNet(**sizes["init_args"]).state_dict().keys() == net.state_dict().keys()


ENCODINGS: tuple[dict[str, Any], ...] = (
    {"encoding": "frames"},
    {"encoding": "sum_of_differences", "window": 2},
    {"encoding": "sum_of_differences", "window": 3},
    {"encoding": "stack_of_differences", "window": 2},
)
"""All of them have a first layer of three channels."""


@pytest.mark.parametrize("trained", ENCODINGS, ids=str)
def test_weights_of_another_encoding_are_refused(trained: dict[str, Any], tmp_path: Path) -> None:
    """From a run, from a converted file, and in a checkpoint that a method resumes from."""
    net = CaffeNet(4, stem="small", **trained)
    state = {f"backbone.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "record": {"backbone": net.facts()}}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "net.safetensors", part="backbone")
    for path in (tmp_path / "last.ckpt", tmp_path / "net.safetensors"):
        found = describe_backbone(path).network
        assert isinstance(found, CaffeNet)
        assert (found.encoding, found.window) == (net.encoding, net.window)
        for asked in ENCODINGS:
            if asked == trained:
                assert torch.equal(CaffeNet(4, stem="small", **asked, checkpoint=str(path)).conv1.weight, net.conv1.weight)
                continue
            with pytest.raises(SettingError, match=rf"was trained with {trained['encoding']}; set model\.backbone\.encoding"):
                CaffeNet(4, stem="small", **asked, checkpoint=str(path))
    other = ENCODINGS[2] if trained == ENCODINGS[1] else ENCODINGS[1]
    with pytest.raises(SettingError, match=rf"the checkpoint was trained with {trained['encoding']}"):
        OPN(CaffeNet(4, stem="small", **other), frames=3, hidden=4).on_load_checkpoint({"record": {"backbone": net.facts()}})


def test_unknown_encodings_are_said_to_be_assumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(CaffeNet(4, stem="small").state_dict(), tmp_path / "net.pth")
    with caplog.at_level("INFO"):
        CaffeNet(4, stem="small", encoding="sum_of_differences", checkpoint=str(tmp_path / "net.pth"))
    assert "does not record the encoding of its frames: sum_of_differences assumed" in caplog.text


def test_impossible_sizes_are_refused() -> None:
    for settings, text in (
        ({"width": 5}, r"width is 5; set it to an even number"),
        ({"window": 1}, r"model\.backbone\.window"),
        ({"image_size": 32}, r"image_size is 32, but model\.backbone\.stem large takes 39 pixels"),
    ):
        with pytest.raises(SettingError, match=text):
            CaffeNet(**settings)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"image_size is 48, but clips have 44 x 44 pixels"):
        CaffeNet(4, image_size=48)(frames())
    with pytest.raises(SettingError, match=r"Clips of 2 frames are too short for CaffeNet"):
        CaffeNet(4, encoding="stack_of_differences", window=3)(frames())

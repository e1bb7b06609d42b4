"""I3D: sizes, static padding, loading and saving weights. See also test_video_cnn (common to all CNNs) and tests/parity."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.backbones.cnn.i3d import I3D, ConvUnit, HalvingPool, Mixed
from modules.core.errors import SettingError


def pad_same(hidden: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """kernel - stride zeros per axis, the larger half at the end; F.pad takes the last axis first."""
    total = [max(k - s, 0) for k, s in zip(reversed(kernel), reversed(stride), strict=True)]
    return F.pad(hidden, [side for pad in total for side in (pad // 2, pad - pad // 2)])


def slow_unit(unit: ConvUnit, hidden: Tensor) -> Tensor:
    conv = unit.conv3d
    hidden = F.conv3d(pad_same(hidden, conv.kernel_size, conv.stride), conv.weight, stride=conv.stride)
    norm = unit.batch3d
    shape = (1, -1, 1, 1, 1)
    hidden = (hidden - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
    return (hidden * norm.weight.view(shape) + norm.bias.view(shape)).relu()


def slow_pool(hidden: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(pad_same(hidden, kernel, stride), kernel, stride, ceil_mode=True)


def slow_mixed(block: Mixed, hidden: Tensor) -> Tensor:
    branches = [slow_unit(block.branch_0, hidden)]
    for branch in (block.branch_1, block.branch_2):
        branches.append(slow_unit(branch[1], slow_unit(branch[0], hidden)))
    branches.append(slow_unit(block.branch_3[1], slow_pool(hidden, (3, 3, 3), (1, 1, 1))))
    return torch.cat(branches, 1)


def slow_i3d(net: I3D, video: Tensor) -> Tensor:
    """The network written out, with explicit padding in each layer."""
    hidden = slow_pool(slow_unit(net.conv3d_1a_7x7, video), (1, 3, 3), (1, 2, 2))
    hidden = slow_unit(net.conv3d_2c_3x3, slow_unit(net.conv3d_2b_1x1, hidden))
    hidden = slow_pool(hidden, (1, 3, 3), (1, 2, 2))
    for names, kernel in (("3b 3c", 3), ("4b 4c 4d 4e 4f", 2), ("5b 5c", 0)):
        for name in names.split():
            hidden = slow_mixed(getattr(net, f"mixed_{name}"), hidden)
        if kernel:
            hidden = slow_pool(hidden, (kernel,) * 3, (2, 2, 2))
    return hidden


def narrow(**settings: object) -> I3D:
    """An eighth of the width, with random statistics, and kernels that pass the input through to the end."""
    network = I3D(1 / 8, **settings).eval()
    for key, value in network.state_dict().items():
        if value.ndim == 5:
            value.normal_(std=(2 / value[0].numel()) ** 0.5)
        elif value.ndim == 1:
            value.copy_(torch.randn_like(value) / 10 if key.endswith(("bias", "mean")) else torch.rand_like(value) + 0.5)
    return network


@pytest.mark.parametrize("size", [(13, 47, 70), (4, 32, 33)])
def test_padding_does_not_depend_on_the_size(size: tuple[int, int, int]) -> None:
    network, video = narrow(), torch.randn(1, 3, *size)
    with torch.no_grad():
        actual, expected = network.forward_features(video), slow_i3d(network, video)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_size_of_the_published_network() -> None:
    with torch.device("meta"):
        network = I3D()
        assert network(torch.empty(1, 3, 16, 224, 224)).shape == (1, 1024)
        assert network.forward_features(torch.empty(1, 3, 16, 224, 224)).shape == (1, 1024, 2, 7, 7)
    assert sum(value.numel() for value in network.parameters()) == 12_287_264
    assert network.embed_dim == 1024


@pytest.mark.parametrize(("kernel", "time", "shape"), [(3, False, (5, 4, 4)), (3, True, (3, 4, 4)), (2, True, (3, 4, 4))])
def test_halving_pool_rounds_up(kernel: int, time: bool, shape: tuple[int, int, int]) -> None:
    hidden = torch.rand(1, 2, 5, 7, 8)
    pooled = HalvingPool(kernel, time)(hidden)
    assert pooled.shape == (1, 2, *shape)
    assert torch.equal(pooled, slow_pool(hidden, (kernel if time else 1, kernel, kernel), (2 if time else 1, 2, 2)))


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_official_names_load_as_they_are(prefix: str, tmp_path: Path) -> None:
    source = narrow()
    state = {prefix + key: value for key, value in source.state_dict().items()}
    rest = {"key_encoder.conv3d_1a_7x7.conv3d.weight": torch.zeros(1), "fc.2.bias": torch.zeros(1)} if prefix else {}
    path = tmp_path / "epoch_100.pth"
    torch.save({"state_dict": state | rest}, path)
    loaded = I3D(1 / 8, checkpoint=str(path)).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in source.state_dict().items())


def test_other_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(narrow().state_dict(), path)
    with pytest.raises(SettingError, match=r"other shape \(conv3d_1a_7x7\.conv3d\.weight \[8, 3, 7, 7, 7\]"):
        I3D(1 / 4, checkpoint=str(path))


def test_impossible_width_is_named() -> None:
    with pytest.raises(SettingError, match=r"model\.backbone\.width_factor is 0"):
        I3D(0)

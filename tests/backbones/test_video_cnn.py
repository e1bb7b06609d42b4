"""R3D-18, R(2+1)D-18 and S3D: sizes, initialisation, memory layout, weights. See tests/parity for the official maps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import video as published

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.cnn.s3d import S3D
from modules.backbones.cnn.slow_only import SlowOnly
from modules.core.errors import SettingError
from modules.weights.names.cnn.video_cnn import backbone_part, from_official, to_official

NAMES = ("r3d_18", "r2plus1d_18")
NARROW: dict[str, Callable[..., VideoCNN]] = {
    "r3d_18": lambda **settings: VideoResNet("r3d_18", 4, **settings),
    "r2plus1d_18": lambda **settings: VideoResNet("r2plus1d_18", 4, **settings),
    "r2plus1d_18_tclr": lambda **settings: VideoResNet("r2plus1d_18_tclr", 4, **settings),
    "i3d": lambda **settings: I3D(1 / 16, **settings),
    "slow_only": lambda **settings: SlowOnly(2, (1, 1, 1, 1), **settings),
}
EVERY = NARROW | {"s3d": S3D}


def disturb(network: nn.Module) -> dict[str, Tensor]:
    """Weights that reveal a mistake in any layer: random statistics, and kernels that pass the input through."""
    state = network.state_dict()
    for key, value in state.items():
        if value.ndim == 5:
            value.normal_(std=(2 / value[0].numel()) ** 0.5)
        elif value.ndim == 1:
            value.copy_(torch.randn_like(value) / 10 if key.endswith(("bias", "mean")) else torch.rand_like(value) + 0.5)
    return state


def one_file(tmp_path: Path, content: dict[str, Any]) -> str:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: VideoResNet("r2plus1d_18"), 31_300_125),
        (lambda: VideoResNet("r2plus1d_18_tclr"), 31_300_587),
        (lambda: VideoResNet("r3d_18"), 33_166_272),
        (lambda: S3D(), 7_910_048),
        (lambda: SlowOnly(), 31_672_128),
    ],
)
def test_parameter_counts(build: Callable[[], VideoCNN], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(value.numel() for value in build().parameters()) == parameters


def test_last_stage_of_tclr_keeps_time() -> None:
    """The receptive field is two steps to either side, too. Everything else equals R(2+1)D-18."""
    with torch.device("meta"):
        plain, tclr = VideoResNet(), VideoResNet("r2plus1d_18_tclr")
        video = torch.empty(1, 3, 32, 112, 112)
    assert plain.forward_features(video).shape == (1, 512, 4, 7, 7)
    assert tclr.forward_features(video).shape == (1, 512, 8, 7, 7)
    layers = [{key: repr(part) for key, part in net.named_modules() if not list(part.children())} for net in (plain, tclr)]
    differing = {key.removeprefix("layer4.0.") for key in layers[0] | layers[1] if layers[0].get(key) != layers[1].get(key)}
    assert differing == {"conv1.0", *(f"conv1.0.{part}" for part in range(4)), "downsample.0"}
    assert repr(tclr.layer4[0].conv1[0]) == (
        "Conv3d(256, 512, kernel_size=(3, 3, 3), stride=(1, 2, 2), padding=(2, 1, 1), dilation=(2, 1, 1), bias=False)"
    )


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_torchvisions(name: str) -> None:
    """Same names, shapes, strides and eps as torchvision's network without its head."""
    with torch.device("meta"):
        ours, theirs = VideoResNet(name, bn_eps=1e-5), getattr(published, name)()
    theirs.fc = nn.Identity()
    theirs.avgpool = nn.Identity()
    kinds = (nn.Conv3d, nn.BatchNorm3d, nn.ReLU)
    layers = [{key: repr(part) for key, part in net.named_modules() if isinstance(part, kinds)} for net in (ours, theirs)]
    # torchvision's 3 x 3 x 3 convolution is its own class; its name is the only thing that may differ.
    assert layers[0] == layers[1]
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_file_gives_its_features(name: str, tmp_path: Path) -> None:
    """Without a message about eps, for which new networks have a different value."""
    theirs = getattr(published, name)(num_classes=3).eval()
    disturb(theirs)
    ours = VideoResNet(name, checkpoint=one_file(tmp_path, theirs.state_dict())).eval()
    theirs.fc = nn.Identity()
    video = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        expected = theirs(video)
        assert (ours(video) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_s3d_is_torchvisions(tmp_path: Path) -> None:
    theirs = published.s3d(num_classes=3).eval()
    disturb(theirs)
    ours = S3D(checkpoint=one_file(tmp_path, theirs.state_dict())).eval()
    video = torch.randn(1, 3, 9, 48, 32)
    with torch.no_grad():
        expected = theirs.features(video)
        actual = ours.forward_features(video)
    assert expected.shape == (1, 1024, 1, 1, 1)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("video", "shape"),
    [((1, 3, 16, 112, 112), (1, 32, 2, 7, 7)), ((2, 3, 8, 32, 48), (2, 32, 1, 2, 3)), ((1, 3, 13, 17, 40), (1, 32, 2, 2, 3))],
)
@pytest.mark.parametrize("name", NAMES)
def test_map_is_8_16_16_times_smaller(name: str, video: tuple[int, ...], shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = NARROW[name]()
    assert network.forward_features(torch.empty(video, device="meta")).shape == shape
    assert network.embed_dim == shape[1]


def test_feature_is_the_mean_of_the_map() -> None:
    network, video = NARROW["r3d_18"]().eval(), torch.randn(2, 3, 9, 40, 24)
    with torch.no_grad():
        features = network.forward_features(video)
        assert features.shape == (2, 32, 2, 3, 2)
        assert torch.allclose(network(video), features.flatten(2).mean(2), atol=1e-6)


@pytest.mark.parametrize(("name", "eps"), [("r3d_18", 1e-3), ("r2plus1d_18_tclr", 1e-3), ("i3d", 1e-5), ("s3d", 1e-3)])
def test_eps_of_every_batch_norm(name: str, eps: float) -> None:
    for settings, expected in (({}, eps), ({"bn_eps": 0.5}, 0.5)):
        with torch.device("meta"):
            network = EVERY[name](**settings)
        norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm3d)]
        assert norms
        assert {norm.eps for norm in norms} == {expected}
        assert {norm.momentum for norm in norms} == {0.1}


@pytest.mark.parametrize("name", list(NARROW))
def test_weights_start_from_pytorchs_defaults(name: str) -> None:
    """Uniform within 1 / sqrt(fan in), as in Conv3d; BatchNorm starts as the identity."""
    spread = []
    for part in NARROW[name]().modules():
        if isinstance(part, nn.Conv3d):
            assert part.bias is None
            inside = part.weight * part.weight[0].numel() ** 0.5
            assert inside.abs().max() <= 1 + 1e-6
            spread.append(inside.flatten())
        elif isinstance(part, nn.BatchNorm3d):
            assert torch.equal(part.weight, torch.ones_like(part.weight))
            assert not part.bias.any()
    assert torch.cat(spread).std().item() == pytest.approx(3**-0.5, rel=0.02)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", list(NARROW))
def test_layout_in_memory_changes_nothing_else(name: str) -> None:
    inner, outer = NARROW[name](), NARROW[name](channels_last=False)
    state = disturb(outer)
    inner.load_state_dict(state)
    kernels = [part.weight for part in inner.modules() if isinstance(part, nn.Conv3d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last_3d) for kernel in kernels)
    assert list(inner.state_dict()) == list(state)
    video = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        maps = [network.eval().forward_features(video) for network in (inner, outer)]
    assert maps[0].is_contiguous(memory_format=torch.channels_last_3d)
    assert (maps[0] - maps[1]).abs().max() <= 1e-5 * maps[1].abs().max()
    # Statistics of few values make rounding larger, so a training step is compared in double precision.
    for network in (inner, outer):
        network.double().train()(video.double()).square().mean().backward()
    for ours, theirs in zip(inner.parameters(), outer.parameters(), strict=True):
        assert theirs.grad.any()
        assert (ours.grad - theirs.grad).abs().max() <= 1e-9 * theirs.grad.abs().max()


@pytest.mark.parametrize("name", list(EVERY))
def test_layer_groups_cover_each_parameter_once_from_the_input_on(name: str) -> None:
    with torch.device("meta"):
        network = EVERY[name]()
    groups = network.layer_groups()
    grouped = [id(value) for group in groups for value in group]
    assert grouped == [id(value) for value in network.parameters()]
    assert len(groups) == len(network.stages()) == (4 if name in ("i3d", "s3d") else 5)
    assert network.no_weight_decay() == set()


@pytest.mark.parametrize("name", list(EVERY))
def test_smallest_clip_runs_and_smaller_ones_are_refused(name: str) -> None:
    with torch.device("meta"):
        network = EVERY[name]().eval()
    frames, side = network.smallest_clip
    assert network(torch.empty(1, 3, frames, side, side, device="meta")).shape == (1, network.embed_dim)
    with pytest.raises(SettingError, match=rf"set data\.clip\.frames to {frames} or more"):
        network(torch.empty(1, 3, frames - 1, side, side, device="meta"))
    with pytest.raises(SettingError, match=rf"set data\.clip\.size to {side} or more"):
        network(torch.empty(1, 3, frames, side, side - 1, device="meta"))


def test_impossible_width_is_named() -> None:
    with pytest.raises(SettingError, match=r"model\.backbone\.width is 0"):
        VideoResNet(width=0)


@pytest.mark.parametrize("name", NAMES)
def test_names_round_trip(name: str) -> None:
    """Also with the prefixes of the official two branches; our own names are unchanged."""
    state = NARROW[name]().state_dict()
    state = {f"{branch}.{key}": value for branch in ("backbone", "key_encoder") for key, value in state.items()}
    official = to_official(state)
    assert not official.keys() & {key for key in state if ".conv" in key or "stem" in key}
    assert list(from_official(official)) == list(from_official(state)) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in from_official(official).items())


@pytest.mark.parametrize("form", ["method", "official", "without counters", "bare", "safetensors"])
@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_setting_reads_every_form(name: str, form: str, tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in disturb(NARROW[name]()).items()}
    official = {f"backbone.{key}": value for key, value in to_official(state).items()}
    counted = {key: value for key, value in official.items() if not key.endswith("num_batches_tracked")}
    if form == "safetensors":
        path = str(tmp_path / "weights.safetensors")
        save_file({f"backbone.{key}": value for key, value in state.items()}, path)
    else:
        content = {
            "method": {"state_dict": {f"backbone.{key}": value for key, value in state.items()} | {"queue": torch.zeros(2)}},
            "official": {"meta": {"epoch": 100}, "state_dict": official | {"key_fc.2.bias": torch.zeros(2)}},
            "without counters": {"state_dict": counted},
            "bare": state,
        }[form]
        path = one_file(tmp_path, content)
    loaded = NARROW[name](checkpoint=path).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_rest_of_a_method_is_reported(tmp_path: Path) -> None:
    network = NARROW["r3d_18"]()
    state = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    report = network.load(one_file(tmp_path, {"state_dict": state | {"queue": torch.zeros(2)}}))
    assert report.left_over == ["queue"]
    assert len(report.matched) == len(state)


def change(state: dict[str, Tensor], case: str) -> dict[str, Tensor]:
    if case == "missing":
        return {key: value for key, value in state.items() if key != "layer3.0.conv1.1.weight"}
    return state | {"layer5.0.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("case", "message"),
    [("missing", r"1 missing \(layer3\.0\.conv1\.1\.weight\)"), ("surplus", r"1 left over \(layer5\.0\.weight\)")],
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_wrong_backbone_is_refused(case: str, message: str, prefix: str, tmp_path: Path) -> None:
    state = change(NARROW["r3d_18"]().state_dict(), case)
    path = one_file(tmp_path, {prefix + key: value for key, value in state.items()})
    with pytest.raises(SettingError, match=message):
        NARROW["r3d_18"](checkpoint=path)


def test_other_network_is_refused(tmp_path: Path) -> None:
    path = one_file(tmp_path, VideoResNet("r3d_18", 8).state_dict())
    with pytest.raises(SettingError, match=r"other shape \(stem\.0\.weight \[8, 3, 3, 7, 7\] for \[4, 3, 3, 7, 7\]"):
        NARROW["r3d_18"](checkpoint=path)
    with pytest.raises(SettingError, match="missing"):
        NARROW["r2plus1d_18"](checkpoint=path)


def test_backbone_part() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert backbone_part({"backbone.a": one, "queue": two}) == ({"a": one}, {"queue": two})
    assert backbone_part({"a": one}) == ({"a": one}, {})

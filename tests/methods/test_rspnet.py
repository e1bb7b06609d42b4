"""RSPNet: speeds of clips, losses, queue, momentum update, names of official files, and what it learns."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.augment.clip_jitter import ClipJitter
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.backbones.cnn.resnet3d import ResNet3D
from modules.backbones.cnn.s3d import S3DG
from modules.convert.command import convert
from modules.convert.load import describe_backbone, load_backbone
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.layers.contrast.momentum_contrast import ContrastSettings
from modules.layers.contrast.queue import Queue
from modules.losses.contrast import ranking
from modules.methods.rspnet import RSPNet, play
from modules.severe.command import backbone_settings
from modules.weights.names.cnn.rspnet import to_official
from modules.weights.passport import read_passport
from tests.registry import CONTRAST, SGD, tiny_cnn, video_batch

WINDOW = 32
NONE = ClipJitter(0, 0, 0, 0, 0)
SMALL = replace(CONTRAST, hidden=0, temperature=0.07)


def tiny(**settings: Any) -> RSPNet:
    torch.manual_seed(0)
    return RSPNet(tiny_cnn(), SMALL, optim=SGD, **settings)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("split", ["batch", "sample"])
def test_frames_of_each_speed(split: Any) -> None:
    """Windows of 32 frames become clips of 16 at speed 1 or 2; both keys are from the same window."""
    method = tiny(split=split, colour=NONE, flip=0)
    batch = video_batch(6, 2, frames=WINDOW)
    # The red value of each pixel is the number of its frame.
    batch.stream("video").data[..., 0] = torch.arange(WINDOW).view(1, 1, -1, 1, 1)
    show = method.step(batch, generator())["show"]
    frames = {name: show[name][:, :, 0, 0, 0].int() for name in ("clip", "same_speed", "other_speed")}
    assert all(value.shape == (6, 16) for value in frames.values())
    steps = {name: value[:, 1] - value[:, 0] for name, value in frames.items()}
    for name, value in frames.items():
        assert torch.equal(value, torch.arange(16) * steps[name][:, None])
    assert torch.equal(steps["clip"], steps["same_speed"])
    assert torch.equal(steps["clip"] + steps["other_speed"], torch.full((6,), 3))
    assert 0 < (steps["clip"] == 1).sum() < 6
    if split == "batch":
        assert (steps["clip"] == 1).sum() == 3


def test_several_speeds() -> None:
    batch = tiny(speeds=(2, 4), split="batch")
    drawn = [batch.draw_speeds(4, WINDOW, generator(), generator(seed)) for seed in range(20)]
    assert {speeds.frames for speeds in drawn} == {8, 16}
    for speeds in drawn:
        assert sorted(speeds.query.tolist()) == [1, 1, WINDOW // speeds.frames, WINDOW // speeds.frames]
    # Processes, whose generators differ, shuffle their keys, so their clips must have the same number of frames.
    shown = [batch.step(video_batch(2, 2, frames=16), generator(rank))["show"]["clip"] for rank in range(5)]
    assert len({clip.shape for clip in shown}) == 1
    sample = tiny(speeds=(2, 4), split="sample").draw_speeds(64, WINDOW, generator(), generator())
    assert sample.frames == 8
    assert set(torch.maximum(sample.query, sample.other).tolist()) == {2, 4}
    assert torch.equal(torch.minimum(sample.query, sample.other), torch.ones(64, dtype=torch.int64))
    for wrong in ((), (1,), (0, 2)):
        with pytest.raises(SettingError, match=r"model\.speeds is \[.*at least 2"):
            tiny(speeds=wrong)


def compared(method: RSPNet, same: Tensor, other: Tensor, query: Tensor) -> Any:
    return method.contrast.compare_speeds(method.backbone, query, same, other, method.margin, generator())


def test_swapped_keys_swap_their_losses() -> None:
    method = tiny().eval()
    query, same, other = torch.randn(3, 4, 3, 8, 32, 32, generator=generator()).unbind(0)
    right, wrong = compared(method, same, other, query), compared(method, other, same, query)
    assert torch.equal(right.same.loss, wrong.other.loss)
    assert torch.equal(right.other.loss, wrong.same.loss)
    assert torch.equal(right.right, ~wrong.right)
    assert right.same.loss != right.other.loss


def test_ranking_loss_is_zero_beyond_the_margin() -> None:
    right, wrong = torch.tensor([3.0, 2.0, 1.9, 0.0]), torch.tensor([0.0, 0.0, 0.0, 1.0])
    losses = [ranking(one, two, 2.0)[0].item() for one, two in zip(right.split(1), wrong.split(1), strict=True)]
    assert losses == pytest.approx([0, 0, 0.1, 3])
    loss, share = ranking(right, wrong, 2.0)
    assert loss.item() == pytest.approx(3.1 / 4)
    assert share == 0.75


def test_queue_gets_keys_of_the_other_speed_and_key_branch_follows() -> None:
    method = tiny().train()
    contrast, queue = method.contrast, method.contrast.queue
    assert queue is not None
    # The branches differ, as after some steps.
    with torch.no_grad():
        for value in (*method.backbone.parameters(), *contrast.head.parameters(), *contrast.speed_head.parameters()):
            value += 0.01 * torch.randn(value.shape, generator=generator())
    pairs = (
        (contrast.key_backbone, method.backbone),
        (contrast.key_head, contrast.head),
        (contrast.key_speed_head, contrast.speed_head),
    )
    expected = [
        SMALL.momentum * slow + (1 - SMALL.momentum) * online
        for one, other in pairs
        for slow, online in zip(one.parameters(), other.parameters(), strict=True)
    ]
    before, statistics = queue.keys.clone(), contrast.key_backbone.stem[1].running_mean.clone()
    keys = []
    project = contrast.project_keys

    def recorded(*given: Any) -> Any:
        keys.append(project(*given))
        return keys[-1]

    contrast.project_keys = recorded  # type: ignore[method-assign]
    method.step(video_batch(4, 2, frames=8), generator())["loss"].backward()
    # The other speed is encoded first.
    assert torch.equal(queue.keys[:4], keys[0].appearance)
    assert torch.equal(queue.keys[4:], before[4:])
    assert queue.pointer == 4
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(len(before)), atol=1e-5)
    found = [value for one, _ in pairs for value in one.parameters()]
    assert all(value.grad is None for value in found)
    for value, wanted in zip(found, expected, strict=True):
        assert torch.allclose(value, wanted, atol=1e-7)
    # Statistics are those of the keys' own passes.
    assert not torch.equal(contrast.key_backbone.stem[1].running_mean, statistics)
    assert contrast.key_backbone.stem[1].num_batches_tracked == 2


def test_queue_is_trimmed_to_the_batch() -> None:
    queue = Queue(10, 4)
    queue.trim(4)
    kept = queue.keys.clone()
    assert queue.used.shape == (8, 4)
    rows = torch.eye(4)
    for _ in range(3):
        queue.enqueue(rows)
    assert queue.pointer == 4
    assert torch.equal(queue.used, torch.cat([rows, rows]))
    assert torch.equal(queue.keys[8:], kept[8:])
    assert Queue(10, 4).state_dict().keys() == queue.state_dict().keys()
    with pytest.raises(SettingError, match=r"queue_size 10 is less than the global batch, 16 .* set it to 16 or more"):
        queue.trim(16)
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(batch_size=3), world_size=4)
    method = tiny()
    method.contrast.check(trainer)
    assert method.contrast.queue is not None
    assert len(method.contrast.queue.used) == 24


def test_play() -> None:
    windows = torch.arange(12).repeat(2, 1)
    assert play(windows, torch.tensor([1, 3]), 4).tolist() == [[0, 1, 2, 3], [0, 3, 6, 9]]


def test_windows_that_are_too_short_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny()
    data = SimpleNamespace(batch_size=4, clip=SimpleNamespace(frames=6, size=32, clips=2, repeat=1))
    method._trainer = SimpleNamespace(datamodule=data, world_size=1, callbacks=[])  # type: ignore[assignment]
    with pytest.raises(SettingError, match=r"frames is 6, which leaves 3 .* needs 4; set data\.clip\.frames to 8 or more"):
        method.on_fit_start()


NETWORKS: dict[str, Callable[[], VideoCNN]] = {
    "ResNet3D": lambda: ResNet3D(4),
    "S3DG": lambda: S3DG(1 / 16),
    "C3D": lambda: C3D(4),
    "ClipOrderResNet": lambda: ClipOrderResNet("r2plus1d", 4),
}


def official_file(method: RSPNet, path: Path) -> None:
    """The checkpoint that the official trainer would write for this method."""
    state = to_official(method.state_dict())
    # Every official encoder has a classifier.
    name = "linear" if isinstance(method.backbone, C3D | ClipOrderResNet) else "fc"
    for branch in ("encoder_q", "encoder_k"):
        state |= {f"{branch}.encoder.{name}.weight": torch.ones(1, 8), f"{branch}.encoder.{name}.bias": torch.ones(1)}
    torch.save({"epoch": 200, "arch": "resnet18", "model": state, "best_loss": 1.0, "optimizer": {}, "scheduler": {}}, path)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name == "S3DG" else []) for name in NETWORKS])
@pytest.mark.parametrize("hidden", [0, None])
def test_official_file_becomes_ours(name: str, hidden: int | None, tmp_path: Path) -> None:
    contrast = ContrastSettings(hidden, out_dim=16, queue_size=24)
    method = RSPNet(NETWORKS[name](), contrast)
    assert method.contrast.queue is not None
    method.contrast.queue.pointer += 8
    official_file(method, tmp_path / "epoch_200.pth.tar")
    convert(tmp_path / "epoch_200.pth.tar", tmp_path / "ours.safetensors")
    again = RSPNet(NETWORKS[name](), contrast)
    load_strictly(again, load_file(tmp_path / "ours.safetensors"), "file")
    for key, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    passport = read_passport(tmp_path / "ours.safetensors")
    assert passport["kind"] == "contrast"
    assert passport["architecture"]["backbone"] == name
    assert passport["architecture"]["bn_eps"] == (1e-3 if name == "S3DG" else 1e-5)
    if hidden is None:
        return
    # The encoder alone: as a setting, by `load_backbone`, and for SEVERE.
    alone = NETWORKS[name]()
    alone.load(str(tmp_path / "epoch_200.pth.tar"))
    loaded = load_backbone(tmp_path / "epoch_200.pth.tar")
    for key, value in method.backbone.state_dict().items():
        assert torch.equal(value, alone.state_dict()[key]), key
        assert torch.equal(value, loaded.state_dict()[key]), key
    assert alone.normalisation.mean == (0.485, 0.456, 0.406)
    described = describe_backbone(tmp_path / "ours.safetensors")
    _, settings = backbone_settings(described, tmp_path / "ours.safetensors")
    assert settings["class_path"] == name

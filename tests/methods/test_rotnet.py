"""RotNet: turns against torch.rot90, uniform angles, all four copies, and its weights."""

from pathlib import Path

import pytest
import torch

from modules.backbones.cnn.caffenet import CaffeNet
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.core.batch import unlabelled
from modules.core.output import StepOutput
from modules.methods.rotnet import ANGLES, RotNet, turn
from modules.weights.passport import read_passport
from tests.registry import tiny_cnn, tiny_vit


def test_turns_are_those_of_torch_one_clip_at_a_time() -> None:
    clip = torch.randint(0, 256, (8, 3, 6, 6, 3), dtype=torch.uint8)
    quarters = torch.arange(8) % 4
    turned = turn(clip, quarters)
    for row in range(8):
        assert torch.equal(turned[row], torch.rot90(clip[row], int(quarters[row]), (1, 2))), row
    assert torch.equal(turn(turned, -quarters % 4), clip)


def test_angles_are_uniform_and_independent() -> None:
    # One bright corner shows the angle.
    video = torch.zeros(4000, 1, 1, 16, 16, 3, dtype=torch.uint8)
    video[..., 0, 0, :] = 255

    class Corner(torch.nn.Module):
        """The corners of the first frame as features."""

        feature_dim = 4

        def preprocess(self, clip: torch.Tensor) -> torch.Tensor:
            return clip[:, 0, ..., 0].float()

        def forward(self, frame: torch.Tensor) -> torch.Tensor:
            # Upper left, lower left, lower right, upper right: counter-clockwise.
            return torch.stack([frame[:, 0, 0], frame[:, -1, 0], frame[:, -1, -1], frame[:, 0, -1]], 1)

    method = RotNet(Corner(), flip=0.0)  # type: ignore[arg-type]
    torch.nn.init.eye_(method.rotation_head.weight)
    torch.nn.init.zeros_(method.rotation_head.bias)
    output = method.step(unlabelled(video), torch.Generator().manual_seed(0))
    label = output["show"]["label"]
    assert (label.bincount(minlength=4) / len(label)).tolist() == pytest.approx([0.25] * 4, abs=0.03)
    pairs = (label[:-1] * 4 + label[1:]).bincount(minlength=16) / (len(label) - 1)
    assert pairs.tolist() == pytest.approx([1 / 16] * 16, abs=0.02)
    # What is told is the angle by which the frames are turned.
    assert output["log"]["accuracy"] == 1


@pytest.mark.parametrize("network", [tiny_cnn, tiny_vit])
def test_every_angle_trains_on_all_four_copies(network: object) -> None:
    method = RotNet(network(), every_angle=True, flip=0.0)  # type: ignore[operator]
    video = torch.randint(0, 256, (3, 1, 4, 32, 32, 3), dtype=torch.uint8)
    show = method.step(unlabelled(video), torch.Generator().manual_seed(0))["show"]
    assert show["label"].tolist() == list(range(len(ANGLES))) * 3
    for row, clip in enumerate(show["clip"]):
        assert torch.equal(clip, torch.rot90(video[row // 4, 0], row % 4, (1, 2))), row
    assert method.views_per_clip == 4


def test_features_of_any_length_are_classified() -> None:
    """A feature that keeps frames or places is longer than the encoder is wide."""
    for side, network in (
        (32, VideoViT("micro", 32, 4, patch_size=8, embed_dim=32, depth=1, num_heads=2, pooling="time")),
        (44, CaffeNet(4, stem="small", image_size=44)),
    ):
        assert network.feature_dim > network.embed_dim
        video = torch.randint(0, 256, (2, 1, 4, side, side, 3), dtype=torch.uint8)
        output = RotNet(network, flip=0.0).step(unlabelled(video), torch.Generator().manual_seed(0))
        assert output["loss"].isfinite()
        assert output["log"]["chance"] == 0.25


def test_converted_encoder_starts_another_network(tmp_path: Path) -> None:
    method = RotNet(tiny_cnn())
    torch.save({"state_dict": method.state_dict()}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "all.safetensors")
    assert read_passport(tmp_path / "all.safetensors")["kind"] == "rotation"
    for file in ("last.ckpt", "all.safetensors"):
        encoder = VideoResNet("r3d_18", 4, checkpoint=str(tmp_path / file))
        for name, value in method.backbone.state_dict().items():
            assert torch.equal(value, encoder.state_dict()[name]), name


def accuracy_after_training(upright: bool) -> float:
    """Accuracy on unseen clips of a small network after 60 steps, on noise that is brighter above than below, or is not."""
    torch.manual_seed(0)
    method = RotNet(VideoResNet("r3d_18", width=4), flip=0.0)
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    light = torch.linspace(90, -90, 16).view(16, 1, 1) * upright

    def found(step: int) -> StepOutput:
        g = torch.Generator().manual_seed(step)
        video = torch.randint(90, 166, (16, 1, 4, 16, 16, 3), generator=g) + light
        return method.step(unlabelled(video.round().byte()), g)

    for step in range(60):
        optimiser.zero_grad()
        found(step)["loss"].backward()
        optimiser.step()
    method.eval()
    with torch.no_grad():
        return sum(found(step)["log"]["accuracy"].item() for step in range(1000, 1006)) / 6


@pytest.mark.slow
def test_learns_where_there_is_an_upright_side_and_only_there() -> None:
    assert accuracy_after_training(True) > 0.9
    assert accuracy_after_training(False) < 0.4

"""PRP: draws of rates and starts, the frames that count, refusals, and official files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modules.backbones.cnn.c3d import C3D
from modules.convert.command import convert
from modules.core.batch import unlabelled
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.preprocessing import TO_ONE
from modules.methods.prp import PRP, AttentionSettings, Playback, attended_error, motion_attention, play
from modules.weights.names.cnn.prp import to_official
from modules.weights.passport import read_passport
from tests.registry import tiny_cnn

SMALL = AttentionSettings(patch=8, stride=4)


def numbered(videos: int, frames: int, side: int = 32) -> torch.Tensor:
    """Videos whose pixels are the number of their frame: uint8 [B, L, H, W, 3]."""
    return torch.arange(frames, dtype=torch.uint8).view(1, -1, 1, 1, 1).expand(videos, -1, side, side, 3).contiguous()


def test_every_rate_and_start_is_drawn() -> None:
    method = PRP(tiny_cnn(), 4, (1, 2, 4), SMALL)
    played, label = method.draw(numbered(900, 18, 16), torch.Generator().manual_seed(0))
    shown = played.clip[:, :, 0, 0, 0].long()
    rate = torch.tensor(method.rates)[label]
    assert torch.equal(shown.diff(dim=1), rate[:, None].expand(-1, 3))
    share = label.bincount() / len(label)
    assert share.tolist() == pytest.approx([1 / 3] * 3, abs=0.06)
    for place, one in enumerate(method.rates):
        starts = shown[label == place, 0]
        # A clip uses the frames up to the next one that it would show.
        assert starts.unique().tolist() == list(range(18 - 4 * one + 1)), one


@pytest.mark.parametrize("rate", [1, 2, 3, 4])
def test_slow_clip_one_frame_at_a_time(rate: int) -> None:
    """A reference that follows the definition, also for rates that the official code does not have."""
    start, frames, length = 2, 6, 30
    video = numbered(1, length, 16)
    played = play(video, torch.tensor([rate]), torch.tensor([start]), frames, 4, SMALL)
    for number in range(2 * frames):
        place = start + number * rate / 2
        before, after = int(place), min(int(place + 0.5), start + frames * rate - 1)
        assert bool(played.real[0, number]) == (place == int(place))
        assert torch.allclose(played.slow[0, :, number], torch.tensor((before + after) / 510)), number


def test_attention_is_high_where_it_moves_and_one_where_nothing_does() -> None:
    video = numbered(2, 8, 16) * 0
    video[0, ::2, :8, :8] = 255
    weight = motion_attention(video, torch.zeros(2, 1, dtype=torch.int64), 8, 1, AttentionSettings(patch=8, stride=8))
    assert torch.equal(weight[1], torch.ones_like(weight[1]))
    assert weight[0, 0, 0, 0, 0] == pytest.approx(2.0, abs=1e-4)
    assert weight[0, 0, 0, -1, -1] == pytest.approx(0.8, abs=1e-3)


def test_made_up_frames_do_not_count() -> None:
    slow, drawn = torch.zeros(2, 3, 4, 2, 2), torch.zeros(2, 3, 4, 2, 2)
    real = torch.tensor([[True, False, True, False], [True] * 4])
    drawn[0, :, 1::2], drawn[1, :, 0] = 7.0, 2.0
    loss = attended_error(drawn, Playback(slow, slow, real, torch.full_like(slow, 1.5)))
    # The second clip has an error of 4 in one of four frames.
    assert loss.item() == pytest.approx(1.5 * (0 + 4 / 4) / 2)


def test_features_for_probes_are_of_as_many_frames_as_in_training() -> None:
    method = PRP(tiny_cnn(), 4, (1, 2), SMALL)
    for frames, shown in ((8, [0, 2, 4, 6]), (4, [0, 1, 2, 3]), (11, [0, 2, 4, 6])):
        assert method.inputs(unlabelled(numbered(1, frames)[:, None]))[0, 0, :, 0, 0, 0].tolist() == shown


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rates": (2,)}, r"model\.rates is \[2\]"),
        ({"rates": (1, 1)}, r"model\.rates is \[1, 1\]"),
        ({"rates": (1, 3)}, r"must divide 16, twice model\.frames"),
        ({"frames": 2}, r"model\.frames is 2"),
        ({"rate_weight": -1}, r"model\.rate_weight is -1"),
    ],
)
def test_refused_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        PRP(tiny_cnn(), **({"frames": 8} | settings))


def test_refused_clips() -> None:
    generator = torch.Generator()
    method = PRP(tiny_cnn(), 4, (1, 2), SMALL)
    with pytest.raises(SettingError, match=r"data\.clip\.frames is 7, but 4 frames at rate 2 need 8"):
        method.step(unlabelled(numbered(2, 7)[:, None]), generator)
    for side in (40, 0 + 16):
        with pytest.raises(SettingError, match=rf"data\.clip\.size is {side}; .* model\.attention\.patch, 20"):
            PRP(tiny_cnn(), 4, (1, 2), AttentionSettings(patch=20)).step(unlabelled(numbered(2, 8, side)[:, None]), generator)
    with pytest.raises(SettingError, match=r"map of model\.backbone has \(2, 2, 2\) places for 12 frames"):
        PRP(tiny_cnn(), 12, (1, 2), SMALL).step(unlabelled(numbered(2, 24)[:, None]), generator)


def test_official_file_becomes_ours(tmp_path: Path) -> None:
    method = PRP(C3D(4), 8, attention=SMALL)
    state = to_official(method.state_dict())
    assert {"base_network.conv3_1.conv3d.1.running_var", "conv6_cls.conv3d.0.bias", "up4_1.weight"} <= state.keys()
    torch.save(state, tmp_path / "best.pt")
    convert(tmp_path / "best.pt", tmp_path / "ours.safetensors")
    again = PRP(C3D(4), 8, attention=SMALL)
    load_strictly(again, load_file(tmp_path / "ours.safetensors"), "file")
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    passport = read_passport(tmp_path / "ours.safetensors")
    assert (passport["kind"], passport["architecture"]["rates"], passport["architecture"]["width"]) == ("playback", 4, 4)
    for file in ("best.pt", "ours.safetensors"):
        encoder = C3D(4, checkpoint=str(tmp_path / file))
        assert encoder.normalisation == TO_ONE
        for name, value in method.backbone.state_dict().items():
            assert torch.equal(value, encoder.state_dict()[name]), name

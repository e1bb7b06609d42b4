"""Random changes of audio: their draws and effects."""

import pytest
import torch

from modules.augment.sound import (
    MixDraws,
    NoiseAndRoll,
    SpecAugment,
    WaveformMixup,
    draw_beta,
    draw_gain,
    mix_labels,
    mix_waveforms,
    roll,
    scale_waveforms,
)
from modules.core.errors import SettingError


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_beta(generator: torch.Generator) -> None:
    drawn = draw_beta(20000, generator)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.004)
    assert drawn.std().item() == pytest.approx((0.25 / 21) ** 0.5, abs=0.003)
    theirs = torch.distributions.Beta(10.0, 10.0)
    points = torch.tensor([0.3, 0.4, 0.6, 0.7])
    grid = torch.linspace(0.0005, 0.9995, 1000)
    expected = [(theirs.log_prob(grid[grid < point]).exp().sum() / 1000).item() for point in points]
    assert [(drawn < point).float().mean().item() for point in points] == pytest.approx(expected, abs=0.012)
    gain = draw_gain(1000, generator)
    assert gain.min() > 0.5
    assert gain.max() < 1.5
    assert scale_waveforms(torch.ones(2, 1, 3), torch.tensor([1.0, 2.0]))[:, 0, 0].tolist() == [1, 2]


def test_spec_augment(generator: torch.Generator) -> None:
    augment = SpecAugment()
    widths = []
    for _ in range(50):
        bands = augment.draw(8, 1024, 128, generator)
        widths += zip((bands.last_bin - bands.first_bin).tolist(), (bands.last_frame - bands.first_frame).tolist(), strict=True)
        assert bands.first_bin.min() >= 0
        assert bands.last_bin.max() <= 128
        assert bands.last_frame.max() <= 1024
    bins, frames = zip(*widths, strict=True)
    assert (min(bins), min(frames) < 5, 40 < max(bins) < 48, 180 < max(frames) < 192) == (0, True, True, True)
    changed = SpecAugment(6, 10)(torch.ones(4, 30, 20), generator)
    assert set(changed.unique().tolist()) == {0.0, 1.0}
    # Whole rows and columns.
    for one in changed:
        rows, columns = (one == 0).all(1), (one == 0).all(0)
        assert torch.equal(one == 0, rows[:, None] | columns[None])
    assert SpecAugment(0, 0)(torch.ones(4, 30, 20), generator).all()
    # Narrower than the band could be.
    assert SpecAugment(48, 192)(torch.ones(4, 30, 20), generator).shape == (4, 30, 20)
    with pytest.raises(SettingError, match="bins"):
        SpecAugment(-1)


def test_noise_and_roll(generator: torch.Generator) -> None:
    values = torch.arange(12.0).view(2, 6)
    rolled = roll(values, torch.tensor([2, -1]))
    assert torch.equal(rolled[0], values[0].roll(2))
    assert torch.equal(rolled[1], values[1].roll(-1))
    changed = NoiseAndRoll(5)(torch.zeros(3, 40, 8), generator)
    assert changed.min() >= 0
    assert 0 < changed.max() <= 0.1
    shifts = NoiseAndRoll(3).draw(500, 1, 1, generator).shift
    assert sorted(shifts.unique().tolist()) == [-3, -2, -1, 0, 1, 2]


def test_mixup(generator: torch.Generator) -> None:
    draws = WaveformMixup(0.5).draw(2000, generator)
    assert draws.mixed.float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert 0 <= draws.partner.min() < 10
    assert 1990 < draws.partner.max() <= 1999
    waves = torch.randn(2, 1, 100, generator=generator)
    pair = MixDraws(torch.tensor([True, True]), torch.tensor([1, 0]), torch.tensor([0.75, 0.6]))
    length = torch.tensor([60, 100])
    mixed = mix_waveforms(waves, pair, length)
    # The mixture has the length of the first one.
    assert not mixed[0, :, 60:].any()
    assert mixed[1, :, 60:].any()
    first = waves[0, 0, :60] - waves[0, 0, :60].mean()
    second = waves[1, 0] - waves[1, 0].mean()
    expected = 0.75 * first + 0.25 * second[:60]
    assert torch.allclose(mixed[0, 0, :60], expected - expected.mean(), atol=1e-6)
    label = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 1]])
    assert torch.allclose(mix_labels(label, pair), torch.tensor([[0.75, 1, 0.25, 0.25], [0.4, 1, 0.6, 0.6]]))
    assert mix_labels(label, pair).sum(1).tolist() == pytest.approx([0.75 * 2 + 0.25 * 3, 0.6 * 3 + 0.4 * 2])
    same = draws._replace(mixed=torch.zeros(2000, dtype=torch.bool))
    quiet = torch.randn(2000, 4, generator=generator)
    assert torch.allclose(mix_waveforms(quiet, same), quiet - quiet.mean(1, keepdim=True), atol=1e-6)
    with pytest.raises(SettingError, match="probability"):
        WaveformMixup(1.5)

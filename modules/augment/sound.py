"""Augmentation of waveforms and log-mel spectrograms, batched on the device (AudioMAE and CAV-MAE, official code).

Drawing and applying are separate: each change is a pure function of its random draws. Axis letters: `B` samples, `C` channels,
`S` samples of sound, `F` frames, `K` mel bins or classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.backbones.audio.log_mel import centred
from modules.core.errors import check_range, check_whole

# Both mixing weights and gains are drawn from Beta(10, 10).
BETA = 10


def draw_beta(count: int, generator: torch.Generator) -> Tensor:
    """Draws from Beta(10, 10), with mean 0.5 and standard deviation 0.109: the distribution of the 10th smallest of 19 uniform
    numbers.

    Returns:
        float32 [count]
    """
    uniform = torch.rand(count, 2 * BETA - 1, generator=generator, device=generator.device)
    return uniform.sort(1).values[:, BETA - 1]


# --- Spectrograms ---


class Bands(NamedTuple):
    """Bands that SpecAugment sets to 0, each int64 [B]; the last index is exclusive."""

    first_bin: Tensor
    last_bin: Tensor
    first_frame: Tensor
    last_frame: Tensor


@dataclass(frozen=True)
class SpecAugment:
    """Set one band of frequencies and one of frames to 0, before normalisation (https://arxiv.org/abs/1904.08779).

    Args:
        bins: Upper limit of the random width of the band of frequencies.
        frames: Upper limit of the random width of the band of frames, which may be within the padding.

    Raises:
        SettingError: If a width is negative.
    """

    bins: int = 48
    frames: int = 192

    def __post_init__(self) -> None:
        check_whole("SpecAugment", 0, bins=self.bins, frames=self.frames)

    def draw(self, batch: int, frames: int, bins: int, generator: torch.Generator) -> Bands:
        """Draw for spectrograms [batch, frames, bins]."""
        uniform = torch.rand(4, batch, generator=generator, device=generator.device)

        def band(size: int, limit: int, width: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
            width = width * min(limit, size)
            first = (place * (size - width)).long()
            return first, first + width.long()

        return Bands(*band(bins, self.bins, uniform[0], uniform[1]), *band(frames, self.frames, uniform[2], uniform[3]))

    def __call__(self, spectrogram: Tensor, generator: torch.Generator) -> Tensor:
        """float [B, F, K] -> the same shape, in training only."""
        batch, frames, bins = spectrogram.shape
        return blank_bands(spectrogram, self.draw(batch, frames, bins, generator))


def blank_bands(spectrogram: Tensor, bands: Bands) -> Tensor:
    """Set bands to 0: float [B, F, K]."""

    def inside(size: int, first: Tensor, last: Tensor) -> Tensor:
        place = torch.arange(size, device=spectrogram.device)
        return (place >= first[:, None]) & (place < last[:, None])

    frames, bins = spectrogram.shape[1:]
    blank = inside(bins, bands.first_bin, bands.last_bin)[:, None]
    blank = blank | inside(frames, bands.first_frame, bands.last_frame)[..., None]
    return spectrogram.masked_fill(blank, 0)


class NoiseDraws(NamedTuple):
    """Random draws for noise and roll."""

    uniform: Tensor
    """float [B, F, K], from 0 to 1"""
    scale: Tensor
    """float [B], from 0 to 1"""
    shift: Tensor
    """int64 [B], frames"""


@dataclass(frozen=True)
class NoiseAndRoll:
    """Add noise to normalised spectrograms, including padding, and roll them over time.

    Args:
        shift: Largest shift in frames; CAV-MAE uses all frames, AudioMAE's option, which its recipes disable, 10.

    Raises:
        SettingError: If `shift` is not at least 1.
    """

    shift: int = 1024

    def __post_init__(self) -> None:
        check_whole("noise and roll", 1, shift=self.shift)

    def draw(self, batch: int, frames: int, bins: int, generator: torch.Generator) -> NoiseDraws:
        """Draw for spectrograms [batch, frames, bins]."""
        device = generator.device
        uniform = torch.rand(batch, frames, bins, generator=generator, device=device)
        scale = torch.rand(batch, generator=generator, device=device)
        return NoiseDraws(uniform, scale, torch.randint(-self.shift, self.shift, (batch,), generator=generator, device=device))

    def __call__(self, spectrogram: Tensor, generator: torch.Generator) -> Tensor:
        """float [B, F, K] -> the same shape, in training only."""
        batch, frames, bins = spectrogram.shape
        return add_noise_and_roll(spectrogram, self.draw(batch, frames, bins, generator))


def add_noise_and_roll(spectrogram: Tensor, draws: NoiseDraws) -> Tensor:
    """Add uniform noise of at most a tenth, then roll over time: float [B, F, K]."""
    return roll(spectrogram + draws.uniform * draws.scale[:, None, None] / 10, draws.shift)


def roll(values: Tensor, shift: Tensor) -> Tensor:
    """Roll the second axis of each sample by its own number of steps, cyclically.

    Args:
        values: [B, N, ...], spectrograms, or waveforms [B, S].
        shift: int64 [B]
    """
    steps = values.shape[1]
    source = (torch.arange(steps, device=values.device) - shift[:, None]) % steps
    return values[torch.arange(len(values), device=values.device)[:, None], source]


# --- Waveforms ---


def draw_gain(batch: int, generator: torch.Generator) -> Tensor:
    """Factors for `scale_waveforms`, 0.5 + Beta(10, 10): float32 [batch].

    This is the effect of AudioMAE's `roll_mag_aug`; its roll has no effect, or shifts a stereo file by one sample.
    """
    return 0.5 + draw_beta(batch, generator)


def scale_waveforms(waveform: Tensor, gain: Tensor) -> Tensor:
    """Multiply [B, ...] by [B]."""
    return waveform * gain.view(-1, *[1] * (waveform.ndim - 1))


class MixDraws(NamedTuple):
    """Random draws for mixing."""

    mixed: Tensor
    """bool [B], whether a sample is mixed"""
    partner: Tensor
    """int64 [B], index of the other sample in the batch"""
    weight: Tensor
    """float [B], weight of the sample itself, from 0 to 1"""


@dataclass(frozen=True)
class WaveformMixup:
    """Mix some samples with another one of the batch.

    Args:
        probability: Probability that a sample is mixed.

    Raises:
        SettingError: If it is not a probability.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_range("waveform mixup", 0, 1, probability=self.probability)

    def draw(self, batch: int, generator: torch.Generator) -> MixDraws:
        """Draw for a batch."""
        device = generator.device
        mixed = torch.rand(batch, generator=generator, device=device) < self.probability
        partner = torch.randint(batch, (batch,), generator=generator, device=device)
        return MixDraws(mixed, partner, draw_beta(batch, generator))


def mix_waveforms(waveform: Tensor, draws: MixDraws, length: Tensor | None = None) -> Tensor:
    """Weighted sum of two waveforms without their means. The second one is padded with 0 or cut to the length of the first.

    Args:
        waveform: float [B, S] or [B, C, S], after gains are applied.
        draws: draws for mixing.
        length: int64 [B], lengths without padding; None if there is no padding. The mixture has the length of the first.
    """
    waveform = centred(waveform, length)
    mixed = blend(waveform, draws)
    if length is not None:
        real = torch.arange(waveform.shape[-1], device=waveform.device) < length[:, None]
        mixed = torch.where(real if waveform.ndim == 2 else real[:, None], mixed, 0)
    return centred(mixed, length)


def blend(values: Tensor, draws: MixDraws) -> Tensor:
    """Weighted sum of two samples if they are mixed: float [B, ...]. CAV-MAE also mixes its normalised images in this way."""
    weight = torch.where(draws.mixed, draws.weight, 1).to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    return weight * values + (1 - weight) * values[draws.partner]


def mix_labels(label: Tensor, draws: MixDraws, smoothing: float = 0.0) -> Tensor:
    """Targets of mixed samples: the sum of both labels, weighted like their sounds.

    Args:
        label: float [B, K], 1 for the classes of a sample, 0 for others.
        draws: draws for mixing.
        smoothing: label smoothing (CAV-MAE: 0.1). The smallest target is `smoothing` / K. Weighted labels times
            (1 - `smoothing`) are added to it in a mixture; without mixing, classes have the target 1 - `smoothing`.
    """
    low, high = smoothing / label.shape[1], 1 - smoothing
    return torch.where(draws.mixed[:, None], low + high * blend(label, draws), low + (high - low) * label)

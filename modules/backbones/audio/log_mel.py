"""Log-mel spectrograms on the device, as computed by Kaldi and used by AST, AudioMAE and CAV-MAE.

`log_mel` computes them from waveforms, `fit_frames` pads or cuts them to one length, and `LogMelInput.standardise` applies the
normalisation that a network was trained with. Frames are 10 ms apart. Axis letters: `B` samples, `C` channels, `S` samples of
sound, `F` frames, `K` mel bins.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from modules.core.device import full_float32, table
from modules.core.errors import SettingError, check_positive, check_whole

WINDOW_SECONDS, SHIFT_SECONDS = 0.025, 0.01
PRE_EMPHASIS = 0.97
LOWEST_HZ = 20.0
# Lower bound of the power before the logarithm, the machine epsilon of float32: digital silence becomes -15.9424.
FLOOR = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class LogMelInput:
    """The spectrograms that a network expects.

    Args:
        frames: Length that shorter spectrograms are padded to and longer ones are cut to.
        mean: Mean that is subtracted.
        std: Standard deviation of the training data.
        deviations: Number of standard deviations to divide by: 2 in AST and AudioMAE, 1 in CAV-MAE.
        rate: Samples per second.
        bins: Mel bins.

    Raises:
        SettingError: If a number is out of its range.
    """

    frames: int = 1024
    mean: float = -4.2677393
    std: float = 4.5689974
    deviations: float = 2.0
    rate: int = 16000
    bins: int = 128

    def __post_init__(self) -> None:
        check_whole("log-mel", 1, frames=self.frames, bins=self.bins, rate=self.rate)
        check_positive("log-mel", std=self.std, deviations=self.deviations)

    def __call__(self, waveform: Tensor, length: Tensor | None = None) -> Tensor:
        """Spectrograms of one length, not yet normalised, so that SpecAugment can be applied before `standardise`.

        Args:
            waveform: float [B, C, S] or [B, S], from -1 to 1.
            length: int64 [B], lengths without padding; None if there is no padding.

        Returns:
            float32 [B, frames, bins]
        """
        return fit_frames(log_mel(waveform, self.rate, self.bins, length), self.frames)

    def standardise(self, spectrogram: Tensor) -> Tensor:
        """float32 [B, F, K] -> the same shape."""
        return (spectrogram - self.mean) / (self.deviations * self.std)


LOG_MEL_INPUTS = {
    "audiomae_audioset": LogMelInput(),
    "audiomae_esc50": LogMelInput(512, -6.6268077, 5.358466),
    "audiomae_speech_commands": LogMelInput(128, -6.845978, 5.5654526),
    "cav_mae": LogMelInput(1024, -5.081, 4.4849, 1.0),
    "ogm_ge_kinetics_sounds": LogMelInput(1024, -4.503877, 5.141276),
}
"""Inputs of published networks (official code). That of AudioSet also applies to Kinetics-400, CAV-MAE's also to VGGSound."""


def centred(waveform: Tensor, length: Tensor | None = None) -> Tensor:
    """Subtract from each sample its mean over time and channels; padding stays 0.

    Args:
        waveform: float [B, ..., S]
        length: int64 [B], lengths without padding; None if there is no padding.
    """
    flat = waveform.flatten(1, -2) if waveform.ndim > 2 else waveform[:, None]
    if length is None:
        return (flat - flat.mean((1, 2), keepdim=True)).view_as(waveform)
    real = (torch.arange(flat.shape[2], device=flat.device) < length[:, None])[:, None]
    mean = torch.where(real, flat, 0).sum((1, 2)) / (length * flat.shape[1]).clamp_min(1)
    return torch.where(real, flat - mean[:, None, None], 0).view_as(waveform)


def log_mel(waveform: Tensor, rate: int = 16000, bins: int = 128, length: Tensor | None = None) -> Tensor:
    """Kaldi's filter banks of the first channel, after the mean over all channels has been subtracted.

    Each frame of 25 ms is centred, pre-emphasised and weighted with a symmetric Hann window. The power of its Fourier
    transform is summed with triangles that are linear in mel, and the natural logarithm is taken. Samples are from -1 to 1;
    Kaldi's own values, from 16-bit integers, are 20.79 higher. At 16 kHz and 128 bins, bin 3 is between two frequencies of the
    transform, so it is always at the floor.

    Args:
        waveform: float [B, C, S] or [B, S], from -1 to 1.
        rate: samples per second.
        bins: K.
        length: int64 [B], lengths without padding; None if there is no padding.

    Returns:
        float32 [B, 1 + (S - 400) // 160, K] at 16 kHz; rows after a sample's own length are 0.

    Raises:
        SettingError: if the waveforms are shorter than one frame.
    """
    size, shift = int(rate * WINDOW_SECONDS), int(rate * SHIFT_SECONDS)
    if waveform.shape[-1] < size:
        raise SettingError(
            f"The sound has {waveform.shape[-1]} samples, but a frame of a spectrogram needs {size}; raise "
            "data.streams.sound.seconds."
        )
    device, fft = waveform.device, 2 ** math.ceil(math.log2(size))
    waveform = centred(waveform.float(), length)
    framed = (waveform if waveform.ndim == 2 else waveform[:, 0]).unfold(-1, size, shift)
    framed = framed - framed.mean(-1, keepdim=True)
    # The first sample of a frame is its own predecessor.
    framed = framed - PRE_EMPHASIS * torch.cat([framed[..., :1], framed[..., :-1]], -1)
    windowed = framed * table(hann_window, size, dtype=torch.float32, device=device)
    filters = table(mel_filters, rate, bins, fft, dtype=torch.float32, device=device)
    with full_float32(device):
        power = torch.fft.rfft(windowed, fft).abs().square()
        # The filters leave out the highest frequency.
        spectrogram: Tensor = (power[..., :-1] @ filters.T).clamp_min(FLOOR).log()
    if length is None:
        return spectrogram
    frames = torch.div(length - size, shift, rounding_mode="floor") + 1
    real = torch.arange(spectrogram.shape[1], device=device) < frames[:, None]
    return torch.where(real[..., None], spectrogram, 0)


def fit_frames(spectrogram: Tensor, frames: int) -> Tensor:
    """Cut the end, or append rows of 0, which are louder than silence (official code).

    Args:
        spectrogram: float [B, F, K]
        frames: number of frames of the output.
    """
    return pad(spectrogram[:, :frames], (0, 0, 0, max(0, frames - spectrogram.shape[1])))


def hann_window(size: int) -> np.ndarray:
    """Symmetric Hann window: 0 at both ends, float64 [size]."""
    return np.hanning(size)


def mel_filters(rate: int, bins: int, fft: int) -> np.ndarray:
    """Kaldi's triangular filters from 20 Hz to half the rate.

    Args:
        rate: samples per second.
        bins: K.
        fft: length of the Fourier transform.

    Returns:
        float64 [K, fft / 2], without the highest frequency.
    """

    def mel(frequency: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log(1.0 + frequency / 700.0)

    low, high = mel(np.array([LOWEST_HZ, rate / 2]))
    width = (high - low) / (bins + 1)
    left = low + width * np.arange(bins)[:, None]
    place = (mel(np.arange(fft // 2) * rate / fft) - left) / width
    triangles: np.ndarray = np.maximum(0.0, np.minimum(place, 2.0 - place))
    return triangles

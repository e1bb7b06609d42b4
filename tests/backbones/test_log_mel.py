"""Log-mel spectrograms: properties that are independent of official values."""

import math

import pytest
import torch

from benchmarks.fake_cuda import step_cost
from modules.augment.sound import NoiseAndRoll, SpecAugment, WaveformMixup, draw_gain, mix_waveforms, scale_waveforms
from modules.backbones.audio.log_mel import LOG_MEL_INPUTS, LogMelInput, fit_frames, log_mel
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.methods.videomae import VideoMAE
from tests.registry import METHODS, tiny_vit

SILENCE = math.log(2**-23)
RATE = 16000


@pytest.fixture
def waveform() -> torch.Tensor:
    return 0.1 * torch.randn(3, 1, RATE, generator=torch.Generator().manual_seed(0))


def test_frames() -> None:
    for seconds, frames in ((10, 998), (5, 498), (1, 98)):
        assert log_mel(torch.zeros(1, 1, seconds * RATE)).shape == (1, frames, 128)
    assert log_mel(torch.zeros(1, 400)).shape == (1, 1, 128)
    with pytest.raises(SettingError, match=r"has 399 samples, but a frame of a spectrogram needs 400; raise data\.streams"):
        log_mel(torch.zeros(1, 399))


def test_silence_and_the_empty_bin(waveform: torch.Tensor) -> None:
    assert abs(SILENCE + 15.9424) < 1e-4
    assert torch.allclose(log_mel(torch.zeros(1, RATE)), torch.tensor(SILENCE))
    found = log_mel(waveform)
    assert torch.allclose(found[..., 3], torch.tensor(SILENCE))
    assert (found[..., 4:] > SILENCE + 1).float().mean() > 0.9


def test_gain_offset_and_channels(waveform: torch.Tensor) -> None:
    found = log_mel(waveform)
    reached = found > SILENCE + 3
    assert torch.allclose((log_mel(0.5 * waveform) - found)[reached], torch.tensor(2 * math.log(0.5)), atol=1e-3)
    assert (log_mel(waveform + 0.2) - found)[reached].abs().max() < 1e-3
    # Of several channels the first is used, after the joint mean is removed.
    stereo = torch.cat([waveform, -2 * waveform.roll(1, 2)], 1)
    assert (log_mel(stereo) - found)[reached].abs().max() < 1e-3


def test_presets_and_what_fills_up(waveform: torch.Tensor) -> None:
    # Number of frames, and values of silence and padding.
    published = {
        "audiomae_audioset": (1024, 0.467, -1.278),
        "audiomae_esc50": (512, 0.618, -0.869),
        "audiomae_speech_commands": (128, 0.615, -0.817),
        "cav_mae": (1024, 1.133, -2.422),
        "ogm_ge_kinetics_sounds": (1024, 0.438, -1.112),
    }
    assert LOG_MEL_INPUTS.keys() == published.keys()
    for name, (frames, filled, silent) in published.items():
        own = LOG_MEL_INPUTS[name]
        found = own.standardise(own(torch.zeros(1, 1, RATE)))
        assert found.shape == (1, frames, 128)
        assert found[0, 0, 0].item() == pytest.approx(silent, abs=1e-3)
        assert found[0, -1, 0].item() == pytest.approx(filled, abs=1e-3)
    assert fit_frames(log_mel(waveform), 50).equal(log_mel(waveform)[:, :50])
    with pytest.raises(SettingError, match="std"):
        LogMelInput(std=0.0)


def test_each_sample_of_a_batch_is_as_alone(waveform: torch.Tensor) -> None:
    length = torch.tensor([RATE, 9000, 300])
    own = LogMelInput(128)
    # Padding must not matter.
    together = own(waveform, length)
    assert torch.allclose(together[:1], own(waveform[:1]), atol=1e-4)
    assert torch.allclose(together[1:2], own(waveform[1:2, :, :9000]), atol=1e-4)
    assert not together[1, 54:].any()
    assert not together[2].any()


def test_precision_of_the_run_does_not_matter(waveform: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert log_mel(waveform).equal(log_mel(waveform.clone()))
        found = log_mel(waveform)
    assert found.dtype == torch.float32
    assert found.equal(log_mel(waveform))


class Listens(VideoMAE):
    """Computes spectrograms in its step."""

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        sound = torch.rand(4, 1, RATE, generator=generator, device=generator.device)
        length = torch.full((4,), 9000, device=sound.device)
        sound = scale_waveforms(sound, draw_gain(4, generator))
        sound = mix_waveforms(sound, WaveformMixup().draw(4, generator), length)
        own = LogMelInput(128)
        spectrogram = own.standardise(SpecAugment()(own(sound, length), generator))
        output = super().step(batch, generator)
        return {**output, "loss": output["loss"] + 0 * NoiseAndRoll()(spectrogram, generator).mean()}


def test_nothing_waits_for_the_host() -> None:
    usual = METHODS[0].build()
    cost = step_cost(Listens(tiny_vit(), usual.target, usual.mask), METHODS[0].batch())
    assert cost.copies == []
    assert cost.waits == []
    # The only product in float32 is that with the filters.
    assert {place.partition(":")[0] for place in cost.full_products} <= {"modules/backbones/audio/log_mel.py"}
    assert len(cost.full_products) >= 1

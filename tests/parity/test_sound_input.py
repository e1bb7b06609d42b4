"""Log-mel input, its augmentation, pictures and sampling weights against AudioMAE and CAV-MAE."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.lists.subsets import balancing_weights
from datamodules.video.transforms import short_side_centre
from modules.augment.sound import (
    Bands,
    MixDraws,
    NoiseDraws,
    add_noise_and_roll,
    blank_bands,
    blend,
    mix_labels,
    mix_waveforms,
    scale_waveforms,
)
from modules.backbones.audio.log_mel import LogMelInput, hann_window, log_mel, mel_filters
from modules.core.preprocessing import IMAGENET
from tests.parity.cases import load_case

CASES = ("audiomae", "cav_mae")
RAW, INPUT, FILTERS = 2e-3, 1e-3, 2e-5
"""Largest differences, as the cases state them."""


def case_of(method: str) -> tuple[dict[str, Tensor], dict[str, Any], LogMelInput]:
    tensors, info = load_case(method, "input_pipeline")
    settings = info["settings"]
    deviations = 2.0 if method == "audiomae" else 1.0
    own = LogMelInput(settings["target_length"], settings["mean"], settings["std"], deviations, settings["sample_rate"])
    return tensors, info, own


def both(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Both waveforms as a batch [2, S], and their lengths."""
    waves = [tensors[f"input.waveform_{number}"][0] for number in range(2)]
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([len(wave) for wave in waves])


def near(actual: Tensor, expected: Tensor, bound: float) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= bound


def mixed(info: dict[str, Any], tensors: dict[str, Tensor]) -> MixDraws:
    weight = tensors["input.mixup_lambda"].float().repeat(2)
    return MixDraws(torch.tensor([True, False]), torch.tensor([info["draws"]["mixup_partner"], 0]), weight)


@pytest.mark.parametrize("method", CASES)
def test_spectrograms_and_inputs(method: str) -> None:
    tensors, info, own = case_of(method)
    waves, lengths = both(tensors)
    together = own(waves, lengths)
    for number in range(2):
        raw = tensors[f"output.fbank_{number}"]
        near(log_mel(tensors[f"input.waveform_{number}"])[0], raw, RAW)
        near(log_mel(tensors[f"input.waveform_{number}"][None])[0], raw, RAW)
        # In a batch with a longer one.
        near(log_mel(waves, length=lengths)[number, : len(raw)], raw, RAW)
        near(own.standardise(together)[number], tensors[f"output.input_{number}"], INPUT)
    fill = info["draws"]["pad_or_mask_fill_value_after_normalisation"]
    assert own.standardise(torch.zeros(1)).item() == pytest.approx(fill, abs=1e-5)


@pytest.mark.parametrize("method", CASES)
def test_filters_and_window(method: str) -> None:
    tensors, _, own = case_of(method)
    expected = tensors["output.mel_filters"]
    filters = torch.from_numpy(mel_filters(own.rate, own.bins, 2 * expected.shape[1]))
    near(filters.float(), expected, FILTERS)
    assert not filters[3].any()
    near(torch.from_numpy(hann_window(400)).float(), tensors["output.window"], 1e-6)


@pytest.mark.parametrize("method", CASES)
def test_mixup(method: str) -> None:
    tensors, info, own = case_of(method)
    waves, lengths = both(tensors)
    draws = mixed(info, tensors)
    found = own.standardise(own(mix_waveforms(waves, draws, lengths), lengths))
    near(found[0], tensors["output.mixup_input"], INPUT)
    near(found[1], tensors["output.input_1"], INPUT)
    # a and c, and b, of a to d.
    labels, smoothing = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]]), info["settings"].get("label_smooth", 0.0)
    targets = mix_labels(labels, draws, smoothing)
    near(targets[0], tensors["output.mixup_labels"], 1e-6)
    near(targets[1], tensors["output.labels_1"], 1e-6)
    none = mix_labels(labels, draws._replace(mixed=torch.zeros(2, dtype=torch.bool)), smoothing)
    near(none[0], tensors["output.labels_0"], 1e-6)


@pytest.mark.parametrize("method", CASES)
def test_spec_augment(method: str) -> None:
    tensors, info, own = case_of(method)
    bins, rows = info["draws"]["specaug_freq_bins"], info["draws"]["specaug_masked_rows_all"]
    expected = tensors["output.specaug_input"]
    fill = own.standardise(torch.zeros(1))
    # The case names the rows or bins that are blanked, or the first and the last of them.
    blank = (expected - fill).abs() < 1e-6
    whole_bins, whole_rows = blank.all(0).nonzero()[:, 0], blank.all(1).nonzero()[:, 0]
    raw = own(tensors["input.waveform_0"])
    inside = whole_rows[whole_rows < len(tensors["output.fbank_0"])]
    assert [whole_bins[0].item(), inside[0].item()] == [bins[0], rows[0]]
    draws = Bands(*(torch.tensor([one]) for one in (bins[0], int(whole_bins[-1]) + 1, rows[0], int(inside[-1]) + 1)))
    near(own.standardise(blank_bands(raw, draws))[0], expected, INPUT)


def test_gain_of_audiomae() -> None:
    tensors, _, own = case_of("audiomae")
    found = own.standardise(own(scale_waveforms(tensors["input.waveform_0"], tensors["input.magnitude"].float())))
    near(found[0], tensors["output.rollmag_input"], INPUT)


def test_noise_and_roll_of_cav_mae() -> None:
    tensors, info, own = case_of("cav_mae")
    shift = torch.tensor([info["draws"]["roll_shift_frames"]])
    draws = NoiseDraws(tensors["input.noise_uniform"][None].float(), tensors["input.noise_scale"].float(), shift)
    found = add_noise_and_roll(own.standardise(own(tensors["input.waveform_0"])), draws)
    near(found[0], tensors["output.noise_input"], INPUT)


def test_pictures_of_cav_mae() -> None:
    tensors, info = load_case("cav_mae", "image_pipeline")
    size = info["settings"]["im_res"]
    pictures = []
    for number in range(2):
        picture = torch.from_numpy(short_side_centre(tensors[f"input.image_{number}"].numpy(), size).copy())
        pictures.append(IMAGENET.apply(picture[None, None])[0, :, 0])
        near(pictures[-1], tensors[f"output.image_{number}"], 1e-5)
    weight = torch.full((2,), info["settings"]["mix_lambda"])
    draws = MixDraws(torch.tensor([True, False]), torch.tensor([1, 0]), weight)
    near(blend(torch.stack(pictures), draws)[0], tensors["output.mixed"], 1e-5)


def test_sampling_weights() -> None:
    tensors, _ = load_case("audiomae", "metrics_and_weights")
    targets = tensors["input.targets"].numpy()
    found = balancing_weights([np.flatnonzero(row).tolist() for row in targets], targets.shape[1])
    assert np.allclose(found, tensors["output.sample_weights"].numpy(), rtol=1e-6)

"""Learning rates and parameter groups."""

import math

import pytest
import torch

from modules.backbones.vit.decoder import DecoderSettings, MaskedDecoder
from modules.backbones.vit.video_vit import VideoViT
from modules.downstream.classification import Classification
from modules.training.optim import AdamSettings, AdamWSettings, SGDSettings, warmup_cosine


def test_rates_follow_the_global_batch() -> None:
    peak, final = AdamWSettings().rates(2048)
    assert peak == pytest.approx(1.2e-3)
    assert final == pytest.approx(8e-5)
    assert AdamWSettings(scale_lr=False).rates(2048) == (1.5e-4, 1e-5)


def test_schedule_of_the_paper() -> None:
    """SMILE: at pass 150 of 801 with 40 of warm-up the rate is 0.953 of its peak."""
    steps = 100
    factor = warmup_cosine(40 * steps, 801 * steps, 1e-5 / 1.5e-4)
    assert factor(0) == 0
    assert factor(40 * steps) == 1
    assert factor(20 * steps) == pytest.approx(0.5)
    assert factor(150 * steps) == pytest.approx(0.953, abs=5e-4)
    assert factor(200 * steps) == pytest.approx(0.90, abs=5e-3)
    assert factor(400 * steps) == pytest.approx(0.57, abs=5e-3)


def test_last_step_is_just_above_the_final_rate() -> None:
    final = 1e-5 / 1.5e-4
    factor = warmup_cosine(4000, 80_000, final)
    assert final < factor(79_999) < 1.01 * final
    assert factor(200_000) == pytest.approx(final)
    middle = final + 0.5 * (1 - final) * (1 + math.cos(math.pi / 2))
    assert factor(42_000) == pytest.approx(middle)


def test_no_warmup_starts_at_the_peak() -> None:
    assert warmup_cosine(0, 10, 0.1)(0) == 1


def test_decay_spares_biases_norms_and_mask_token() -> None:
    backbone = VideoViT("micro", 32, 4, patch_size=8, depth=1)
    network = torch.nn.ModuleDict({"backbone": backbone, "decoder": MaskedDecoder(backbone, 5, DecoderSettings(1))})
    optimiser = AdamWSettings().build(network, 1e-3, {"decoder.mask_token"})
    spared = {id(value) for group in optimiser.param_groups if group["weight_decay"] == 0 for value in group["params"]}
    for name, value in network.named_parameters():
        assert (id(value) in spared) == (value.ndim == 1 or name.endswith("mask_token")), name
    counted = sum(len(group["params"]) for group in optimiser.param_groups)
    assert counted == len(list(network.parameters()))


def test_rates_of_tubelet_contrast() -> None:
    """Official run: cosine over 200 epochs, one rate per epoch, stopped at 100."""
    settings = SGDSettings(horizon_epochs=200)
    assert settings.per_epoch
    peak, final = settings.rates(32)
    factor = warmup_cosine(0, 200, final / peak)
    rates = [peak * factor(epoch) for epoch in (0, 50, 99)]
    assert rates == pytest.approx([0.01, 0.008536, 0.005078], abs=1e-6)


def test_sgd_decays_every_trained_parameter() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2).requires_grad_(False))
    optimiser = SGDSettings().build(network, 0.01, set())
    (group,) = optimiser.param_groups
    assert len(group["params"]) == 4
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.01, 0.9, 1e-4, False)


@pytest.mark.parametrize(("decay", "depth"), [(0.75, 12), (0.7, 2)])
def test_layer_decay_of_videomae(decay: float, depth: int) -> None:
    """Official code: level 0 is the embedding, level i + 1 block i, everything else has the full rate."""
    backbone = VideoViT("micro", 32, 4, patch_size=8, embed_dim=12, num_heads=2, depth=depth)
    network = Classification(backbone, num_classes=5)
    optimiser = AdamWSettings(layer_decay=decay).build(network, 2e-3, set())
    rates = {id(value): group["lr"] for group in optimiser.param_groups for value in group["params"]}
    decays = {id(value): group["weight_decay"] for group in optimiser.param_groups for value in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    for name, value in network.named_parameters():
        level = depth + 1
        if name.startswith("backbone.patch_embed"):
            level = 0
        elif name.startswith("backbone.blocks."):
            level = int(name.split(".")[2]) + 1
        assert rates[id(value)] == pytest.approx(2e-3 * decay ** (depth + 1 - level)), name
        assert decays[id(value)] == (0.05 if value.ndim > 1 else 0.0), name
    # Each group follows the schedule in its own proportion.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5)
    assert schedule.get_last_lr() == pytest.approx([group["initial_lr"] / 2 for group in optimiser.param_groups])


def test_adam_of_severe() -> None:
    settings = AdamSettings(milestones=[6, 10, 14])
    factor = settings.factor(0, 16, 0.0)
    rates = [1e-4 * factor(epoch) for epoch in (0, 5, 6, 9, 10, 14, 15)]
    assert rates == pytest.approx([1e-4, 1e-4, 3e-5, 3e-5, 9e-6, 2.7e-6, 2.7e-6])
    assert settings.per_epoch
    assert settings.rates(320) == (1e-4, 0.0)
    assert "0.3 of it from each of the epochs [6, 10, 14]" in settings.describe(0, 1)
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False))
    optimiser = settings.build(network, 1e-4, set())
    (group,) = optimiser.param_groups
    assert isinstance(optimiser, torch.optim.Adam)
    assert (len(group["params"]), group["betas"], group["weight_decay"]) == (2, (0.9, 0.999), 0.0)
    assert SGDSettings(milestones=[3]).factor(0, 9, 0.0)(3) == pytest.approx(0.1)


def test_warmup_with_one_rate_per_epoch() -> None:
    for milestones in (None, [6]):
        factor = SGDSettings(milestones=milestones, warmup_epochs=4).factor(4, 9, 0.0)
        assert [factor(epoch) for epoch in range(5)] == [0.125, 0.375, 0.625, 0.875, 1]
        assert factor(6) < 1

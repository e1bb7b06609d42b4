"""Learning rates and parameter groups."""

import math
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch

from modules.backbones.vit.decoder import DecoderSettings, MaskedDecoder
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.downstream.classification import Classification
from modules.training.optim import (
    AdamSettings,
    AdamWSettings,
    GroupRule,
    ScheduleSettings,
    SGDSettings,
    hold_frozen,
    warmup_cosine,
)
from tests.callbacks.runs import STEPS, data, fit, make_trainer, videomae
from tests.registry import OPTIM

NAME = "backbone.blocks.0.mlp.fc1.weight"


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
    # Each group follows the schedule with its own factor.
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
    constant = SGDSettings(milestones=[])
    assert [constant.factor(2, 9, 0.0)(epoch) for epoch in (1, 2, 8, 20)] == [0.75, 1, 1, 1]
    assert constant.describe(0, 9) == "then constant"


def test_warmup_with_one_rate_per_epoch() -> None:
    for milestones in (None, [6]):
        factor = SGDSettings(milestones=milestones, warmup_epochs=4).factor(4, 9, 0.0)
        assert [factor(epoch) for epoch in range(5)] == [0.125, 0.375, 0.625, 0.875, 1]
        assert factor(6) < 1


def small_network() -> torch.nn.ModuleDict:
    torch.manual_seed(0)
    return torch.nn.ModuleDict({"body": torch.nn.Linear(2, 3), "head": torch.nn.Linear(3, 2)})


def settings_by_name(optimiser: torch.optim.Optimizer, network: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of each parameter."""
    names = {id(value): name for name, value in network.named_parameters()}
    groups = optimiser.param_groups
    return {names[id(value)]: (group["lr"], group["weight_decay"]) for group in groups for value in group["params"]}


@pytest.mark.parametrize("kind", [AdamWSettings, AdamSettings, SGDSettings])
def test_rules_for_some_parameters(kind: type[ScheduleSettings]) -> None:
    network = small_network()
    plain = settings_by_name(kind(weight_decay=0.1).build(network, 1.0, set()), network)  # type: ignore[call-arg]
    rules = [GroupRule(r"^body\.weight", weight_decay=0.3), GroupRule("^body", rate=0.5)]
    optimiser = kind(weight_decay=0.1, rules=rules).build(network, 1.0, set())  # type: ignore[call-arg]
    # AdamW has no weight decay for biases, also for those matched by a rule.
    spared = 0.0 if kind is AdamWSettings else 0.1
    assert settings_by_name(optimiser, network) == {
        "body.weight": (1.0, 0.3),
        "body.bias": (0.5, spared),
        "head.weight": plain["head.weight"],
        "head.bias": plain["head.bias"],
    }


def test_rules_and_layer_decay_multiply() -> None:
    backbone = VideoViT("micro", 32, 4, patch_size=8, embed_dim=12, num_heads=2, depth=2)
    network = Classification(backbone, num_classes=5)
    plain = settings_by_name(AdamWSettings(layer_decay=0.5).build(network, 1.0, set()), network)
    ruled = AdamWSettings(layer_decay=0.5, rules=[GroupRule("blocks", rate=0.1)]).build(network, 1.0, set())
    for name, (rate, decay) in settings_by_name(ruled, network).items():
        assert (rate, decay) == (pytest.approx(plain[name][0] * (0.1 if "blocks" in name else 1)), plain[name][1])


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(SettingError, match=r"'\(' in model\.optim\.rules is not a valid regular expression"):
        GroupRule("(")
    with pytest.raises(SettingError, match=r"model\.optim\.rules\.rate is -1"):
        GroupRule("body", rate=-1)
    for rules in ([GroupRule("tail")], [GroupRule("body"), GroupRule("body")]):
        with pytest.raises(SettingError, match=r"'(tail|body)' in model\.optim\.rules matches no trained parameter"):
            SGDSettings(rules=rules).build(small_network(), 1.0, set())


def test_frozen_parameters_stay_as_they_are() -> None:
    network = small_network()
    optimiser = AdamWSettings(rules=[GroupRule("^body", frozen_until=1.5)]).build(network, 0.1, set())
    for done, still in ((0.0, True), (1.4, True), (1.5, False)):
        before = [value.detach().clone() for value in network.parameters()]
        network["head"](network["body"](torch.ones(4, 2))).sum().backward()
        hold_frozen(optimiser, done)
        optimiser.step()
        optimiser.zero_grad()
        same = [torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
        assert same == [still, still, False, False]
        assert (network["body"].weight in optimiser.state) is not still


def test_a_run_trains_what_was_frozen_from_its_epoch_on(tmp_path: Path) -> None:
    method = videomae()
    method.optim_settings = replace(OPTIM, rules=[GroupRule("^backbone", frozen_until=1)])
    before = {name: value.clone() for name, value in method.state_dict().items()}
    changed: list[bool] = []

    class Look(lightning.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            changed.append(not torch.equal(before[NAME], method.state_dict()[NAME]))

    trainer = fit(method, tmp_path, [Look()])
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert changed == [False] * STEPS + [True] * STEPS
    # The checkpoint's groups are those of its rules.
    with pytest.raises(SettingError, match=r"cannot resume the checkpoint's AdamW .* by the rules \^backbone"):
        make_trainer(tmp_path, [], 3).fit(videomae(), datamodule=data(), ckpt_path=str(tmp_path / "run.ckpt"))

"""The momentum copy: its formula, excluded parts, and where it is stored."""

import io

import pytest
import torch
from torch import Tensor, nn

from modules.layers.contrast.momentum import follow, frozen_copy


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 3))


def perturb(module: nn.Module) -> None:
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn_like(value))


def copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_copy_is_equal_apart_and_frozen() -> None:
    online = network()
    slow = frozen_copy(online)
    for (name, value), own in zip(online.state_dict().items(), slow.state_dict().values(), strict=True):
        assert torch.equal(value, own), name
        assert value.data_ptr() != own.data_ptr(), name
    assert not any(value.requires_grad for value in slow.parameters())
    assert all(value.requires_grad for value in online.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999, 1.0])
def test_follows_its_formula(momentum: float) -> None:
    online = network()
    slow = frozen_copy(online)
    perturb(online)
    before, target = copies(slow), copies(online)
    follow(slow, online, momentum)
    for name, value in slow.named_parameters():
        expected = momentum * before[name].double() + (1 - momentum) * target[name].double()
        assert torch.allclose(value.double(), expected, rtol=0, atol=1e-6), name
    for name, value in online.state_dict().items():
        assert torch.equal(value, target[name]), name


def test_ends_are_exact() -> None:
    online = network()
    slow = frozen_copy(online)
    perturb(online)
    before = copies(slow)
    follow(slow, online, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in slow.state_dict().items())
    follow(slow, online, 0.0)
    assert all(torch.equal(*pair) for pair in zip(slow.parameters(), online.parameters(), strict=True))


def test_running_statistics_are_its_own() -> None:
    online = network().train()
    slow = frozen_copy(online)
    online(torch.randn(8, 3, 16) + 5)
    own = copies(slow)
    follow(slow, online, 0.5)
    assert not torch.allclose(online[1].running_mean, own["1.running_mean"])
    for name, value in slow.named_buffers():
        assert torch.equal(value, own[name]), name
    slow(torch.randn(8, 3, 16) - 5)
    assert not torch.equal(slow[1].running_mean, own["1.running_mean"])


def test_no_gradient_reaches_the_copy() -> None:
    online = network()
    slow = frozen_copy(online)
    clips = torch.randn(2, 3, 16)
    follow(slow, online, 0.9)
    (online(clips) - slow(clips)).square().sum().backward()
    assert all(value.grad is None for value in slow.parameters())
    assert all(value.grad is not None for value in online.parameters())


def test_small_steps_count_under_autocast() -> None:
    online = network()
    slow = frozen_copy(online)
    perturb(online)
    start = slow[0].weight.clone()
    with torch.autocast("cpu", torch.bfloat16):
        follow(slow, online, 0.9999)
    step = 1e-4 * (online[0].weight - start)
    assert torch.allclose(slow[0].weight - start, step, atol=2e-7)
    assert step.abs().max() > 1e-5


def test_different_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        follow(frozen_copy(network()[:2]), network(), 0.9)


def test_copy_is_in_the_state_of_its_owner() -> None:
    def owner() -> nn.ModuleDict:
        online = network()
        return nn.ModuleDict({"online": online, "slow": frozen_copy(online)})

    first, second = owner(), owner()
    perturb(first["online"])
    follow(first["slow"], first["online"], 0.5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for module in (first, second):
        follow(module["slow"], module["online"], 0.5)
    for (name, value), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(value, other), name

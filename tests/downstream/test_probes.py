"""Readouts of frozen features: known results, slow references, and invariances."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.tokens import pool_tokens
from modules.downstream.metrics.probes import (
    GREY,
    fit_linear,
    frame_difference,
    knn_accuracy,
    linear_accuracy,
    single_frame,
    standardise,
)

Probe = Callable[..., float]
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(classes: int = 5, dim: int = 12, per: int = 40, spread: float = 1.0, distance: float = 10.0) -> Data:
    """Normal clouds around random means: two draws, for training and test."""
    g = generator()
    means = distance * F.normalize(torch.randn(classes, dim, generator=g), dim=1)
    y = torch.arange(classes).repeat_interleave(per)
    train, test = (means[y] + spread * torch.randn(len(y), dim, generator=g) for _ in range(2))
    return train, y, test, y


def test_separable_clouds_are_learnt() -> None:
    data = clouds(spread=0.3)
    assert linear_accuracy(*data) == 1.0
    assert knn_accuracy(*data) == 1.0


@pytest.mark.parametrize("probe", [linear_accuracy, knn_accuracy])
def test_permuted_labels_give_chance(probe: Probe) -> None:
    train, y, test, _ = clouds(per=200)
    g = generator(1)
    accuracy = probe(train, y[torch.randperm(1000, generator=g)], test, y[torch.randperm(1000, generator=g)])
    assert abs(accuracy - 0.2) < 4 * (0.2 * 0.8 / 1000) ** 0.5


def test_scale_and_shift_of_features_do_not_matter_to_the_linear_probe() -> None:
    train, y, test, _ = clouds(spread=3.0)
    accuracy = linear_accuracy(train, y, test, y)
    assert 0.3 < accuracy < 1
    scale, shift = 10 ** torch.linspace(-1.5, 1.5, 12), torch.linspace(-20, 20, 12)
    assert linear_accuracy(train * scale + shift, y, test * scale + shift, y) == pytest.approx(accuracy, abs=0.011)
    # Neither does a constant feature, nor the order of the samples.
    assert linear_accuracy(F.pad(train, (0, 1), value=3.0), y, F.pad(test, (0, 1), value=3.0), y) == accuracy
    order = torch.randperm(len(y), generator=generator())
    assert linear_accuracy(train[order], y[order], test, y) == pytest.approx(accuracy, abs=0.006)


def test_linear_fit_is_the_minimum() -> None:
    """At the minimum of a convex function the gradient is zero; small steps of plain descent lead to the same weights."""
    train, y, _, _ = clouds(classes=3, dim=4, spread=4.0)
    x = standardise(train, train)[0].double()
    weight, bias = (value.requires_grad_() for value in fit_linear(x, y, 3, l2=0.1))
    loss = F.cross_entropy(x @ weight + bias, y) + 0.05 * weight.square().sum()
    for slope in torch.autograd.grad(loss, (weight, bias)):
        assert slope.abs().max() < 1e-4
    slow = torch.zeros(5, 3, dtype=torch.float64)
    one, truth = F.pad(x, (0, 1), value=1.0), F.one_hot(y, 3)
    for _ in range(300):
        step = one.T @ ((one @ slow).softmax(1) - truth) / len(y)
        step[:4] += 0.1 * slow[:4]
        slow -= 0.5 * step
    assert torch.allclose(weight, slow[:4], atol=1e-3)


def test_a_larger_penalty_gives_smaller_weights() -> None:
    train, y, _, _ = clouds(spread=3.0)
    x = standardise(train, train)[0]
    sizes = [float(fit_linear(x, y, 5, l2=l2)[0].norm()) for l2 in (1e-3, 1e-1, 10.0)]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


def slow_knn(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, k: int, temperature: float) -> float:
    hits = 0
    for query, truth in zip(test_x.double(), test_y.tolist(), strict=True):
        angles = [float(query @ x / query.norm() / x.norm()) for x in train_x.double()]
        votes: dict[int, float] = {}
        for near in sorted(range(len(angles)), key=lambda i: -angles[i])[:k]:
            label = int(train_y[near])
            votes[label] = votes.get(label, 0.0) + math.exp(angles[near] / temperature)
        hits += max(votes, key=lambda label: votes[label]) == truth
    return hits / len(test_y)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 1.0), (1000, 0.2)])
def test_knn_equals_a_loop(k: int, temperature: float) -> None:
    data = clouds(per=12, spread=3.0)
    expected = slow_knn(*data, k, temperature)
    assert 0.3 < expected < 1
    assert knn_accuracy(*data, k=k, temperature=temperature) == expected
    assert knn_accuracy(*data, k=k, temperature=temperature, chunk=7) == expected


def test_knn_compares_directions() -> None:
    data = clouds(per=12, spread=3.0)
    lengths = 10 ** torch.rand(60, 1, generator=generator(2))
    assert knn_accuracy(data[0] * lengths, data[1], data[2] * lengths.flip(0), data[3]) == knn_accuracy(*data)


def test_knn_weighs_neighbours_and_takes_tiny_temperatures() -> None:
    """One near neighbour of class 0 against two further ones of class 1."""
    angle = torch.tensor([0.1, 0.5, -0.5])
    bank, labels = torch.stack([angle.cos(), angle.sin()], dim=1), torch.tensor([0, 1, 1])
    query = torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(bank, labels, query, torch.tensor([0]), k=3, temperature=0.07) == 1
    assert knn_accuracy(bank, labels, query, torch.tensor([1]), k=3, temperature=10.0) == 1
    assert knn_accuracy(bank, labels, query, torch.tensor([0]), k=3, temperature=1e-6) == 1


def test_a_class_that_only_the_test_has_counts_as_wrong() -> None:
    train, y, test, _ = clouds(classes=3, spread=0.1)
    strange = torch.where(y == 2, 6, y)
    for probe in (linear_accuracy, knn_accuracy):
        assert probe(train, y, test, strange) == pytest.approx(2 / 3)


@pytest.mark.parametrize("probe", [linear_accuracy, knn_accuracy])
def test_bad_features_are_refused(probe: Probe) -> None:
    train, y, test, _ = clouds()
    broken = train.clone()
    broken[3, 4] = torch.nan
    for x in (broken, train[:-1], train[:, :, None], train[:0]):
        with pytest.raises(ValueError, match="training features"):
            probe(x, y[: len(x)] if len(x) == 0 else y, test, y)


def test_standardise() -> None:
    g = generator()
    train, test = (5 + 3 * torch.randn(100, 4, generator=g) for _ in range(2))
    train[:, 1], test[:, 1] = (7 + 1e-6 * torch.randn(100, generator=g) for _ in range(2))
    one, other = standardise(train, test)
    varying = [0, 2, 3]
    assert one[:, varying].mean(0).abs().max() < 1e-5
    assert (one[:, varying].std(0, correction=0) - 1).abs().max() < 1e-5
    # A constant with rounding noise becomes zero, not noise of size one. The test set is scaled like the training set.
    assert one[:, 1].abs().max() < 0.1
    assert other[:, 1].abs().max() < 0.1
    expected = (test - train.mean(0)) / train.std(0, correction=0)
    assert torch.allclose(other[:, varying], expected[:, varying], atol=1e-5)
    assert torch.isfinite(standardise(torch.ones(5, 2), torch.ones(3, 2))[1]).all()


def test_pooling_keeps_time_slices_apart_and_in_order() -> None:
    t, h, w, dim = 3, 2, 4, 5
    tokens = torch.randn(2, t * h * w, dim, generator=generator())
    assert torch.allclose(pool_tokens(tokens, (t, h, w), "mean"), tokens.mean(1))
    pooled = pool_tokens(tokens, (t, h, w), "time")
    assert pooled.shape == (2, t * dim)
    for b in range(2):
        for i in range(t):
            expected = tokens[b, i * h * w : (i + 1) * h * w].mean(0)
            assert torch.allclose(pooled[b, i * dim : (i + 1) * dim], expected, atol=1e-6)
    with pytest.raises(SettingError, match="24 tokens"):
        pool_tokens(tokens, (t, h, w + 1), "time")


def test_frame_difference() -> None:
    video = torch.randint(0, 256, (2, 4, 6, 5, 3), generator=generator(), dtype=torch.uint8)
    grey = sum(weight * video[..., channel].double() / 255 for channel, weight in enumerate(GREY))
    difference = frame_difference(video)
    assert difference.shape == (2, 3 * 6 * 5)
    assert difference.dtype == torch.float32
    assert torch.allclose(difference.double(), (grey[:, 1:] - grey[:, :-1]).flatten(1), atol=1e-6)
    assert frame_difference(video[:, :1].expand(-1, 4, -1, -1, -1)).abs().max() == 0
    # Going backwards in time reverses sign and order.
    back = frame_difference(video.flip(1)).unflatten(1, (3, 30))
    assert torch.allclose(back, -difference.unflatten(1, (3, 30)).flip(1), atol=1e-6)


def test_single_frame() -> None:
    video = torch.randint(0, 256, (2, 4, 6, 5, 3), generator=generator(), dtype=torch.uint8)
    for t in (0, 2, -1):
        features = single_frame(video, t)
        assert features.shape == (2, 3 * 6 * 5)
        assert torch.allclose(features, video[:, t].permute(0, 3, 1, 2).flatten(1) / 255)
    changed = video.clone()
    changed[:, 1:] = 0
    assert torch.equal(single_frame(changed, 0), single_frame(video, 0))


def test_large_frames_are_averaged_down() -> None:
    video = torch.randint(0, 256, (2, 3, 16, 24, 3), generator=generator(), dtype=torch.uint8)
    blocks = video[:, 1].double().div(255).unflatten(1, (8, 2)).unflatten(3, (8, 3)).mean((2, 4))
    assert torch.allclose(single_frame(video, 1, side=8).double(), blocks.permute(0, 3, 1, 2).flatten(1), atol=1e-6)
    assert frame_difference(video, side=8).shape == (2, 2 * 8 * 8)

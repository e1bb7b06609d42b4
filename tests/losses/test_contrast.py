"""Logits and loss of contrast: against slow formulas, in float32, with gradient to the queries only."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from modules.core.errors import SettingError
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.layers.contrast.queue import Queue
from modules.losses.contrast import contrast_logits, info_nce, pair_contrast, unit_rows

B, DIM, K, TEMPERATURE = 6, 16, 24, 0.2


def rows(count: int, seed: int, dim: int = DIM) -> Tensor:
    return unit_rows(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def test_loss_is_its_formula() -> None:
    query, key, negatives = rows(B, 0), rows(B, 1), rows(K, 2)
    losses = []
    for i in range(B):
        own = math.exp(float(query[i] @ key[i]) / TEMPERATURE)
        others = sum(math.exp(float(query[i] @ negative) / TEMPERATURE) for negative in negatives)
        losses.append(-math.log(own / (own + others)))
    assert float(info_nce(query, key, negatives, TEMPERATURE).loss) == pytest.approx(sum(losses) / B, rel=1e-5)


def test_column_0_is_the_own_key() -> None:
    query, key, negatives = rows(B, 0), rows(B, 1), rows(K, 2)
    logits = contrast_logits(query, key, negatives, TEMPERATURE)
    assert logits.shape == (B, 1 + K)
    cosines = torch.cosine_similarity(query[:, None], torch.cat([key, negatives])[None], dim=2) / TEMPERATURE
    assert torch.allclose(logits[:, 0], cosines[:, :B].diagonal(), atol=1e-5)
    assert torch.allclose(logits[:, 1:], cosines[:, B:], atol=1e-5)


def test_loss_of_equal_keys_and_an_orthogonal_queue() -> None:
    axes = torch.eye(DIM)
    query, negatives = axes[:B], axes[B:]
    result = info_nce(query, query, negatives, TEMPERATURE)
    assert float(result.loss) == pytest.approx(math.log(1 + len(negatives) * math.exp(-1 / TEMPERATURE)), rel=1e-5)
    assert float(result.top1) == 1


def test_own_keys_among_the_negatives_do_not_count() -> None:
    query, key = rows(B, 0), rows(B, 1)
    key[:3] = query[:3]
    own = torch.arange(B)
    result = info_nce(query, key, key, TEMPERATURE, own)
    cosines = query @ key.T / TEMPERATURE
    assert torch.allclose(result.loss, torch.nn.functional.cross_entropy(cosines, own))
    assert float(result.top1) == float((cosines.argmax(1) == own).float().mean()) >= 0.5


def test_accuracies_count_the_nearer_negatives() -> None:
    query = torch.eye(DIM)[:1].expand(3, -1)
    cosines = torch.tensor([0.9, 0.6, 0.3])
    key = torch.stack([torch.tensor([c, (1 - c * c) ** 0.5] + [0.0] * (DIM - 2)) for c in cosines.tolist()])
    negatives = torch.zeros(6, DIM)
    negatives[:, 0] = torch.tensor([0.7, 0.6, 0.5, 0.5, 0.5, 0.1])
    result = info_nce(query, key, negatives, TEMPERATURE)
    # 0, 2 (one of them a tie) and 5 negatives are as near as the key.
    assert float(result.top1) == pytest.approx(1 / 3)
    assert float(result.top5) == pytest.approx(2 / 3)


def test_keys_told_by_their_age_alone_show() -> None:
    new, old, own = torch.eye(DIM)[0], torch.eye(DIM)[1], 0.1 * torch.eye(DIM)[2:6]
    key = torch.nn.functional.normalize(new + own)
    # Every query is nearest to what is new, and to the same key of its batch.
    query = key[:1].expand(4, -1)
    result = info_nce(query, key, old.expand(8, -1), TEMPERATURE)
    assert float(result.top1) == 1
    assert float(result.batch_top1) == 1 / 4


def test_the_gradient_goes_to_the_queries_only() -> None:
    query, key, negatives = (tensor.requires_grad_() for tensor in (rows(B, 0), rows(B, 1), rows(K, 2)))
    result = info_nce(query, key, negatives, TEMPERATURE)
    result.loss.backward()
    assert key.grad is None
    assert negatives.grad is None
    assert not result.top1.requires_grad
    logits = contrast_logits(query.detach(), key, negatives, TEMPERATURE)
    share = logits.softmax(dim=1)
    expected = (share[:, :1] - 1) * key + share[:, 1:] @ negatives
    assert query.grad is not None
    assert torch.allclose(query.grad, expected / (TEMPERATURE * B), atol=1e-6)


def test_keys_may_be_queued_before_the_backward_pass() -> None:
    gradients = []
    for early in (True, False):
        queue, query, key = Queue(K, DIM), rows(B, 0).requires_grad_(), rows(B, 1)
        loss = info_nce(query, key, queue.keys, TEMPERATURE).loss
        if early:
            queue.enqueue(key)
        loss.backward()
        gradients.append(query.grad)
    assert torch.equal(gradients[0], gradients[1])


def test_logits_and_loss_are_float32_under_autocast() -> None:
    query, key, negatives = rows(B, 0), rows(B, 1), rows(K, 2)
    expected = contrast_logits(query, key, negatives, TEMPERATURE)
    with torch.autocast("cpu", torch.bfloat16):
        assert (query @ negatives.T).dtype == torch.bfloat16
        logits = contrast_logits(query, key, negatives, TEMPERATURE)
        result = info_nce(query, key, negatives, TEMPERATURE)
        projection = torch.nn.functional.linear(query, torch.eye(DIM))
        assert projection.dtype == torch.bfloat16
        assert unit_rows(projection).dtype == torch.float32
        assert torch.allclose(unit_rows(projection).norm(dim=1), torch.ones(B), atol=1e-6)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)
    assert result.loss.dtype == torch.float32
    assert torch.equal(result.loss, info_nce(query, key, negatives, TEMPERATURE).loss)


def test_never_waits_for_the_device() -> None:
    """Tensors without values: whatever needs one on the host fails."""
    with FakeTensorMode():
        query, key, negatives = (torch.empty(count, DIM) for count in (B, B, K))
        result = info_nce(query, key, negatives, TEMPERATURE)
        assert result.loss.shape == result.top1.shape == ()
        with pytest.raises(DataDependentOutputException):
            result.loss.item()


def test_the_order_of_rows_does_not_matter() -> None:
    query, key, negatives = rows(B, 0), rows(B, 1), rows(K, 2)
    order = torch.randperm(K, generator=torch.Generator().manual_seed(0))
    mixed = info_nce(query.flip(0), key.flip(0), negatives[order], TEMPERATURE).loss
    assert float(mixed) == pytest.approx(float(info_nce(query, key, negatives, TEMPERATURE).loss), rel=1e-6)


def test_a_batch_of_one_without_a_queue_is_refused() -> None:
    backbone = torch.nn.Linear(DIM, DIM)
    backbone.embed_dim = DIM  # type: ignore[assignment]
    contrast = MomentumContrast(backbone, ContrastSettings(queue_size=0))
    contrast.check(SimpleNamespace(datamodule=SimpleNamespace(batch_size=1), world_size=2))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"set data\.batch_size to 2 or more"):
        contrast.check(SimpleNamespace(datamodule=SimpleNamespace(batch_size=1), world_size=1))  # type: ignore[arg-type]


def test_pairs_are_compared_in_both_directions() -> None:
    """Against a slow formula: all clips but the clip itself are candidates."""
    first, second = rows(B, 0), rows(B, 1)
    found = pair_contrast(first, second, TEMPERATURE)
    everyone = torch.cat([first, second])
    for i in range(B):
        expected = 0.0
        for one, other in ((i, B + i), (B + i, i)):
            candidates = [math.exp(float(everyone[one] @ everyone[j]) / TEMPERATURE) for j in range(2 * B) if j != one]
            expected -= math.log(math.exp(float(everyone[one] @ everyone[other]) / TEMPERATURE) / sum(candidates))
        assert float(found.losses[i]) == pytest.approx(expected, rel=1e-5)
        cosines = [float(first[i] @ second[j]) for j in range(B)]
        assert bool(found.top1[i]) == (max(cosines) == cosines[i])
        shares = torch.tensor(cosines).div(TEMPERATURE).softmax(0)
        assert float(found.entropy[i]) == pytest.approx(float(-(shares * shares.log()).sum()), abs=1e-5)


def test_memory_of_pairs() -> None:
    """CVRL: one matrix of [N, 2 N] is kept for each direction, so 16 MiB for 1,024 videos."""
    count, sizes = 64, {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        kept.append(tensor)
        return tensor

    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        pair_contrast(rows(count, 0).requires_grad_(), rows(count, 1).requires_grad_(), TEMPERATURE)
    matrix = 4 * count * 2 * count
    assert sorted(sizes.values())[-2:] == [matrix, matrix]
    assert sum(sizes.values()) < 2.5 * matrix
    assert 2 * 4 * 1024 * 2048 == 16 * 2**20


def test_loss_of_perfect_pairs() -> None:
    """CVRL: with two videos whose features are orthonormal and equal in both clips, each direction is log(1 + 2 e^(-1 / t))."""
    axes = torch.eye(DIM)[:2]
    found = pair_contrast(axes, axes, 0.1)
    assert found.losses.tolist() == pytest.approx([2 * math.log1p(2 * math.exp(-10))] * 2, rel=1e-2)
    assert 2 * math.log1p(2 * math.exp(-10)) == pytest.approx(2 * 9.1e-5, rel=1e-2)
    assert found.top1.tolist() == [1, 1]

"""Sinkhorn-Knopp in two vectors against the plain form and against numbers worked out by hand."""

import pytest
import torch
from torch import Tensor

from modules.core.errors import SettingError
from modules.losses import sinkhorn
from modules.losses.sinkhorn import SinkhornSettings, balance, shares


def plain(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The alternating form: the matrix itself is rewritten, prototypes (columns) first, then rows."""
    q = (scores.double() / epsilon).exp()
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=0) / q.shape[1]
        q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
    return q * q.shape[0]


def assigned(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Shares of given scores: each prototype is an axis, so that the cosines are the scores themselves."""
    balanced = balance([scores], torch.eye(scores.shape[1]), SinkhornSettings(epsilon, iterations))
    return shares(scores, balanced.log_weights[0], epsilon)


def cosines(rows: int = 60, count: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(rows, count, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.03, 0.05, 0.5])
def test_equals_the_plain_form(epsilon: float, iterations: int) -> None:
    scores = cosines()
    q = assigned(scores, epsilon, iterations)
    assert torch.allclose(q.double(), plain(scores, epsilon, iterations), rtol=0, atol=1e-5)
    assert (q.sum(dim=1) - 1).abs().max() < 1e-5


def test_numbers_worked_out_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])
    q = assigned(scores, 0.5, 10)
    assert torch.allclose(q[:, 0], torch.tensor([0.713886, 0.625822, 0.528552, 0.131739]), atol=2e-6)
    assert torch.allclose(q.sum(dim=0), torch.tensor([2.0, 2.0]), atol=1e-5)
    once = assigned(scores, 0.5, 1)
    assert torch.allclose(once[[0, 3], 0], torch.tensor([0.739563, 0.147254]), atol=2e-6)
    scores = torch.tensor([[0.5, 0.4, 0.1], [0.6, 0.2, 0.3], [0.4, 0.4, 0.4]])
    expected = [[0.319489, 0.621067, 0.059444], [0.624009, 0.060393, 0.315598], [0.060818, 0.321371, 0.617812]]
    assert torch.allclose(assigned(scores, 0.1, 3), torch.tensor(expected), atol=2e-6)


def test_equal_scores_are_shared_equally() -> None:
    assert torch.allclose(assigned(torch.full((7, 5), 0.3), 0.05, 10), torch.full((7, 5), 0.2), atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 10])
def test_what_all_rows_have_in_common_has_no_effect(iterations: int) -> None:
    scores = 0.5 * cosines()
    q = assigned(scores, 0.1, iterations)
    assert torch.allclose(assigned(scores + 0.4, 0.1, iterations), q, atol=1e-5)
    assert torch.allclose(assigned(scores + 0.4 * cosines(1, 12, seed=1), 0.1, iterations), q, atol=1e-5)


def test_what_one_row_has_on_top_vanishes_only_when_converged() -> None:
    scores = 0.5 * cosines()
    moved = scores + 0.4 * cosines(60, 1, seed=2)
    assert (assigned(moved, 0.1, 1) - assigned(scores, 0.1, 1)).abs().max() > 0.1
    assert (assigned(moved, 0.1, 2000) - assigned(scores, 0.1, 2000)).abs().max() < 1e-3


def test_prototypes_become_equally_heavy() -> None:
    scores = cosines()
    errors = [(assigned(scores, 0.1, iterations).sum(dim=0) - 60 / 12).abs().max() for iterations in (1, 10, 100)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.05


def test_hard_assignments_are_the_best_of_the_shares() -> None:
    scores = cosines()
    balanced = balance([scores], torch.eye(12), SinkhornSettings())
    assert torch.equal(balanced.best[0], plain(scores, 0.05, 10).argmax(dim=1))
    assert torch.equal(balanced.best[0], (scores / 0.05 + balanced.log_weights[0]).argmax(dim=1))
    # Balance matters: without it, other prototypes would be the best.
    assert (balanced.best[0] != scores.argmax(dim=1)).any()


def test_branches_side_by_side_equal_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    branches = [torch.nn.functional.normalize(torch.randn(30, 8, generator=generator)) for _ in range(2)]
    prototypes = torch.nn.functional.normalize(torch.randn(9, 8, generator=generator))
    both = balance(branches, prototypes, SinkhornSettings(side_by_side=True))
    for one, other in zip(both, balance(branches, prototypes, SinkhornSettings()), strict=True):
        assert torch.equal(one, other)
    for branch, best, log_u in zip(branches, *both, strict=True):
        scores = branch @ prototypes.T
        expected = plain(scores, 0.05, 10)
        assert torch.allclose(shares(scores, log_u, 0.05).double(), expected, atol=1e-5)
        assert torch.equal(best, expected.argmax(dim=1))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = cosines()
    whole = assigned(scores, 0.05, 10)
    # Seven rows at a time: the last chunk is shorter.
    monkeypatch.setattr(sinkhorn, "CHUNK_ENTRIES", 7 * 12)
    assert sinkhorn.chunk_rows(torch.eye(12)) == 7
    assert torch.allclose(assigned(scores, 0.05, 10), whole, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.02, 0.03])
def test_opposite_and_equal_vectors_stay_finite(epsilon: float) -> None:
    """Cosines of 1 and -1: exp(33) is 3e14, exp(50) 5e21."""
    scores = torch.eye(4).repeat(50, 1) * 2 - 1
    q = assigned(scores, epsilon, 10)
    assert q.isfinite().all()
    assert torch.equal(q.argmax(dim=1), scores.argmax(dim=1))


def test_autocast_changes_nothing() -> None:
    scores = cosines()
    whole = assigned(scores, 0.05, 10)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(assigned(scores, 0.05, 10), whole)


@pytest.mark.parametrize(
    ("settings", "named"),
    [(SinkhornSettings(epsilon=0.01), r"model\.sinkhorn\.epsilon"), (SinkhornSettings(iterations=0), r"model\.sinkhorn\.iter")],
)
def test_settings_that_make_no_sense_are_refused(settings: SinkhornSettings, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        settings.check("model.sinkhorn")

"""Token relations: against a slow formula, invariances, blocks, subsets, and who receives a gradient."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from modules.core.errors import SettingError
from modules.losses.relation import Pairs, cosine_loss, subset_relation_loss, token_relation_loss

B, T, N, D, E = 2, 3, 5, 8, 6
MODES: tuple[Pairs, ...] = ("all", "spatial", "temporal")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def slow(student: Tensor, teacher: Tensor, frame: Tensor, valid: Tensor, margin: float, pairs: Pairs) -> Tensor:
    """Pair by pair: the mean over the pairs of each clip, then over clips."""
    clips = []
    for own, other, frames, counts in zip(unit(student), unit(teacher), frame, valid, strict=True):
        values = []
        for i in range(len(own)):
            for j in range(len(own)):
                wanted = {"all": True, "spatial": frames[i] == frames[j], "temporal": frames[i] != frames[j]}[pairs]
                if wanted and counts[i] and counts[j]:
                    values.append(((own[i] @ own[j] - other[i] @ other[j]).abs() - margin).clamp_min(0))
        clips.append(torch.stack(values).mean() if values else own.new_zeros(()))
    return torch.stack(clips).mean()


@pytest.mark.parametrize("pairs", MODES)
@pytest.mark.parametrize("block", [None, 1, 4])
def test_grids_and_subsets_are_the_formula(pairs: Pairs, block: int | None) -> None:
    """Statement 12: student and teacher have unlike widths."""
    frame = torch.arange(T).repeat_interleave(N).expand(B, -1)
    everything = torch.ones(B, T * N, dtype=torch.bool)
    student, teacher = draw(B, T, N, D).requires_grad_(), draw(B, T, N, E, seed=1)
    expected = slow(student.flatten(1, 2), teacher.flatten(1, 2), frame, everything, 0.1, pairs)
    (gradient,) = torch.autograd.grad(expected, student)
    found = token_relation_loss(student, teacher, 0.1, pairs, block)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(3 * found, student)[0], 3 * gradient, atol=1e-7)
    # Some tokens, in any order, of which some do not count; the second clip has none in two frames.
    keep = torch.stack([torch.randperm(T * N, generator=torch.Generator().manual_seed(seed))[:7] for seed in range(B)])
    valid = torch.tensor([[True] * 5 + [False] * 2, [True] * 7])
    frames = torch.stack([keep[0] // N, torch.full((7,), 2)])
    place = keep[..., None]
    some = student.flatten(1, 2).gather(1, place.expand(-1, -1, D))
    others = teacher.flatten(1, 2).gather(1, place.expand(-1, -1, E))
    expected = slow(some, others, frames, valid, 0.1, pairs)
    found = subset_relation_loss(some, others, frames, 0.1, pairs, valid, block)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = [torch.autograd.grad(one, student, retain_graph=True)[0] for one in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("pairs", MODES)
def test_equal_relations_cost_nothing(pairs: Pairs) -> None:
    """Statement 11: 0 for equal tokens, and up to the margin; rotations of either set change nothing."""
    student, teacher = draw(B, T, N, D), draw(B, T, N, D, seed=1)
    assert token_relation_loss(student, student, 0.0, pairs) == 0
    assert token_relation_loss(student, 3 * student, 1e-6, pairs) == 0
    cosines = [unit(one.flatten(1, 2)) for one in (student, teacher)]
    largest = (cosines[0] @ cosines[0].mT - cosines[1] @ cosines[1].mT).abs().max().item()
    assert token_relation_loss(student, teacher, largest + 1e-5, pairs) == 0
    usual = token_relation_loss(student, teacher, 0.1, pairs)
    assert usual > 0.05
    rotation = torch.linalg.qr(draw(D, D, seed=2))[0]
    for turned in ((student @ rotation, teacher), (student, teacher @ rotation)):
        assert token_relation_loss(*turned, 0.1, pairs).item() == pytest.approx(usual.item(), rel=1e-5)
    by_rows = token_relation_loss(student, teacher, 0.1, pairs, block=2)
    assert by_rows.item() == pytest.approx(usual.item(), rel=1e-6)


def test_a_single_frame_has_no_pairs_over_time() -> None:
    student = draw(B, 1, N, D).requires_grad_()
    loss = token_relation_loss(student, draw(B, 1, N, D, seed=1), 0.1, "temporal")
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_only_the_student_receives_a_gradient_and_half_precision_is_not_used() -> None:
    student, teacher = draw(B, T, N, D).requires_grad_(), draw(B, T, N, D, seed=1).requires_grad_()
    usual = token_relation_loss(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(token_relation_loss(student, teacher), usual)
        cosine = cosine_loss(student, teacher)
    (usual + cosine).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert cosine.dtype == torch.float32
    assert cosine.item() == pytest.approx(-(unit(student) * unit(teacher)).sum(-1).mean().item(), rel=1e-5)
    with torch.no_grad():
        assert not token_relation_loss(student, teacher).requires_grad


def test_blocks_bound_memory_and_nothing_is_read_on_the_host() -> None:
    """3600 tokens, as in the paper: no tensor has more values than a block of the matrix of cosines or the tokens have."""
    sizes: list[int] = []

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
            result = func(*args, **(kwargs or {}))  # type: ignore[operator]
            sizes.extend(one.numel() for one in (result if isinstance(result, tuple) else (result,)) if isinstance(one, Tensor))
            return result

    with FakeTensorMode(), Largest():
        student, teacher = torch.empty(1, 24, 150, 64, requires_grad=True), torch.empty(1, 24, 150, 32)
        token_relation_loss(student, teacher, 0.1, "temporal", block=100).backward()
    assert max(sizes) == 100 * 3600


def test_impossible_arguments() -> None:
    with pytest.raises(SettingError, match=r"student has tokens \[2, 3, 5\] and the teacher \[2, 3, 4\]"):
        token_relation_loss(draw(B, T, N, D), draw(B, T, N - 1, D))
    with pytest.raises(SettingError, match=r"token_relation_loss\.block is 0"):
        token_relation_loss(draw(B, T, N, D), draw(B, T, N, D), block=0)

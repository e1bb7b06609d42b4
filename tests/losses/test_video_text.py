"""Losses of videos and sentences: values known by hand, positives by id, negatives, gaps; and metrics of scores."""

import math

import pytest
import torch
from torch import Tensor

from modules.downstream.metrics.retrieval import NOT_RANKED, ranks, recalls, rerank
from modules.losses.video_text import (
    IGNORED,
    Negatives,
    contrast_loss,
    contrast_targets,
    cosines,
    draw_masks,
    draw_negatives,
    mask_words,
    match_loss,
    word_loss,
)

PAD, CLS, MASK, WORDS = 0, 2, 4, 50


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ids", [torch.arange(7), torch.zeros(7, dtype=torch.int64)])
def test_contrast_of_equal_similarities_is_the_logarithm_of_their_number(ids: Tensor) -> None:
    assert float(contrast_loss(torch.full((7, 7), 0.3), ids)) == pytest.approx(math.log(7))


def test_contrast_of_two_perfect_pairs() -> None:
    features = torch.eye(2)
    assert float(contrast_loss(cosines(features[:, None], features), torch.arange(2))) == pytest.approx(0.313262, abs=1e-6)


def test_pairs_with_equal_ids_share_their_mass() -> None:
    targets = contrast_targets(torch.tensor([5, 8, 5, 9]))
    assert torch.equal(targets.sum(dim=1), torch.ones(4))
    assert targets[0].tolist() == [0.5, 0, 0.5, 0]
    similarity, swap = torch.randn(4, 4, generator=generator()), torch.tensor([2, 1, 0, 3])
    ids = torch.tensor([5, 8, 5, 9])
    assert torch.equal(contrast_loss(similarity, ids), contrast_loss(similarity[:, swap], ids))


def test_negatives_have_another_id_and_are_drawn_by_similarity() -> None:
    ids = torch.tensor([0, 1, 0, 2])
    similarity = torch.tensor([[9.0, 2, 9, 0]]).repeat(4, 1)
    drawn = torch.stack([draw_negatives(similarity, ids, generator(seed)).row for seed in range(300)])
    assert (ids[drawn] != ids).all()
    first = (drawn[:, 0] == 1).float().mean()
    assert 0.75 < first < 0.97  # exp(2) / (exp(2) + 1) = 0.88, the floor raises the other's share


def test_a_peaked_row_can_be_drawn_from_and_a_row_without_negatives_does_not_count() -> None:
    peaked = torch.full((3, 3), -1e4).fill_diagonal_(1e4)
    assert (draw_negatives(peaked, torch.arange(3), generator()).row != torch.arange(3)).all()
    nothing = draw_negatives(peaked, torch.zeros(3, dtype=torch.int64), generator())
    assert not nothing.valid.any()
    logits = torch.randn(9, 2, generator=generator())
    loss = match_loss(logits, nothing, nothing)
    assert torch.equal(loss, match_loss(torch.cat([logits[:3], 100 * logits[3:]]), nothing, nothing))
    some = Negatives(nothing.row, torch.ones(3, dtype=torch.bool))
    assert float(match_loss(torch.zeros(9, 2), some, some)) == pytest.approx(math.log(2))


def test_gaps_spare_padding_and_the_sentence_token() -> None:
    ids = torch.randint(5, WORDS, (100, 120), generator=generator())
    ids[:, 0], ids[:, 100:] = CLS, PAD
    maskable = (ids != PAD) & (ids != CLS)
    seen, labels = mask_words(ids, maskable, MASK, draw_masks(ids, 0.5, WORDS, generator(1)))
    chosen = labels != IGNORED
    assert not (chosen & ~maskable).any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(seen[~chosen], ids[~chosen])
    assert float(chosen[maskable].float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float((seen[chosen] == MASK).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((seen[chosen] == ids[chosen]).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_word_loss_without_gaps_is_zero() -> None:
    logits = torch.randn(2, 3, WORDS, generator=generator()).requires_grad_()
    loss = word_loss(logits, torch.full((2, 3), IGNORED))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()
    labels = torch.tensor([[IGNORED, 7, IGNORED], [3, IGNORED, IGNORED]])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    assert torch.allclose(word_loss(logits, labels), expected)


def test_recalls() -> None:
    right = torch.arange(12)[:, None]
    perfect = ranks(torch.eye(12), right)
    values = recalls(perfect, perfect)
    assert [values[f"{way}_r{depth}"] for way in ("v2t", "t2v") for depth in (1, 5, 10)] == [100] * 6
    assert values["v2t_median"] == values["t2v_median"] == 1
    # With constant scores nothing is known: every right answer lies in the middle.
    constant = ranks(torch.zeros(12, 12), right)
    assert constant.tolist() == [5.5] * 12
    assert recalls(constant, perfect)["v2t_r1"] == 0
    both = ranks(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[0, 2]]))
    assert both.tolist() == [1]
    turned = recalls(perfect, constant)
    assert [turned["v2t_r1"], turned["t2v_r1"]] == [100, 0]


@pytest.mark.parametrize("best", [1, 3, 7, 20])
def test_only_the_best_are_ranked_again(best: int) -> None:
    dual = torch.rand(5, 7, generator=generator())
    scores = rerank(dual, lambda query, candidate: 10.0 * query + candidate, best, chunk=4)
    left = scores == NOT_RANKED
    assert (left.sum(dim=1) == 7 - min(best, 7)).all()
    expected = 10.0 * torch.arange(5)[:, None] + torch.arange(7)
    assert torch.equal(scores[~left], expected[~left])
    assert (dual.masked_fill(left, 2).amin(dim=1) >= dual.masked_fill(~left, -1).amax(dim=1)).all()

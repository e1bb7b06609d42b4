"""Contrastive losses: pure functions of unit vectors, in float32 also under autocast."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Contrast(NamedTuple):
    """Output of `info_nce`: float32 scalars, all except the loss without gradient."""

    loss: Tensor
    """mean cross-entropy"""
    top1: Tensor
    """fraction of queries whose own key is nearer than all negatives"""
    top5: Tensor
    """fraction of queries with fewer than five negatives that are at least as near as their own key"""
    batch_top1: Tensor
    """fraction of queries whose own key is nearer than all other keys of the batch, which were all encoded in the same step. If
    it stays at chance while `top1` rises, the network only separates new from old keys"""


def unit_rows(values: Tensor) -> Tensor:
    """Rows of length 1, in float32.

    Args:
        values: float [B, D].
    """
    return F.normalize(values.float(), dim=1)


def contrast_logits(query: Tensor, key: Tensor, negatives: Tensor, temperature: float, own: Tensor | None = None) -> Tensor:
    """Similarity of each query to its own key (column 0) and to the negatives, over the temperature (MoCo, official code).

    Args:
        query: [B, D] unit rows; only they receive a gradient.
        key: [B, D] unit rows, row i is the positive of query i.
        negatives: [K, D] unit rows; may be a queue that is updated before the backward pass.
        temperature: divisor of the cosine similarities.
        own: int64 [B], row of `negatives` to exclude for each query, because it is its own key.

    Returns:
        float32 [B, 1 + K], minus infinity for excluded rows.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = query.float(), key.detach().float()
        # The backward pass needs a copy of the negatives, because the queue is overwritten before it.
        negatives = negatives.detach().float().clone()
        cosines = query @ negatives.T
        if own is not None:
            cosines = cosines.scatter(1, own[:, None], -torch.inf)
        return torch.cat([(query * key).sum(dim=1, keepdim=True), cosines], dim=1) / temperature


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float, own: Tensor | None = None) -> Contrast:
    """Cross-entropy of identifying each query's own key among the negatives (MoCo, official code).

    Args:
        query: [B, D] unit rows; only they receive a gradient.
        key: [B, D] unit rows, row i is the positive of query i.
        negatives: [K, D] unit rows, before the keys of this step are added.
        temperature: divisor of the cosine similarities.
        own: int64 [B], row of `negatives` that is each query's own key; None if the negatives do not contain them.
    """
    loss, top1, top5 = identify(contrast_logits(query, key, negatives, temperature, own))
    with torch.autocast(query.device.type, enabled=False):
        cosines = query.detach().float() @ key.detach().float().T
    alone = (cosines >= cosines.diagonal()[:, None]).sum(dim=1) == 1
    return Contrast(loss, top1, top5, alone.float().mean())


def identify(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy of rows whose first column is the right one, and the fractions of rows in which fewer than one and
    fewer than five others are at least as large; without gradient.

    Args:
        logits: float [B, 1 + K], output of `contrast_logits`.
    """
    loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
    nearer = (logits.detach()[:, 1:] >= logits.detach()[:, :1]).sum(dim=1)
    return loss, (nearer < 1).float().mean(), (nearer < 5).float().mean()


def ranking(right: Tensor, wrong: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Margin ranking loss, and the fraction of rows in which the right value is larger; that one without gradient.

    Args:
        right: float [B], should be larger than `wrong` by the margin.
        wrong: float [B].
        margin: difference from which a row has no loss.
    """
    return F.relu(margin - (right - wrong)).mean(), (right.detach() > wrong.detach()).float().mean()


class PairContrast(NamedTuple):
    """Output of `pair_contrast`, per pair: float32 [B], all except the losses without gradient."""

    losses: Tensor
    """cross-entropies of both directions, added"""
    top1: Tensor
    """1 where the first clip is nearer to its second clip than to all other second clips, else 0"""
    entropy: Tensor
    """entropy of the probabilities of all second clips, given the first one: log B at first, close to 0 when the network
    distinguishes them"""


def pair_contrast(first: Tensor, second: Tensor, temperature: float) -> PairContrast:
    """Cross-entropy of finding the other clip of each pair among all clips but itself, in both directions (SimCLR and CVRL,
    official code).

    Both directions together have 2 * B * 2 B logits.

    Args:
        first: [B, D] unit rows.
        second: [B, D] unit rows, row i belongs to row i of `first`.
        temperature: divisor of the cosine similarities.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = first.float(), second.float()
        across = first @ second.T / temperature
        itself = torch.eye(len(first), dtype=torch.bool, device=first.device)
        target = torch.arange(len(first), device=first.device)

        def one_way(others: Tensor, own: Tensor) -> Tensor:
            within = (own @ own.T / temperature).masked_fill(itself, -torch.inf)
            return F.cross_entropy(torch.cat([others, within], dim=1), target, reduction="none")

        losses = one_way(across, first) + one_way(across.T, second)
        seen = across.detach()
        probabilities = seen.softmax(dim=1)
        # The official code adds the small number, which also makes 0 log 0 vanish.
        entropy = -(probabilities * (probabilities + 1e-8).log()).sum(dim=1)
    return PairContrast(losses, (seen.argmax(dim=1) == target).float(), entropy)

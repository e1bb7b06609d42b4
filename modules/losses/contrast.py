"""Contrastive losses: pure functions of unit vectors, in float32 whatever autocast says."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Contrast(NamedTuple):
    """What `info_nce` returns: float32 scalars, all but the first without gradient."""

    loss: Tensor
    """mean cross-entropy"""
    top1: Tensor
    """share of queries to which no negative is as near as their own key"""
    top5: Tensor
    """share of queries to which fewer than five negatives are as near as their own key"""
    batch_top1: Tensor
    """share of queries to which no other key of the batch, which are all of one age, is as near as their own: if it stays
    at chance while `top1` rises, only new and old keys are separated"""


def unit_rows(values: Tensor) -> Tensor:
    """Rows of length 1, in float32.

    Args:
        values: float [B, D].
    """
    return F.normalize(values.float(), dim=1)


def contrast_logits(query: Tensor, key: Tensor, negatives: Tensor, temperature: float, own: Tensor | None = None) -> Tensor:
    """Similarity of each query to its own key (column 0) and to the negatives, over the temperature (MoCo, official code).

    Args:
        query: [B, D] unit rows; they alone receive a gradient.
        key: [B, D] unit rows, row i the positive of query i.
        negatives: [K, D] unit rows; a queue, which may be written before the backward pass.
        temperature: divides the cosines.
        own: int64 [B], the row of `negatives` to exclude for each query, because it is its own key.

    Returns:
        float32 [B, 1 + K], minus infinity in the place of own keys.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = query.float(), key.detach().float()
        # The backward pass needs the negatives as they are now, and by then new keys have been written over some.
        negatives = negatives.detach().float().clone()
        cosines = query @ negatives.T
        if own is not None:
            cosines = cosines.scatter(1, own[:, None], -torch.inf)
        return torch.cat([(query * key).sum(dim=1, keepdim=True), cosines], dim=1) / temperature


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float, own: Tensor | None = None) -> Contrast:
    """Cross-entropy of finding each query's own key among the negatives (MoCo, official code).

    Args:
        query: [B, D] unit rows; they alone receive a gradient.
        key: [B, D] unit rows, row i the positive of query i.
        negatives: [K, D] unit rows, as they were before this step's keys are written.
        temperature: divides the cosines.
        own: int64 [B], the row of `negatives` that is each query's own key; None if none is.
    """
    logits = contrast_logits(query, key, negatives, temperature, own)
    loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
    nearer = (logits.detach()[:, 1:] >= logits.detach()[:, :1]).sum(dim=1)
    with torch.autocast(query.device.type, enabled=False):
        cosines = query.detach().float() @ key.detach().float().T
    alone = (cosines >= cosines.diagonal()[:, None]).sum(dim=1) == 1
    return Contrast(loss, *(share.float().mean() for share in (nearer < 1, nearer < 5, alone)))

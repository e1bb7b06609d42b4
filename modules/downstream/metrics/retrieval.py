"""Scores and metrics for retrieval of videos and sentences (VindLU and Singularity, official code).

Dual scores compare two features. Re-ranked scores apply a fusion network to the best candidates by dual score, and are -100 for
all others; each direction has its own best candidates.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from modules.language.tokenizers import clean

NOT_RANKED = -100.0
DEPTHS = (1, 5, 10)


def best_candidates(scores: Tensor, best: int) -> Tensor:
    """The candidates of each query with the best scores: [Q, N] -> int64 [Q, k], k at most N."""
    return scores.topk(min(best, scores.shape[1]), dim=1).indices


@torch.no_grad()
def rerank(dual: Tensor, match: Callable[[Tensor, Tensor], Tensor], best: int = 128, chunk: int = 256) -> Tensor:
    """Score the best candidates of each query again.

    Args:
        dual: [Q, N], queries x candidates.
        match: maps queries and candidates, int64 [P] each, to scores of these P pairs.
        best: number of candidates of each query that are scored again.
        chunk: pairs per call.

    Returns:
        float32 [Q, N], -100 for other candidates.
    """
    chosen = best_candidates(dual, best)
    queries = torch.arange(len(dual), device=dual.device)[:, None].expand_as(chosen).flatten()
    pairs = zip(queries.split(chunk), chosen.flatten().split(chunk), strict=True)
    asked = torch.cat([match(query, candidate).float() for query, candidate in pairs])
    return torch.full_like(dual, NOT_RANKED, dtype=torch.float32).scatter(1, chosen, asked.view_as(chosen))


def dual_softmax(scores: Tensor, scale: float = 1.0) -> Tensor:
    """Scores times the softmax over the queries for each candidate. It uses all queries of a test, so it is reported
    separately.

    Args:
        scores: [Q, N], queries x candidates.
        scale: scale of the scores in the softmax; with 1, the order of cosines hardly changes.
    """
    return scores * (scale * scores).softmax(dim=0)


def ranks(scores: Tensor, right: Tensor) -> Tensor:
    """Number of wrong candidates that are better than the best correct one; ties count half.

    Args:
        scores: [Q, N], queries x candidates.
        right: int64 [Q, R], correct candidates of each query, padded with -1.

    Returns:
        float32 [Q], from 0
    """
    correct = torch.zeros(*scores.shape[:1], scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
    # The column after the last is for the padding.
    correct = correct.scatter(1, right.where(right >= 0, scores.shape[1]), True)[:, :-1]
    best = scores.masked_fill(~correct, -torch.inf).amax(dim=1, keepdim=True)
    better, equal = (scores > best) & ~correct, (scores == best) & ~correct
    return better.sum(dim=1).float() + equal.sum(dim=1) / 2


def recalls(video_to_text: Tensor, text_to_video: Tensor) -> dict[str, float]:
    """Retrieval metrics in both directions.

    Args:
        video_to_text: float [videos], `ranks` of the sentences for each video.
        text_to_video: float [sentences], `ranks` of the videos for each sentence.

    Returns:
        `v2t_r1` (5, 10): percentage of queries with a correct answer among the first (a tie is not a hit); `v2t_median`:
        median rank, from 1; the same as `t2v_*`; `mean`: mean of the six recalls.
    """
    found: dict[str, float] = {}
    for name, own in (("v2t", video_to_text), ("t2v", text_to_video)):
        found |= {f"{name}_r{depth}": 100 * (own <= depth - 1).float().mean().item() for depth in DEPTHS}
    mean = sum(found.values()) / len(found)
    medians = {f"{name}_median": own.quantile(0.5).item() + 1 for name, own in (("v2t", video_to_text), ("t2v", text_to_video))}
    return found | medians | {"mean": mean}


def right_answers(captions: list[list[str]], meanings: list[int | None]) -> tuple[list[str], Tensor]:
    """The distinct sentences of some videos, and the pairs that belong together.

    Args:
        captions: sentences of each of N videos. Characters that the tokenizer removes are ignored.
        meanings: for each video, a number shared by captions with the same meaning, or None.

    Returns:
        S sentences, and bool [N, S]
    """
    rows: dict[str, int] = {}
    texts: list[str] = []
    videos: dict[tuple[str, int], set[int]] = {}
    said: dict[tuple[str, int], set[int]] = {}
    for video, (own, meaning) in enumerate(zip(captions, meanings, strict=True)):
        for text in own:
            row = rows.setdefault(" ".join(clean(text)), len(texts))
            texts += [text] if row == len(texts) else []
            key = ("text", row) if meaning is None else ("meaning", meaning)
            videos.setdefault(key, set()).add(video)
            said.setdefault(key, set()).add(row)
    right = torch.zeros(len(captions), len(texts), dtype=torch.bool)
    for key, some in videos.items():
        right[torch.tensor(sorted(some))[:, None], torch.tensor(sorted(said[key]))] = True
    return texts, right


def as_numbers(right: Tensor) -> Tensor:
    """Correct candidates of each query by index, for `ranks`: bool [Q, N] -> int64 [Q, R], padded with -1."""
    found = right.float().topk(int(right.sum(1).max()), dim=1)
    return found.indices.masked_fill(found.values == 0, -1)

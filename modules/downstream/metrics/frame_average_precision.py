"""Frame mAP of action detection: mean average precision of boxes in key frames at an overlap of one half (AVA,
https://arxiv.org/abs/1705.08421; official code of SEVERE, from SlowFast's)."""

import torch
from torch import Tensor

from modules.core.batch import TrueBoxes


def frame_average_precisions(
    frame: Tensor,
    box: Tensor,
    score: Tensor,
    truth: TrueBoxes,
    actions: list[int],
    excluded: Tensor | None = None,
    official_order: bool = False,
) -> Tensor:
    """Average precision of every evaluated action. True boxes of other actions are ignored.

    Args:
        frame: int64 [n], key frame of each predicted box.
        box: float [n, 4], corners x1 y1 x2 y2.
        score: float [n, K], scores of the actions, in the order of `actions`; NaN for boxes without a score.
        truth: true boxes.
        actions: the K evaluated actions.
        excluded: int64, key frames that are ignored, with all their boxes.
        official_order: whether boxes of a key frame are compared with the true ones in the given order,
            as in the official code, and not in descending order of scores. It matters if two boxes match the same true box.

    Returns:
        float64 [K], from 0 to 1; NaN for actions without a true box.
    """
    frame, box, score = frame.cpu(), box.double().cpu(), score.double().cpu()
    truth = TrueBoxes(*(part.cpu() for part in truth))
    if excluded is not None:
        kept = ~torch.isin(frame, excluded)
        frame, box, score = frame[kept], box[kept], score[kept]
        truth = truth.only(~torch.isin(truth.frame, excluded))
    found = []
    for column, action in enumerate(actions):
        given = ~score[:, column].isnan()
        wanted = truth.only(truth.action == action)
        found.append(average_precision(frame[given], box[given], score[given, column], wanted, official_order))
    return torch.stack(found) if found else torch.empty(0, dtype=torch.float64)


def average_precision(frame: Tensor, box: Tensor, score: Tensor, truth: TrueBoxes, official_order: bool = False) -> Tensor:
    """Average precision of one action: the area below the curve of the highest precision at the same or a higher recall.

    Each box is matched with the true box of its key frame with the largest overlap. The first match with an overlap of at least
    one half is correct, further matches with the same true box are wrong.

    Args:
        frame: int64 [n]
        box: float [n, 4]
        score: float [n]
        truth: boxes of this action.
        official_order: see `frame_average_precisions`.

    Returns:
        float64 scalar; NaN without a true box.
    """
    if not len(truth.frame):
        return torch.tensor(float("nan"), dtype=torch.float64)
    ranks = score.argsort(descending=True, stable=True)
    order = torch.arange(len(score)) if official_order else ranks
    claimed, overlap = best_overlaps(frame[order], box[order], truth.frame, truth.box)
    valid = (overlap >= 0.5).nonzero()[:, 0]
    # Find the first match of each true box: positions are written back to front, so that the smallest one remains.
    first = torch.full((len(truth.frame),), len(score)).scatter_reduce(0, claimed[valid], valid, "amin")
    right = torch.zeros(len(score), dtype=torch.float64)
    right[order[first[first < len(score)]]] = 1.0
    hits = right[ranks].cumsum(0)
    precision = hits / torch.arange(1, len(score) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    gained = hits.diff(prepend=hits.new_zeros(1)) / len(truth.frame)
    return (gained * envelope).sum()


def best_overlaps(frame: Tensor, box: Tensor, true_frame: Tensor, true_box: Tensor) -> tuple[Tensor, Tensor]:
    """The true box of the same key frame with the largest overlap with each box, the first one of equals.

    Args:
        frame: int64 [n]
        box: float [n, 4]
        true_frame: int64 [m]
        true_box: float [m, 4]

    Returns:
        int64 [n], its index, and float64 [n], intersection over union; 0 and -1 if the key frame has no true box.
    """
    order = true_frame.argsort(stable=True)
    begin, end = (torch.searchsorted(true_frame[order], frame, right=right) for right in (False, True))
    # All pairs of a box and a true box of its key frame.
    count = end - begin
    mine = torch.repeat_interleave(torch.arange(len(frame)), count)
    step = torch.arange(len(mine)) - torch.repeat_interleave(count.cumsum(0) - count, count)
    theirs = order[begin[mine] + step]
    overlap = _overlap(box[mine].double(), true_box[theirs].double())
    best = torch.full((len(frame),), -1.0, dtype=torch.float64).scatter_reduce(0, mine, overlap, "amax")
    winner = overlap == best[mine]
    nobody = len(true_frame)
    number = torch.full((len(frame),), nobody).scatter_reduce(0, mine[winner], theirs[winner], "amin")
    return torch.where(number == nobody, 0, number), best


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of pairs [N, 4]; 0 for boxes without area."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    shared = (high - low).clamp_min(0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    union = areas[0] + areas[1] - shared
    return torch.where(union > 0, shared / union, 0.0)

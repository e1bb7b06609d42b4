"""Counting of repetitions from the cycle before and after a point in time, refined step by step
(https://arxiv.org/abs/2005.08465).

A state is (left, middle, right), frame indices from 0: the cycle before the middle starts at left and ends at middle, the next
one is from middle + 1 to right. A network sees both, with the same amount of context on each side. For each cycle and anchor,
it predicts whether the true length is near anchor x assumed length, and the logarithm of the remaining ratio. All functions use
float64 (like the official code), work on batches, and cause no host sync.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from modules.core.device import constant

ANCHORS = (0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0)
SAME = ANCHORS.index(1.0)
IOU = 0.5
SHORTEST = 4
"""Minimum length of a cycle in frames; shorter ones are rejected."""
TRAIN_LIMIT, TEST_LIMIT = 2.0, 0.5
"""Maximum logarithm of a box; larger ones are clamped."""

# Assumed lengths of the first estimate, as fractions of the video (official code).
SCALES, SMALLEST, LARGEST = 30, 0.03, 0.35
REFINEMENTS = 4
LEVELS = 4
POINTS = 2 ** (LEVELS + 1)
UPDATES = (4, 2, 1, 1)
"""Number of updates at each point of a level of the tree."""
# Levels up to the second and the last one use the same estimate for both sides of a point.
DIVIDED_LEVEL = 3

Answer: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""States [B, P, 3] -> positive probabilities and boxes, both float [B, P, 2, A]: previous and next cycle, anchors."""


class CycleTargets(NamedTuple):
    """Targets of the network for one cycle."""

    positive: Tensor
    """int64 [B, A]: 1 if near the anchor, 0 if not, -1 if the true length is unknown."""
    box: Tensor
    """float64 [B, A], logarithm of true length / (anchor x assumed length) where `positive` is 1, otherwise 0."""


class Counted(NamedTuple):
    """Repetitions of each video."""

    counts: Tensor
    """float64 [B], not rounded."""
    states: Tensor
    """float64 [B, 32, 3], the two cycles around each point."""
    inside: Tensor
    """bool [B, 32], points that are used: their context is inside the video."""


def frame_numbers(states: Tensor, frames: int = 32) -> Tensor:
    """Frames that the network sees: half of them from the previous cycle and its context, the others from the next.

    Args:
        states: float64 [..., 3].
        frames: of one clip, even.

    Returns:
        int64 [..., frames]; indices may be outside the video.
    """
    left, middle, right = states.unbind(-1)
    after = (middle + 1).trunc()
    first = _spread((left - (middle - left + 1)).trunc(), middle.trunc(), frames // 2)
    return torch.cat([first, _spread(after, (right + (right - after + 1)).trunc(), frames // 2)], -1).long()


def _spread(first: Tensor, last: Tensor, frames: int) -> Tensor:
    step = (last - first + 1) / (frames - 1)
    places = first[..., None] - 0.5 + torch.arange(frames, device=first.device) * step[..., None]
    return torch.maximum(first[..., None], torch.minimum(last[..., None], places.round()))


def anchors(like: Tensor) -> Tensor:
    """float64 [A], on the device of a tensor."""
    return constant(ANCHORS, torch.float64, like.device)


def cycle_targets(label: Tensor, assumed: Tensor) -> CycleTargets:
    """Compute the targets of a cycle for all anchors.

    Args:
        label: int64 [B], true length - 1, or -1 if it is unknown.
        assumed: float64 [B], length in the state.
    """
    true, proposed = (label + 1).double()[:, None], anchors(assumed) * assumed[:, None]
    near = torch.minimum(true, proposed) / torch.maximum(true, proposed).clamp_min(1e-9) >= IOU
    known = (label >= 0)[:, None]
    box = torch.where(near & known, (true.clamp_min(1) / proposed.clamp_min(1e-9)).log(), 0.0)
    return CycleTargets(torch.where(known, near.long(), -1), box)


def best_ratio(probability: Tensor, box: Tensor, limit: float) -> Tensor:
    """True over assumed length, as predicted by the anchor with the highest probability.

    Args:
        probability: float [..., A], probability that the length is near the anchor.
        box: float [..., A].
        limit: maximum logarithm of a box; larger ones are clamped.

    Returns:
        float64 [...]
    """
    ratio = anchors(box) * box.double().clamp(-limit, limit).exp()
    return ratio.gather(-1, probability.argmax(-1, keepdim=True)).squeeze(-1)


def move(states: Tensor, ratios: Tensor, step: Tensor | float = 0.0, longest: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Move the middle forwards, and correct the lengths.

    Args:
        states: float64 [..., 3].
        ratios: float64 [..., 2], true over assumed length of the previous and the next cycle.
        step: frames to move by.
        longest: maximum length in frames; lengths are then clamped between `SHORTEST` and it.

    Returns:
        The states, and whether they failed: bool [...], true if a cycle is too short.
    """
    left, middle, right = states.unbind(-1)
    before, after = (middle - left + 1) * ratios[..., 0], (right - middle) * ratios[..., 1]
    if longest is not None:
        before, after = (torch.minimum(longest, length.clamp_min(SHORTEST)) for length in (before, after))
    middle = (middle + step).trunc()
    left, right = (middle - before + 1).trunc(), (middle + after).trunc()
    return torch.stack([left, middle, right], -1), (middle - left + 1 < SHORTEST) | (right - middle < SHORTEST)


def first_states(length: Tensor, count: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
    """First states of training clips: near the beginning, with a correct or wrong length.

    A quarter of the lengths are the first cycle times 2^-1 to 2^1, a quarter are near half, one or two times the first cycle,
    and half of them are those of the first estimate of `count_cycles`.

    Args:
        length: int64 [B], frames.
        count: int64 [B], cycles.
        label: int64 [B], length of the first cycle, or -1 if it is unknown.
        generator: source of randomness.

    Returns:
        float64 [B, 3]
    """
    total, mean = length.double(), length / count.double()
    cycle = torch.where(label < 0, mean, label.double())
    draws = torch.rand(5, len(length), generator=generator, device=length.device, dtype=torch.float64)
    place, kind, power, shape, wobble = draws
    free = cycle * 2 ** (2 * power - 1)
    stepped = cycle * (2.0 ** ((3 * shape).floor() - 1) + 0.1 * (wobble - 0.5))
    # One scale more than in `count_cycles`, as in the official code.
    look = total * SMALLEST * (LARGEST / SMALLEST) ** (((SCALES + 1) * shape).floor() / (SCALES - 1))
    assumed = torch.where(kind < 0.25, free, torch.where(kind > 0.75, stepped, look))
    left = (place * cycle).trunc()
    middle = torch.maximum(left + (assumed - 1).trunc(), left)
    outside = middle >= total
    left, middle = torch.where(outside, 0.0, left), torch.where(outside, mean - 1, middle)
    outside = 2 * middle + 1 >= total
    left, middle = torch.where(outside, 0.0, left), torch.where(outside, total / 2 - 1, middle).trunc()
    return torch.stack([left, middle, 2 * middle - left + 1], -1)


def count_cycles(answer: Answer, length: Tensor) -> Counted:
    """Count the repetitions of videos (official code, vectorised over videos, points and scales).

    A first estimate at the middle of each video, with 30 assumed lengths, gives one length. It is then corrected at 2, 4, 8 and
    finally 16 points in time; each correction also updates the 32 points around them, as the mean of old and new lengths.

    Args:
        answer: network that predicts probabilities and boxes for states.
        length: int64 [B], frames.
    """
    total = length.double()
    size = _first_length(answer, total)
    points = (total[:, None] / (POINTS + 1) * (torch.arange(POINTS, device=length.device) + 0.5)).trunc()
    around = torch.stack([points - size[:, None], points, points + size[:, None] + 1], -1)
    # Estimates for each point from the left and from the right: [B, 32, 3, 2].
    opinions = torch.stack([around, around], -1)
    for level, updates in enumerate(UPDATES, 1):
        opinions = _level(answer, opinions, level, updates, total)
    states = opinions.mean(-1).round()
    left, middle, right = states.unbind(-1)
    inside = ((left - (middle - left + 1)).trunc() >= 0) & ((right + (right - middle)).trunc() < total[:, None])
    rates = 0.5 * (1 / (middle - left + 1) + 1 / (right - middle))
    used = inside.sum(1)
    mean = torch.where(inside, rates, 0.0).sum(1) / used.clamp_min(1)
    return Counted(total * torch.where(used > 0, mean, 1 / (size + 1)), states, inside)


def _first_length(answer: Answer, total: Tensor) -> Tensor:
    """The assumed length [B] with the highest probability, corrected by the network; 0 if all are rejected."""
    half = total / 2
    powers = torch.arange(SCALES, device=total.device, dtype=torch.float64) / (SCALES - 1)
    sizes = total[:, None] * SMALLEST * (LARGEST / SMALLEST) ** powers

    def corrected(sizes: Tensor) -> tuple[Tensor, Tensor]:
        middle = half[:, None].expand_as(sizes)
        probability, box = answer(torch.stack([middle - sizes, middle, middle + sizes + 1], -1))
        found = sizes * box[:, :, 0, SAME].double().clamp(-TEST_LIMIT, TEST_LIMIT).exp()
        credible = (found >= SHORTEST) & (found < half[:, None])
        return found, torch.where(credible, probability[:, :, 0, SAME].double(), -1.0)

    found, score = corrected(sizes)
    surest = score.argmax(1, keepdim=True)
    size = torch.where(score.gather(1, surest) < 0, 0.0, found.gather(1, surest).trunc())
    for _ in range(REFINEMENTS):
        found, score = corrected(size)
        size = torch.where(score < 0, size, (0.5 * size + 0.5 * found).round())
    return size[:, 0]


def _level(answer: Answer, opinions: Tensor, level: int, updates: int, total: Tensor) -> Tensor:
    """Correct the states at the times of one level, and update the points around them."""
    reach = 2 ** (LEVELS - level)
    # [B, n, 2 x reach, 3, 2]: each time is the first point of the second half of its interval.
    parts = opinions.unflatten(1, (2**level, 2 * reach))
    assumed = parts[:, :, reach].mean(-1).round()
    longest = (total / 2)[:, None].expand(assumed.shape[:2])
    corrected = assumed
    for update in range(updates):
        if update:
            assumed = (0.5 * corrected + 0.5 * assumed).round()
        probability, box = answer(assumed)
        corrected, failed = move(assumed, best_ratio(probability, box, TEST_LIMIT), 0.0, longest)
        corrected = torch.where(failed[..., None], assumed, corrected)
    merged = 0.5 * corrected + 0.5 * assumed
    middle = parts[..., 1, :1]
    told = (middle + (merged - assumed[..., 1:2])[:, :, None]).trunc()
    told = torch.cat([told[..., :1], middle, told[..., 2:]], -1)
    told = torch.stack([told, told], -1)
    if level == DIVIDED_LEVEL:
        # Points between two times get estimates from both, one on each side; the outermost points get one.
        told[:, 1:, :reach, :, 0] = parts[:, 1:, :reach, :, 0]
        told[:, :-1, reach:, :, 1] = parts[:, :-1, reach:, :, 1]
    return told.flatten(1, 2)

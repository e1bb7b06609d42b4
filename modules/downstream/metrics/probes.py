"""Probes of frozen features: nearest neighbours, a linear classifier, and raw-feature baselines.

Pure functions without random numbers, shared by callbacks, reports and benchmarks, so that results are comparable. Products
use full float32 precision, whatever the precision of training. Axis letters: `n` training samples, `m` test samples, `d`
features, `K` classes.
"""

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from modules.core.device import full_float32

SMALL = 4_000_000
"""Feature matrices with at most this number of entries are fitted in double precision."""
GREY = (0.299, 0.587, 0.114)


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Subtracts the training mean of every feature and divides by its training standard deviation.

    Features that hardly vary (relative to the most variable one) are divided by a floor instead, so that constants
    become zero and not noise.

    Args:
        train: float [n, d].
        test: float [m, d].
    """
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
    std = std.clamp(min=max(1e-8, 1e-4 * float(std.max())))
    return (train - mean) / std, (test - mean) / std


def knn_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> float:
    """Fraction of test samples whose class wins the weighted vote of the nearest training samples.

    The protocol of DINO (official code): cosine similarity, the `k` nearest, each voting with the weight
    ``exp(similarity / temperature)``.

    Args:
        train_x: float [n, d].
        train_y: int64 [n], classes from 0.
        test_x: float [m, d].
        test_y: int64 [m].
        k: Number of neighbours, at most n are used.
        temperature: Smaller values give near neighbours more weight.
        chunk: Test samples compared at once; bounds the memory, does not change the result.
    """
    _check(train_x, train_y, test_x, test_y)
    similarity, found = nearest(train_x, test_x, k, chunk)
    return float((vote(similarity, train_y[found], temperature) == test_y).sum()) / len(test_x)


def say_bank(who: str, labels: Tensor, k: int) -> None:
    """Print the number of samples that neighbours are searched in, because accuracy increases with it. It is a warning if half
    of the classes have fewer than `k` samples.

    Args:
        who: name of the caller.
        labels: int64 [n], classes from 0.
        k: Number of neighbours.
    """
    count = labels.bincount()
    count = count[count > 0]
    middle = int(count.median())
    line = f"{who}: k of {k} among {len(labels)} training samples of {len(count)} classes, {middle} in a class of median size"
    if middle < k:
        rank_zero_warn(f"{line}: so few that the accuracy depends more on their number than on the features.")
    else:
        rank_zero_info(f"{line}.")


def nearest(bank: Tensor, queries: Tensor, k: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Cosines and rows of the nearest rows of a bank, the nearest first.

    Args:
        bank: float [n, d].
        queries: float [m, d].
        k: Number of neighbours, at most n are used.
        chunk: Queries compared at once; bounds the memory, does not change the result.

    Returns:
        float [m, k] and int64 [m, k].
    """
    bank = F.normalize(bank.float(), dim=1)
    with full_float32(bank.device):
        parts = [(F.normalize(part.float(), dim=1) @ bank.T).topk(min(k, len(bank)), dim=1) for part in queries.split(chunk)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def vote(similarity: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Class with the largest sum of ``exp(similarity / temperature)`` over the neighbours of each query.

    Args:
        similarity: float [m, k], the largest first.
        labels: int64 [m, k], classes of the neighbours.
        temperature: Smaller values give near neighbours more weight.
    """
    votes = similarity.new_zeros(len(labels), int(labels.max()) + 1)
    # Subtracting the largest similarity does not change the winner, and prevents overflow at small temperatures.
    votes.scatter_add_(1, labels, ((similarity - similarity[:, :1]) / temperature).exp())
    return votes.argmax(dim=1)


def fit_linear(x: Tensor, y: Tensor, classes: int, l2: float = 1e-3, iterations: int = 300) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: minimises ``mean cross-entropy + l2 / 2 * |weight|^2`` from zero by L-BFGS.

    Args:
        x: float [n, d], standardised features.
        y: int64 [n], classes from 0.
        classes: Number of classes K.
        l2: Weight of the penalty; the bias is free.
        iterations: Maximum number of steps; it stops earlier if the gradient is negligible.

    Returns:
        weight [d, K] and bias [K].
    """
    weight = x.new_zeros(x.shape[1], classes).requires_grad_()
    bias = x.new_zeros(classes).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        max_eval=2 * iterations,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + 0.5 * l2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad(), full_float32(x.device):
        optimiser.step(closure)
    return weight.detach(), bias.detach()


def linear_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    l2: float = 1e-3,
    iterations: int = 300,
) -> float:
    """Fraction of test samples that a logistic regression on standardised features classifies correctly.

    Full batch, from zero, to convergence: it does not depend on a learning rate, the order of samples, or a seed.

    Args:
        train_x: float [n, d].
        train_y: int64 [n], classes from 0.
        test_x: float [m, d].
        test_y: int64 [m].
        l2: Weight of the penalty on squared weights, see `fit_linear`.
        iterations: Limit on the steps of the fit.
    """
    _check(train_x, train_y, test_x, test_y)
    dtype = torch.float64 if train_x.numel() <= SMALL else torch.float32
    train_x, test_x = standardise(train_x.detach().to(dtype), test_x.detach().to(dtype))
    classes = int(torch.cat([train_y, test_y]).max()) + 1
    weight, bias = fit_linear(train_x, train_y, classes, l2, iterations)
    with full_float32(test_x.device):
        scores = test_x @ weight + bias
    return float((scores.argmax(dim=1) == test_y).double().mean())


def _check(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    for name, x, y in (("training", train_x, train_y), ("test", test_x, test_y)):
        if x.ndim != 2 or y.shape != x.shape[:1] or len(x) == 0:
            raise ValueError(f"{name} features {tuple(x.shape)} and classes {tuple(y.shape)} do not fit together")
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name} features contain infinities or NaN")


def _shrink(frames: Tensor, side: int) -> Tensor:
    """Averages pictures [..., C, H, W] down to at most side x side."""
    height, width = frames.shape[-2:]
    if max(height, width) <= side:
        return frames
    small = F.adaptive_avg_pool2d(frames.flatten(0, -4), (min(height, side), min(width, side)))
    return small.unflatten(0, frames.shape[:-3])


def _planes(video: Tensor) -> Tensor:
    return video.float().div(255).movedim(-1, -3)


def frame_difference(video: Tensor, side: int = 32) -> Tensor:
    """Differences of brightness between successive frames, every pixel a feature.

    Args:
        video: uint8 [B, T, H, W, 3].
        side: Larger frames are averaged down to this side first.

    Returns:
        float32 [B, (T - 1) * h * w].
    """
    grey = (_shrink(_planes(video), side) * video.new_tensor(GREY, dtype=torch.float32)[:, None, None]).sum(dim=-3)
    return (grey[:, 1:] - grey[:, :-1]).flatten(1)


def single_frame(video: Tensor, t: int, side: int = 32) -> Tensor:
    """Pixels of frame t as features.

    Args:
        video: uint8 [B, T, H, W, 3].
        t: Index of the frame; negative numbers count from the end.
        side: Larger frames are averaged down to this side first.

    Returns:
        float32 [B, 3 * h * w].
    """
    return _shrink(_planes(video[:, t]), side).flatten(1)

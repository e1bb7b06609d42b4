"""One feature of a clip from its tokens."""

from typing import Literal

from torch import Tensor

from modules.core.errors import SettingError

Pooling = Literal["mean", "time"]


def pool_tokens(tokens: Tensor, grid: tuple[int, int, int], pooling: Pooling) -> Tensor:
    """One vector per clip from its tokens.

    Args:
        tokens: float [B, N, D] in the order time, row, column; N = t * h * w.
        grid: Number of tokens (t, h, w) along time, height and width.
        pooling: `mean` averages all tokens; `time` averages over space and keeps the time slices apart.

    Returns:
        float [B, D] for `mean`, [B, t * D] for `time`.
    """
    t, h, w = grid
    if tokens.shape[1] != t * h * w:
        raise SettingError(f"{tokens.shape[1]} tokens do not make a grid of {t} x {h} x {w}.")
    if pooling == "mean":
        return tokens.mean(dim=1)
    return tokens.unflatten(1, (t, h * w)).mean(dim=2).flatten(1)

"""Losses between the tokens of a student and those of a frozen teacher: pure functions, in float32 also under autocast.

`token_relation_loss` is the token relation distillation (TRD) of VideoREPA, https://arxiv.org/abs/2505.23656 (official code).
It compares the cosine similarities of all pairs of tokens, so student and teacher may have features of unlike width, and no
projection is needed. (The official code refuses unlike widths.) `cosine_loss` is that of REPA, to which VideoREPA compares.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from modules.core.errors import SettingError, check_positive

Pairs = Literal["all", "spatial", "temporal"]
LARGEST, LARGEST_GPU = 2**18, 2**24
"""Most cosines that are computed at once: 1 MB in each of a few matrices on a CPU, so that they fit into its caches, and 64 MB
on a GPU."""


def token_relation_loss(
    student: Tensor, teacher: Tensor, margin: float = 0.1, pairs: Pairs = "all", block: int | None = None
) -> Tensor:
    """Mean of relu(|cosine of the student - cosine of the teacher| - margin) over pairs of tokens of a clip.

    Cosines are computed block by block, with their gradients, so that memory is bounded (see `LARGEST`) and nothing but the
    gradient of the tokens is kept for the backward pass.

    Args:
        student: float [B, T, N, D], tokens of frames (or slices of tokens); only they receive a gradient.
        teacher: float [B, T, N, E], the teacher's tokens at the same places.
        margin: difference that costs nothing.
        pairs: `all` pairs of tokens, including those of a token with itself; `spatial`, those of the same frame, also with
            itself; `temporal`, those of unlike frames. With a single frame, there are none of these, and the loss is 0.
        block: rows of the matrix of cosines that are computed at once; None takes as many as `LARGEST` allows.

    Returns:
        float32 scalar.

    Raises:
        SettingError: if student and teacher have unlike numbers of tokens.
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise SettingError(
            f"The student has tokens {list(student.shape[:-1])} and the teacher {list(teacher.shape[:-1])}; resample the "
            "teacher's to the grid of the student."
        )
    frames, tokens = student.shape[1:3]
    if pairs == "spatial":
        # Each frame is a separate sample, so the cosines of unlike frames are not computed.
        return _relate(student.flatten(0, 1), teacher.flatten(0, 1), margin, "all", None, None, block)
    frame = torch.arange(frames, device=student.device).repeat_interleave(tokens).expand(len(student), -1)
    return _relate(student.flatten(1, 2), teacher.flatten(1, 2), margin, pairs, frame, None, block)


def subset_relation_loss(
    student: Tensor,
    teacher: Tensor,
    frame: Tensor,
    margin: float = 0.1,
    pairs: Pairs = "all",
    valid: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """`token_relation_loss` of some of the tokens of clips, such as those that a masked method encodes.

    The loss is the mean over the pairs of a clip, and then over clips, so that it does not matter which clips are in a batch. A
    clip without such pairs costs nothing.

    Args:
        student: float [B, M, D]; only these receive a gradient.
        teacher: float [B, M, E], at the same places.
        frame: int64 [B, M], the frame (or slice) of each token.
        margin: difference that costs nothing.
        pairs: as in `token_relation_loss`.
        valid: bool [B, M], False for tokens that do not count, such as padding; None if all count.
        block: as in `token_relation_loss`.

    Returns:
        float32 scalar.
    """
    return _relate(student, teacher, margin, pairs, frame, valid, block)


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of minus the cosine similarity of corresponding tokens (REPA): two float [..., D] -> float32 scalar."""
    with torch.autocast(student.device.type, enabled=False):
        return -F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1).mean()


def _relate(
    student: Tensor,
    teacher: Tensor,
    margin: float,
    pairs: Pairs,
    frame: Tensor | None,
    valid: Tensor | None,
    block: int | None,
) -> Tensor:
    """The loss of tokens [B, M, D] and [B, M, E]; arguments as in `subset_relation_loss`."""
    batch, tokens = student.shape[:2]
    if block is not None:
        check_positive("token_relation_loss", block=block)
    largest = LARGEST_GPU if student.device.type == "cuda" else LARGEST
    rows = block or max(1, largest // max(1, batch * tokens))
    with torch.autocast(student.device.type, enabled=False):
        own = F.normalize(student.float(), dim=-1)
        other = F.normalize(teacher.detach().float(), dim=-1)
        result: Tensor = _Relations.apply(own, other, margin, pairs, frame, valid, rows)
        return result


class _Relations(torch.autograd.Function):
    """The loss of unit rows. Its gradient is computed along with it, block by block, and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        margin: float,
        pairs: Pairs,
        frame: Tensor | None,
        valid: Tensor | None,
        rows: int,
    ) -> Tensor:
        """See `_relate`."""
        gradient = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        batch, tokens = student.shape[:2]
        total, count = student.new_zeros(batch), student.new_zeros(batch)
        for own in (slice(start, start + rows) for start in range(0, tokens, rows)):
            difference = student[:, own] @ student.mT
            difference -= teacher[:, own] @ teacher.mT
            excess = F.relu(difference.abs() - margin)
            counts = _counted(own, pairs, frame, valid)
            if counts is None:
                count += difference.shape[1] * tokens
            else:
                excess *= counts
                count += counts.sum((1, 2))
            total += excess.sum((1, 2))
            if gradient is not None:
                # Each pair is in two rows of the matrix, which is symmetric.
                slope = difference.sign_() * (excess > 0)
                gradient[:, own].baddbmm_(slope, student, alpha=2)
        scale = 1 / (batch * count.clamp_min(1))
        if gradient is not None:
            gradient *= scale[:, None, None]
        ctx.save_for_backward(gradient)
        return (total * scale).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient that `forward` computed."""
        (gradient,) = ctx.saved_tensors
        return None if gradient is None else outer[0] * gradient, *[None] * 6


def _counted(own: slice, pairs: Pairs, frame: Tensor | None, valid: Tensor | None) -> Tensor | None:
    """Which pairs of some tokens with all tokens count, bool [B, m, M]; None if all do."""
    counts = None
    if frame is not None and pairs != "all":
        same = frame[:, own, None] == frame[:, None]
        counts = same if pairs == "spatial" else ~same
    if valid is not None:
        both = valid[:, own, None] & valid[:, None]
        counts = both if counts is None else counts & both
    return counts

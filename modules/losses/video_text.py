"""Losses between videos and sentences (VindLU, https://arxiv.org/abs/2212.05051, official code): pure functions, in float32.

The contrastive loss (VTC) compares all videos of all processes with all sentences. The matching loss (VTM) trains a fusion
network to predict whether a video and a sentence of this process belong together. Masked language modelling (MLM) trains it to
predict masked words with the help of a video.

Deviations from the official code:

* The gradient of gathered features is that of one process with the joined batch. The official gradient is smaller by a factor
  of the number of processes; `gather_rows_with_gradient` computes it with `gradient` set to `vindlu`.
* The floor of the negatives' weights is added after the softmax, so that negatives can be drawn from a peaked row (as in
  SMILE's official code), and a row without any negative is ignored instead of failing.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.core.distributed import gather_rows, position
from modules.core.errors import check_positive

GatherGradient = Literal["true", "vindlu"]
FrameVote = Literal["mean", "max"]
IGNORED = -100
MASK_SHARE, RANDOM_SHARE = 0.8, 0.5


@dataclass
class TextContrastSettings:
    """Settings of the comparison of clips and sentences.

    Args:
        joint_dim: width of the compared features.
        temperature: initial value of the learned temperature, which is clamped to 0.001 to 0.5.
        vote: how the frames' cosine similarities are combined.
        gather_gradient: gradient of features that are gathered from all processes: `true`, or as in `vindlu`.

    Raises:
        SettingError: if a number is not positive.
    """

    joint_dim: int = 256
    temperature: float = 0.07
    vote: FrameVote = "mean"
    gather_gradient: GatherGradient = "true"

    def __post_init__(self) -> None:
        check_positive("model.contrast", joint_dim=self.joint_dim, temperature=self.temperature)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: int) -> Tensor:
        ctx.rows, ctx.factor = len(values), factor
        return gather_rows(values)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        rank = position()[0]
        return ctx.factor * outer[0][rank * ctx.rows : (rank + 1) * ctx.rows], None


def gather_rows_with_gradient(values: Tensor, gradient: GatherGradient = "true") -> Tensor:
    """Gather the rows of all processes, with a gradient for those of this process.

    Every process must compute the same loss from the result, so nothing is sent in the backward pass: the sum of the
    processes' gradients is the gradient of this process times their number.

    Args:
        values: float [B, ...], the same number of rows in every process.
        gradient: `true` for the gradient of the mean of the processes' losses, after DDP's averaging; `vindlu` omits the
            factor, so the gradient is smaller by the number of processes.

    Returns:
        [W * B, ...] for W processes.
    """
    world = position()[1]
    return values if world == 1 else _Gather.apply(values, world if gradient == "true" else 1)


def cosines(video: Tensor, text: Tensor, vote: FrameVote = "mean") -> Tensor:
    """Cosine similarities of videos and sentences, computed per frame and then combined (VindLU, official code).

    Args:
        video: [B, T, D], projected features per frame; T = 1 for one feature per video.
        text: [C, D], or [C, M, D] for several sentences, which are combined in the same way.
        vote: how frames and sentences are combined.

    Returns:
        float32 [B, C]
    """
    text = text if text.ndim == 3 else text[:, None]
    with torch.autocast(video.device.type, enabled=False):
        frames, sentences = F.normalize(video.float(), dim=-1), F.normalize(text.float(), dim=-1)
        pairs = torch.einsum("btd,cmd->bctm", frames, sentences).flatten(2)
    return pairs.mean(dim=2) if vote == "mean" else pairs.amax(dim=2)


def contrast_targets(ids: Tensor) -> Tensor:
    """Target probabilities: equal shares for all columns with the row's id.

    Args:
        ids: int64 [B]

    Returns:
        float32 [B, B], rows sum to 1.
    """
    same = (ids[:, None] == ids).float()
    return same / same.sum(dim=1, keepdim=True)


def contrast_loss(similarity: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of identifying each video's sentences and each sentence's videos (VTC), a scalar.

    Args:
        similarity: float32 [B, B], videos x sentences: cosine similarities over the temperature.
        ids: int64 [B]; pairs with equal ids are positives of each other.
    """
    targets = contrast_targets(ids)
    return (F.cross_entropy(similarity, targets) + F.cross_entropy(similarity.T, targets)) / 2


class Negatives(NamedTuple):
    """A negative for each row."""

    row: Tensor
    """int64 [B], row of the negative"""
    valid: Tensor
    """bool [B], False if no row of the batch has another id"""


def negative_weights(similarity: Tensor, ids: Tensor, floor: float = 1e-4) -> Tensor:
    """Weights for drawing each column as a negative of each row, larger for more similar ones (SMILE, official code).

    Args:
        similarity: float32 [B, B], over the temperature.
        ids: int64 [B]; columns with the row's own id have weight 0.
        floor: added to every other weight.
    """
    weights = similarity.detach().softmax(dim=1) + floor
    return weights.masked_fill(ids[:, None] == ids, 0.0)


def draw_negatives(similarity: Tensor, ids: Tensor, generator: torch.Generator) -> Negatives:
    """A hard negative for each row.

    Args:
        similarity: float32 [B, B], over the temperature; the columns are drawn.
        ids: int64 [B]; rows with equal ids are not negatives of each other.
        generator: generator on the device of `similarity`.
    """
    weights = negative_weights(similarity, ids)
    valid = weights.any(dim=1)
    drawn = torch.multinomial(torch.where(valid[:, None], weights, 1.0), 1, generator=generator)
    return Negatives(drawn[:, 0], valid)


def match_loss(logits: Tensor, videos: Negatives, texts: Negatives) -> Tensor:
    """Cross-entropy of classifying pairs as matching or not (VTM), a scalar.

    Args:
        logits: [3B, 2], class 1 is a match: the B matching pairs, then negative videos with the original sentences, then the
            original videos with negative sentences.
        videos: the negative videos; rows that are not valid are ignored.
        texts: the negative sentences, as above.
    """
    counted = torch.cat([torch.ones_like(videos.valid), videos.valid, texts.valid])
    labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    labels[: len(logits) // 3] = 1
    return F.cross_entropy(logits.float(), labels.masked_fill(~counted, IGNORED), ignore_index=IGNORED)


class MaskDraws(NamedTuple):
    """Random numbers of `mask_words`, each [B, L]."""

    chosen: Tensor
    """bool, words to predict"""
    masked: Tensor
    """bool, which of these become the mask token"""
    replaced: Tensor
    """bool, which of the others become a random word"""
    words: Tensor
    """int64, random words"""


def draw_masks(ids: Tensor, probability: float, vocabulary: int, generator: torch.Generator) -> MaskDraws:
    """Draws for `mask_words`: of the chosen words 80 % are masked, 10 % replaced and 10 % kept (BERT).

    Args:
        ids: int64 [B, L]
        probability: probability that a word is chosen.
        vocabulary: number of words to draw from.
        generator: generator on the device of `ids`.
    """

    def below(share: float) -> Tensor:
        return torch.rand(ids.shape, generator=generator, device=ids.device) < share

    chosen, masked, replaced = below(probability), below(MASK_SHARE), below(RANDOM_SHARE)
    return MaskDraws(chosen, masked, replaced, torch.randint(vocabulary, ids.shape, generator=generator, device=ids.device))


def mask_words(ids: Tensor, maskable: Tensor, mask_id: int, draws: MaskDraws) -> tuple[Tensor, Tensor]:
    """Mask words of sentences.

    Args:
        ids: int64 [B, L]
        maskable: bool [B, L], False at padding and at the token that represents the sentence.
        mask_id: id of the mask token.
        draws: output of `draw_masks`.

    Returns:
        int64 [B, L], input of the network; and its labels: the word, or -100 if it was not chosen.
    """
    chosen = draws.chosen & maskable
    masked = chosen & draws.masked
    seen = torch.where(chosen & ~masked & draws.replaced, draws.words, ids).masked_fill(masked, mask_id)
    return seen, ids.masked_fill(~chosen, IGNORED)


def word_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the chosen words (MLM), a scalar: 0 if there are none.

    Args:
        logits: [B, L, words]
        labels: int64 [B, L], -100 for words that were not chosen.
    """
    total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp_min(1)

"""Masks of sequences of unequal lengths, which leave an exact share of each sequence visible (LV-MAE).

Paper: LV-MAE, https://arxiv.org/abs/2504.03501. Of L steps, int(L * (1 - ratio)) are visible, at least one; all others are
predicted. Everything is batched, and the numbers of a batch only depend on its padded length, so nothing is read by the host.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.core.errors import SettingError
from modules.masks.base import Mask, mask_from_sets


def neighbour_similarity(sequence: Tensor) -> Tensor:
    """Cosine similarity of each step to the previous one, 0 for the first: float [B, S, D] -> float32 [B, S]."""
    unit = F.normalize(sequence.float(), dim=2)
    return F.pad((unit[:, 1:] * unit[:, :-1]).sum(2), (1, 0))


@dataclass
class SequenceMask(ABC):
    """Base class: the steps with the lowest scores are visible; of equal scores, the earlier ones.

    Args:
        ratio: share of the steps of a sequence that is hidden.

    Raises:
        SettingError: if it is not between 0 and 1.
    """

    ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise SettingError(f"model.mask.ratio is {self.ratio}; it must be between 0 and 1.")

    def visible_count(self, length: int) -> int:
        """Visible steps of a sequence of `length` steps."""
        return min(length, max(1, int(length * (1 - self.ratio))))

    def counts(self, longest: int) -> Tensor:
        """`visible_count` of all lengths from 0: int64 [1 + longest]."""
        return torch.tensor([self.visible_count(length) for length in range(1 + longest)])

    @abstractmethod
    def scores(self, sequence: Tensor, longest: int, generator: torch.Generator) -> Tensor:
        """Scores of all steps.

        Args:
            sequence: float [B, S, D]
            longest: largest possible S. Random numbers are drawn for so many steps, so that they do not depend on the padding.
            generator: source of randomness.

        Returns:
            float [B, S]
        """

    def draw(self, sequence: Tensor, valid: Tensor, counts: Tensor, generator: torch.Generator) -> Mask:
        """Draw a mask for each sequence, on the device of the generator.

        Args:
            sequence: float [B, S, D]
            valid: bool [B, S], which steps are no padding; a sequence begins with them.
            counts: int64 [1 + longest], from `counts`, on that device; longest is at least S.
            generator: source of randomness.

        Returns:
            `visible` and `targets` with validity. No padding is among the valid ones.
        """
        steps = valid.shape[1]
        order = self.scores(sequence, len(counts) - 1, generator).masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
        kept = torch.arange(steps, device=valid.device) < counts[valid.sum(1)][:, None]
        visible = torch.zeros_like(valid).scatter(1, order, kept)
        most = max(length - self.visible_count(length) for length in range(1 + steps))
        return mask_from_sets(visible, valid & ~visible, self.visible_count(steps), most)


@dataclass
class RandomSteps(SequenceMask):
    """Random steps are visible.

    Args:
        ratio: share of the steps of a sequence that is hidden.
    """

    def scores(self, sequence: Tensor, longest: int, generator: torch.Generator) -> Tensor:
        """Uniform numbers; see `SequenceMask.scores`."""
        drawn = torch.rand(len(sequence), longest, generator=generator, device=sequence.device)
        return drawn[:, : sequence.shape[1]]


@dataclass
class ImportantSteps(SequenceMask):
    """Steps that differ most from the previous one are visible, and those that repeat it are hidden (the paper's
    recommendation). The mask is a function of the sequence. The first step counts as different by a right angle.

    Args:
        ratio: share of the steps of a sequence that is hidden.
    """

    def scores(self, sequence: Tensor, longest: int, generator: torch.Generator) -> Tensor:
        """Similarity to the previous step; see `SequenceMask.scores`."""
        return neighbour_similarity(sequence)

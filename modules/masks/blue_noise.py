"""Masks whose visible tokens are distributed as evenly as possible by a search, for spectrograms ('Optim Blue').

Paper: structured-noise masking, https://arxiv.org/abs/2503.16311. Thresholded blue noise still has small clumps; the paper
scores clumps along four directions and removes them. Its score, weights and number of steps were not available, and no code
has been published: this is an unverified reconstruction.
"""

import torch
from torch import Tensor

from modules.core.tokens import Grid
from modules.masks.base import Mask, MaskGenerator, hide_smallest, mask_from_bool
from modules.masks.noise import filter_noise, low_pass

BANK_SEED = 0


def star_weights(h: int, w: int, reach: int) -> Tensor:
    """Penalty for each pair of grid cells if both are visible.

    Along rows, columns and both diagonals, cells at distance d = 1 .. reach have a penalty of 1 / d. The grid is a torus, so
    that cells at its border have as many neighbours as others.

    Returns:
        float [h * w, h * w], symmetric, zero on the diagonal.
    """
    star = torch.zeros(h, w)
    for y, x in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for distance in range(1, reach + 1):
            for step in (distance, -distance):
                star[y * step % h, x * step % w] += 1 / distance
    star[0, 0] = 0
    row, column = torch.arange(h), torch.arange(w)
    between_rows = (row[:, None] - row)[:, None, :, None] % h
    between_columns = (column[:, None] - column)[None, :, None, :] % w
    return star[between_rows, between_columns].reshape(h * w, h * w)


def spread(visible: Tensor, weights: Tensor, swaps: int, generator: torch.Generator) -> Tensor:
    """Move visible cells away from each other, one per grid and step, for all grids in parallel.

    In each step, the visible cell with the highest score (the sum of penalties with its visible neighbours) moves to the cell
    with the lowest score; ties are broken randomly. So the sum of all scores never increases, and moves between equal scores
    continue until one improves it.

    Args:
        visible: bool [M, N], the same number in every row.
        weights: float [N, N], from `star_weights`.
        swaps: number of steps.
        generator: source of randomness.

    Returns:
        bool [M, N], with the same number as before in every row.
    """
    shown, score = visible.clone(), visible.to(weights) @ weights
    for _ in range(swaps):
        # Different scores differ by more than this noise.
        chance = 1e-3 * torch.rand(score.shape, generator=generator, device=score.device)
        leave = (score + chance).masked_fill(~shown, -torch.inf).argmax(1, keepdim=True)
        shown.scatter_(1, leave, False)
        score -= weights[leave[:, 0]]
        enter = (score + chance).masked_fill(shown, torch.inf).argmin(1, keepdim=True)
        shown.scatter_(1, enter, True)
        score += weights[enter[:, 0]]
    return shown


class OptimBlueMask(MaskGenerator):
    """Evenly distributed visible tokens on grids of any size, such as 8 x 64 for a spectrogram; separately for each slice.

    The search takes hundreds of small steps, too many for a training step. So `bank` masks are searched once, on first use
    and always with the same seed. Each clip and slice draws one of them, randomly shifted (they are made on a torus) and
    flipped along both axes.

    Args:
        ratio: fraction of masked tokens; 0.8 in AudioMAE.
        sigma: standard deviation in tokens of the Gaussian for the blue noise that the search starts from.
        reach: distance up to which visible tokens affect each other's score.
        swaps: steps of the search.
        bank: number of different masks.
    """

    def __init__(self, ratio: float = 0.8, sigma: float = 1.0, reach: int = 2, swaps: int = 300, bank: int = 256) -> None:
        self.ratio, self.sigma, self.reach, self.swaps, self.bank = ratio, sigma, reach, swaps, bank
        self._searched: dict[tuple[Grid, torch.device], Tensor] = {}

    def search(self, count: int, grid: Grid, generator: torch.Generator) -> Tensor:
        """Search masks of one slice on the generator's device.

        Returns:
            bool [count, h * w], True if visible.
        """
        h, w, device = grid.h, grid.w, generator.device
        with torch.autocast(device.type, enabled=False):
            white = torch.randn(count, 1, 1, h, w, generator=generator, device=device)
            spectrum = low_pass((1, h, w), white.new_tensor([self.sigma]), white.new_zeros(1))
            noise = filter_noise(white, "blue", spectrum, spectrum).flatten(1)
            visible = ~hide_smallest(noise, int(self.ratio * grid.slice_tokens))
            return spread(visible, star_weights(h, w, self.reach).to(device), self.swaps, generator)

    def draw(self, count: int, grid: Grid, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """See `MaskGenerator.draw`; `boxes` are ignored."""
        h, w, device = grid.h, grid.w, generator.device
        if (grid, device) not in self._searched:
            self._searched[grid, device] = self.search(self.bank, grid, torch.Generator(device).manual_seed(BANK_SEED))

        def integers(high: int) -> Tensor:
            return torch.randint(high, (count, grid.t, 1, 1), generator=generator, device=device)

        row, column = torch.arange(h, device=device)[:, None], torch.arange(w, device=device)
        row = ((1 - 2 * integers(2)) * row + integers(h)) % h
        column = ((1 - 2 * integers(2)) * column + integers(w)) % w
        visible = self._searched[grid, device].view(-1, h, w)[integers(self.bank), row, column]
        return mask_from_bool(~visible.flatten(1), self.masked_count(grid))

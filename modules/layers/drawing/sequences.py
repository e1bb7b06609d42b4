"""Drawing of sequences of features: similarity of steps as a matrix, and a number per step as bars.

Axis letters: `B` sequences, `S` steps, `F` width of the features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.layers.drawing.streams import CURVE_COLOURS, shades, steps_at

SIDE, EDGE = 224, 8
"""Side of a matrix and height of bars, and width of the edge that marks hidden steps, in pixels."""
VISIBLE, HIDDEN = CURVE_COLOURS[:2]
EMPTY, OTHER = (240, 240, 240), (0, 0, 0)


def draw_similarity(rows: Tensor, columns: Tensor, valid: Tensor, hidden: Tensor) -> Tensor:
    """Cosines of the steps of two versions of each sequence, without padding.

    Colours are those of `shades`, from the smallest cosine of two steps of `columns` (dark) to 1 (bright). The edges at the
    left and at the top are orange at hidden steps, and blue at visible ones.

    Args:
        rows: float [B, S, F]
        columns: float [B, S, F]
        valid: bool [B, S], which steps are no padding.
        hidden: bool [B, S]

    Returns:
        uint8 [B, 1, SIDE + EDGE, SIDE + EDGE, 3]
    """
    pictures = []
    for row, column, own, marked in zip(*(part.cpu() for part in (rows, columns, valid, hidden)), strict=True):
        row, column = (F.normalize(part[own].float(), dim=1) for part in (row, column))
        marks = _marks(marked[own], EDGE)
        picture = torch.full((SIDE + EDGE, SIDE + EDGE, 3), 255, dtype=torch.uint8)
        if len(row):
            low, place = (column @ column.T).min(), steps_at(len(row), SIDE)
            cosine = ((row @ column.T) - low) / (1 - low).clamp_min(1e-6)
            picture[EDGE:, EDGE:] = shades(cosine[place][:, place])
            picture[:EDGE, EDGE:], picture[EDGE:, :EDGE] = marks, marks.transpose(0, 1)
        pictures.append(picture)
    return torch.stack(pictures)[:, None]


def draw_bars(values: Tensor, others: Tensor, valid: Tensor, hidden: Tensor) -> Tensor:
    """A number from 0 to 1 of each hidden step as a bar, and another as a line across it.

    Args:
        values: float [B, S], the bars.
        others: float [B, S], the lines.
        valid: bool [B, S], which steps are no padding.
        hidden: bool [B, S]

    Returns:
        uint8 [B, 1, SIDE + EDGE, SIDE + EDGE, 3], with the columns of `draw_similarity`.
    """
    pictures, level = [], 1 - torch.arange(SIDE)[:, None] / (SIDE - 1)
    for value, other, own, marked in zip(*(part.cpu() for part in (values, others, valid, hidden)), strict=True):
        picture = torch.full((SIDE, SIDE, 3), 255, dtype=torch.uint8)
        value, other, marked = value[own], other[own], marked[own]
        if len(marked):
            place = steps_at(len(marked), SIDE)
            at = marked[place]
            picture[:, at] = torch.tensor(EMPTY, dtype=torch.uint8)
            picture[at & (level <= value[place])] = torch.tensor(HIDDEN, dtype=torch.uint8)
            picture[at & ((level - other[place].clamp(0, 1)).abs() < 1 / SIDE)] = torch.tensor(OTHER, dtype=torch.uint8)
        pictures.append(F.pad(torch.cat([picture, _marks(marked, EDGE)]), (0, 0, EDGE, 0), value=255))
    return torch.stack(pictures)[:, None]


def _marks(hidden: Tensor, height: int) -> Tensor:
    """A band that shows which steps are hidden: bool [S] -> uint8 [height, SIDE, 3]."""
    if not len(hidden):
        return torch.full((height, SIDE, 3), 255, dtype=torch.uint8)
    colours = torch.tensor([VISIBLE, HIDDEN], dtype=torch.uint8)[hidden.long()]
    return colours[steps_at(len(hidden), SIDE)].expand(height, -1, -1)

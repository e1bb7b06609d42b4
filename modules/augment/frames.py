"""Changes of single frames that hide low-level cues of their order: OPN's channel splitting and independent crop jitter
(https://arxiv.org/abs/1708.01246, official code), batched on the device.

Neighbouring frames share colours, chromatic aberration and edges at the border of the crop; a network can sort frames by these
without looking at what moves.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.core.errors import SettingError, check_whole


@dataclass
class FrameAugmentation:
    """Changes of the pieces (frames or short clips) of a tuple, each piece on its own.

    Args:
        margin: pieces are square crops whose side is this many pixels smaller than the clip's. The place of the crop is
            drawn once for each tuple.
        jitter: largest further shift of each piece's own crop, in pixels along both axes.
        split: channel splitting: every piece draws one of red, green and blue and repeats it in all three channels.
    """

    margin: int = 0
    jitter: int = 0
    split: bool = False

    def __post_init__(self) -> None:
        check_whole("model.augmentation", 0, margin=self.margin, jitter=self.jitter)
        if self.jitter and not self.margin:
            raise SettingError(
                f"model.augmentation.jitter is {self.jitter}, but with model.augmentation.margin 0 crops have no room to move; "
                "set the margin (OPN: 20 of 100 pixels)."
            )

    def __call__(self, pieces: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Crop and split the pieces.

        Args:
            pieces: uint8 [B, n, W, H, H, 3]
            generator: source of randomness.

        Returns:
            uint8 [B, n, W, h, h, 3] with h = H - margin, and the crops int64 [B, n, 4] as x1 y1 x2 y2.
        """
        count, places, side = *pieces.shape[:2], pieces.shape[3]
        size = side - self.margin
        if pieces.shape[3] != pieces.shape[4] or size < 1:
            raise SettingError(
                f"model.augmentation.margin is {self.margin}, which leaves nothing of clips of {side} x {pieces.shape[4]} "
                "pixels; lower it, or set data.clip.size."
            )
        device = pieces.device
        start = torch.randint(0, self.margin + 1, (count, 2), generator=generator, device=device)
        shift = torch.randint(-self.jitter, self.jitter + 1, (count, places, 2), generator=generator, device=device)
        boxes = jittered_boxes(start, shift, size, side)
        if self.margin:
            pieces = crop_pieces(pieces, boxes[..., :2], size)
        if self.split:
            pieces = split_channels(pieces, torch.randint(0, 3, (count, places), generator=generator, device=device))
        return pieces, boxes


def jittered_boxes(start: Tensor, shift: Tensor, size: int, window: int) -> Tensor:
    """Crops of the frames of a tuple: a common place, and a shift of each frame's own.

    A shift is dropped, for its axis only, unless the shifted crop is strictly inside the window (official code): it never
    touches the window's border.

    Args:
        start: int64 [B, 2], x and y of the common crop, from 0 to window - size.
        shift: int64 [B, n, 2], drawn shifts of each frame.
        size: side of a crop.
        window: side of the window.

    Returns:
        int64 [B, n, 4], x1 y1 x2 y2.
    """
    moved = start[:, None] + shift
    inside = (moved > 0) & (moved + size < window)
    corner = torch.where(inside, moved, start[:, None])
    return torch.cat([corner, corner + size], dim=2)


def crop_pieces(pieces: Tensor, corner: Tensor, size: int) -> Tensor:
    """Cut a square from each piece; all frames of a piece have the same.

    Args:
        pieces: [B, n, W, H, H, 3]
        corner: int64 [B, n, 2], x and y of the upper left corners.
        size: side of the squares.

    Returns:
        [B, n, W, size, size, 3]
    """
    steps = torch.arange(size, device=pieces.device)
    across, down = (corner[..., axis, None] + steps for axis in (0, 1))
    rows = down[:, :, None, :, None, None].expand(*pieces.shape[:3], size, *pieces.shape[4:])
    columns = across[:, :, None, None, :, None].expand(*pieces.shape[:3], size, size, 3)
    return pieces.gather(3, rows).gather(4, columns)


def split_channels(pieces: Tensor, channel: Tensor) -> Tensor:
    """Repeat one channel of each piece in all three: [B, n, W, H, H, 3] and int64 [B, n] -> the same shape."""
    chosen = channel[:, :, None, None, None, None].expand(*pieces.shape[:-1], 1)
    return pieces.gather(-1, chosen).expand_as(pieces)

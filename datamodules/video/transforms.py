"""Cut the views of one video out of its decoded frames and resize them to uint8 clips.

Loader workers do nothing else: normalisation, flips and colour changes run on the device.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.video.crops import Box
from datamodules.video.decode import DecodedClips


def crop_and_resize(frames: list[np.ndarray], box: Box, size: int | tuple[int, int]) -> Tensor:
    """Cut one box out of every frame and resize it bilinearly, with antialiasing for downsampling, like PIL.

    Args:
        frames: T arrays uint8 [h, w, 3].
        box: Box inside all frames.
        size: Side of the result, or its height and width.

    Returns:
        uint8 [T, size, size, 3], contiguous.
    """
    x, y, width, height = box
    sides = (size, size) if isinstance(size, int) else size
    clip = torch.from_numpy(np.stack([frame[y : y + height, x : x + width] for frame in frames]))
    if (height, width) == sides:
        return clip
    # Viewed as [T, 3, h, w] the memory is channels-last, for which torch has a vectorised uint8 kernel.
    resized = interpolate(clip.permute(0, 3, 1, 2), size=sides, mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous()


def short_side_centre(frame: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side with Pillow's bicubic filter, then cut out the centre, like CAV-MAE (official code).

    Args:
        frame: uint8 [h, w, 3].
        size: length of the shorter side, and side of the result.

    Returns:
        uint8 [size, size, 3]
    """
    height, width = frame.shape[:2]
    short = min(height, width)
    height, width = (int(size * side / short) for side in (height, width))
    left, top = (round((side - size) / 2) for side in (width, height))
    resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def cut_views(decoded: DecodedClips, boxes: list[Box], size: int) -> Tensor:
    """Cut out all views of one video.

    Args:
        decoded: Decoded frames, and their positions in each clip.
        boxes: Boxes of all views; those of one clip are next to each other, the same number for each clip.
        size: Side of the views.

    Returns:
        uint8 [V, T, size, size, 3].
    """
    copies = len(boxes) // len(decoded.position)
    views = []
    for view, box in enumerate(boxes):
        positions = decoded.position[view // copies]
        # Short videos repeat frames; each distinct frame is resized once.
        unique, place = np.unique(positions, return_inverse=True)
        resized = crop_and_resize([decoded.frames[position] for position in unique], box, size)
        views.append(resized if np.array_equal(place, np.arange(len(place))) else resized[torch.from_numpy(place)])
    return torch.stack(views) if len(views) > 1 else views[0][None]

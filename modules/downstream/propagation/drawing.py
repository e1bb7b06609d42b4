"""Propagated labels drawn into the frames of a video."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import draw_keypoints

from modules.core.run import Measure
from modules.layers.drawing.clips import OUTLINE_COLOURS

COLOURS = torch.tensor([*OUTLINE_COLOURS, (0, 114, 178), (213, 94, 0), (240, 228, 66), (220, 220, 220)], dtype=torch.uint8)
"""Colours of labels 1, 2 and so on, in turns."""
STRENGTH = 0.55
"""Share of a label's colour in a pixel."""


class Propagated(NamedTuple):
    """Labels of a video, for pictures."""

    name: str
    measure: Measure
    frames: Tensor
    """uint8 [T, H, W, 3]"""
    predicted: Tensor
    """uint8 [T, H0, W0], or float64 [T, J, 2] in pixels of the files"""
    truth: Tensor
    """of the same shape"""
    stored: tuple[int, int]
    """height and width of the files"""

    def drawn(self, labels: Tensor) -> Tensor:
        """The frames with labels, which are `predicted` or `truth`: uint8 [T, H, W, 3] on the host."""
        frames = self.frames.cpu()
        if self.measure != "joints":
            return draw_masks(frames, labels.cpu())
        height, width = frames.shape[1:3]
        scale = torch.tensor([width / self.stored[1], height / self.stored[0]], dtype=torch.float64)
        return draw_points(frames, labels.cpu() * scale, labels[..., 0].cpu() >= 0)


def draw_masks(frames: Tensor, masks: Tensor) -> Tensor:
    """Frames uint8 [T, H, W, 3] in grey, with the objects of masks uint8 [T, H0, W0] in colour."""
    ids = F.interpolate(masks[:, None].float(), frames.shape[1:3], mode="nearest")[:, 0].long()
    colours = COLOURS[(ids - 1) % len(COLOURS)].float()
    grey = frames.float().mean(3, keepdim=True).expand_as(colours)
    return torch.where((ids > 0)[..., None], torch.lerp(grey, colours, STRENGTH), grey).round().byte()


def draw_points(frames: Tensor, joints: Tensor, visible: Tensor) -> Tensor:
    """Frames uint8 [T, H, W, 3] with joints float [T, J, 2] in pixels where `visible`, bool [T, J]."""
    radius = max(1, min(frames.shape[1:3]) // 80)
    drawn = [
        draw_keypoints(frame.permute(2, 0, 1), places[there][None].float(), colors="yellow", radius=radius)
        for frame, places, there in zip(frames, joints, visible, strict=True)
    ]
    return torch.stack(drawn).permute(0, 2, 3, 1)

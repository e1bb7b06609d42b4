"""Maps of features of the frames of a video, by any encoder of videos.

* CLIP, DINO and DINOv2 (`FrameTower`) and BEiT encode single frames, and so does `CaffeNet`.
* A video transformer sees `together` frames, each repeated to fill one slice of tokens: slice i is the map of frame i.
* A CNN sees each frame repeated for as long as its temporal stride; the map of a stage is averaged over these repeats.

Frames whose sides are not multiples of a token are continued with copies of their last row and column. Places of the map that
show nothing else are removed, so the padding is never compared and has no label.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.cnn.base import VideoCNN
from modules.backbones.vit.beit_video import BEiTVideo
from modules.core.errors import SettingError, check_whole


@dataclass
class MapSettings:
    """Which features of an encoder are compared.

    Args:
        layer: Block of a transformer or stage of a CNN whose output is the map; negative ones count from the end.
        norm: Apply the encoder's final norm, if it has one, to it.
        together: Frames that a video transformer or a CNN sees at once; 1 encodes each frame alone.
        batch: Frames per forward pass; it changes memory and time only.
    """

    layer: int = -1
    norm: bool = True
    together: int = 1
    batch: int = 8

    def __post_init__(self) -> None:
        check_whole("model.maps", -1000, 1000, layer=self.layer)
        check_whole("model.maps", 1, together=self.together, batch=self.batch)


class FrameMaps(NamedTuple):
    """Maps of consecutive frames."""

    features: Tensor
    """float [n, C, h, w]"""
    stride: tuple[float, float]
    """pixels of a place of the map, down and across"""


def frame_maps(encoder: Any, frames: Tensor, settings: MapSettings) -> Iterator[FrameMaps]:
    """Maps of the frames of a video, a few frames at a time, in order.

    Args:
        encoder: in evaluation mode.
        frames: uint8 [T, H, W, 3].
        settings: which map.

    Raises:
        SettingError: if the encoder cannot take frames of this size, has no such layer or no map of features, or its features
            are the same everywhere or not finite.
    """
    height, width = frames.shape[1:3]
    check_size(encoder, height, width)
    patch, repeats = steps_of(encoder)
    clips = max(1, settings.batch // settings.together)
    for number, part in enumerate(frames.split(clips * settings.together)):
        count = len(part)
        part = _continued(part, patch)
        if short := -count % settings.together:
            part = torch.cat([part, part[-1:].expand(short, *part.shape[1:])])
        clip = part.repeat_interleave(repeats, 0).unflatten(0, (-1, settings.together * repeats))
        found = encoder.forward_intermediates(
            encoder.preprocess(clip), [settings.layer], settings.norm, output_fmt="grid", intermediates_only=True
        )[0]
        if not isinstance(found, Tensor) or found.ndim != 5 or found.shape[2] % settings.together:
            raise SettingError(
                f"{type(encoder).__name__} gives no map for each of {settings.together} frames at layer {settings.layer}; set "
                "model.maps.together to 1, or choose another model.maps.layer."
            )
        maps = found.unflatten(2, (settings.together, -1)).mean(3).transpose(1, 2).flatten(0, 1)[:count]
        stride = (part.shape[1] / maps.shape[2], part.shape[2] / maps.shape[3])
        rows, columns = (-int(-side // step) for side, step in zip((height, width), stride, strict=True))
        maps = maps[..., :rows, :columns].float()
        # NaN fails the comparison as well.
        if number == 0 and not bool(maps.flatten(2).std(2).amax() > 0):
            raise SettingError(
                f"The features of {type(encoder).__name__} at layer {settings.layer} are the same everywhere or not finite, so "
                "no label can be propagated; choose another model.maps.layer or model.backbone."
            )
        yield FrameMaps(maps, stride)


def steps_of(encoder: Any) -> tuple[int, int]:
    """Pixels of a frame's sides and number of frames that an encoder takes multiples of.

    Raises:
        SettingError: if it is not an encoder of videos, or has no map of features.
    """
    if isinstance(encoder, VideoCNN):
        return encoder.smallest_clip[1], 2 * encoder.smallest_clip[0]
    grid = getattr(encoder, "grid", None)
    if encoder.kind != "video" or grid is None:
        raise SettingError(
            f"model.backbone is {type(encoder).__name__}, which has no map of features of the frames of a video; choose a "
            "video transformer, a video CNN or FrameTower."
        )
    return grid.patch, grid.tubelet


def check_size(encoder: Any, height: int, width: int) -> None:
    """Check that an encoder can take frames.

    Raises:
        SettingError: for encoders of one size.
    """
    side = getattr(encoder, "image_size", None) if isinstance(encoder, BEiTVideo | VideoCNN) else None
    if side is not None and (height, width) != (side, side):
        raise SettingError(
            f"{type(encoder).__name__} takes frames of {side} x {side} pixels, but these have {height} x {width}; set "
            f"data.size.exact to [{side}, {side}]."
        )


def _continued(frames: Tensor, patch: int) -> Tensor:
    """Frames [n, H, W, 3] with copies of the last row and column, up to multiples of `patch`."""
    down, across = -frames.shape[1] % patch, -frames.shape[2] % patch
    if not (down or across):
        return frames
    planes = F.pad(frames.permute(0, 3, 1, 2).float(), (0, across, 0, down), mode="replicate")
    return planes.byte().permute(0, 2, 3, 1)

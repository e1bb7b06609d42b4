"""Pictures of what a masked method sees and predicts: uint8 videos [B, T, H, W, 3]."""

import torch
from torch import Tensor

from modules.backbones.video_vit import Grid, gather_tokens, patchify, unpatchify
from modules.core.contracts import StepOutput
from modules.layers.targets import PixelTarget, Target

# Okabe and Ito's colours, told apart by most colour-blind readers.
OUTLINE_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167))
HIDDEN_GREY = 110


def outline_boxes(clip: Tensor, boxes: Tensor) -> Tensor:
    """Draw one-pixel outlines of boxes, a colour per object.

    Args:
        clip: uint8 [B, T, H, W, 3]
        boxes: float [B, K, T, 4], corners x1 y1 x2 y2 in pixels; may leave the picture.
    """
    height, width = clip.shape[2:4]
    drawn = clip.clone()
    x = torch.arange(width, device=clip.device)
    y = torch.arange(height, device=clip.device)[:, None]
    for k in range(boxes.shape[1]):
        x1, y1, x2, y2 = boxes[:, k].round().unbind(-1)
        x1, y1, x2, y2 = (edge[:, :, None, None] for edge in (x1, y1, x2 - 1, y2 - 1))
        inside = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        edge = inside & ((x == x1) | (x == x2) | (y == y1) | (y == y2))
        colour = torch.tensor(OUTLINE_COLOURS[k % len(OUTLINE_COLOURS)], dtype=torch.uint8, device=clip.device)
        drawn = torch.where(edge[..., None], colour, drawn)
    return drawn


def to_uint8(video: Tensor) -> Tensor:
    """float [B, 3, T, H, W] in [0, 1] -> uint8 [B, T, H, W, 3]."""
    return (video.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1)


def replace_tokens(clip: Tensor, index: Tensor, values: Tensor, grid: Grid) -> Tensor:
    """Put other pixels in the place of some tokens.

    Args:
        clip: uint8 [B, T, H, W, 3]
        index: int64 [B, M], token numbers.
        values: float [B, M, 3, P] in [0, 1], or a number for a flat grey.
        grid: token grid.
    """
    cubes = patchify(clip.permute(0, 4, 1, 2, 3).float() / 255, grid)
    target = index[:, :, None, None].expand(-1, -1, *cubes.shape[2:])
    return to_uint8(unpatchify(cubes.scatter(1, target, values.to(cubes.dtype)), grid))


def hide_tokens(clip: Tensor, masked: Tensor, grid: Grid) -> Tensor:
    """Grey out masked tokens.

    Args:
        clip: uint8 [B, T, H, W, 3]
        masked: int64 [B, Nm]
        grid: token grid.
    """
    flat = torch.full((*masked.shape, 3, grid.token_pixels), HIDDEN_GREY / 255, device=clip.device)
    return replace_tokens(clip, masked, flat, grid)


def similarity_map(clip: Tensor, masked: Tensor, prediction: Tensor, target: Tensor, grid: Grid) -> Tensor:
    """Cosine similarity of prediction and target at masked tokens, from dark (-1) to bright (1); visible tokens black.

    Args:
        clip: uint8 [B, T, H, W, 3], only for its size.
        masked: int64 [B, Nm]
        prediction: [B, Nm, D]
        target: [B, Nm, D]
        grid: token grid.
    """
    cosine = torch.cosine_similarity(prediction.float(), target.float(), dim=-1)
    shade = (0.5 + 0.5 * cosine)[:, :, None, None].expand(-1, -1, 3, grid.token_pixels)
    return replace_tokens(torch.zeros_like(clip), masked, shade, grid)


def masked_pictures(output: StepOutput, target: Target, video: Tensor, grid: Grid) -> dict[str, Tensor]:
    """What a masked method shows: the clip (with boxes), what the encoder saw, and what was predicted.

    Pixel targets give a reconstruction, other targets a map of cosine similarity.

    Args:
        output: of the method's step; its rows may be fewer clips than masks.
        target: the method's target.
        video: float [B, 3, T, H, W], the normalised clips.
        grid: token grid.
    """
    clip = output["clip"]
    rows = slice(0, clip.shape[0])
    masked, prediction, truth = output["masked"][rows], output["prediction"][rows], output["target"][rows]
    shown = {
        "clip": outline_boxes(clip, output["boxes"]) if "boxes" in output else clip,
        "visible": hide_tokens(clip, masked, grid),
    }
    if isinstance(target, PixelTarget):
        everywhere = truth.new_zeros(clip.shape[0], grid.tokens, truth.shape[-1])
        everywhere = everywhere.scatter(1, masked[..., None].expand_as(prediction), prediction.to(truth.dtype))
        pixels = gather_tokens(target.to_pixels(everywhere, video, grid), masked)
        shown["reconstruction"] = replace_tokens(clip, masked, pixels, grid)
    else:
        shown["similarity"] = similarity_map(clip, masked, prediction, truth, grid)
    return shown

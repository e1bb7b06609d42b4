"""Pictures of the inputs and predictions of methods: uint8 videos [B, T, H, W, 3]."""

import math

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modules.core.preprocessing import IMAGENET, Normalisation
from modules.core.tokens import Grid, gather_tokens, patchify, unpatchify
from modules.layers.targets import PixelTarget, Target
from modules.masks.base import is_among

# Okabe and Ito's colours, which most colour-blind readers can distinguish.
OUTLINE_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167))
HIDDEN_GREY = 110
BAR_GREY = 60
BAND, LINE = 48, 12
MIN_WIDTH = 224
"""Smallest width of a clip with a sentence below."""
COLUMN, READABLE = 6, 112
"""Most frames of a column, and the fewest pixels of its width."""
BORROWED = "hidden cubes: predicted detail on their true mean and contrast"
"""Note on reconstructions of pixels that are normalised per cube: mean and contrast are not predicted."""


def caption_band(text: str, width: int) -> Tensor:
    """A sentence in black on white: uint8 [48, width, 3]; cut after four lines."""
    picture = Image.new("RGB", (width, BAND), "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(10)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if canvas.textlength(longer, font=font) <= width - 4:
            lines[-1] = longer
        else:
            lines.append(word)
    for number, line in enumerate(lines):
        canvas.text((2, number * LINE), line, fill="black", font=font)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(BAND, width, 3)


def captioned(clip: Tensor, texts: list[str]) -> Tensor:
    """Enlarged clips with a sentence below each: uint8 [B, T, H, W, 3] -> uint8 [B, T, H', W', 3]."""
    factor = max(1, -(-MIN_WIDTH // clip.shape[3]))
    enlarged = clip.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    bands = torch.stack([caption_band(text, enlarged.shape[3]) for text in texts]).to(clip.device)
    return torch.cat([enlarged, bands[:, None].expand(-1, clip.shape[1], -1, -1, -1)], dim=2)


def outline(clip: Tensor, corners: Tensor) -> Tensor:
    """Draw the outlines of convex shapes, with one colour per object.

    Args:
        clip: uint8 [B, T, H, W, 3]
        corners: float [B, K, T, P, 2], x and y of the corners, clockwise, in pixels; may be outside the picture. Shapes without
            area are not drawn.
    """
    height, width = clip.shape[2:4]
    drawn = clip
    x = torch.arange(width, device=clip.device) + 0.5
    y = torch.arange(height, device=clip.device)[:, None] + 0.5
    for k in range(corners.shape[1]):
        # Distance of a pixel's centre from the nearest side, positive inside.
        depth = torch.full(clip.shape[:4], math.inf, device=clip.device)
        for start, end in zip(corners[:, k].unbind(2), corners[:, k].roll(-1, 2).unbind(2), strict=True):
            along = F.normalize(end - start, dim=-1)[:, :, None, None]
            start = start[:, :, None, None]
            depth = depth.minimum(along[..., 0] * (y - start[..., 1]) - along[..., 1] * (x - start[..., 0]))
        colour = torch.tensor(OUTLINE_COLOURS[k % len(OUTLINE_COLOURS)], dtype=torch.uint8, device=clip.device)
        drawn = torch.where(((depth > 0) & (depth <= 1))[..., None], colour, drawn)
    return drawn


def mark_frames(clip: Tensor, index: Tensor) -> Tensor:
    """Frame some pictures of clips in colour.

    Args:
        clip: uint8 [B, T, H, W, 3]
        index: int64 [B, ...], the frames.
    """
    marked = torch.zeros(clip.shape[:2], dtype=torch.bool, device=clip.device).scatter(1, index.flatten(1), True)
    border = torch.ones(clip.shape[2:4], dtype=torch.bool, device=clip.device)
    border[2:-2, 2:-2] = False
    colour = torch.tensor(OUTLINE_COLOURS[0], dtype=torch.uint8, device=clip.device)
    return torch.where((marked[:, :, None, None] & border)[..., None], colour, clip)


def captioned_pieces(pieces: Tensor, captions: list[list[str]]) -> Tensor:
    """The pieces of tuples, each as a column of its frames with a caption below.

    Args:
        pieces: uint8 [B, n, W, H, W, 3]; of pieces of more than six frames, six are drawn.
        captions: n captions for each tuple.

    Returns:
        uint8 [B, n, H', W', 3], enlarged if they are small.
    """
    chosen = torch.linspace(0, pieces.shape[2] - 1, min(pieces.shape[2], COLUMN)).round().long().tolist()
    column = torch.cat([pieces[:, :, frame] for frame in chosen], dim=2)
    factor = max(1, -(-READABLE // column.shape[3]))
    column = column.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    bands = torch.stack([torch.stack([caption_band(text, column.shape[3]) for text in row]) for row in captions])
    return torch.cat([column, bands.to(column.device)], dim=2)


def box_corners(boxes: Tensor) -> Tensor:
    """Corners of axis-aligned boxes, clockwise from the upper left: [..., 4] as x1 y1 x2 y2 -> [..., 4, 2]."""
    result: Tensor = boxes[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2))
    return result


def framed(clip: Tensor, right: Tensor) -> Tensor:
    """Draw a frame around clips: green for right answers, orange for wrong ones.

    Args:
        clip: uint8 [B, T, H, W, 3]
        right: bool [B]
    """
    height, width = clip.shape[2:4]
    line = max(1, min(height, width) // 32)
    inside = torch.zeros(height, width, 1, dtype=torch.bool, device=clip.device)
    inside[line : height - line, line : width - line] = True
    colours = torch.tensor([OUTLINE_COLOURS[0], OUTLINE_COLOURS[2]], dtype=torch.uint8, device=clip.device)
    return torch.where(inside, clip, colours[right.long()][:, None, None, None])


def draw_places(clip: Tensor, order: Tensor, guess: Tensor, places: int) -> Tensor:
    """Draw two bars into clips of shuffled tuples: which part of the video is true (above) and which is predicted (below).

    Args:
        clip: uint8 [B, T, H, W, 3], the clips at one place of the shuffled tuples.
        order: int64 [B], their true places in the video.
        guess: int64 [B], their predicted places. They are green if right, and orange if wrong.
        places: clips of a tuple.
    """
    height, width = clip.shape[2:4]
    tall = max(2, height // 16)
    part = (torch.arange(width, device=clip.device) * places) // width
    wrong, true, right = (torch.tensor(colour, dtype=torch.uint8, device=clip.device) for colour in OUTLINE_COLOURS[:3])
    predicted = torch.where((order == guess)[:, None, None], right, wrong)
    above = torch.where((part == order[:, None])[..., None], true, BAR_GREY)
    below = torch.where((part == guess[:, None])[..., None], predicted, BAR_GREY)
    drawn = clip.clone()
    drawn[:, :, :tall] = above[:, None, None]
    drawn[:, :, -tall:] = below[:, None, None]
    return drawn


def to_uint8(video: Tensor) -> Tensor:
    """float [B, 3, T, H, W] in [0, 1] -> uint8 [B, T, H, W, 3]."""
    return (video.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1)


def replace_tokens(clip: Tensor, index: Tensor, values: Tensor, grid: Grid) -> Tensor:
    """Replace the pixels of some tokens.

    Args:
        clip: uint8 [B, T, H, W, 3]
        index: int64 [B, M], token indices.
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
    """Cosine similarity of prediction and target at predicted tokens, from dark (-1) to bright (1); other tokens are black.

    Args:
        clip: uint8 [B, T, H, W, 3], only used for its size.
        masked: int64 [B, Nm]
        prediction: [B, Nm, D]
        target: [B, Nm, D]
        grid: token grid.
    """
    cosine = torch.cosine_similarity(prediction.float(), target.float(), dim=-1)
    shade = (0.5 + 0.5 * cosine)[:, :, None, None].expand(-1, -1, 3, grid.token_pixels)
    return replace_tokens(torch.zeros_like(clip), masked, shade, grid)


def masked_pictures(
    show: dict[str, Tensor], target: Target, video: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET
) -> dict[str, Tensor]:
    """Pictures of a masked method: the clip (with boxes), the visible tokens, and the prediction.

    Pixel targets give a reconstruction, other targets a map of cosine similarity.

    Args:
        show: entry `show` of the output of the method's step. There may be several masks per clip; only the first is drawn.
            Masked tokens that were not decoded are grey in the reconstruction, and decoded tokens that were visible are not
            replaced.
        target: the method's target.
        video: float [B, 3, T, H, W], the normalised clips.
        grid: token grid.
        normalisation: normalisation of the video.
    """
    clip = show["clip"]
    rows = slice(0, clip.shape[0])
    masked, prediction, truth = show["masked"][rows], show["prediction"][rows], show["target"][rows]
    decoded = show.get("decoded", show["masked"])[rows]
    shown = {
        "clip": outline(clip, box_corners(show["boxes"])) if "boxes" in show else clip,
        "visible": hide_tokens(clip, masked, grid),
    }
    if isinstance(target, PixelTarget):
        everywhere = truth.new_zeros(clip.shape[0], grid.tokens, truth.shape[-1])
        everywhere = everywhere.scatter(1, decoded[..., None].expand_as(prediction), prediction.to(truth.dtype))
        pixels = gather_tokens(target.to_pixels(everywhere, video, grid, normalisation), decoded)
        own = gather_tokens(patchify(clip.permute(0, 4, 1, 2, 3).float() / 255, grid), decoded)
        hidden = is_among(decoded, masked, grid.tokens)[..., None, None]
        shown["reconstruction"] = replace_tokens(shown["visible"], decoded, torch.where(hidden, pixels, own), grid)
    else:
        shown["similarity"] = similarity_map(clip, decoded, prediction, truth, grid)
    return shown

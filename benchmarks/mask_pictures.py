"""Draws the masks of every generator on one clip, side by side, and measures how often neighbouring tokens are both visible.

python benchmarks/mask_pictures.py --out docs/masks.gif
"""

import sys
from pathlib import Path

import torch
from jsonargparse import auto_cli
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.masks import generators
from modules.core.tokens import Grid
from modules.layers.drawing.clips import hide_tokens
from modules.masks.base import MaskGenerator
from modules.motion.appearance import ObjectBank
from modules.motion.render import paste
from modules.motion.trajectory import Motion
from modules.scenes.objects import make_clips

GRID = Grid(8, 14, 14, 2, 8)
"""Tokens of ViT-B at 16 x 224 x 224, drawn with 8 pixels to a side."""
FRAMES, SIDE = GRID.t * GRID.tubelet, GRID.w * GRID.patch
COLUMNS, LABEL, GAP = 4, 16, 4


def moving_clips(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips with two moving objects, uint8 [B, T, H, W, 3], and their boxes, [B, 2, T, 4]."""
    # Backgrounds are dark; their negatives differ more from the grey of hidden tokens.
    still = 255 - make_clips(count, FRAMES, SIDE, "train", 4, ("texture",), objects=False).video
    record, _ = Motion().draw(count, 2, FRAMES, (SIDE, SIDE), generator).sorted_by_area()
    return paste(still, record, ObjectBank().draw(record.size.mean(2), generator)), record.boxes()


def shared_fate(kind: MaskGenerator, boxes: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """Fractions of visible tokens whose next token in time, and whose right neighbour, are also visible."""
    visible = kind.draw(len(boxes), GRID, generator, boxes).visible
    seen = torch.zeros(len(boxes), GRID.tokens).scatter_(1, visible, 1).view(-1, *GRID[:3])
    in_time = (seen[:, 1:] * seen[:, :-1]).sum() / seen[:, :-1].sum()
    in_space = (seen[..., 1:] * seen[..., :-1]).sum() / seen[..., :-1].sum()
    return float(in_time), float(in_space)


def sheet(panels: dict[str, Tensor]) -> list[Image.Image]:
    """Frames of one picture: panels in rows, each below its name; uint8 [T, H, W, 3] each."""
    rows = -(-len(panels) // COLUMNS)
    font = ImageFont.load_default(12)
    pages = []
    for frame in range(FRAMES):
        page = Image.new("RGB", (COLUMNS * (SIDE + GAP) - GAP, rows * (SIDE + LABEL)), "white")
        pen = ImageDraw.Draw(page)
        for number, (name, panel) in enumerate(panels.items()):
            x, y = number % COLUMNS * (SIDE + GAP), number // COLUMNS * (SIDE + LABEL)
            pen.text((x, y + 1), name, "black", font)
            page.paste(Image.fromarray(panel[frame].numpy()), (x, y + LABEL))
        pages.append(page)
    return pages


def main(out: Path | None = None, draws: int = 500, seed: int = 0, frame_ms: int = 160) -> None:
    """Print the table of docs/masks.md and draw its picture.

    Args:
        out: GIF file to write.
        draws: masks per generator for the table.
        seed: seed of masks and objects.
        frame_ms: milliseconds per frame.
    """
    generator = torch.Generator().manual_seed(seed)
    clip, boxes = moving_clips(1, generator)
    many = Motion().draw(draws, 2, FRAMES, (SIDE, SIDE), generator).boxes()
    panels = {"clip": clip[0]}
    print("| mask | keep t | keep x |\n|---|---|---|")
    for name, kind in generators(0.9).items():
        print("| {} | {:.2f} | {:.2f} |".format(name, *shared_fate(kind, many, generator)))
        panels[name] = hide_tokens(clip, kind.draw(1, GRID, generator, boxes).targets, GRID)[0]
    if out is not None:
        pages = sheet(panels)
        pages[0].save(out, "GIF", save_all=True, append_images=pages[1:], duration=frame_ms, loop=0)
        print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

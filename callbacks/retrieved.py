"""Results of a retrieval test, as pictures: clips for a sentence, and sentences for a clip."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from callbacks.neighbours import OTHER, QUERY, SAME, draw, framed, named
from callbacks.pictures import write_film
from modules.core.errors import check_positive
from modules.downstream.video_text_retrieval import Retrieved, VideoTextRetrieval
from modules.layers.drawing.clips import caption_band

LINE_WIDTH, LINE = 480, 20
OWN_LINES, SPACE = 2, 10
"""Lines below a clip for its own sentence, and pixels below these."""


class RetrievedPictures(Callback):
    """Draws the top results of a test of `VideoTextRetrieval`, in both directions, in TensorBoard and in `<run>/pictures`.

    `found_videos`: each row is a sentence with its best clips below, the best on the left. `found_sentences`: each row is a
        clip with its best
    sentences next to it, the best on top. Correct results are green, others red; below each clip is the beginning of its own
    sentence. Written as PNG and GIF.

    Args:
        queries: rows of each picture, evenly spaced over the queries.
        k: results per query.
        frames: maximum number of frames of the GIFs.
    """

    def __init__(self, queries: int = 6, k: int = 5, frames: int = 16) -> None:
        check_positive("RetrievedPictures", queries=queries, k=k, frames=frames)
        self.queries, self.k, self.frames = queries, k, frames

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the clips, and draw."""
        if not isinstance(pl_module, VideoTextRetrieval) or pl_module.retrieved is None or not trainer.is_global_zero:
            return
        found: Retrieved = pl_module.retrieved
        loader: Any = trainer.test_dataloaders

        def clips(numbers: list[int]) -> Tensor:
            return draw(loader.read(0, numbers).stream(pl_module.stream), self.frames)

        write_film(trainer, "found_videos", trainer.global_step, self.videos(found, clips))
        write_film(trainer, "found_sentences", trainer.global_step, self.sentences(found, clips))

    def videos(self, found: Retrieved, clips: Callable[[list[int]], Tensor]) -> Tensor:
        """Sentences with their best clips: uint8 [T, H, W, 3]. `clips` draws samples of the test by index."""
        rows = []
        for query, best in zip(*self._best(found.text_to_video), strict=True):
            colours = [SAME if found.right[video, query] else OTHER for video in best]
            tiles = framed(clips([found.numbers[video] for video in best]), colours)
            row = torch.cat(list(named(tiles, [_own(found, video) for video in best], OWN_LINES)), dim=2)
            # A gap, so that the next sentence does not seem to belong to these clips.
            rows += [
                _still(caption_band(found.texts[query], row.shape[2]), len(row)),
                F.pad(row, (0, 0, 0, 0, 0, SPACE), value=255),
            ]
        return torch.cat(rows, dim=1)

    def sentences(self, found: Retrieved, clips: Callable[[list[int]], Tensor]) -> Tensor:
        """Clips with their best sentences: uint8 [T, H, W, 3]; see `videos`."""
        rows = []
        for query, best in zip(*self._best(found.video_to_text), strict=True):
            tile = named(framed(clips([found.numbers[query]]), [QUERY]), [_own(found, query)], OWN_LINES)[0]
            lines = [(found.texts[text], SAME if found.right[query, text] else OTHER) for text in best]
            written = _still(write_lines(lines), len(tile))
            height = max(tile.shape[1], written.shape[1])
            parts = [F.pad(part, (0, 0, 0, 0, 0, height - part.shape[1]), value=255) for part in (tile, written)]
            rows.append(torch.cat(parts, dim=2))
        return torch.cat(rows, dim=1)

    def _best(self, scores: Tensor) -> tuple[list[int], list[list[int]]]:
        """The queries to show, and the top candidates of each."""
        queries = torch.linspace(0, len(scores) - 1, min(self.queries, len(scores))).round().long().tolist()
        best = scores[queries].topk(min(self.k, scores.shape[1]), dim=1).indices
        return queries, best.tolist()


def _own(found: Retrieved, video: int) -> str:
    """The first sentence that belongs to a video."""
    right = found.right[video].nonzero()
    return found.texts[int(right[0])] if len(right) else ""


def _still(picture: Tensor, frames: int) -> Tensor:
    """A picture repeated over frames: uint8 [H, W, 3] -> [T, H, W, 3]."""
    return picture.expand(frames, *picture.shape)


def write_lines(lines: list[tuple[str, tuple[int, int, int]]]) -> Tensor:
    """Sentences below each other in their colours: uint8 [20 n, 480, 3]; long ones are cut."""
    picture = Image.new("RGB", (LINE_WIDTH, LINE * len(lines)), "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for number, (text, colour) in enumerate(lines):
        canvas.text((6, number * LINE + 3), text, fill=colour, font=font)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, LINE_WIDTH, 3)

"""What a test of retrieval has found, as pictures: clips beside a sentence, and sentences beside a clip."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from callbacks.neighbours import OTHER, QUERY, SAME, framed
from callbacks.pictures import enlarge, png, write_picture
from modules.downstream.video_text_retrieval import Retrieved, VideoTextRetrieval
from modules.locomotion import caption_band

LINE_WIDTH, LINE = 480, 20


class RetrievedPictures(Callback):
    """Draws the best answers of a test of `VideoTextRetrieval`, both ways, in TensorBoard and in `<run>/pictures`.

    `found_videos`: a row is a sentence, and the middle frames of its best clips below, the best on the left; `found_sentences`:
    a clip's middle frame and its best sentences beside it, the best on top. Right ones are green, others red.

    Args:
        queries: rows of each picture, evenly picked.
        k: answers to each query.
    """

    def __init__(self, queries: int = 6, k: int = 5) -> None:
        self.queries, self.k = queries, k

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the clips that are shown, and draw."""
        if not isinstance(pl_module, VideoTextRetrieval) or pl_module.retrieved is None or not trainer.is_global_zero:
            return
        found, loader = pl_module.retrieved, trainer.test_dataloaders
        for name, picture in (("found_videos", self.videos(found, loader)), ("found_sentences", self.sentences(found, loader))):
            write_picture(trainer, name, trainer.global_step, "png", png(picture), picture.shape)

    def videos(self, found: Retrieved, loader: Any) -> Tensor:
        """Sentences with their best clips: uint8 [H, W, 3]."""
        rows = []
        for query, best in zip(*self._best(found.text_to_video), strict=True):
            colours = [SAME if found.right[video, query] else OTHER for video in best]
            tiles = framed(_middle(loader, [found.numbers[video] for video in best]), colours)[:, 0]
            row = torch.cat(list(tiles), dim=1)
            rows.append(torch.cat([caption_band(found.texts[query], row.shape[1]), row]))
        return torch.cat(rows)

    def sentences(self, found: Retrieved, loader: Any) -> Tensor:
        """Clips with their best sentences: uint8 [H, W, 3]."""
        rows = []
        for query, best in zip(*self._best(found.video_to_text), strict=True):
            tile = framed(_middle(loader, [found.numbers[query]]), [QUERY])[0, 0]
            lines = [(found.texts[text], SAME if found.right[query, text] else OTHER) for text in best]
            written = write_lines(lines)
            height = max(len(tile), len(written))
            parts = (torch.cat([part, part.new_full((height - len(part), *part.shape[1:]), 255)]) for part in (tile, written))
            rows.append(torch.cat(list(parts), dim=1))
        return torch.cat(rows)

    def _best(self, scores: Tensor) -> tuple[list[int], list[list[int]]]:
        """Some queries, and the best candidates of each."""
        queries = torch.linspace(0, len(scores) - 1, min(self.queries, len(scores))).round().long().tolist()
        best = scores[queries].topk(min(self.k, scores.shape[1]), dim=1).indices
        return queries, best.tolist()


def _middle(loader: Any, numbers: list[int]) -> Tensor:
    """Middle frames of the first clips of some samples: uint8 [B, 1, H, W, 3], enlarged."""
    clips = loader.read(0, numbers)["video"][:, 0]
    return enlarge(clips[:, clips.shape[1] // 2][:, None])


def write_lines(lines: list[tuple[str, tuple[int, int, int]]]) -> Tensor:
    """Sentences below each other in their colours: uint8 [20 n, 480, 3]; what is too long is cut."""
    picture = Image.new("RGB", (LINE_WIDTH, LINE * len(lines)), "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for number, (text, colour) in enumerate(lines):
        canvas.text((6, number * LINE + 3), text, fill=colour, font=font)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, LINE_WIDTH, 3)

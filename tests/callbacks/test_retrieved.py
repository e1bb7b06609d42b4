"""Pictures of a test of retrieval: the best results, coloured by correctness."""

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor

from callbacks import RetrievedPictures
from callbacks.neighbours import FRAME, OTHER, QUERY, SAME, draw
from callbacks.retrieved import OWN_LINES, SPACE
from modules.downstream.video_text_retrieval import RerankSettings, Retrieved
from modules.layers.drawing.streams import LINE
from tests.callbacks.runs import make_trainer
from tests.downstream.test_video_text_retrieval import motion, tiny
from tests.registry import SIDE

TILE, BAND = 112 // SIDE * SIDE + 2 * FRAME, 48
NAME = OWN_LINES * LINE


def test_both_pictures_are_written(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = make_trainer(tmp_path, [RetrievedPictures(queries=4, k=3)], logger=logger)
    trainer.test(tiny(rerank=RerankSettings(3)), datamodule=motion(3), verbose=False)
    videos, sentences = (Image.open(tmp_path / f"pictures/0000000_found_{name}.png") for name in ("videos", "sentences"))
    assert videos.size == (3 * TILE, 4 * (TILE + BAND + NAME + SPACE))
    assert sentences.size == (TILE + 480, 4 * (TILE + NAME))
    for still, name in ((videos, "videos"), (sentences, "sentences")):
        moving = Image.open(tmp_path / f"pictures/0000000_found_{name}_video.gif")
        assert moving.n_frames > 1  # type: ignore[attr-defined]
        assert moving.size[0] >= still.size[0]
    assert b"pictures/found_videos" in next(tmp_path.glob("events*")).read_bytes()


def test_best_answers_come_first_and_have_their_colour() -> None:
    data = motion(3)
    data.setup("test")
    scores = torch.eye(6)
    scores[0], scores[0, 4], scores[0, 2] = torch.zeros(6), 2, 1
    texts = [f"sentence {number}" for number in range(6)]
    found = Retrieved(scores, scores, torch.eye(6, dtype=torch.bool), texts, list(range(6)))
    drawn, loader = RetrievedPictures(queries=2, k=2), data.test_dataloader()

    def clips(numbers: list[int]) -> Tensor:
        return draw(loader.read(0, numbers).stream("video"), drawn.frames)

    film = drawn.videos(found, clips).numpy()
    picture = film[len(film) // 2]
    # Sentence 0 finds clips 4 and 2, sentence 5 finds itself first.
    corners = [tuple(picture[BAND, 0]), tuple(picture[BAND, TILE]), tuple(picture[2 * BAND + TILE + NAME + SPACE, 0])]
    assert corners == [OTHER, OTHER, SAME]
    clip = data._pools["test"].video
    for column, number in ((0, 4), (1, 2)):
        inside = picture[BAND + FRAME : BAND + TILE - FRAME, column * TILE + FRAME : (column + 1) * TILE - FRAME]
        middle = clip[number, 0, clip.shape[2] // 2].numpy()
        assert np.array_equal(inside, middle.repeat(112 // SIDE, 0).repeat(112 // SIDE, 1))
    beside = drawn.sentences(found, clips).numpy()[0]
    assert tuple(beside[0, 0]) == QUERY
    right = np.abs(beside[TILE + NAME : TILE + NAME + 20, TILE:].astype(int) - SAME).sum(-1).min()
    wrong = np.abs(beside[:40, TILE:].astype(int) - SAME).sum(-1).min()
    assert right < 30 < wrong

"""Neighbours have the nearest features, and their frames show whether their class is correct."""

import io
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from callbacks import Neighbours
from callbacks.neighbours import FRAME, OTHER, QUERY, SAME, as_long, draw, framed, named
from callbacks.pictures import VISIBLE_SIDE
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.skeleton.clips import SkeletonClipSettings
from modules.core.batch import Batch, Stream
from modules.layers.drawing.sheet import TILE as SHEET_TILE
from modules.layers.drawing.sheet import tile
from modules.layers.drawing.streams import LINE, shortened, write
from tests.callbacks.runs import Pixels, data, fit
from tests.registry import FRAMES, METHODS, SIDE, skeleton_batch, video_batch

TILE = VISIBLE_SIDE // SIDE * SIDE + 2 * FRAME


class Halves(Pixels):
    """Features that distinguish the first half of the classes from the second."""

    def embed(self, batch: Batch) -> Tensor:
        return torch.stack([batch.label < 6, batch.label >= 6], dim=1).float()


def still(folder: Path) -> Tensor:
    (path,) = (folder / "pictures").glob("*_neighbours.png")
    with Image.open(path) as picture:
        return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(picture.height, picture.width, 3)


def test_clips_are_drawn_and_framed() -> None:
    clips = video_batch(2).stream("video")
    videos = draw(clips, 3)
    assert videos.shape == (2, 3, VISIBLE_SIDE // SIDE * SIDE, VISIBLE_SIDE // SIDE * SIDE, 3)
    assert torch.equal(
        videos[:, 0, :: VISIBLE_SIDE // SIDE, :: VISIBLE_SIDE // SIDE], video_batch(2).stream("video").data[:, 0, 0]
    )
    figures = draw(skeleton_batch(2).stream("skeleton"), 16)
    assert figures.shape == (2, FRAMES, VISIBLE_SIDE, VISIBLE_SIDE, 3)
    result = framed(figures, [SAME, OTHER])
    assert torch.equal(result[:, :, FRAME:-FRAME, FRAME:-FRAME], figures)
    for clip, colour in zip(result, (SAME, OTHER), strict=True):
        for edge in (clip[:, :FRAME], clip[:, -FRAME:], clip[:, :, :FRAME], clip[:, :, -FRAME:]):
            assert (edge == torch.tensor(colour)).all()


def test_rows_are_queries_and_frames_tell_right_from_wrong(tmp_path: Path) -> None:
    module = data()
    logger = TensorBoardLogger(tmp_path, name=None, version="tb")
    fit(Halves(), tmp_path, [Neighbours(every_n_epochs=2, clips=3, k=4)], module, logger=logger)
    picture = still(tmp_path)
    assert picture.shape == (3 * (TILE + LINE), 5 * TILE, 3)
    corners = picture[:: TILE + LINE, ::TILE]
    assert (corners[:, 0] == torch.tensor(QUERY)).all()
    labels = module.val_dataloader().dataset.label[[0, 6, 12]]
    train = module.probe_dataloader().dataset
    names = module.class_names
    factor = VISIBLE_SIDE // SIDE
    for row in range(3):
        for column in range(1, 5):
            top, left = row * (TILE + LINE) + FRAME, column * TILE + FRAME
            shown = picture[top : top + factor * SIDE : factor, left : left + factor * SIDE : factor]
            # The neighbour is the displayed training clip.
            (number,) = (train.video[:, 0, FRAMES // 2] == shown).flatten(1).all(1).nonzero()[:1].flatten().tolist()
            label = train.label[number]
            assert (label < 6) == (labels[row] < 6)
            below = picture[top + factor * SIDE + FRAME :][:LINE, left - FRAME :][:, :TILE]
            assert torch.equal(below, write([shortened(f"1.00 {names[label]}", TILE - 2)], TILE))
            expected = SAME if label == labels[row] else OTHER
            assert corners[row, column].tolist() == list(expected)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert set(events.Tags()["images"]) == {"pictures/neighbours", "pictures/neighbours_video"}
    (image,) = events.Images("pictures/neighbours_video")
    with Image.open(io.BytesIO(image.encoded_image_string)) as film:
        assert film.n_frames == FRAMES


def test_skeletons(tmp_path: Path) -> None:
    module = SyntheticSkeleton(SkeletonClipSettings(FRAMES, 2), 8, train_clips=8, val_clips=4)
    case = next(case for case in METHODS if case.name == "SkeletonContrast")
    fit(case.build(), tmp_path, [Neighbours(every_n_epochs=1, clips=2, k=3)], module, epochs=1)
    assert still(tmp_path).shape == (2 * (VISIBLE_SIDE + 2 * FRAME + LINE), 4 * (VISIBLE_SIDE + 2 * FRAME), 3)


def test_training_ends_with_a_picture(tmp_path: Path) -> None:
    fit(Halves(), tmp_path, [Neighbours(every_n_epochs=10, clips=2, k=3)], epochs=1)
    assert still(tmp_path).shape == (2 * (TILE + LINE), 4 * TILE, 3)
    assert (tmp_path / "pictures/0000003_neighbours.png").is_file()


DRAWN = {
    "depth": Stream("depth", torch.full((2, 1, 8, 16, 16, 1), 900, dtype=torch.int32).to(torch.uint16)),
    "flow": Stream("flow", torch.ones(2, 1, 8, 12, 16, 2)),
    "audio": Stream("audio", torch.rand(2, 1, 1, 4000)),
    "signal": Stream("signal", torch.rand(2, 1, 6, 50)),
    "feature": Stream("feature", torch.rand(2, 1, 32)),
    "picture": Stream("picture", torch.zeros(2, 1, 20, 30, 3, dtype=torch.uint8)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_streams_of_other_kinds_are_drawn(name: str) -> None:
    stream = DRAWN[name]
    clips = draw(stream, 3)
    assert clips.shape == (2, 3 if name in ("depth", "flow") else 1, SHEET_TILE, SHEET_TILE, 3)
    assert torch.equal(clips[1], tile(stream, 1, 3))
    assert (clips != 255).any()


def test_shorter_clips_stay_at_their_end() -> None:
    stream = Stream("depth", DRAWN["depth"].data, length=torch.tensor([8, 2]))
    clips = draw(stream, 4)
    assert len(clips[0]) == 4
    assert torch.equal(clips[1, 1], clips[1, 3])
    one, other = as_long([torch.zeros(1, 2, 4, 4, 3), torch.ones(3, 1, 4, 4, 3)])
    assert one.shape[1] == other.shape[1] == 2


def test_names_are_below_their_clips() -> None:
    clips = torch.zeros(2, 3, 40, 60, 3, dtype=torch.uint8)
    result = named(clips, ["walk", "a name that is far too long to be written here"])
    assert torch.equal(result[:, :, :40], clips)
    assert result.shape == (2, 3, 40 + LINE, 60, 3)
    assert torch.equal(result[0, 0, 40:], write(["walk"], 60))
    assert torch.equal(result[1, 2, 40:], write([shortened("a name that is far too long to be written here", 58)], 60))
    two = named(clips, ["walk", "run and jump over the fence and away"], lines=2)
    assert torch.equal(two[0, 0, 40:], write(["walk", ""], 60))
    assert two.shape[2] == 40 + 2 * LINE

"""Pictures can be opened, have the right size, and reach TensorBoard."""

import io
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import Pictures
from callbacks.pictures import GAP, VISIBLE_SIDE, enlarge, film_strip, gif, png
from tests.callbacks.runs import Oracle, data, fit, videomae
from tests.registry import FRAMES, SIDE

FACTOR = VISIBLE_SIDE // SIDE
TILE = SIDE * FACTOR + 2 * GAP
NAMES = ("clip", "visible", "reconstruction")


def moving(clips: int = 2) -> torch.Tensor:
    """Every pixel changes in every frame, so that no encoder can drop one."""
    return torch.randint(0, 256, (clips, FRAMES, 16, 24, 3), dtype=torch.uint8)


def test_film_strip_has_clips_as_rows_and_frames_as_columns() -> None:
    video = moving()
    # The longer side decides the factor: 112 // 24 = 4.
    height, width = 16 * 4 + 2 * GAP, 24 * 4 + 2 * GAP
    strip = film_strip(video)
    assert strip.shape == (2 * height, FRAMES * width, 3)
    for clip, frame in ((0, 0), (1, 2)):
        tile = strip[clip * height : (clip + 1) * height, frame * width : (frame + 1) * width]
        assert (tile[:GAP] == 255).all()
        assert (tile[:, -GAP:] == 255).all()
        assert torch.equal(tile[GAP:-GAP:4, GAP:-GAP:4], video[clip, frame])


def test_large_videos_are_not_enlarged() -> None:
    video = torch.zeros(1, 2, 80, 130, 3, dtype=torch.uint8)
    assert enlarge(video).shape == video.shape


def test_png_is_lossless_and_gif_has_all_frames() -> None:
    video = moving()
    strip = film_strip(video)
    picture = torch.frombuffer(bytearray(Image.open(io.BytesIO(png(strip))).tobytes()), dtype=torch.uint8)
    assert torch.equal(picture.reshape(strip.shape), strip)
    film = Image.open(io.BytesIO(gif(video, frame_ms=50)))
    assert film.n_frames == FRAMES
    assert film.info["duration"] == 50
    assert film.size == (2 * (24 * 4 + 2 * GAP), 16 * 4 + 2 * GAP)


def test_files_and_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name=None, version="tb")
    # Six steps: drawn at the first, the fourth; never twice.
    fit(videomae(), tmp_path, [Pictures(every_n_steps=4, clips=3)], logger=logger)
    folder = tmp_path / "pictures"
    files = {f"{step:07d}_{name}{kind}" for step in (1, 4) for name in NAMES for kind in (".png", "_video.gif")}
    assert {path.name for path in folder.iterdir()} == files
    with Image.open(folder / "0000001_clip.png") as picture:
        assert picture.size == (FRAMES * TILE, 3 * TILE)
    with Image.open(folder / "0000004_reconstruction_video.gif") as film:
        assert film.size == (3 * TILE, TILE)
        assert film.n_frames == FRAMES
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert set(events.Tags()["images"]) == {f"pictures/{name}{kind}" for name in NAMES for kind in ("", "_video")}
    for tag in events.Tags()["images"]:
        images = events.Images(tag)
        assert [image.step for image in images] == [1, 4]
        for image in images:
            with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
                picture.load()
                assert picture.size == (image.width, image.height)


def test_the_first_batches_of_an_accumulated_step_are_not_drawn(tmp_path: Path) -> None:
    # Three batches make one and a half steps per epoch; Lightning steps at the end of an epoch too.
    fit(Oracle(), tmp_path, [Pictures(every_n_steps=2)], accumulate_grad_batches=2, epochs=1)
    drawn = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert drawn == {f"{step:07d}_clip{kind}" for step in (1, 2) for kind in (".png", "_video.gif")}


@pytest.mark.parametrize("settings", [{"fast_dev_run": 2}, {"limit_train_batches": 0}])
def test_nothing_is_written_without_a_run(tmp_path: Path, settings: dict[str, int]) -> None:
    fit(videomae(), tmp_path, [Pictures(every_n_steps=1)], data(), **settings)
    assert list(tmp_path.iterdir()) == []

"""The streams of the first validation samples are drawn once, without any effect on training."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from callbacks import StreamSheet
from callbacks.stream_sheet import side_by_side
from datamodules.generated.skeleton import SyntheticSkeleton
from datamodules.loading.loader import ResumableLoader
from datamodules.settings import LoadSettings
from datamodules.skeleton.clips import SkeletonClipSettings
from modules.core.undocumented import FitCounts
from modules.layers.drawing.sheet import film, sheet
from tests.callbacks.runs import STEPS, StopAfter, data, fit, make_trainer, videomae
from tests.registry import FRAMES, METHODS

SAMPLES = 3


def picture(path: Path) -> Tensor:
    with Image.open(path) as opened:
        return torch.frombuffer(bytearray(opened.tobytes()), dtype=torch.uint8).reshape(opened.height, opened.width, 3)


def test_one_sheet_and_one_moving_picture_of_the_first_validation_samples(tmp_path: Path) -> None:
    module = data()
    logger = TensorBoardLogger(tmp_path, name=None, version="tb")
    fit(videomae(), tmp_path, [StreamSheet(samples=SAMPLES, columns=3)], module, logger=logger)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"0000000_streams.png", "0000000_streams_video.gif"}
    batch = next(iter(module.val_dataloader()))
    expected = torch.cat([sheet(batch, row, columns=3) for row in range(SAMPLES)], dim=1)
    assert torch.equal(picture(tmp_path / "pictures/0000000_streams.png"), expected)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert set(events.Tags()["images"]) == {"pictures/streams", "pictures/streams_video"}
    (still,) = events.Images("pictures/streams")
    assert (still.height, still.width) == expected.shape[:2]
    (moving,) = events.Images("pictures/streams_video")
    with Image.open(io.BytesIO(moving.encoded_image_string)) as opened:
        assert opened.n_frames == FRAMES
        assert opened.size == (moving.width, moving.height)


def trained(folder: Path, callbacks: list[Any], workers: int = 0) -> dict[str, Tensor]:
    """Weights, losses, data positions and random numbers of a run that was stopped and resumed."""
    seen: dict[str, Tensor] = {}
    for part, stop in enumerate((STEPS + 1, 2 * STEPS)):
        module = data()
        # The shared default settings must not change.
        module.reading = LoadSettings(workers)
        method, trainer = videomae(), make_trainer(folder, [*callbacks, StopAfter(stop)])
        torch.manual_seed(5)
        trainer.fit(method, datamodule=module, ckpt_path=folder / "half.ckpt" if part else None)
        trainer.save_checkpoint(folder / "half.ckpt")
        seen |= {f"{part} {name}": value.clone() for name, value in method.state_dict().items()}
        seen[f"{part} loss"] = trainer.callback_metrics["loss"] if "loss" in trainer.callback_metrics else torch.zeros(())
        seen[f"{part} generator"] = torch.get_rng_state()
        state = module.state_dict()["loader"]
        seen[f"{part} place"] = torch.tensor([state["epoch"], state["samples"], FitCounts(trainer).in_all])
    return seen


@pytest.mark.parametrize("workers", [0, 1])
def test_no_weight_draw_or_place_in_the_data_changes(tmp_path: Path, workers: int) -> None:
    without = trained(tmp_path / "without", [], workers)
    drawn = trained(tmp_path / "drawn", [StreamSheet(samples=1)], workers)
    assert without.keys() == drawn.keys()
    for name, value in without.items():
        assert torch.equal(value, drawn[name]), name
    # A resumed run draws again, at the step where it resumes.
    names = {path.name for path in (tmp_path / "drawn/pictures").glob("*.png")}
    assert names == {f"{step:07d}_streams.png" for step in (0, STEPS + 1)}


def test_skeletons_without_a_video(tmp_path: Path) -> None:
    module = SyntheticSkeleton(SkeletonClipSettings(FRAMES, 2), 8, train_clips=8, val_clips=4)
    case = next(case for case in METHODS if case.name == "SkeletonContrast")
    fit(case.build(), tmp_path, [StreamSheet(samples=9)], module, epochs=1)
    drawn = picture(tmp_path / "pictures/0000000_streams.png")
    assert torch.equal(
        drawn[:, -sheet(next(iter(module.val_dataloader())), 3).shape[1] :], sheet(next(iter(module.val_dataloader())), 3)
    )


class NoValidation(type(data())):  # type: ignore[misc]
    """Generated clips of which none are for validation."""

    def val_dataloader(self) -> list[ResumableLoader]:  # type: ignore[override]
        return []


def test_training_samples_where_there_is_no_validation(tmp_path: Path) -> None:
    module = NoValidation(data().clip, 8, train_videos=24, val_videos=8)
    fit(videomae(), tmp_path, [StreamSheet(samples=1)], module, epochs=1)
    expected = sheet(next(iter(module.probe_dataloader())), 0)
    assert torch.equal(picture(tmp_path / "pictures/0000000_streams.png"), expected)


def test_nothing_is_written_in_a_trial_run(tmp_path: Path) -> None:
    fit(videomae(), tmp_path, [StreamSheet()], fast_dev_run=1)
    assert list(tmp_path.iterdir()) == []


def test_films_of_unequal_size_and_length() -> None:
    short, long = torch.zeros(2, 3, 5, 3, dtype=torch.uint8), torch.ones(4, 6, 7, 3, dtype=torch.uint8)
    short[1] = 9
    joined = side_by_side([short, long])
    assert joined.shape == (4, 6, 12, 3)
    assert joined[:, 0, 0, 0].tolist() == [0, 9, 9, 9]
    assert (joined[:, 3:, :5] == 255).all()
    assert (joined[:, :, 5:] == 1).all()


def test_moving_pictures_begin_with_the_first_frame() -> None:
    batch = next(iter(data().val_dataloader()))
    assert not torch.equal(film(batch)[0], film(batch)[-1])

"""Pictures can be opened, have the right size, and reach TensorBoard."""

import io
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import Pictures
from callbacks.pictures import GAP, NEAR, PLAIN, VISIBLE_SIDE, enlarge, film_strip, gif, png
from modules.layers.drawing.before_after import BETWEEN, below, beside
from modules.layers.drawing.clips import BAND, BORROWED
from modules.layers.targets import PixelTarget
from tests.callbacks.runs import Oracle, StopAfter, data, fit, make_trainer, videomae
from tests.registry import FRAMES, METHODS, SIDE, Case

FACTOR = VISIBLE_SIDE // SIDE
TILE = SIDE * FACTOR + 2 * GAP
NAMES = ("clip", "visible", "reconstruction")


def moving(clips: int = 2) -> torch.Tensor:
    """Every pixel changes in every frame, so that no encoder can drop one."""
    return torch.randint(0, 256, (clips, FRAMES, 16, 24, 3), dtype=torch.uint8)


def test_film_strip_has_clips_as_rows_and_frames_as_columns() -> None:
    video = moving()
    # The longer side determines the factor: 112 // 24 = 4.
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
    # Six steps: drawn at the first, the fourth and the last; never twice.
    fit(videomae(), tmp_path, [Pictures(every_n_steps=4, clips=3)], logger=logger)
    folder = tmp_path / "pictures"
    files = {f"{step:07d}_{name}{kind}" for step in (1, 4, 6) for name in NAMES for kind in (".png", "_video.gif")}
    assert {path.name for path in folder.iterdir()} == files | {"before_after.png"}
    with Image.open(folder / "0000001_clip.png") as picture:
        assert picture.size == (FRAMES * TILE, 3 * TILE)
    with Image.open(folder / "0000001_reconstruction.png") as picture:
        assert picture.size == (FRAMES * TILE, BAND + 3 * TILE), "it says what it borrows"
    with Image.open(folder / "0000004_reconstruction_video.gif") as film:
        assert film.size == (3 * TILE, BAND + TILE)
        assert film.n_frames == FRAMES
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    tags = {f"pictures/{name}{kind}" for name in NAMES for kind in ("", "_video")}
    assert set(events.Tags()["images"]) == tags | {"pictures/before_after"}
    for tag in tags:
        images = events.Images(tag)
        assert [image.step for image in images] == [1, 4, 6]
        for image in images:
            with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
                picture.load()
                assert picture.size == (image.width, image.height)


def test_the_first_batches_of_an_accumulated_step_are_not_drawn(tmp_path: Path) -> None:
    # Three batches make one and a half steps per epoch; Lightning also steps at the end of an epoch.
    fit(Oracle(), tmp_path, [Pictures(every_n_steps=2)], accumulate_grad_batches=2, epochs=1)
    drawn = {path.name for path in (tmp_path / "pictures").glob("0*")}
    assert drawn == {f"{step:07d}_clip{kind}" for step in (1, 2) for kind in (".png", "_video.gif")}


@pytest.mark.parametrize("settings", [{"fast_dev_run": 2}, {"limit_train_batches": 0}])
def test_nothing_is_written_without_a_run(tmp_path: Path, settings: dict[str, int]) -> None:
    fit(videomae(), tmp_path, [Pictures(every_n_steps=1)], data(), **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_short_run_ends_with_pictures_of_its_last_step(tmp_path: Path) -> None:
    # Stopped within an epoch, or by early stopping after a validation: the last step is not known in advance.
    fit(Oracle(), tmp_path / "stopped", [StopAfter(2), Pictures(500)])
    fit(Oracle(), tmp_path / "steps", [Pictures(500)], max_steps=5)
    for name, step in (("stopped", 2), ("steps", 5)):
        assert (tmp_path / name / f"pictures/{step:07d}_clip.png").is_file()


class NoWandb(WandbLogger):
    """W&B's logger without W&B, which records pictures."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, int]] = []

    name = version = "fake"
    save_dir = experiment = None

    def log_metrics(self, *_: object, **__: object) -> None: ...
    def log_hyperparams(self, *_: object, **__: object) -> None: ...
    def log_graph(self, *_: object, **__: object) -> None: ...
    def after_save_checkpoint(self, *_: object) -> None: ...
    def save(self) -> None: ...
    def finalize(self, status: str) -> None: ...

    def log_image(self, key: str, images: list[str], step: int | None = None, **_: object) -> None:
        self.shown += [(key, Path(one).suffix, step or 0) for one in images if Path(one).is_file()]

    log_video = log_image


def test_wandb_and_csv(tmp_path: Path) -> None:
    wandb = NoWandb()
    fit(videomae(), tmp_path, [Pictures(500)], epochs=1, logger=[wandb, CSVLogger(tmp_path, name=None)])
    kinds = (("", ".png"), ("_video", ".gif"))
    expected = {(f"pictures/{name}{kind}", suffix, step) for name in NAMES for kind, suffix in kinds for step in (1, 3)}
    assert set(wandb.shown) == expected | {("pictures/before_after", ".png", 3)}
    assert (tmp_path / "pictures/0000003_clip.png").is_file()


@pytest.mark.parametrize("case", METHODS, ids=lambda case: case.name)
def test_looking_at_a_method_changes_nothing_of_it(case: Case, tmp_path: Path) -> None:
    method, callback = case.build(), Pictures()
    trainer = make_trainer(tmp_path, [], limit_train_batches=1, limit_val_batches=1, epochs=1)
    trainer.fit(method, datamodule=case.data(4, 8, 6))
    before, state = {name: value.clone() for name, value in method.state_dict().items()}, torch.get_rng_state()
    first, second = (callback._look(trainer, method) for _ in range(2))
    # Sequences of features are neither drawn before and after training nor compared.
    assert first.keys() >= (set() if case.sequences else {PLAIN, NEAR, *list(first)[:1]})
    assert torch.equal(state, torch.get_rng_state())
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, video in first.items():
        assert video.dtype == torch.uint8
        assert video.ndim == 5
        assert torch.equal(video, second[name]), f"other random numbers: {name}"


def test_before_and_after(tmp_path: Path) -> None:
    weights = []
    for name, callbacks in (("with", [Pictures(clips=2)]), ("without", [])):
        method = videomae()
        fit(method, tmp_path / name, callbacks)
        weights.append(method.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    with Image.open(tmp_path / "with/pictures/before_after.png") as picture:
        whole, size = picture.tobytes(), picture.size
    rows = 2 * TILE + BAND + BETWEEN
    # Reconstructions before and after, next to the clip and its visible part; below are the nearest clips, if they changed.
    assert size[0] == 4 * (FRAMES * TILE + BETWEEN)
    assert size[1] in (rows, 2 * rows)

    def run(stop: int, path: Path | None, seed: int = 0) -> None:
        lightning.seed_everything(3)
        callbacks = [Pictures(clips=2), StopAfter(stop), ModelCheckpoint(tmp_path / "again", save_last=True)]
        trainer = make_trainer(tmp_path / "again", callbacks, enable_checkpointing=True)
        trainer.fit(videomae(seed), datamodule=data(), ckpt_path=path, weights_only=True if path else None)

    # After resuming, with other initial weights, it is the same picture.
    run(3, None)
    run(6, tmp_path / "again/last.ckpt", seed=7)
    with Image.open(tmp_path / "again/pictures/before_after.png") as picture:
        assert picture.tobytes() == whole


def test_columns_stand_under_their_titles() -> None:
    low, high = moving(), torch.zeros(2, 1, 20, 10, 3, dtype=torch.uint8)
    picture = beside({"low": low, "high": high})
    height = 20 + 2 * GAP
    assert picture.shape == (BAND + 2 * height, FRAMES * (24 + 2 * GAP) + BETWEEN + 10 + 2 * GAP + BETWEEN, 3)
    top = BAND + height + GAP
    assert torch.equal(picture[top : top + 16, GAP : GAP + 24], low[1, 0])
    assert below([picture, picture[:, :50]]).shape == (2 * len(picture) + 2 * BETWEEN, picture.shape[1], 3)


def test_only_what_is_borrowed_is_said() -> None:
    method = videomae()
    assert method.picture_notes() == {"reconstruction": BORROWED}
    method.target = PixelTarget(normalise=False)
    assert method.picture_notes() == {}

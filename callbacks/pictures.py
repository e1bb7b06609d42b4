"""What the method sees and predicts, as pictures in TensorBoard and as files in the run's folder."""

import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor

from modules.core.batch import Batch
from modules.core.errors import check_positive
from modules.core.run import run_of
from modules.core.undocumented import write_image
from modules.training.method import Method

# Tiny clips are enlarged until a frame has this many pixels per side, so that one can see something.
VISIBLE_SIDE = 112
GAP = 2


def enlarge(video: Tensor) -> Tensor:
    """Repeat pixels of small videos: uint8 [B, T, H, W, 3] -> the same, larger by a whole factor."""
    factor = max(1, VISIBLE_SIDE // max(video.shape[2:4]))
    return video.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def film_strip(video: Tensor) -> Tensor:
    """One picture of a batch: a row per clip, a column per frame. uint8 [B, T, H, W, 3] -> [H', W', 3]."""
    padded = F.pad(enlarge(video), (0, 0, GAP, GAP, GAP, GAP), value=255)
    return padded.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)


def gif(video: Tensor, frame_ms: int = 120) -> bytes:
    """Animated GIF of a batch, its clips side by side: uint8 [B, T, H, W, 3] -> bytes."""
    padded = F.pad(enlarge(video), (0, 0, GAP, GAP, GAP, GAP), value=255)
    frames = [Image.fromarray(frame.numpy()) for frame in padded.permute(1, 2, 0, 3, 4).flatten(2, 3)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0)
    return stream.getvalue()


def png(picture: Tensor) -> bytes:
    """uint8 [H, W, 3] -> bytes."""
    stream = io.BytesIO()
    Image.fromarray(picture.numpy()).save(stream, "PNG")
    return stream.getvalue()


def write_picture(trainer: Trainer, name: str, step: int, suffix: str, content: bytes, shape: torch.Size) -> None:
    """Write a picture to `<run>/pictures` and to TensorBoard; in a trial run to TensorBoard alone.

    Args:
        trainer: knows the folder and the loggers.
        name: of the picture.
        step: optimiser step that it belongs to.
        suffix: png or gif.
        content: of the file.
        shape: height and width in pixels come first.
    """
    if not run_of(trainer).fast_dev_run:
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{step:07d}_{name}.{suffix}").write_bytes(content)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            write_image(logger, f"pictures/{name}", step, content, shape[0], shape[1])


def write_film(trainer: Trainer, name: str, step: int, film: Tensor) -> None:
    """Write uint8 [T, H, W, 3] with `write_picture`: its middle frame, and all that moves as `<name>_video`."""
    still = film[len(film) // 2]
    write_picture(trainer, name, step, "png", png(still), still.shape)
    if len(film) > 1:
        write_picture(trainer, f"{name}_video", step, "gif", gif(film[None]), still.shape)


class Pictures(Callback):
    """Draws what `pictures` of the method returns: film strips (PNG) and moving pictures (GIF).

    They are in TensorBoard under Images and in `<run>/pictures`.

    Args:
        every_n_steps: draw at the first step and every n optimiser steps.
        clips: clips of the batch to draw.
    """

    def __init__(self, every_n_steps: int = 500, clips: int = 4) -> None:
        check_positive("Pictures", every_n_steps=every_n_steps, clips=clips)
        self.every_n_steps, self.clips = every_n_steps, clips
        self._drawn_at = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Draw if it is time."""
        step = trainer.global_step
        due = step == 1 or (step > 0 and step % self.every_n_steps == 0)
        if not due or step == self._drawn_at or not trainer.is_global_zero or not isinstance(pl_module, Method):
            return
        self._drawn_at = step
        for name, video in pl_module.pictures(outputs).items():
            shown = video[: self.clips].cpu()
            write_picture(trainer, name, step, "png", png(film_strip(shown)), film_strip(shown).shape)
            if shown.shape[1] > 1:
                write_picture(trainer, f"{name}_video", step, "gif", gif(shown), film_strip(shown[:, :1].transpose(0, 1)).shape)

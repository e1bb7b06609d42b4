"""Pictures of a method's inputs and predictions, in the run's folder and in TensorBoard or W&B."""

import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from modules.core.batch import SEQUENCE_AXIS, Batch, Stream
from modules.core.device import evaluating
from modules.core.errors import check_positive
from modules.core.randomness import device_generator
from modules.core.run import run_of
from modules.core.undocumented import write_image
from modules.layers.drawing.before_after import below, beside, pick
from modules.layers.drawing.clips import caption_band
from modules.layers.drawing.skeletons import draw_skeletons
from modules.training.method import VAL_STREAM, Method
from modules.training.sharding import is_sharded

# Tiny clips are enlarged for display until a frame has at least this many pixels per side.
VISIBLE_SIDE = 112
GAP = 2
BEFORE_AFTER_FRAMES = 4
PLAIN, NEAR = "validation clip", "nearest validation clips"
COMPARED, NEAREST = 32, 3
"""Number of samples in the neighbour search before and after training, and how many of them are drawn."""


def enlarge(video: Tensor) -> Tensor:
    """Repeat pixels of small videos: uint8 [B, T, H, W, 3] -> the same, larger by an integer factor."""
    factor = max(1, VISIBLE_SIDE // max(video.shape[2:4]))
    return video.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def film_strip(video: Tensor, note: str | None = None) -> Tensor:
    """One picture of a batch: a row per clip, a column per frame, a note on top. uint8 [B, T, H, W, 3] -> [H', W', 3]."""
    padded = F.pad(enlarge(video), (0, 0, GAP, GAP, GAP, GAP), value=255)
    strip = padded.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    return strip if note is None else torch.cat([caption_band(note, strip.shape[1]), strip])


def gif(video: Tensor, frame_ms: int = 120, note: str | None = None) -> bytes:
    """Animated GIF of a batch, its clips side by side, a note on top: uint8 [B, T, H, W, 3] -> bytes."""
    padded = F.pad(enlarge(video), (0, 0, GAP, GAP, GAP, GAP), value=255)
    film = padded.permute(1, 2, 0, 3, 4).flatten(2, 3)
    if note is not None:
        film = torch.cat([caption_band(note, film.shape[2]).expand(len(film), -1, -1, -1), film], dim=1)
    frames = [Image.fromarray(frame.numpy()) for frame in film]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0)
    return stream.getvalue()


def png(picture: Tensor) -> bytes:
    """uint8 [H, W, 3] -> bytes."""
    stream = io.BytesIO()
    Image.fromarray(picture.numpy()).save(stream, "PNG")
    return stream.getvalue()


def write_picture(trainer: Trainer, name: str, step: int, suffix: str, content: bytes) -> None:
    """Write a picture to `<run>/pictures`, and show it in TensorBoard or W&B; in a trial run only in TensorBoard.

    Args:
        trainer: trainer with the folder and the loggers.
        name: name of the picture.
        step: optimiser step of the picture.
        suffix: png or gif.
        content: content of the file.
    """
    path = Path(trainer.default_root_dir) / "pictures" / f"{step:07d}_{name}.{suffix}"
    if not run_of(trainer).fast_dev_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    show_picture(trainer, name, step, path, content)


def show_picture(trainer: Trainer, name: str, step: int, path: Path, content: bytes) -> None:
    """Pass a picture file to the loggers that show pictures; see `write_picture`."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            with Image.open(io.BytesIO(content)) as picture:
                write_image(logger, f"pictures/{name}", step, content, picture.height, picture.width)
        elif isinstance(logger, WandbLogger):
            show = logger.log_video if path.suffix == ".gif" else logger.log_image
            show(f"pictures/{name}", [str(path)], step=step)


def write_film(trainer: Trainer, name: str, step: int, film: Tensor) -> None:
    """Write uint8 [T, H, W, 3] with `write_picture`: its middle frame as `<name>`, and the GIF as `<name>_video`."""
    write_picture(trainer, name, step, "png", png(film[len(film) // 2]))
    if len(film) > 1:
        write_picture(trainer, f"{name}_video", step, "gif", gif(film[None]))


class Pictures(Callback):
    """Draws the clips that the method's `pictures` returns, as film strips (PNG) and GIFs.

    They are in `<run>/pictures`, and in TensorBoard under Images or in W&B. At the end of training, `before_after.png` shows
    the method's predictions for the same validation clips, with the same random draws, before and after training, and the
    nearest of some validation clips for each (cosine of `embed`). It is for pretraining methods on videos or skeletons, and
    is kept when a run resumes.

    Args:
        every_n_steps: draw at the first step, every n optimiser steps, and at the last step.
        clips: clips of the batch to draw.
    """

    def __init__(self, every_n_steps: int = 500, clips: int = 4) -> None:
        check_positive("Pictures", every_n_steps=every_n_steps, clips=clips)
        self.every_n_steps, self.clips = every_n_steps, clips
        self._drawn_at = -1
        self._last: Any = None
        """Output of the latest step, which may be the last one."""
        self._before: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the untrained network's predictions; a resumed run restores them."""
        if trainer.global_step == 0:
            self._before = self._look(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Discard the previous output: it was not the last step."""
        self._last = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Draw if pictures are due."""
        step = trainer.global_step
        if step == 1 or (step > 0 and step % self.every_n_steps == 0):
            self._draw(trainer, pl_module, outputs)
        if trainer.is_last_batch or trainer.should_stop or step == trainer.max_steps:
            self._last = outputs

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last step, and the comparison before and after training."""
        if self._last is not None:
            self._draw(trainer, pl_module, self._last)
            self._last = None
        if self._before:
            after = self._look(trainer, pl_module)
            if trainer.is_global_zero:
                self._compare(trainer, pl_module, after)

    def _draw(self, trainer: Trainer, method: LightningModule, outputs: Any) -> None:
        step = trainer.global_step
        if step == self._drawn_at or not trainer.is_global_zero or not isinstance(method, Method):
            return
        self._drawn_at = step
        notes = method.picture_notes()
        for name, video in method.pictures(outputs).items():
            shown, note = video[: self.clips].cpu(), notes.get(name)
            write_picture(trainer, name, step, "png", png(film_strip(shown, note)))
            if shown.shape[1] > 1:
                write_picture(trainer, f"{name}_video", step, "gif", gif(shown, note=note))

    # --- Before and after ---

    def _look(self, trainer: Trainer, method: LightningModule) -> dict[str, Tensor]:
        """Some validation clips, the method's pictures of them by name, and the middle frames of their neighbours, with few
        frames each. Runs in all processes, because a step may need all of them. Empty if there is nothing to compare.
        """
        data, stepwise = run_of(trainer).datamodule, type(method).validation_step is Method.validation_step
        streams = getattr(data, "streams", None) or {}
        if not trainer.limit_val_batches or run_of(trainer).fast_dev_run:
            return {}
        # A step outside FSDP's forward pass would use sharded weights.
        if (
            not isinstance(method, Method)
            or is_sharded(method)
            or not stepwise
            or streams.get(method.stream) not in ("video", "skeleton")
        ):
            return {}
        # A separate loader, which shares no state with the loaders of the run; there is none without validation samples.
        loader = data.val_dataloader()
        if not hasattr(loader, "read"):
            return {}
        rows = pick(len(loader.dataset), COMPARED).tolist()
        shown = [rows[number] for number in pick(len(rows), self.clips)]
        found: dict[str, Tensor] = {}
        with evaluating(method), trainer.precision_plugin.forward_context():
            batch = loader.read(0, shown)
            length = batch.stream(method.stream).data.select(1, 0).shape[SEQUENCE_AXIS[streams[method.stream]]]
            found[PLAIN] = draw_frames(batch.stream(method.stream), pick(length, BEFORE_AFTER_FRAMES))
            generator = device_generator(method.device, VAL_STREAM, method.seed, 0, 0)
            output = method.step(trainer.strategy.batch_to_device(batch), generator)
            for name, video in method.pictures(output).items():
                # Use the first clip of each sample; the clips of a sample are consecutive.
                clips = video[:: max(1, len(video) // len(shown))][: len(shown)]
                found[name] = clips[:, pick(clips.shape[1], BEFORE_AFTER_FRAMES)].cpu()
            features, frames = [], []
            for start in range(0, len(rows), len(shown)):
                batch = loader.read(0, rows[start : start + len(shown)])
                frames.append(draw_frames(batch.stream(method.stream), torch.tensor([length // 2])))
                features.append(method.embed(trainer.strategy.batch_to_device(batch)).float().cpu())
        similar, queries = F.normalize(torch.cat(features), dim=1), pick(len(rows), self.clips)
        cosine = similar[queries] @ similar.T
        # A clip is not its own neighbour.
        cosine[torch.arange(len(queries)), queries] = -torch.inf
        near = cosine.topk(min(NEAREST, len(rows) - 1), dim=1).indices
        if near.numel():
            found[NEAR] = torch.cat(frames)[:, 0][near]
        return found

    def _compare(self, trainer: Trainer, method: LightningModule, after: dict[str, Tensor]) -> None:
        assert isinstance(method, Method)
        both = {name: (self._before[name], video) for name, video in after.items() if name in self._before}
        changed = {name: pair for name, pair in both.items() if not torch.equal(*pair)}
        fixed = {name: enlarge(pair[0]) for name, pair in both.items() if name not in changed and name != PLAIN}
        notes = method.picture_notes()
        pictures = []
        for name, pair in changed.items():
            note = f" ({notes[name]})" if name in notes else ""
            titles = f"{name} before training{note}", f"{name} after {trainer.global_step} steps{note}"
            shown = {PLAIN: enlarge(both[PLAIN][0])} if name == NEAR else fixed
            pictures.append(beside(shown | {title: enlarge(one) for title, one in zip(titles, pair, strict=True)}))
        if not pictures:
            return
        picture = below(pictures)
        path = Path(trainer.default_root_dir) / "pictures" / "before_after.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture))
        show_picture(trainer, "before_after", trainer.global_step, path, png(picture))

    def state_dict(self) -> dict[str, Any]:
        """The record from before training."""
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record from before training."""
        self._before = state_dict["before"]


def draw_frames(stream: Stream, frames: Tensor) -> Tensor:
    """Some frames of the first clips of videos or skeletons: uint8 [B, T', H, W, 3].

    Args:
        stream: stream of a batch.
        frames: int64 [T']
    """
    clips = stream.data[:, 0].index_select(SEQUENCE_AXIS[stream.kind], frames)
    return draw_skeletons(clips) if stream.kind == "skeleton" else clips

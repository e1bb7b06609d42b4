"""Overview of the data: all streams of the first validation samples in one picture."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.pictures import gif, png, write_picture
from modules.core.batch import Batch
from modules.core.errors import check_positive
from modules.core.run import run_of
from modules.layers.drawing.sheet import film, sheet


class StreamSheet(Callback):
    """Draws all streams of the first validation samples together, once, when training starts or resumes.

    `streams` is a sheet with time steps of the clips in columns, and `streams_video` a GIF; in TensorBoard and in
    `<run>/pictures`. Without validation samples, those of `probe_dataloader` are used. The first process reads them with
    its own loader, so that the loaders of the run are not affected.

    Args:
        samples: number of samples, drawn side by side.
        columns: maximum number of time steps of each clip in the sheet.
        frames: maximum number of frames of the GIF.
    """

    reads_clips = True

    def __init__(self, samples: int = 2, columns: int = 6, frames: int = 32) -> None:
        check_positive("StreamSheet", samples=samples, columns=columns, frames=frames)
        self.samples, self.columns, self.frames = samples, columns, frames

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read and draw."""
        data: Any = run_of(trainer).datamodule
        if data is None or not trainer.is_global_zero:
            return
        # Separate loaders, which share no state with those of the run.
        loader = data.val_dataloader() or data.probe_dataloader()
        count = min(self.samples, len(loader.dataset))
        batch: Batch = loader.read(0, list(range(count)))
        still = side_by_side([sheet(batch, row, columns=self.columns)[None] for row in range(count)])[0]
        write_picture(trainer, "streams", trainer.global_step, "png", png(still))
        moving = side_by_side([film(batch, row, frames=self.frames) for row in range(count)])
        if len(moving) > 1:
            write_picture(trainer, "streams_video", trainer.global_step, "gif", gif(moving[None]))


def side_by_side(films: list[Tensor]) -> Tensor:
    """Videos side by side, padded with white; shorter ones repeat their last frame: uint8 [T, H, W, 3] each."""
    frames, height = max(len(one) for one in films), max(one.shape[1] for one in films)
    shown = torch.arange(frames)
    padded = [F.pad(one, (0, 0, 0, 0, 0, height - one.shape[1]), value=255)[shown.clamp(max=len(one) - 1)] for one in films]
    return torch.cat(padded, dim=2)

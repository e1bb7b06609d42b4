"""Pictures and videos of propagated labels."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.pictures import png, write_picture
from datamodules.prepare.synthesise import write_video
from modules.core.batch import Batch
from modules.core.errors import check_positive
from modules.core.files import write_whole
from modules.core.run import run_of
from modules.downstream.propagation.drawing import Propagated
from modules.layers.drawing.clips import caption_band

FPS = 12
WIDEST, NARROWEST = 240, 96
"""Width of a frame in a picture, in pixels: larger ones are reduced, smaller ones enlarged."""
TOLD = "above: true labels, below: those propagated from the first frame"


class PropagatedVideos(Callback):
    """Draws the labels of some videos of a test of `LabelPropagation` into their frames.

    `<run>/pictures/propagated_<video>.png` (in TensorBoard too) has true labels above, propagated ones below;
    `<run>/videos/propagated_<video>.mp4` has true labels on the left.

    Args:
        videos: number of videos, evenly spaced over the test.
        columns: frames in a picture, evenly spaced over the video.
    """

    def __init__(self, videos: int = 4, columns: int = 6) -> None:
        check_positive("PropagatedVideos", videos=videos, columns=columns)
        self.videos, self.columns = videos, columns

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw a video, if it is one of those."""
        total = int(trainer.num_test_batches[0])
        chosen = torch.linspace(0, total - 1, min(self.videos, total)).round().long().tolist()
        found = outputs.get("propagated") if isinstance(outputs, dict) else None
        if not isinstance(found, Propagated) or batch_idx not in chosen or not trainer.is_global_zero:
            return
        rows = [found.drawn(labels) for labels in (found.truth, found.predicted)]
        name = f"propagated_{found.name.replace('/', '_')}"
        write_picture(trainer, name, trainer.global_step, "png", png(picture(rows, self.columns, f"{found.name}; {TOLD}")))
        if not run_of(trainer).fast_dev_run:
            film = torch.cat(rows, 2)
            # Codecs need even sides.
            film = film[:, : film.shape[1] // 2 * 2, : film.shape[2] // 2 * 2]
            path = Path(trainer.default_root_dir) / "videos" / f"{name}.mp4"
            write_whole(path, lambda part: write_video(part, film, FPS, container="mp4"))


def picture(rows: list[Tensor], columns: int, note: str) -> Tensor:
    """Frames of videos next to each other, a video per row, a note on top.

    Args:
        rows: uint8 [T, H, W, 3] each.
        columns: number of frames, evenly spaced.
        note: what is shown.

    Returns:
        uint8 [H', W', 3]
    """
    count, height, width = rows[0].shape[:3]
    chosen = torch.linspace(0, count - 1, min(columns, count)).round().long()
    shown = torch.stack([row[chosen] for row in rows])
    side = min(max(width, NARROWEST), WIDEST)
    size = (round(Fraction(height * side, width)), side)
    mode = "nearest" if side >= width else "area"
    planes = F.interpolate(shown.flatten(0, 1).permute(0, 3, 1, 2).float(), size, mode=mode)
    padded = F.pad(planes, (1, 1, 1, 1), value=255).round().byte().permute(0, 2, 3, 1).unflatten(0, shown.shape[:2])
    sheet = padded.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    return torch.cat([caption_band(note, sheet.shape[1]), sheet])
